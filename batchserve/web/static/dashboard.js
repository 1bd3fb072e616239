// The page to watch the server: asks every two seconds for what is new, and shows it.

import { getJson } from "./api.js";
import { startCurves } from "./curves.js";
import { element, showRefusal } from "./elements.js";
import { startLayout } from "./layout.js";
import { joined, modelsIn, present } from "./series.js";
import { startTimeline } from "./timeline.js";
import { milliseconds, percent, rounded } from "./units.js";

const model = document.querySelector("#model");
const span = document.querySelector("#span");
const drawCurves = startCurves();
const state = { points: [], everyS: 2, paused: false };

function draw() {
  const end = state.points.at(-1)?.at ?? Date.now() / 1000;
  const from = end - Number(span.value);
  drawCurves({
    points: state.points.filter((point) => point.at > from),
    model: model.value,
    range: [from, end],
  });
  const now = present(state.points, model.value);
  tile("requests", `${rounded(now.requests)} /s`);
  tile("p50", now.p50 === null ? "–" : milliseconds(now.p50));
  tile("p99", now.p99 === null ? "–" : milliseconds(now.p99));
  tile("batch", now.batch === null ? "–" : rounded(now.batch));
  tile("queue", String(now.queue));
  tile("busy", percent(now.busy));
}

function tile(name, text) {
  const [value, unit] = text.split(" ");
  const shown = unit ? [`${value} `, element("small", { text: unit })] : [value];
  document.querySelector(`#now-${name}`).replaceChildren(...shown);
}

function fillModels() {
  const names = modelsIn(state.points);
  const known = [...model.options].slice(1).map((option) => option.value);
  if (names.join() === known.join()) return;
  const before = model.value;
  model.replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name, name)));
  model.value = names.includes(before) ? before : "";
}

function say() {
  const last = state.points.at(-1);
  if (!last) return;
  const workers = `${last.workers} worker${last.workers === 1 ? "" : "s"}`;
  const at = new Date(1000 * last.at).toLocaleTimeString();
  document.querySelector("#state").textContent = state.paused ? `Paused at ${at}` : `${workers}, as of ${at}`;
}

async function update() {
  const since = state.points.at(-1)?.at;
  const answer = await getJson(since ? `/dashboard/data?since=${since}` : "/dashboard/data");
  state.everyS = answer.every_s;
  state.points = joined(state.points, answer.points, answer.keeps_s);
  fillModels();
  draw();
  say();
}

async function follow() {
  try {
    if (!(state.paused || document.hidden)) await update();
    showRefusal("#trouble", null);
  } catch (error) {
    showRefusal("#trouble", error);
  }
  setTimeout(follow, 1000 * state.everyS);
}

function start() {
  startLayout();
  draw();
  for (const choice of [model, span]) choice.addEventListener("change", draw);
  const pause = document.querySelector("#pause");
  pause.addEventListener("click", () => {
    state.paused = !state.paused;
    pause.ariaPressed = String(state.paused);
    pause.textContent = state.paused ? "Go on" : "Pause";
    say();
  });
  startTimeline();
  follow();
}

start();
