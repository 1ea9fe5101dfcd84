// The list of jobs by filter: what it shows, and what cancels one or all that match.
import { card } from "./overview.js";
import { Table, act, button, confirm, count, el, ms, say, setText, short, when } from "./dom.js";
import { call, post, url } from "./service.js";

const PAGE = 50, STATES = ["queued", "running", "succeeded", "failed", "canceled", "expired"], OPEN = ["queued", "running"];
const NARROW = 760;  // width in pixels up to which the filters are folded away
const MOST_COUNTED = 50_000;  // jobs that a count before a cancellation looks for
export const FINAL = new Set(["succeeded", "failed", "canceled", "expired"]);
export const toneOf = (status) => ({ succeeded: "fine", failed: "wrong", expired: "wrong" })[status] ?? "";
export const jobLink = (id, tenant) => `#job/${encodeURIComponent(id)}${tenant ? `?tenant=${encodeURIComponent(tenant)}` : ""}`;

/** A row of labelled fields; `values()` returns those that are not empty. */
export class Filters {
  /** `fields`: name → [label, list of options] or [label, type of input]. `onChange` is called for each change. */
  constructor(label, fields, onChange) {
    this.inputs = {};
    const labels = Object.entries(fields).map(([name, [text, kind, hint = ""]]) => {
      const input = Array.isArray(kind) ? el("select", {}, el("option", { value: "" }, "any"), ...kind.map((value) => el("option", { value }, value)))
        : el("input", { type: kind, placeholder: hint, autocomplete: "off", ...(kind === "datetime-local" && { step: 1 }) });
      input.addEventListener("change", onChange);
      this.inputs[name] = input;
      return el("label", {}, text, input);
    });
    this.node = el("form", { className: "filters", role: "search", aria: { label } }, ...labels);
    this.node.addEventListener("submit", (event) => event.preventDefault());
  }

  values() {
    return Object.fromEntries(Object.entries(this.inputs).map(([name, { value, type }]) =>
      [name, type === "datetime-local" && value ? new Date(value).toISOString() : value.trim()]).filter(([, value]) => value));
  }

  set(values) {
    for (const [name, input] of Object.entries(this.inputs)) {
      const value = values[name] ?? "";
      if (value && input.tagName === "SELECT" && ![...input.options].some((option) => option.value === value)) input.append(el("option", { value }, value));
      input.value = value;
    }
  }
}

export class Jobs {
  constructor(context) {
    this.context = context;
    const again = () => { this.cursor = ""; context.refresh(); };
    this.filters = new Filters("Jobs", {
      status: ["Status", [...STATES, "failed,expired,canceled"]], model: ["Model", "text"], version: ["Version", "text"], lane: ["Lane", ["interactive", "bulk"]],
      code: ["Error code", "text"], since: ["Accepted since", "datetime-local"], until: ["Accepted before", "datetime-local"], metadata: ["Metadata", "text", "key=value"],
    }, again);
    this.cursor = "";
    this.table = new Table("Jobs", [
      { name: "Job", className: "id", text: ({ id }) => id, href: ({ id, tenant }) => jobLink(id, tenant) },
      { name: "Status", text: ({ status, error }) => error ? `${status}: ${error.code}` : status, tone: ({ status }) => toneOf(status), title: ({ error }) => error?.message ?? "" },
      { name: "Model", text: ({ model, version }) => `${model}@${version}` },
      { name: "Lane", text: ({ lane }) => lane },
      { name: "Tenant", text: ({ tenant }) => tenant ?? "" },
      { name: "Accepted", text: (row) => when(row.created_at), title: (row) => row.created_at },
      { name: "Total", number: true, text: ({ timings }) => ms(timings.total) },
      { name: "Batch", number: true, text: (row) => row.batch_size ?? "–" },
      { name: "Metadata", className: "long", text: ({ metadata }) => short(Object.entries(metadata).map(([name, value]) => `${name}=${value}`).join(", "), 80) },
      { name: "Actions", actions: ({ status }) => FINAL.has(status) ? [] : [["Cancel…", (row) => cancelJob(row, context.refresh), true]] },
    ], { empty: "No job matches." });
    this.progress = el("p", { className: "soft" });
    this.next = button("Older", () => { this.cursor = this.nextCursor; return context.refresh(); });
    this.first = button("Newest", again);
    const live = el("input", { type: "checkbox", checked: true });
    this.live = live;
    this.filterBox = el("details", { open: innerWidth > NARROW }, el("summary", { className: "soft" }, "Filters"), this.filters.node);
    this.node = el("section", { aria: { label: "Jobs" } }, card("Jobs", this.filterBox,
      el("div", { className: "row filters" }, el("label", { className: "check" }, live, "refresh by itself"),
        button("Cancel all that match…", () => this.#cancelMatching(), { danger: true }), this.first, this.next, this.progress), this.table.node));
  }

  show(query) {
    if (Object.keys(query).length) { this.filters.set(query); this.filterBox.open = true; }
    this.cursor = "";
  }

  /** Whether the list is to be read again without being asked for. */
  isLive() { return this.live.checked && !this.cursor; }

  #fields() {
    const { metadata = "", ...fields } = this.filters.values(), [name, ...value] = metadata.split("=");
    return { fields: { ...fields, tenant: this.context.tenant() }, metadata: name ? { [name]: value.join("=") } : {} };
  }

  async refresh() {
    const { fields, metadata } = this.#fields(), inQuery = Object.fromEntries(Object.entries(metadata).map(([name, value]) => [`metadata.${name}`, value]));
    const page = await call(url("/v1/jobs", { ...fields, ...inQuery, limit: PAGE, cursor: this.cursor }));
    this.nextCursor = page.next_cursor;
    this.next.hidden = !page.next_cursor;
    this.first.hidden = !this.cursor;
    setText(this.progress, page.scanned === undefined ? "" : `${count(page.jobs.length)} found, ${count(page.scanned)} looked at${page.scanned_to ? `, back to ${when(page.scanned_to)}` : ""}`);
    this.table.update(page.jobs.map((job) => ({ ...job, key: job.id })));
  }

  async #cancelMatching() {
    const { fields, metadata } = this.#fields(), { code, ...others } = fields;
    const states = others.status ? [others.status] : [];
    if (code || states.some((state) => !OPEN.includes(state))) return say("Only jobs that are queued or running can be canceled: choose such a status, and no error code.", true);
    const named = Object.keys(others).some((name) => name !== "tenant") || Object.keys(metadata).length;
    const body = { ...others, ...(Object.keys(metadata).length && { metadata }), ...(!named && { all: true }) };
    say("Counting…");
    const { matched, more } = await repeat({ ...body, dry_run: true }, MOST_COUNTED);
    say("");
    if (!matched) return say("No queued or running job matches.");
    const filter = Object.entries({ ...others, ...metadata }).map(([name, value]) => `${name} ${value}`).join(", ");
    if (!await confirm(`Cancel ${more ? "more than " : ""}${count(matched)} jobs?`, { text: `Those with: ${filter}. What runs is dropped.`, verb: `Cancel ${count(matched)} jobs` })) return;
    const done = await repeat(body, Infinity, (canceled) => say(`${count(canceled)} jobs canceled so far.`));
    say(`${count(done.canceled)} jobs canceled.`);
    await this.context.refresh();
  }
}

/** Cancels, or counts, until all are done or `most` have matched. */
async function repeat(body, most, onProgress = () => {}) {
  let cursor = null, matched = 0, canceled = 0;
  do {
    const done = await post("/v1/jobs/cancel", { ...body, ...(cursor && { cursor }) });
    matched += done.matched;
    canceled += done.canceled;
    cursor = done.more ? done.next_cursor : null;
    onProgress(canceled);
  } while (cursor && matched < most);
  return { matched, canceled, more: Boolean(cursor) };
}

export async function cancelJob({ id, tenant, status }, refresh) {
  if (!await confirm("Cancel this job?", { text: `${id} is ${status}. ${status === "running" ? "Its result is dropped." : "It never runs."}`, verb: "Cancel the job" })) return;
  await call(url(`/v1/jobs/${encodeURIComponent(id)}`, { tenant }), { method: "DELETE" });
  say(`The job ${id} is canceled.`);
  await refresh();
}
