// Who asks: a user of the bundle's sample, a new one, or one that the server's store knows; with an editable history.

import { get } from "./api.js";
import { combobox } from "./combobox.js";
import { byId, el, replaceRows, text, whole } from "./dom.js";
import { control, featuresOf } from "./fields.js";

const NEW = { kind: "new", id: null, features: {}, events: [], hidden: 0, heldOut: [] };

// The panel; `changed(kind)` is called with "user" for another person and "history" for edits of this one.
export class Person {
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.fields = [];
    this.set(NEW);
    this.search = combobox("person-search", {
      label: "User", placeholder: "Find a user by id", keep: true,
      find: (query) => this.find(query), pick: (choice) => this.pick(choice),
    });
    combobox("history-search", {
      label: "Add to the history", placeholder: "Add an item to the history", find: foundItems(failed),
      pick: (item) => this.edit([...this.events, { ...item, rating: null, time: Math.floor(Date.now() / 1000) }]),
    });
  }

  // The first user of the sample, or a new one if there is no sample.
  async open() {
    const { users, fields } = await get("page/users", { count: 1 });
    this.fields = fields;
    await this.pick(users.length ? { kind: "sample", id: users[0].id } : NEW);
  }

  async find(query) {
    try {
      const { users, stored } = await get("page/users", { q: query, count: 50 });
      return offered(query.trim(), users, stored);
    } catch (error) {
      this.failed(error);
      return [];
    }
  }

  async pick(choice) {
    try {
      this.set(choice.kind === "sample" ? await sampled(choice.id) : choice);
      this.search.show(this.id ?? "A new user");
      this.changed("user");
    } catch (error) {
      this.failed(error);
    }
  }

  set({ kind, id, features, events, hidden, heldOut }) {
    Object.assign(this, { kind, id, features, events, hidden, heldOut });
    byId("person-note").textContent = NOTES[kind];
    byId("profile").replaceChildren(...(kind === "stored" ? [] : this.fields.map((field) => this.feature(field))));
    this.drawHistory();
  }

  feature(field) {
    return control("user", field, this.features[field.name], () => {
      const known = Object.fromEntries(Object.entries(this.features).filter(([name]) => !this.hasField(name)));
      this.features = { ...known, ...featuresOf(byId("profile"), this.fields) };
      this.changed("history");
    });
  }

  hasField(name) {
    return this.fields.some((field) => field.name === name);
  }

  edit(events) {
    this.events = events;
    this.drawHistory();
    this.changed("history");
  }

  drawHistory() {
    const own = this.kind !== "stored";
    byId("history-search").hidden = byId("history").hidden = !own;
    byId("history-count").textContent = own ? count(this.events.length, this.hidden) : "on the server";
    // The latest first: that is what a person looks for.
    replaceRows(byId("history"), this.events.map((event, place) => this.line(event, place)).reverse());
  }

  line(event, place) {
    const name = text(event.title) || event.item;
    const rating = el("input", {
      type: "number", step: "any", "aria-label": `Rating of ${name}`, placeholder: "–",
      onchange: ({ target }) => this.rate(place, target.value),
    });
    rating.value = event.rating ?? "";
    const remove = el("button", {
      type: "button", class: "remove", "aria-label": `Remove ${name} from the history`,
      onclick: () => this.edit(this.events.filter((_, i) => i !== place)),
    }, "×");
    return el("li", { "data-key": place }, el("span", { class: "title", title: name }, name), rating, remove);
  }

  rate(place, value) {
    const rating = value === "" ? null : Number(value);
    this.edit(this.events.map((event, i) => (i === place ? { ...event, rating } : event)));
  }

  // The part of a request that says who asks.
  request() {
    if (this.kind === "stored") return { user_id: this.id };
    const history = this.events.map(({ item, rating, time }) => ({ item, rating, time }));
    return { user: { id: this.id, features: this.features, history } };
  }
}

const NOTES = {
  sample: "From the bundle's held-out sample.",
  new: "Unknown to both models.",
  stored: "Profile and history: what the server's own store knows of this id, if anything.",
};

// Who may be meant by `id`, the likeliest first; a new user only if chosen. Whom the store knows is not told here.
export function offered(id, users, stored) {
  const found = users.map((user) => ({
    label: user.id, detail: described(user), value: { kind: "sample", id: user.id },
  }));
  const fresh = { label: "A new user", detail: "no profile, no history", value: NEW, chosen: true };
  if (!id) return [fresh, ...found];
  const other = stored && !users.some((user) => user.id === id);
  return [...found, ...(other ? [remembered(id)] : []), fresh];
}

function remembered(id) {
  return { label: `Look for ${id} in the store`, detail: "known there or not", value: { ...NEW, kind: "stored", id } };
}

async function sampled(id) {
  const found = await get("page/user", { id });
  return {
    kind: "sample", id, features: found.features, events: found.history,
    hidden: found.events - found.history.length, heldOut: found.held_out,
  };
}

function described(user) {
  const latest = user.latest.map(text).join(" · ");
  return `${count(user.events, 0)}${latest ? `: ${latest}` : ""}`;
}

function count(shown, hidden) {
  const events = `${whole(shown)} event${shown === 1 ? "" : "s"}`;
  return hidden ? `latest ${whole(shown)} of ${whole(shown + hidden)} events` : events;
}

// Suggestions of items, by id or title.
export function foundItems(failed) {
  return async (query) => {
    try {
      const { items } = await get("page/items", { q: query, count: 20 });
      return items.map((item) => ({ label: text(item.title) || item.item, detail: about(item), value: item }));
    } catch (error) {
      failed(error);
      return [];
    }
  };
}

// An item's attributes as one line, its id last (the id of a typed one says nothing); a bare number is named.
export function about({ item, features = {}, inline }) {
  const named = Object.entries(features).map(([name, value]) => (typeof value === "number" ? `${value} ${name}` : text(value)));
  return [...named.filter(Boolean), inline ? "typed in" : item].join(" · ");
}
