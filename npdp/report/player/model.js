// Run of a schedule with faults, as a pure function: what npdp/collectives/contents.py does, and what goes wrong.
//
// A rank begins all its sends and receives of a step and goes on when they are done. A dead rank takes part in
// nothing from its step on; who waits for it waits for ever, and is waited for in turn.
//
// faults: copies {"step.move": 0 dropped or 2 repeated}, dead {rank: step}, slow [{a, b, factor}]
"use strict";

const NO_FAULTS = () => ({ copies: {}, dead: {}, slow: [] });

// Steps with their moves as the faults leave them; `index` is a move's place in the schedule's own step.
function changedSteps(playback, faults) {
  return playback.steps.map((step, number) => step.moves.flatMap((move, index) => {
    const copies = faults.copies[`${number}.${index}`] ?? 1;
    return Array.from({ length: copies }, (_, copy) => ({ ...move, index, copy }));
  }));
}

// Which moves of a step meet: both ranks have come so far. Who has one that does not, waits from now on.
function meetings(moves, number, dead, waits) {
  const stands = (rank) => rank in waits || (dead[rank] ?? Infinity) <= number;
  const done = moves.filter((move) => !stands(move.source) && !stands(move.target));
  const missed = moves.filter((move) => stands(move.source) !== stands(move.target));
  const found = missed.map((move) => (stands(move.source) ? [move.target, move.source] : [move.source, move.target]));
  for (const [rank, peer] of found) waits[rank] ??= { peer, step: number };
  return done;
}

function addedUp(kept, got) {
  const sum = { ...kept };
  for (const [rank, times] of Object.entries(got)) sum[rank] = (sum[rank] ?? 0) + times;
  return sum;
}

// Contents after a step: what is sent is what was there before it.
function contentsAfter(moves, before) {
  const after = before.map((chunks) => [...chunks]);
  for (const { source, target, start, stop, accumulate } of moves)
    for (let chunk = start; chunk < stop; chunk++)
      after[target][chunk] = addedUp(accumulate ? after[target][chunk] : {}, before[source][chunk]);
  return after;
}

// The partition law: the first nbytes % ranks chunks are one byte longer.
function bytesOf({ start, stop }, { nbytes, ranks }) {
  const at = (chunk) => chunk * Math.floor(nbytes / ranks) + Math.min(chunk, nbytes % ranks);
  return at(stop) - at(start);
}

// The whole run: contents and bytes before the first step and after each, seconds, who waits for whom.
function replay(playback, faults = NO_FAULTS()) {
  const waits = {}, steps = changedSteps(playback, faults);
  const contents = [playback.beginning], bytes = [Array(playback.ranks).fill(0)], done = [];
  steps.forEach((moves, number) => {
    const met = meetings(moves, number, faults.dead, waits);
    const sent = [...bytes[number]];
    for (const move of met) sent[move.source] += bytesOf(move, playback);
    done.push(met);
    bytes.push(sent);
    contents.push(contentsAfter(met, contents[number]));
  });
  return { steps, done, contents, bytes, waits, seconds: secondsOf(done, playback, faults.slow) };
}

// Where the contents at the end are not those that were promised: {rank, chunk, missing, extra}, ranks' numbers.
function shortcomings(playback, run, dead = {}) {
  const found = [], last = run.contents.at(-1);
  playback.promised.forEach((chunks, rank) => chunks.forEach((wanted, chunk) => {
    if (wanted === null || rank in dead) return;
    const got = last[rank][chunk], ranks = [...Array(playback.ranks).keys()];
    const missing = ranks.filter((each) => (got[each] ?? 0) < (wanted[each] ?? 0));
    const extra = ranks.filter((each) => (got[each] ?? 0) > (wanted[each] ?? 0));
    if (missing.length || extra.length) found.push({ rank, chunk, missing, extra });
  }));
  return found;
}
