// The same request as commands: pure, from what is asked to text.
//
// `request` has the whole `url`, and of the input its `kind`, the `name` of a file or its `json`;
// `keyed`: the server wants an API key.

const LONGEST = 1500;

export function curl(request) {
  const key = request.keyed ? [`-H "X-API-Key: $API_KEY"`] : [];
  const [comment, ...body] = request.name ? curlFile(request) : curlJson(request.json);
  return `${comment}${["curl", ...key, ...body, quote(request.url)].join(" ")}`;
}

function curlFile({ kind, name, type }) {
  if (kind !== "image") return ["", `--data-binary ${quote(`@${name}`)}`, `-H ${quote(`Content-Type: ${type}`)}`];
  // To curl, a comma or a semicolon ends a name that is not quoted.
  const named = /[,;"\\]/.test(name) ? `"${name.replaceAll(/["\\]/g, "\\$&")}"` : name;
  return ["", `-F ${quote(`file=@${named}`)}`];
}

function curlJson(json) {
  const body = bodyOf(json);
  const type = "-H 'Content-Type: application/json'";
  if (body.length <= LONGEST) return ["", type, `-d ${quote(body)}`];
  return [`# body.json holds {"input": …}\n`, type, "-d @body.json"];
}

export function python(request) {
  const { before, argument, headers } = request.name ? pythonFile(request) : pythonJson(request.json);
  if (request.keyed) headers["X-API-Key"] = `os.environ["API_KEY"]`;
  const stated = Object.entries(headers).map(([name, value]) => `"${name}": ${value}`);
  const more = stated.length ? `, headers={${stated.join(", ")}}` : "";
  return [
    ...(request.keyed ? ["import os", ""] : []),
    "import requests",
    "",
    ...before,
    `${before.length ? "    " : ""}response = requests.post(${pythonText(request.url)}, ${argument}${more})`,
    "response.raise_for_status()",
    `print(response.json()["output"])`,
    `print("in a batch of", response.headers["X-Batch-Size"])`,
  ].join("\n");
}

function pythonFile({ kind, name, type }) {
  const before = [`with open(${pythonText(name)}, "rb") as file:`];
  if (kind === "image") return { before, argument: `files={"file": file}`, headers: {} };
  return { before, argument: "data=file", headers: { "Content-Type": pythonText(type) } };
}

function pythonJson(json) {
  if (bodyOf(json).length <= LONGEST) {
    return { before: [], argument: `json={"input": ${pythonLiteral(json)}}`, headers: {} };
  }
  return {
    before: [`with open("body.json", "rb") as file:  # {"input": …}`],
    argument: "data=file",
    headers: { "Content-Type": `"application/json"` },
  };
}

export function javascript(request) {
  const headers = [];
  if (request.keyed) headers.push(`"X-API-Key": apiKey`);
  let before = "";
  let body = "file";
  if (request.name) {
    before = `const [file] = document.querySelector("input[type=file]").files; // ${request.name}\n`;
    headers.push(`"Content-Type": file.type || "application/octet-stream"`);
  } else {
    headers.push(`"Content-Type": "application/json"`);
    const json = bodyOf(request.json);
    body = json.length > LONGEST ? "JSON.stringify({ input })" : `JSON.stringify(${json})`;
  }
  return `${before}const response = await fetch(${JSON.stringify(request.url)}, {
  method: "POST",
  headers: { ${headers.join(", ")} },
  body: ${body},
});
const answer = await response.json();
if (!response.ok) throw new Error(answer.error);
console.log(answer.output, "in a batch of", response.headers.get("X-Batch-Size"));`;
}

function bodyOf(json) {
  return `{"input": ${JSON.stringify(json)}}`;
}

// For a POSIX shell.
export function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

// JSON's strings are Python's, too.
function pythonText(text) {
  return JSON.stringify(text);
}

function pythonLiteral(json) {
  if (json === null) return "None";
  if (typeof json === "boolean") return json ? "True" : "False";
  if (Array.isArray(json)) return `[${json.map(pythonLiteral).join(", ")}]`;
  if (typeof json === "object") {
    const pairs = Object.entries(json).map(([name, value]) => `${pythonText(name)}: ${pythonLiteral(value)}`);
    return `{${pairs.join(", ")}}`;
  }
  return JSON.stringify(json);
}
