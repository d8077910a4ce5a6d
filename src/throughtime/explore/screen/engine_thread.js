// Asks the engine, in a Web Worker made from this page's own text; only the newest wish is kept.

/** answer(found, id) is called for each setting that was computed. */
function startEngine(text, drawn, answer) {
  let busy = false, waiting = null;
  const port = openPort(text);
  port.onmessage = ({ data }) => {
    busy = false;
    answer(data.found, data.id);
    if (waiting) send(waiting), (waiting = null);
  };
  port.postMessage({ drawn });
  const send = (wish) => {
    busy = true;
    port.postMessage(wish);
  };
  return (wish) => (busy ? (waiting = wish) : send(wish));
}

/** A worker; where a page may have none (some notebooks forbid it), the same in this thread. */
function openPort(text) {
  try {
    const url = URL.createObjectURL(new Blob([text + "\nserve(self);"], { type: "text/javascript" }));
    return new Worker(url);
  } catch {
    const port = { postMessage: (data) => setTimeout(() => inside.onmessage({ data }), 0) };
    const inside = { postMessage: (data) => port.onmessage({ data }) };
    new Function("scope", text + "\nserve(scope);")(inside);
    return port;
  }
}
