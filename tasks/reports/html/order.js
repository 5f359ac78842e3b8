"use strict";
// Filters and orders the answers. Reads what the page shows, writes only positions and `hidden`.
(() => {
  const tools = document.getElementById("tools");
  if (!tools) return;
  const filter = document.getElementById("filter");
  const order = document.getElementById("order");
  const found = document.getElementById("found");
  const groups = [...document.querySelectorAll("section.group")].map((section) => ({
    section,
    rows: [...section.querySelectorAll("article")].map((row) => ({
      row,
      text: row.textContent.toLowerCase(),
      scores: row.dataset.scores.split(" ").map(Number),
    })),
  }));

  // A row without that score ("none", read as NaN) stands at the low end.
  const value = (row, place) => (Number.isFinite(row.scores[place]) ? row.scores[place] : -Infinity);

  function show() {
    const words = filter.value.toLowerCase().trim();
    const sign = order.value.startsWith("-") ? -1 : 1;
    const place = order.value.slice(1);
    let shown = 0;
    for (const { section, rows } of groups) {
      const ordered = place
        ? [...rows].sort((a, b) => sign * (value(a, place) - value(b, place) || 0))
        : rows;
      let here = 0;
      for (const { row, text } of ordered) {
        row.hidden = !text.includes(words);
        here += row.hidden ? 0 : 1;
        section.append(row);
      }
      section.hidden = here === 0;
      shown += here;
    }
    found.textContent = words ? `${shown} rows` : "";
  }

  filter.addEventListener("input", show);
  order.addEventListener("change", show);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
})();
