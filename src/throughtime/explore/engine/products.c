/* The products in which the engine spends its time, in WebAssembly: two float64 or four float32 side
 * by side, a quarter of what plain JavaScript takes. `make products` compiles this file into products.js,
 * where the same functions stand in JavaScript for a browser that has no WebAssembly with SIMD. */
typedef double pair __attribute__((vector_size(16), aligned(8)));
typedef float four __attribute__((vector_size(16), aligned(4)));
#define AT(p, i) (*(pair *)((p) + (i)))
#define BOTH(x) ((pair){x, x})
#define EXPORT(name) __attribute__((export_name(name))) void

/* out (rows, m) = a (rows, n) · b (n, m); 4 divides m. */
EXPORT("times") times(double *a, int rows, int n, double *b, int m, double *out) {
  int v = 0;
  for (; v + 4 <= rows; v += 4) {
    double *p = a + v * n, *q = p + n, *r = q + n, *s = r + n;
    for (int j = 0; j < m; j += 4) {
      pair w0 = {0}, w1 = {0}, x0 = {0}, x1 = {0}, y0 = {0}, y1 = {0}, z0 = {0}, z1 = {0};
      double *c = b + j, *o = out + v * m + j;
      for (int i = 0; i < n; i++, c += m) {
        const pair c0 = AT(c, 0), c1 = AT(c, 2);
        const pair pi = BOTH(p[i]), qi = BOTH(q[i]), ri = BOTH(r[i]), si = BOTH(s[i]);
        w0 += pi * c0, w1 += pi * c1;
        x0 += qi * c0, x1 += qi * c1;
        y0 += ri * c0, y1 += ri * c1;
        z0 += si * c0, z1 += si * c1;
      }
      AT(o, 0) = w0, AT(o, 2) = w1, o += m;
      AT(o, 0) = x0, AT(o, 2) = x1, o += m;
      AT(o, 0) = y0, AT(o, 2) = y1, o += m;
      AT(o, 0) = z0, AT(o, 2) = z1;
    }
  }
  for (; v < rows; v++) {
    for (int j = 0; j < m; j += 4) {
      pair w0 = {0}, w1 = {0};
      for (int i = 0; i < n; i++) {
        const pair x = BOTH(a[v * n + i]);
        w0 += x * AT(b + i * m, j), w1 += x * AT(b + i * m, j + 2);
      }
      AT(out + v * m, j) = w0, AT(out + v * m, j + 2) = w1;
    }
  }
}

/* next = weight · aᵀ a q for a (rows, n); 4 divides both. With a tail (rows = 2n), a has n more
 * columns, of which row i has only tail[i], in column i mod n; q and next are then as long. */
EXPORT("gram") gram(double *a, int rows, int n, double weight, double *q, double *next, double *tail) {
  for (int j = 0; j < (tail ? 2 * n : n); j += 2) AT(next, j) = BOTH(0);
  for (int i = 0; i < rows; i += 4) {
    double *p = a + i * n, *r = p + n, *s = r + n, *t = s + n, y[4];
    pair sums[4] = {{0}, {0}, {0}, {0}};
    for (int j = 0; j < n; j += 2) {
      const pair b = AT(q, j);
      sums[0] += AT(p, j) * b, sums[1] += AT(r, j) * b;
      sums[2] += AT(s, j) * b, sums[3] += AT(t, j) * b;
    }
    for (int k = 0; k < 4; k++) {
      const int at = n + (i + k) % n;
      y[k] = weight * (sums[k][0] + sums[k][1] + (tail ? tail[i + k] * q[at] : 0));
      if (tail) next[at] += tail[i + k] * y[k];
    }
    const pair w = BOTH(y[0]), x = BOTH(y[1]), u = BOTH(y[2]), z = BOTH(y[3]);
    for (int j = 0; j < n; j += 2) {
      AT(next, j) += w * AT(p, j) + x * AT(r, j) + u * AT(s, j) + z * AT(t, j);
    }
  }
}

/* out (m) = x (n) · b (n, m) in float32, each product and each sum rounded, in the order of x. */
EXPORT("times32") times32(float *x, int n, float *b, int m, float *out) {
  for (int j = 0; j < m; j += 4) {
    four sum = {0};
    for (int i = 0; i < n; i++) {
      const four factor = {x[i], x[i], x[i], x[i]};
      sum += factor * *(four *)(b + i * m + j);
    }
    *(four *)(out + j) = sum;
  }
}
