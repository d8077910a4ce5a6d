// The LSTM (docs/math.md, "LSTM"), gates in PyTorch's order i, f, g, o; s_t = (h_t, c_t).

const LSTM = {
  gates: 4,
  parts: 2,
  bias: (gate, value) => (gate === 1 ? value : 0), // the forget gate's

  /** `kept` (6, H): i, f, g, o, c_{t-1}, tanh c_t. */
  step(net, x, w, previous, state, kept) {
    const H = net.H;
    for (let n = 0; n < H; n++) {
      const i = sigmoid(x[n] + w[n]), f = sigmoid(x[H + n] + w[H + n]);
      const g = Math.tanh(x[2 * H + n] + w[2 * H + n]), o = sigmoid(x[3 * H + n] + w[3 * H + n]);
      const before = previous[H + n], c = f * before + i * g, squashed = Math.tanh(c);
      state[n] = o * squashed;
      state[H + n] = c;
      kept[n] = i;
      kept[H + n] = f;
      kept[2 * H + n] = g;
      kept[3 * H + n] = o;
      kept[4 * H + n] = before;
      kept[5 * H + n] = squashed;
    }
  },

  adjoint(net, kept, delta, p, alpha, q) {
    const H = net.H;
    for (let n = 0; n < H; n++) {
      const i = kept[n], f = kept[H + n], g = kept[2 * H + n], o = kept[3 * H + n];
      const squashed = kept[5 * H + n], toH = delta[p + n];
      const toC = delta[p + H + n] + toH * o * (1 - squashed * squashed);
      alpha[q + n] = toC * g * i * (1 - i);
      alpha[q + H + n] = toC * kept[4 * H + n] * f * (1 - f);
      alpha[q + 2 * H + n] = toC * i * (1 - g * g);
      alpha[q + 3 * H + n] = toH * squashed * o * (1 - o);
    }
  },

  /** δc ⊙ f, into the second part of δ_{t-1}. */
  carry(net, kept, delta, p, before, q) {
    const H = net.H;
    for (let n = 0; n < H; n++) {
      const o = kept[3 * H + n], squashed = kept[5 * H + n];
      const toC = delta[p + H + n] + delta[p + n] * o * (1 - squashed * squashed);
      before[q + H + n] = toC * kept[H + n];
    }
  },

  /** The columns of h (S, H) into `out`, and the two diagonals of those of c into `tail` (S). */
  jacobian(net, kept, out, tail) {
    const { H, W_h } = net;
    for (let n = 0; n < H; n++) {
      const i = kept[n], f = kept[H + n], g = kept[2 * H + n], o = kept[3 * H + n];
      const squashed = kept[5 * H + n], D = o * (1 - squashed * squashed);
      const byI = g * i * (1 - i), byF = kept[4 * H + n] * f * (1 - f), byG = i * (1 - g * g);
      const byO = squashed * o * (1 - o);
      for (let j = 0; j < H; j++) {
        const c = byI * W_h[n * H + j] + byF * W_h[(H + n) * H + j] + byG * W_h[(2 * H + n) * H + j];
        out[(H + n) * H + j] = c;
        out[n * H + j] = D * c + byO * W_h[(3 * H + n) * H + j];
      }
      tail[H + n] = f;
      tail[n] = D * f;
    }
  },
};
