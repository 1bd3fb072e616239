// Makes elements; text is always text, never HTML.

export function element(tag, { className, text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function show(selector, text) {
  const found = document.querySelector(selector);
  found.textContent = text;
  found.hidden = !text;
}

// Shows what went wrong, in the server's own words, and how to find it in the log.
export function showRefusal(selector, error) {
  const found = document.querySelector(selector);
  found.hidden = !error;
  if (!error) return;
  found.textContent = error.message;
  const details = [error.status || "", error.code, error.id && `request ${error.id}`].filter(Boolean);
  if (details.length) found.append(element("small", { text: details.join(" · ") }));
}
