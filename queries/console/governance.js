// What changed the rules, and what was computed anew: both are facts, and are read as such.
//
// Steps are taken on the command line, where their actor is known. The console shows which may come next.

import { objects, sql } from "./api.js";
import { badge, card, command, digest, el, empty, facts, fill, note, table } from "./dom.js";
import { count, shellWord, tickTime, time } from "./format.js";

const TONES = { proposed: "mind", approved: "mind", activated: "good", rolled_back: "bad", withdrawn: "", declared: "mind", completed: "good" };
const step = (name) => badge(name.replaceAll("_", " "), TONES[name] ?? "");

export async function showPolicies(main, _, signal) {
  const steps = objects(await sql("SELECT * FROM governance ORDER BY _tick DESC", signal));
  const propose = 'tidegate policy propose TOPOLOGY --data DATA --node NODE --file FILE --actor YOU --reason "WHY"';
  if (!steps.length) {
    fill(main, el("h1", "Policies"), empty(el("p", "The rules and the policy are those that this folder began with; nobody has proposed others. To propose some:"), command(propose)));
    return;
  }
  fill(main, el("h1", "Policies"), inForce(steps), el("h2", "Proposals"),
    [...proposals(steps)].map(([, of]) => proposalCard(of)),
    card("Propose another", note("Steps are taken on the command line while no run holds the log, each is a fact, and they take effect with the next start."), command(propose)));
}

/** The steps of each proposal, newest first; proposals by their newest step. */
function proposals(steps) {
  const by = new Map();
  for (const each of steps) by.set(each.proposal_id, [...(by.get(each.proposal_id) ?? []), each]);
  return by;
}

/** What the newest step that took effect put in force at each node; nodes that none names have what they began with. */
function inForce(steps) {
  const newest = new Map();
  for (const each of steps.filter(({ step }) => step === "activated" || step === "rolled_back")) {
    const subject = `${each.scope} ${each.kind} ${each.node}`;
    if (!newest.has(subject)) newest.set(subject, each);
  }
  if (!newest.size) return empty("No proposal has come into force; every node has what this folder began with.");
  return card("In force", table([
    { name: "node", cell: ({ node }) => node },
    { name: "kind", cell: ({ kind }) => kind.replaceAll("_", " ") },
    { name: "revision", cell: (row) => `${row.revision_id} ${row.revision_version}` },
    { name: "since (UTC)", cell: (row) => el("span.time", time(row.taken_at_utc)) },
    { name: "by", cell: ({ actor }) => actor },
    { name: "digest", cell: ({ after_digest }) => digest(after_digest) },
  ], [...newest.values()], { label: "In force" }));
}

function proposalCard(steps) {
  const last = steps[0];
  const first = steps.at(-1);
  const text = steps.find(({ revision_text }) => revision_text)?.revision_text;
  return el("section.card",
    el("div.head", step(last.step), el("h3", `${first.revision_id} ${first.revision_version}`),
      note(`${first.kind.replaceAll("_", " ")} of ${first.node}`)),
    facts(["proposal", digest(first.proposal_id, "proposal id")], ["changes", [digest(first.before_digest), " to ", digest(first.after_digest)]]),
    table([
      { name: "step", cell: (row) => step(row.step) },
      { name: "taken (UTC)", cell: (row) => el("span.time", time(row.taken_at_utc)) },
      { name: "by", cell: ({ actor }) => actor },
      { name: "reason", cell: ({ reason }) => el("span.detail", reason) },
    ], steps, { label: "Steps" }),
    text && el("details", el("summary", "The text of the revision"), el("pre", text)),
    next(last));
}

function next({ step, proposal_id, node }) {
  const by = (verb, which) => command(`tidegate policy ${verb} TOPOLOGY --data DATA ${which} --actor YOU --reason "WHY"`);
  const id = `--id ${shellWord(proposal_id)}`;
  const may = {
    proposed: ["Another than the proposer may approve it; or it is withdrawn.", by("approve", id), by("withdraw", id)],
    approved: ["It can be brought into force, or withdrawn.", by("activate", id), by("withdraw", id)],
    activated: ["If it is still in force, the revision before it can be brought back.", by("rollback", `--node ${shellWord(node)}`)],
  }[step];
  return may && el("div.next", note(may[0]), may.slice(1));
}

export async function showBackfills(main, _, signal) {
  const rows = objects(await sql("SELECT _tick, admitted_at_utc, payload FROM facts WHERE event_type = 'governance.backfill.v1' ORDER BY _tick DESC", signal));
  const by = new Map();
  for (const { admitted_at_utc, payload } of rows) {
    const of = typeof payload === "string" ? JSON.parse(payload) : payload;
    by.set(of.backfill_id, [...(by.get(of.backfill_id) ?? []), { ...of, at: admitted_at_utc }]);
  }
  if (!by.size) {
    fill(main, el("h1", "Backfills"), empty(el("p", "Nothing has been computed anew. A declaration names a range, its purpose, the rules and the tables; to run one:"),
      command("tidegate backfill DECLARATION.toml --data DATA")));
    return;
  }
  fill(main, el("h1", "Backfills"), [...by.values()].map(backfillCard));
}

function backfillCard(told) {
  const last = told[0];
  const done = told.find(({ step }) => step === "completed");
  const declared = told.find(({ step }) => step === "declared") ?? last;
  const folder = shellWord(`DATA/backfills/${last.backfill_id}/store`);
  return el("section.card",
    el("div.head", step(last.step), el("h2", last.backfill_id), note(last.purpose)),
    facts(
      ["range", `${tickTime(last.from_tick)} to ${tickTime(last.to_tick)}`],
      ["partitions", last.partitions || "all"],
      ["tables", last.outputs.replaceAll(",", ", ")],
      ["declared", `${time(declared.at)} by ${declared.actor}`],
      done && ["completed", time(done.at)],
      ["plan", digest(last.plan, "plan digest")],
      ["declaration", digest(last.declaration)],
      done && ["facts read", count(done.facts)],
      done && ["last commit", digest(done.head)]),
    done && produced(done.produced),
    el("div.next", note(done ? "Its tables stand beside the live ones:" : "It goes on where it was stopped:"),
      command(done ? `tidegate sql --data DATA --store ${folder} ${shellWord(`SELECT * FROM ${last.outputs.split(",")[0]} LIMIT 10`)}` : "tidegate backfill DECLARATION.toml --data DATA")));
}

function produced(of) {
  const all = typeof of === "string" ? JSON.parse(of) : of;
  return Array.isArray(all) && table([
    { name: "table", cell: (row) => row.table },
    { name: "files", numeric: true, cell: ({ files }) => count(files) },
    { name: "rows", numeric: true, cell: ({ rows }) => count(rows) },
    { name: "digest", cell: (row) => digest(row.digest) },
  ], all, { label: "What it made" });
}
