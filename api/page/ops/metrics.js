// Reads Prometheus' text format, keeps a few minutes of samples, and computes differences and quantiles.
import { send } from "./service.js";

const TYPE = /^# TYPE (\S+) /, SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/, LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const WINDOW_MS = 300_000, UNESCAPED = { n: "\n" };

/** name → samples, each with `labels` and `value`. A metric without samples yet has none; one that the service does not have is absent. */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const type = TYPE.exec(line), match = type ? null : SAMPLE.exec(line);
    if (type) found.set(type[1], []);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, (_, sign) => UNESCAPED[sign] ?? sign);
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}

const kept = [];  // {at, metrics}, oldest first

/** Reads the metrics now, and keeps them. */
export async function readMetrics() {
  const metrics = parseMetrics(await (await send("/metrics")).text()), at = performance.now();
  kept.push({ at, metrics });
  while (kept.length > 2 && at - kept[1].at > WINDOW_MS) kept.shift();
  return metrics;
}

export const latest = () => kept.at(-1)?.metrics ?? new Map();

/** The samples of a metric, as of the newest reading. */
export const samples = (name) => latest().get(name) ?? [];
export const has = (name) => latest().has(name);
export const total = (name, wanted = {}) => sum(latest(), name, wanted);

function sum(metrics, name, wanted) {
  const found = (metrics.get(name) ?? []).filter(({ labels }) => Object.entries(wanted).every(([label, value]) => labels[label] === value));
  return found.reduce((all, { value }) => all + value, 0);
}

/** How much a counter grew in the window; what it has if `window` is false, or if it began again. */
export function growth(name, wanted, window = true) {
  const now = sum(latest(), name, wanted), before = window && kept.length > 1 ? sum(kept[0].metrics, name, wanted) : 0;
  return now >= before ? now - before : now;
}

/** The buckets of a histogram, not cumulative: [{above, upTo, count}]. */
export function buckets(name, wanted, window = true) {
  const now = byBound(latest(), name, wanted), then = window && kept.length > 1 ? byBound(kept[0].metrics, name, wanted) : new Map();
  const isReset = [...now].some(([bound, value]) => value < (then.get(bound) ?? 0));
  let above = 0, before = 0;
  return [...now.keys()].sort((a, b) => a - b).map((bound) => {
    const cumulative = now.get(bound) - (isReset ? 0 : then.get(bound) ?? 0), bucket = { above, upTo: bound, count: Math.max(0, cumulative - before) };
    above = bound;
    before = cumulative;
    return bucket;
  });
}

function byBound(metrics, name, wanted) {
  const found = new Map(), pairs = Object.entries(wanted);
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    if (pairs.every(([label, wantedValue]) => labels[label] === wantedValue)) found.set(labels.le === "+Inf" ? Infinity : Number(labels.le), value);
  }
  return found;
}

/** A quantile of buckets, linear within one; null without observations. */
export function quantile(found, share) {
  const all = found.reduce((number, { count }) => number + count, 0);
  let rank = share * all;
  for (const { above, upTo, count } of found) {
    if (count && rank <= count) return upTo === Infinity ? above : above + (upTo - above) * (rank / count);
    rank -= count;
  }
  return null;
}
