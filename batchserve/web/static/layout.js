// What both pages have: the theme, and the API key.

const THEMES = ["", "light", "dark"];
const NAMES = { "": "as the system", light: "light", dark: "dark" };
const KEY = "batchserve.key";

const root = document.documentElement;

function store(storage, name, value) {
  try {
    if (value) storage.setItem(name, value);
    else storage.removeItem(name);
  } catch {
    // A browser may forbid it; it then holds for this page.
  }
}

function stored(storage, name) {
  try {
    return storage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

function setTheme(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  store(localStorage, "theme", theme);
  const button = document.querySelector("#theme");
  button.ariaLabel = `Theme: ${NAMES[theme]}`;
  button.title = button.ariaLabel;
  document.dispatchEvent(new Event("theme"));
}

export function startLayout() {
  const current = root.dataset.theme ?? "";
  setTheme(current);
  document.querySelector("#theme").addEventListener("click", () => {
    const now = THEMES.indexOf(root.dataset.theme ?? "");
    setTheme(THEMES[(now + 1) % THEMES.length]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    document.dispatchEvent(new Event("theme")),
  );

  const field = document.querySelector("#key");
  field.value = stored(sessionStorage, KEY);
  field.addEventListener("change", () => {
    store(sessionStorage, KEY, field.value.trim());
    document.dispatchEvent(new Event("key"));
  });
  document.querySelector("#key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    document.querySelector("#key-box").open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector("#key-box").open = false;
  });
}

export function apiKey() {
  return document.querySelector("#key").value.trim();
}

export function askForKey() {
  const box = document.querySelector("#key-box");
  if (!box.open) {
    box.open = true;
    document.querySelector("#key").focus();
  }
}
