// The bounds of eq. 6 and 7: the product of the norms of the steps' Jacobians, and β_W and β_f.

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
  const beta = spectralNorm(net.W_h, net.H, net.H, new Float64Array(net.H).fill(1), null, lanczosRoom(net.H));
  return { betaW: beta, betaF: net.nonlinearity.beta };
}
