// Equations are typeset by KaTeX, which lies beside this file and is loaded where there are any.
(function () {
  var places = document.querySelectorAll(".arithmatex");
  if (!places.length) return;
  var katex = new URL("../katex/", document.currentScript.src);

  function add(name, attributes) {
    var element = document.createElement(name);
    Object.keys(attributes).forEach(function (key) { element[key] = attributes[key]; });
    document.head.appendChild(element);
    return element;
  }

  function typeset() {
    places.forEach(function (place) {
      var text = place.textContent.trim();
      window.katex.render(text.slice(2, -2), place, {
        displayMode: text.slice(0, 2) === "\\[", throwOnError: false, strict: "ignore"
      });
    });
    document.documentElement.dataset.typeset = places.length;
    if (location.hash) {  // the page has moved under the reader
      var target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (target) target.scrollIntoView();
    }
  }

  add("link", { rel: "stylesheet", href: new URL("katex.min.css", katex).href });
  add("script", { src: new URL("katex.min.js", katex).href, onload: typeset });
})();
