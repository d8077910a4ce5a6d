// The engine in a thread of its own: one message with the weights, then one for each setting.

function serve(scope) {
  let drawn = null;
  scope.onmessage = ({ data }) => {
    if (data.drawn) drawn = readDrawn(data.drawn);
    else scope.postMessage({ id: data.id, found: explore(drawn, data.settings, data.near, data.far) });
  };
}
