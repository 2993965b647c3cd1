// The last minute on this server: share, latency, queue, version; asked for every two seconds, and only while seen.

import { get } from "./api.js";
import { byId, el, milliseconds, percent, whole } from "./dom.js";

const EVERY = 2000;

// `seen(live)` is called with each answer, `failed(error)` once a failure.
export function watch(seen, failed) {
  let timer = 0;
  let well = true;
  async function look() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const live = await get("page/live");
      draw(live);
      seen(live);
      well = true;
    } catch (error) {
      if (well) failed(error);
      well = false;
    }
    clearTimeout(timer);
    timer = setTimeout(look, EVERY);
  }
  document.addEventListener("visibilitychange", look);
  draw({});
  look();
  return look;
}

function draw(live) {
  const figures = [
    ["share asked", percent(live.share)],
    ["p50", milliseconds(live.p50_ms)],
    ["p99", milliseconds(live.p99_ms)],
    ["requests a minute", whole(live.requests)],
    ["LLM queue", queue(live)],
    ["LLM", condition(live)],
  ];
  byId("live").replaceChildren(...figures.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function queue({ llm }) {
  return llm?.queued_tokens == null ? "–" : `${whole(llm.queued_tokens)} tokens`;
}

function condition({ llm }) {
  if (llm === undefined) return "–";
  if (!llm) return "none";
  return llm.breaker_open ? "resting" : "ready";
}
