// The same two sweeps in float32 and in half precision: where a number becomes 0, inf, then NaN.
// Products add up in float32, as most processors add half precision; what is stored is rounded.

/** Weights rounded to a format, as the products of float32 take them. */
function stored(weights, rounded) {
  const out = room(weights.length, Float32Array);
  out.set(rounded(weights));
  return out;
}

/** How `forward` multiplies and keeps numbers in a format. */
function inFloat32({ H, A, W_hT }, rounded) {
  const weights = stored(W_hT, rounded);
  return { kind: Float32Array, times: (h, w) => products.times32(h, H, weights, A, w), rounded };
}

/**
 * Return ‖∂E_T/∂s_k‖₂ by k as this format computes it, and where it first ends: `zero`, the last k
 * at which the whole vector is 0 while the one after it is not; `inf` and `nan`, each the place
 * where the run first meets it: {way: "forward" or "backward", step}, or null.
 */
function inFormat(net, words, pull, format) {
  const rounded = (values) => roundAll(Float64Array.from(values), format);
  const tape = forward(net, words, inFloat32(net, rounded)), { T } = tape, { H, A, S } = net;
  const found = { norms: new Float64Array(T + 1), inf: null, nan: null, zero: null };
  for (let t = 0; t <= T; t++) look(found, tape.s[t], "forward", t);
  const weights = stored(net.W_h, rounded), narrow = room(A, Float32Array), sums = room(H, Float32Array);
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
