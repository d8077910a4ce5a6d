// The bounds of eq. 6 and 7: the norm of each step's Jacobian, their product, and (β_W β_f)^(t-k).

/** Return ‖J_t‖₂ for t = 1 … T, at index t. */
function stepNorms(net, tape) {
  const { S } = net, J = new Float64Array(S * S), out = new Float64Array(tape.T + 1).fill(NaN);
  const guess = new Float64Array(S).fill(1);
  for (let t = 1; t <= tape.T; t++) {
    net.cell.jacobian(net, tape.kept[t], J);
    out[t] = spectralNorm(J, S, S, guess);
  }
  return out;
}

/** Return the product of ‖J_j‖₂ over j = k+1 … T, for every k. */
function tightBound(norms, T) {
  const out = new Float64Array(T + 1);
  out[T] = 1;
  for (let k = T - 1; k >= 0; k--) out[k] = out[k + 1] * norms[k + 1];
  return out;
}

/** Return β_W and β_f, or null for a cell that has no such pair. */
function gainOf(net) {
  if (net.cell !== Elman) return null;
  const beta = spectralNorm(net.W_h, net.H, net.H, new Float64Array(net.H).fill(1));
  return { betaW: beta, betaF: net.nonlinearity.beta };
}
