// The overview: warnings, totals, queues, workers, batches, failures and refusals. Numbers come with the stream of snapshots and from /metrics.
import { Batches } from "./batches.js";
import { Facts, Table, age, bytes, confirm, count, el, percent, rate, say, setText, when } from "./dom.js";
import * as metrics from "./metrics.js";
import { post } from "./service.js";

const RATE_MS = 5000;  // over which rates are computed

/** Rates of counters between snapshots. */
class Rates {
  constructor() { this.seen = []; }

  add(snapshot) {
    const at = Date.parse(snapshot.at), counters = new Map();
    for (const { model, submitted, finished } of snapshot.totals) {
      counters.set(`in ${model}`, submitted);
      counters.set(`out ${model}`, Object.values(finished).reduce((all, number) => all + number, 0));
    }
    for (const { model, version, lane, accepted, waiting, running } of snapshot.queues) {
      counters.set(`in ${model} ${version} ${lane}`, accepted);
      counters.set(`out ${model} ${version} ${lane}`, accepted - waiting - running);  // what has left: no counter has the lane
    }
    this.seen.push({ at, counters });
    while (this.seen.length > 2 && at - this.seen[1].at >= RATE_MS) this.seen.shift();
  }

  /** Events of a counter in a second; null before the second snapshot. */
  of(name) {
    const first = this.seen[0], last = this.seen.at(-1);
    if (this.seen.length < 2 || last.at <= first.at) return null;
    const grown = (last.counters.get(name) ?? 0) - (first.counters.get(name) ?? 0);
    return 1000 * Math.max(0, grown) / (last.at - first.at);
  }

  all(direction, models) {
    return this.seen.length < 2 ? null : models.reduce((sum, model) => sum + (this.of(`${direction} ${model}`) ?? 0), 0);
  }
}

export class Overview {
  constructor() {
    this.rates = new Rates();
    this.batches = new Batches();
    this.alerts = el("ul", { className: "alerts", aria: { label: "Warnings" } });
    this.tiles = new Facts("tiles");
    this.queues = new Table("Queues", [
      { name: "Model", text: ({ model, version }) => `${model}@${version}`, href: ({ model }) => `#jobs?model=${encodeURIComponent(model)}&tenant=*` },
      { name: "Lane", text: ({ lane }) => lane },
      { name: "Waiting", number: true, text: ({ waiting }) => count(waiting) },
      { name: "Oldest", number: true, text: (row) => age(row.oldest_seconds), title: (row) => row.oldest_at ?? "" },
      { name: "Running", number: true, text: ({ running }) => count(running) },
      { name: "In per s", number: true, text: ({ model, version, lane }) => rate(this.rates.of(`in ${model} ${version} ${lane}`)) },
      { name: "Out per s", number: true, text: ({ model, version, lane }) => rate(this.rates.of(`out ${model} ${version} ${lane}`)) },
      { name: "State", text: ({ paused }) => paused ? `paused, new jobs: ${paused.submits}` : "open", tone: ({ paused }) => paused ? "wrong" : "fine",
        title: ({ paused }) => paused ? `since ${paused.since}, by ${paused.by ?? "a caller without a key"}` : "" },
      { name: "Actions", actions: (row) => row.lane === "suspect" ? [] : [
        row.paused ? ["Resume", resumeQueue] : ["Pause…", pauseQueue], ...(row.waiting ? [["Purge…", purgeQueue, true]] : [])] },
    ], { empty: "No worker has announced a model." });
    this.models = new Table("Open jobs by model", [
      { name: "Model", text: ({ model }) => model },
      { name: "Open rows", number: true, text: (row) => count(row.open_rows) },
      { name: "Bytes of inputs", number: true, text: (row) => bytes(row.open_bytes) },
      { name: "In per s", number: true, text: ({ model }) => rate(this.rates.of(`in ${model}`)) },
      { name: "Out per s", number: true, text: ({ model }) => rate(this.rates.of(`out ${model}`)) },
      ...["succeeded", "failed", "canceled", "expired"].map((outcome) => ({ name: outcome, number: true, text: ({ finished }) => count(finished[outcome] ?? 0) })),
      { name: "retried", number: true, text: ({ retried }) => count(retried) },
      { name: "reclaimed", number: true, text: ({ reclaimed }) => count(reclaimed) },
    ]);
    this.workers = new Table("Workers", [
      { name: "Worker", className: "id", text: ({ id }) => id },
      { name: "Host", className: "long", text: ({ host, pid }) => `${host}, pid ${pid}` },
      { name: "Serves", className: "long", text: ({ models, loading }) => [...models.map((one) => `${one.name}@${one.version} on ${one.device ?? "?"}${one.leaving ? ", leaving" : ""}`),
        ...loading.map((name) => `${name.replace(" ", "@")} loading`)].join("; ") },
      { name: "Running", number: true, text: ({ models }) => count(models.reduce((all, { running }) => all + running, 0)) },
      { name: "Memory", number: true, text: (row) => bytes(row.memory_bytes) },
      { name: "Heartbeat", number: true, text: (row) => row.heartbeat_age_seconds === null ? "–" : `${age(row.heartbeat_age_seconds)} ago`,
        tone: (row) => row.heartbeat_age_seconds > row.lease_seconds / 2 ? "wrong" : "" },
      { name: "Since", text: (row) => when(row.started_at) },
      { name: "State", text: ({ status }) => status, tone: ({ status }) => status === "serving" ? "fine" : "wrong" },
      { name: "Actions", actions: ({ paused }) => [paused ? ["Resume", resumeWorker] : ["Pause…", pauseWorker]] },
    ], { empty: "No worker is alive." });
    this.failures = new Table("Failed jobs by error code", [
      { name: "Model", text: ({ model }) => model },
      { name: "Code", text: ({ code }) => code, href: ({ code, model }) => code === "failed" ? `#jobs?status=failed&model=${model}&tenant=*` : `#jobs?code=${code}&model=${model}&tenant=*` },
      { name: "Jobs", number: true, text: ({ number }) => count(number) },
    ], { empty: "No job has failed." });
    this.refusals = new Table("Refused requests and jobs", [
      { name: "Code", text: ({ code }) => code },
      { name: "Number", number: true, text: ({ number }) => count(number) },
      { name: "In 5 minutes", number: true, text: ({ recent }) => count(recent) },
    ], { empty: "Nothing was refused." });
    this.processes = new Table("Processes", [
      { name: "Part", text: ({ part }) => part },
      { name: "Processes", number: true, text: ({ number }) => count(number) },
      { name: "Release", text: ({ releases }) => releases },
      { name: "Memory", number: true, text: ({ memory }) => bytes(memory) },
      { name: "Longest delay", number: true, text: ({ delay }) => delay === null ? "–" : `${(1000 * delay).toFixed(0)} ms` },
    ]);
    this.gpus = new Table("GPUs", [
      { name: "GPU", text: ({ host, gpu }) => `${host}, number ${gpu}` },
      { name: "Memory used", number: true, text: ({ used, all }) => `${bytes(used)} of ${bytes(all)}` },
      { name: "Busy", number: true, text: ({ busy }) => percent(busy) },
    ]);
    this.gpuCard = card("GPUs", this.gpus.node);
    this.gpuCard.hidden = true;
    this.processCard = card("Processes", this.processes.node);
    this.refusalCard = card("Refusals", this.refusals.node);
    this.node = el("section", { aria: { label: "Overview" } }, this.alerts, el("div", { className: "card" }, this.tiles.node), card("Queues", this.queues.node),
      card("Workers", this.workers.node), card("Batches", this.batches.node), card("Jobs by model", this.models.node),
      el("div", { className: "pair" }, card("Failures", this.failures.node), this.refusalCard), this.gpuCard, this.processCard);
  }

  /** Takes a new snapshot; drawn when the overview is shown. */
  take(snapshot) {
    this.rates.add(snapshot);
    this.snapshot = snapshot;
  }

  render() {
    if (!this.snapshot) return;
    const { queues, models, workers, totals, redis, warnings, refusing, failed_models: failed } = this.snapshot;
    const ofModel = new Map(totals.map((one) => [one.model, one])), names = [...ofModel.keys()];
    const sum = (rows, of) => rows.reduce((all, row) => all + of(row), 0);
    const oldest = queues.reduce((most, row) => Math.max(most, row.oldest_seconds ?? 0), 0);
    this.#showAlerts(redis, warnings, refusing, failed, workers);
    this.tiles.update({
      "waiting": count(sum(queues, ({ waiting }) => waiting)), "running": count(sum(queues, ({ running }) => running)),
      "oldest waits": oldest ? age(oldest) : "–", "in per s": rate(this.rates.all("in", names)), "out per s": rate(this.rates.all("out", names)),
      "workers": [count(workers.length), workers.length ? "" : "wrong"],
      "failed": count(sum(totals, ({ finished }) => finished.failed ?? 0)), "webhooks waiting": metricTile("jitney_webhooks_waiting"), "bulk jobs open": metricTile("jitney_bulks_open"), "dead letters": metricTile("jitney_dead_letters"),
      ...redisTiles(),
    });
    const shown = queues.filter(({ lane, waiting, running }) => lane !== "suspect" || waiting || running);
    this.queues.update(shown.map((row) => ({ ...row, key: `${row.model} ${row.version} ${row.lane}`, title: `${row.model}, ${row.lane}` })));
    this.workers.update(workers.map((row) => ({ ...row, key: row.id })));
    const nothing = { submitted: 0, finished: {}, failed: {}, retried: 0, reclaimed: 0 };
    this.models.update(models.map((row) => ({ ...nothing, ...ofModel.get(row.model), ...row, key: row.model })));
    this.#showFailures(totals);
  }

  #showFailures(totals) {
    const rows = totals.flatMap(({ model, failed, finished }) => {
      const codes = Object.entries(failed);
      return codes.length || !finished.failed ? codes.map(([code, number]) => ({ model, code, number })) : [{ model, code: "failed", number: finished.failed }];
    });
    rows.sort((a, b) => b.number - a.number);
    this.failures.update(rows.map((row) => ({ ...row, key: `${row.model} ${row.code}` })));
  }

  /** Draws what /metrics has. */
  renderMetrics() {
    this.batches.render(this.snapshot?.models.map(({ model }) => model) ?? []);
    this.refusalCard.hidden = !metrics.has("jitney_refusals_total");
    const refused = metrics.samples("jitney_refusals_total").map(({ labels, value }) =>
      ({ key: labels.code, code: labels.code, number: value, recent: metrics.growth("jitney_refusals_total", { code: labels.code }) }));
    this.refusals.update(refused.sort((a, b) => b.number - a.number));
    const parts = [...new Set(metrics.samples("jitney_memory_bytes").map(({ labels }) => labels.part))];
    this.processCard.hidden = parts.length === 0;
    const gpus = metrics.samples("jitney_gpu_memory_bytes");
    this.gpuCard.hidden = gpus.length === 0;
    this.gpus.update(gpus.map(({ labels, value }) => ({ key: `${labels.host} ${labels.gpu}`, ...labels, all: value,
      used: metrics.total("jitney_gpu_memory_used_bytes", labels), busy: metrics.total("jitney_gpu_busy_ratio", labels) })));
    this.processes.update(parts.map((part) => {
      const of = metrics.samples("jitney_processes").filter(({ labels }) => labels.part === part);
      return { key: part, part, number: of.reduce((all, { value }) => all + value, 0), releases: of.map(({ labels }) => labels.version).join(", "),
        memory: metrics.total("jitney_memory_bytes", { part }), delay: metrics.has("jitney_event_loop_delay_max_seconds") ? metrics.total("jitney_event_loop_delay_max_seconds", { part }) : null };
    }));
  }

  #showAlerts(redis, warnings, refusing, failed, workers) {
    const texts = [
      ...(workers.length ? [] : ["No worker is alive: jobs wait."]),
      ...(refusing ? [`New jobs are refused: ${refusing}`] : []),
      ...redis.warnings.map((reason) => `Redis may lose jobs: ${reason}`),
      ...warnings.map(({ what, message, values }) =>
        `${what} differs: ${values.map(({ value, processes }) => `${value} in ${processes.slice(0, 4).join(", ")}${processes.length > 4 ? ", …" : ""}`).join("; ")}. ${message}`),
      ...Object.entries(failed).map(([name, reason]) => `${name} did not load: ${reason}`),
    ];
    while (this.alerts.children.length > texts.length) this.alerts.lastChild.remove();
    texts.forEach((text, at) => setText(this.alerts.children[at] ?? this.alerts.appendChild(el("li")), text));
    this.alerts.hidden = texts.length === 0;
  }
}

function redisTiles() {
  const used = metrics.total("jitney_server_memory_used_bytes"), limit = metrics.total("jitney_server_memory_limit_bytes");
  return metrics.has("jitney_server_memory_used_bytes") ? { "Redis memory": bytes(used), "of its limit": [percent(used / limit), used > limit / 2 ? "wrong" : ""] } : {};
}

const metricTile = (name) => metrics.has(name) ? count(metrics.total(name)) : "–";

export const card = (title, ...children) => el("div", { className: "card" }, el("div", { className: "row" }, el("h2", {}, title)), ...children);

const path = (model, verb) => `/v1/queues/${encodeURIComponent(model)}/${verb}`;

async function pauseQueue({ model, lane }) {
  const chosen = await confirm(`Pause ${model}?`, {
    text: "Workers claim none of its jobs until it is resumed. Jobs that run go on.", verb: "Pause",
    choices: { lanes: { legend: "Lanes", options: { [lane]: `only ${lane}`, "": "both" } }, submits: { legend: "New jobs meanwhile", options: { accept: "are accepted, and wait", refuse: "are refused" } } },
  });
  if (!chosen) return;
  await post(path(model, "pause"), { submits: chosen.submits, ...(chosen.lanes && { lane: chosen.lanes }) });
  say(`${model}, ${chosen.lanes || "both lanes"}: paused.`);
}

async function resumeQueue({ model, lane }) {
  await post(path(model, "resume"), { lane });
  say(`${model}, ${lane}: resumed.`);
}

async function purgeQueue({ model, version, lane, waiting }) {
  const text = `About ${count(waiting)} jobs of version ${version} wait in the lane ${lane}. All of them are canceled, lines of bulk jobs too. They cannot be brought back.`;
  if (!await confirm(`Purge the queue of ${model}?`, { text, verb: "Purge", typed: model })) return;
  let canceled = 0, cursor = null;
  do {
    const done = await post(path(model, "purge"), { confirm: model, version, lane, ...(cursor && { cursor }) });
    canceled += done.canceled;
    cursor = done.more ? done.next_cursor : null;
    say(`${count(canceled)} jobs canceled${cursor ? " so far" : ""}.`);
  } while (cursor);
}

async function pauseWorker({ id, host }) {
  if (!await confirm(`Pause the worker ${id}?`, { text: `It is on ${host}. It finishes what it has, and claims nothing until it is resumed.`, verb: "Pause" })) return;
  await post(`/v1/workers/${encodeURIComponent(id)}/pause`);
  say(`The worker ${id} pauses with its next heartbeat.`);
}

async function resumeWorker({ id }) {
  await post(`/v1/workers/${encodeURIComponent(id)}/resume`);
  say(`The worker ${id} resumes with its next heartbeat.`);
}
