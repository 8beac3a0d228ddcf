// Controls: the page's state, what buttons and keys do to it, and what is drawn after each change.
"use strict";

const playback = JSON.parse(byId("playback").textContent);
const isStory = "story" in playback;
const STAGE = isStory ? { begin: beginStory, draw: drawStory } : { begin: beginSchedule, draw: drawSchedule };
const plain = isStory ? null : replay(playback);
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const BEAT_MS = 1100; // of a step that is played
const state = { at: 0, timer: null, faults: NO_FAULTS(), run: plain };

function draw(moving = false) {
  const { at } = state, last = playback.steps.length;
  byId("slider").value = at;
  byId("where").textContent = at ? `after step ${at - 1} of ${last - 1}` : "at the beginning";
  byId("slider").setAttribute("aria-valuetext", byId("where").textContent);
  STAGE.draw(moving);
  for (const id of ["first", "back"]) byId(id).disabled = at === 0;
  for (const id of ["forth", "last"]) byId(id).disabled = at === last;
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
  byId("play").replaceChildren(element("span", { "aria-hidden": "true" }, "❚❚"), " pause");
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
};
const KEYS = { " ": "play", ArrowLeft: "back", ArrowRight: "forth", Home: "first", End: "last" };

function onKey(event) {
  const { tagName, type } = event.target;
  const isTyping = tagName === "SELECT" || (tagName === "INPUT" && type === "number");
  const isPress = event.key === " " && tagName === "BUTTON"; // space presses the button that has the focus
  if (!(event.key in KEYS) || isTyping || isPress || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  ACTIONS[KEYS[event.key]]();
}

function begin() {
  byId("slider").max = playback.steps.length;
  byId("slider").oninput = (event) => byHand(Number(event.target.value));
  for (const [id, action] of Object.entries(ACTIONS)) byId(id).onclick = action;
  document.addEventListener("keydown", onKey);
  addEventListener("resize", () => draw());
  STAGE.begin();
}

begin();
