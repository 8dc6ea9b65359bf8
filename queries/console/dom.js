// Builds page elements from data.
//
// Facts come from outside, so their values become text nodes: no code of the console turns a string into markup, and
// addresses are built from encoded parts. Characters that could hide or reorder text are made visible.

import { isDigest, isNumeric, shorten, visible } from "./format.js";

/** An HTML element: `el("p.note", { title }, "text")`. Attributes may be left out; those that are functions become listeners. */
export function el(tag, ...rest) {
  return furnish((name) => document.createElement(name), tag, rest);
}

export function svg(tag, ...rest) {
  return furnish((name) => document.createElementNS("http://www.w3.org/2000/svg", name), tag, rest);
}

function furnish(make, tag, [first, ...others]) {
  const [name, ...classes] = tag.split(".");
  const element = make(name);
  const named = first && Object.getPrototypeOf(first) === Object.prototype;
  if (classes.length) element.classList.add(...classes);
  for (const [attribute, value] of Object.entries(named ? first : {})) {
    if (typeof value === "function") element.addEventListener(attribute, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(attribute, value === true ? "" : value);
  }
  add(element, named ? others : [first, ...others]);
  return element;
}

function add(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : visible(String(child)));
  }
}

/** Replaces the children of an element. */
export function fill(element, ...children) {
  const fresh = document.createDocumentFragment();
  add(fresh, children);
  element.replaceChildren(fresh);
  return element;
}

/** Replaces only the children whose text has changed, so that the others can be clicked and selected meanwhile. */
export function refresh(element, fresh) {
  const old = [...element.children];
  if (old.length !== fresh.length) return fill(element, fresh);
  fresh.forEach((each, at) => { if (each.textContent !== old[at].textContent) old[at].replaceWith(each); });
  return element;
}

/** Shows what was done for a moment; screen readers read it. */
export function say(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => notice.classList.remove("shown"), 2500);
}

export function button(label, click, attributes = {}) {
  return el("button", { type: "button", click, ...attributes }, label);
}

/** A remark in smaller letters. */
export const note = (...children) => el("span.note", children);

/** Text in a monospace font. */
export const code = (...children) => el("code", children);

export function copier(text, what) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("copied");
    } catch {
      say("the browser did not let the console copy; select the text instead");
    }
  };
  return button("copy", copy, { class: "copy", "aria-label": `copy ${what}` });
}

/** A digest, shortened; the copy button and the tooltip have all of it. */
export function digest(hex, what = "digest") {
  return el("span.digest", { title: hex }, code(shorten(hex)), copier(hex, what));
}

export function command(text) {
  return el("div.command", code(text), copier(text, "command"));
}

export function prose(text) {
  const parts = text.split(/\b([0-9a-f]{64})\b/);
  return parts.map((part, at) => (at % 2 ? el("code", { title: part }, shorten(part)) : part));
}

/** An action as a badge: good, bad, or for review. */
export function action(name) {
  const tone = /allow|approve|accept|pass/i.test(name) ? "good"
    : /block|decline|deny|reject/i.test(name) ? "bad" : "mind";
  return badge(name, tone);
}

/** A word in a tone: good, bad, mind or none. */
export function badge(text, tone = "") {
  return el("span", { class: `badge ${tone}` }, text);
}

/** A score with three decimals. */
export function scored(score) {
  if (score === null || score === undefined) return value(null);
  return Number(score).toFixed(3);
}

export function value(of) {
  if (of === null || of === undefined) return el("span.null", "null");
  if (Array.isArray(of)) return of.length ? of.map((item) => (item === null ? "null" : String(item))).join(", ")
    : el("span.null", "none");
  if (typeof of === "object") return JSON.stringify(of);
  if (isDigest(of)) return el("code", { title: of }, shorten(of));
  return String(of);
}

/** A name that may be broken after its underscores. */
export function breakable(name) {
  return name.split(/(?<=_)/).flatMap((part) => [part, el("wbr")]);
}

export function facts(...pairs) {
  const given = pairs.filter(Boolean);
  return el("dl.facts", given.map(([name, of]) => el("div", el("dt", breakable(name)), el("dd", of))));
}

export function card(title, ...children) {
  return el("section.card", el("h2", title), children);
}

/** A text for an empty view: that there is nothing, and what to do. */
export function empty(...children) {
  return el("div.empty", children);
}

export function failure(error, again) {
  const retry = again && button("Try again", again);
  return el("div.failure.verdict.bad", { role: "alert" },
    el("strong", error.title ?? "The console failed"), el("p", error.message), retry);
}

/**
 * A table that is walked with the arrow keys, or j and k, and whose rows open with Enter or a click.
 * A column is `{ name, cell, numeric, less }`, where `cell` makes the content for a row. With `cards`, a phone shows
 * each row as a card, without the columns that matter `less`.
 */
export function table(columns, rows, { open, label, key, cards } = {}) {
  const body = el("tbody", rows.map((row) => tableRow(columns, row, { open, key })));
  if (open) body.firstElementChild?.setAttribute("tabindex", "0");
  const head = columns.map(({ name, numeric }) => el("th", { scope: "col", class: numeric ? "number" : null }, name));
  const made = el("table", { "aria-label": label, keydown: walk }, el("thead", el("tr", head)), body);
  return el("div", { class: cards ? "scroll cards" : "scroll" }, made);
}

export function tableRow(columns, row, { open, key } = {}) {
  const cells = columns.map(({ cell, numeric, name, less }) =>
    el("td", { class: [numeric && "number", less && "less"].filter(Boolean).join(" ") || null, "data-name": name }, cell(row)));
  const opens = open && ((event) => {
    // Selecting text or pressing something in the row is not opening it.
    if (event.target.closest("a, button") || String(getSelection())) return;
    open(row);
  });
  const made = el("tr", { tabindex: open ? "-1" : null, click: opens, "data-key": key?.(row) }, cells);
  // Tab enters a table at one row and leaves it with the next press, however many rows it has.
  if (open) for (const within of made.querySelectorAll("a, button")) within.tabIndex = -1;
  return made;
}

function walk(event) {
  const row = event.target.closest("tbody tr");
  if (!row || event.target !== row || event.ctrlKey || event.metaKey || event.altKey) return;
  const rows = row.parentElement.children;
  const to = {
    ArrowDown: row.nextElementSibling, j: row.nextElementSibling,
    ArrowUp: row.previousElementSibling, k: row.previousElementSibling,
    Home: rows[0], End: rows[rows.length - 1],
  }[event.key];
  if (to?.hasAttribute("tabindex")) {
    row.setAttribute("tabindex", "-1");
    to.setAttribute("tabindex", "0");
    to.focus();
  }
  else if (event.key === "Enter") row.click();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

/** The columns of an answer to SQL as columns of a table. */
export function columnsOf(answer) {
  return answer.columns.map(({ name, type }, at) => ({
    name,
    numeric: isNumeric(type),
    cell: (row) => value(row[at]),
  }));
}
