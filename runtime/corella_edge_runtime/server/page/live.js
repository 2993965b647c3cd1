// The last minute on this server: share, latency, queue, version; asked for every two seconds, and only while seen.
// What a server that went away said last is grey, beside "no answer".

import { get } from "./api.js";
import { byId, el, milliseconds, percent, replaceRows, whole } from "./dom.js";
import { term } from "./help.js";

const EVERY = 2000;
const LATE = 2000;
const GIVEN_UP = 10000;

// `seen(live)` is called with each answer, `failed(error)` once a refusal; that there is no answer is told here.
export function watch(seen, failed) {
  let timer = 0;
  let well = true;
  let last = {};
  function show(live, silent) {
    last = live;
    draw(last, silent);
  }
  function refused(error) {
    show(error.status ? {} : last, !error.status);
    if (well && error.status) failed(error);
    well = false;
  }
  async function look() {
    clearTimeout(timer);
    if (document.hidden) return;
    const late = setTimeout(() => show(last, true), LATE);
    try {
      const live = await get("page/live", {}, AbortSignal.timeout(GIVEN_UP));
      show(live, false);
      seen(live);
      well = true;
    } catch (error) {
      refused(error);
    }
    clearTimeout(late);
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  }
  document.addEventListener("visibilitychange", look);
  show({}, false);
  look();
  return look;
}

function draw(live, silent) {
  const figures = [
    [term("share asked"), percent(live.share)],
    ...target(live),
    [term("p50 and p99", "p50"), milliseconds(live.p50_ms)],
    [term("p50 and p99", "p99"), milliseconds(live.p99_ms)],
    ["requests a minute", whole(live.requests)],
    [term("LLM queue"), queue(live)],
    silent ? ["server", "no answer"] : [term("LLM"), condition(live)],
  ];
  byId("live").classList.toggle("silent", silent);
  replaceRows(byId("live"), figures.map(([name, value], place) => el("div", { "data-key": place }, el("dt", {}, name), el("dd", {}, value))));
}

// What the server holds, and how well; nothing where it holds nothing.
function target({ target: held }) {
  if (!held) return [];
  const figures = held.share == null
    ? `${milliseconds(1e3 * held.held_seconds)} of ${milliseconds(1e3 * held.seconds)} a second`
    : `${percent(held.held_share)} of ${percent(held.share)}`;
  return [[term("target", "target held"), held.frozen ? `${figures}, waiting` : figures]];
}

function queue({ llm }) {
  return llm?.queued_tokens == null ? "–" : `${whole(llm.queued_tokens)} tokens`;
}

function condition({ llm }) {
  if (llm === undefined) return "–";
  if (!llm) return "none";
  return llm.breaker_open ? "resting" : "ready";
}
