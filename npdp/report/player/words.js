// The page's sentences: ranks, moves, bytes, seconds, and what a broken run comes to.
"use strict";

const MOST_LINES = 8; // of contributions that are missing or too many

function numbers(list) {
  return list.length < 2 ? list.join("") : `${list.slice(0, -1).join(", ")} and ${list.at(-1)}`;
}

function plural(word, list) {
  return `${word}${list.length === 1 ? "" : "s"} ${numbers(list)}`;
}

function chunksOf({ start, stop }) {
  return stop - start === 1 ? `chunk ${start}` : `chunks ${start}–${stop - 1}`;
}

function moveInWords(move) {
  return move.accumulate
    ? `rank ${move.target} adds ${chunksOf(move)} of rank ${move.source}`
    : `rank ${move.target} replaces ${chunksOf(move)} by rank ${move.source}'s`;
}

function bytesInWords(count) {
  return count < 10240 ? `${count} B` : count < 10 << 20 ? `${(count / 1024).toFixed(1)} KB` : `${(count / 2 ** 20).toFixed(1)} MB`;
}

function secondsInWords(seconds) {
  return seconds < 1e-3 ? `${(seconds * 1e6).toFixed(1)} µs` : seconds < 1 ? `${(seconds * 1e3).toFixed(2)} ms` : `${seconds.toFixed(2)} s`;
}

// The ranks in a content: `0 1 3`, `0–4`, `1×2` where rank 1's is in it twice.
function contentInWords(content) {
  const ranks = Object.keys(content).map(Number).sort((a, b) => a - b);
  const once = ranks.every((rank) => content[rank] === 1);
  if (once && ranks.length > 2 && ranks.at(-1) - ranks[0] === ranks.length - 1) return `${ranks[0]}–${ranks.at(-1)}`;
  return ranks.map((rank) => (content[rank] === 1 ? `${rank}` : `${rank}×${content[rank]}`)).join(" ") || "–";
}

// Shortcomings in lines, one for all ranks whose chunk lacks the same.
function shortcomingsInWords(found) {
  const groups = new Map();
  for (const { rank, chunk, missing, extra } of found) {
    const parts = [];
    if (missing.length) parts.push(`without the contribution of ${plural("rank", missing)}`);
    if (extra.length) parts.push(`with too much of ${plural("rank", extra)}`);
    const key = `chunk ${chunk} ends ${parts.join(", and ")}`;
    groups.set(key, [...(groups.get(key) ?? []), rank]);
  }
  return [...groups].map(([key, ranks]) => `${key}, on ${plural("rank", ranks)}`);
}

// What a run comes to, in lines with whether each is good.
function outcomeInWords(playback, run, faults) {
  const lines = [], bad = (text) => lines.push({ text, good: false });
  for (const [rank, step] of Object.entries(faults.dead)) bad(`rank ${rank} is dead from step ${step} on`);
  for (const [rank, { peer, step }] of Object.entries(run.waits))
    if (!(rank in faults.dead)) bad(`rank ${rank} waits in step ${step} for rank ${peer}, for ever`);
  const short = shortcomingsInWords(shortcomings(playback, run, faults.dead));
  short.slice(0, MOST_LINES).forEach(bad);
  if (short.length > MOST_LINES) bad(`and ${short.length - MOST_LINES} lines more like these`);
  if (!lines.length) lines.push({ text: "each chunk ends with what was promised", good: true });
  return lines;
}

function timeInWords(run, plain, at) {
  const now = secondsInWords(run.seconds[at]), whole = run.seconds.at(-1), usual = plain.seconds.at(-1);
  if (Object.keys(run.waits).length) return `${now} so far; it never ends`;
  const ratio = whole / usual;
  const than = Math.abs(ratio - 1) < 0.005 ? "" : `, ${ratio.toFixed(2)} × the ${secondsInWords(usual)} without faults`;
  return `${now} of ${secondsInWords(whole)}${than}`;
}
