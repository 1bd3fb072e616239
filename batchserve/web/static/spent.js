// Where one request's time went, and whom it shared its forward pass with.

import { element } from "./elements.js";
import { milliseconds } from "./units.js";

const REST = "everything else";
const WHY = {
  full: "it was full",
  idle: "the device was free and nobody else could join",
  wait: "its oldest item had waited long enough",
  deadline: "one item more would have made one in it late",
  drain: "the server is shutting down",
  retry: "it is a part of a batch that had failed",
};
const WHAT = {
  decode: "reading the input into a tensor",
  queue: "waiting for the batch",
  forward: "the model's forward pass, of the whole batch",
  [REST]: "the network, reading the body, writing the answer, and this browser",
};

export function showSpent(answer) {
  const stages = withRest(answer.stages, answer.total);
  document.querySelector("#total").textContent = `its ${milliseconds(answer.total)}`;
  const bar = document.querySelector("#stages");
  bar.replaceChildren(...stages.map(([name, ms]) => {
    const part = element("span", { className: `grows ${classOf(name)}`, title: WHAT[name] ?? name });
    part.style.flexGrow = Math.max(ms, 0.001);
    return part;
  }));
  bar.ariaLabel = stages.map(([name, ms]) => `${name} ${milliseconds(ms)}`).join(", ");
  document.querySelector("#legend").replaceChildren(...stages.map(([name, ms]) =>
    element("div", { title: WHAT[name] ?? name },
      element("dt", { className: classOf(name), text: name }),
      element("dd", { text: milliseconds(ms) }))));
  document.querySelector("#company").textContent = companyOf(answer.size, answer.reason);
  document.querySelector("#request").textContent = `Request ${answer.id}`;
  document.querySelector("#spent").hidden = false;
}

// What the server does not measure is what is left of the whole.
export function withRest(stages, total) {
  const measured = stages.reduce((sum, [, ms]) => sum + ms, 0);
  return [...stages, [REST, Math.max(0, total - measured)]];
}

export function companyOf(size, reason) {
  const who = size === 1
    ? "It had its forward pass to itself"
    : `It shared its forward pass with ${size - 1} other${size > 2 ? "s" : ""}`;
  return WHY[reason] ? `${who}; the batch was closed because ${WHY[reason]}.` : `${who}.`;
}

function classOf(name) {
  return name in WHAT && name !== REST ? name : "rest";
}
