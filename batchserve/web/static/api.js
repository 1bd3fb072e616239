// Talks to the server: JSON, the API key, the server's own words when it refuses.

import { apiKey, askForKey } from "./layout.js";

export class Refusal extends Error {
  constructor(message, status, code, id) {
    super(message);
    this.status = status;
    this.code = code;
    this.id = id;
  }
}

export async function getJson(path, options = {}) {
  return (await ask(path, options)).json;
}

// Asks, and returns what was answered, how long it took, and what the headers tell of the batch.
export async function ask(path, { headers = {}, ...options } = {}) {
  const key = apiKey();
  const began = performance.now();
  const { response, text } = await send(path, {
    ...options,
    headers: key ? { ...headers, "X-API-Key": key } : headers,
  });
  const total = performance.now() - began;
  const json = parse(text);
  if (!response.ok) throw refusal(response, json, text);
  return {
    json,
    total,
    bytes: text.length,
    id: response.headers.get("X-Request-Id"),
    size: Number(response.headers.get("X-Batch-Size")),
    reason: response.headers.get("X-Batch-Reason"),
    stages: stagesOf(response.headers.get("Server-Timing") ?? ""),
  };
}

async function send(path, options) {
  try {
    const response = await fetch(path, options);
    return { response, text: await response.text() };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server cannot be reached.", 0, "no_answer", null);
  }
}

function refusal(response, json, text) {
  if (response.status === 401) askForKey();
  return new Refusal(
    json?.error ?? (text || response.statusText),
    response.status,
    json?.code ?? "",
    response.headers.get("X-Request-Id"),
  );
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// "decode;dur=1.2, queue;dur=0.3" to [["decode", 1.2], ["queue", 0.3]], in milliseconds.
export function stagesOf(header) {
  const found = header.matchAll(/([\w-]+)[^,]*?;\s*dur=([\d.]+)/g);
  return [...found].map(([, name, ms]) => [name, Number(ms)]);
}
