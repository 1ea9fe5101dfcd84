// Dead letters: the list, a preview of their inputs, and replay.
import { card } from "./overview.js";
import { Table, button, bytes, confirm, count, el, openDialog, say, short, when } from "./dom.js";
import { Filters, jobLink } from "./jobs.js";
import { call, post, send, url } from "./service.js";

const PAGE = 50, MOST_TEXT = 4000, MOST_BYTES = 8_000_000, MOST_VALUES = 32, SHOWN_BYTES = 256;
const CODES = ["inference_failed", "poison", "too_many_attempts", "resource_exhausted", "unreadable_job", "output_too_large", "output_not_stored"];

export class DeadLetters {
  constructor(context) {
    this.context = context;
    this.filters = new Filters("Dead letters", { model: ["Model", "text"], code: ["Error code", CODES], replayed: ["Replayed", ["true", "false"]] }, () => { this.cursor = ""; context.refresh(); });
    this.cursor = "";
    this.rows = [];
    this.table = new Table("Dead letters", [
      { name: "Job", className: "id", text: ({ id }) => id, href: ({ id, tenant }) => jobLink(id, tenant) },
      { name: "Model", text: ({ model, version }) => `${model}@${version}` },
      { name: "Tenant", text: ({ tenant }) => tenant },
      { name: "Error", className: "long", text: ({ error }) => `${error.code}: ${short(error.message)}`, tone: () => "wrong", title: ({ error }) => error.message },
      { name: "Ended", text: (row) => when(row.finished_at) },
      { name: "Input", text: (row) => `${row.kind}, ${bytes(row.input_bytes)}` },
      { name: "Attempts", number: true, text: (row) => row.attempts },
      { name: "Replayed as", className: "id", text: (row) => row.replayed_as ?? "", href: (row) => row.replayed_as && jobLink(row.replayed_as, row.tenant) },
      { name: "Actions", actions: (row) => [["Input", preview], [row.replayed_as ? "Replay again…" : "Replay", (letter) => this.#replay(letter)], ["Delete…", (letter) => this.#remove(letter), true]] },
    ], { empty: "There are no dead letters." });
    this.replayAll = button("Replay all shown…", () => this.#replayAll());
    this.next = button("Older", () => { this.cursor = this.nextCursor; return context.refresh(); });
    this.first = button("Newest", () => { this.cursor = ""; return context.refresh(); });
    this.node = el("section", { aria: { label: "Dead letters" } }, card("Dead letters",
      el("p", { className: "soft" }, "Jobs that failed through no fault of their caller, kept with their input."), this.filters.node,
      el("div", { className: "row" }, this.replayAll, this.first, this.next), this.table.node));
  }

  show(query) {
    this.filters.set(query);
    this.only = query.id ?? "";
    this.cursor = "";
  }

  isLive() { return !this.cursor; }

  async refresh() {
    let page;
    if (this.only) page = { deadletters: [await call(`/v1/deadletters/${encodeURIComponent(this.only)}`)], next_cursor: null };
    else page = await call(url("/v1/deadletters", { ...this.filters.values(), tenant: this.context.tenant(), limit: PAGE, cursor: this.cursor }));
    this.nextCursor = page.next_cursor;
    this.next.hidden = !page.next_cursor;
    this.first.hidden = !this.cursor;
    this.rows = page.deadletters.map((letter) => ({ ...letter, key: letter.id }));
    this.replayAll.hidden = !this.rows.some((letter) => !letter.replayed_as);
    this.table.update(this.rows);
  }

  async #replay(letter) {
    if (letter.replayed_as && !await confirm("Replay it once more?", { text: `It was replayed as ${letter.replayed_as}.`, verb: "Replay" })) return;
    const job = await post(letter.urls.replay);
    say(`Replayed as job ${job.id}.`);
    await this.refresh();
  }

  async #replayAll() {
    const letters = this.rows.filter((letter) => !letter.replayed_as);
    if (!await confirm(`Replay ${count(letters.length)} dead letters?`, { text: "Each is submitted again as a new job.", verb: `Replay ${letters.length}`, danger: false })) return;
    let done = 0;
    for (const letter of letters) { await post(letter.urls.replay); say(`${count(done += 1)} of ${count(letters.length)} replayed.`); }
    await this.refresh();
  }

  async #remove(letter) {
    if (!await confirm("Delete this dead letter?", { text: "Its input is lost.", verb: "Delete" })) return;
    await call(letter.urls.self, { method: "DELETE" });
    say(`The dead letter ${letter.id} is deleted.`);
    await this.refresh();
  }
}

/** Shows the input of a dead letter: a picture, a sound, a text, the first values of tensors, or the first bytes. */
async function preview(letter) {
  const title = `Input of ${letter.id}`, facts = `${letter.kind}, ${bytes(letter.input_bytes)}${letter.metadata && Object.keys(letter.metadata).length ? `; ${short(Object.entries(letter.metadata).map(([name, value]) => `${name}=${value}`).join(", "))}` : ""}`;
  let urlOfBlob = "", shown, blob = null;
  if (letter.input_bytes > MOST_BYTES) shown = el("p", {}, "It is too large to be shown here.");
  else {
    blob = await (await send(letter.urls.input)).blob();
    urlOfBlob = URL.createObjectURL(blob);
    shown = await describeInput(letter.kind, blob, urlOfBlob);
  }
  await openDialog(title, (close) => {
    const back = el("button", { type: "button", autofocus: true }, "Close");
    back.addEventListener("click", () => close(null));
    return [el("p", { className: "soft" }, facts), shown, el("div", { className: "row" },
      ...(urlOfBlob ? [el("a", { href: urlOfBlob, download: `${letter.id}.${(blob.type.split(/[/;]/)[1] ?? "bin").replace("octet-stream", "bin").replace("plain", "txt")}` }, "Save")] : []), back)];
  });
  if (urlOfBlob) URL.revokeObjectURL(urlOfBlob);
}

async function describeInput(kind, blob, source) {
  if (blob.type.startsWith("image/")) return el("img", { src: source, alt: "The picture that the job has as its input" });
  if (blob.type.startsWith("audio/")) return el("audio", { src: source, controls: true });
  const text = (words) => el("pre", { tabIndex: 0, role: "region", aria: { label: "Input" } }, words);
  if (kind === "json" || kind === "text") return text(short(await blob.slice(0, 4 * MOST_TEXT).text(), MOST_TEXT));
  const data = await blob.arrayBuffer();
  if (kind === "tensors") try { return text(describeTensors(data)); } catch { /* then as bytes */ }
  const hex = [...new Uint8Array(data.slice(0, SHOWN_BYTES))].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return text(`${hex}${data.byteLength > SHOWN_BYTES ? " …" : ""}`);
}

const READERS = {
  BOOL: [1, "getUint8"], UINT8: [1, "getUint8"], UINT16: [2, "getUint16"], UINT32: [4, "getUint32"], UINT64: [8, "getBigUint64"],
  INT8: [1, "getInt8"], INT16: [2, "getInt16"], INT32: [4, "getInt32"], INT64: [8, "getBigInt64"], FP32: [4, "getFloat32"], FP64: [8, "getFloat64"],
};
const TWO_BYTES = ["FP16", "BF16"];

/** Lists the tensors of a frame: the length of a JSON header, the header, then the values (jobs/contract/tensors.py). */
function describeTensors(data) {
  const view = new DataView(data), length = view.getUint32(0, true), header = JSON.parse(new TextDecoder().decode(data.slice(4, 4 + length)));
  let at = 4 + length;
  return Object.entries(header).map(([name, [datatype, shape, size]]) => {
    const values = shape.reduce((product, side) => product * side, 1), [width, read] = READERS[datatype] ?? [TWO_BYTES.includes(datatype) ? 2 : 0];
    const begin = at, shown = Math.min(values, MOST_VALUES);
    at += size ?? width * values;
    let words = "";
    if (size !== undefined) words = new TextDecoder().decode(data.slice(begin, begin + Math.min(size, SHOWN_BYTES))).replace(/[\0-\x1f]+/g, " ");
    else if (read) words = Array.from({ length: shown }, (_, nth) => String(view[read](begin + nth * width, true))).join(", ");
    else words = [...new Uint8Array(data.slice(begin, begin + Math.min(width * values, SHOWN_BYTES)))].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return `${name}: ${datatype} [${shape.join(", ")}]\n${words}${shown < values ? ", …" : ""}`;
  }).join("\n\n");
}
