// Numbers as a reader takes them in.

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** A number with two or so digits: 0.071, 1.1·10⁻⁴, inf, NaN. */
function number(x, digits = 2) {
  if (x === null || x === undefined) return "–";
  if (x !== x) return "NaN";
  if (Math.abs(x) === Infinity) return x > 0 ? "inf" : "−inf";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 0.001 && size < 1000) return Number(x.toPrecision(digits)).toString().replace("-", "−");
  const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
  const power = String(Number(exponent)).replace(/./g, (c) => SUPERSCRIPT[c]);
  return `${mantissa.replace("-", "−")}·10${power}`;
}

/** What share is left, for somebody who reads no powers of ten; `say` has the language's words. */
function share(x, say) {
  if (!Number.isFinite(x)) return number(x);
  if (x === 0) return say.nothing;
  if (x >= 1.5) return say.times(rounded(x, say));
  if (x >= 0.001) return say.percent(Number((100 * x).toPrecision(2)));
  return say.onePart(rounded(1 / x, say));
}

/** 40 billion, 4.0·10¹⁸. */
function rounded(x, say) {
  for (const [size, name] of say.large) {
    if (x >= size && x < 1000 * size) return say.counted(Number((x / size).toPrecision(2)), name);
  }
  return x < 1e6 ? Number(x.toPrecision(2)).toLocaleString("en") : number(x);
}
