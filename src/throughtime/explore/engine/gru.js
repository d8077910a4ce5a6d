// The GRU as PyTorch has it (docs/math.md, "GRU"), gates r, z, n; r acts after the product with W_h.

const GRU = {
  gates: 3,
  parts: 1,
  bias: (gate, value) => (gate === 1 ? value : 0), // the update gate's: near 1 it keeps h

  /** `kept` (5, H): r, z, n, q, h_{t-1}. */
  step(net, x, w, previous, state, kept) {
    const H = net.H;
    for (let j = 0; j < H; j++) {
      const r = sigmoid(x[j] + w[j]), z = sigmoid(x[H + j] + w[H + j]), q = w[2 * H + j];
      const n = Math.tanh(x[2 * H + j] + r * q);
      state[j] = n + z * (previous[j] - n);
      kept[j] = r;
      kept[H + j] = z;
      kept[2 * H + j] = n;
      kept[3 * H + j] = q;
      kept[4 * H + j] = previous[j];
    }
  },

  /** α of the hidden side, (α_r, α_z, α_n ⊙ r): what W_hᵀ is multiplied by. */
  adjoint(net, kept, delta, p, alpha, a) {
    const H = net.H;
    for (let j = 0; j < H; j++) {
      const r = kept[j], z = kept[H + j], n = kept[2 * H + j], d = delta[p + j];
      const byN = d * (1 - z) * (1 - n * n);
      alpha[a + j] = byN * kept[3 * H + j] * r * (1 - r);
      alpha[a + H + j] = d * (kept[4 * H + j] - n) * z * (1 - z);
      alpha[a + 2 * H + j] = byN * r;
    }
  },

  /** δ ⊙ z, added to what came through W_h. */
  carry(net, kept, delta, p, before, q) {
    const H = net.H;
    for (let j = 0; j < H; j++) before[q + j] += delta[p + j] * kept[H + j];
  },

  jacobian(net, kept, out) {
    const { H, W_h } = net;
    for (let i = 0; i < H; i++) {
      const r = kept[i], z = kept[H + i], n = kept[2 * H + i];
      const outer = (1 - z) * (1 - n * n), byN = outer * r;
      const byR = outer * kept[3 * H + i] * r * (1 - r), byZ = (kept[4 * H + i] - n) * z * (1 - z);
      for (let j = 0; j < H; j++) {
        out[i * H + j] =
          byN * W_h[(2 * H + i) * H + j] + byR * W_h[i * H + j] + byZ * W_h[(H + i) * H + j];
      }
      out[i * H + i] += z;
    }
  },
};
