// The two texts, each word shaded by how much of the correction arrives there.

const DECADES = 4; // one part in ten thousand is paper-white: what "next to nothing" looks like

/** reading: {words, mention}; arrives: by k, or null before the first answer. */
function showSentence(place, reading, arrives, say) {
  place.replaceChildren();
  reading.words.forEach((word, n) => {
    const value = arrives ? arrives[n + 1] : 0, span = document.createElement("span");
    span.className = n + 1 === reading.mention ? "word john" : "word";
    if (!Number.isFinite(value)) span.classList.add("broken");
    else if (value >= 1.5) {
      span.classList.add("over");
      span.style.setProperty("--over", Math.min(Math.log10(value) / DECADES, 1).toFixed(3));
    }
    const strength = value > 0 ? Math.min(Math.max(1 + Math.log10(value) / DECADES, 0), 1) : 0;
    span.style.setProperty("--strength", strength.toFixed(3));
    span.title = `${word}: ${number(value, 3)}`;
    span.textContent = word;
    place.append(span, /^[.,]$/.test(reading.words[n + 1] || "") ? "" : " ");
  });
  const blank = document.createElement("span");
  blank.className = "blank";
  blank.textContent = "\u00a0";
  const answer = document.createElement("span");
  answer.className = "answer";
  answer.lang = document.documentElement.lang;
  answer.textContent = say.answer;
  place.append(blank, answer);
}

/** The factors from the blank back to John, as a list. */
function showFactors(list, reading, arrives) {
  const T = reading.words.length;
  list.replaceChildren();
  for (let k = T - 1; k >= reading.mention; k--) {
    const factor = arrives[k] / arrives[k + 1], item = document.createElement("li");
    const word = k === reading.mention ? "word john" : "word";
    item.className = factor < 1 ? "less" : "more";
    item.innerHTML = `<span class="${word}"></span><span class="factor">×${number(factor)}</span><span class="left">${number(arrives[k])}</span>`;
    item.firstChild.textContent = reading.words[k - 1];
    list.append(item);
  }
}
