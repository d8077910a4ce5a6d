// The page: its controls, what it asks of the engine, and what it shows of the answer.

const $ = (id) => document.getElementById(id);
const LANGUAGES = { en: ENGLISH, zh: CHINESE };
const PRESETS = {
  start: { cell: "Elman", gain: 1, bias: 0, nonlinearity: "tanh", stop: 5 },
  gate: { cell: "LSTM", bias: 4, gain: 1 },
  flat: { cell: "Elman", nonlinearity: "sigmoid", gain: 1 },
  more: { cell: "Elman", nonlinearity: "tanh", gain: 2 },
  explode: { cell: "Elman", nonlinearity: "identity", gain: 2.5 },
};

function startExplorer(data) {
  const state = { ...data.settings }, near = data.readings[0];
  let say = LANGUAGES[data.language], found = null, asked = 0, layers = [], layer = null, flowShown = null, flowWrong = "", speaking = 0, facts = null;
  const far = () => data.readings[state.stop]; // where the slider stands
  const reading = () => data.readings[found.stop]; // what the answer is about
  const cells = makeMap($("map"), sayCell), flowCells = makeMap($("flow-map"), sayFlowCell);
  layEquations($("equations"));

  const ask = startEngine($("engine").textContent, data.drawn, (answer, wish) => {
    const { id, stop, settings } = wish;
    found = { ...answer, id, stop, settings, S: settings.cell === "LSTM" ? 64 : 32 };
    facts = factsOf(found, near, reading());
    parent !== window && parent.postMessage({ throughtime: "found", near: facts.near, far: facts.far }, "*");
    drawSoon();
  });
  const parts = makeParts([
    { place: $("stage"), draw: showTexts },
    { place: $("equations"), draw: () => sayEquations(say, facts, found.settings.cell) },
    { place: $("left-chart"), draw: showLeft },
    { place: $("factors"), draw: () => showFactors($("factors"), reading(), facts.arrives) },
    { place: $("bound-chart"), draw: showBound },
    { place: $("map"), draw: showMap },
    { place: $("formats"), draw: showFormats },
    { place: $("table-details"), draw: showTable },
    { place: $("map-details"), draw: showMapTable },
  ], () => (document.documentElement.dataset.complete = found.id));
  const drawSoon = oncePerFrame(draw);

  function change(settings) {
    Object.assign(state, settings);
    layControls();
    document.documentElement.dataset.asked = asked += 1;
    const { cell, gain, bias, nonlinearity } = state;
    ask({ id: asked, stop: state.stop, settings: { cell, gain, bias, nonlinearity }, near: near.numbers, far: far().numbers });
    parent !== window && parent.postMessage({ throughtime: "settings", settings: { ...state } }, "*");
  }

  function layControls() {
    for (const radio of document.querySelectorAll("[name=cell]")) radio.checked = radio.value === state.cell;
    const simple = state.cell === "Elman";
    $("gain").value = state.gain;
    $("gain-value").textContent = state.gain.toFixed(2);
    $("bias").value = state.bias;
    $("bias").disabled = simple;
    $("bias-value").textContent = simple ? "–" : state.bias.toFixed(2).replace("-", "−");
    $("bias-help").textContent = simple ? say.biasNone : say.biasHelp;
    $("stop").value = state.stop;
    $("stop").setAttribute("aria-valuetext", `${far().between}`);
    $("stop-value").textContent = far().between;
    $("stop-help").textContent = say.wordsHelp(near.words.length - near.mention, far().between);
    for (const button of document.querySelectorAll("[data-preset]")) {
      const wanted = Object.entries(PRESETS[button.dataset.preset]);
      button.setAttribute("aria-pressed", wanted.every(([name, value]) => state[name] === value));
    }
    $("nonlinearity").value = simple ? state.nonlinearity : ""; // no curve of the list is a gated cell's
    $("nonlinearity").disabled = !simple;
    $("nonlinearity-help").textContent = simple ? say.nonlinearityHelp : say.nonlinearityNone;
  }

  function draw() {
    parts();
    document.documentElement.dataset.milliseconds = found.milliseconds;
    document.documentElement.dataset.shown = found.id;
  }

  function showTexts() {
    showSentence($("near-words"), near, found.near, say);
    showSentence($("far-words"), reading(), facts.arrives, say);
    put("near-arrives", facts.near, share(facts.near, say));
    put("far-arrives", facts.far, share(facts.far, say));
    write($("near-of"), say.ofCorrection(facts.near));
    write($("far-of"), say.ofCorrection(facts.far));
    write($("near-lag"), say.crosses(facts.nearLag));
    write($("far-lag"), say.crosses(facts.lag));
    write($("summary"), say.summary({ ...facts, verdict: say.verdicts[facts.verdict] }));
    clearTimeout(speaking); // a screen reader hears where the slider came to rest
    speaking = setTimeout(() => write($("spoken"), $("summary").textContent), 500);
    $("summary").dataset.verdict = facts.verdict;
    write($("computed"), say.computed(found.milliseconds));
  }

  function put(id, value, text) {
    $(id).dataset.value = value;
    write($(id), text);
  }

  const wordsBack = () => Array.from({ length: facts.T + 1 }, (_, n) => (n < facts.T ? reading().words[facts.T - n - 1] : ""));
  const names = (y) => ({ x: say.stepsBack, y, start: say.blank });

  function showLeft() {
    lineChart($("left-chart"), [
      { name: say.leftFar, colour: css("--far"), values: backwards(facts.arrives).slice(0, facts.lag + 1), end: facts.lag, mark: say.farJohn },
      { name: say.leftNear, colour: css("--near"), dash: [8, 5], values: backwards(found.near).slice(0, facts.nearLag + 1), end: facts.nearLag, mark: say.nearJohn },
    ], wordsBack(), names(say.leftY));
  }

  function showBound() {
    const until = facts.lag + 1, words = wordsBack();
    lineChart($("bound-chart"), [
      { name: say.boundTruth, colour: css("--far"), values: backwards(found.product).slice(0, until), end: facts.lag, mark: "John" },
      { name: say.boundTight, colour: css("--tight"), dash: [3, 4], values: backwards(found.tight).slice(0, until) },
      ...(facts.beta === null ? [] : [{ name: say.boundLoose, colour: css("--near"), dash: [9, 5], values: words.map((_, n) => facts.beta ** n).slice(0, until) }]),
    ], words, names(say.boundY));
  }

  function showMap() {
    const top = cells(mapData(found), true);
    $("map-john").style.left = `${(100 * (near.mention + 0.5)) / (found.T + 1)}%`;
    write($("map-top"), say.mapHigh(number(10 ** top, 1).replace("1·", "")));
  }

  function showFormats() {
    write($("format-float32"), formatSentence(say.float32, found.float32, reading(), say), "innerHTML");
    write($("format-half"), formatSentence(say.half, found.half, reading(), say), "innerHTML");
    lineChart($("formats-chart"), [
      { name: say.exact, colour: css("--muted"), values: backwards(facts.arrives) },
      { name: say.float32, colour: css("--far"), dash: [9, 5], values: backwards(found.float32.norms) },
      { name: say.half, colour: css("--half"), dash: [3, 3], values: backwards(found.half.norms) },
    ], wordsBack(), names(say.formatsY));
  }

  function mapData({ map, T }) {
    return { rows: T, columns: T + 1, column: near.mention, value: (r, k) => (k > r + 1 ? null : map[r * (T + 1) + k]) };
  }

  function sayCell(row, k, byReader) {
    const t = row + 1, words = reading().words;
    $("map-cell").setAttribute("aria-live", byReader ? "polite" : "off"); // a dragged slider is not read out here
    if (k > t) return write($("map-cell"), say.mapAfter(words[k - 1], words[t - 1]));
    const cell = { t, k, from: t === words.length ? say.atBlank : say.quoted(words[t - 1]), to: words[k - 1], value: found.map[row * (found.T + 1) + k] };
    write($("map-cell"), k ? say.mapCell(cell) : say.mapStart(cell));
  }

  function showTable() {
    if (!$("table-details").open) return;
    $("table-head").innerHTML = say.tableHeads.map((head) => `<th scope="col">${head}</th>`).join("");
    $("table-body").innerHTML = tableRows(found, facts, reading()).map(([back, word, ...rest]) =>
      `<tr${facts.T - back === facts.k ? ' class="john"' : ""}><td class="number">${back}</td><th scope="row">${word}</th>` +
      rest.map((x) => `<td class="number">${number(x, 3)}</td>`).join("") + "</tr>").join("");
  }

  function showMapTable() {
    const word = (k) => `${k} ${k ? reading().words[k - 1] : say.start}`;
    if (found && $("map-details").open) fillMapTable($("map-table"), mapData(found), (row) => word(row + 1), word);
  }

  function showFlowTable() {
    if (!layer || !$("flow-details").open) return;
    const word = (k) => `${k} ${k === 0 ? say.start : (layer.words && layer.words[k - 1]) || ""}`;
    const numbers = { ...flowShown, value: (v, k) => (k > flowShown.enters[v] ? null : flowShown.raw(v, k)) };
    fillMapTable($("flow-table"), numbers, (v) => word(flowShown.enters[v]), word);
  }

  function openFlow(text) {
    flowWrong = "";
    try {
      let parsed;
      try { parsed = typeof text === "string" ? JSON.parse(text) : text; } catch { throw new Error("json"); }
      layers = readFlow(parsed);
      $("flow-layer").replaceChildren(...layers.map((one, n) => new Option(one.name, n)));
      $("flow-open").hidden = false;
      showFlow(0);
    } catch (error) {
      flowWrong = error.message in say.flowErrors ? error.message : "broken";
      layer = null;
      $("flow-open").hidden = true;
    }
    sayFlowWrong();
  }

  const sayFlowWrong = () => write($("flow-said"), flowWrong && say.flowErrors[flowWrong]);

  async function pickFlow() {
    const [file] = $("flow-file").files;
    if (file) openFlow(await file.text().catch(() => ""));
  }

  function showFlow(n) {
    layer = layers[n];
    flowShown = flowMap(layer);
    $("flow-kind").textContent = `${layer.kind}, T = ${layer.T}, S = ${layer.S}` + (layer.B > 1 ? say.flowRow(layer.row, layer.B) : "");
    flowCells(flowShown);
    showFlowTable();
    sayFlowCell(flowShown.rows - 1, Math.max(flowShown.enters[flowShown.rows - 1] - 1, 0));
  }

  function sayFlowCell(v, k) {
    $("flow-cell").innerHTML = "";
    for (const line of flowSentences(layer, flowShown, v, k, say)) $("flow-cell").append(Object.assign(document.createElement("p"), { textContent: line }));
  }

  function speak(language) {
    say = LANGUAGES[language];
    document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
    document.title = say.title;
    for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", button.dataset.language === language);
    for (const element of document.querySelectorAll("[data-say]")) {
      element.innerHTML = element.dataset.say.split(".").reduce((words, key) => words[key], say);
    }
    for (const element of document.querySelectorAll("[data-label]")) {
      const chart = element.classList.contains("chart");
      element.setAttribute("aria-label", say[element.dataset.label] + (chart ? say.chartTable : ""));
    }
    layControls();
    if (found) parts(true);
    if (layer) showFlow(layers.indexOf(layer));
    sayFlowWrong();
  }

  function listen() {
    for (const name of ["gain", "bias", "stop"]) $(name).addEventListener("input", () => change({ [name]: Number($(name).value) }));
    $("nonlinearity").addEventListener("change", () => change({ nonlinearity: $("nonlinearity").value }));
    for (const radio of document.querySelectorAll("[name=cell]")) radio.addEventListener("change", () => change({ cell: radio.value }));
    for (const button of document.querySelectorAll("[data-preset]")) button.addEventListener("click", () => change(PRESETS[button.dataset.preset]));
    for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => speak(button.dataset.language));
    $("table-details").addEventListener("toggle", () => found && showTable());
    $("map-details").addEventListener("toggle", showMapTable);
    $("flow-details").addEventListener("toggle", showFlowTable);
    $("flow-file").addEventListener("change", pickFlow);
    $("flow-file").addEventListener("click", () => ($("flow-file").value = "")); // the same file, written anew
    $("flow-layer").addEventListener("change", () => showFlow(Number($("flow-layer").value)));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (readColours(), found && drawSoon()));
    let wide = innerWidth;
    addEventListener("resize", () => innerWidth !== wide && found && ((wide = innerWidth), drawSoon()));
    addEventListener("message", ({ data: told }) => {
      if (told && told.throughtime === "set" && Object.keys(told.settings).some((name) => told.settings[name] !== state[name])) change(told.settings);
    });
  }

  readColours();
  listen();
  speak(data.language);
  if (data.flow) {
    openFlow(data.flow);
    document.querySelector("main").prepend($("own-flow")); // it is what the reader came for
  }
  change({});
}
