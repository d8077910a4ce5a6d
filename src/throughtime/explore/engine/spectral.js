// The largest singular value of a matrix: Lanczos on AᵀA, which for 64 columns takes some 10 to 20
// products where the plain power method takes hundreds.

const LANCZOS_STEPS = 40;

/**
 * Return ‖A‖₂ of A (rows, n), to some ten digits.
 * `start` (n) is a guess of the right singular vector; the better one found is left in it.
 */
function spectralNorm(a, rows, n, start) {
  const scale = largest(a, rows * n);
  if (scale === 0 || !Number.isFinite(scale)) return scale;
  const most = Math.min(n, LANCZOS_STEPS), basis = [], diagonal = [], beside = [];
  const next = new Float64Array(n);
  let q = start.slice(), best = 0;
  scaleBy(q, 1 / norm(q, 0, n), n);
  for (let m = 1; m <= most; m++) {
    basis.push(q);
    gram(a, rows, n, 1 / (scale * scale), q, next);
    diagonal.push(dot(q, 0, next, 0, n));
    takeOut(next, q, diagonal[m - 1], n);
    if (m > 1) takeOut(next, basis[m - 2], beside[m - 2], n);
    const size = norm(next, 0, n), ends = size <= 1e-12 * diagonal[0] || m === most;
    if (ends || m % 2 === 0) {
      const found = topOfTridiagonal(diagonal, beside, best), settled = found - best <= 1e-8 * found;
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

/** The largest eigenvalue, above `low`, of a symmetric tridiagonal matrix: bisection by Sturm. */
function topOfTridiagonal(diagonal, beside, low) {
  const m = diagonal.length;
  let high = low;
  for (let i = 0; i < m; i++) {
    const radius = (i ? beside[i - 1] : 0) + (i < m - 1 ? beside[i] : 0);
    high = Math.max(high, diagonal[i] + radius);
  }
  for (let round = 0; round < 60 && high - low > 1e-13 * high; round++) {
    const middle = (low + high) / 2;
    if (allBelow(diagonal, beside, middle)) high = middle;
    else low = middle;
  }
  return high;
}

function allBelow(diagonal, beside, x) {
  let pivot = diagonal[0] - x;
  if (pivot >= 0) return false;
  for (let i = 1; i < diagonal.length; i++) {
    pivot = diagonal[i] - x - (beside[i - 1] * beside[i - 1]) / pivot;
    if (pivot >= 0) return false;
  }
  return true;
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
