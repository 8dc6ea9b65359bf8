// What was computed anew from the log, beside what stands: why, over which range, and what came of it.

import { call } from "./api.js";
import { badge, button, command, digest, el, empty, facts, fill, note, table } from "./dom.js";
import { count, shellWord, time } from "./format.js";
import * as status from "./status.js";

const TONES = { declared: "mind", completed: "good" };

export async function showBackfills(main, address, signal) {
  const { backfills } = await call("/v1/backfills", { signal });
  const data = shellWord(status.latest()?.data ?? "DATA");
  const declare = `tidegate backfill DECLARATION.toml --data ${data}`;
  const heading = el("div.head", el("h1", "Backfills"), el("span.spring"), button("Look again", () => showBackfills(main, address, signal)));
  if (!backfills.length) {
    fill(main, heading, empty(el("p", "Nothing has been computed anew. A declaration names a range, its purpose, the rules and the tables; to run one while the service rests:"), command(declare)));
    return;
  }
  fill(main, heading, backfills.map((of) => backfillCard(of, data, declare)));
}

function backfillCard(of, data, declare) {
  const done = of.completed_at_utc !== null;
  const folder = shellWord(`${status.latest()?.data ?? "DATA"}/backfills/${of.backfill_id}/store`);
  return el("section.card",
    el("div.head", badge(of.state, TONES[of.state] ?? ""), el("h2", of.backfill_id), note(of.purpose)),
    facts(
      ["range", `${time(of.from_utc)} to ${time(of.to_utc)}`],
      ["partitions", of.partitions.join(", ") || "all"],
      ["tables", of.outputs.join(", ")],
      ["declared", [time(of.declared_at_utc), " by ", el("b", of.actor)]],
      done && ["completed", time(of.completed_at_utc)],
      ["plan", digest(of.plan, "plan digest")],
      ["declaration", digest(of.declaration)],
      done && ["facts read", count(of.facts)],
      done && ["last commit", digest(of.head)]),
    of.produced.length > 0 && table([
      { name: "table", cell: (row) => row.table },
      { name: "files", numeric: true, cell: ({ files }) => count(files) },
      { name: "rows", numeric: true, cell: ({ rows }) => count(rows) },
      { name: "digest", cell: (row) => digest(row.digest) },
    ], of.produced, { label: "What it made" }),
    el("div.next", note(done ? "Its tables stand beside the live ones:" : "It goes on where it was stopped:"),
      command(done ? `tidegate sql --data ${data} --store ${folder} ${shellWord(`SELECT * FROM ${of.outputs[0]} LIMIT 10`)}` : declare)));
}
