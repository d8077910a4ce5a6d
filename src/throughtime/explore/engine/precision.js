// The same two sweeps in float32 and in half precision: where a number becomes 0, inf, then NaN.

/**
 * Return ‖∂E_T/∂s_k‖₂ by k as this format computes it, and where it first ends: `zero`, the last k
 * at which the whole vector is 0 while the one after it is not; `inf` and `nan`, each the place
 * where the run first meets it: {way: "forward" or "backward", step}, or null.
 */
function inFormat(net, words, pull, format) {
  const tape = forward(net, words, format), { T } = tape, { H, A, S } = net, round = FORMATS[format];
  const found = { norms: new Float64Array(T + 1), inf: null, nan: null, zero: null };
  for (let t = 0; t <= T; t++) look(found, tape.s[t], "forward", t);
  const weights = net.W_hT.map(round), alpha = new Float64Array(A);
  let delta = new Float64Array(S), before = new Float64Array(S);
  for (let i = 0; i < H; i++) delta[i] = round(pull[i]);
  for (let k = T; k >= 0; k--) {
    found.norms[k] = norm(delta, 0, S);
    look(found, delta, "backward", k);
    if (found.zero === null && found.norms[k] === 0) found.zero = k;
    if (k === 0) break;
    net.cell.adjoint(net, tape.kept[k], delta, 0, alpha, 0);
    roundAll(alpha, round);
    roundedProduct(weights, H, A, alpha, before);
    roundAll(before, round);
    net.cell.carry(net, tape.kept[k], delta, 0, before, 0);
    roundAll(before, round);
    [delta, before] = [before, delta];
  }
  return found;
}

function look(found, values, way, step) {
  for (const value of values) {
    if (found.inf === null && Math.abs(value) === Infinity) found.inf = { way, step };
    if (found.nan === null && value !== value) found.nan = { way, step };
  }
}
