// The page to watch the server: asks every two seconds for what is new, and draws it.

import { getJson } from "./api.js";
import { axis, bars, colour, fromZero, lonely, makeChart, removeChart } from "./charts.js";
import { element, showRefusal } from "./elements.js";
import { startLayout } from "./layout.js";
import {
  columns, distribution, joined, labelsIn, meanBatch, modelsIn, of, outcomes, present, stacked,
} from "./series.js";
import { startTimeline } from "./timeline.js";
import { milliseconds } from "./units.js";

const HEIGHT = 180;
// What a legend of one line takes.
const LEGEND = 27;
const REASONS = { full: "forward", idle: "blue", wait: "queue", deadline: "decode", retry: "rose", drain: "rest" };
const PALETTE = ["rose", "decode", "queue", "blue", "forward", "rest"];
const OUTCOMES = { answered: "forward", refused: "rose", "client's error": "decode", failed: "bad" };

const model = document.querySelector("#model");
const span = document.querySelector("#span");
const state = { points: [], everyS: 2, paused: false };
const charts = [];

const number = (value) => value.toFixed(value < 10 ? 1 : 0);
const rate = (value) => (value === null ? "–" : `${value < 10 ? value.toFixed(1) : value.toFixed(0)}/s`);
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(0)} %`);
const count = (value) => (value === null ? "–" : String(value));
const millis = (value) => (value === null ? "–" : milliseconds(value));

function lines(title, colours, pick, { format = count, top = fromZero(), quiet, area = [], some } = {}) {
  const all = Object.keys(colours);
  return {
    title, pick, format, top, quiet,
    names: () => (some ? some(all) : all),
    colour: (name) => colours[name],
    area: (name) => area.includes(name),
  };
}

function areas(title, kind, colourOf, quiet) {
  return {
    title, quiet, stack: true, format: rate, top: fromZero(),
    names: () => labelsIn(shownPoints(), model.value, kind),
    colour: colourOf,
    pick: (said, name) => said[kind]?.[name] ?? 0,
    area: () => true,
  };
}

const BEFORE_BATCHES = [
  lines("Requests per second", OUTCOMES, outcomes, { format: rate, area: ["answered"], some: outcomesShown }),
  lines("Latency", { median: "forward", "99 of 100": "decode" },
    (said, name) => (name === "median" ? said.p50_ms : said.p99_ms) ?? null,
    { format: millis, top: fromZero(5), quiet: "No request was answered." }),
];
const AFTER_BATCHES = [
  lines("Items in a batch, on average", { items: "forward" }, (said) => meanBatch(said),
    { format: number, top: fromZero(2), quiet: "There were no batches." }),
  lines("Items waiting, and in a forward pass", { waiting: "queue", computing: "forward" },
    (said, name) => (name === "waiting" ? said.queue_items : said.in_flight_items) ?? 0,
    { top: fromZero(4), area: ["waiting"] }),
  lines("Device busy", { busy: "forward" }, (said) => said.busy_share ?? 0,
    { format: percent, top: (_chart, _min, max) => [0, Math.max(1, max)], area: ["busy"] }),
  areas("Why batches were closed, per second", "batches_per_s", (name) => REASONS[name] ?? "rest",
    "There were no batches."),
  areas("Refused, per second", "refusals_per_s", (_name, index) => PALETTE[index % PALETTE.length],
    "Nothing was refused."),
];

function shownPoints() {
  const since = (state.points.at(-1)?.at ?? 0) - Number(span.value);
  return state.points.filter((point) => point.at > since);
}

function place(title) {
  const chart = element("div", { className: "chart" });
  document.querySelector("#charts").append(
    element("section", { className: "panel" }, element("h2", { text: title }), chart));
  return chart;
}

// A chart is made anew when its curves are others: a reason appears, a model is chosen.
function curves(described) {
  const where = place(described.title);
  let chart = null;
  let drawn = "";
  return () => {
    const names = described.names();
    const plain = columns(shownPoints(), model.value, names, described.pick);
    const data = described.stack ? stacked(plain) : plain;
    const isQuiet = !plain.slice(1).some((column) => column.some((value) => value));
    where.classList.toggle("quiet", Boolean(described.quiet) && isQuiet);
    where.dataset.quiet = described.quiet ?? "";
    if (drawn !== names.join() || !chart) {
      if (chart) removeChart(chart);
      chart = makeChart(where, curveOptions(described, names), data);
      drawn = names.join();
    }
    chart.plain = plain;
    chart.setData(data);
  };
}

function curveOptions(described, names) {
  return {
    height: HEIGHT,
    cursor: { sync: { key: "dashboard" }, y: false, drag: { x: false, y: false } },
    legend: { live: true, markers: { width: 0, fill: (_chart, series) => colour(described.colour(names[series - 1], series - 1)) } },
    scales: { x: { range: () => timeRange() }, y: { range: described.top } },
    axes: [axis({ space: 70, values: clock }), axis({ size: 62, values: (_chart, ticks) => ticks.map((tick) => (tick ? described.format(tick) : "0")) })],
    series: [
      { label: "at", value: (_chart, at) => (at === null ? "–" : new Date(1000 * at).toLocaleTimeString()) },
      ...names.map((name, index) => curve(described, name, index)),
    ],
  };
}

function curve(described, name, index) {
  const shade = described.colour(name, index);
  return {
    label: name.replaceAll("_", " "),
    width: described.stack ? 0 : 1.8,
    stroke: () => colour(shade),
    fill: described.stack ? () => colour(shade) : described.area(name) ? () => colour(shade, 0.16) : undefined,
    points: { show: !described.stack, filter: lonely, size: 4, fill: () => colour(shade), width: 0 },
    // What was drawn may be a sum; what is read is not.
    value: (chart, _value, series, place) => {
      const value = place === null ? chart.plain?.[series].at(-1) : chart.plain?.[series][place];
      return value === null || value === undefined ? "–" : described.format(value);
    },
  };
}

function outcomesShown(all) {
  const happened = (outcome) => shownPoints().some((point) => outcomes(of(point, model.value) ?? {}, outcome));
  return all.filter((outcome, index) => index === 0 || happened(outcome));
}

function clock(_chart, ticks) {
  const second = ticks[1] - ticks[0] < 60 ? "2-digit" : undefined;
  const form = { hour: "2-digit", minute: "2-digit", second, hour12: false };
  return ticks.map((tick) => new Date(1000 * tick).toLocaleTimeString([], form));
}

function timeRange() {
  const end = state.points.at(-1)?.at ?? Date.now() / 1000;
  return [end - Number(span.value), end];
}

function batchSizes() {
  const where = place("Batches, by their size");
  where.dataset.quiet = "There were no batches.";
  let names = [];
  const chart = makeChart(where, {
    height: HEIGHT + LEGEND,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: (_chart, _min, max) => [-0.6, max + 0.6] },
      y: { range: fromZero(4) },
    },
    axes: [
      axis({ grid: { show: false }, incrs: [1], space: 28, values: (_chart, ticks) => ticks.map((tick) => names[tick] ?? "") }),
      axis({ size: 62 }),
    ],
    series: [{}, { fill: () => colour("forward"), stroke: () => colour("forward"), width: 0, paths: bars(), points: { show: false } }],
  }, [[0], [0]]);
  return () => {
    const sizes = distribution(shownPoints(), model.value);
    names = sizes.names;
    where.classList.toggle("quiet", !sizes.counts.some(Boolean));
    chart.setData([sizes.counts.map((_count, index) => index), sizes.counts]);
  };
}

function draw() {
  for (const update of charts) update();
  const now = present(state.points, model.value);
  tile("requests", number(now.requests), "/s");
  tile("batch", now.batch === null ? "–" : number(now.batch));
  tile("queue", String(now.queue));
  tile("busy", (100 * now.busy).toFixed(0), "%");
  for (const name of ["p50", "p99"]) {
    const [value, unit] = now[name] === null ? ["–"] : milliseconds(now[name]).split(" ");
    tile(name, value, unit);
  }
}

function tile(name, value, unit = "") {
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
  charts.push(...BEFORE_BATCHES.map(curves), batchSizes(), ...AFTER_BATCHES.map(curves));
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
