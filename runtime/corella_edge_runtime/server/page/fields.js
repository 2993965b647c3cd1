// Small forms made from what the schema names: one control a field, the vocabulary as suggestions.

import { el, text } from "./dom.js";

// A labelled control for `field` {name, kind: one | many | number | text, values}; `prefix` makes its id unique.
export function control(prefix, field, value, changed = () => {}) {
  const id = `${prefix}-${field.name}`;
  const input = el("input", {
    id, name: field.name, type: field.kind === "number" ? "number" : "text", step: "any", autocomplete: "off",
    list: field.values.length ? `${id}-values` : null, placeholder: field.kind === "many" ? "one, two, …" : null,
    onchange: changed,
  });
  input.value = text(value);
  const values = field.values.length ? el("datalist", { id: `${id}-values` }, ...field.values.map(choice)) : null;
  return el("div", { class: `field ${field.kind}` }, el("label", { for: id }, named(field.name)), input, values);
}

function choice(value) {
  return el("option", { value });
}

function named(name) {
  return name.replaceAll("_", " ");
}

// The filled controls of a form as features; empty ones are left out: unknown to the models.
export function featuresOf(form, fields) {
  const filled = fields.map((field) => [field, form.querySelector(`[name="${CSS.escape(field.name)}"]`).value.trim()])
    .filter(([, value]) => value);
  return Object.fromEntries(filled.map(([field, value]) => [field.name, converted(field, value)]));
}

function converted(field, value) {
  if (field.kind === "many") return value.split(",").map((part) => part.trim()).filter(Boolean);
  return field.kind === "number" ? Number(value) : value;
}
