// The same two sweeps in float32 and in half precision: where a number becomes 0, inf, then NaN.
// Products add up in float32, as most processors add half precision; what is stored is rounded.

/** Read the words and return s_0 … s_T and what each step keeps, as this format has them. */
function forwardIn(net, words, format) {
  const { H, A, S } = net, T = words.length, s = [new Float64Array(S)], kept = [null];
  const weights = room(A * H, Float32Array), h = room(H, Float32Array), w = room(A, Float32Array);
  const w64 = new Float64Array(A), x = new Float64Array(A);
  weights.set(roundAll(Float64Array.from(net.W_hT), format));
  for (let t = 1; t <= T; t++) {
    const state = new Float64Array(S), mine = new Float64Array(net.kept);
    for (let i = 0; i < H; i++) h[i] = s[t - 1][i];
    products.times32(h, H, weights, A, w);
    w64.set(w);
    x.set(drive(net, words[t - 1]));
    net.cell.step(net, roundAll(x, format), roundAll(w64, format), s[t - 1], state, mine);
    s.push(roundAll(state, format));
    kept.push(roundAll(mine, format));
  }
  return { T, s, kept };
}

/**
 * Return ‖∂E_T/∂s_k‖₂ by k as this format computes it, and where it first ends: `zero`, the last k
 * at which the whole vector is 0 while the one after it is not; `inf` and `nan`, each the place
 * where the run first meets it: {way: "forward" or "backward", step}, or null.
 */
function inFormat(net, words, pull, format) {
  const tape = forwardIn(net, words, format), { T } = tape, { H, A, S } = net;
  const found = { norms: new Float64Array(T + 1), inf: null, nan: null, zero: null };
  for (let t = 0; t <= T; t++) look(found, tape.s[t], "forward", t);
  const weights = room(A * H, Float32Array), narrow = room(A, Float32Array), sums = room(H, Float32Array);
  weights.set(roundAll(Float64Array.from(net.W_h), format));
  const alpha = new Float64Array(A);
  let delta = new Float64Array(S), before = new Float64Array(S);
  delta.set(pull);
  roundAll(delta, format);
  for (let k = T; k >= 0; k--) {
    found.norms[k] = norm(delta, 0, S);
    look(found, delta, "backward", k);
    if (found.zero === null && found.norms[k] === 0) found.zero = k;
    if (k === 0) break;
    net.cell.adjoint(net, tape.kept[k], delta, 0, alpha, 0);
    narrow.set(roundAll(alpha, format));
    products.times32(narrow, A, weights, H, sums);
    before.set(sums);
    roundAll(before, format);
    net.cell.carry(net, tape.kept[k], delta, 0, before, 0);
    roundAll(before, format);
    [delta, before] = [before, delta];
  }
  return found;
}

function look(found, values, way, step) {
  if (found.inf !== null && found.nan !== null) return;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (found.inf === null && Math.abs(value) === Infinity) found.inf = { way, step };
    if (found.nan === null && value !== value) found.nan = { way, step };
  }
}
