// A network of the settings on the sliders, from the weights that Python drew.

const CELLS = { Elman, LSTM, GRU };

/**
 * settings: cell, gain, bias, nonlinearity. drawn: H (which 4 must divide), I, W_h (4H, H), W_x (4H, I), words (V, I).
 * W_h is multiplied by the gain; a cell of fewer gates takes the first rows of both.
 */
function makeNetwork(drawn, settings) {
  const { H, I } = drawn, cell = CELLS[settings.cell], A = cell.gates * H, { gain } = settings;
  const W_h = room(A * H), W_hT = room(A * H), bias = new Float64Array(A);
  for (let n = 0; n < A * H; n++) W_h[n] = drawn.W_h[n] * gain;
  transpose(W_h, A, H, W_hT);
  for (let a = 0; a < A; a++) bias[a] = cell.bias(Math.floor(a / H), settings.bias);
  return {
    cell, H, A, S: cell.parts * H, kept: { 1: 1, 4: 6, 3: 5 }[cell.gates] * H,
    W_h, W_hT, W_x: drawn.W_x, I, bias, words: drawn.words, driven: [],
    nonlinearity: NONLINEARITIES[settings.nonlinearity],
  };
}

/** W_x x_t + b of one word, computed once. */
function drive(net, word) {
  if (net.driven[word]) return net.driven[word];
  const out = Float64Array.from(net.bias);
  for (let a = 0; a < net.A; a++) out[a] += dot(net.W_x, a * net.I, net.words, word * net.I, net.I);
  return (net.driven[word] = out);
}
