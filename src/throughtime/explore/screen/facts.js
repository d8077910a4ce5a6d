// What the sentences speak of, from what the engine found.

function factsOf(found, near, far) {
  const { T } = found, k = far.mention, lag = T - k, nearLag = near.words.length - near.mention;
  const arrives = found.map.subarray((T - 1) * (T + 1), T * (T + 1)); // of the last loss, by k
  const steps = Array.from(found.stepNorms).slice(k + 1, T + 1);
  const farValue = arrives[k], beta = found.gain && found.gain.betaW * found.gain.betaF;
  return {
    T, k, lag, nearLag, arrives, near: found.near[near.mention], far: farValue, gain: found.gain,
    perStep: farValue > 0 && Number.isFinite(farValue) ? farValue ** (1 / lag) : null,
    least: Math.min(...steps), most: Math.max(...steps), J: found.stepNorms[T], S: found.S,
    product: found.product[k], tight: found.tight[k], loose: beta === null ? null : beta ** lag, beta,
    verdict: farValue !== farValue || farValue === Infinity ? "broken"
      : farValue < 1e-3 ? "vanishes" : farValue < 0.1 ? "fades" : farValue < 3 ? "holds" : farValue < 100 ? "grows" : "explodes",
  };
}

/** By steps back from the blank instead of by k. */
const backwards = (values, since = 0) => Array.from(values).slice(since).reverse();

/** The columns of the table of all numbers, one row a step back. */
function tableRows(found, facts, far) {
  return Array.from({ length: facts.T + 1 }, (_, back) => {
    const k = facts.T - back;
    return [
      back, k ? far.words[k - 1] : "", back ? facts.arrives[k] / facts.arrives[k + 1] : null, facts.arrives[k],
      k ? found.stepNorms[k] : null, found.product[k], found.tight[k], facts.beta === null ? null : facts.beta ** back,
      found.float32.norms[k], found.half.norms[k],
    ];
  });
}

/** One sentence on where a format's numbers end. */
function formatSentence(name, of, far, say) {
  const word = (k) => (k ? far.words[k - 1] : say.start);
  const at = (place) => say[place.way === "forward" ? "placeForward" : "placeBackward"](word(place.step), place.step);
  if (of.inf || of.nan) {
    return (of.inf ? say.formatInf(name, at(of.inf)) : `<b>${name}</b>`) + (of.nan ? say.formatNan(at(of.nan)) : say.formatNoNan);
  }
  return of.zero === null ? say.formatFine(name) : say.formatZero(name, say.place(word(of.zero), of.zero));
}
