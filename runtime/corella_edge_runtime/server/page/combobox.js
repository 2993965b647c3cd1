// A text field with suggestions, after the WAI-ARIA combobox pattern: arrows choose, Enter takes, Escape closes.

import { byId, debounced, el } from "./dom.js";

// `find(query)` → options {label, detail?, value, chosen?}; `pick(value)` is called with the one that is taken. Enter alone
// takes the first of those that need not be chosen. `keep`: the field shows what was taken last.
export function combobox(id, { label, placeholder, find, pick, keep = false }) {
  const list = el("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const input = el("input", {
    id: `${id}-input`, type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", placeholder,
    "aria-label": label, "aria-controls": list.id, "aria-expanded": "false", "aria-autocomplete": "list",
  });
  byId(id).replaceChildren(input, list);
  let options = [];
  let active = -1;
  let asked = 0;
  let typed = false;
  let stale = false;
  let kept = "";

  function show(found) {
    options = found;
    list.replaceChildren(...found.map(entry));
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(Boolean(found.length)));
    activate(-1);
  }

  function entry({ label, detail }, place) {
    const parts = [el("span", {}, label), detail ? el("span", { class: "soft" }, detail) : null];
    const option = el("li", { id: `${list.id}-${place}`, role: "option", "aria-selected": "false" }, ...parts);
    // Before the field loses the focus, which would close the list.
    option.addEventListener("mousedown", (event) => { event.preventDefault(); take(place); });
    return option;
  }

  function activate(place) {
    active = place;
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === place)));
    if (place < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", `${list.id}-${place}`);
    list.children[place]?.scrollIntoView({ block: "nearest" });
  }

  function take(place) {
    const chosen = options[place];
    if (!chosen) return;
    asked += 1;
    input.value = keep ? chosen.label : "";
    show([]);
    pick(chosen.value);
  }

  async function look() {
    const number = (asked += 1);
    const found = await find(keep && document.activeElement === input && !typed ? "" : input.value);
    // An older answer must not replace a newer one, nor open the list of a field that was left.
    if (number !== asked || document.activeElement !== input) return false;
    stale = false;
    show(found);
    return true;
  }

  // What is typed and not yet looked for must not choose from the list of what was there before.
  async function enter() {
    const waits = stale;
    stale = false;
    if (waits && !await look()) return;
    const first = typed || !keep ? options.findIndex(({ chosen }) => !chosen) : -1;
    take(active < 0 ? first : active);
  }

  const soon = debounced(() => stale && look(), 120);
  input.addEventListener("input", () => { typed = stale = true; asked += 1; soon(); });
  input.addEventListener("focus", () => { typed = false; input.select(); look(); });
  input.addEventListener("blur", () => {
    asked += 1;
    show([]);
    if (keep) input.value = kept;
  });
  input.addEventListener("click", () => { if (list.hidden) look(); });
  input.addEventListener("keydown", (event) => {
    const count = options.length;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && count) activate(active < 0 && step < 0 ? count - 1 : (active + step + count) % count);
    else if (step) look();
    else if (event.key === "Enter") enter();
    else if (event.key === "Escape" && count) show([]);
    else return;
    event.preventDefault();
  });
  return { show: (value) => { input.value = kept = value; } };
}
