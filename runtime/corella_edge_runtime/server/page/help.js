// The words of this page explained: where they stand, on hover, or on a tap or click; and all together at its end.

import { byId, el } from "./dom.js";
import { TERMS } from "./words.js";

// What makes an element show its title when it is tapped or clicked, too (page.css). It is no stop of the Tab key:
// there would be dozens of them, and the list at the end has the same words.
export const HINT = { tabindex: "-1" };

// `name` of TERMS, explained where it stands; `shown`: in other words.
export function term(name, shown = name) {
  return el("abbr", { title: TERMS[name], ...HINT }, shown);
}

// The terms in the page's own markup.
export function explain() {
  for (const one of document.querySelectorAll("[data-term]")) {
    one.title = TERMS[one.dataset.term];
    one.tabIndex = HINT.tabindex;
  }
}

// The list at the end, once what stands above it has its place: nothing that can be read moves.
export function listTerms() {
  byId("terms").replaceChildren(...Object.entries(TERMS).map(([name, words]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, words))));
  byId("help").hidden = false;
}
