// What the codes of an answer mean, for people. docs/serving.md has the list of reasons; a test compares the two.

// reason → [state, words]; the state is a dot's colour: easy, asked, waiting, or missed (wanted, and not answered).
export const REASONS = {
  "": ["easy", "The CRM is sure enough"],
  entropy: ["asked", "Asked: its entropy reaches the threshold"],
  ratio: ["asked", "Asked: among the least certain"],
  no_llm: ["missed", "To be asked, but no LLM is loaded"],
  no_text: ["missed", "To be asked, but it has no title to ask about"],
  too_long: ["missed", "To be asked, but the prompt is too long for the LLM"],
  queue_full: ["missed", "To be asked, but too much waits for the LLM"],
  deadline: ["missed", "Asked, but the LLM was not done at the deadline"],
  llm_error: ["missed", "Asked, but the LLM failed"],
};

export function why(row) {
  const [state, words] = REASONS[row.reason] ?? ["missed", `The CRM's score stands: ${row.reason}`];
  return { state, words };
}

// Names in the Server-Timing header → what happens then.
export const STEPS = {
  parse: "read", encode: "encode", crm: "CRM", queue: "queue", prefill: "LLM", serialise: "write",
};
