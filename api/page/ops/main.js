// Starts the operations page: chooses the view by the address, follows the snapshots, and refreshes what is shown.
import { BulkJobs } from "./bulk_jobs.js";
import { DeadLetters } from "./dead_letters.js";
import { $, el, say, schedule, setText } from "./dom.js";
import { JobView } from "./job.js";
import { Jobs } from "./jobs.js";
import { readMetrics } from "./metrics.js";
import { Overview } from "./overview.js";
import { call, follow, onKeyNeeded, setKey } from "./service.js";
import { Webhooks } from "./webhooks.js";

const REFRESH_MS = 3000, METRICS_MS = 5000, STALE_MS = 5000;
let shown = null, tenants = [], reading = null, waiting = 0, hasFailed = false, snapshotAt = 0, isOpen = false, isFollowing = false, reason = "";

const context = { tenant: () => $("tenant").value, tenants: () => tenants, refresh: () => refresh() };
const overview = new Overview();
const OVERVIEW = { node: overview.node, show() {}, isLive: () => true, refresh: refreshOverview };
const CLASSES = new Map([["jobs", Jobs], ["job", JobView], ["dead-letters", DeadLetters], ["webhooks", Webhooks], ["bulk-jobs", BulkJobs]]);
const views = new Map();  // by name; made when they are first shown

async function refreshOverview() {
  await readMetrics();
  schedule(renderOverview);
}

function renderOverview() {
  if (shown !== OVERVIEW) return;
  overview.render();
  overview.renderMetrics();
}

/** Refreshes the shown view; one that is being read already is read again afterwards. */
async function refresh() {
  const view = shown, before = reading;
  waiting += 1;
  const mine = reading = (async () => {
    await before;
    try {
      if (view === shown) await view.refresh();
      if (hasFailed) say("");
      hasFailed = false;
    } catch (error) {
      if (error.status === 401 || error.status === 403) return;  // the form for a key says so
      hasFailed = true;
      say(error.message, true);
    } finally { waiting -= 1; }
  })();
  await mine;
}

/** Refreshes what is shown by itself, unless nobody sees it, a dialog is open, or the last time is not over. */
function refreshByItself(isOverview) {
  if ((shown === OVERVIEW) === isOverview && shown.isLive() && isOpen && !document.hidden && !waiting && !$("dialog").open) refresh();
}

function route() {
  const [path, query = ""] = location.hash.slice(1).split("?"), [name, ...rest] = path.split("/");
  if (CLASSES.has(name) && !views.has(name)) views.set(name, new (CLASSES.get(name))(context));
  const view = views.get(name) ?? OVERVIEW, fields = Object.fromEntries(new URLSearchParams(query));
  if (fields.tenant && name !== "job") { chooseTenant(fields.tenant); delete fields.tenant; }
  shown = view;
  view.show(fields, decodeURIComponent(rest.join("/")));
  if (view.node !== $("content").firstChild) {
    $("content").replaceChildren(view.node);
    say("");
  }
  for (const link of document.querySelectorAll("nav a")) {
    const isCurrent = link.hash === `#${name || "overview"}` || (name === "job" && link.hash === "#jobs");
    if (isCurrent) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${view.node.getAttribute("aria-label")} – Jitney operations`;
  schedule(renderOverview);
  refresh();
}

function chooseTenant(name) {
  if (![...$("tenant").options].some(({ value }) => value === name)) $("tenant").append(el("option", { value: name }, name));
  $("tenant").value = name;
}

async function readTenants() {
  const found = [];
  let cursor = "";
  do {
    const page = await call(`/v1/tenants?limit=100${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    found.push(...page.tenants.map(({ tenant }) => tenant));
    cursor = page.next_cursor;
  } while (cursor && found.length < 1000);
  tenants = found;
  const chosen = $("tenant").value;
  $("tenant").replaceChildren(el("option", { value: "*" }, "all"), ...found.map((name) => el("option", { value: name }, name)));
  chooseTenant(chosen);
}

function showLive() {
  const late = performance.now() - snapshotAt;
  setText($("live"), !isOpen ? `not connected${reason ? `: ${reason}` : ""}` : snapshotAt && late > STALE_MS ? `the last numbers are ${Math.round(late / 1000)} s old` : "live");
  $("live").className = isOpen && late <= STALE_MS ? "fine" : "soft";
}

function takeSnapshot(text) {
  overview.take(JSON.parse(text));
  snapshotAt = performance.now();
  schedule(renderSnapshot);
}

function renderSnapshot() {
  showLive();
  if (shown === OVERVIEW) overview.render();
}

async function followSnapshots() {
  if (isFollowing) return;  // it uses a new key by itself
  isFollowing = true;
  await follow("/v1/ops/events", takeSnapshot, (open, why) => { isOpen = open; reason = why; showLive(); });
  isFollowing = false;
}

async function start() {
  followSnapshots();
  try {
    await readTenants();
    await overview.batches.readLimits();
  } catch (error) { if (error.status !== 401 && error.status !== 403) say(error.message, true); }
  await refresh();
}

onKeyNeeded((why) => {
  if ($("key-form").hidden) { $("key-form").hidden = false; $("key").focus(); }
  if (why) setText($("key-message"), `Refused: ${why}`);
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value);
  $("key").value = "";
  $("key-form").hidden = true;
  say("");
  start();
});
$("tenant").addEventListener("change", () => { for (const view of views.values()) view.cursor = ""; refresh(); });
addEventListener("hashchange", route);
setInterval(showLive, 1000);
setInterval(refreshByItself, REFRESH_MS, false);
setInterval(refreshByItself, METRICS_MS, true);
route();
start();
