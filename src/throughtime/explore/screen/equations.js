// The equations 10 to 16 as MathML, which browsers typeset and screen readers read.

const mi = (x) => `<mi>${x}</mi>`;
const mo = (x) => `<mo>${x}</mo>`;
const flat = (x) => `<mo stretchy="false">${x}</mo>`;
const sub = (x, i) => `<msub>${x}<mrow>${i}</mrow></msub>`;
const fraction = (a, b) => `<mfrac><mrow>${a}</mrow><mrow>${b}</mrow></mfrac>`;
const partial = (a, b) => fraction(mo("∂") + a, mo("∂") + b);
const overUnder = (sign, low, high) => `<munderover>${mo(sign)}<mrow>${low}</mrow><mrow>${high}</mrow></munderover>`;
const norm2 = (x) => `${mo("‖")}${x}${mo("‖")}`;
const ONE = "<mn>1</mn>";
const h = (i) => sub(mi("h"), i), E_t = sub(mi("E"), mi("t")), W = mi("W"), t = mi("t"), k = mi("k"), j = mi("j");
const before = j + mo("−") + ONE, J = sub(mi("J"), j);
const jacobian = partial(h(t), h(k)), immediate = fraction(`<msup>${mo("∂")}${mo("+")}</msup>` + h(k), mo("∂") + W);
const outside = partial(E_t, sub(mi("y"), t)) + partial(sub(mi("y"), t), h(t));
const product = (x) => overUnder("∏", j + mo("=") + k + mo("+") + ONE, t) + x;
const betas = sub(mi("β"), W) + sub(mi("β"), mi("f"));
const slope = `<mi mathvariant="normal">diag</mi>${flat("(")}<msup>${mi("f")}${mo("′")}</msup>${flat("(")}${sub(mi("a"), j)}${flat("))")}`;

const EQUATIONS = {
  10: partial(mi("E"), W) + mo("=") + overUnder("∑", t + mo("=") + ONE, mi("T")) + partial(E_t, W),
  11: partial(E_t, W) + mo("=") + overUnder("∑", k + mo("=") + ONE, t) + outside + jacobian + immediate,
  12: jacobian + mo("=") + product(partial(h(j), h(before))) + mo("=") + product(J),
  13: J + mo("=") + partial(h(j), h(before)) + mo("=") + slope + sub(W, mi("h")),
  14: partial(mi("E"), W) + mo("=") + overUnder("∑", t + mo("=") + ONE, mi("T")) + overUnder("∑", k + mo("=") + ONE, t) + outside + mo("(") + product(J) + mo(")") + immediate,
  15: norm2(J) + mo("≤") + norm2(sub(W, mi("h"))) + norm2(slope) + mo("≤") + betas,
  16: norm2(jacobian) + mo("≤") + product(norm2(J)) + mo("≤") + `<msup><mrow>${flat("(")}${betas}${flat(")")}</mrow><mrow>${t}${mo("−")}${k}</mrow></msup>`,
};

// What is another for a gated cell: its J is no single product, and it has no constants β.
const row = (...cells) => `<mtr>${cells.map((x) => `<mtd>${x}</mtd>`).join("")}</mtr>`;
const diagonal = (x) => `<mi mathvariant="normal">diag</mi>${flat("(")}${x}${flat(")")}`;
const c = (i) => sub(mi("c"), i), s = (i) => sub(mi("s"), i);
const reached = partial(h(t), s(k)), measured = sub(mo("min"), j) + norm2(J) + mo("≤") + norm2(J) + mo("≤") + sub(mo("max"), j) + norm2(J);
const GATED = { 15: measured, 16: norm2(jacobian) + mo("≤") + product(norm2(J)) };
const writes = fraction(`<msup>${mo("∂")}${mo("+")}</msup>` + s(k), mo("∂") + W), through = partial(h(t), s(t));
const OF_CELL = {
  Elman: {},
  GRU: { ...GATED, 13: J + mo("=") + partial(h(j), h(before)) + mo("=") + diagonal(sub(mi("z"), j)) + mo("+") + overUnder("∑", mi("g") + mo("∈") + mi("r") + mo(",") + mi("z") + mo(",") + mi("n"), "") + diagonal(`<msubsup>${mi("d")}${j}${mi("g")}</msubsup>`) + sub(W, mi("g")) },
  LSTM: {
    ...GATED, 11: partial(E_t, W) + mo("=") + overUnder("∑", k + mo("=") + ONE, t) + outside + reached + writes,
    12: reached + mo("=") + through + product(partial(s(j), s(before))) + mo("=") + through + product(J),
    14: partial(mi("E"), W) + mo("=") + overUnder("∑", t + mo("=") + ONE, mi("T")) + overUnder("∑", k + mo("=") + ONE, t) + outside + through + mo("(") + product(J) + mo(")") + writes,
    16: norm2(reached) + mo("≤") + product(norm2(J)),
    13: J + mo("=") + mo("(") + `<mtable>${row(partial(h(j), h(before)), partial(h(j), c(before)))}${row(partial(c(j), h(before)), diagonal(sub(mi("f"), j)))}</mtable>` + mo(")"),
  },
};

/** Put the equations into the list, each with an empty line for its numbers. */
function layEquations(list) {
  list.innerHTML = Object.entries(EQUATIONS).map(([n, body]) =>
    `<li id="eq${n}"><div class="formula"><math display="block">${body}</math><span class="no">(${n})</span></div>` +
    `<p class="live" id="eq${n}-live"></p></li>`).join("");
}

/** Write each equation as this cell has it, and say under it what it is at this setting. */
function sayEquations(say, f, cell) {
  const list = document.getElementById("equations");
  if (list.dataset.cell !== cell) {
    for (const [n, body] of Object.entries({ ...EQUATIONS, ...OF_CELL[cell] })) document.querySelector(`#eq${n} math`).innerHTML = body;
    list.dataset.cell = cell;
  }
  for (const n of Object.keys(EQUATIONS)) {
    let text = say[`eq${n}`](f, cell);
    if (n === "16" && f.gain) text += f.gain.betaW * f.gain.betaF < 1 ? say.eq16below : say.eq16above;
    write(document.getElementById(`eq${n}-live`), text, "innerHTML");
  }
}
