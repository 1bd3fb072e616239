// Which models are served, and which one is chosen.

import { getJson } from "./api.js";
import { milliseconds } from "./units.js";

const model = document.querySelector("#model");
const version = document.querySelector("#version");
const facts = document.querySelector("#facts");

let served = [];

// Calls back with the chosen version each time that the choice changes.
export async function startModels(onChoice) {
  served = (await getJson("/models")).models;
  model.addEventListener("change", () => {
    fillVersions();
    choose(onChoice);
  });
  version.addEventListener("change", () => choose(onChoice));
  fill(model, [...new Set(served.map((one) => one.name))]);
  fillVersions();
  choose(onChoice);
}

export function chosen() {
  return served.find((one) => one.name === model.value && one.version === version.value);
}

// The shortest path that leads to the chosen version.
export function pathOf(one) {
  const siblings = served.filter((other) => other.name === one.name);
  if (served.length === 1) return "/predict";
  if (siblings.length === 1) return `/models/${one.name}/predict`;
  return `/models/${one.name}/versions/${one.version}/predict`;
}

function fillVersions() {
  const versions = served.filter((one) => one.name === model.value);
  fill(version, versions.map((one) => one.version));
  version.value = (versions.find((one) => one.current) ?? versions[0])?.version ?? "";
  document.querySelector("#versions").hidden = versions.length < 2;
}

function fill(select, names) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
}

function choose(onChoice) {
  const one = chosen();
  facts.textContent = one ? describe(one) : "No model is served.";
  if (one) onChoice(one);
}

function describe(one) {
  const parts = [one.state === "ready" ? one.task : `${one.state}: ${one.error ?? one.task}`];
  if (one.device) parts.push(`${one.device} in ${one.precision}`);
  if (one.max_batch_size) parts.push(`batches of up to ${one.max_batch_size}`);
  if (one.candidate) {
    const copies = one.candidate.shadow ? ["copies of requests"] : [];
    parts.push(`candidate for ${[`${Number((100 * one.candidate.share).toPrecision(3))} % of the requests`, ...copies].join(" and ")}`);
  }
  const sizes = Object.entries(one.forward_ms ?? {});
  if (sizes.length) {
    const [first, last] = [sizes[0], sizes.at(-1)];
    const shown = first === last ? [first] : [first, last];
    parts.push(`a forward pass of ${shown.map(([size, ms]) => `${size} takes ${milliseconds(ms)}`).join(", of ")}`);
  }
  return parts.join(" · ");
}
