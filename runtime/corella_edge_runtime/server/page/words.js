// What the codes of an answer mean, for people. A test compares them with the server's own description.

// reason → [state, words]; the state is a dot's colour: easy, asked, waiting, or missed (wanted, and not answered).
export const REASONS = {
  "": ["easy", "Below the threshold: the LLM was not asked"],
  entropy: ["asked", "Asked: the base model was unsure"],
  ratio: ["asked", "Asked: among the least certain"],
  margin: ["asked", "Asked: its probability is near one half"],
  band: ["asked", "Asked: its probability is in the band"],
  ms: ["asked", "Asked: among the least certain that the milliseconds are enough for"],
  policy: ["asked", "Asked: by the bundle's own policy"],
  kept: ["asked", "The LLM's answer of earlier: nothing it read has changed"],
  capped: ["missed", "To be asked, but its kind has had its share of the LLM"],
  explore: ["asked", "Asked at random, to learn what asking gains"],
  shadow: ["missed", "To be asked, but the server only tries the LLM out: the base model answers"],
  no_llm: ["missed", "To be asked, but no LLM is loaded"],
  no_text: ["missed", "To be asked, but it has no title to ask about"],
  too_long: ["missed", "To be asked, but the prompt is too long for the LLM"],
  busy: ["missed", "To be asked, but the LLM cannot be done in time"],
  queue_full: ["missed", "To be asked, but too much waits for the LLM"],
  deadline: ["missed", "Asked, but the LLM was not done at the deadline"],
  llm_error: ["missed", "Asked, but the LLM failed"],
  pending: ["waiting", "Being asked"],
};

// `share`: how many of the candidates the request wants asked; at the ends it does not matter how sure the base model was.
export function why(row, share = null) {
  if (share >= 1 && row.reason === "ratio") return { state: "asked", words: "Asked: all are" };
  if (share === 0 && !row.reason) return { state: "easy", words: "Not asked: none is" };
  const [state, words] = REASONS[row.reason] ?? ["missed", `The base model's score stands: ${row.reason}`];
  return row.reason ? { state, words } : { state, words, hint: TERMS["below the threshold"] };
}

// Names of the Server-Timing header → what happens then, in the order in which it happens.
export const STEPS = {
  turn: "waiting for the server", parse: "parse request", wait: "hand over", store: "store", encode: "encode",
  crm: "base model", policy: "choose the hard ones", prompt: "build prompts", queue: "queue", prefill: "LLM",
  serialise: "write answer",
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

// What this page calls things, for people who meet them first; `help.js` shows it.
export const TERMS = {
  "base model": "A conventional recommendation model (CRM), small and quick. It scores every candidate, from ids, attributes and history.",
  LLM: "A small language model. It reads the user's history and a candidate's title as text, and says how likely a Yes is.",
  candidate: "An item that is to be ranked for the user.",
  probability: "How likely the user is to like the candidate: the base model's score, or what the LLM makes of it where it was asked.",
  entropy: "How unsure the base model is about a candidate, in nats: 0 is certain, 0.6931 (ln 2) is a coin toss.",
  threshold: "The LLM is asked about candidates whose entropy is at least this many nats.",
  "below the threshold": "Its entropy is below the threshold that this share comes to, so the base model's score stands.",
  "share asked": "The part of the candidates that the LLM is asked about: in this ranking, as the slider says; in the last minute, of everybody's requests.",
  target: "What the server holds for requests that bring no threshold of their own, as this page's do: the share asked, or LLM milliseconds a second, over its window, of what was set. Waiting: too little was seen lately to move the threshold.",
  moved: "Places that a candidate has moved against the ranking of the base model alone.",
  AUC: "How often a liked item is ranked above one that is not: 0.5 is by chance, 1 is always. More is better.",
  "log-loss": "How far the probabilities are from what happened. Less is better.",
  accuracy: "How often the probability is on the right side of a half. More is better.",
  deadline: "Milliseconds after which the answer is given, with the base model's scores where the LLM is not done.",
  "p50 and p99": "Half of the requests took at most p50 milliseconds, 99 of 100 at most p99.",
  "LLM queue": "Tokens of questions that wait for the LLM.",
  "held-out items": "What the user of the sample really did later; the models have not seen it.",
};
