// A network of the settings on the sliders, from the weights that Python drew.

const CELLS = { Elman, LSTM, GRU };

/**
 * settings: cell, gain, bias, nonlinearity. drawn: H (which 4 must divide), I, W_h (4H, H), W_x (4H, I), words (V, I).
 * W_h is multiplied by the gain; a cell of fewer gates takes the first rows of both.
 */
function makeNetwork(drawn, settings) {
  const { H, I } = drawn, cell = CELLS[settings.cell], A = cell.gates * H;
  const W_h = drawn.W_h.slice(0, A * H).map((w) => w * settings.gain);
  const bias = Float64Array.from({ length: A }, (_, a) => cell.bias(Math.floor(a / H), settings.bias));
  return {
    cell, H, A, S: cell.parts * H, kept: { 1: 1, 4: 6, 3: 5 }[cell.gates] * H,
    W_h, W_hT: transpose(W_h, A, H), W_x: drawn.W_x.slice(0, A * I), I, bias,
    words: drawn.words, nonlinearity: NONLINEARITIES[settings.nonlinearity],
  };
}

/** W_x x_t + b of one word. */
function drive(net, word) {
  const out = Float64Array.from(net.bias);
  for (let a = 0; a < net.A; a++) out[a] += dot(net.W_x, a * net.I, net.words, word * net.I, net.I);
  return out;
}
