// One job: its state, timeline, stage times and batch, its output or error, and what can be done with it.
import { card } from "./overview.js";
import { Facts, Table, button, confirm, count, el, ms, say, setText, short, when } from "./dom.js";
import { FINAL, cancelJob, jobLink, toneOf } from "./jobs.js";
import { call, url } from "./service.js";

const STAGES = ["queue", "decode", "batch", "infer"], MOST_TEXT = 4000;
const PAGES = 5, AROUND_MS = 60_000;  // of jobs among which others of the batch are looked for; how long before and after
const SAME_RUN_MS = 1.5;  // two jobs of a batch have run starts that differ by rounding only

export class JobView {
  constructor(context) {
    this.context = context;
    this.title = el("h2");
    this.facts = new Facts("facts");
    this.timeline = el("ol", { className: "timeline" });
    this.strip = el("div", { className: "strip", aria: { hidden: "true" } });
    this.legend = el("ul", { className: "legend" });
    this.text = el("pre", { tabIndex: 0, role: "region", aria: { label: "Output or error" } });
    this.metadata = new Facts("facts");
    this.actions = el("div", { className: "row" });
    this.others = new Table("Jobs of the same batch", [
      { name: "Job", className: "id", text: ({ id }) => id, href: ({ id, tenant }) => jobLink(id, tenant) },
      { name: "Status", text: ({ status }) => status, tone: ({ status }) => toneOf(status) },
      { name: "Tenant", text: ({ tenant }) => tenant ?? "" },
      { name: "Accepted", text: (row) => when(row.created_at) },
      { name: "Queue", number: true, text: ({ timings }) => ms(timings.queue) },
      { name: "Infer", number: true, text: ({ timings }) => ms(timings.infer) },
    ], { empty: "" });
    this.find = button("Find the other jobs of this batch", () => this.#findOthers());
    this.batchNote = el("p", { className: "soft" });
    this.timesCard = card("Where the time went", this.strip, this.legend);
    this.node = el("section", { aria: { label: "Job" } },
      el("div", { className: "card" }, el("div", { className: "row" }, this.title), this.facts.node, this.actions),
      el("div", { className: "pair" }, card("Timeline", this.timeline), this.timesCard),
      card("Its batch", this.batchNote, this.find, this.others.node), card("Output", this.text), card("Metadata", this.metadata.node));
  }

  show(query, id) {
    Object.assign(this, { id, tenant: query.tenant ?? "", job: null });
    this.others.update([]);
    setText(this.title, `Job ${id}`);
    this.actions.replaceChildren();
    this.known = "";
  }

  isLive() { return !this.job || !FINAL.has(this.job.status); }

  async refresh() {
    const id = this.id, job = await call(url(`/v1/jobs/${encodeURIComponent(id)}`, { tenant: this.tenant }));
    if (id !== this.id) return;
    this.job = job;
    this.facts.update({
      "status": [job.error ? `${job.status}: ${job.error.code}` : job.status, toneOf(job.status)], "model": `${job.model}@${job.version}`, "lane": job.lane,
      ...(this.tenant && { tenant: this.tenant }), "attempts": count(job.attempts), ...(job.position && { position: count(job.position) }),
      "batch": job.batch_size ? count(job.batch_size) : "–", "total": ms(job.timings.total),
    });
    this.#showTimeline(job);
    this.#showTimes(job);
    setText(this.text, job.error ? `${job.error.message} (${job.error.code}, ${job.error.status})` : job.output_url ? "The output is too large to be shown here." : job.output === null ? "none" : short(JSON.stringify(job.output, null, 1), MOST_TEXT));
    this.metadata.update(job.metadata);
    setText(this.batchNote, job.batch_size > 1 ? `It ran in a batch of ${job.batch_size}, for ${ms(job.timings.infer)}. No record lists a batch; jobs of one batch began and ran at the same time.`
      : job.batch_size ? `It ran alone, for ${ms(job.timings.infer)}.` : "It has not run.");
    this.find.hidden = !(job.batch_size > 1);
    const actions = FINAL.has(job.status) ? "final" : "open";
    if (this.known !== actions) { this.known = actions; this.actions.replaceChildren(...this.#actionsOf(job)); }
  }

  #actionsOf(job) {
    if (!FINAL.has(job.status)) return [button("Cancel…", () => cancelJob({ ...this.job, tenant: this.tenant }, () => this.refresh()), { danger: true })];
    const links = [el("a", { href: `#webhooks?job=${encodeURIComponent(job.id)}` }, "Webhook deliveries")];
    if (job.status === "failed") links.push(el("a", { href: `#dead-letters?id=${encodeURIComponent(job.id)}` }, "Dead letter"));
    return [...links, button("Erase its data…", () => this.#erase(), { danger: true })];
  }

  async #erase() {
    if (!await confirm("Erase the data of this job?", { text: "Record, output, dead letter and deliveries are deleted now instead of later.", verb: "Erase" })) return;
    await call(url(`/v1/jobs/${encodeURIComponent(this.id)}`, { tenant: this.tenant, purge: "true" }), { method: "DELETE" });
    say(`The data of job ${this.id} is erased.`);
    location.hash = "#jobs";
  }

  #showTimeline(job) {
    const accepted = Date.parse(job.created_at), steps = [["accepted", job.created_at]];
    if (job.started_at) steps.push([job.attempts > 1 ? `claimed for the ${job.attempts}th time` : "claimed by a worker", job.started_at]);
    if (job.started_at && job.timings.batch !== null) steps.push([`run began, in a batch of ${job.batch_size}`, new Date(runStart(job)).toISOString()]);
    if (job.finished_at) steps.push([job.status, job.finished_at]);
    while (this.timeline.children.length > steps.length) this.timeline.lastChild.remove();
    steps.forEach(([name, at], nth) => {
      const line = this.timeline.children[nth] ?? this.timeline.appendChild(el("li", {}, el("span"), el("span", { className: "soft" }), el("span")));
      setText(line.children[0], new Date(at).toISOString().slice(11, 23));
      setText(line.children[1], nth ? `+ ${ms(Math.max(0, Date.parse(at) - accepted))}` : at.slice(0, 10));
      setText(line.children[2], name);
    });
  }

  #showTimes({ timings }) {
    const parts = STAGES.map((stage) => [stage, timings[stage] ?? 0]), known = parts.reduce((all, [, time]) => all + time, 0);
    if (timings.total !== null) parts.push(["rest", Math.max(0, timings.total - known)]);
    this.timesCard.hidden = known === 0;
    this.strip.replaceChildren(...parts.map(([stage, time]) => { const node = el("i", { className: stage }); node.style.flex = `${time} 0 0px`; return node; }));
    this.legend.replaceChildren(...parts.map(([stage, time]) => el("li", {}, el("i", { className: stage }), `${stage} ${ms(time)}`)));
  }

  /** Looks among jobs that were accepted about then for those whose run began at the same time and took as long. */
  async #findOthers() {
    const job = this.job, began = runStart(job), around = Date.parse(job.created_at), same = [];
    const fields = { model: job.model, version: job.version, tenant: this.context.tenant() === "*" ? "*" : this.tenant || this.context.tenant(),
      since: new Date(around - AROUND_MS).toISOString(), until: new Date(around + AROUND_MS).toISOString(), limit: 100 };
    let cursor = "", looked = 0;
    for (let page = 0; page < PAGES; page += 1) {
      const found = await call(url("/v1/jobs", { ...fields, cursor }));
      looked += found.jobs.length;
      same.push(...found.jobs.filter((one) => one.id !== job.id && one.batch_size === job.batch_size && one.started_at && one.timings.batch !== null
        && Math.abs(one.timings.infer - job.timings.infer) < 0.01 && Math.abs(runStart(one) - began) <= SAME_RUN_MS));
      cursor = found.next_cursor;
      if (!cursor || same.length >= job.batch_size - 1) break;
    }
    this.others.update(same.map((one) => ({ ...one, key: one.id })));
    say(`${count(same.length)} of ${count(job.batch_size - 1)} other jobs of the batch found among ${count(looked)}.`);
  }
}

/** When a job's run began, in ms since the epoch: as exact as its times. */
const runStart = ({ created_at: created, timings }) => Date.parse(created) + timings.queue + (timings.decode ?? 0) + timings.batch;

