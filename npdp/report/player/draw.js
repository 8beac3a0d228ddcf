// Drawing: the board of ranks and chunks, its arrows, the bars of bytes. Each function draws one part anew.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function hueOf(rank, ranks) {
  return Math.round((rank * 360) / ranks + 210) % 360;
}

function contentCell(content, wanted, isWritten, ranks) {
  const parts = Array.from({ length: ranks }, (_, rank) =>
    element("i", rank in content ? { class: "in", style: `--hue: ${hueOf(rank, ranks)}` } : {}));
  const times = Object.values(content), held = Object.keys(content);
  const isDone = wanted !== null && held.length === Object.keys(wanted).length
    && held.every((rank) => content[rank] === wanted[rank]);
  const kind = times.some((each) => each > 1) ? "wrong" : isDone ? "done" : "";
  return element("td", { class: `${kind} ${isWritten ? "written" : ""}` },
    element("div", { class: "parts" }, ...parts), contentInWords(content));
}

function drawBoard(playback, run, faults, at) {
  const ranks = [...Array(playback.ranks).keys()], moves = at ? run.done[at - 1] : [];
  const isWritten = (rank, chunk) => moves.some((move) => move.target === rank && move.start <= chunk && chunk < move.stop);
  const head = element("tr", {}, element("th"), ...ranks.map((chunk) => element("th", { scope: "col" }, `chunk ${chunk}`)));
  const rows = ranks.map((rank) => {
    const isDead = faults.dead[rank] < at, waits = run.waits[rank]?.step < at && !isDead;
    const state = isDead ? element("small", {}, "dead") : waits ? element("small", {}, `waits for ${run.waits[rank].peer}`) : "";
    return element("tr", { class: isDead ? "dead" : waits ? "waits" : "" },
      element("th", { scope: "row" }, `rank ${rank}`, state),
      ...ranks.map((chunk) => contentCell(run.contents[at][rank][chunk], playback.promised[rank][chunk],
        isWritten(rank, chunk), playback.ranks)));
  });
  byId("chunks").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  byId("board").style.minWidth = `${68 + 48 * playback.ranks}px`;
}

// Curve from a rank's cell to another's in the middle of the chunks that a move carries.
function curveOf(move, cells, order) {
  const box = (rank, chunk) => cells[rank][chunk];
  const from = box(move.source, move.start), to = box(move.target, move.start), end = box(move.source, move.stop - 1);
  const x = (from.left + end.right) / 2, down = move.target > move.source ? 1 : -1;
  const y0 = from.middle + 15 * down, y1 = to.middle - 20 * down;
  const bend = x + Math.min(8 + 7 * Math.abs(move.target - move.source) + 6 * order, from.width * 0.9) * down;
  return { x, y1, down, d: `M${x} ${y0} Q${bend} ${(y0 + y1) / 2} ${x} ${y1}` };
}

function placesOfCells() {
  const origin = byId("board").getBoundingClientRect();
  return [...byId("chunks").tBodies[0].rows].map((row) => [...row.cells].slice(1).map((cell) => {
    const { left, right, top, height, width } = cell.getBoundingClientRect();
    return { left: left - origin.left, right: right - origin.left, middle: top - origin.top + height / 2, width };
  }));
}

function drawArrows(moves, moving) {
  const cells = placesOfCells();
  const parts = moves.flatMap((move, order) => {
    const { x, y1, down, d } = curveOf(move, cells, order % 3);
    const head = drawn("path", { class: "head", d: `M${x - 6} ${y1 - 3 * down} L${x + 6} ${y1 - 3 * down} L${x} ${y1 + 7 * down} Z` });
    const dot = drawn("circle", { r: 4.5 });
    dot.append(drawn("animateMotion", { dur: "0.7s", path: d, fill: "freeze", begin: "indefinite" }));
    return [drawn("path", { class: move.accumulate ? "add" : "put", d }), head, ...(moving ? [dot] : [])];
  });
  byId("arrows").replaceChildren(...parts);
  for (const motion of byId("arrows").querySelectorAll("animateMotion")) motion.beginElement();
}

function drawBytes(playback, run, at) {
  const most = Math.max(playback.least_bytes, ...run.bytes.at(-1), 1);
  const bars = run.bytes[at].map((sent, rank) => element("div", { class: "bar" }, element("span", {}, `rank ${rank}`),
    element("div", { class: "track" }, element("div", { class: "fill", style: `width: ${(100 * sent) / most}%` }),
      element("div", { class: "least", style: `left: calc(${(100 * playback.least_bytes) / most}% - 2px)` })),
    element("b", {}, bytesInWords(sent))));
  byId("bytes").replaceChildren(...bars);
  byId("bound").textContent = `The line: ${bytesInWords(playback.least_bytes)}, the least that the rank which sends most `
    + `must send of a buffer of ${bytesInWords(playback.nbytes)}.`;
}

function drawOutcome(lines) {
  byId("outcome").replaceChildren(...lines.map(({ text, good }) => element("li", { class: good ? "good" : "bad" }, text)));
}

function drawVerdict(playback) {
  byId("verdict").className = playback.proven ? "" : "wrong";
  byId("verdict").textContent = playback.proven ? `Proven right: ${playback.collective} on ${playback.ranks} ranks.` : `Wrong: ${playback.sentence}.`;
  byId("picture").hidden = !playback.picture;
  byId("picture").textContent = playback.picture;
}
