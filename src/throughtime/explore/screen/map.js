// The (t, k) map: drawn on a canvas, read by pointer, by arrow keys, and in words.

/**
 * place: holds canvas.cells and .cursor. told(row, column, byReader) is called
 * where the reader points, and where the numbers change under the pointer.
 * Returns show(data, pointing), which returns the top of the colours as a power of ten: data {rows, columns, value(row, column), column} with row 0 at the top;
 * with `pointing`, a cell is read out from the start: that of the last row and of `column`.
 */
function makeMap(place, told) {
  const canvas = place.querySelector("canvas"), cursor = place.querySelector(".cursor");
  let data = null, at = null, moved = false;
  const point = (row, column, byReader = true) => {
    if (!data) return;
    at = { row: clamp(row, data.rows), column: clamp(column, data.columns) };
    const wide = 100 / data.columns, high = 100 / data.rows;
    cursor.hidden = false;
    Object.assign(cursor.style, { left: `${at.column * wide}%`, top: `${at.row * high}%`, width: `${wide}%`, height: `${high}%` });
    told(at.row, at.column, byReader);
  };
  place.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    moved = true;
    if (data) point(Math.floor(((event.clientY - box.top) / box.height) * data.rows), Math.floor(((event.clientX - box.left) / box.width) * data.columns));
  });
  place.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move || !data) return;
    event.preventDefault();
    moved = true;
    const far = event.shiftKey ? 5 : 1;
    point(at.row + far * move[0], at.column + far * move[1]);
  });
  place.addEventListener("focus", () => at && point(at.row, at.column));
  return (shown, pointing = false) => {
    data = shown;
    const top = paint(canvas, data), shape = `${data.columns} / ${Math.max(data.rows, data.columns / 8)}`;
    if (place.shape !== shape) place.style.aspectRatio = place.shape = shape;
    if (!at || !moved) at = { row: data.rows - 1, column: data.column ?? 0 };
    if (pointing || !cursor.hidden) point(at.row, at.column, false);
    return top;
  };
}

const clamp = (n, size) => Math.min(Math.max(n, 0), size - 1);

/** The power of ten at which the map's colours end above: that of the largest number, at least 1. */
function topPower(data) {
  let top = 0;
  for (let r = 0; r < data.rows; r++) {
    for (let c = 0; c < data.columns; c++) {
      const value = data.value(r, c);
      if (value > 0 && Number.isFinite(value)) top = Math.max(top, Math.log10(value));
    }
  }
  return Math.ceil(top);
}

/** Paint a pixel a cell, and return the power of ten of the brightest. */
function paint(canvas, data) {
  const { rows, columns } = data, top = topPower(data), context = canvas.getContext("2d");
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const image = context.createImageData(columns, rows), pixels = new Uint32Array(image.data.buffer);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const value = data.value(r, c);
      if (value === null) continue; // the loss cannot reach it: see-through
      const bad = value !== value || value === Infinity, power = value > 0 ? Math.log10(value) : LEAST;
      pixels[r * columns + c] = bad ? BAD : shadeOf((power - LEAST) / (top - LEAST));
    }
  }
  context.putImageData(image, 0, 0);
  return top;
}

/** The same numbers as a table: a row a loss, a column a state. */
function fillMapTable(table, data, rowName, columnName) {
  const columns = Array.from({ length: data.columns }, (_, k) => k);
  const row = (r) => {
    const line = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row";
    head.textContent = rowName(r);
    line.append(head, ...columns.map((k) => {
      const cell = document.createElement("td"), value = data.value(r, k);
      cell.textContent = value === null ? "" : number(value);
      return cell;
    }));
    return line;
  };
  const top = document.createElement("tr");
  top.append(document.createElement("td"), ...columns.map((k) => {
    const head = document.createElement("th");
    head.scope = "col";
    head.textContent = columnName(k);
    return head;
  }));
  table.replaceChildren(top, ...Array.from({ length: data.rows }, (_, r) => row(r)));
}
