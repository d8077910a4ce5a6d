// Arrays of float64 as base64, and the rounding of half precision.

/** Return the float64 numbers that a base64 string holds, little end first. */
function decodeNumbers(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float64Array(bytes.buffer);
}

const asFloat = new Float64Array(1), asBits = new Uint32Array(asFloat.buffer);
// Adding this and taking it away again rounds to a multiple of 2^(e-10), ties to even.
const ROUNDERS = Float64Array.from({ length: 31 }, (_, e) => 1.5 * 2 ** (52 + (e - 14) - 10));

/** Return the nearest half-precision number, ties to even: 11 bits, largest 65504, least 2^-24. */
function toHalf(x) {
  if (!(x < 65520 && x > -65520)) return x !== x ? x : x > 0 ? Infinity : -Infinity;
  asFloat[0] = x;
  const exponent = ((asBits[1] >>> 20) & 0x7ff) - 1023;
  const rounder = ROUNDERS[exponent < -14 ? 0 : exponent + 14];
  return x + rounder - rounder;
}

/** Round what is stored to "float32" or "half". */
function roundAll(values, format) {
  if (format === "half") for (let i = 0; i < values.length; i++) values[i] = toHalf(values[i]);
  else for (let i = 0; i < values.length; i++) values[i] = Math.fround(values[i]);
  return values;
}
