// A box for questions: what can be asked stands beside it, the answer below it as table and as chart.

import { sql, tables } from "./api.js";
import { badge, button, code, columnsOf, el, empty, failure, fill, note, table } from "./dom.js";
import { count, csvOf, span, sqlName, time } from "./format.js";
import { chart, chartable } from "./chart.js";

const HISTORY = "tidegate.sql.history";
const HISTORY_MAX = 30;
const DRAFT = "tidegate.sql.draft";
const ROWS_DRAWN = 1000;

export async function showSql(main, { filters }, signal) {
  const box = el("textarea", { "data-first": "", spellcheck: "false", autocapitalize: "off", rows: 6, "aria-label": "SQL" });
  box.value = filters.get("q") ?? sessionStorage.getItem(DRAFT) ?? "";
  const output = el("div", { "aria-live": "polite" });
  const past = el("select", { "aria-label": "Earlier queries", change: () => { if (past.value) box.value = past.value; past.selectedIndex = 0; box.focus(); } });
  const beside = el("aside.card.catalogue", el("h2", "Tables"), el("p.loading", "Asking…"));
  let running = null;
  const run = async () => {
    running?.abort();
    const mine = running = new AbortController();
    signal.addEventListener("abort", () => mine.abort());
    const text = box.value.trim().replace(/;$/, "");
    if (!text) return fill(output, empty("Write a SELECT, then press Ctrl+Enter."));
    remember(text);
    showPast(past);
    fill(output, el("p.loading", "Asking…"));
    try {
      fill(output, answerOf(await sql(text, mine.signal)));
    } catch (error) {
      if (signal.aborted || running !== mine) return;
      fill(output, failure(error));
    }
  };
  box.addEventListener("input", () => sessionStorage.setItem(DRAFT, box.value));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    run();
  });
  showPast(past);
  fill(main, el("h1", "SQL"), el("div.workbench",
    el("div.stack",
      el("div.card", box, el("div.row",
        button("Run", run, { class: "primary" }), el("span.note.wide", "Ctrl+Enter"), el("span.spring"), past)),
      output), beside));
  if (filters.get("q")) run();
  else fill(output, empty("Only reads: ", code("SELECT"), " over the live and the committed tables. Every answer says as of which tick it is true."));
  try {
    const all = await tables(signal);
    showTables(beside, all, box);
    box.value ||= firstQuestion(all);
  } catch (error) {
    if (!signal.aborted) fill(beside, el("h2", "Tables"), failure(error));
  }
}

function remember(text) {
  const kept = [text, ...earlier().filter((each) => each !== text)].slice(0, HISTORY_MAX);
  sessionStorage.setItem(HISTORY, JSON.stringify(kept));
}

const earlier = () => JSON.parse(sessionStorage.getItem(HISTORY) ?? "[]");

function showPast(select) {
  const all = earlier();
  select.disabled = !all.length;
  fill(select, el("option", { value: "" }, all.length ? `earlier (${all.length})` : "nothing earlier"),
    all.map((text) => el("option", { value: text }, text.replace(/\s+/g, " ").slice(0, 80))));
}

/** The statement that the box begins with: decisions by action, or the tables if there are none. */
function firstQuestion(all) {
  const decisions = all.find(({ decisions_of, columns }) => decisions_of && columns.some(({ name }) => name === "action"));
  if (!decisions) return "SHOW TABLES";
  return `SELECT action, count(*) AS decisions\nFROM ${quoted(decisions.name)}\nGROUP BY action\nORDER BY 2 DESC`;
}

/** A name as SQL reads it, in quotes only if it needs them. */
const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : sqlName(name));

/** A click on a name writes it where the cursor is. */
function showTables(list, all, box) {
  const insert = (text) => {
    box.setRangeText(text, box.selectionStart, box.selectionEnd, "end");
    box.dispatchEvent(new Event("input"));
    box.focus();
  };
  const name = (of, type) => button([of, type && el("span.type", type)], () => insert(quoted(of)), { class: "name" });
  fill(list, el("h2", "Tables"), all.length ? all.map((each) => el("details",
    el("summary", each.name, note(` ${each.columns.length}`)),
    el("ul", el("li", name(each.name)), each.columns.map((column) => el("li", name(column.name, column.type))))))
    : empty("There are no tables yet."));
}

function answerOf(answer) {
  const shown = el("div");
  const drawable = chartable(answer);
  const asTable = () => fill(shown, answer.rows.length
    ? [table(columnsOf(answer), answer.rows.slice(0, ROWS_DRAWN), { label: "Result" }),
      answer.rows.length > ROWS_DRAWN && note(`The first ${count(ROWS_DRAWN)} of ${count(answer.rows.length)} rows; the CSV has all.`)]
    : empty("No rows. The question was understood; nothing answers it at this tick."));
  const asChart = () => {
    const pick = el("select", { "aria-label": "Number to draw", change: () => fill(drawn, chart(answer, drawable.by, drawable.numbers[pick.selectedIndex])) },
      drawable.numbers.map(({ name }) => el("option", name)));
    pick.selectedIndex = drawable.numbers.length - 1;
    const drawn = el("div", chart(answer, drawable.by, drawable.numbers.at(-1)));
    fill(shown, el("div.card", el("p.row", el("label", pick, ` by ${drawable.by.name}`)), drawn));
  };
  const tabs = [["Table", asTable], ["Chart", asChart]].map(([title, show], at) => el("button", {
    type: "button", class: "tab", "aria-pressed": String(at === 0), disabled: at === 1 && !drawable,
    title: at === 1 && !drawable ? "A chart needs a column of texts or times, and one of numbers" : null,
    click: () => {
      tabs.forEach((tab, other) => tab.setAttribute("aria-pressed", String(other === at)));
      show();
    },
  }, title));
  asTable();
  const save = button("CSV", () => download(answer), { disabled: !answer.rows.length, title: "Download the rows" });
  return el("div", el("div.row.answer", tabs,
    note(`${count(answer.rows.length)} rows · ${span(answer.elapsed_us)}`,
      answer.tick && [` · as of ${time(answer.time)}`, el("span.wide", ` · tick ${answer.tick}`)]),
    answer.truncated && badge("truncated: there are more rows than the service sends", "mind"), el("span.spring"), save), shown);
}

/** The rows that are shown, and the rest of the answer, as of the same tick. */
function download(answer) {
  const address = URL.createObjectURL(new Blob([csvOf(answer)], { type: "text/csv" }));
  el("a", { href: address, download: "tidegate.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
