// Elements, tables that change only what differs, dialogs, and formats. Text is never parsed as HTML: most of it is untrusted.

export const $ = (id) => document.getElementById(id);
export const MOST_ROWS = 100;

/** An element with properties and children; `data` and `aria` set attributes. */
export function el(tag, { data, aria, role, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(data ?? {})) node.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) node.setAttribute(`aria-${name}`, value);
  if (role) node.setAttribute("role", role);
  node.append(...children);
  return node;
}

/** Sets a text if it differs: an assignment of the same text would still cost a layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Shows a message above the content, and tells it to screen readers. */
export function say(text, wrong = false) {
  $("message").className = wrong ? "wrong" : "";
  setText($("message"), text);
}

/** Runs an action of a button: disabled meanwhile, and its error shown. */
export async function act(button, action) {
  button.disabled = true;
  try { await action(); } catch (error) { say(error.message, true); } finally { button.disabled = false; }
}

export const button = (text, action, { danger = false } = {}) => {
  const node = el("button", { type: "button", className: danger ? "danger" : "" }, text);
  node.addEventListener("click", () => act(node, action));
  return node;
};

const due = new Set();
/** Calls `render` in the next frame, once, however often it is asked for. */
export function schedule(render) {
  if (!due.size) requestAnimationFrame(() => { const renders = [...due]; due.clear(); renders.forEach((each) => each()); });
  due.add(render);
}

/** A list of terms that changes in place. */
export class Facts {
  constructor(className) { this.node = el("dl", { className }); this.known = new Map(); }

  /** `facts`: term → text, or [text, class]. */
  update(facts) {
    for (const [term, fact] of Object.entries(facts)) {
      const [text, className = ""] = Array.isArray(fact) ? fact : [fact];
      let dd = this.known.get(term);
      if (!dd) {
        dd = el("dd");
        this.node.append(el("div", {}, el("dt", {}, term), dd));
        this.known.set(term, dd);
      }
      setText(dd, text);
      if (dd.className !== className) dd.className = className;
    }
    for (const [term, dd] of this.known) if (!(term in facts)) { dd.parentNode.remove(); this.known.delete(term); }
  }
}

/**
 * A table whose rows are known by `row.key`. A column has `name` and one of
 * `text(row)`, with `href(row)`, `title(row)`, `tone(row)` (a class) and `number`; `part(row)`: done, all; `actions(row)`: [label, run, danger] of buttons.
 */
export class Table {
  constructor(label, columns, { empty = "none", limit = MOST_ROWS } = {}) {
    this.columns = columns;
    this.limit = limit;
    this.rows = new Map();
    this.body = el("tbody", { role: "rowgroup" });
    this.empty = el("p", { className: "soft" }, empty);
    this.more = el("p", { className: "soft", hidden: true });
    const head = columns.map(({ name, number }) => el("th", { scope: "col", role: "columnheader", className: number ? "number" : "" }, name));
    // Roles of their own: those of a table are lost where its rows become cards.
    this.table = el("table", { role: "table", aria: { label }, hidden: true },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...head)), this.body);
    this.node = el("div", {}, this.table, this.empty, this.more);
  }

  update(rows) {
    const shown = rows.slice(0, this.limit), keys = new Set(shown.map(({ key }) => key));
    for (const [key, tr] of this.rows) if (!keys.has(key)) { tr.remove(); this.rows.delete(key); }
    let before = null;
    for (const row of shown) {
      let tr = this.rows.get(row.key);
      if (!tr) this.rows.set(row.key, tr = this.#create());
      tr.row = row;
      this.columns.forEach((column, at) => this.#fill(tr.children[at], column, row, tr));
      const next = before ? before.nextSibling : this.body.firstChild;
      if (next !== tr) this.body.insertBefore(tr, next);
      before = tr;
    }
    this.table.hidden = shown.length === 0;
    this.empty.hidden = shown.length > 0;
    this.more.hidden = rows.length <= this.limit;
    setText(this.more, this.more.hidden ? "" : `${rows.length - this.limit} more are not shown`);
  }

  #create() {
    return el("tr", { role: "row" }, ...this.columns.map(({ name, number, actions, className = "" }) =>
      el("td", { role: "cell", className: number ? "number" : actions ? "actions" : className, data: { label: name } })));
  }

  #fill(td, { text, href, title, tone, part, actions, name, number, className = "" }, row, tr) {
    if (actions) {
      const wanted = actions(row), known = wanted.map(([label]) => label).join("\n");
      if (td.known === known) return;
      td.known = known;
      td.replaceChildren(...wanted.map(([label, , danger], at) => {
        const node = button(label, () => actions(tr.row)[at][1](tr.row), { danger });
        node.setAttribute("aria-label", `${label} ${row.title ?? row.key}`);
        return node;
      }));
      return;
    }
    if (part) {
      const [done, all] = part(row);
      if (!td.firstChild) td.append(el("progress", { aria: { label: name } }));
      if (td.firstChild.max !== Math.max(all, 1)) td.firstChild.max = Math.max(all, 1);
      if (td.firstChild.value !== done || !td.firstChild.hasAttribute("value")) td.firstChild.value = done;
      return;
    }
    let target = td;
    const url = href?.(row);
    if (url) {
      target = td.firstElementChild ?? td.appendChild(el("a"));
      if (target.getAttribute("href") !== url) target.setAttribute("href", url);
    }
    setText(target, String(text(row) ?? ""));
    if (title) { const words = title(row) ?? ""; if (td.title !== words) td.title = words; }
    if (tone) { const wanted = `${number ? "number" : className} ${tone(row) ?? ""}`.trim(); if (td.className !== wanted) td.className = wanted; }
  }
}

/** Opens the dialog with content, and returns when it is closed. `build(close)` returns its children. */
export function openDialog(title, build) {
  const dialog = $("dialog");
  return new Promise((done) => {
    const close = (value) => { dialog.returned = value; dialog.close(); };
    dialog.returned = null;
    const heading = el("h2", { id: "dialog-title" }, title);
    dialog.replaceChildren(el("form", { method: "dialog" }, heading, ...build(close)));
    dialog.onclose = () => { done(dialog.returned); dialog.replaceChildren(); };
    dialog.showModal();
  });
}

/**
 * Asks before something happens. Returns null if it is refused, else an object of the choices.
 * `typed`: a word that has to be typed; `choices`: name → {legend, options: value → label}.
 */
export function confirm(title, { text = "", verb = "OK", danger = true, typed = "", choices = {} }) {
  return openDialog(title, (close) => {
    const input = typed && el("input", { type: "text", autocomplete: "off", spellcheck: false, id: "typed" });
    const sets = Object.entries(choices).map(([name, { legend, options }]) => el("fieldset", { data: { name } },
      el("legend", { className: "soft" }, legend),
      ...Object.entries(options).map(([value, label], at) => el("label", {}, el("input", { type: "radio", name, value, checked: at === 0 }), label))));
    const yes = el("button", { type: "submit", className: danger ? "danger" : "", disabled: Boolean(typed) }, verb);
    const no = el("button", { type: "button", autofocus: true }, "Back");
    no.addEventListener("click", () => close(null));
    if (input) input.addEventListener("input", () => { yes.disabled = input.value !== typed; });
    yes.addEventListener("click", (event) => {
      event.preventDefault();
      close(Object.fromEntries(sets.map((set) => [set.dataset.name, set.querySelector(":checked").value])));
    });
    return [
      ...(text ? [el("p", {}, text)] : []), ...sets,
      ...(input ? [el("label", { htmlFor: "typed" }, `Type ${typed} to confirm`), input] : []),
      el("div", { className: "row" }, no, yes),
    ];
  });
}

// ---- formats

export const count = (number) => number === null || number === undefined ? "–" : number.toLocaleString("en");
export const rate = (perSecond) => perSecond === null || perSecond === undefined ? "–" : perSecond >= 100 ? count(Math.round(perSecond)) : perSecond.toFixed(1);
export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
export const ms = (time) => time === null || time === undefined ? "–" : time >= 1000 ? `${(time / 1000).toFixed(2)} s` : `${time.toFixed(time < 10 ? 1 : 0)} ms`;

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (number >= 1000 && at < units.length - 1) { number /= 1000; at += 1; }
  return `${number.toFixed(at && number < 100 ? 1 : 0)} ${units[at]}`;
}

/** A time of the API, in the clock of this browser; the date if it is another day. */
export function when(text) {
  if (!text) return "–";
  const time = new Date(typeof text === "number" ? text * 1000 : text);
  const clock = time.toLocaleTimeString("en-GB");
  return time.toDateString() === new Date().toDateString() ? clock : `${time.toISOString().slice(0, 10)} ${clock}`;
}

export const short = (text, most = 160) => text.length > most ? `${text.slice(0, most - 1)}…` : text;
