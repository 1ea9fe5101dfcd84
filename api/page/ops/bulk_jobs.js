// Bulk jobs: how far each is, and what cancels it.
import { card } from "./overview.js";
import { Table, confirm, count, el, say, short, when } from "./dom.js";
import { call, ofTenants, post, url } from "./service.js";

const PAGE = 50, ENDED = ["completed", "failed", "expired", "cancelled"];

export class BulkJobs {
  constructor(context) {
    this.context = context;
    this.table = new Table("Bulk jobs", [
      { name: "Bulk job", className: "id", text: ({ id }) => id },
      { name: "Tenant", text: ({ tenant }) => tenant },
      { name: "Status", text: ({ status, stalled }) => stalled ? `${status}: ${stalled}` : status, tone: ({ status, stalled }) => stalled || status === "failed" ? "wrong" : status === "completed" ? "fine" : "" },
      { name: "Progress", part: (row) => [row.request_counts.completed + row.request_counts.failed, row.request_counts.total] },
      { name: "Done", number: true, text: (row) => `${count(row.request_counts.completed)} of ${count(row.request_counts.total)}` },
      { name: "Failed", number: true, text: (row) => count(row.request_counts.failed), tone: (row) => row.request_counts.failed ? "wrong" : "" },
      { name: "Created", text: (row) => when(row.created_at) },
      { name: "Ends by", text: (row) => when(row.expires_at) },
      { name: "Metadata", className: "long", text: ({ metadata }) => short(Object.entries(metadata ?? {}).map(([name, value]) => `${name}=${value}`).join(", "), 80) },
      { name: "Actions", actions: ({ status }) => [...ENDED, "cancelling"].includes(status) ? [] : [["Cancel…", (row) => this.#cancel(row), true]] },
    ], { empty: "There are no bulk jobs." });
    this.node = el("section", { aria: { label: "Bulk jobs" } }, card("Bulk jobs", this.table.node));
  }

  show() {}
  isLive() { return true; }

  async refresh() {
    const found = await ofTenants(this.context.tenant(), this.context.tenants(), async (name) => (await call(url("/v1/batches", { tenant: name, limit: PAGE }))).data);
    this.table.update(found.map(([tenant, row]) => ({ ...row, tenant, key: row.id })).sort((a, b) => b.created_at - a.created_at));
  }

  async #cancel(row) {
    const { completed, failed, total } = row.request_counts;
    if (!await confirm("Cancel this bulk job?", { text: `${count(total - completed - failed)} of its ${count(total)} lines have no outcome yet. Lines that are done keep theirs.`, verb: "Cancel the bulk job" })) return;
    await post(url(`/v1/batches/${encodeURIComponent(row.id)}/cancel`, { tenant: row.tenant }));
    say(`The bulk job ${row.id} is being canceled.`);
    await this.refresh();
  }
}
