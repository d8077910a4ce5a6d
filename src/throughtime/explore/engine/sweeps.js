// Through time: forward (eq. 1), and back for many vectors at once (eq. 9).

/** How `forward` multiplies and keeps numbers where nothing is rounded; precision.js has other ways. */
const inFull = ({ H, A, W_hT }) => ({
  kind: Float64Array,
  times: (h, w) => products.times(h, 1, H, W_hT, A, w),
  rounded: (values) => values,
});

/** Read the words (numbers) and return s_0 … s_T and what each step keeps. */
function forward(net, words, { kind, times, rounded } = inFull(net)) {
  const { H, A, S } = net, T = words.length;
  const s = [new Float64Array(S)], kept = [null], h = room(H, kind), w = room(A, kind);
  for (let t = 1; t <= T; t++) {
    const state = new Float64Array(S), mine = new Float64Array(net.kept);
    for (let i = 0; i < H; i++) h[i] = s[t - 1][i];
    times(h, w);
    net.cell.step(net, rounded(drive(net, words[t - 1])), rounded(w), s[t - 1], state, mine);
    s.push(rounded(state));
    kept.push(rounded(mine));
  }
  return { T, s, kept };
}

/**
 * Send `rows` vectors δ_t (rows, S) one step back, into `before`: one product with J_t, which for a
 * gated cell is a half to a third of what its gates one by one would be.
 */
function stepBack(net, J, tail, delta, rows, before, h) {
  const { H, S } = net;
  if (!tail) return products.times(delta, rows, S, J, H, before);
  products.times(delta, rows, S, J, H, h);
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
  const h = room(rows * H), J = room(S * H), tail = S > H ? room(S) : null, lanczos = lanczosRoom(S);
  let delta = room(rows * S), before = room(rows * S);
  const map = new Float64Array(T * (T + 1)), product = new Float64Array(T + 1);
  const stepNorms = new Float64Array(T + 1).fill(NaN), guess = new Float64Array(S).fill(1);
  for (let i = 0; i < H; i++) delta[i * S + i] = 1; // the first H rows begin as the identity
  // Row H takes along the singular vector of their product: sent back too, it is nearly the next one.
  delta.fill(1, H * S, first * S);
  for (let k = T; k >= 0; k--) {
    if (k > 0) delta.set(pull, (first + T - k) * S); // loss k stands in row first + T - k
    const losses = k > 0 ? T - k + 1 : T, taken = delta.subarray(H * S, first * S);
    product[k] = spectralNorm(delta, H, S, taken, null, lanczos);
    for (let v = 0; v < losses; v++) {
      map[(T - 1 - v) * (T + 1) + k] = norm(delta, (first + v) * S, S);
    }
    if (k === 0) break;
    net.cell.jacobian(net, tape.kept[k], J, tail);
    stepNorms[k] = spectralNorm(J, S, H, guess, tail, lanczos);
    stepBack(net, J, tail, delta, first + losses, before, h);
    [delta, before] = [before, delta];
    if (k > 1) delta.fill(0, (first + losses) * S, (first + losses + 1) * S);
  }
  return { map, product, stepNorms };
}

/** Return ‖∂E_T/∂s_k‖₂ (T+1) of the last loss alone: one row, gate by gate (eq. 9). */
function lastLoss(net, tape, pull) {
  const { cell, H, A, S } = net, { T } = tape, out = new Float64Array(T + 1), alpha = room(A);
  let delta = room(S), before = room(S);
  delta.set(pull);
  for (let k = T; k >= 0; k--) {
    out[k] = norm(delta, 0, S);
    if (k === 0) break;
    cell.adjoint(net, tape.kept[k], delta, 0, alpha, 0);
    products.times(alpha, 1, A, net.W_h, H, before);
    cell.carry(net, tape.kept[k], delta, 0, before, 0);
    [delta, before] = [before, delta];
  }
  return out;
}
