// Asks the engine, in a Web Worker made from this page's own text; only the newest wish is kept.

/** Return ask(wish); answer(found, wish) is called for each wish that was computed. */
function startEngine(text, drawn, answer) {
  let busy = null, waiting = null, port = null;
  const send = (wish) => {
    busy = wish;
    port.postMessage(wish);
  };
  const start = (opened) => {
    port = opened;
    port.onmessage = ({ data }) => {
      const done = busy;
      busy = null;
      if (waiting) send(waiting), (waiting = null); // the engine goes on while this page draws
      answer(data.found, done);
    };
    port.postMessage({ drawn });
    if (busy) send(busy);
  };
  let moved = false;
  const here = () => {
    if (moved) return; // a worker may fail once for each message
    moved = true;
    start(thisThread(text));
  };
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
