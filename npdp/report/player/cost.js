// Seconds of a schedule's steps, as npdp/collectives/cost.py prices them where all ranks are on one host.
//
// The messages of a slow link take `factor` times as long; what they are added with takes as long as before.
"use strict";

function rateAt({ nbytes, seconds }, size) {
  const after = nbytes.filter((each) => each <= size).length;
  if (after === 0 || after === nbytes.length) return seconds[Math.min(after, nbytes.length - 1)];
  const [x0, x1, y0, y1] = [nbytes[after - 1], nbytes[after], seconds[after - 1], seconds[after]];
  return y0 === y1 ? y0 : y0 * (y1 / y0) ** (Math.log(size / x0) / Math.log(x1 / x0));
}

function factorOf(move, slow) {
  const joins = ({ a, b }) => (a === move.source && b === move.target) || (b === move.source && a === move.target);
  return Math.max(1, ...slow.filter(joins).map(({ factor }) => factor));
}

// What each rank has to do in a step; a message is late whose sender got something in the step before.
function loadsOf(moves, receivers, slow) {
  const loads = {};
  const of = (rank) => (loads[rank] ??= { sends: 0, receives: 0, adds: 0, late: false, got: 0, added: 0, factor: 1 });
  for (const move of moves) {
    const sender = of(move.source), receiver = of(move.target), chunks = move.stop - move.start;
    sender.sends += 1;
    receiver.receives += 1;
    receiver.got += chunks;
    if (move.accumulate) [receiver.adds, receiver.added] = [receiver.adds + 1, receiver.added + chunks];
    for (const load of [sender, receiver]) {
      load.late ||= receivers.has(move.source);
      load.factor = Math.max(load.factor, factorOf(move, slow));
    }
  }
  return Object.values(loads);
}

function latencyOf(load, { inside, add_s }) {
  const way = load.sends && load.receives ? inside.both_ways : inside.one_way;
  const first = load.late ? way.alpha_s : inside.further_s;
  const messages = first + (Math.max(load.sends, load.receives) - 1) * inside.further_s;
  return messages * load.factor + load.adds * add_s;
}

function insideOf(load, chunkBytes, { inside, gamma }, factor) {
  const got = load.got * chunkBytes, added = load.added * chunkBytes;
  const way = load.sends ? inside.both_ways : inside.one_way;
  return got * rateAt(way.beta, got) * factor + added * rateAt(gamma, added);
}

function secondsOfStep(loads, chunkBytes, machine) {
  const busy = loads.reduce((sum, load) => sum + insideOf(load, chunkBytes, machine, 1), 0);
  const slowest = Math.max(...loads.map((load) => insideOf(load, chunkBytes, machine, load.factor)));
  return Math.max(...loads.map((load) => latencyOf(load, machine))) + Math.max(slowest, busy / machine.cores);
}

// Seconds from the call's beginning to before the first step and to the end of each.
function secondsOf(steps, { ranks, nbytes, machine }, slow = []) {
  const found = [machine.call_s];
  let receivers = new Set(Array(ranks).keys());
  for (const moves of steps) {
    const loads = loadsOf(moves, receivers, slow);
    found.push(found.at(-1) + (moves.length ? secondsOfStep(loads, nbytes / ranks, machine) : 0));
    if (moves.length) receivers = new Set(moves.map((move) => move.target));
  }
  return found;
}
