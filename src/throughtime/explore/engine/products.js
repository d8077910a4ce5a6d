// The products in which the engine spends its time: by WebAssembly (products.c), or here where a
// browser has none. Arrays that they take come from `room`, which is where WebAssembly can see them.

// The SHA-256 of products.c, from which `make products` compiled this.
const COMPILED_FROM = "0f22f90fdd499fc0e2fd5284044670416859c6918fa07438403d038f587db2b0";
const COMPILED =
  "AGFzbQEAAAABHANgBn9/f39/fwBgB39/f3x/f38AYAV/f39/fwADBAMAAQIEBQFwAQEBBQMBABAGCAF/AUGAgAQLByMEBm1lbW9yeQIABXRpbWVzAAAEZ3JhbQABB3RpbWVzMzIAAgqSDwPCBgQOfwh7AX8Ge0EAIQYCQCABQQRIDQAgAkEDdCEHIAJBBHQhCCACQQV0IQkgAkEYbCEKIARBA3QhC0EAIQYgBEEBSCEMIAAhDUEEIQ4DQCAGIQ8gDiEGAkAgDA0AIAUgDyAEbEEDdGohEEEAIREgAyESA0AgECARQQN0aiETAkACQCACQQFODQD9DAAAAAAAAAAAAAAAAAAAAAAiFCEVIBQhFiAUIRcgFCEYIBQhGSAUIRogFCEbDAELIA0hDiACIRwgEiEP/QwAAAAAAAAAAAAAAAAAAAAAIhshGiAbIRkgGyEYIBshFyAbIRYgGyEVIBshFANAIBQgD0EQav0AAwAiHSAOIApq/QoDACIe/fIB/fABIRQgFiAdIA4gCGr9CgMAIh/98gH98AEhFiAYIB0gDiAHav0KAwAiIP3yAf3wASEYIBsgD/0AAwAiISAO/QoDACIi/fIB/fABIRsgFSAhIB798gH98AEhFSAXICEgH/3yAf3wASEXIBkgISAg/fIB/fABIRkgGiAdICL98gH98AEhGiAOQQhqIQ4gDyALaiEPIBxBf2oiHA0ACwsgEyAa/QsDECATIBv9CwMAIBMgC2oiDiAY/QsDECAOIBn9CwMAIA4gC2oiDiAW/QsDECAOIBf9CwMAIA4gC2oiDiAU/QsDECAOIBX9CwMAIBJBIGohEiARQQRqIhEgBEgNAAsLIA0gCWohDSAGQQRqIg4gAUwNAAsLAkAgBiABTg0AIAJBA3QhESAEQQN0IQsgACAGIAJsQQN0aiETIARBAUghEgNAAkAgEg0AIAUgBiAEbEEDdGohCkEAIQcgAyEIA0ACQAJAIAJBAU4NAP0MAAAAAAAAAAAAAAAAAAAAACIdISEMAQsgEyEPIAghDiACIRz9DAAAAAAAAAAAAAAAAAAAAAAiISEdA0AgHSAO/QADACAP/QoDACIb/fIB/fABIR0gISAbIA5BEGr9AAMA/fIB/fABISEgD0EIaiEPIA4gC2ohDiAcQX9qIhwNAAsLIAogB0EDdGoiDiAh/QsDECAOIB39CwMAIAhBIGohCCAHQQRqIgcgBEgNAAsLIBMgEWohEyAGQQFqIgYgAUcNAAsLC6oHAwx/BXsEfAJAIAJBAUgNAEEAIQcgAiAGQQBHdCEIIAUhCQNAIAn9DAAAAAAAAAAAAAAAAAAAAAD9CwMAIAlBEGohCSAHQQJqIgcgCEgNAAsLAkAgAUEBSA0AIAJBBXQhCiAAIAJBA3QiC2ohDCAAIAJBBHQiDWohDiAAIAJBGGwiD2ohEEEAIREgAkEBSCESA0ACQAJAIBJFDQD9DAAAAAAAAAAAAAAAAAAAAAAiEyEUIBMhFSATIRYMAQtBACEIIAQhByAAIQn9DAAAAAAAAAAAAAAAAAAAAAAiEyEUIBMhFSATIRYDQCAWIAf9AAMAIhcgCf0AAwD98gH98AEhFiATIBcgCSAPav0AAwD98gH98AEhEyAUIBcgCSANav0AAwD98gH98AEhFCAVIBcgCSALav0AAwD98gH98AEhFSAHQRBqIQcgCUEQaiEJIAhBAmoiCCACSA0ACwsgFv0hACAW/SEBoCEYAkACQCAGDQAgAyAYRAAAAAAAAAAAoKIhGCADIBP9IQAgE/0hAaBEAAAAAAAAAACgoiEZIAMgFP0hACAU/SEBoEQAAAAAAAAAAKCiIRogAyAV/SEAIBX9IQGgRAAAAAAAAAAAoKIhGwwBCyAFIBEgAm8gAmpBA3QiCWoiByAHKwMAIAYgEUEDdGorAwAiGSADIBggGSAEIAlqKwMAoqCiIhiioDkDACAFIBFBAXIiCSACbyACakEDdCIHaiIIIAgrAwAgBiAJQQN0aisDACIZIAMgFf0hACAV/SEBoCAZIAQgB2orAwCioKIiG6KgOQMAIAUgEUECciIJIAJvIAJqQQN0IgdqIgggCCsDACAGIAlBA3RqKwMAIhkgAyAU/SEAIBT9IQGgIBkgBCAHaisDAKKgoiIaoqA5AwAgBSARQQNyIgkgAm8gAmpBA3QiB2oiCCAIKwMAIAYgCUEDdGorAwAiGSADIBP9IQAgE/0hAaAgGSAEIAdqKwMAoqCiIhmioDkDAAsCQCASDQAgGf0UIRcgGv0UIRMgG/0UIRQgGP0UIRVBACEJQQAhBwNAIAUgCWoiCCAI/QADACAVIAAgCWr9AAMA/fIBIBQgDCAJav0AAwD98gH98AEgEyAOIAlq/QADAP3yAf3wASAXIBAgCWr9AAMA/fIB/fAB/fAB/QsDACAJQRBqIQkgB0ECaiIHIAJIDQALCyAMIApqIQwgDiAKaiEOIBAgCmohECAAIApqIQAgEUEEaiIRIAFIDQALCwufAQMDfwF7A38CQCADQQFIDQAgA0ECdCEFQQAhBiABQQFIIQcDQP0MAAAAAAAAAAAAAAAAAAAAACEIAkAgBw0AIAAhCSACIQogASELA0AgCCAK/QACACAJ/QkCAP3mAf3kASEIIAlBBGohCSAKIAVqIQogC0F/aiILDQALCyAEIAZBAnRqIAj9CwIAIAJBEGohAiAGQQRqIgYgA0gNAAsLCw==";

const inScript = {
  /** out (rows, m) = a (rows, n) · b (n, m); 4 divides m. */
  times(a, rows, n, b, m, out) {
    let v = 0;
    for (; v + 4 <= rows; v += 4) { // four rows by two columns, so that sums stay in registers
      const p = v * n, q = p + n, r = q + n, s = r + n;
      for (let j = 0; j < m; j += 2) {
        let w0 = 0, w1 = 0, x0 = 0, x1 = 0, y0 = 0, y1 = 0, z0 = 0, z1 = 0;
        for (let i = 0, c = j; i < n; i++, c += m) {
          const b0 = b[c], b1 = b[c + 1], a0 = a[p + i], a1 = a[q + i], a2 = a[r + i], a3 = a[s + i];
          w0 += a0 * b0, w1 += a0 * b1;
          x0 += a1 * b0, x1 += a1 * b1;
          y0 += a2 * b0, y1 += a2 * b1;
          z0 += a3 * b0, z1 += a3 * b1;
        }
        let o = v * m + j;
        out[o] = w0, out[o + 1] = w1, o += m;
        out[o] = x0, out[o + 1] = x1, o += m;
        out[o] = y0, out[o + 1] = y1, o += m;
        out[o] = z0, out[o + 1] = z1;
      }
    }
    for (; v < rows; v++) {
      for (let j = 0; j < m; j++) {
        let sum = 0;
        for (let i = 0; i < n; i++) sum += a[v * n + i] * b[i * m + j];
        out[v * m + j] = sum;
      }
    }
  },

  /** next = weight · aᵀ a q for a (rows, n); with a `tail`, as products.c describes it. */
  gram(a, rows, n, weight, q, next, tail) {
    next.fill(0);
    for (let i = 0; i < rows; i += 4) {
      const p = i * n, r = p + n, s = r + n, t = s + n;
      let w = 0, x = 0, y = 0, z = 0;
      for (let j = 0; j < n; j++) {
        const b = q[j];
        w += a[p + j] * b, x += a[r + j] * b, y += a[s + j] * b, z += a[t + j] * b;
      }
      if (tail) {
        const c = n + (i % n); // the four rows are of one half: 4 divides n
        w += tail[i] * q[c], x += tail[i + 1] * q[c + 1], y += tail[i + 2] * q[c + 2], z += tail[i + 3] * q[c + 3];
      }
      w *= weight, x *= weight, y *= weight, z *= weight;
      for (let j = 0; j < n; j++) next[j] += w * a[p + j] + x * a[r + j] + y * a[s + j] + z * a[t + j];
      if (tail) {
        const c = n + (i % n);
        next[c] += w * tail[i], next[c + 1] += x * tail[i + 1];
        next[c + 2] += y * tail[i + 2], next[c + 3] += z * tail[i + 3];
      }
    }
  },

  /** out (m) = x (n) · b (n, m), all float32: each product and each sum is rounded. */
  times32(x, n, b, m, out) {
    const round = Math.fround;
    for (let j = 0; j < m; j++) {
      let sum = round(0);
      for (let i = 0; i < n; i++) sum = round(sum + round(x[i] * b[i * m + j]));
      out[j] = sum;
    }
  },
};

// `room` gives arrays of WebAssembly's memory one after the other, from here on.
const FIRST_BYTE = 1 << 17;
let compiled = null, used = FIRST_BYTE;
try {
  const bytes = Uint8Array.from(atob(COMPILED), (c) => c.charCodeAt(0));
  compiled = new WebAssembly.Instance(new WebAssembly.Module(bytes), {}).exports;
} catch {
  compiled = null; // no WebAssembly, or one without SIMD: `inScript` does the same, more slowly
}

const products = !compiled ? inScript : {
  times: (a, rows, n, b, m, out) => compiled.times(a.byteOffset, rows, n, b.byteOffset, m, out.byteOffset),
  gram: (a, rows, n, weight, q, next, tail) =>
    compiled.gram(a.byteOffset, rows, n, weight, q.byteOffset, next.byteOffset, tail ? tail.byteOffset : 0),
  times32: (x, n, b, m, out) => compiled.times32(x.byteOffset, n, b.byteOffset, m, out.byteOffset),
};

/** A new array of zeros that the products can take; all are gone when `clearRoom` is called. */
function room(length, kind = Float64Array) {
  if (!compiled) return new kind(length);
  const size = (length * kind.BYTES_PER_ELEMENT + 15) & ~15;
  if (used + size > compiled.memory.buffer.byteLength) throw new RangeError("the engine's memory is full");
  const array = new kind(compiled.memory.buffer, used, length);
  used += size;
  return array.fill(0);
}

/** Begin anew; `doubles` is how many float64 will be asked for at most. */
function clearRoom(doubles) {
  used = FIRST_BYTE;
  if (!compiled) return;
  const missing = used + 8 * doubles - compiled.memory.buffer.byteLength;
  if (missing > 0) compiled.memory.grow(Math.ceil(missing / 65536));
}
