// The two texts, each word shaded by how much of the correction arrives there.

const DECADES = 4; // one part in ten thousand is paper-white: what "next to nothing" looks like

/** reading: {words, mention}; arrives: by k. The words are laid out once for each text. */
function showSentence(place, reading, arrives, say) {
  if (place.reading !== reading || place.say !== say) laySentence(place, reading, say);
  place.arrives = arrives;
  place.spans.forEach((span, n) => {
    const value = arrives[n + 1], john = n + 1 === reading.mention ? "word john" : "word";
    const kind = !Number.isFinite(value) ? `${john} broken` : value >= 1.5 ? `${john} over` : john;
    const strength = value > 0 ? Math.min(Math.max(1 + Math.log10(value) / DECADES, 0), 1) : 0;
    const shade = value >= 1.5 ? Math.min(Math.log10(value) / DECADES, 1) : strength, key = kind + shade.toFixed(3);
    if (span.key === key) return;
    span.key = key;
    span.className = kind;
    span.style.setProperty(value >= 1.5 ? "--over" : "--strength", shade.toFixed(3));
  });
}

function laySentence(place, reading, say) {
  place.reading = reading;
  place.say = say;
  place.spans = reading.words.map((word) => Object.assign(document.createElement("span"), { textContent: word }));
  const blank = Object.assign(document.createElement("span"), { className: "blank", textContent: "\u00a0" });
  const answer = Object.assign(document.createElement("span"), { className: "answer", textContent: say.answer, lang: document.documentElement.lang });
  const gap = (n) => (/^[.,]$/.test(reading.words[n + 1] || "") ? "" : " ");
  place.replaceChildren(...place.spans.flatMap((span, n) => [span, gap(n)]), blank, answer);
  place.onpointerover = ({ target }) => {
    const n = place.spans.indexOf(target);
    if (n >= 0) target.title = `${reading.words[n]}: ${number(place.arrives[n + 1], 3)}`;
  };
}

/** The factors from the blank back to John, as a list. */
function showFactors(list, reading, arrives) {
  const T = reading.words.length, lag = T - reading.mention;
  while (list.children.length > lag) list.lastChild.remove();
  while (list.children.length < lag) {
    const item = document.createElement("li");
    item.innerHTML = `<span></span><span class="factor"></span><span class="left"></span>`;
    list.append(item);
  }
  for (let n = 0; n < lag; n++) {
    const k = T - 1 - n, factor = arrives[k] / arrives[k + 1], item = list.children[n], [word, times, left] = item.children;
    item.className = factor < 1 ? "less" : "more";
    word.className = k === reading.mention ? "word john" : "word";
    write(word, reading.words[k - 1]);
    write(times, `×${number(factor)}`);
    write(left, number(arrives[k]));
  }
}
