// Inner products and norms. Matrices are stored row by row in one array.

/** The inner product of n numbers of a from p on with those of b from q on. */
function dot(a, p, b, q, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[p + i] * b[q + i];
  return sum;
}

/** out (columns, rows) = aᵀ. */
function transpose(a, rows, columns, out) {
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * rows + i] = a[i * columns + j];
  }
}

/** The Euclidean norm of n numbers from p on. */
function norm(a, p, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[p + i] * a[p + i];
  return Math.sqrt(sum);
}
