// Line charts over the steps back from the blank, by uPlot, with logarithmic scales.

const HEIGHT = 280;
// uPlot draws no axis where it finds no step for its range, and of its own they end at 10³².
const WIDE = Array.from({ length: 300 }, (_, power) => 10 ** (power + 1));

/**
 * place: where it goes; series: [{name, colour, dash, values by step back}]; words: what stands there.
 * A chart whose names and lines are the same only gets new numbers.
 */
function lineChart(place, series, words, names) {
  const length = Math.max(...series.map((one) => one.values.length));
  const x = Array.from({ length }, (_, n) => n);
  const usable = (v) => (Number.isFinite(v) && v > 0 ? v : null);
  const rows = series.map((one) => x.map((n) => usable(one.values[n])));
  const all = rows.flat().filter((v) => v !== null);
  const low = 10 ** Math.floor(Math.log10(Math.min(...all, 0.5)) - 0.4), high = 10 ** Math.ceil(Math.log10(Math.max(...all, 2)) + 0.2);
  const key = JSON.stringify([names, series.map((one) => [one.name, one.colour]), colours["--ink"], innerWidth]);
  const old = place.drawn, drawn = old && old.key === key ? old : (place.drawn = { key });
  Object.assign(drawn, { series, words, x: [0, length - 1], y: [low, high] });
  if (drawn.chart) return drawn.chart.setData([x, ...rows]);
  if (old) old.chart.destroy();
  drawn.chart = new uPlot(chartOptions(place, drawn, names), [x, ...rows], place);
}

function chartOptions(place, drawn, names) {
  const font = "12px system-ui, sans-serif", side = (name) => ({ stroke: () => css(name), width: 1 });
  const axis = { stroke: () => css("--muted"), grid: side("--grid"), ticks: side("--line"), font, labelFont: font };
  return {
    width: place.clientWidth, height: HEIGHT,
    scales: { x: { time: false, range: () => drawn.x }, y: { distr: 3, range: () => drawn.y } },
    axes: [
      { ...axis, label: names.x, values: (_, at) => at.map((n) => (n === 0 ? names.start : Number.isInteger(n) ? n : "")), labelSize: 22 },
      { ...axis, incrs: WIDE, label: names.y, size: 64, labelSize: 20, splits: (_, i, from, to) => powers(from, to), filter: (_, at) => at, values: (_, at) => at.map(tick) },
    ],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    legend: { live: true },
    series: [
      { label: names.x, value: (_, n) => (n === null ? "–" : `${n}${drawn.words[n] ? ` (${drawn.words[n]})` : ""}`) },
      ...drawn.series.map((one, line) => ({
        label: one.name, stroke: one.colour, width: 2, dash: one.dash,
        value: (_, v, i, at) => (at === null ? "–" : number(drawn.series[line].values[at] ?? null, 3)),
      })),
    ],
    hooks: { draw: [(chart) => marks(chart, drawn.series)] },
  };
}

/** The whole powers of ten of a scale, or some of them where there are many. */
function powers(low, high) {
  const first = Math.round(Math.log10(low)), last = Math.round(Math.log10(high));
  const each = [1, 2, 4, 5, 10, 20, 50].find((n) => (last - first) / n <= 8) || 100, out = [];
  for (let p = Math.ceil(first / each) * each; p <= last; p += each) out.push(10 ** p);
  return out;
}

const tick = (value) => {
  const power = Math.round(Math.log10(value));
  return Math.abs(power) < 3 ? String(Number(value.toPrecision(1))) : number(value, 1).replace("1·", "");
};

/** A ring and the series' `mark` where a line ends, for the series that ask for it. */
function marks(chart, series) {
  const { ctx } = chart, ratio = devicePixelRatio;
  for (const one of series) {
    const value = one.values[one.end];
    if (one.end === undefined || !(value > 0) || !Number.isFinite(value)) continue;
    const x = chart.valToPos(one.end, "x", true), y = chart.valToPos(value, "y", true);
    ctx.save();
    ctx.strokeStyle = one.colour;
    ctx.fillStyle = css("--paper");
    ctx.lineWidth = 2 * ratio;
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.arc(x, y, 5 * ratio, 0, 7);
    ctx.fill();
    ctx.stroke();
    ctx.fillStyle = css("--ink");
    ctx.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    // Where no line runs: beside the ring, below it if a line passes above; at the right edge, on the
    // side from which its own line does not come.
    const room = x + 90 * ratio < chart.bbox.left + chart.bbox.width;
    const below = room ? series.some((other) => other.values[one.end + 2] > value) : value < one.values[Math.max(one.end - 4, 0)];
    ctx.textAlign = room ? "left" : "right";
    ctx.textBaseline = below ? "top" : "bottom";
    ctx.fillText(one.mark, x + (room ? 9 : below ? 4 : -9) * ratio, y + (below ? 9 : -5) * ratio);
    ctx.restore();
  }
}
