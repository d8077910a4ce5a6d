// Through time: forward (eq. 1), and back for many vectors at once (eq. 9).

/**
 * Read the words (numbers) and return s_0 … s_T and what each step keeps.
 * In another format than float64, products add up in float32, and what is stored is rounded.
 */
function forward(net, words, format = "float64") {
  const { H, A, S } = net, T = words.length, round = FORMATS[format], exact = format === "float64";
  const s = [new Float64Array(S)], kept = [null];
  const w = new Float64Array(A), weights = exact ? net.W_h : net.W_h.map(round);
  for (let t = 1; t <= T; t++) {
    const state = new Float64Array(S), mine = new Float64Array(net.kept);
    const x = drive(net, words[t - 1]);
    if (exact) timesTransposed(s[t - 1], 1, H, weights, A, w);
    else roundedProduct(weights, A, H, s[t - 1], w);
    if (!exact) roundAll(x, round), roundAll(w, round);
    net.cell.step(net, x, w, s[t - 1], state, mine);
    if (!exact) roundAll(state, round), roundAll(mine, round);
    s.push(state);
    kept.push(mine);
  }
  return { T, s, kept };
}

function roundAll(values, round) {
  for (let i = 0; i < values.length; i++) values[i] = round(values[i]);
}

/** Send `rows` vectors δ_t (rows, S) one step back, into `before`. */
function stepBack(net, tape, t, delta, rows, before, scratch) {
  const { cell, H, A, S } = net, kept = tape.kept[t];
  for (let v = 0; v < rows; v++) cell.adjoint(net, kept, delta, v * S, scratch.alpha, v * A);
  if (S === H) timesTransposed(scratch.alpha, rows, A, net.W_hT, H, before);
  else {
    timesTransposed(scratch.alpha, rows, A, net.W_hT, H, scratch.h);
    for (let v = 0; v < rows; v++) {
      for (let i = 0; i < H; i++) before[v * S + i] = scratch.h[v * H + i];
    }
  }
  for (let v = 0; v < rows; v++) cell.carry(net, kept, delta, v * S, before, v * S);
}

function scratchFor(net, rows) {
  return { alpha: new Float64Array(rows * net.A), h: new Float64Array(rows * net.H) };
}

/**
 * Return the map ‖∂E_t/∂s_k‖₂ (T, T+1), where `pull` (H) is what each loss sends into its own h_t,
 * and ‖∂h_T/∂s_k‖₂ for every k (T+1): the loss's rows and those of the Jacobian travel together.
 */
function allPairs(net, tape, pull) {
  const { H, S } = net, { T } = tape, rows = T + H;
  const scratch = scratchFor(net, rows);
  let delta = new Float64Array(rows * S), before = new Float64Array(rows * S);
  const map = new Float64Array(T * (T + 1)), product = new Float64Array(T + 1);
  const guess = new Float64Array(S).fill(1);
  for (let i = 0; i < H; i++) delta[i * S + i] = 1; // the first H rows begin as the identity
  for (let k = T; k >= 0; k--) {
    if (k > 0) delta.set(pull, (H + T - k) * S); // loss k stands in row H + T - k
    const losses = k > 0 ? T - k + 1 : T;
    product[k] = spectralNorm(delta, H, S, guess);
    for (let v = 0; v < losses; v++) {
      map[(T - 1 - v) * (T + 1) + k] = norm(delta, (H + v) * S, S);
    }
    if (k === 0) break;
    stepBack(net, tape, k, delta, H + losses, before, scratch);
    [delta, before] = [before, delta];
    if (k > 1) delta.fill(0, (H + losses) * S, (H + losses + 1) * S);
  }
  return { map, product };
}

/** Return ‖∂E_T/∂s_k‖₂ (T+1) of the last loss alone. */
function lastLoss(net, tape, pull) {
  const { S } = net, { T } = tape, scratch = scratchFor(net, 1), out = new Float64Array(T + 1);
  let delta = new Float64Array(S), before = new Float64Array(S);
  delta.set(pull);
  for (let k = T; k >= 0; k--) {
    out[k] = norm(delta, 0, S);
    if (k > 0) stepBack(net, tape, k, delta, 1, before, scratch);
    [delta, before] = [before, delta];
  }
  return out;
}
