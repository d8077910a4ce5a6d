// The page in a frame of the notebook: what is set there is told here, and the other way round.

const SETTINGS = ["cell", "gain", "bias", "nonlinearity", "stop"];

function render({ model, el }) {
  const frame = document.createElement("iframe");
  Object.assign(frame, { title: "throughtime explore", srcdoc: model.get("html") });
  Object.assign(frame.style, { width: "100%", height: `${model.get("height")}px`, border: "0" });
  let telling = false; // what the page says must not be said back to it: it may have moved on

  const fromPage = ({ source, data }) => {
    if (source !== frame.contentWindow || !data || !data.throughtime) return;
    telling = true;
    if (data.throughtime === "settings") SETTINGS.forEach((name) => model.set(name, data.settings[name]));
    if (data.throughtime === "found") {
      for (const name of ["near", "far"]) model.set(name, Number.isFinite(data[name]) ? data[name] : null);
    }
    model.save_changes();
    telling = false;
  };
  const toPage = () => {
    if (telling) return;
    const settings = Object.fromEntries(SETTINGS.map((name) => [name, model.get(name)]));
    frame.contentWindow.postMessage({ throughtime: "set", settings }, "*");
  };

  addEventListener("message", fromPage);
  for (const name of SETTINGS) model.on(`change:${name}`, toPage);
  el.append(frame);
  return () => {
    removeEventListener("message", fromPage);
    for (const name of SETTINGS) model.off(`change:${name}`, toPage);
  };
}

export default { render };
