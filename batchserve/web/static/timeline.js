// The last batches of one worker, from /debug/batches: a row for each item that was there at once.

import { getJson } from "./api.js";
import { axis, colour, makeChart, rectangle, removeChart } from "./charts.js";
import { showRefusal } from "./elements.js";
import { milliseconds } from "./units.js";

const ROW = 9;
const TRACK = 20;
const LEAST = 60;
const MOST = 460;
// Room for the axis.
const AXIS = 32;
const STEP = 0.2;
const FIRST_SHOWN = 12;
const LETTER = 7;

const where = document.querySelector("#timeline");
const reading = document.querySelector("#reading");

// From trace events to passes and their items, in seconds: 0 is when the last pass ended.
export function passesOf({ traceEvents: events }) {
  const names = new Map(events.filter((one) => one.ph === "M").map((one) => [one.tid, one.args.name]));
  const forwards = events.filter((one) => one.ph === "X");
  const ends = new Map();
  const starts = new Map();
  for (const one of events) {
    if (one.ph === "e") ends.set(`${one.id} ${one.name}`, one.ts);
    if (one.ph === "b" && one.args) {
      const waits = starts.get(one.args.batch) ?? [];
      starts.set(one.args.batch, [...waits, one]);
    }
  }
  const passes = forwards.map((one) => ({
    ...one.args,
    track: names.get(one.tid) ?? one.args.model,
    start: one.ts,
    end: one.ts + one.dur,
    items: (starts.get(one.args.batch) ?? []).map((wait) => ({
      arrived: wait.ts,
      queued: ends.get(`${wait.id} decode`) ?? wait.ts,
      formed: ends.get(`${wait.id} ${wait.name}`) ?? wait.ts,
    })),
  }));
  return inSeconds(passes);
}

function inSeconds(passes) {
  const last = Math.max(...passes.map((pass) => pass.end));
  const at = (micros) => (micros - last) / 1e6;
  return passes.map((pass) => ({
    ...pass,
    start: at(pass.start),
    end: at(pass.end),
    items: pass.items.map((item) => ({
      arrived: at(item.arrived), queued: at(item.queued), formed: at(item.formed),
    })),
  }));
}

// Gives each item the first row that is free when it arrives; returns how many rows there are.
export function giveRows(passes) {
  const free = [];
  const items = passes.flatMap((pass) => pass.items.map((item) => [item, pass]));
  items.sort(([a], [b]) => a.arrived - b.arrived);
  for (const [item, pass] of items) {
    const found = free.findIndex((until) => until <= item.arrived);
    item.row = found === -1 ? free.length : found;
    free[item.row] = pass.end;
  }
  return free.length;
}

class Timeline {
  constructor(passes) {
    this.passes = passes;
    this.tracks = [...new Set(passes.map((pass) => pass.track))];
    this.rows = giveRows(passes);
    this.first = Math.min(...passes.flatMap((pass) => [pass.start, ...pass.items.map((item) => item.arrived)]));
    this.least = Math.min(...passes.map((pass) => pass.end - pass.start)) / 20;
    this.range = this.beginning();
    this.height = this.tracks.length * TRACK + this.rows * ROW;
    this.chart = makeChart(where, this.options(), [[this.first, 0], [null, null]]);
    this.listen();
  }

  // Some of the last passes, so few that they can be told apart.
  beginning() {
    const shown = this.passes.slice(-2 * FIRST_SHOWN).slice(0, FIRST_SHOWN);
    const from = Math.min(...shown.map((pass) => pass.items[0]?.arrived ?? pass.start));
    return [from, Math.max(...shown.map((pass) => pass.end))];
  }

  options() {
    return {
      height: Math.min(MOST, Math.max(LEAST, this.height)) + AXIS,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, y: false },
      scales: {
        x: { time: false, range: () => this.range },
        y: { range: () => [0, this.height], dir: -1 },
      },
      axes: [axis({ space: 90, values: (_chart, ticks) => ticks.map(before) }), this.trackAxis()],
      series: [{}, { show: false }],
      padding: [4, 8, 0, 8],
      hooks: { draw: [(chart) => this.draw(chart)], setCursor: [(chart) => this.read(chart)] },
    };
  }

  // The names of the tracks, where there are several.
  trackAxis() {
    if (this.tracks.length === 1) return { show: false };
    const names = this.tracks.map((track) => track.replace(/ forward$/, ""));
    return axis({
      size: Math.min(150, LETTER * Math.max(...names.map((name) => name.length)) + 14),
      grid: { show: false },
      splits: () => names.map((_name, index) => (index + 0.5) * TRACK),
      values: () => names,
    });
  }

  draw(chart) {
    const { ctx } = chart;
    const { left, top, width, height } = chart.bbox;
    const [from, to] = this.range;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    for (const pass of this.passes) {
      if (pass.end < from && pass.start < from) continue;
      this.drawPass(chart, pass);
      for (const item of pass.items) if (item.arrived <= to) this.drawItem(chart, item, pass);
    }
    ctx.restore();
  }

  drawPass(chart, pass) {
    const top = this.tracks.indexOf(pass.track) * TRACK;
    const box = rectangle(chart, [pass.start, pass.end], [top + 2, top + TRACK - 4]);
    fill(chart, box, colour("forward"));
    const text = `${pass.size} ${pass.reason}`;
    const { ctx } = chart;
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    if (ctx.measureText(text).width + 8 * devicePixelRatio < box[2]) {
      ctx.fillStyle = colour("on-accent");
      ctx.textAlign = "left";
      ctx.textBaseline = "middle";
      ctx.fillText(text, Math.max(box[0], chart.bbox.left) + 4 * devicePixelRatio, box[1] + box[3] / 2);
    }
  }

  drawItem(chart, item, pass) {
    const top = this.tracks.length * TRACK + item.row * ROW;
    const rows = [top + 1, top + ROW - 1];
    fill(chart, rectangle(chart, [item.arrived, item.queued], rows), colour("decode"));
    fill(chart, rectangle(chart, [item.queued, item.formed], rows), colour("queue"));
    fill(chart, rectangle(chart, [pass.start, pass.end], rows), colour("forward", 0.45));
  }

  // Says what is under the pointer.
  read(chart) {
    const { left, top } = chart.cursor;
    if (left < 0) return;
    const at = chart.posToVal(left, "x");
    const place = chart.posToVal(top, "y") - this.tracks.length * TRACK;
    const row = Math.floor(place / ROW);
    const track = this.tracks[Math.floor((place + this.tracks.length * TRACK) / TRACK)];
    for (const pass of this.passes) {
      const item = place < 0 ? null : pass.items.find((one) => one.row === row && one.arrived <= at && at <= pass.end);
      if (item || (place < 0 && pass.track === track && pass.start <= at && at <= pass.end)) {
        reading.textContent = tell(pass, item);
        return;
      }
    }
    reading.textContent = "";
  }

  // Shows more or less around a place between 0, the left, and 1.
  zoom(factor, around = 0.5) {
    const [from, to] = this.range;
    const width = Math.min(-this.first, Math.max(this.least, (to - from) * factor));
    this.look(from + around * (to - from - width), width);
  }

  move(share) {
    const [from, to] = this.range;
    this.look(from + share * (to - from), to - from);
  }

  whole() {
    this.look(this.first, -this.first);
  }

  look(from, width) {
    const start = Math.min(Math.max(this.first, from), -width);
    this.range = [start, start + width];
    this.chart.setScale("x", { min: this.range[0], max: this.range[1] });
  }

  listen() {
    const { over } = this.chart;
    const pointers = new Map();
    const share = (x) => (x - over.getBoundingClientRect().left) / over.clientWidth;
    over.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.move(event.deltaX / over.clientWidth);
      else this.zoom(Math.exp(event.deltaY / 400), share(event.clientX));
    }, { passive: false });
    over.addEventListener("pointerdown", (event) => {
      over.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, event.clientX);
      where.classList.add("moving");
    });
    over.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return;
      const before = [...pointers.values()];
      pointers.set(event.pointerId, event.clientX);
      const now = [...pointers.values()];
      if (now.length === 1) this.move((before[0] - now[0]) / over.clientWidth);
      else this.zoom(apart(before) / apart(now), share((now[0] + now[1]) / 2));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      over.addEventListener(end, (event) => {
        pointers.delete(event.pointerId);
        where.classList.toggle("moving", pointers.size > 0);
      });
    }
  }
}

export async function startTimeline() {
  let timeline = null;
  const load = async () => {
    try {
      const trace = await getJson(`/debug/batches?last=${document.querySelector("#last").value}`);
      showRefusal("#timeline-trouble", null);
      if (timeline) removeChart(timeline.chart);
      timeline = null;
      const passes = passesOf(trace);
      where.classList.toggle("quiet", !passes.length);
      where.dataset.quiet = "This worker has computed no batch yet.";
      reading.textContent = passes.length
        ? `Worker ${trace.otherData.worker}. Point at something to read it; drag and scroll to look around.` : "";
      if (passes.length) timeline = new Timeline(passes);
    } catch (error) {
      showRefusal("#timeline-trouble", error);
    }
  };
  const actions = {
    earlier: (shown) => shown.move(-STEP),
    later: (shown) => shown.move(STEP),
    closer: (shown) => shown.zoom(1 / 1.6),
    wider: (shown) => shown.zoom(1.6),
    whole: (shown) => shown.whole(),
  };
  for (const [name, action] of Object.entries(actions)) {
    document.querySelector(`#${name}`).addEventListener("click", () => timeline && action(timeline));
  }
  const keys = {
    ArrowLeft: "earlier", ArrowRight: "later", "+": "closer", "=": "closer", "-": "wider", 0: "whole",
  };
  where.addEventListener("keydown", (event) => {
    const name = keys[event.key];
    if (!name || !timeline || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[name](timeline);
  });
  document.querySelector("#reload").addEventListener("click", load);
  document.querySelector("#last").addEventListener("change", load);
  document.addEventListener("key", load);
  await load();
}

function fill(chart, [left, top, width, height], shade) {
  chart.ctx.fillStyle = shade;
  // A gap of a pixel tells neighbours apart.
  chart.ctx.fillRect(left, top, Math.max(1, width - 1), height);
}

function tell(pass, item) {
  const words = `Batch ${pass.batch} of ${pass.model}: ${pass.size} item${pass.size === 1 ? "" : "s"}, ` +
    `closed as ${pass.reason}, computed in ${milliseconds(1000 * (pass.end - pass.start))}; ` +
    `${pass.queued_after} still waited afterwards.`;
  if (!item) return words;
  return `${words} This item was decoded for ${milliseconds(1000 * (item.queued - item.arrived))} and waited ` +
    `${milliseconds(1000 * (item.formed - item.queued))}.`;
}

function before(seconds) {
  return seconds < 0 ? `−${milliseconds(-1000 * seconds)}` : "the last";
}

function apart([a, b]) {
  return Math.max(1, Math.abs(a - b));
}
