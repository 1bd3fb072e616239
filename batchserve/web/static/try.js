// The page to try a model: what is chosen, asked and answered.

import { inWords, showAnswer } from "./answer.js";
import { startBurst } from "./burst.js";
import { show, showRefusal } from "./elements.js";
import { currentInput, expect, predict, startInputs } from "./inputs.js";
import { apiKey, startLayout } from "./layout.js";
import { chosen, pathOf, startModels } from "./models.js";
import * as snippets from "./snippets.js";
import { showSpent } from "./spent.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const code = document.querySelector("#code");
let asking = null;

async function askModel() {
  const [model, input] = [chosen(), read("#refusal")];
  showCode();
  if (!model || !input) return;
  asking?.abort();
  asking = new AbortController();
  const panel = document.querySelector(".answer");
  panel.classList.add("waiting");
  try {
    const answer = await predict(pathOf(model), input, asking.signal);
    clearAnswer();
    showAnswer(answer.json.output);
    showSpent(answer);
    show("#announce", inWords(answer.json.output));
  } catch (error) {
    if (error.name === "AbortError") return;
    clearAnswer();
    showRefusal("#refusal", error);
  }
  panel.classList.remove("waiting");
  // On a phone it lies below the photo.
  panel.scrollIntoView({ block: "nearest" });
}

function clearAnswer() {
  showRefusal("#refusal", null);
  document.querySelector("#nothing").hidden = true;
  document.querySelector("#spent").hidden = true;
  document.querySelector("#output").replaceChildren();
}

// The present input; what is wrong with it is shown, and null returned.
function read(place) {
  try {
    const input = currentInput();
    showRefusal(place, input ? null : new Error("There is no input yet."));
    return input;
  } catch (error) {
    clearAnswer();
    showRefusal(place, error);
    return null;
  }
}

function onChoice(model) {
  expect(model);
  clearAnswer();
  document.querySelector("#nothing").hidden = false;
  showCode();
}

function showCode() {
  const model = chosen();
  if (!model) return;
  const language = tabs.find((tab) => tab.ariaSelected === "true").id.replace("tab-", "");
  code.textContent = snippets[language](describeRequest(model));
}

function describeRequest(model) {
  const { kind } = model.input ?? { kind: "json" };
  const request = { kind, url: location.origin + pathOf(model), keyed: Boolean(apiKey()) };
  let input = null;
  try {
    input = currentInput();
  } catch {
    // It is shown once it is asked.
  }
  if (kind === "image" || kind === "file") {
    const type = input?.blob.type || "application/octet-stream";
    return { ...request, type, name: input?.name ?? (kind === "image" ? "photo.jpg" : "input") };
  }
  return { ...request, json: input?.json ?? (kind === "text" ? "Hello" : []) };
}

function startTabs() {
  const select = (tab) => {
    for (const one of tabs) {
      one.ariaSelected = String(one === tab);
      one.tabIndex = one === tab ? 0 : -1;
    }
    code.setAttribute("aria-labelledby", tab.id);
    showCode();
  };
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      select(next);
      next.focus();
    });
  }
  document.querySelector("#copy").addEventListener("click", copyCode);
}

async function copyCode() {
  try {
    await navigator.clipboard.writeText(code.textContent);
    show("#announce", "Copied");
    document.querySelector("#copy").textContent = "Copied";
  } catch {
    // A browser allows it on https and localhost only; the text is then ready for Ctrl+C.
    getSelection().selectAllChildren(code);
    document.querySelector("#copy").textContent = "Selected";
  }
  setTimeout(() => {
    document.querySelector("#copy").textContent = "Copy";
  }, 1500);
}

async function start() {
  startLayout();
  startTabs();
  startInputs(askModel);
  startBurst(() => {
    const [model, input] = [chosen(), read("#burst-refusal")];
    return model && input ? { path: pathOf(model), input } : null;
  });
  document.querySelector("#input").addEventListener("input", showCode);
  document.addEventListener("key", load);
  await load();
}

let loaded = false;

async function load() {
  if (loaded) {
    showCode();
    return;
  }
  try {
    await startModels(onChoice);
    loaded = true;
    showRefusal("#trouble", null);
  } catch (error) {
    showRefusal("#trouble", error);
  }
}

start();
