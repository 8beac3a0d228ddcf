// Controls: the page's state, what buttons and keys do to it, and what is drawn after each change.
"use strict";

const playback = JSON.parse(byId("playback").textContent);
const plain = replay(playback);
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const BEAT_MS = 1100; // of a step that is played
const state = { at: 0, timer: null, faults: NO_FAULTS(), run: plain };

function draw(moving = false) {
  const { at, run, faults } = state;
  byId("slider").value = at;
  byId("where").textContent = at ? `after step ${at - 1} of ${playback.steps.length - 1}` : "at the beginning";
  byId("slider").setAttribute("aria-valuetext", byId("where").textContent);
  drawBoard(playback, run, faults, at);
  drawArrows(at ? run.done[at - 1] : [], moving && !CALM.matches);
  drawMoves();
  drawBytes(playback, run, at);
  byId("time").textContent = timeInWords(run, plain, at);
  for (const id of ["first", "back"]) byId(id).disabled = at === 0;
  for (const id of ["forth", "last"]) byId(id).disabled = at === playback.steps.length;
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

function go(to, moving = false) {
  state.at = Math.max(0, Math.min(playback.steps.length, to));
  draw(moving);
  if (state.at === playback.steps.length) pause();
}

function pause() {
  clearInterval(state.timer);
  state.timer = null;
  byId("play").replaceChildren(element("span", { "aria-hidden": "true" }, "▶"), " play");
}

function playOrPause() {
  if (state.timer !== null) return pause();
  if (state.at === playback.steps.length) go(0);
  if (!playback.steps.length) return;
  state.timer = setInterval(() => go(state.at + 1, true), BEAT_MS);
  byId("play").replaceChildren(element("span", { "aria-hidden": "true" }, "⏸"), " pause");
  go(state.at + 1, true);
}

function byHand(to, moving) {
  pause();
  go(to, moving);
}

const ACTIONS = {
  first: () => byHand(0),
  back: () => byHand(state.at - 1),
  play: playOrPause,
  forth: () => byHand(state.at + 1, true),
  last: () => byHand(playback.steps.length),
  kill: () => { state.faults.dead[byId("victim").value] = Math.max(state.at - 1, 0); rerun(); },
  slow: () => slowTheLink(),
  reset: () => { state.faults = NO_FAULTS(); rerun(); byId("play").focus(); },
};
const KEYS = { " ": "play", ArrowLeft: "back", ArrowRight: "forth", Home: "first", End: "last" };

function slowTheLink() {
  const [a, b, factor] = ["end-a", "end-b", "factor"].map((id) => Number(byId(id).value));
  if (a === b || !(factor >= 1)) return;
  state.faults.slow = [...state.faults.slow.filter((link) => !joins(link, a, b)), { a, b, factor }];
  rerun();
}

function joins(link, a, b) {
  return (link.a === a && link.b === b) || (link.a === b && link.b === a);
}

function onKey(event) {
  const { tagName, type } = event.target;
  const isTyping = tagName === "SELECT" || (tagName === "INPUT" && type === "number");
  const isPress = event.key === " " && tagName === "BUTTON"; // space presses the button that has the focus
  if (!(event.key in KEYS) || isTyping || isPress || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  ACTIONS[KEYS[event.key]]();
}

function begin() {
  const options = () => Array.from({ length: playback.ranks }, (_, rank) => element("option", {}, rank));
  for (const id of ["victim", "end-a", "end-b"]) byId(id).replaceChildren(...options());
  byId("end-b").value = Math.min(1, playback.ranks - 1);
  byId("slider").max = playback.steps.length;
  byId("slider").oninput = (event) => byHand(Number(event.target.value));
  for (const [id, action] of Object.entries(ACTIONS)) byId(id).onclick = action;
  document.addEventListener("keydown", onKey);
  addEventListener("resize", () => draw());
  drawVerdict(playback);
  if (playback.step !== null && playback.step !== undefined) state.at = Math.min(playback.step + 1, playback.steps.length);
  rerun();
}

begin();
