// The products in which the engine spends its time: by WebAssembly (products.c), or here where a
// browser has none. Arrays that they take come from `room`, which is where WebAssembly can see them.

// The SHA-256 of products.c, from which `make products` compiled this.
const COMPILED_FROM = "0f22f90fdd499fc0e2fd5284044670416859c6918fa07438403d038f587db2b0";
const COMPILED =
  "AGFzbQEAAAABHANgBn9/f39/fwBgB39/f3x/f38AYAV/f39/fwADBAMAAQIEBQFwAQEBBQMBABAGCQF/AUGAgMAACwcjBAZtZW1vcnkCAAV0aW1lcwAABGdyYW0AAQd0aW1lczMyAAIKkg8DwgYEDn8IewF/BntBACEGAkAgAUEESA0AIAJBA3QhByACQQR0IQggAkEFdCEJIAJBGGwhCiAEQQN0IQtBACEGIARBAUghDCAAIQ1BBCEOA0AgBiEPIA4hBgJAIAwNACAFIA8gBGxBA3RqIRBBACERIAMhEgNAIBAgEUEDdGohEwJAAkAgAkEBTg0A/QwAAAAAAAAAAAAAAAAAAAAAIhQhFSAUIRYgFCEXIBQhGCAUIRkgFCEaIBQhGwwBCyANIQ4gAiEcIBIhD/0MAAAAAAAAAAAAAAAAAAAAACIbIRogGyEZIBshGCAbIRcgGyEWIBshFSAbIRQDQCAUIA9BEGr9AAMAIh0gDiAKav0KAwAiHv3yAf3wASEUIBYgHSAOIAhq/QoDACIf/fIB/fABIRYgGCAdIA4gB2r9CgMAIiD98gH98AEhGCAbIA/9AAMAIiEgDv0KAwAiIv3yAf3wASEbIBUgISAe/fIB/fABIRUgFyAhIB/98gH98AEhFyAZICEgIP3yAf3wASEZIBogHSAi/fIB/fABIRogDkEIaiEOIA8gC2ohDyAcQX9qIhwNAAsLIBMgGv0LAxAgEyAb/QsDACATIAtqIg4gGP0LAxAgDiAZ/QsDACAOIAtqIg4gFv0LAxAgDiAX/QsDACAOIAtqIg4gFP0LAxAgDiAV/QsDACASQSBqIRIgEUEEaiIRIARIDQALCyANIAlqIQ0gBkEEaiIOIAFMDQALCwJAIAYgAU4NACACQQN0IREgBEEDdCELIAAgBiACbEEDdGohEyAEQQFIIRIDQAJAIBINACAFIAYgBGxBA3RqIQpBACEHIAMhCANAAkACQCACQQFODQD9DAAAAAAAAAAAAAAAAAAAAAAiHSEhDAELIBMhDyAIIQ4gAiEc/QwAAAAAAAAAAAAAAAAAAAAAIiEhHQNAIB0gDv0AAwAgD/0KAwAiG/3yAf3wASEdICEgGyAOQRBq/QADAP3yAf3wASEhIA9BCGohDyAOIAtqIQ4gHEF/aiIcDQALCyAKIAdBA3RqIg4gIf0LAxAgDiAd/QsDACAIQSBqIQggB0EEaiIHIARIDQALCyATIBFqIRMgBkEBaiIGIAFHDQALCwuqBwMMfwV7BHwCQCACQQFIDQBBACEHIAIgBkEAR3QhCCAFIQkDQCAJ/QwAAAAAAAAAAAAAAAAAAAAA/QsDACAJQRBqIQkgB0ECaiIHIAhIDQALCwJAIAFBAUgNACACQQV0IQogACACQQN0IgtqIQwgACACQQR0Ig1qIQ4gACACQRhsIg9qIRBBACERIAJBAUghEgNAAkACQCASRQ0A/QwAAAAAAAAAAAAAAAAAAAAAIhMhFCATIRUgEyEWDAELQQAhCCAEIQcgACEJ/QwAAAAAAAAAAAAAAAAAAAAAIhMhFCATIRUgEyEWA0AgFiAH/QADACIXIAn9AAMA/fIB/fABIRYgEyAXIAkgD2r9AAMA/fIB/fABIRMgFCAXIAkgDWr9AAMA/fIB/fABIRQgFSAXIAkgC2r9AAMA/fIB/fABIRUgB0EQaiEHIAlBEGohCSAIQQJqIgggAkgNAAsLIBb9IQAgFv0hAaAhGAJAAkAgBg0AIAMgGEQAAAAAAAAAAKCiIRggAyAT/SEAIBP9IQGgRAAAAAAAAAAAoKIhGSADIBT9IQAgFP0hAaBEAAAAAAAAAACgoiEaIAMgFf0hACAV/SEBoEQAAAAAAAAAAKCiIRsMAQsgBSARIAJvIAJqQQN0IglqIgcgBysDACAGIBFBA3RqKwMAIhkgAyAYIBkgBCAJaisDAKKgoiIYoqA5AwAgBSARQQFyIgkgAm8gAmpBA3QiB2oiCCAIKwMAIAYgCUEDdGorAwAiGSADIBX9IQAgFf0hAaAgGSAEIAdqKwMAoqCiIhuioDkDACAFIBFBAnIiCSACbyACakEDdCIHaiIIIAgrAwAgBiAJQQN0aisDACIZIAMgFP0hACAU/SEBoCAZIAQgB2orAwCioKIiGqKgOQMAIAUgEUEDciIJIAJvIAJqQQN0IgdqIgggCCsDACAGIAlBA3RqKwMAIhkgAyAT/SEAIBP9IQGgIBkgBCAHaisDAKKgoiIZoqA5AwALAkAgEg0AIBn9FCEXIBr9FCETIBv9FCEUIBj9FCEVQQAhCUEAIQcDQCAFIAlqIgggCP0AAwAgFSAAIAlq/QADAP3yASAUIAwgCWr9AAMA/fIB/fABIBMgDiAJav0AAwD98gH98AEgFyAQIAlq/QADAP3yAf3wAf3wAf0LAwAgCUEQaiEJIAdBAmoiByACSA0ACwsgDCAKaiEMIA4gCmohDiAQIApqIRAgACAKaiEAIBFBBGoiESABSA0ACwsLnwEDA38BewN/AkAgA0EBSA0AIANBAnQhBUEAIQYgAUEBSCEHA0D9DAAAAAAAAAAAAAAAAAAAAAAhCAJAIAcNACAAIQkgAiEKIAEhCwNAIAggCv0AAgAgCf0JAgD95gH95AEhCCAJQQRqIQkgCiAFaiEKIAtBf2oiCw0ACwsgBCAGQQJ0aiAI/QsCACACQRBqIQIgBkEEaiIGIANIDQALCws=";

const inScript = {
  /** out (rows, m) = a (rows, n) · b (n, m); 4 divides m. */
  times(a, rows, n, b, m, out) {
    for (let v = 0; v < rows; v++) {
      for (let j = 0; j < m; j += 4) {
        let w = 0, x = 0, y = 0, z = 0;
        for (let i = 0, c = j; i < n; i++, c += m) {
          const factor = a[v * n + i];
          w += factor * b[c];
          x += factor * b[c + 1];
          y += factor * b[c + 2];
          z += factor * b[c + 3];
        }
        const o = v * m + j;
        out[o] = w, out[o + 1] = x, out[o + 2] = y, out[o + 3] = z;
      }
    }
  },

  /** next = weight · aᵀ a q for a (rows, n); with a `tail`, as products.c describes it. */
  gram(a, rows, n, weight, q, next, tail) {
    next.fill(0);
    for (let i = 0; i < rows; i++) {
      const p = i * n, at = n + (i % n);
      const y = weight * (dot(a, p, q, 0, n) + (tail ? tail[i] * q[at] : 0));
      for (let j = 0; j < n; j++) next[j] += y * a[p + j];
      if (tail) next[at] += tail[i] * y;
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
