// What the model is to be asked: a photo, a file, numbers, text or JSON.
//
// An input has either a `blob`, a file as it is, or `json`, the X of {"input": X}.

import { Refusal, ask } from "./api.js";

const form = document.querySelector("#input");
const preview = document.querySelector("#preview");
const MOST_RANDOM = 100_000;

let expected = { kind: "json" };
let file = null;

const field = (name) => form.querySelector(`#${name}`);

// Calls back when there is a new photo, or when the form is sent.
export function startInputs(onInput) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    onInput();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  field("random").addEventListener("click", () => {
    field("numbers").value = randomNumbers(expected.shape, expected.dtype);
    onInput();
  });
  const take = (chosen) => {
    takeFile(chosen);
    onInput();
  };
  for (const name of ["file", "camera", "raw"]) {
    field(name).addEventListener("change", () => {
      const [chosen] = field(name).files;
      if (chosen) take(chosen);
    });
  }
  for (const button of form.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", async () => take(await sample(button.dataset.sample)));
  }
  listenForDrops(take);
  document.addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData.files;
    if (pasted && takesFiles()) {
      event.preventDefault();
      take(pasted);
    }
  });
}

// Asks for what this model takes.
export function expect(model) {
  const before = expected.kind;
  expected = model.input ?? { kind: "json" };
  for (const part of form.querySelectorAll("[data-kind]")) {
    part.hidden = part.dataset.kind !== expected.kind;
  }
  field("ask").disabled = model.state !== "ready";
  if (expected.kind === "numbers") {
    field("shape").textContent = expected.shape
      ? `${expected.dtype} of shape [${expected.shape.join(", ")}]`
      : expected.dtype;
    field("numbers").value = randomNumbers(expected.shape, expected.dtype);
  }
  if (before !== expected.kind) takeFile(null);
}

// Returns the present input; null: there is none yet.
export function currentInput() {
  switch (expected.kind) {
    case "image":
    case "file":
      return file && { kind: expected.kind, blob: file, name: file.name };
    case "numbers":
      return { kind: "numbers", json: numbersOf(field("numbers").value) };
    case "text":
      return field("text").value ? { kind: "text", json: field("text").value } : null;
    default:
      return field("json").value.trim() ? { kind: "json", json: jsonOf(field("json").value) } : null;
  }
}

export function predict(path, input, signal) {
  const [body, type] = input.blob
    ? [input.blob, input.blob.type || "application/octet-stream"]
    : [JSON.stringify({ input: input.json }), "application/json"];
  return ask(path, { method: "POST", body, headers: { "Content-Type": type }, signal });
}

export function predictMany(path, inputs, signal) {
  const body = JSON.stringify({ inputs });
  return ask(path, {
    method: "POST", body, headers: { "Content-Type": "application/json" }, signal,
  });
}

// Lists as JSON, or rows as a spreadsheet copies them: one row is a vector, several are a matrix.
export function numbersOf(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith("[")) return jsonOf(trimmed);
  const rows = trimmed.split(/\n+/).map((row) => row.trim().split(/[\s,;]+/).filter(Boolean).map(toNumber));
  if (rows.length > 1) return rows;
  return rows[0].length === 1 && expected.shape?.length === 0 ? rows[0][0] : rows[0];
}

function toNumber(word) {
  const number = Number(word);
  if (Number.isNaN(number)) throw new Refusal(`“${word}” is not a number.`, 0, "", null);
  return number;
}

function jsonOf(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Refusal(`This is not JSON: ${error.message}`, 0, "", null);
  }
}

// Numbers of a shape, as JSON; 1 where a size may vary.
export function randomNumbers(shape, dtype = "float32") {
  const sizes = (shape ?? [4]).map((size) => (size === -1 ? 1 : size));
  if (sizes.reduce((product, size) => product * size, 1) > MOST_RANDOM) return "";
  const one = dtype.startsWith("float")
    ? () => Math.round(2000 * Math.random() - 1000) / 1000
    : dtype === "bool" ? () => Math.random() < 0.5 : () => Math.floor(10 * Math.random());
  const build = ([size, ...others]) =>
    size === undefined ? one() : Array.from({ length: size }, () => build(others));
  return JSON.stringify(build(sizes)).replaceAll(",", ", ");
}

function takesFiles() {
  return expected.kind === "image" || expected.kind === "file";
}

function takeFile(chosen) {
  file = chosen;
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.hidden = !chosen;
  if (chosen) preview.src = URL.createObjectURL(chosen);
  else preview.removeAttribute("src");
}

async function sample(name) {
  const response = await fetch(`/samples/${name}.jpg`);
  return new File([await response.blob()], `${name}.jpg`, { type: "image/jpeg" });
}

function listenForDrops(take) {
  const mark = (on) => document.body.classList.toggle("dragging", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    mark(false);
    const [dropped] = event.dataTransfer.files;
    if (!dropped) return;
    if (takesFiles()) take(dropped);
    else field(expected.kind).value = await dropped.text();
  });
}
