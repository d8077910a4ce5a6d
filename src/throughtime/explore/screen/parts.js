// What is drawn when: at once what the reader sees, and the rest once the sliders have come to rest.

const REST = 120; // milliseconds without an update

/**
 * parts: [{place, draw()}], place an element. Returns show(everything): the first time all is drawn, later,
 * unless `everything` is true, only the parts in sight or near it; `complete()` is called when all are.
 */
function makeParts(parts, complete) {
  const near = new Set(), stale = new Set();
  let begun = false, resting = 0;
  const draw = (part) => {
    stale.delete(part);
    part.draw();
    if (!stale.size) complete();
  };
  const rest = () => [...stale].forEach(draw);
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
  return (everything = !begun) => {
    begun = true;
    for (const part of parts) stale.add(part);
    for (const part of everything ? parts : near) draw(part);
    clearTimeout(resting);
    resting = setTimeout(rest, REST);
  };
}

/** Return soon(): `draw` is called once a frame at most. */
function oncePerFrame(draw) {
  let asked = false;
  const now = () => {
    asked = false;
    draw();
  };
  return () => {
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
