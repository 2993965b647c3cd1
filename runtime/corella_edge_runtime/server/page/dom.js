// Elements and figures. Text reaches the document as text alone: nothing here, or anywhere on this page, parses markup.

const SVG = "http://www.w3.org/2000/svg";

// An element with attributes ("onclick": listener, boolean: present or not) and children; texts become text nodes.
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

// Other children for `parent`; what was focused stays so: in the child of the same key, else in the one at its place.
export function replaceRows(parent, rows) {
  const place = [...parent.children].findIndex((row) => row.contains(document.activeElement));
  const old = parent.children[place];
  const control = old ? controls(old).indexOf(document.activeElement) : -1;
  parent.replaceChildren(...rows);
  if (control < 0) return;
  const row = rows.find((one) => one.dataset.key === old.dataset.key) ?? rows[Math.min(place, rows.length - 1)];
  if (row) controls(row)[control]?.focus({ preventScroll: true });
}

function controls(row) {
  return [...row.querySelectorAll("button, input, [tabindex]")];
}

// What a catalogue holds may be a text, a number, a list of those, or nothing.
export function text(value) {
  if (value == null) return "";
  return Array.isArray(value) ? value.map(text).join(", ") : String(value);
}

export function probability(value) {
  return value == null ? "–" : value.toFixed(3);
}

export function nats(value) {
  return value == null ? "never" : value.toFixed(4);
}

export function percent(share) {
  if (share == null) return "–";
  const value = 100 * share;
  return `${value.toFixed(value === 0 || value >= 9.95 ? 0 : 1).replace(/\.0$/, "")} %`;
}

export function milliseconds(value) {
  if (value == null) return "–";
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ms`;
}

export function whole(value) {
  return value == null ? "–" : Math.round(value).toLocaleString("en");
}

// `call` once, `wait` ms after the last of several calls.
export function debounced(call, wait) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(call, wait, ...args);
  };
}
