// uPlot in our colours, as wide as its place, repainted when the theme changes.

import uPlot from "./uplot-1.6.32.js";

const probe = document.createElement("span");
probe.hidden = true;
document.documentElement.append(probe);
const colours = new Map();
// Each with what watches the width of its place.
const charts = new Map();

document.addEventListener("theme", () => {
  colours.clear();
  for (const chart of charts.keys()) chart.redraw(false);
});

// A custom property's colour in the present theme; with an opacity, if one is given.
export function colour(name, opacity = 1) {
  const key = `${name} ${opacity}`;
  if (!colours.has(key)) {
    probe.style.color = opacity === 1
      ? `var(--${name})`
      : `color-mix(in srgb, var(--${name}) ${100 * opacity}%, transparent)`;
    colours.set(key, getComputedStyle(probe).color);
  }
  return colours.get(key);
}

export function makeChart(place, options, data) {
  const chart = new uPlot({ ...options, width: widthOf(place) }, data, place);
  const observer = new ResizeObserver(() => {
    const width = widthOf(place);
    if (width !== chart.width) chart.setSize({ width, height: options.height });
  });
  observer.observe(place);
  charts.set(chart, observer);
  return chart;
}

export function removeChart(chart) {
  charts.get(chart).disconnect();
  charts.delete(chart);
  chart.destroy();
}

export function axis(options = {}) {
  return {
    stroke: () => colour("muted"),
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { show: false },
    size: 28,
    font: "12px system-ui, sans-serif",
    ...options,
  };
}

// A range from 0 to a little more than there is, and never to nothing.
export function fromZero(least = 1) {
  return (_chart, _min, max) => [0, Math.max(least, (max ?? 0) * 1.08)];
}

// Marks values with nothing beside them, of which no line would tell.
export function lonely(chart, series) {
  const values = chart.data[series];
  const there = (place) => values[place] !== null && values[place] !== undefined;
  return [...values.keys()].filter((place) => there(place) && !there(place - 1) && !there(place + 1));
}

export const bars = (size = 0.7) => uPlot.paths.bars({ size: [size, 60] });
export const rectangle = (chart, [x0, x1], [y0, y1]) => {
  const left = chart.valToPos(x0, "x", true);
  const right = chart.valToPos(x1, "x", true);
  const top = chart.valToPos(y1, "y", true);
  const bottom = chart.valToPos(y0, "y", true);
  return [left, Math.min(top, bottom), right - left, Math.abs(bottom - top)];
};

function widthOf(place) {
  return Math.max(120, Math.floor(place.clientWidth));
}
