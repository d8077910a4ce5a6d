// The Elman cell (eq. 1, 4, 9): h_t = f(W_x x_t + W_h h_{t-1} + b).

const sigmoid = (a) => 1 / (1 + Math.exp(-a));

// f; its slope, from h_t; and the largest slope β_f.
const NONLINEARITIES = {
  tanh: { f: Math.tanh, slope: (h) => 1 - h * h, beta: 1 },
  relu: { f: (a) => (a > 0 ? a : a < 0 ? 0 : a), slope: (h) => (h > 0 ? 1 : 0), beta: 1 },
  sigmoid: { f: sigmoid, slope: (h) => h * (1 - h), beta: 0.25 },
  identity: { f: (a) => a, slope: () => 1, beta: 1 },
};

const Elman = {
  gates: 1,
  parts: 1,
  bias: () => 0,

  /** s_t from x = W_x x_t + b and w = W_h h_{t-1}; what the backward pass needs is in `kept` (H). */
  step(net, x, w, previous, state, kept) {
    const { f, slope } = net.nonlinearity;
    for (let i = 0; i < net.H; i++) {
      state[i] = f(x[i] + w[i]);
      kept[i] = slope(state[i]);
    }
  },

  /** α from δ, both one row, from p and q on. */
  adjoint(net, kept, delta, p, alpha, q) {
    for (let i = 0; i < net.H; i++) alpha[q + i] = kept[i] * delta[p + i];
  },

  /** What goes back beside W_hᵀα: nothing. */
  carry() {},

  /** J_t = diag(f′(a_t)) W_h into `out` (S, S); it is all columns of h, and has no tail. */
  jacobian(net, kept, out) {
    const { H, W_h } = net;
    for (let i = 0; i < H; i++) for (let j = 0; j < H; j++) out[i * H + j] = kept[i] * W_h[i * H + j];
  },
};
