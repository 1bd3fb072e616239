// The dashboard's charts: what each shows of a model, and how it is drawn.
//
// A `view` is what they are drawn of: the `points` to show, the `model` or "" for all of them, and
// the `range` of seconds since 1970.

import { axis, bars, colour, fromZero, lonely, makeChart, removeChart } from "./charts.js";
import { element } from "./elements.js";
import { columns, distribution, labelsIn, meanBatch, of, outcomes, stacked } from "./series.js";
import { milliseconds, percent, perSecond, rounded } from "./units.js";

const HEIGHT = 180;
// What a legend of one line takes.
const LEGEND = 27;
const OUTCOMES = { answered: "forward", refused: "rose", "client's error": "decode", failed: "bad" };
const REASONS = {
  full: "forward", idle: "blue", wait: "queue", deadline: "decode", retry: "rose", drain: "rest",
};
const REFUSALS = ["rose", "decode", "queue", "blue", "forward", "rest"];

// Each has a title; the names and colours of its curves; what a point says of one, as a number or
// null; how a number is written; and what is said where there is nothing but zeros.
const REQUESTS = {
  title: "Requests per second",
  names: happened,
  colour: (name) => OUTCOMES[name],
  pick: outcomes,
  format: perSecond,
  filled: ["answered"],
};
const LATENCY = {
  title: "Latency",
  names: () => ["median", "99 of 100"],
  colour: (name) => (name === "median" ? "forward" : "decode"),
  pick: (said, name) => (name === "median" ? said.p50_ms : said.p99_ms) ?? null,
  format: milliseconds,
  least: 5,
  quiet: "No request was answered.",
};
const MEAN_BATCH = {
  title: "Items in a batch, on average",
  names: () => ["items"],
  colour: () => "forward",
  pick: meanBatch,
  format: rounded,
  least: 2,
  quiet: "There were no batches.",
};
const QUEUE = {
  title: "Items waiting, and in a forward pass",
  names: () => ["waiting", "computing"],
  colour: (name) => (name === "waiting" ? "queue" : "forward"),
  pick: (said, name) => (name === "waiting" ? said.queue_items : said.in_flight_items) ?? 0,
  format: String,
  least: 4,
  filled: ["waiting"],
};
const BUSY = {
  title: "Device busy",
  names: () => ["busy"],
  colour: () => "forward",
  pick: (said) => said.busy_share ?? 0,
  format: percent,
  filled: ["busy"],
};
const CLOSED = {
  title: "Why batches were closed, per second",
  names: (view) => labelsIn(view.points, view.model, "batches_per_s"),
  colour: (name) => REASONS[name] ?? "rest",
  pick: (said, name) => said.batches_per_s?.[name] ?? 0,
  format: perSecond,
  stack: true,
  quiet: "There were no batches.",
};
const REFUSED = {
  title: "Refused, per second",
  names: (view) => labelsIn(view.points, view.model, "refusals_per_s"),
  colour: (_name, index) => REFUSALS[index % REFUSALS.length],
  pick: (said, name) => said.refusals_per_s?.[name] ?? 0,
  format: perSecond,
  stack: true,
  quiet: "Nothing was refused.",
};

// Returns a function that draws a view.
export function startCurves() {
  const charts = [
    curves(REQUESTS), curves(LATENCY), batchSizes(), curves(MEAN_BATCH), curves(QUEUE), curves(BUSY),
    curves(CLOSED), curves(REFUSED),
  ];
  return (view) => {
    for (const draw of charts) draw(view);
  };
}

// What became of requests, as far as any did.
function happened({ points, model }) {
  const any = (outcome) => points.some((point) => outcomes(of(point, model) ?? {}, outcome));
  return Object.keys(OUTCOMES).filter((outcome, index) => index === 0 || any(outcome));
}

// A chart is made anew when its curves are others: a reason appears, a model is chosen.
function curves(described) {
  const place = placeFor(described.title);
  place.dataset.quiet = described.quiet ?? "";
  let chart = null;
  let drawn = "";
  let current = null;
  return (view) => {
    current = view;
    const names = described.names(view);
    const plain = columns(view.points, view.model, names, described.pick);
    const data = described.stack ? stacked(plain) : plain;
    place.classList.toggle("quiet", Boolean(described.quiet) && !plain.slice(1).flat().some(Boolean));
    if (!chart || drawn !== names.join()) {
      if (chart) removeChart(chart);
      chart = makeChart(place, optionsOf(described, names, () => current.range), data);
      drawn = names.join();
    }
    chart.plain = plain;
    chart.setData(data);
  };
}

function optionsOf(described, names, range) {
  const shade = (index) => colour(described.colour(names[index], index));
  const written = (_chart, ticks) => ticks.map((tick) => (tick ? described.format(tick) : "0"));
  return {
    height: HEIGHT,
    cursor: { sync: { key: "dashboard" }, y: false, drag: { x: false, y: false } },
    legend: { live: true, markers: { width: 0, fill: (_chart, series) => shade(series - 1) } },
    scales: { x: { range }, y: { range: fromZero(described.least) } },
    axes: [axis({ space: 70, values: clock }), axis({ size: 62, values: written })],
    series: [{ label: "at" }, ...names.map((name, index) => curve(described, name, () => shade(index)))],
  };
}

function curve(described, name, shade) {
  const { stack, filled = [] } = described;
  return {
    label: name.replaceAll("_", " "),
    width: stack ? 0 : 1.8,
    stroke: shade,
    fill: stack ? shade : filled.includes(name) ? () => colour(described.colour(name), 0.16) : undefined,
    points: { show: !stack, filter: lonely, size: 4, fill: shade, width: 0 },
    // What was drawn may be a sum; what is read is not. Without a pointer, it is the last.
    value: (chart, _drawn, series, place) => {
      const value = chart.plain?.[series].at(place ?? -1) ?? null;
      return value === null ? "–" : described.format(value);
    },
  };
}

function batchSizes() {
  const place = placeFor("Batches, by their size");
  place.dataset.quiet = "There were no batches.";
  let names = [];
  const named = (_chart, ticks) => ticks.map((tick) => names[tick] ?? "");
  const shade = () => colour("forward");
  const chart = makeChart(place, {
    height: HEIGHT + LEGEND,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: (_chart, _min, max) => [-0.6, max + 0.6] },
      y: { range: fromZero(4) },
    },
    axes: [axis({ grid: { show: false }, incrs: [1], space: 28, values: named }), axis({ size: 62 })],
    series: [{}, { fill: shade, stroke: shade, width: 0, paths: bars(), points: { show: false } }],
  }, [[0], [0]]);
  return ({ points, model }) => {
    const sizes = distribution(points, model);
    names = sizes.names;
    place.classList.toggle("quiet", !sizes.counts.some(Boolean));
    chart.setData([sizes.counts.map((_count, index) => index), sizes.counts]);
  };
}

function placeFor(title) {
  const place = element("div", { className: "chart" });
  document.querySelector("#charts").append(
    element("section", { className: "panel" }, element("h2", { text: title }), place));
  return place;
}

function clock(_chart, ticks) {
  const second = ticks[1] - ticks[0] < 60 ? "2-digit" : undefined;
  const form = { hour: "2-digit", minute: "2-digit", second, hour12: false };
  return ticks.map((tick) => new Date(1000 * tick).toLocaleTimeString([], form));
}
