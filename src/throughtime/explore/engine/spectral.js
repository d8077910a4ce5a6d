// The largest singular value of a matrix: Lanczos on AᵀA, which for 64 columns takes some 10 to 20
// products where the plain power method takes hundreds.

const LANCZOS_STEPS = 40;

/**
 * Return ‖A‖₂ of A (rows, n), to some ten digits.
 * `start` (n) is a guess of the right singular vector; the better one found is left in it.
 * `tail` (n), where given, holds n/2 more rows: row i is tail[i] at i, tail[n/2 + i] at n/2 + i, else 0.
 */
function spectralNorm(a, rows, n, start, tail = null) {
  const scale = tail ? Math.max(largest(a, rows * n), largest(tail, n)) : largest(a, rows * n);
  if (scale === 0 || !Number.isFinite(scale)) return scale;
  const most = Math.min(n, LANCZOS_STEPS), basis = [], diagonal = [], beside = [];
  const next = new Float64Array(n);
  let q = norm(start, 0, n) > 0 ? start.slice() : new Float64Array(n).fill(1), best = 0;
  scaleBy(q, 1 / norm(q, 0, n), n);
  for (let m = 1; m <= most; m++) {
    basis.push(q);
    gram(a, rows, n, 1 / (scale * scale), q, next);
    if (tail) gramOfTail(tail, n / 2, 1 / (scale * scale), q, next);
    diagonal.push(dot(q, 0, next, 0, n));
    takeOut(next, q, diagonal[m - 1], n);
    if (m > 1) takeOut(next, basis[m - 2], beside[m - 2], n);
    const size = norm(next, 0, n), ends = size <= 1e-12 * diagonal[0] || m === most;
    if (ends || (m > 2 && m % 2 === 0)) {
      const found = topOfTridiagonal(diagonal, beside), settled = found - best <= 1e-8 * found;
      best = found;
      if (ends || settled) break;
    }
    beside.push(size);
    q = next.slice();
    scaleBy(q, 1 / size, n);
  }
  leaveVector(start, basis, diagonal, beside, best, n);
  return scale * Math.sqrt(best);
}

function largest(a, n) {
  let most = 0;
  for (let i = 0; i < n; i++) {
    const size = Math.abs(a[i]);
    if (size > most || size !== size) most = size;
  }
  return most;
}

function scaleBy(vector, factor, n) {
  for (let i = 0; i < n; i++) vector[i] *= factor;
}

function takeOut(vector, direction, part, n) {
  for (let i = 0; i < n; i++) vector[i] -= part * direction[i];
}

/** next = weight · Aᵀ A q, four rows of A at a time. */
function gram(a, rows, n, weight, q, next) {
  next.fill(0);
  for (let i = 0; i < rows; i += 4) {
    const p = i * n, r = p + n, s = r + n, t = s + n;
    let w = 0, x = 0, y = 0, z = 0;
    for (let j = 0; j < n; j++) {
      const b = q[j];
      w += a[p + j] * b;
      x += a[r + j] * b;
      y += a[s + j] * b;
      z += a[t + j] * b;
    }
    w *= weight, x *= weight, y *= weight, z *= weight;
    for (let j = 0; j < n; j++) next[j] += w * a[p + j] + x * a[r + j] + y * a[s + j] + z * a[t + j];
  }
}

function gramOfTail(tail, half, weight, q, next) {
  for (let i = 0; i < half; i++) {
    const w = weight * (tail[i] * q[i] + tail[half + i] * q[half + i]);
    next[i] += w * tail[i];
    next[half + i] += w * tail[half + i];
  }
}

/**
 * The largest eigenvalue of a symmetric tridiagonal matrix: Laguerre's method on the characteristic
 * polynomial, from above, where it falls without passing the root and triples its digits each round.
 * `slope` is p′/p, `bend` its slope with the other sign, both summed over the pivots of T − x.
 */
function topOfTridiagonal(diagonal, beside) {
  const m = diagonal.length;
  let x = 0;
  for (let i = 0; i < m; i++) {
    x = Math.max(x, diagonal[i] + (i ? beside[i - 1] : 0) + (i < m - 1 ? beside[i] : 0));
  }
  for (let round = 0; round < 40; round++) {
    let pivot = diagonal[0] - x, u = -1 / pivot, v = 0, slope = u, bend = u * u;
    for (let i = 1; i < m; i++) {
      const r = (beside[i - 1] * beside[i - 1]) / pivot;
      pivot = diagonal[i] - x - r;
      v = (r * (v - 2 * u * u)) / pivot;
      u = (r * u - 1) / pivot;
      slope += u;
      bend += u * u - v;
    }
    const step = m / (slope + Math.sqrt(Math.max(0, (m - 1) * (m * bend - slope * slope))));
    if (!(step > 1e-13 * x)) break;
    x -= step;
  }
  return x;
}

/** Put the vector that belongs to the eigenvalue into `start`: one solve beside the eigenvalue. */
function leaveVector(start, basis, diagonal, beside, value, n) {
  const m = basis.length, shift = value * (1 + 1e-9), pivots = [diagonal[0] - shift], sides = [1];
  for (let i = 1; i < m; i++) {
    const ratio = beside[i - 1] / pivots[i - 1];
    pivots.push(diagonal[i] - shift - ratio * beside[i - 1]);
    sides.push(1 - ratio * sides[i - 1]);
  }
  start.fill(0);
  for (let i = m - 1, above = 0; i >= 0; i--) {
    above = (sides[i] - (i < m - 1 ? beside[i] * above : 0)) / pivots[i];
    takeOut(start, basis[i], -above, n);
  }
  scaleBy(start, 1 / norm(start, 0, n), n);
  start[0] += 1e-4; // or a next matrix to which it is orthogonal would look like 0
}
