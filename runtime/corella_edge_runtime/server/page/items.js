// The candidates: a sample of the catalogue, items that were searched for, and new ones typed in as text.

import { get } from "./api.js";
import { combobox } from "./combobox.js";
import { byId, el } from "./dom.js";
import { control, featuresOf } from "./fields.js";
import { foundItems } from "./person.js";
import { TERMS } from "./words.js";

const COUNT = 24;
const TITLE = { name: "title", kind: "text", values: [] };

// `changed()` is called whenever the candidates are others; `list` holds them, in the order of the request.
export class Items {
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.list = [];
    this.typed = 0;
    this.seed = 0;
    this.heldOut = [];
    combobox("item-search", {
      label: "Add an item to the ranking", placeholder: "Add an item by title or id",
      find: foundItems(failed), pick: (item) => this.add([item]),
    });
    byId("sample").addEventListener("click", () => this.sample(this.seed + 1));
    byId("held-out").addEventListener("click", () => this.add(this.heldOut));
    byId("new-item").addEventListener("click", () => this.toggle(byId("new-item-form").hidden));
    byId("new-item-form").addEventListener("submit", (event) => { event.preventDefault(); this.type(); });
  }

  async sample(seed) {
    try {
      const { items, fields } = await get("page/items", { count: COUNT, seed });
      Object.assign(this, { list: items, fields: [TITLE, ...fields.filter(({ name }) => name !== TITLE.name)], seed });
      this.changed();
    } catch (error) {
      this.failed(error);
    }
  }

  // In front, where they are seen; an item is never twice in a request.
  add(items) {
    const known = new Set(items.map(({ item }) => item));
    this.list = [...items, ...this.list.filter(({ item }) => !known.has(item))];
    this.changed();
  }

  remove(item) {
    this.list = this.list.filter((one) => one.item !== item);
    this.changed();
  }

  // What the user of the sample really did later, as candidates.
  offer(heldOut) {
    this.heldOut = heldOut;
    const button = byId("held-out");
    button.hidden = !heldOut.length;
    button.title = TERMS["held-out items"];
    button.textContent = `Add ${heldOut.length} held-out item${heldOut.length === 1 ? "" : "s"}`;
  }

  toggle(open) {
    const form = byId("new-item-form");
    form.hidden = !open;
    byId("new-item").setAttribute("aria-expanded", String(open));
    if (!open) return;
    form.replaceChildren(...this.fields.map((field) => control("new", field)), el("button", { type: "submit" }, "Add"));
    form.querySelector("input").focus();
  }

  type() {
    const features = featuresOf(byId("new-item-form"), this.fields);
    this.typed += 1;
    const { title, ...others } = features;
    this.add([{ item: `new-item-${this.typed}`, title: title ?? null, features: others, inline: features }]);
    this.toggle(false);
    byId("new-item").focus();
  }

  // The part of a request that says what is ranked.
  request() {
    return this.list.map(({ item, inline }) => (inline ? { item, features: inline } : { item }));
  }
}
