// Everything that the page shows of one setting of the sliders.

/** Read the numbers that Python wrote into the page. */
function readDrawn(data) {
  const numbers = Object.fromEntries(
    ["W_h", "W_x", "words", "pull"].map((name) => [name, decodeNumbers(data[name])]),
  );
  return { H: data.H, I: data.I, ...numbers };
}

/** How many float64 an update takes at most: the weights four times over, the rows, J, Lanczos. */
const roomFor = (H, T) => 16 * H * H + 8 * H * (T + H + 2) + 8 * H * H + 8 * H * (LANCZOS_STEPS + 4) + 4096;

/**
 * settings: cell, gain, bias, nonlinearity; near, far: the two texts as word numbers.
 * What the two texts' losses send back is `pull`, of length 1, at every step.
 */
function explore(drawn, settings, near, far) {
  const began = performance.now();
  clearRoom(roomFor(drawn.H, far.length));
  const net = makeNetwork(drawn, settings), { pull } = drawn;
  const tape = forward(net, far), pairs = allPairs(net, tape, pull);
  return {
    T: tape.T, ...pairs, tight: tightBound(pairs.stepNorms, tape.T), gain: gainOf(net),
    near: lastLoss(net, forward(net, near), pull),
    float32: inFormat(net, far, pull, "float32"),
    half: inFormat(net, far, pull, "half"),
    milliseconds: performance.now() - began,
  };
}
