// Batches of each model: a histogram of sizes, how full they are, what closed them, and the time of each stage.
import { Facts, Table, count, el, ms, percent, schedule, setText } from "./dom.js";
import * as metrics from "./metrics.js";
import { call } from "./service.js";

const STAGES = ["queue", "decode", "batch", "infer", "total"], MOST_MODELS = 12;

export class Batches {
  constructor() {
    this.note = el("p", { className: "soft" }, "No batch has run.");
    this.node = el("div", {}, this.note);
    this.models = new Map();
    this.pending = [];  // models that are still to be drawn
    this.limits = new Map();  // model → largest batch
  }

  async readLimits() {
    for (const { name, max_batch: largest } of (await call("/v1/models")).models) if (largest) this.limits.set(name, largest);
  }

  /** Draws one model a frame: many at once would take too long. */
  #renderNext = () => {
    const name = this.pending.shift();
    if (name === undefined) return;
    if (!this.models.has(name)) {
      this.models.set(name, new Model(name));
      this.node.append(...this.shown.filter((known) => this.models.has(known)).map((known) => this.models.get(known).node));
    }
    this.models.get(name).render(this.limits.get(name));
    if (this.pending.length) schedule(this.#renderNext);
  };

  render(names) {
    const ran = names.filter((model) => metrics.total("jitney_batch_size_count", { model }) > 0), shown = ran.slice(0, MOST_MODELS);
    for (const [name, model] of this.models) if (!shown.includes(name)) { model.node.remove(); this.models.delete(name); }
    this.pending = [...shown];
    this.shown = shown;
    this.#renderNext();
    setText(this.note, ran.length > shown.length ? `${ran.length - shown.length} more models are not shown.` : ran.length ? "" : "No batch has run.");
  }
}

class Model {
  constructor(name) {
    this.name = name;
    this.window = el("span", { className: "soft" });
    this.bars = el("div", { className: "histogram", role: "img" });
    this.facts = new Facts("facts");
    this.stages = new Table(`Times of ${name}`, [
      { name: "Stage", text: ({ key }) => key },
      { name: "p50", number: true, text: ({ p50 }) => ms(p50) },
      { name: "p99", number: true, text: ({ p99 }) => ms(p99) },
    ]);
    this.node = el("div", { className: "model" }, el("div", { className: "row" }, el("h3", {}, name), this.window),
      el("div", {}, el("div", {}, this.bars, this.facts.node), this.stages.node));
  }

  render(largest) {
    const model = this.name, isRecent = metrics.growth("jitney_batch_size_count", { model }) > 0;
    setText(this.window, isRecent ? "the last minutes" : "since the queue was created");
    const sizes = metrics.buckets("jitney_batch_size", { model }, isRecent), batches = sizes.reduce((all, { count: number }) => all + number, 0);
    const mean = metrics.growth("jitney_batch_size_sum", { model }, isRecent) / (batches || 1);
    this.#showSizes(sizes);
    const facts = { "batches": count(batches), "mean size": mean.toFixed(1) };
    if (largest) facts.fill = `${percent(mean / largest)} of ${largest}`;
    const closed = metrics.samples("jitney_batches_total").filter(({ labels }) => labels.model === model).map(({ labels }) =>
      `${labels.reason} ${count(metrics.growth("jitney_batches_total", { model, reason: labels.reason }, isRecent))}`);
    if (closed.length) facts["closed by"] = closed.join(", ");
    const work = metrics.growth("jitney_batch_work_total", { model }, isRecent);
    if (work) facts.padding = percent(metrics.growth("jitney_batch_padding_total", { model }, isRecent) / work);
    this.facts.update(facts);
    this.stages.update(STAGES.map((stage) => {
      const found = metrics.buckets("jitney_stage_seconds", { model, stage }, isRecent), of = (share) => { const time = metrics.quantile(found, share); return time === null ? null : 1000 * time; };
      return { key: stage, p50: of(0.5), p99: of(0.99) };
    }));
  }

  #showSizes(sizes) {
    const used = sizes.filter(({ upTo }) => upTo !== Infinity), highest = Math.max(1, ...sizes.map(({ count: number }) => number));
    const overflow = sizes.find(({ upTo }) => upTo === Infinity);
    if (overflow?.count) used.push(overflow);
    while (this.bars.children.length > used.length) this.bars.lastChild.remove();
    const words = used.map(({ above, upTo, count: number }, at) => {
      const label = upTo === Infinity ? `over ${above}` : above + 1 >= upTo ? `${upTo}` : `${above + 1}–${upTo}`;
      const bar = this.bars.children[at] ?? this.bars.appendChild(el("span", {}, el("i"), el("b")));
      const height = `${100 * number / highest}%`;
      if (bar.firstChild.style.height !== height) bar.firstChild.style.height = height;
      setText(bar.lastChild, label);
      bar.title = `${number} batches of ${label}`;
      return number ? `${number} of size ${label}` : "";
    });
    this.bars.setAttribute("aria-label", `Batches by size: ${words.filter(Boolean).join(", ") || "none"}`);
  }
}
