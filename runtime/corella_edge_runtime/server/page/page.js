// The page: one state, one request at a time. What a person changes is ranked again at once.

import { get, key, rank } from "./api.js";
import { drawChart, METRICS } from "./chart.js";
import { copies, curl } from "./curl.js";
import { byId, debounced, el, milliseconds, nats, percent, replaceRows, whole } from "./dom.js";
import { explain, listTerms, term } from "./help.js";
import { Items } from "./items.js";
import { watch } from "./live.js";
import { Person } from "./person.js";
import { drawAnswer, drawCandidates, drawTimeline } from "./ranking.js";
import { natsAt, placeOf, qualityAt, shareAt, shareOf } from "./scale.js";
import { steps } from "./words.js";

const MEASURED = 40; // requests of this page shown as dots
const state = { curve: null, metric: "auc", share: 0, cost: null, measured: [], held: null, opening: false };
let waiting = null;

const person = new Person(personChanged, failed);
const items = new Items(itemsChanged, failed);
const soon = debounced(ask, 150);

function personChanged(what) {
  if (what === "user") items.offer(person.heldOut);
  soon();
}

function itemsChanged() {
  state.measured = [];
  drawCandidates(items.list, (item) => items.remove(item));
  draw();
  soon();
}

async function ask() {
  waiting?.abort();
  if (!state.curve) return;
  const hindrance = unaskable();
  if (hindrance) {
    say(...hindrance);
    return;
  }
  const mine = (waiting = new AbortController());
  const asking = { candidates: items.list, share: state.share };
  byId("ranking").setAttribute("aria-busy", "true");
  try {
    const shown = (answer, final) => mine.signal.aborted || show(answer, asking, final);
    const { timing, waited } = await rank(body(), byId("progressive").checked, mine.signal, shown);
    if (!mine.signal.aborted) timed(timing, waited);
  } catch (error) {
    if (!mine.signal.aborted) failed(error);
  } finally {
    if (waiting === mine) byId("ranking").removeAttribute("aria-busy");
  }
}

// What keeps a request from being sent, as arguments of `say`; null if nothing does.
function unaskable() {
  if (!items.list.length) return ["No candidates."];
  const { rangeUnderflow, badInput } = byId("deadline").validity;
  return rangeUnderflow || badInput ? ["The deadline must be 0 ms or more.", true] : null;
}

// This ranking for a terminal; null, and why, where it could not be asked for.
function command() {
  const hindrance = unaskable();
  if (hindrance) say(...hindrance);
  return hindrance ? null : curl(new URL("v1/rank", document.baseURI).href, body(), Boolean(key()));
}

function body() {
  const timeout = byId("deadline").valueAsNumber;
  const threshold = `ratio:${state.share}`;
  const request = { ...person.request(), candidates: items.request(), threshold, explain: true };
  return Number.isFinite(timeout) ? { ...request, timeout_ms: timeout } : request;
}

function show(answer, asking, final) {
  drawAnswer(answer, asking, (item) => items.remove(item));
  state.explained = answer.explain;
  const asked = answer.candidates.filter((row) => row.routed).length;
  state.asked = asked / answer.candidates.length;
  const missed = answer.candidates.filter((row) => !row.routed && row.reason).length;
  say(final ? `${told(asked, missed, answer.candidates.length)}${by(answer)}` : "The base model's ranking; the LLM is being asked.");
}

// Where a canary is tried out, not everybody is answered by the version whose curve, and rule of fusion, is known.
function by({ bundle }) {
  if (bundle !== state.curve.bundle) return ` Answered by ${bundle}.`;
  return state.curve.fusion === "replace" ? "" : ` Its score and the base model's count together (${state.curve.fusion}).`;
}

function told(asked, missed, count) {
  if (!missed) return `The LLM was asked about ${asked} of ${count} candidates.`;
  return `The LLM scored ${asked} of ${count} candidates; for ${missed} the base model's score stands.`;
}

function timed(timing, waited) {
  const parts = steps(timing, state.explained);
  drawTimeline(parts);
  byId("status").append(` ${milliseconds(waited)} in this browser.`);
  state.measured = [...state.measured, { share: state.asked, ms: parts.length ? sum(parts) : waited }].slice(-MEASURED);
  draw();
  look();
}

function sum(parts) {
  return parts.reduce((total, { ms }) => total + ms, 0);
}

function say(words, wrong = false) {
  byId("status").textContent = words;
  byId("status").classList.toggle("wrong", wrong);
}

function failed(error) {
  const words = `${error.message.replace(/\.$/, "")}.`;
  if (error.status === 401) keyWanted(words);
  else say(words, true);
}

// Without a key the server's words are about headers; with one they say what is wrong with it.
function keyWanted(words) {
  byId("key-note").textContent = key() ? words : "";
  say(key() ? "Type another API key above." : "Type an API key above.");
  showKey(true);
}

// What the chosen point means, in figures and in the picture.
function draw() {
  const { curve, metric, share } = state;
  if (!curve) return;
  const count = items.list.length;
  const value = qualityAt(curve.table, metric, share);
  const alone = qualityAt(curve.table, metric, 0);
  const gain = value == null ? "" : `${value < alone ? "−" : "+"}${Math.abs(value - alone).toFixed(4)} against the base model`;
  const figures = [
    [term("share asked", "Asked in this ranking"), percent(share), `about ${whole(share * count)} of these ${count}`],
    [term("threshold", "Threshold"), nats(natsAt(curve, share)), natsAt(curve, share) == null ? "" : "nats of entropy or more"],
    [term(METRICS[metric]), value == null ? "–" : value.toFixed(4), gain],
  ];
  replaceRows(byId("figures"), figures.map(([name, main, note], place) => el("div", { "data-key": place },
    el("dt", {}, name), el("dd", {}, main), el("dd", { class: "soft" }, note || "\u00a0"))));
  byId("share").setAttribute("aria-valuetext", `${percent(share)} of the candidates`);
  drawChart({ ...state, count });
}

function moved() {
  state.share = shareAt(byId("share").value / 100);
  draw();
  soon();
}

async function openCurve() {
  const first = !state.curve;
  state.curve = await get("page/curve");
  if (first) {
    state.share = begins(state.curve);
    byId("share").value = Math.round(100 * placeOf(state.share));
  }
  draw();
}

// Where the slider stands at first: at what the server does with requests that bring no threshold.
function begins({ target, threshold, ...curve }) {
  if (!target) return shareOf(curve, threshold.nats);
  return Number((target.share ?? target.level).toFixed(4));
}

function seen(live) {
  state.cost = live.cost;
  state.held = live.target;
  byId("bundle").textContent = versions(live);
  // The page was opened before the bundle was loaded. Or another version is served: its curve and sample are others.
  if (!state.curve) open();
  else if (live.bundle !== state.curve.bundle) openCurve().catch(failed);
  else draw();
}

function versions({ bundle, versions: all }) {
  const others = all.filter((one) => one.bundle !== bundle);
  return [bundle, ...others.map((one) => `${percent(one.share)} of the users: ${one.bundle}`)].join(" · ");
}

// Servers without keys never ask for one: their page has no button for it.
function showKey(open) {
  byId("key-button").hidden = false;
  byId("key-form").hidden = !open;
  byId("key-button").setAttribute("aria-expanded", String(open));
  if (open) byId("key").focus();
}

async function open() {
  if (state.opening) return;
  state.opening = true;
  try {
    await openCurve();
    await person.open();
    await items.sample(0);
    look();
  } catch (error) {
    failed(error);
  }
  state.opening = false;
  listTerms();
}

function chooseMetric(metric) {
  state.metric = metric;
  draw();
}

byId("metric").append(...Object.entries(METRICS).map(([name, words], place) => el("label", {},
  el("input", { type: "radio", name: "metric", checked: !place, onchange: () => chooseMetric(name) }),
  el("span", {}, words))));
byId("share").addEventListener("input", moved);
byId("again").addEventListener("click", ask);
copies(byId("curl"), command);
byId("progressive").addEventListener("change", ask);
byId("deadline").addEventListener("change", ask);
byId("key-button").hidden = !key();
byId("key-button").addEventListener("click", () => showKey(byId("key-form").hidden));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key(byId("key").value.trim());
  byId("key").value = "";
  byId("key-note").textContent = "";
  showKey(false);
  say("\u00a0");
  open();
});
explain();
new ResizeObserver(draw).observe(byId("curve"));
const look = watch(seen, failed);
open();
