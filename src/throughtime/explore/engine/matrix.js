// Products of small matrices, stored row by row in one array.

/**
 * out = a · bᵀ for a (rows, n) and b (m, n).
 * Four rows of a by two of b at a time, so that sums stay in registers.
 */
function timesTransposed(a, rows, n, b, m, out) {
  let v = 0;
  for (; v + 4 <= rows; v += 4) {
    const p = v * n, q = p + n, r = q + n, s = r + n;
    let j = 0;
    for (; j + 2 <= m; j += 2) {
      const c = j * n, d = c + n;
      let w0 = 0, w1 = 0, x0 = 0, x1 = 0, y0 = 0, y1 = 0, z0 = 0, z1 = 0;
      for (let i = 0; i < n; i++) {
        const b0 = b[c + i], b1 = b[d + i];
        const a0 = a[p + i], a1 = a[q + i], a2 = a[r + i], a3 = a[s + i];
        w0 += a0 * b0; w1 += a0 * b1;
        x0 += a1 * b0; x1 += a1 * b1;
        y0 += a2 * b0; y1 += a2 * b1;
        z0 += a3 * b0; z1 += a3 * b1;
      }
      let o = v * m + j;
      out[o] = w0; out[o + 1] = w1; o += m;
      out[o] = x0; out[o + 1] = x1; o += m;
      out[o] = y0; out[o + 1] = y1; o += m;
      out[o] = z0; out[o + 1] = z1;
    }
    for (; j < m; j++) {
      for (let k = 0; k < 4; k++) out[(v + k) * m + j] = dot(a, (v + k) * n, b, j * n, n);
    }
  }
  for (; v < rows; v++) {
    for (let j = 0; j < m; j++) out[v * m + j] = dot(a, v * n, b, j * n, n);
  }
}

/** The inner product of n numbers of a from p on with those of b from q on. */
function dot(a, p, b, q, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[p + i] * b[q + i];
  return sum;
}

/**
 * out = a · b for a (rows, n), every product and sum rounded to float32, as most processors add half
 * precision. Four sums go side by side, each in the order of its row.
 */
function roundedProduct(a, rows, n, b, out) {
  const round = Math.fround;
  for (let v = 0; v < rows; v += 4) {
    const p = v * n, q = p + n, r = q + n, s = r + n;
    let w = 0, x = 0, y = 0, z = 0;
    for (let i = 0; i < n; i++) {
      const factor = b[i];
      w = round(w + round(a[p + i] * factor));
      x = round(x + round(a[q + i] * factor));
      y = round(y + round(a[r + i] * factor));
      z = round(z + round(a[s + i] * factor));
    }
    out[v] = w;
    out[v + 1] = x;
    out[v + 2] = y;
    out[v + 3] = z;
  }
}

function transpose(a, rows, columns) {
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * rows + i] = a[i * columns + j];
  }
  return out;
}

/** The Euclidean norm of n numbers from p on. */
function norm(a, p, n) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += a[p + i] * a[p + i];
  return Math.sqrt(sum);
}
