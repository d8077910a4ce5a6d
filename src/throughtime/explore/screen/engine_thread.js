// Asks the engine, in a Web Worker made from this page's own text; only the newest wish is kept.

/** Return ask(wish); answer(found, id) is called for each wish that was computed. */
function startEngine(text, drawn, answer) {
  let busy = null, waiting = null, port = null;
  const send = (wish) => {
    busy = wish;
    port.postMessage(wish);
  };
  const start = (opened) => {
    port = opened;
    port.onmessage = ({ data }) => {
      busy = null;
      answer(data.found, data.id);
      if (waiting) send(waiting), (waiting = null);
    };
    port.postMessage({ drawn });
    if (busy) send(busy);
  };
  const here = () => start(thisThread(text));
  try {
    const url = URL.createObjectURL(new Blob([text + "\nserve(self);"], { type: "text/javascript" }));
    start(new Worker(url));
    port.onerror = here; // some pages forbid workers, and say so late
  } catch {
    here();
  }
  return (wish) => (busy ? (waiting = wish) : send(wish));
}

/** The engine in this thread, spoken to as a worker is. */
function thisThread(text) {
  const port = { postMessage: (data) => setTimeout(() => inside.onmessage({ data }), 0) };
  const inside = { postMessage: (data) => port.onmessage({ data }) };
  new Function("scope", text + "\nserve(scope);")(inside);
  return port;
}
