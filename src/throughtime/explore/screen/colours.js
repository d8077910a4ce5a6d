// Colours: of the map (viridis, readable by colour-blind eyes) and of the charts, from the page's CSS.

const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
  .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const LEAST = -8; // of the map: powers of ten below are drawn like this one

/** The colour of a number between 0 and 1. */
function viridis(x) {
  const place = Math.min(Math.max(x, 0), 1) * (VIRIDIS.length - 1), i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[i].map((c, n) => Math.round(c + (place - i) * (VIRIDIS[i + 1][n] - c)));
}

// The same as pixels: red in the lowest byte, as ImageData has it on every machine that runs a browser.
const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const BAD = pixel([194, 65, 140]); // inf and NaN
const SHADES = Uint32Array.from({ length: 512 }, (_, n) => pixel(viridis(n / 511)));
const shadeOf = (x) => SHADES[Math.round(Math.min(Math.max(x, 0), 1) * 511)];

// Read once for each colour scheme: to ask the page for a style lays it out anew.
let colours = {};

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["--ink", "--muted", "--line", "--grid", "--paper", "--far", "--near", "--tight", "--half"]) {
    colours[name] = style.getPropertyValue(name).trim();
  }
}

const css = (name) => colours[name];
