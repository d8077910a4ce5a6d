// What is drawn when: at once what the reader sees, and the rest once the sliders have come to rest.

const REST = 120; // milliseconds without an update

/**
 * parts: [{place, draw(shown)}], place an element. Returns show(shown, everything): the first time all is drawn,
 * later, unless `everything` is true, only the parts in sight or near it; `complete(shown)` is called when all are.
 */
function makeParts(parts, complete) {
  const near = new Set(), stale = new Set();
  let shown = null, resting = 0;
  const draw = (part) => {
    stale.delete(part);
    part.draw(shown);
    if (!stale.size) complete(shown);
  };
  const rest = () => shown && [...stale].forEach(draw);
  const watcher = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      for (const part of parts.filter(({ place }) => place === target)) {
        if (!isIntersecting) near.delete(part);
        else if (near.add(part) && stale.has(part)) draw(part);
      }
    }
  }, { rootMargin: "100px" });
  for (const place of new Set(parts.map((part) => part.place))) watcher.observe(place);
  addEventListener("beforeprint", rest);
  return (given, everything = shown === null) => {
    shown = given;
    for (const part of parts) stale.add(part);
    for (const part of everything ? parts : near) draw(part);
    clearTimeout(resting);
    resting = setTimeout(rest, REST);
  };
}

/** Return soon(value): `draw` is called with the newest value, once a frame at most. */
function oncePerFrame(draw) {
  let newest = null, asked = false;
  const now = () => {
    asked = false;
    draw(newest);
  };
  return (value) => {
    newest = value;
    if (asked) return;
    asked = true;
    if (document.hidden) setTimeout(now, 0); // such a page is given no frames
    else requestAnimationFrame(now);
  };
}

/** Write a text or HTML where it is another than what stands there. */
function write(element, text, as = "textContent") {
  if (element.written === text && element.writtenAs === as) return;
  element[as] = element.written = text;
  element.writtenAs = as;
}
