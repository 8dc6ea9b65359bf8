// The decisions view, newest first: a page from SQL, then decisions as they are made.
//
// Thousands may come in a second. Only as many as a person can read are parsed and shown; the page counts the others.

import { objects, sql, tables, tail } from "./api.js";
import { action, badge, button, code, el, empty, failure, fill, note, scored, table, tableRow, value } from "./dom.js";
import { count, isFeature, isNumeric, sqlName, sqlText, time, utc } from "./format.js";

const PAGE = 100;
const SHOWN_MAX = 300;
/** The most rows that are parsed for each drawing of the page; the filters see only these. */
const READ_MAX = 2000;
const DRAW_MS = 250;
/** The most rows that appear at once; the oldest beyond are only counted. */
const BURST_MAX = 50;
/** The most rows that are marked as fresh when they appear together. */
const FRESH_MAX = 5;
/** The most columns of the topology's own in the table. */
const OWN_MAX = 4;

export async function showDecisions(main, { filters }, signal) {
  const all = (await tables(signal)).filter(({ decisions_of }) => decisions_of);
  const known = all.find(({ name }) => name === filters.get("table")) ?? all[0];
  if (!known) {
    fill(main, el("h1", "Decisions"), empty("This topology writes no table of decisions. Add a node of the kind ",
      code("decide"), " and a sink, or look at what there is under ", el("a", { href: "#/sql" }, "SQL"), "."));
    return;
  }
  // The table is part of the address only where there are several.
  const several = all.length > 1 && { table: known.name };
  const own = known.columns.filter(({ name }) => isFeature(name));
  const asked = ["_tick", "event_id", "ts_utc", "decision_id", "action", "score", "reason_codes", "rules_fired", "bundle_id", "bundle_version"]
    .filter((asked) => known.columns.some(({ name }) => name === asked));
  const addressOf = ({ event_id }) => `#/why/${encodeURIComponent(event_id)}${several ? `?${new URLSearchParams({ node: known.decisions_of })}` : ""}`;
  const columns = columnsFor(own.slice(0, OWN_MAX), addressOf);
  const open = (row) => { location.hash = addressOf(row); };

  const tableSelect = several && el("select", { "aria-label": "Table", change: () => { location.hash = `#/decisions?${new URLSearchParams({ table: tableSelect.value })}`; } },
    all.map(({ name }) => el("option", { value: name, selected: name === known.name }, name)));
  const form = filterForm(own, filters, () => { load(); });
  const state = note();
  const pause = button("Pause", () => live.toggle(), { "data-pause": "", title: "Space" });
  const content = el("div");
  const older = button("Older", () => more(), { hidden: true });
  fill(main,
    el("div.head", el("h1", "Decisions"), tableSelect, searchForm(), el("span.spring"), state, pause),
    form, content, el("p.center", older));

  let oldest = null;
  let asking = new AbortController();
  const question = (before) => {
    const where = conditions(form, known.columns);
    if (before) where.push(`_tick < ${before}`);
    return `SELECT ${[...asked, ...own.slice(0, OWN_MAX).map(({ name }) => name)].map(sqlName).join(", ")} FROM ${sqlName(known.name)}`
      + `${where.length ? ` WHERE ${where.join(" AND ")}` : ""} ORDER BY _tick DESC LIMIT ${PAGE}`;
  };
  const bookmark = (rows) => {
    oldest = rows.at(-1)?._tick ?? oldest;
    older.hidden = rows.length < PAGE;
  };
  const load = async () => {
    history.replaceState(null, "", `#/decisions${queryOf(form, several)}`);
    asking.abort();
    const mine = asking = new AbortController();
    try {
      const rows = objects(await sql(question(), AbortSignal.any([signal, mine.signal])));
      bookmark(rows);
      live.keep(SHOWN_MAX);
      suggest(form, "actions", rows.map(({ action }) => action));
      suggest(form, "rules", rows.flatMap(({ rules_fired, reason_codes }) => [rules_fired, reason_codes]));
      const shown = table(columns, rows, { label: "Decisions", open, key: keyOf, cards: true });
      fill(content, shown, rows.length ? "" : nothing(form, load));
      live.into(shown.querySelector("tbody"), rows);
    } catch (error) {
      if (error.name === "AbortError") return;
      live.into(null, []);
      fill(content, failure(error, load));
    }
  };
  const more = async () => {
    try {
      const rows = objects(await sql(question(oldest), signal));
      bookmark(rows);
      live.keep(content.querySelector("tbody").rows.length + rows.length);
      content.querySelector("tbody").append(...rows.map((row) => tableRow(columns, row, { open, key: keyOf })));
    } catch (error) {
      if (!signal.aborted) content.append(failure(error));
    }
  };
  const live = liveRows({ columns, open, form, state, pause, signal, content, load, table: known.name });
  await load();
}

const keyOf = (row) => row.decision_id ?? `${row._tick} ${row.event_id}`;

function columnsFor(own, addressOf) {
  return [
    { name: "happened", cell: ({ ts_utc }) => moment(ts_utc) },
    { name: "event", cell: (row) => el("a", { href: addressOf(row) }, row.event_id) },
    { name: "action", cell: (row) => action(String(row.action)) },
    { name: "score", numeric: true, less: true, cell: ({ score }) => scored(score) },
    { name: "reasons", cell: ({ reason_codes }) => reasons(reason_codes ?? []) },
    ...own.map(({ name, type }) => ({ name, less: true, numeric: isNumeric(type), cell: (row) => value(row[name]) })),
    { name: "bundle", less: true, cell: (row) => `${row.bundle_id ?? ""} ${row.bundle_version ?? ""}` },
    { name: "decision", less: true, cell: ({ decision_id }) => value(decision_id) },
  ];
}

/** A time whose date is hidden on narrow screens. */
function moment(iso) {
  const [date, clock] = time(iso).split(" ");
  return el("span.time", el("span.wide", date, " "), clock);
}

/** The first reason, which chose the action, and the number of others. */
function reasons([first, ...others]) {
  if (!first) return "";
  return [badge(first), others.length > 0 && el("span.note", { title: others.join(", ") }, ` +${others.length}`)];
}

function nothing(form, load) {
  if (!queryOf(form)) {
    return empty("Nothing has been decided yet. Decisions appear here as they are made; send a fact to ",
      code("POST /v1/facts"), ", or see under ", el("a", { href: "#/graph" }, "Graph"), " whether the sources move.");
  }
  const clear = () => {
    for (const field of form.querySelectorAll("input")) field.value = "";
    load();
  };
  return empty("No decision fits these filters. ", button("Clear them", clear));
}

function searchForm() {
  const field = el("input", { type: "search", placeholder: "event or decision id", "aria-label": "Event id or decision id", "data-first": "", name: "id" });
  const submit = (event) => {
    event.preventDefault();
    if (field.value.trim()) location.hash = `#/why/${encodeURIComponent(field.value.trim())}`;
  };
  return el("form.search", { role: "search", submit }, field, el("button", "Why?"));
}

function filterForm(own, filters, load) {
  const field = (label, input) => el("label", label, input);
  const text = (name, attributes = {}) => el("input", { name, value: filters.get(name) ?? "", change: load, ...attributes });
  const select = el("select", { name: "column", change: () => { if (form.elements.is.value) load(); } }, own.map(({ name }) => el("option", { value: name }, name)));
  const likely = own.find(({ name }) => /customer|card|account|user/i.test(name)) ?? own[0];
  const form = el("form.filters", { submit: (event) => { event.preventDefault(); load(); } },
    field("action", text("action", { list: "actions", size: 12 })),
    field("rule", text("rule", { size: 18, placeholder: "id or reason", list: "rules" })),
    field("from (UTC)", text("from", { size: 20, placeholder: "2026-01-31 12:00" })),
    field("to (UTC)", text("to", { size: 20, placeholder: "2026-02-01" })),
    own.length > 0 && el("fieldset", el("label", "column", select), field("is", text("is", { size: 12 }))),
    el("datalist", { id: "actions" }), el("datalist", { id: "rules" }));
  if (own.length) select.value = filters.get("column") ?? likely.name;
  return form;
}

function suggest(form, id, values) {
  fill(form.querySelector(`#${id}`), [...new Set(values.flat())].filter(Boolean).sort().map((value) => el("option", { value })));
}

function chosen(form) {
  const of = (name) => form.elements[name]?.value.trim() ?? "";
  return { action: of("action"), rule: of("rule"), from: of("from"), to: of("to"), column: of("column"), is: of("is") };
}

/** The filters as the query of an address, behind `more`. */
function queryOf(form, more = false) {
  const set = { ...more, ...chosen(form) };
  if (!set.is) delete set.column;
  const given = new URLSearchParams(Object.entries(set).filter(([, of]) => of));
  return given.size ? `?${given}` : "";
}

function conditions(form, columns) {
  const { action, rule, from, to, column, is } = chosen(form);
  const all = [];
  if (action) all.push(`action = ${sqlText(action)}`);
  if (rule) all.push(`(array_has(rules_fired, ${sqlText(rule)}) OR array_has(reason_codes, ${sqlText(rule)}))`);
  if (from) all.push(`ts_utc >= ${sqlText(utc(from))}`);
  if (to) all.push(`ts_utc < ${sqlText(utc(to))}`);
  if (is) {
    const { type } = columns.find(({ name }) => name === column);
    const bare = (isNumeric(type) && /^-?\d+(\.\d+)?$/.test(is)) || /^(true|false)$/.test(is);
    all.push(is === "null" ? `${sqlName(column)} IS NULL` : `${sqlName(column)} = ${bare ? is : sqlText(is)}`);
  }
  return all;
}

/** Whether a row that just came passes the filters. */
function fits(row, { action, rule, from, to, column, is }) {
  return (!action || row.action === action)
    && (!rule || row.rules_fired?.includes(rule) || row.reason_codes?.includes(rule))
    && (!from || Date.parse(row.ts_utc) >= Date.parse(utc(from)))
    && (!to || Date.parse(row.ts_utc) < Date.parse(utc(to)))
    && (!is || String(row[column]) === is);
}

/** The live rows above those from SQL. */
function liveRows({ columns, open, form, state, pause, signal, content, load, table }) {
  let body = null;
  let seen = new Set();
  let texts = [];
  let came = 0;
  let paused = false;
  let trouble = null;
  let kept = SHOWN_MAX;
  const say = () => {
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    fill(state, trouble ? badge(trouble, "mind") : paused ? badge(`paused · ${count(came)} new`, "mind") : badge("live", "good"));
  };
  const drawNow = () => {
    if (paused || !body || !texts.length) return;
    const filters = chosen(form);
    const wanted = Object.values({ ...filters, column: "" }).some(Boolean) ? texts : texts.slice(-BURST_MAX);
    const all = wanted.map((text) => JSON.parse(text)).filter((row) => fits(row, filters) && !seen.has(keyOf(row)));
    const fresh = all.slice(-BURST_MAX);
    const missed = came - wanted.length + all.length - fresh.length;
    texts = [];
    came = 0;
    if (missed > 0) skipped(missed);
    if (!fresh.length) return;
    fresh.forEach((row) => seen.add(keyOf(row)));
    const rows = fresh.map((row) => tableRow(columns, row, { open, key: keyOf })).reverse();
    // In a flood every row is fresh, and marking each would cost more than drawing it.
    if (rows.length <= FRESH_MAX) rows.forEach((row) => row.classList.add("fresh"));
    content.querySelector(".empty")?.remove();
    body.prepend(...rows);
    while (body.rows.length > kept) body.lastElementChild.remove();
    if (!body.querySelector("[tabindex='0']")) rows[0].setAttribute("tabindex", "0");
  };
  const skipped = (missed) => {
    const above = body.firstElementChild?.classList.contains("missed") ? body.firstElementChild : null;
    const all = missed + Number(above?.dataset.missed ?? 0);
    above?.remove();
    body.prepend(el("tr.missed", { "data-missed": all }, el("td", { colspan: columns.length }, `${count(all)} came too fast to be shown; ask for them again with the filters`)));
  };
  const timer = setInterval(() => { drawNow(); say(); }, DRAW_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  tail(table, {
    signal,
    onTexts: (some) => {
      came += some.length;
      texts.push(...some);
      texts.splice(0, Math.max(0, texts.length - READ_MAX));
    },
    onState: (of) => {
      // Decisions made while the stream was down are in the table.
      if (of === "live" && trouble) load();
      trouble = of === "live" ? null : of;
      say();
    },
  });
  say();
  return {
    into: (tbody, rows) => {
      body = tbody;
      seen = new Set(rows.map(keyOf));
    },
    keep: (most) => { kept = Math.max(SHOWN_MAX, most); },
    toggle: () => {
      paused = !paused;
      say();
    },
  };
}
