// The words of this page explained: on hover where they stand, and all together at its end.

import { byId, el } from "./dom.js";
import { TERMS } from "./words.js";

// `name` of TERMS, explained on hover; `shown`: in other words.
export function term(name, shown = name) {
  return el("abbr", { title: TERMS[name] }, shown);
}

// The terms in the page's own markup.
export function explain() {
  for (const one of document.querySelectorAll("[data-term]")) one.title = TERMS[one.dataset.term];
}

// The list at the end, once what stands above it has its place: nothing that can be read moves.
export function listTerms() {
  byId("terms").replaceChildren(...Object.entries(TERMS).map(([name, words]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, words))));
  byId("help").hidden = false;
}
