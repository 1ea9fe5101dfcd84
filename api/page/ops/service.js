// Calls the service: with the admin key of this tab, errors as texts, and the stream of snapshots.
// EventSource sends no headers, so the stream is read from the body of a fetch.

const KEY = "jitney-admin-key", RETRY_MS = 2000, TENANTS_ASKED = 20;
let key = sessionStorage.getItem(KEY) ?? "";
let needKey = () => {};

export class Problem extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

/** `ask` is called with a reason when the service wants another key. */
export const onKeyNeeded = (ask) => { needKey = ask; };

export function setKey(text) {
  key = text;
  sessionStorage.setItem(KEY, text);
}

/** Sends a request; returns the response if it is good, else throws a Problem. */
export async function send(path, { headers, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers: { ...(key && { Authorization: `Bearer ${key}` }), ...headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("Cannot reach the service.", 0);
  }
  if (response.ok) return response;
  let body = null;
  try { body = await response.json(); } catch { /* a proxy's page */ }
  const detail = body?.detail ?? body?.error?.message ?? response.statusText;
  if (response.status === 401 || response.status === 403) needKey(key ? detail : "");
  throw new Problem(`${body?.code ?? response.status}: ${detail}`, response.status);
}

export const call = async (path, options) => (await send(path, options)).json();
export const post = (path, body) => call(path, { method: "POST", ...(body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }) });

/** A path with a query of the fields that are not empty. */
export function url(path, fields) {
  const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return query.size ? `${path}?${query}` : path;
}

/** Asks for each tenant, where the service answers for one only; `ask(tenant)` returns a list. Returns [tenant, entry] pairs. */
export async function ofTenants(tenant, known, ask) {
  const names = tenant === "*" ? known.slice(0, TENANTS_ASKED) : [tenant];
  const lists = await Promise.all(names.map(async (name) => (await ask(name)).map((entry) => [name, entry])));
  return lists.flat();
}

/** Resolves once the page is seen. */
const seen = () => new Promise((done) => {
  const look = () => { if (document.hidden) return; document.removeEventListener("visibilitychange", look); done(); };
  document.addEventListener("visibilitychange", look);
  look();
});

/**
 * Reads server-sent events while the page is seen; calls `onData(text)` for each, and `onState(isOpen, reason)` when the connection comes and goes.
 * A page in the background holds no connection: browsers open only six to a host, for all its pages.
 */
export async function follow(path, onData, onState) {
  for (;;) {
    await seen();
    const leaving = new AbortController(), leave = (event) => { if (document.hidden || event.type === "pagehide") leaving.abort(); };
    document.addEventListener("visibilitychange", leave);
    addEventListener("pagehide", leave);
    try {
      await readEvents(await send(path, { headers: { Accept: "text/event-stream" }, signal: leaving.signal }), onData, onState);
      onState(false, "");
    } catch (error) {
      onState(false, leaving.signal.aborted ? "" : error.message);
      if (error.status === 401 || error.status === 403) return;  // a new key starts it again
    } finally {
      document.removeEventListener("visibilitychange", leave);
      removeEventListener("pagehide", leave);
    }
    if (!leaving.signal.aborted) await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

async function readEvents(response, onData, onState) {
  onState(true, "");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    const lines = events.at(-1)?.split("\n").filter((line) => line.startsWith("data: "));  // of several that came at once, the newest
    if (lines?.length) onData(lines.map((line) => line.slice(6)).join("\n"));
  }
}
