// A ranking of this page as a command for a terminal.

import { byId, el } from "./dom.js";

const SHOWN = 2000; // milliseconds

// `keyed`: the server wants an API key. It is not copied: the command takes it from a variable.
export function curl(address, body, keyed) {
  const key = keyed ? ['-H "Authorization: Bearer $CORELLA_EDGE_KEY"'] : [];
  const parts = [`curl -s ${quoted(address)}`, "-H 'Content-Type: application/json'", ...key];
  return [...parts, `-d ${quoted(JSON.stringify(body))}`].join(" \\\n  ");
}

// As one word of a POSIX shell, whatever it holds.
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// `button` copies what `command` returns, unless that is null, and says for a moment whether it could.
export function copies(button, command) {
  const name = button.textContent;
  button.addEventListener("click", async () => {
    const text = command();
    if (text === null) return;
    const words = await copied(text) ? "Copied" : "Not copied";
    button.textContent = byId("copied").textContent = words;
    setTimeout(() => { button.textContent = name; byId("copied").textContent = ""; }, SHOWN);
  });
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return selected(text);
  }
}

// Where a page has no clipboard, as over http from another machine, the browser copies what is selected.
function selected(text) {
  const focused = document.activeElement;
  const field = el("textarea", { class: "hidden", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
