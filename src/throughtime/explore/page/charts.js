// Line charts over the steps back from the blank, by uPlot, with logarithmic scales.

const HEIGHT = 280;

/**
 * place: where it goes; series: [{name, colour, dash, values by step back}]; words: what stands there.
 * Returns the chart; `redraw` below makes it anew, since a switch of language changes every name.
 */
function lineChart(place, series, words, names) {
  const length = Math.max(...series.map((one) => one.values.length));
  const x = Array.from({ length }, (_, n) => n);
  const usable = (v) => (Number.isFinite(v) && v > 0 ? v : null);
  const rows = series.map((one) => x.map((n) => usable(one.values[n])));
  const all = rows.flat().filter((v) => v !== null);
  const low = Math.min(...all, 0.5), high = Math.max(...all, 2);
  place.replaceChildren();
  const axis = { stroke: () => css("--muted"), grid: { stroke: () => css("--grid"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1 }, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
  const options = {
    width: place.clientWidth, height: HEIGHT,
    scales: { x: { time: false, range: [0, length - 1] }, y: { distr: 3, range: [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high))] } },
    axes: [
      { ...axis, label: names.x, values: (_, at) => at.map((n) => (Number.isInteger(n) ? n : "")), labelSize: 22 },
      { ...axis, label: names.y, size: 64, labelSize: 20, splits: (_, i, from, to) => powers(from, to), filter: (_, at) => at, values: (_, at) => at.map(tick) },
    ],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    legend: { live: true },
    series: [
      { label: names.x, value: (_, n) => (n === null ? "–" : `${n}${words[n] ? ` (${words[n]})` : ""}`) },
      ...series.map((one) => ({
        label: one.name, stroke: one.colour, width: 2, dash: one.dash, points: { show: length < 3 },
        value: (_, v, i, at) => (at === null ? "–" : number(one.values[at] ?? null, 3)),
      })),
    ],
    hooks: { draw: [(chart) => marks(chart, series)] },
  };
  return new uPlot(options, [x, ...rows], place);
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

/** A ring with "John" where a line ends, for the series that ask for it. */
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
    const room = x + 60 * ratio < chart.bbox.left + chart.bbox.width;
    ctx.textAlign = room ? "left" : "right";
    ctx.textBaseline = "bottom";
    ctx.fillText("John", x + (room ? 9 : -9) * ratio, y - 5 * ratio);
    ctx.restore();
  }
}
