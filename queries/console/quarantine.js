// The quarantine view: refused records, the reasons, and an editor to fix and resubmit them.
//
// The log keeps a refused record unchanged. A fixed record is another record, with a receipt of its own.

import { objects, sql, submit, tables } from "./api.js";
import { badge, button, card, code, el, empty, facts, failure, fill, note, say, table } from "./dom.js";
import { bytes, count, layOut, shorten, sqlName, sqlText, time } from "./format.js";

const ROWS_MAX = 200;
/** The verdicts on records that were resubmitted in this tab, by their receipt ids. */
const mended = new Map();

export async function showQuarantine(main, { filters }, signal) {
  const known = (await tables(signal)).find(({ name }) => name === "quarantine")?.columns.map(({ name }) => name) ?? [];
  const reason = known.includes("reason_code") ? "reason_code" : "reason";
  // Newest first, if the table has the column; else by the position in the source.
  const newest = ["after_tick", "position"].filter((name) => known.includes(name));
  const only = filters.get("reason");
  const counted = objects(await sql(`SELECT ${reason} AS reason, count(*) AS records FROM quarantine GROUP BY ${reason} ORDER BY 2 DESC, 1`, signal));
  const editor = el("div");
  const list = el("div");
  const heading = el("div.head", el("h1", "Quarantine"), el("span.spring"),
    button("Look again", () => showQuarantine(main, { filters }, signal)));
  if (!counted.length) {
    fill(main, heading, empty("Nothing is in quarantine: every record that came was admitted, or had been before."));
    return;
  }
  const total = counted.reduce((sum, { records }) => sum + Number(records), 0);
  const chip = (name, records) => el("a", {
    class: "chip", href: name ? `#/quarantine?reason=${encodeURIComponent(name)}` : "#/quarantine", "aria-current": (only ?? "") === name ? "true" : null,
  }, name || "all", el("b", count(records)));
  const columns = [
    { name: "reason", cell: (row) => badge(row[reason] ?? "–", "mind") },
    { name: "what is wrong", cell: (row) => el("div.detail", row.detail ?? "", el("code.bytes", textOf(row).slice(0, 160))) },
    { name: "event", cell: (row) => [row.event_id ?? el("span.null", "unread"), row.event_type && el("div.note.wide", row.event_type)] },
    { name: "after (UTC)", less: true, cell: (row) => el("span.time", { title: row.after_tick ? `The newest fact was that of tick ${row.after_tick}` : null }, time(row.after_utc)) },
    { name: "from", less: true, cell: (row) => [row.source, el("div.note", `position ${count(row.position)}`)] },
    { name: "", cell: (row) => mended.get(row.receipt_id) ?? el("span.row", button("Mend", () => open(row)), button("Send again", (event) => resubmitAsIs(row, event.target), { title: "As it is, after a fix elsewhere" })) },
  ];
  const open = (row) => {
    fill(editor, editorFor(row, row[reason], () => { fill(editor); show(); }));
    editor.scrollIntoView({ block: "nearest" });
    editor.querySelector("textarea").focus();
  };
  const show = async () => {
    try {
      const wanted = ["receipt_id", reason, "event_id", "event_type", "detail", "source", "position", "bytes_text", "bytes", "after_tick", "after_utc", "policy_id", "policy_revision", "policy_digest"];
      const named = wanted.filter((name) => known.includes(name) && !(name === "bytes" && known.includes("bytes_text"))).map(sqlName);
      const rows = objects(await sql(`SELECT ${named.join(", ")} FROM quarantine${only ? ` WHERE ${reason} = ${sqlText(only)}` : ""}`
        + `${newest.length ? ` ORDER BY ${newest.map((name) => `${name} DESC`).join(", ")}` : ""} LIMIT ${ROWS_MAX}`, signal));
      fill(list, table(columns, rows, { label: "Refused records", open, cards: true }),
        rows.length === ROWS_MAX && note(`The first ${ROWS_MAX}; choose a reason, or ask with SQL.`));
    } catch (error) {
      if (!signal.aborted) fill(list, failure(error, show));
    }
  };
  fill(main, heading, el("div.chips", chip("", total), counted.map((each) => chip(each.reason, each.records))), editor, list);
  await show();
}

/** Submits the same bytes again; the gate validates them against the effective policy. */
async function resubmitAsIs(row, pressed) {
  pressed.disabled = true;
  const cell = pressed.closest("td");
  try {
    const receipt = await submit(textOf(row));
    const shown = badge(receipt.verdict, receipt.verdict === "quarantined" ? "bad" : "good");
    if (receipt.verdict !== "quarantined") mended.set(row.receipt_id, shown);
    fill(cell, shown, receipt.verdict === "quarantined" && note(` ${receipt.reason ?? ""}`));
    say(receipt.verdict === "quarantined" ? `Refused again: ${receipt.detail ?? receipt.reason}` : `${receipt.event_id ?? "The record"} is ${receipt.verdict}`);
  } catch (error) {
    pressed.disabled = false;
    say(error.message);
  }
}

/** The record as text, if it is readable. */
function textOf(row) {
  return row.bytes_text ?? (typeof row.bytes === "string" ? row.bytes : "");
}

function editorFor(row, reason, close) {
  const original = layOut(textOf(row));
  const field = el("textarea", { spellcheck: "false", autocapitalize: "off", "aria-label": "The record as JSON", rows: Math.min(22, original.split("\n").length + 1) });
  field.value = original;
  const syntax = el("p.note", { role: "status" });
  const receipt = el("div");
  const check = () => {
    try {
      JSON.parse(field.value);
      syntax.textContent = field.value === original ? "The record as it was refused, with line breaks." : "Changed; it is JSON.";
    } catch (error) {
      syntax.textContent = `Not JSON: ${error.message}`;
    }
    syntax.classList.toggle("bad", syntax.textContent.startsWith("Not JSON"));
  };
  const send = async () => {
    resubmit.disabled = true;
    try {
      const answer = await submit(field.value);
      if (answer.verdict !== "quarantined") mended.set(row.receipt_id, badge(answer.verdict, "good"));
      fill(receipt, receiptOf(answer));
    } catch (error) {
      fill(receipt, failure(error));
    }
    resubmit.disabled = false;
  };
  const resubmit = button("Resubmit", send, { class: "primary", title: "Ctrl+Enter" });
  const reset = () => { field.value = original; check(); };
  field.addEventListener("input", check);
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    send();
  });
  check();
  return card("Mend a record",
    el("div.verdict.mind", el("strong", reason ?? "refused"), el("p", row.detail ?? "The gate gave no detail.")),
    facts(
      row.after_tick && ["refused", `after ${time(row.after_utc)}, tick ${row.after_tick}`],
      ["from", `${row.source}, position ${count(row.position)}`],
      ["bytes", bytes(new TextEncoder().encode(textOf(row)).length)]),
    field, syntax,
    el("div.row", resubmit, button("As it was", reset), button("Close", close)),
    receipt,
    note("The refused record stays in quarantine, under its receipt",
      row.receipt_id ? ` ${shorten(row.receipt_id)}` : "", "; what is submitted here is judged anew",
      row.policy_id ? ` (it was refused under ${row.policy_id} revision ${row.policy_revision}).` : "."));
}

function receiptOf({ verdict, event_id, tick, partition, offset, reason, detail }) {
  const tone = verdict === "quarantined" ? "bad" : verdict === "duplicate" ? "mind" : "good";
  const says = {
    admitted: "It is a fact now, and durable.",
    duplicate: "A fact with this event id is in the log already; nothing was added. This is where it stands:",
    quarantined: "It was refused again.",
  }[verdict];
  return el("div", { class: `verdict ${tone}`, role: "status", "data-receipt": verdict }, el("strong", verdict), el("p", says),
    facts(
      event_id && ["event", el("a", { href: `#/why/${encodeURIComponent(event_id)}` }, event_id)],
      tick && ["tick", code(tick)],
      partition !== undefined && partition !== null && ["position", `partition ${partition}, offset ${offset}`],
      reason && ["reason", reason],
      detail && ["detail", detail]));
}
