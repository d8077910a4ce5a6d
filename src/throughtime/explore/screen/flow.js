// A flow of the reader's own: what throughtime.explore.flow_data or Flow.to_dict(norms=True) wrote.

/** Return {layers, names} of a file's data, or throw an Error whose message is a key of flowErrors. */
function readFlow(data) {
  const mine = data && data.format === "throughtime.explore";
  const flow = mine ? data.flow : data;
  if (!flow || flow.format !== "throughtime.flow") throw new Error("format");
  if (flow.version !== 1 || (mine && data.version !== 1)) throw new Error("version");
  const layers = Object.entries(flow.layers).map(([name, layer]) => {
    if (!layer.norms) throw new Error("norms");
    const beside = (mine && data.layers[name]) || {};
    if (!whole(layer, beside)) throw new Error("broken");
    return { name, row: (mine && data.row) || 0, ...layer, ...beside };
  });
  if (!layers.length) throw new Error("broken");
  return layers;
}

/** Whether every list is as long as the others say, of what it should be: what is shown later then finds its numbers. */
function whole({ T, norms, enters, loss_index: losses }, { words, singular_values: singular, weight_terms: terms }) {
  const V = norms.length, matches = (list, length, fits) => Array.isArray(list) && list.length === length && list.every(fits);
  const measured = (x) => typeof x === "number" || ["inf", "-inf", "nan"].includes(x);
  const step = (e) => Number.isInteger(e) && e >= 0 && e <= T;
  return T >= 1 && V >= 1 && matches(enters, V, (e) => step(Array.isArray(e) ? e[0] : e)) && matches(losses, V, Number.isInteger)
    && matches(norms, V, (row) => matches(row, T + 1, (x) => measured(Array.isArray(x) ? x[0] : x)))
    && (!words || matches(words, T, (word) => typeof word === "string")) && (!singular || singular.length === T)
    && Object.values(terms || {}).every((all) => matches(all, V, (row) => matches(row, T, measured)));
}

const asNumber = (x) => (typeof x === "string" ? Number(x.replace("inf", "Infinity")) : x);

/** What the map shows of a layer: a loss a row, a state s_k a column; empty after the loss. */
function flowMap(layer) {
  const of = (v, k) => asNumber(Array.isArray(layer.norms[v][k]) ? layer.norms[v][k][0] : layer.norms[v][k]);
  const enters = layer.enters.map((e) => (Array.isArray(e) ? e[0] : e));
  let most = 0;
  layer.norms.forEach((row, v) => row.forEach((_, k) => (most = of(v, k) > most && Number.isFinite(of(v, k)) ? of(v, k) : most)));
  return {
    rows: layer.norms.length, columns: layer.T + 1, column: 0,
    value: (v, k) => (k > enters[v] ? null : of(v, k) / (most || 1)),
    raw: of, enters,
  };
}

/** The sentences on one cell of it: words, singular values, weight terms, as far as they are given. */
function flowSentences(layer, shown, v, k, say) {
  const name = (step) => {
    const word = layer.words && layer.words[step - 1];
    return step === 0 ? say.start : word ? say.flowWord(word, step) : say.flowStep(step);
  };
  const loss = layer.loss_index[v], enters = shown.enters[v];
  if (!enters) return [say.flowNever(loss)];
  if (k > enters) return [say.flowAfter({ loss, at: name(enters), to: name(k) })];
  const lines = [say.flowCell({ loss, at: name(enters), to: name(k), value: shown.raw(v, k) })];
  const singular = layer.singular_values && layer.singular_values[k - 1];
  if (singular) lines.push(say.flowSingular(singular.map(asNumber)));
  const terms = k > 0 ? Object.entries(layer.weight_terms || {}).map(([n, all]) => [n, asNumber(all[v][k - 1])]) : [];
  if (terms.length) lines.push(say.flowTerms(terms, layer.B > 1));
  const missing = [singular || k === 0 ? "" : say.flowValues, terms.length || k === 0 ? "" : say.flowWeights].filter(Boolean);
  if (missing.length) lines.push(say.flowMissing(missing));
  return lines;
}
