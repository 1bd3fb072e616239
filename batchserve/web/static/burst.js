// Sends one input 200 times, as many at once as the browser does, and shows how they were batched.

import { axis, bars, colour, fromZero, makeChart } from "./charts.js";
import { showRefusal } from "./elements.js";
import { predict, predictMany } from "./inputs.js";
import { milliseconds } from "./units.js";

const ALL = 200;
// To one server, over HTTP/1.1; newer versions send all over one connection.
const CONNECTIONS = 6;
const SIDE = 512;
const LARGE = 100_000;

const button = document.querySelector("#burst");
const each = document.querySelector("#each");
let running = null;
let charts = null;

// `currentRequest` returns the path and the input to send, or null.
export function startBurst(currentRequest) {
  button.addEventListener("click", async () => {
    if (running) {
      running.abort();
      return;
    }
    const request = currentRequest();
    if (!request) return;
    running = new AbortController();
    button.textContent = "Stop";
    try {
      await burst(request, Number(each.value), running.signal);
    } finally {
      running = null;
      button.textContent = "Send 200 at once";
    }
  });
}

async function burst({ path, input }, count, signal) {
  showRefusal("#burst-refusal", null);
  const { send, note } = await prepare(path, input, count, signal);
  const lanes = atOnce();
  document.querySelector("#burst-note").textContent =
    `${note}At most ${lanes} requests are under way at a time, which is what a browser ` +
    `${lanes === CONNECTIONS ? "opens to one server over HTTP/1.1" : "sends over one connection"}; ` +
    "the time that the others wait in the browser is not counted.";
  const tally = new Tally(count);
  const requests = Math.ceil(ALL / count);
  let next = 0;
  const lane = async () => {
    while (next < requests && !signal.aborted) {
      next += 1;
      try {
        tally.add(await send());
      } catch (error) {
        if (error.name === "AbortError") return;
        tally.refuse(error);
      }
    }
  };
  const drawing = setInterval(() => show(tally), 100);
  await Promise.all(Array.from({ length: Math.min(lanes, requests) }, lane));
  clearInterval(drawing);
  tally.end();
  show(tally);
}

async function prepare(path, input, count, signal) {
  if (!input.blob) {
    if (count === 1) return { send: () => predict(path, input, signal), note: "" };
    const inputs = Array(count).fill(input.json);
    return { send: () => predictMany(path, inputs, signal), note: "" };
  }
  const small = await smaller(input);
  const note = small === input ? "" : `Each is a copy of the photo with a side of ${SIDE} pixels. `;
  if (count === 1) return { send: () => predict(path, small, signal), note };
  const inputs = Array(count).fill(await base64(small.blob));
  return { send: () => predictMany(path, inputs, signal), note };
}

function atOnce() {
  const [page] = performance.getEntriesByType("navigation");
  return page?.nextHopProtocol === "http/1.1" ? CONNECTIONS : 100;
}

// What was answered so far.
class Tally {
  constructor(count) {
    this.count = count;
    this.began = performance.now();
    this.seconds = null;
    this.at = [];
    this.latencies = [];
    this.sizes = new Map();
    this.reasons = new Map();
    this.refused = 0;
    this.refusal = null;
  }

  add({ total, size, reason }) {
    this.at.push((performance.now() - this.began) / 1000);
    this.latencies.push(total);
    this.sizes.set(size, (this.sizes.get(size) ?? 0) + 1);
    this.reasons.set(reason, (this.reasons.get(reason) ?? 0) + 1);
  }

  refuse(error) {
    this.refused += 1;
    this.refusal = error;
  }

  end() {
    this.seconds = (performance.now() - this.began) / 1000;
  }

  words() {
    const answered = this.latencies.length;
    const inputs = answered * this.count;
    const requests = this.count === 1 ? "" : ` in ${answered} requests`;
    const most = Math.max(...this.sizes.keys());
    if (!answered) return "";
    if (this.seconds === null) return `${inputs} of ${ALL} answered${requests}, in batches of up to ${most}`;
    const sorted = this.latencies.toSorted((a, b) => a - b);
    const at = (share) => milliseconds(sorted[Math.min(answered - 1, Math.floor(share * answered))]);
    const rate = inputs / this.seconds;
    return `${inputs} answered${requests} in ${this.seconds.toFixed(1)} s, ` +
      `${rate.toFixed(rate < 10 ? 1 : 0)} a second, in batches of up to ${most}. ` +
      `Half of the requests took less than ${at(0.5)}, 99 of 100 less than ${at(0.99)}.`;
  }
}

function show(tally) {
  document.querySelector("#burst-charts").hidden = false;
  document.querySelector("#burst-state").textContent = tally.words();
  if (tally.refused) {
    const { refusal } = tally;
    showRefusal("#burst-refusal", { ...refusal, message: `${tally.refused} refused: ${refusal.message}` });
  }
  charts ??= [latencyChart(), sizeChart()];
  const [latency, size] = charts;
  latency.setData([tally.at, tally.latencies]);
  const largest = Math.max(8, ...tally.sizes.keys());
  const sizes = Array.from({ length: largest }, (_, index) => index + 1);
  size.setData([sizes, sizes.map((one) => tally.sizes.get(one) ?? 0)]);
}

function latencyChart() {
  return makeChart(document.querySelector("#latencies"), {
    height: 220,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false, range: fromZero(0.5) }, y: { range: fromZero(10) } },
    axes: [axis({ values: (_chart, ticks) => ticks.map((tick) => `${tick} s`) }), axis({ size: 56 })],
    series: [{}, {
      stroke: () => colour("accent"),
      paths: () => null,
      points: { show: true, size: 6, width: 0, fill: () => colour("accent", 0.65) },
    }],
  }, [[], []]);
}

function sizeChart() {
  return makeChart(document.querySelector("#sizes"), {
    height: 220,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: (_chart, min, max) => [min - 0.6, max + 0.6] },
      y: { range: fromZero(10) },
    },
    axes: [
      axis({ grid: { show: false }, incrs: [1, 2, 4, 8, 16, 32] }),
      axis({ size: 48 }),
    ],
    series: [{}, { fill: () => colour("accent"), stroke: () => colour("accent"), width: 0, paths: bars(), points: { show: false } }],
  }, [[1], [0]]);
}

// A phone's photo is many times larger than what the model looks at.
async function smaller(input) {
  if (input.kind !== "image" || input.blob.size < LARGE) return input;
  try {
    const bitmap = await createImageBitmap(input.blob);
    const scale = Math.min(1, SIDE / Math.min(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(scale * bitmap.width);
    canvas.height = Math.round(scale * bitmap.height);
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
    return { ...input, blob };
  } catch {
    // The server says better what is wrong with it.
    return input;
  }
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
