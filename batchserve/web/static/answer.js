// Shows what a model answered, by its form: labels with scores, numbers, or JSON.

import { element } from "./elements.js";

const MOST_NUMBERS = 64;
const MOST_LETTERS = 20_000;

export function showAnswer(output) {
  document.querySelector("#output").replaceChildren(...render(output));
}

// The answer in a few words, to be read aloud.
export function inWords(output) {
  const ranking = rankingOf(output);
  if (ranking) return `${ranking[0].label}, ${score(ranking[0].score)}`;
  return `Answer: ${JSON.stringify(output).slice(0, 120)}`;
}

function render(output) {
  const ranking = rankingOf(output);
  if (ranking) return [bars(ranking)];
  if (typeof output === "number") return [element("p", { className: "scalar", text: short(output) })];
  if (Array.isArray(output) && output.length && output.every(Number.isFinite)) return vector(output);
  const text = readable(output);
  const cut = text.length > MOST_LETTERS;
  return [element("pre", { text: cut ? `${text.slice(0, MOST_LETTERS)}\n…` : text, tabindex: 0 })];
}

// [{label, score}, …] or {label: score, …}; null: neither.
function rankingOf(output) {
  const isScored = (one) => typeof one?.label === "string" && Number.isFinite(one.score);
  if (Array.isArray(output)) return output.length && output.every(isScored) ? output : null;
  if (output === null || typeof output !== "object") return null;
  const scores = Object.entries(output).map(([label, value]) => ({ label, score: value }));
  return scores.length && scores.every(isScored) ? scores : null;
}

function bars(ranking) {
  const most = Math.max(...ranking.map((one) => Math.abs(one.score)), 1e-12);
  const whole = ranking.every((one) => one.score >= 0 && one.score <= 1) ? 1 : most;
  const rows = ranking.slice(0, MOST_NUMBERS).map((one) => {
    const fill = element("div", { className: "fill grows" });
    fill.style.width = `${(100 * Math.abs(one.score)) / whole}%`;
    return element("li", {},
      element("span", { text: one.label }),
      element("span", { className: "value", text: whole === 1 ? score(one.score) : short(one.score) }),
      element("div", { className: "track", "aria-hidden": "true" }, fill));
  });
  return element("ol", { className: "ranking" }, ...rows);
}

function vector(numbers) {
  const rows = numbers.slice(0, MOST_NUMBERS).map((number, index) =>
    element("li", {}, element("span", { text: index }), element("span", { text: short(number) })));
  const list = element("ol", { className: "numbers" }, ...rows);
  const left = numbers.length - rows.length;
  const count = `${numbers.length} numbers${left ? `, ${left} of them not shown` : ""}`;
  return [list, element("p", { className: "count muted small", text: count })];
}

// JSON with a line for each innermost list of numbers.
function readable(output) {
  const text = JSON.stringify(output, null, 2) ?? "";
  return text.replace(/\[[-+\d.eE,\s]+\]/g, (list) => list.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]"));
}

function score(value) {
  return value < 0 || value > 1 ? short(value) : `${(100 * value).toFixed(1)} %`;
}

function short(number) {
  return Number.isInteger(number) ? String(number) : String(Number(number.toPrecision(5)));
}
