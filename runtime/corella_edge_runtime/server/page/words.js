// What the codes of an answer mean, for people. A test compares them with the server's own description.

// reason → [state, words]; the state is a dot's colour: easy, asked, waiting, or missed (wanted, and not answered).
export const REASONS = {
  "": ["easy", "Below the threshold"],
  entropy: ["asked", "Asked: its entropy reaches the threshold"],
  ratio: ["asked", "Asked: among the least certain"],
  margin: ["asked", "Asked: its probability is near one half"],
  no_llm: ["missed", "To be asked, but no LLM is loaded"],
  no_text: ["missed", "To be asked, but it has no title to ask about"],
  too_long: ["missed", "To be asked, but the prompt is too long for the LLM"],
  busy: ["missed", "To be asked, but the LLM can not be done in time"],
  queue_full: ["missed", "To be asked, but too much waits for the LLM"],
  deadline: ["missed", "Asked, but the LLM was not done at the deadline"],
  llm_error: ["missed", "Asked, but the LLM failed"],
  pending: ["waiting", "Being asked"],
};

// `all`: the request wants every candidate asked, however certain.
export function why(row, all = false) {
  if (all && row.reason === "ratio") return { state: "asked", words: "Asked: all are" };
  const [state, words] = REASONS[row.reason] ?? ["missed", `The CRM's score stands: ${row.reason}`];
  return { state, words };
}

// Names of the Server-Timing header → what happens then, in the order in which it happens.
export const STEPS = {
  turn: "turn", parse: "read", wait: "hand over", store: "store", encode: "encode", crm: "CRM", prompt: "ask", queue: "queue",
  prefill: "LLM", serialise: "write",
};

// Where a request's time went: [{name, ms, words}]. Of an answer in two phases the header tells the first alone; what the
// LLM did stands in the refined answer.
export function steps(timing, explained) {
  const known = new Map(timing.map((step) => [step.name, { ...step }]));
  for (const [name, ms] of Object.entries(explained?.milliseconds ?? {})) {
    if (!known.has(name)) known.set(name, { name, ms, words: "" });
  }
  known.delete("total");
  if (explained && known.has("prefill")) known.get("prefill").words = tokens(explained.tokens);
  const order = Object.keys(STEPS);
  const place = ({ name }) => (order.includes(name) ? order.indexOf(name) : order.length);
  return [...known.values()].sort((a, b) => place(a) - place(b));
}

function tokens({ evaluated, reused }) {
  if (!evaluated && !reused) return "";
  return `${evaluated} tokens computed, ${reused} reused`;
}
