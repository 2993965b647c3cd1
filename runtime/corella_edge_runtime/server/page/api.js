// The server, as this page calls it. Every failure is an Error whose message is one line for people.

const KEY = "corella-edge-key";

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// The API key lives as long as the tab.
export function key(value) {
  if (value === undefined) return sessionStorage.getItem(KEY) ?? "";
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
  return value;
}

export async function get(path, parameters = {}, signal = null) {
  const query = new URLSearchParams(parameters).toString();
  const response = await send(query ? `${path}?${query}` : path, { signal });
  return response.json();
}

// One ranking. `seen(answer, final)` is called for the CRM's answer if the server sends it first, and for the final one.
// Returns the Server-Timing entries and the milliseconds this browser waited.
export async function rank(body, progressive, signal, seen) {
  const began = performance.now();
  const response = await send(progressive ? "v1/rank?mode=progressive" : "v1/rank", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  const timing = serverTiming(response.headers.get("Server-Timing") ?? "");
  const streamed = (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
  if (streamed) await stream(response, seen);
  else seen(await response.json(), true);
  return { timing, waited: performance.now() - began };
}

async function stream(response, seen) {
  let finished = false;
  for await (const { event, data } of events(texts(response.body))) {
    if (event === "crm" || event === "final") seen(JSON.parse(data), event === "final");
    if (event === "error") throw new Refused(sentence(data, "The answer ended with an error"), 500);
    finished ||= event === "final";
  }
  if (!finished) throw new Refused("The answer ended before it was refined", 0);
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer", 0);
  }
  if (!response.ok) throw new Refused(sentence(await response.text(), response.statusText), response.status);
  return response;
}

// The message of an error's JSON body.
function sentence(body, otherwise) {
  try {
    return JSON.parse(body).error.message;
  } catch {
    return otherwise || "The server refused";
  }
}

async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

// Server-sent events out of pieces of text, wherever they were cut.
export async function* events(pieces) {
  let rest = "";
  for await (const piece of pieces) {
    rest += piece;
    // A carriage return at the very end may be half of a line break.
    const blocks = rest.replace(/\r\n|\r(?!$)/g, "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event.data) yield event;
    }
  }
}

function parsed(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line);
    if (name === "event") event = value ?? "";
    if (name === "data") data.push(value ?? "");
  }
  return { event, data: data.join("\n") };
}

// `name;dur=1.23;desc="…", …` → [{name, ms, words}]; what is not of that form is left out.
export function serverTiming(header) {
  const entry = /([\w!#$%&'*+.^`|~-]+)((?:\s*;\s*[\w-]+(?:=(?:"(?:[^"\\]|\\.)*"|[^;,\s"]+))?)*)\s*(?:,|$)/g;
  return [...header.matchAll(entry)].map(([, name, rest]) => ({
    name, ms: Number(parameter(rest, "dur") ?? NaN), words: parameter(rest, "desc") ?? "",
  })).filter((part) => Number.isFinite(part.ms) && part.ms >= 0);
}

function parameter(rest, name) {
  const found = new RegExp(`;\\s*${name}=(?:"((?:[^"\\\\]|\\\\.)*)"|([^;,\\s"]+))`, "i").exec(rest);
  return found ? (found[1]?.replace(/\\(.)/g, "$1") ?? found[2]) : null;
}
