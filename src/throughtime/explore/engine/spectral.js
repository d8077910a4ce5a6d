// The largest singular value of a matrix: Lanczos on AᵀA, which for 64 columns takes some 10 to 20
// products where the plain power method takes hundreds.

const LANCZOS_STEPS = 40;

/** What `spectralNorm` works in, for n columns at most: q_1, q_2 … each with a view of its own. */
function lanczosRoom(n) {
  const most = Math.min(n, LANCZOS_STEPS);
  return {
    basis: Array.from({ length: most }, () => room(n)), next: room(n),
    diagonal: new Float64Array(most), beside: new Float64Array(most),
    pivots: new Float64Array(most), sides: new Float64Array(most),
  };
}

/**
 * Return ‖A‖₂ of A (rows, n), to some ten digits.
 * `start` is a guess of the right singular vector; the better one found is left in it.
 * `tail` (rows = 2n), where given, holds n more columns: row i has tail[i] in column i mod n, else 0.
 */
function spectralNorm(a, rows, n, start, tail, { basis, next, diagonal, beside, pivots, sides }) {
  const width = tail ? 2 * n : n, most = Math.min(width, LANCZOS_STEPS);
  const scale = tail ? Math.max(largest(a, rows * n), largest(tail, width)) : largest(a, rows * n);
  if (scale === 0 || !Number.isFinite(scale)) return scale;
  let m = 0, best = 0, size = norm(start, 0, width);
  if (size > 0) scaleInto(start, 1 / size, basis[0], width);
  else basis[0].fill(1 / Math.sqrt(width), 0, width);
  for (;;) {
    const q = basis[m];
    products.gram(a, rows, n, 1 / (scale * scale), q, next, tail);
    const along = dot(q, 0, next, 0, width);
    diagonal[m] = along;
    size = takeOutBoth(next, q, along, m ? basis[m - 1] : q, m ? beside[m - 1] : 0, width);
    m += 1;
    const ends = size <= 1e-12 * diagonal[0] || m === most;
    if (ends || (m > 2 && m % 2 === 0)) {
      const found = topOfTridiagonal(diagonal, beside, m), settled = found - best <= 1e-8 * found;
      best = found;
      if (ends || settled) break;
    }
    beside[m - 1] = size;
    scaleInto(next, 1 / size, basis[m], width);
  }
  leaveVector(start, basis, diagonal, beside, pivots, sides, best, m, width);
  return scale * Math.sqrt(best);
}

/** Take two directions out of a vector, and return what size is left. */
function takeOutBoth(vector, one, part, other, otherPart, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const left = vector[i] - part * one[i] - otherPart * other[i];
    vector[i] = left;
    sum += left * left;
  }
  return Math.sqrt(sum);
}

function largest(a, n) {
  let most = 0;
  for (let i = 0; i < n; i++) {
    const size = Math.abs(a[i]);
    if (size > most || size !== size) most = size;
  }
  return most;
}

function scaleInto(vector, factor, out, n) {
  for (let i = 0; i < n; i++) out[i] = vector[i] * factor;
}

/**
 * The largest eigenvalue of a symmetric tridiagonal matrix: Laguerre's method on the characteristic
 * polynomial, from above, where it falls without passing the root and triples its digits each round.
 * `slope` is p′/p, `bend` its slope with the other sign, both summed over the pivots of T − x.
 */
function topOfTridiagonal(diagonal, beside, m) {
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
function leaveVector(start, basis, diagonal, beside, pivots, sides, value, m, n) {
  const shift = value * (1 + 1e-9);
  pivots[0] = diagonal[0] - shift;
  sides[0] = 1;
  for (let i = 1; i < m; i++) {
    const ratio = beside[i - 1] / pivots[i - 1];
    pivots[i] = diagonal[i] - shift - ratio * beside[i - 1];
    sides[i] = 1 - ratio * sides[i - 1];
  }
  start.fill(0, 0, n);
  for (let i = m - 1, above = 0; i >= 0; i--) {
    above = (sides[i] - (i < m - 1 ? beside[i] * above : 0)) / pivots[i];
    const q = basis[i];
    for (let j = 0; j < n; j++) start[j] += above * q[j];
  }
  scaleInto(start, 1 / norm(start, 0, n), start, n);
  start[0] += 1e-4; // or a next matrix to which it is orthogonal would look like 0
}
