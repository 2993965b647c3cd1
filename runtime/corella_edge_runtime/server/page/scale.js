// The axis of shares: the usual shares stand at equal distances, what lies between is linear. Pure.

export const GRID = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1];
const LAST = GRID.length - 1;

// Piecewise linear through the points (xs[i], ys[i]); xs rise. Outside: the nearest end.
export function interpolate(xs, ys, x) {
  if (!(x > xs[0])) return ys[0];
  const right = xs.findIndex((value) => value >= x);
  if (right < 0) return ys[ys.length - 1];
  const part = (x - xs[right - 1]) / (xs[right] - xs[right - 1]);
  return ys[right - 1] + part * (ys[right] - ys[right - 1]);
}

const PLACES = GRID.map((_, place) => place);

// 0 … 8 → share.
export function shareAt(place) {
  return Number(interpolate(PLACES, GRID, Math.min(Math.max(place, 0), LAST)).toFixed(5));
}

// share → 0 … 8.
export function placeOf(share) {
  return interpolate(GRID, PLACES, share);
}

// The threshold that the server takes for `ratio:share`; null = never. Mirrors Calibration.threshold.
export function natsAt(curve, share) {
  if (share <= 0) return null;
  return share >= 1 ? 0 : interpolate(curve.shares.slice(1), curve.nats.slice(1), share);
}

// The share that a threshold stands for: the largest whose entropies all reach it.
export function shareOf(curve, nats) {
  if (nats == null) return 0;
  if (nats <= 0) return 1;
  const below = curve.nats.findIndex((value, place) => place > 0 && value < nats);
  if (below < 0) return 1;
  if (below === 1) return curve.shares[1];
  const [high, low] = [curve.nats[below - 1], curve.nats[below]];
  const part = (high - nats) / (high - low);
  return Number((curve.shares[below - 1] + part * (curve.shares[below] - curve.shares[below - 1])).toFixed(4));
}

// Quality at a share between the measured ones; null where nothing was measured.
export function qualityAt(table, metric, share) {
  const rows = table.filter((row) => row.ratio != null && row[metric] != null);
  return rows.length ? interpolate(rows.map((row) => row.ratio), rows.map((row) => row[metric]), share) : null;
}

// Milliseconds of a request of `count` candidates of which `share` is asked, by the server's own measurements; null
// where it has none. Below one candidate it is the mean of requests that ask for one and requests that ask for none.
export function costAt(cost, share, count) {
  const asked = share * count;
  const some = cost?.llm == null ? null : cost.llm + Math.max(asked, 1) * cost.asked;
  if (asked >= 1 || cost?.crm == null) return asked >= 1 ? some : null;
  return some == null ? (asked ? null : cost.crm) : cost.crm + asked * (some - cost.crm);
}
