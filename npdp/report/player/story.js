// The stage of a story: a table of who has what, cell by cell, and a sentence for each step.
"use strict";

function drawStory() {
  const { at } = state, shown = at ? playback.steps[at - 1] : playback.beginning;
  const before = at > 1 ? playback.steps[at - 2] : playback.beginning;
  const head = element("tr", {}, element("th"), ...playback.columns.map((name) => element("th", { scope: "col" }, name)));
  const rows = shown.cells.map((cells, row) => element("tr", { class: shown.waiting.includes(row) ? "waits" : "" },
    element("th", { scope: "row" }, playback.rows[row], shown.waiting.includes(row) ? element("small", {}, "waits") : ""),
    ...cells.map((text, column) =>
      element("td", { class: text === before.cells[row][column] ? "" : "written" }, text || "–"))));
  byId("chunks").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  byId("board").style.minWidth = `${68 + 62 * playback.columns.length}px`;
  byId("moves-title").textContent = at ? `Step ${at - 1}: ${shown.title}` : shown.title;
  byId("moves").replaceChildren(element("li", {}, element("span", {}, shown.text)));
}

function beginStory() {
  document.body.classList.add("story");
  byId("verdict").textContent = playback.story;
  byId("moves").setAttribute("aria-live", "polite");
  draw();
}
