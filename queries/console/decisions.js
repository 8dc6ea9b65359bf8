// Decisions, newest first: asked for with SQL, and then as they are made.
//
// Whole thousands may come a second. Only as many as can be read are parsed and shown; of the others the page says how
// many there were.

import { objects, sql, tables, tail } from "./api.js";
import { action, badge, digest, el, empty, failure, fill, table, tableRow, value } from "./dom.js";
import { count, isNumeric, sqlName, sqlText, time } from "./format.js";
import { isFeature } from "./why.js";

const PAGE = 100;
const SHOWN_MAX = 300;
const DRAW_MS = 250;
/** How many columns of the topology's own stand in the table. */
const OWN_MAX = 4;

export async function showDecisions(main, { filters }, signal) {
  const all = await tables(signal);
  const known = all.find(({ name }) => name === "decisions");
  if (!known) {
    fill(main, el("h1", {}, "Decisions"), empty("This topology writes no table `decisions`. Add a node of the kind ",
      el("code", {}, "decide"), " and a sink, or look at what there is under ", el("a", { href: "#/sql" }, "SQL"), "."));
    return;
  }
  const names = known.columns.map(({ name }) => name);
  const own = known.columns.filter(({ name }) => isFeature(name));
  const asked = ["_tick", "event_id", "ts_utc", "decision_id", "action", "score", "reason_codes", "rules_fired", "bundle_id", "bundle_version"]
    .filter((name) => names.includes(name));
  const columns = columnsFor(own.slice(0, OWN_MAX));
  const open = (row) => { location.hash = `#/why/${encodeURIComponent(row.event_id)}`; };

  const form = filterForm(own, filters, () => load());
  const state = el("span", { class: "note" });
  const pause = el("button", { type: "button", "data-pause": "", "aria-pressed": "false", title: "Space", click: () => live.toggle() }, "Pause");
  const place = el("div", {});
  const older = el("button", { type: "button", hidden: true, click: () => more() }, "Older");
  fill(main,
    el("div", { class: "head" }, el("h1", {}, "Decisions"), searchForm(), el("span", { class: "spring" }), state, pause),
    form, place, el("p", { class: "center" }, older));

  let oldest = null;
  const question = (before) => {
    const where = conditions(form, known.columns);
    if (before) where.push(`_tick < ${before}`);
    return `SELECT ${[...asked, ...own.slice(0, OWN_MAX).map(({ name }) => name)].map(sqlName).join(", ")} FROM decisions`
      + `${where.length ? ` WHERE ${where.join(" AND ")}` : ""} ORDER BY _tick DESC LIMIT ${PAGE}`;
  };
  const note = (rows) => {
    oldest = rows.at(-1)?._tick ?? oldest;
    older.hidden = rows.length < PAGE;
  };
  const load = async () => {
    history.replaceState(null, "", `#/decisions${queryOf(form)}`);
    try {
      const rows = objects(await sql(question(), signal));
      note(rows);
      const shown = table(columns, rows, { label: "Decisions", open, key: keyOf });
      fill(place, shown, rows.length ? "" : nothing(form, load));
      live.into(shown.querySelector("tbody"), rows);
    } catch (error) {
      if (signal.aborted) return;
      fill(place, failure(error, load));
    }
  };
  const more = async () => {
    try {
      const rows = objects(await sql(question(oldest), signal));
      note(rows);
      place.querySelector("tbody").append(...rows.map((row) => tableRow(columns, row, { open, key: keyOf })));
    } catch (error) {
      if (!signal.aborted) place.append(failure(error));
    }
  };
  const live = liveRows({ columns, open, form, state, pause, signal, place });
  await load();
}

const keyOf = (row) => row.decision_id ?? `${row._tick} ${row.event_id}`;

function columnsFor(own) {
  return [
    { name: "happened (UTC)", cell: ({ ts_utc }) => el("span", { class: "time" }, time(ts_utc)) },
    { name: "event", cell: ({ event_id }) => el("a", { href: `#/why/${encodeURIComponent(event_id)}` }, event_id) },
    { name: "action", cell: (row) => action(String(row.action)) },
    { name: "score", numeric: true, cell: ({ score }) => scoreOf(score) },
    { name: "reasons", cell: ({ reason_codes }) => el("span", { class: "reasons" }, (reason_codes ?? []).map((code) => badge(code))) },
    ...own.map(({ name, type }) => ({ name, numeric: isNumeric(type), cell: (row) => value(row[name]) })),
    { name: "bundle", cell: (row) => `${row.bundle_id ?? ""} ${row.bundle_version ?? ""}` },
    { name: "decision", cell: ({ decision_id }) => (decision_id ? digest(decision_id, "decision id") : "") },
  ];
}

/** A score in as many digits as tell scores apart. */
export function scoreOf(score) {
  if (score === null || score === undefined) return value(null);
  return Number.isInteger(Number(score)) ? String(score) : Number(score).toFixed(3);
}

function nothing(form, load) {
  if (!queryOf(form)) {
    return empty("Nothing has been decided yet. Decisions appear here as they are made; send a fact to ",
      el("code", {}, "POST /v1/facts"), ", or see under ", el("a", { href: "#/graph" }, "Graph"), " whether the sources move.");
  }
  const clear = () => {
    form.reset();
    for (const field of form.elements) if (field.name) field.value = "";
    load();
  };
  return empty("No decision fits these filters. ", el("button", { type: "button", click: clear }, "Clear them"));
}

function searchForm() {
  const field = el("input", { type: "search", placeholder: "event or decision id", "aria-label": "Event id or decision id", "data-first": "", name: "id" });
  const submit = (event) => {
    event.preventDefault();
    if (field.value.trim()) location.hash = `#/why/${encodeURIComponent(field.value.trim())}`;
  };
  return el("form", { class: "search", role: "search", submit }, field, el("button", {}, "Why?"));
}

/** The filters; they stand in the address too. */
function filterForm(own, filters, load) {
  const change = () => load();
  const field = (label, input) => el("label", {}, label, input);
  const text = (name, attributes = {}) => el("input", { name, value: filters.get(name) ?? "", change, ...attributes });
  const select = el("select", { name: "column", change: () => { if (form.elements.is.value) load(); } }, own.map(({ name }) => el("option", { value: name }, name)));
  const likely = own.find(({ name }) => /customer|card|account|user/i.test(name)) ?? own[0];
  const form = el("form", { class: "filters", submit: (event) => { event.preventDefault(); load(); } },
    field("action", text("action", { list: "actions", size: 12 })),
    field("rule", text("rule", { size: 18, placeholder: "id or reason", list: "rules" })),
    field("from", text("from", { size: 20, placeholder: "2026-01-31T12:00Z" })),
    field("to", text("to", { size: 20, placeholder: "2026-02-01" })),
    own.length > 0 && el("fieldset", {}, el("label", {}, "column", select), field("is", text("is", { size: 12 }))),
    el("datalist", { id: "actions" }), el("datalist", { id: "rules" }));
  if (own.length) select.value = filters.get("column") ?? likely.name;
  suggest(form, "actions", "SELECT DISTINCT action FROM decisions ORDER BY 1 LIMIT 20");
  return form;
}

/** Suggestions are a comfort: without them the field still works. */
async function suggest(form, id, text) {
  try {
    const { rows } = await sql(text);
    fill(form.querySelector(`#${id}`), rows.map(([of]) => el("option", { value: of })));
  } catch {
    return;
  }
}

function chosen(form) {
  const of = (name) => form.elements[name]?.value.trim() ?? "";
  return { action: of("action"), rule: of("rule"), from: of("from"), to: of("to"), column: of("column"), is: of("is") };
}

function queryOf(form) {
  const set = chosen(form);
  if (!set.is) delete set.column;
  const given = new URLSearchParams(Object.entries(set).filter(([, of]) => of));
  return given.size ? `?${given}` : "";
}

/** The filters as SQL. */
function conditions(form, columns) {
  const { action, rule, from, to, column, is } = chosen(form);
  const all = [];
  if (action) all.push(`action = ${sqlText(action)}`);
  if (rule) all.push(`(array_has(rules_fired, ${sqlText(rule)}) OR array_has(reason_codes, ${sqlText(rule)}))`);
  if (from) all.push(`ts_utc >= ${sqlText(from)}`);
  if (to) all.push(`ts_utc < ${sqlText(to)}`);
  if (is) {
    const { type } = columns.find(({ name }) => name === column);
    const bare = (isNumeric(type) && /^-?\d+(\.\d+)?$/.test(is)) || /^(true|false)$/.test(is);
    all.push(is === "null" ? `${sqlName(column)} IS NULL` : `${sqlName(column)} = ${bare ? is : sqlText(is)}`);
  }
  return all;
}

/** The same filters for a row that just came. */
function fits(row, { action, rule, from, to, column, is }) {
  return (!action || row.action === action)
    && (!rule || row.rules_fired?.includes(rule) || row.reason_codes?.includes(rule))
    && (!from || Date.parse(row.ts_utc) >= Date.parse(from))
    && (!to || Date.parse(row.ts_utc) < Date.parse(to))
    && (!is || String(row[column]) === is);
}

/** The live tail above the rows that were asked for. */
function liveRows({ columns, open, form, state, pause, signal, place }) {
  let body = null;
  let seen = new Set();
  let texts = [];
  let came = 0;
  let paused = false;
  let trouble = null;
  const say = () => {
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    fill(state, trouble ? badge(trouble, "mind") : paused ? badge(`paused · ${count(came)} new`, "mind") : badge("live", "good"));
  };
  const drawNow = () => {
    if (paused || !body || !texts.length) return;
    const filters = chosen(form);
    const fresh = texts.map((text) => JSON.parse(text)).filter((row) => fits(row, filters) && !seen.has(keyOf(row)));
    const missed = came - texts.length;
    texts = [];
    came = 0;
    if (!fresh.length) return;
    fresh.forEach((row) => seen.add(keyOf(row)));
    const rows = fresh.map((row) => tableRow(columns, row, { open, key: keyOf })).reverse();
    rows.forEach((row) => row.classList.add("fresh"));
    place.querySelector(".empty")?.remove();
    if (missed > 0) body.prepend(el("tr", { class: "missed" }, el("td", { colspan: columns.length }, `${count(missed)} more came here; ask for them with a filter`)));
    body.prepend(...rows);
    while (body.rows.length > SHOWN_MAX) body.lastElementChild.remove();
  };
  const timer = setInterval(() => { drawNow(); say(); }, DRAW_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  tail("decisions", {
    signal,
    onTexts: (some) => {
      came += some.length;
      texts.push(...some);
      texts.splice(0, Math.max(0, texts.length - SHOWN_MAX));
    },
    onState: (of) => { trouble = of === "live" ? null : of; say(); },
  });
  say();
  return {
    into: (tbody, rows) => {
      body = tbody;
      seen = new Set(rows.map(keyOf));
    },
    toggle: () => {
      paused = !paused;
      say();
    },
  };
}
