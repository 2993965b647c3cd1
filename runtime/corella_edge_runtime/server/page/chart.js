// The bundle's own curve of quality, and below it what a request takes now; both above the slider, on its axis.

import { byId, milliseconds, percent, svg } from "./dom.js";
import { costAt, GRID, placeOf, qualityAt, shareAt } from "./scale.js";

export const METRICS = { auc: "AUC", logloss: "log-loss", accuracy: "accuracy" };
const LEFT = 52;
const RIGHT = 14;
const QUALITY = { top: 26, bottom: 146 };
const LATENCY = { top: 192, bottom: 254 };
const HEIGHT = 294;
const SHARES = "Share of candidates that the LLM is asked about, in %";
// Where the latency line is drawn: 20 points between two shares of the grid.
const LINE = Array.from({ length: (GRID.length - 1) * 20 + 1 }, (_, i) => shareAt(i / 20));

// `state`: {curve, metric, share, count, cost, measured: [{share, ms}], held}; `held` is null, or what the server holds.
export function drawChart(state) {
  const place = byId("curve");
  const width = Math.max(place.clientWidth, 240);
  const x = (share) => LEFT + (placeOf(share) / (GRID.length - 1)) * (width - LEFT - RIGHT);
  const picture = svg("svg", { width, height: HEIGHT, role: "img", "aria-label": spoken(state) },
    ...axis(x), title(SHARES, width / 2, HEIGHT - 4, "middle"), ...quality(state, x), ...latency(state, x), now(state, x), ...live(state, x));
  place.replaceChildren(picture);
}

function spoken({ curve, metric, share }) {
  const value = qualityAt(curve.table, metric, share);
  const found = value == null ? "no quality was measured" : `${METRICS[metric]} ${value.toFixed(4)}`;
  return `At a share of ${percent(share)}: ${found}.`;
}

function axis(x) {
  return GRID.map((share, i) => svg("g", {},
    svg("line", { class: "grid", x1: x(share), x2: x(share), y1: QUALITY.top, y2: LATENCY.bottom }),
    svg("text", { x: x(share), y: HEIGHT - 22, "text-anchor": "middle" }, `${100 * share}`)));
}

// A scale from `low` at the bottom to `high` at the top of a panel.
function scale(panel, low, high) {
  const span = high - low || 1;
  return (value) => panel.bottom - ((value - low) / span) * (panel.bottom - panel.top);
}

function quality({ curve, metric, share }, x) {
  const rows = curve.table.filter((row) => row.ratio != null && row[metric] != null);
  const name = title(`${METRICS[metric]} on the bundle's validation rows`, x(0), QUALITY.top - 14);
  if (rows.length < 2) return [name, svg("text", { x: LEFT, y: 70 }, "This bundle holds no measured curve.")];
  const values = rows.map((row) => row[metric]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.08 || 0.001;
  const y = scale(QUALITY, low - margin, high + margin);
  const alone = rows.find((row) => row.ratio === 0)?.[metric];
  const value = qualityAt(rows, metric, share);
  return [
    name, ...[low, high].map((figure) => label(figure.toFixed(3), y(figure))),
    ...(alone == null ? [] : reference(x, y(alone), alone - low < high - alone)),
    svg("polyline", { class: "line", points: rows.map((row) => `${x(row.ratio)},${y(row[metric])}`).join(" ") }),
    ...rows.map((row) => svg("circle", { class: "dot", cx: x(row.ratio), cy: y(row[metric]), r: 2.5 })),
    svg("circle", { class: "current", cx: x(share), cy: y(value), r: 5 }),
  ];
}

// The base model alone as a dashed line; its name stands on the side where the curve is not.
function reference(x, y, below) {
  return [
    svg("line", { class: "alone", x1: x(0), x2: x(1), y1: y, y2: y }),
    svg("text", { class: "alone-name", x: x(0) + 6, y: y + (below ? 14 : -6) }, "base model alone"),
  ];
}

function latency({ share, count, cost, measured }, x) {
  const name = title(`Milliseconds for ${count} candidates, measured here`, x(0), LATENCY.top - 14);
  const line = LINE.map((at) => [at, costAt(cost, at, count)]).filter(([, ms]) => ms != null);
  const high = Math.max(...line.map(([, ms]) => ms), ...measured.map(({ ms }) => ms), 0);
  if (!high) return [name, svg("text", { x: x(0), y: LATENCY.top + 30 }, "Nothing yet.")];
  const y = scale(LATENCY, 0, high * 1.08);
  const current = costAt(cost, share, count);
  return [
    name, label("0", y(0)), label(milliseconds(high).replace(" ms", ""), y(high)),
    ...measured.map(({ share: at, ms }) => svg("circle", { class: "measured", cx: x(at), cy: y(ms), r: 2.5 })),
    svg("polyline", { class: "line cost", points: line.map(([at, ms]) => `${x(at)},${y(ms)}`).join(" ") }),
    current == null ? "" : svg("circle", { class: "current", cx: x(share), cy: y(current), r: 4 }),
  ];
}

// What an axis shows.
function title(words, x, y, anchor = "start") {
  return svg("text", { class: "axis", x, y, "text-anchor": anchor }, words);
}

function label(words, y) {
  return svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, words);
}

// The share that the server holds, over its window: on the same axis as the slider, which is of this ranking alone.
function live({ held }, x) {
  if (held?.held_share == null) return [];
  const at = x(held.held_share);
  const left = placeOf(held.held_share) > (GRID.length - 1) / 2;
  return [
    svg("line", { class: "held", x1: at, x2: at, y1: QUALITY.top, y2: LATENCY.bottom }),
    svg("text", { class: "held-name", x: at + (left ? -6 : 6), y: QUALITY.bottom + 14, "text-anchor": left ? "end" : "start" },
      `held by the server: ${percent(held.held_share)}`),
  ];
}

function now({ share }, x) {
  return svg("line", { class: "now", x1: x(share), x2: x(share), y1: QUALITY.top, y2: LATENCY.bottom });
}
