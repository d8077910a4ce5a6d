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

/**
 * Take J_t (S, S) apart: its columns of h, turned (H, S), and the two diagonals (S) that are all there
 * is in those of the LSTM's c.
 */
function splitJacobian(net, J, columns, tail) {
  const { H, S } = net;
  for (let j = 0; j < H; j++) for (let i = 0; i < S; i++) columns[j * S + i] = J[i * S + j];
  if (tail) for (let i = 0; i < S; i++) tail[i] = J[i * S + H + (i % H)];
}

/**
 * Send `rows` vectors δ_t (rows, S) one step back, into `before`: one product with J_t, which for a
 * gated cell is a half to a third of what its gates one by one would be.
 */
function stepBack(net, columns, tail, delta, rows, before, h) {
  const { H, S } = net;
  if (!tail) return timesTransposed(delta, rows, S, columns, H, before);
  timesTransposed(delta, rows, S, columns, H, h);
  for (let v = 0; v < rows; v++) {
    for (let i = 0, p = v * S; i < H; i++, p++) {
      before[p] = h[v * H + i];
      before[p + H] = delta[p] * tail[i] + delta[p + H] * tail[H + i];
    }
  }
}

/**
 * Return the map ‖∂E_t/∂s_k‖₂ (T, T+1), where `pull` (H) is what each loss sends into its own h_t;
 * ‖∂h_T/∂s_k‖₂ for every k (T+1), since the loss's rows and those of the Jacobian travel together;
 * and ‖J_t‖₂ for t = 1 … T, at index t.
 */
function allPairs(net, tape, pull) {
  const { H, S } = net, { T } = tape, first = H + 1, rows = first + T;
  const h = new Float64Array(rows * H), J = new Float64Array(S * S), columns = new Float64Array(H * S);
  const tail = S > H ? new Float64Array(S) : null;
  let delta = new Float64Array(rows * S), before = new Float64Array(rows * S);
  const map = new Float64Array(T * (T + 1)), product = new Float64Array(T + 1);
  const stepNorms = new Float64Array(T + 1).fill(NaN), guess = new Float64Array(S).fill(1);
  for (let i = 0; i < H; i++) delta[i * S + i] = 1; // the first H rows begin as the identity
  // Row H takes along the singular vector of their product: sent back too, it is nearly the next one.
  delta.fill(1, H * S, first * S);
  for (let k = T; k >= 0; k--) {
    if (k > 0) delta.set(pull, (first + T - k) * S); // loss k stands in row first + T - k
    const losses = k > 0 ? T - k + 1 : T, taken = delta.subarray(H * S, first * S);
    product[k] = spectralNorm(delta, H, S, taken);
    for (let v = 0; v < losses; v++) {
      map[(T - 1 - v) * (T + 1) + k] = norm(delta, (first + v) * S, S);
    }
    if (k === 0) break;
    net.cell.jacobian(net, tape.kept[k], J);
    splitJacobian(net, J, columns, tail);
    stepNorms[k] = spectralNorm(columns, H, S, guess, tail);
    stepBack(net, columns, tail, delta, first + losses, before, h);
    [delta, before] = [before, delta];
    if (k > 1) delta.fill(0, (first + losses) * S, (first + losses + 1) * S);
  }
  return { map, product, stepNorms };
}

/** Return ‖∂E_T/∂s_k‖₂ (T+1) of the last loss alone: one row, gate by gate (eq. 9). */
function lastLoss(net, tape, pull) {
  const { cell, H, A, S } = net, { T } = tape, out = new Float64Array(T + 1), alpha = new Float64Array(A);
  let delta = new Float64Array(S), before = new Float64Array(S);
  delta.set(pull);
  for (let k = T; k >= 0; k--) {
    out[k] = norm(delta, 0, S);
    if (k === 0) break;
    cell.adjoint(net, tape.kept[k], delta, 0, alpha, 0);
    timesTransposed(alpha, 1, A, net.W_hT, H, before);
    cell.carry(net, tape.kept[k], delta, 0, before, 0);
    [delta, before] = [before, delta];
  }
  return out;
}
