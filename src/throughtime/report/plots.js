// Unpacks the plotting library, which the page carries compressed, then draws every figure, in the
// reader's colour scheme, and again when that changes.
(function () {
  "use strict";
  var packed = document.getElementById("plotly-js").textContent;
  if (!window.DecompressionStream) {
    Array.prototype.forEach.call(document.querySelectorAll(".plot"), function (div) {
      div.textContent = "This browser cannot unpack the figures; any current one can.";
    });
    return;
  }
  var bytes = Uint8Array.from(atob(packed), function (c) { return c.charCodeAt(0); });
  var unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  new Response(unpacked).text().then(function (source) {
    var script = document.createElement("script");
    script.textContent = source;
    document.head.appendChild(script);
    drawAll();
  });

  function drawAll() {
  var read = function (id) { return JSON.parse(document.getElementById(id).textContent); };
  var templates = read("templates");
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var plots = Array.prototype.slice.call(document.querySelectorAll(".plot"));

  function draw(div) {
    if (!div.clientWidth) return Promise.resolve();  // folded away: drawn when it is unfolded
    var figure = read(div.id + "-data");
    // On a narrow screen a figure no taller than it is wide, and fewer ticks.
    var narrow = div.clientWidth < 560;
    var height = narrow ? Math.min(figure.height, Math.max(300, div.clientWidth * 1.05)) : figure.height;
    var layout = Object.assign({}, figure.layout, {
      template: templates[dark.matches ? "dark" : "light"], height: height, autosize: true
    });
    if (narrow) {
      layout.dragmode = false;  // a finger that scrolls the page must not zoom the figure
      layout.font = { size: 12 };
    }
    return Plotly.react(div, figure.data, layout, {
      responsive: true, displaylogo: false, displayModeBar: false
    }).then(function () { drawn.add(div); tell(); });
  }
  var drawn = new Set();
  function tell() { document.documentElement.dataset.drawn = String(drawn.size); }
  function all() { return Promise.all(plots.map(draw)); }
  all().then(tell);
  dark.addEventListener("change", all);
  // A page that changes its width without the window's doing so (a phone turned, a pane dragged).
  var widths = new WeakMap();
  var observer = new ResizeObserver(function (entries) {
    entries.forEach(function (entry) {
      var width = Math.round(entry.contentRect.width);
      if (widths.has(entry.target) && widths.get(entry.target) !== width) draw(entry.target);
      widths.set(entry.target, width);
    });
  });
  plots.forEach(function (div) { observer.observe(div); });
  }

  // A link to what is folded away unfolds it.
  function unfold() {
    var place = location.hash && document.getElementById(location.hash.slice(1));
    for (; place; place = place.parentElement) if (place.tagName === "DETAILS") place.open = true;
  }
  document.addEventListener("click", function (event) {
    var link = event.target.closest("a[href^='#']");
    var place = link && document.getElementById(link.getAttribute("href").slice(1));
    for (; place; place = place.parentElement) if (place.tagName === "DETAILS") place.open = true;
  });
  addEventListener("hashchange", unfold);
  unfold();
})();
