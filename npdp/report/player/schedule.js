// The stage of a schedule: its moves, the faults that are put into it, and what is drawn after each change.
"use strict";

function drawSchedule(moving) {
  const { at, run, faults } = state;
  drawBoard(playback, run, faults, at);
  drawArrows(at ? run.done[at - 1] : [], moving && !CALM.matches);
  drawMoves();
  drawBytes(playback, run, at);
  byId("time").textContent = timeInWords(run, plain, at);
  byId("kill").disabled = !playback.steps.length;
  byId("kill").textContent = `in step ${Math.max(at - 1, 0)}`;
}

function drawMoves() {
  const number = Math.max(state.at - 1, 0), moves = playback.steps[number]?.moves ?? [];
  const mark = !playback.proven && playback.step === number ? " (here it is wrong)" : "";
  byId("moves-title").textContent = playback.steps.length ? `${state.at ? "Moves of" : "Next: moves of"} step ${number}${mark}` : "No moves";
  const had = document.activeElement?.dataset.fault;
  byId("moves").replaceChildren(...moves.map((move, index) => {
    const met = state.run.done[number].some((each) => each.index === index);
    return element("li", { class: met ? "" : "lost" }, element("span", {}, moveInWords(move)),
      faultButton("drop", `${number}.${index}`, 0), faultButton("repeat", `${number}.${index}`, 2));
  }));
  if (had) document.querySelector(`[data-fault="${had}"]`)?.focus();
}

function faultButton(word, key, copies) {
  const isOn = state.faults.copies[key] === copies;
  const button = element("button", { "aria-pressed": isOn, "data-fault": `${word} ${key}` }, word);
  button.onclick = () => {
    if (isOn) delete state.faults.copies[key];
    else state.faults.copies[key] = copies;
    rerun();
  };
  return button;
}

function rerun() {
  state.run = replay(playback, state.faults);
  drawOutcome(outcomeInWords(playback, state.run, state.faults));
  drawFaults();
  draw();
}

// The faults in words, each with a button that takes it back.
function drawFaults() {
  const { copies, dead, slow } = state.faults;
  const item = (text, undo) => {
    const button = element("button", { "aria-label": `undo: ${text}` }, "undo");
    button.onclick = () => { undo(); rerun(); };
    return element("li", {}, text, button);
  };
  const move = (key) => moveInWords(playback.steps[key.split(".")[0]].moves[key.split(".")[1]]);
  byId("broken").replaceChildren(
    ...Object.entries(copies).map(([key, times]) =>
      item(`step ${key.split(".")[0]} ${times ? "twice" : "dropped"}: ${move(key)}`, () => delete copies[key])),
    ...Object.entries(dead).map(([rank, step]) => item(`rank ${rank} dies in step ${step}`, () => delete dead[rank])),
    ...slow.map((link) => item(`link ${link.a} – ${link.b}: ${link.factor} × as slow`, () => slow.splice(slow.indexOf(link), 1))));
  byId("reset").disabled = !byId("broken").children.length;
}

function slowTheLink() {
  const [a, b, factor] = ["end-a", "end-b", "factor"].map((id) => Number(byId(id).value));
  if (a === b || !(factor >= 1)) return;
  state.faults.slow = [...state.faults.slow.filter((link) => !joins(link, a, b)), { a, b, factor }];
  rerun();
}

function joins(link, a, b) {
  return (link.a === a && link.b === b) || (link.a === b && link.b === a);
}

function beginSchedule() {
  const options = () => Array.from({ length: playback.ranks }, (_, rank) => element("option", {}, rank));
  for (const id of ["victim", "end-a", "end-b"]) byId(id).replaceChildren(...options());
  byId("end-b").value = Math.min(1, playback.ranks - 1);
  byId("kill").onclick = () => { state.faults.dead[byId("victim").value] = Math.max(state.at - 1, 0); rerun(); };
  byId("slow").onclick = slowTheLink;
  byId("reset").onclick = () => { state.faults = NO_FAULTS(); rerun(); byId("play").focus(); };
  drawVerdict(playback);
  state.run = plain;
  state.at = Math.min((playback.step ?? -1) + 1, playback.steps.length); // of a wrong one, after the step that is wrong
  rerun();
}
