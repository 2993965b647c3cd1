// The answer: one row a candidate, best first, and the time line of the request.

import { byId, el, milliseconds, nats, probability, replaceRows, text } from "./dom.js";
import { HINT } from "./help.js";
import { about } from "./person.js";
import { STEPS, why } from "./words.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

// Candidates before their scores: new ones in front, in rows of the final height; those shown before stay as they are.
export function drawCandidates(candidates, remove) {
  const waiting = { state: "waiting", words: "" };
  const shown = [...byId("rows").children];
  const known = new Set(shown.map((one) => one.dataset.key));
  const wanted = new Set(candidates.map(({ item }) => item));
  const fresh = candidates.filter(({ item }) => !known.has(item)).map((item) => row(item, null, waiting, remove));
  replaceRows(byId("rows"), [...fresh, ...shown.filter((one) => wanted.has(one.dataset.key))]);
}

// The answered rows in the order of their ranks; rows that were shown before slide to their new places. `share`: see `why`.
export function drawAnswer(answer, { candidates, share }, remove) {
  const items = new Map(candidates.map((item) => [item.item, item]));
  const moved = movement(answer.candidates);
  const ranked = [...answer.candidates].sort((a, b) => a.rank - b.rank);
  const rows = ranked.map((found) => row(items.get(found.item), found, why(found, share), remove, moved.get(found.item)));
  sliding(byId("rows"), rows);
}

// item → places gained (positive) or lost against the base model's own ranking; equal scores keep the request's order.
export function movement(rows) {
  const byCrm = rows.map((found, place) => [found, place])
    .sort(([a, i], [b, j]) => b.crm - a.crm || i - j);
  return new Map(byCrm.map(([found], place) => [found.item, place + 1 - found.rank]));
}

function row(item, found, { state, words, hint }, remove, moved = 0) {
  const name = text(item.title) || item.item;
  const dropped = el("button", {
    type: "button", class: "remove", "aria-label": `Remove ${name}`, onclick: () => remove(item.item),
  }, "×");
  // The roles are told: on a narrow screen the rows are laid out as cards, which would take them away.
  const cell = (kind, ...children) => el("td", { role: "cell", class: kind }, ...children);
  return el("tr", { role: "row", "data-key": item.item, "data-state": state },
    cell("number rank", found ? String(found.rank) : "–"),
    el("th", { role: "rowheader", scope: "row" }, el("span", { class: "title", title: name, ...HINT }, name),
      el("span", { class: "soft about" }, labelled(item), about(item))),
    cell("number final", probability(found?.probability)),
    cell("bars", bar("crm", "base model", found?.crm), bar("llm", "LLM", found?.llm)),
    cell("number entropy", found ? nats(found.entropy) : "–"),
    cell("why", el("i", { "aria-hidden": "true" }), el("span", hint ? { title: hint, ...HINT } : {}, words, unknown(found))),
    cell(`number moved ${moved > 0 ? "up" : moved < 0 ? "down" : ""}`, places(moved, found)),
    cell("drop", dropped));
}

// What the user of the sample really thought of a held-out item.
function labelled(item) {
  if (item.label == null) return null;
  return el("span", { class: "label" }, item.label ? "liked" : "not liked");
}

function bar(kind, name, score) {
  const track = el("span", { class: "track" }, el("span", { class: "fill" }));
  track.firstChild.style.width = `${100 * (score ?? 0)}%`;
  return el("span", { class: `bar ${kind} ${score == null ? "none" : ""}` }, el("span", { class: "who" }, name), track,
    el("span", { class: "figure" }, probability(score)));
}

function unknown(found) {
  if (!found?.unknown.length) return null;
  return el("span", { class: "soft new" }, `New to the base model: ${found.unknown.join(", ")}`);
}

function places(moved, found) {
  if (!found) return "–";
  return moved ? `${moved > 0 ? "▲" : "▼"} ${Math.abs(moved)}` : "–";
}

function sliding(body, rows) {
  const before = new Map([...body.children].map((old) => [old.dataset.key, old.getBoundingClientRect().top]));
  replaceRows(body, rows);
  if (calm.matches) return;
  for (const shown of rows) {
    const distance = before.get(shown.dataset.key) - shown.getBoundingClientRect().top;
    if (distance) {
      shown.animate([{ transform: `translateY(${distance}px)` }, { transform: "none" }],
        { duration: 320, easing: "cubic-bezier(.2, .7, .2, 1)" });
    }
  }
}

// Where a request's time went, as one stacked bar with figures below it; what the server does not tell is not shown.
export function drawTimeline(steps) {
  const parts = steps.map(({ name, ms }) => {
    const part = el("span", { class: `step ${kind(name)}` });
    part.style.flexGrow = String(Math.max(ms, 1e-6));
    return part;
  });
  const legend = steps.map(({ name, ms, words }) => el("span", { class: `key ${kind(name)}` },
    el("i", { "aria-hidden": "true" }), `${STEPS[name] ?? name} `, el("b", {}, milliseconds(ms)),
    words ? el("span", {}, ` ${words}`) : null));
  byId("timeline").replaceChildren(
    el("div", { class: "stack", "aria-hidden": "true", hidden: !parts.length }, ...parts),
    el("div", { class: "legend" }, ...legend));
}

function kind(name) {
  return STEPS[name] ? name : "other";
}
