// Webhook deliveries with their attempts and receivers, and what sends them again.
import { card } from "./overview.js";
import { Table, age, count, el, say, short, when } from "./dom.js";
import { Filters, jobLink } from "./jobs.js";
import { call, ofTenants, post, url } from "./service.js";

const PAGE = 50;

export class Webhooks {
  constructor(context) {
    this.context = context;
    this.filters = new Filters("Deliveries", { state: ["State", ["waiting", "delivered", "failed"]], job: ["Job", "text"] }, context.refresh);
    this.deliveries = new Table("Deliveries", [
      { name: "Created", text: (row) => when(row.created_at) },
      { name: "Event", text: ({ type }) => type },
      { name: "Job", className: "id", text: ({ job }) => job, href: ({ job, tenant }) => job.startsWith("batch_") ? "#bulk-jobs" : jobLink(job, tenant) },
      { name: "Tenant", text: ({ tenant }) => tenant },
      { name: "Receiver", className: "long", text: (row) => short(row.url) },
      { name: "State", text: ({ state }) => state, tone: ({ state }) => ({ delivered: "fine", failed: "wrong" })[state] },
      { name: "Tries", number: true, text: ({ tries }) => tries },
      { name: "Last answer", className: "long", text: ({ attempts }) => { const last = attempts.at(-1); return last ? short(`${last.status ?? ""} ${last.error ?? ""}`.trim() || "–") : "–"; },
        title: ({ attempts }) => attempts.map(({ at, status, error }) => `${at} ${status ?? ""} ${error ?? ""}`).join("\n") },
      { name: "Next attempt", text: (row) => when(row.next_attempt_at) },
      { name: "Actions", actions: () => [["Send again", async (row) => {
        await post(url(row.urls.replay, { tenant: row.tenant }));
        say(`The delivery ${row.id} is due again.`);
        await context.refresh();
      }]] },
    ], { empty: "There are no deliveries." });
    this.endpoints = new Table("Receivers", [
      { name: "Receiver", className: "long", text: ({ origin }) => origin },
      { name: "Tenant", text: ({ tenant }) => tenant },
      { name: "Waiting", number: true, text: ({ waiting }) => count(waiting) },
      { name: "Under way", number: true, text: (row) => count(row.under_way) },
      { name: "Failures in a row", number: true, text: ({ failures }) => count(failures), tone: ({ failures }) => failures ? "wrong" : "" },
      { name: "Paused until", text: (row) => when(row.paused_until) },
      { name: "Last success", text: (row) => row.last_success_at ? `${age((Date.now() - Date.parse(row.last_success_at)) / 1000)} ago` : "never" },
    ], { empty: "No webhook was asked for." });
    this.node = el("section", { aria: { label: "Webhooks" } }, card("Deliveries", this.filters.node, this.deliveries.node), card("Receivers", this.endpoints.node));
  }

  show(query) { this.filters.set(query); }
  isLive() { return true; }

  async refresh() {
    const tenant = this.context.tenant(), known = this.context.tenants(), fields = this.filters.values();
    const found = await ofTenants(tenant, known, async (name) => (await call(url("/v1/webhooks", { ...fields, tenant: name, limit: PAGE }))).deliveries);
    const rows = found.map(([name, row]) => ({ ...row, tenant: name, key: row.id }));
    this.deliveries.update(rows.sort((a, b) => b.created_at.localeCompare(a.created_at)));
    const endpoints = await ofTenants(tenant, known, async (name) => (await call(url("/v1/webhooks/endpoints", { tenant: name }))).endpoints);
    this.endpoints.update(endpoints.map(([name, row]) => ({ ...row, tenant: name, key: `${name} ${row.id}` })));
  }
}
