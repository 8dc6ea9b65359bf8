// A service to develop and test the console against: the HTTP interface over a small world of card
// payments.
//
//     node tests/console/mock.mjs [--port 8088] [--key KEY]
//
// It decides a payment every second, commits every five seconds, and has records in quarantine that
// are admitted once they are corrected. With a key, every call under /v1 without it gets a 401. It
// answers the SQL that the console and manual tests need: SELECT of columns and counts FROM one
// table, WHERE of comparisons, GROUP BY, ORDER BY, LIMIT.

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

const CONSOLE = new URL("../../queries/console/", import.meta.url);
const TYPES = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };
const CSP = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";
const RUN = "00000000000000000000000000000001";

/** The fields of a payment's payload, and how each is written. */
const PAYLOAD = {
  transaction_id: { is: /^"\d+"$|^\d+$/, form: "an int64" },
  customer_id: { is: /^\d+$/, form: "an int32" },
  terminal_id: { is: /^\d+$/, form: "an int32" },
  amount: { is: /^"-?\d{1,10}\.\d{2}"$/, form: "a decimal of 12 digits, 2 of them after the point, in quotes" },
};

const hex = (...parts) => createHash("sha256").update(parts.join("\0")).digest("hex");

const PEOPLE = { ann: ["author"], bob: ["approver"] };
const RULES = `id = "card-rules"
version = "1"
score = "coalesce(terminal_risk_7d, 0)"
default_action = "ALLOW"

[[rule]]
id = "amount-over-limit"
when = "amount > 220"
action = "BLOCK"
reason = "AMOUNT_OVER_LIMIT"

[[rule]]
id = "terminal-suspicious"
when = "terminal_risk_7d > 0.3"
action = "QUEUE_REVIEW"
reason = "TERMINAL_RISK_RAISED"

[[rule]]
id = "amount-unlike-card"
when = "amount > 4 * customer_avg_amount_30d"
action = "STEP_UP"
reason = "AMOUNT_UNUSUAL_FOR_CARD"
`;
const STRICT = RULES.replace('version = "1"', 'version = "2"').replace("terminal_risk_7d > 0.3", "terminal_risk_7d > 0.2").replace("[[rule]]\nid = \"terminal-suspicious\"", `[[rule]]
id = "terminal-compromised"
when = "terminal_risk_7d > 0.5"
action = "BLOCK"
reason = "TERMINAL_RISK_HIGH"

[[rule]]
id = "terminal-suspicious"`);
const GATE = `id = "card-gate"
revision = "1"
record_bytes_max = 16384

[event."card.transaction.v1"]
class = "traffic"
versions = ["v1"]
`;

function backfill() {
  const produced = ["decisions", "features"].map((table) => ({ table, files: 12, rows: 120331, digest: hex(table) }));
  return {
    backfill_id: "strict-january", state: "completed", purpose: "how many would have been blocked", actor: "ann", declared_at_utc: "2026-04-10T11:58:00.000000Z", completed_at_utc: "2026-04-10T11:59:00.000000Z",
    from_tick: "452409791488000000", from_utc: "2026-01-01T00:00:00.000000Z", to_tick: "454625000000000000", to_utc: "2026-02-01T00:00:00.000000Z", partitions: [], outputs: ["decisions", "features"], declaration: hex("declaration"),
    topology: "fraud", plan: hex("strict plan"), code: "0.1.0", facts: "391666", commits: "12", head: hex("head"), produced,
  };
}

/** The state of the service: facts, decisions, quarantined records and its progress. */
class World {
  constructor() {
    this.seed = 42;
    this.tables = { facts: [], receipts: [], quarantine: [], decisions: [], features: [], errors: [] };
    this.committed = null;
    this.listeners = new Set();
    this.started = process.hrtime.bigint();
    this.twice = 0;
    this.next = 100_000;
    this.time = Date.parse("2026-04-10T12:00:00Z");
    this.ready = true;
    /** While set, nothing is committed. */
    this.holds = false;
    const began = (node, kind, revision_id, text) => ({ node, kind, revision_id, revision_version: "1", digest: hex(text), since_tick: null, since_utc: null, proposal_id: null, text });
    this.effective = [began("decisions", "bundle", "card-rules", RULES), began("admitted", "gate_policy", "card-gate", GATE)];
    this.proposals = [];
    this.steps = [];
    const [, { proposal_id: strict }] = this.step("propose", "ann", "Terminals were compromised in March; ask for the card earlier", { node: "decisions", text: STRICT });
    this.step("approve", "bob", "Seen with the fraud desk", { id: strict });
    this.step("activate", "bob", "Agreed for the 10th of April", { id: strict });
    this.step("propose", "carol", "Producers must name their schema version", { node: "admitted", text: GATE.replace('revision = "1"', 'revision = "2"').replace('versions = ["v1"]', 'versions = ["v1", "v2"]') });
    this.backfills = [backfill()];
    for (let at = 0; at < 260; at++) this.pay();
    this.commit();
    this.refuse('{"event_type":"card.transaction.v1","event_id":"tx-bad-1","ts_utc":"2026-04-10T12:00:01Z","payload":{"transaction_id":"900001","customer_id":138,"terminal_id":1032,"amount":"2x1.19"}}');
    this.refuse('{"event_type":"card.transaction.v1","event_id":"tx-bad-2","ts_utc":"2026-04-10T12:00:02Z","payload":{"transaction_id":12345678901234567890,"customer_id":"abc","terminal_id":7,"amount":"10.00"}}');
    this.refuse('{"event_type":"card.refund.v1","event_id":"<img src=x onerror=alert(1)>","ts_utc":"2026-04-10T12:00:03Z","payload":{"note":"\u202eevil"}}');
    this.refuse("{\"event_type\":\"card.transaction.v1\",\"event_id\":\"tx-torn");
  }

  chance() {
    // mulberry32: the same numbers in every run.
    let t = (this.seed += 0x6d2b79f5);
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  now() {
    return new Date(this.time).toISOString().replace("Z", "000Z");
  }

  tick(partition = 0) {
    return String((BigInt(this.time) * 1000n << 8n) + BigInt(partition));
  }

  /** Admits a payment of the mock's own. */
  pay() {
    const id = String(this.next++);
    const large = this.chance() < 0.08;
    const payload = {
      amount: (large ? 180 + this.chance() * 300 : 4 + this.chance() * 120).toFixed(2),
      customer_id: Math.floor(this.chance() * 1000), terminal_id: Math.floor(this.chance() * 2000), transaction_id: id,
    };
    return this.admit({ event_type: "card.transaction.v1", event_id: `tx-${id}`, ts_utc: this.now(), payload });
  }

  admit({ event_type, event_id, ts_utc, payload, trace_id = null }) {
    this.time += 1000;
    const partition = payload.customer_id % 4;
    const offset = String(this.tables.facts.filter((fact) => fact.partition === partition).length);
    const _tick = this.tick(partition);
    const payload_hash = hex(JSON.stringify(payload));
    this.tables.facts.push({
      _tick, partition, offset, topic: "traffic", event_type, event_id, ts_utc, admitted_at_utc: this.now(), trace_id, scenario_id: "card-world", run_id: RUN,
      payload_hash, payload: JSON.stringify(payload),
    });
    const source = trace_id ? "http" : "transactions";
    this.tables.receipts.push({ receipt_id: hex("receipt", _tick), decision: "ADMIT", reason_code: null, source, position: offset, event_type, event_id, _tick, partition, offset });
    const decision = this.decide({ _tick, _offset: offset, event_type, event_id, ts_utc, payload_hash }, payload);
    this.tables.decisions.push(decision);
    for (const listener of this.listeners) listener(decision);
    return { verdict: "admitted", event_id, tick: _tick, partition, offset };
  }

  decide(envelope, { amount, customer_id, terminal_id, transaction_id }) {
    const usual = 20 + (customer_id % 60);
    const risk = terminal_id % 37 === 0 ? 0.61 : terminal_id % 11 === 0 ? 0.25 : 0;
    const fired = [
      [Number(amount) > 220, "amount-over-limit", "BLOCK", "AMOUNT_OVER_LIMIT"],
      [risk > 0.5, "terminal-compromised", "BLOCK", "TERMINAL_RISK_HIGH"],
      [risk > 0.2, "terminal-suspicious", "QUEUE_REVIEW", "TERMINAL_RISK_RAISED"],
      [Number(amount) > 4 * usual, "amount-unlike-card", "STEP_UP", "AMOUNT_UNUSUAL_FOR_CARD"],
    ].filter(([fires]) => fires);
    const windows = ["1d", "7d", "30d"].map((window, at) => ({
      [`customer_nb_tx_${window}`]: String(1 + (customer_id % 5) * (at * 6 + 1)), [`customer_avg_amount_${window}`]: usual + at / 3, [`customer_max_amount_${window}`]: (usual * 3).toFixed(2),
      [`customer_idle_us_${window}`]: String(61649000000 + at), [`terminal_nb_tx_${window}`]: String(terminal_id % 9), [`terminal_risk_${window}`]: risk || null,
    }));
    const basis = [0, 1, 2, 3].map((partition) => String(this.tables.facts.filter((fact) => fact.partition === partition).length));
    return {
      ...envelope, basis, scenario_id: "card-world", run_id: RUN, transaction_id, customer_id, terminal_id, amount, card_history_status: "NOT_FOUND", last_label_fraud: null,
      ...Object.assign({}, ...windows), snapshot_digest: hex("snapshot", envelope.event_id), at_night: false, amount_to_usual: Number(amount) / usual,
      decision_id: hex("decision", envelope.event_id), action: fired[0]?.[2] ?? "ALLOW", score: risk + (Number(amount) > 220 ? 1 : 0),
      rules_fired: fired.map(([, rule]) => rule), reason_codes: fired.map(([, , , reason]) => reason), bundle_id: "card-rules", bundle_version: "2", bundle_digest: hex("bundle 2"),
      policy_id: "card-gate", policy_revision: "1", policy_digest: hex("policy 1"), decided_at_utc: this.now(), plan_digest: hex("plan"), record_digest: hex("record", envelope.event_id),
    };
  }

  /** The receipt for one submitted text. */
  submit(text) {
    const fault = this.fault(text);
    if (fault) return this.refuse(text, fault);
    const record = JSON.parse(text);
    const before = this.tables.facts.find(({ event_id }) => event_id === record.event_id);
    if (before) {
      this.twice += 1;
      return { verdict: "duplicate", event_id: record.event_id, tick: before._tick, partition: before.partition, offset: before.offset };
    }
    return this.admit({ ...record, trace_id: "4bf92f3577b34da6a3ce929d0e0e4736" });
  }

  fault(text) {
    let record;
    try {
      record = JSON.parse(text);
    } catch (error) {
      return { reason: "ENVELOPE_INVALID", detail: `the record is not JSON: ${error.message}` };
    }
    if (record.event_type !== "card.transaction.v1") {
      return { reason: "SCHEMA_POLICY_MISSING", detail: `\`${record.event_type}\` is not an event type of policy card-gate; declare it there, or send one of [card.transaction.v1, fraud.label.v1]` };
    }
    for (const [field, { is, form }] of Object.entries(PAYLOAD)) {
      const found = JSON.stringify(record.payload?.[field]) ?? "nothing";
      if (!is.test(found)) return { reason: "SCHEMA_FAIL", detail: `\`payload.${field}\`: expected ${form}, found ${found}` };
    }
    return null;
  }

  refuse(text, fault = this.fault(text)) {
    let record = {};
    try {
      record = JSON.parse(text);
    } catch {
      // An unreadable record has no event id.
    }
    const position = String(this.tables.quarantine.length);
    this.tables.quarantine.push({
      receipt_id: hex("refused", position), decision: "QUARANTINE", reason_code: fault.reason, source: "http", position, event_type: record.event_type ?? null,
      event_id: record.event_id ?? null, after_tick: this.tick(), after_utc: this.now(), detail: fault.detail, policy_id: "card-gate", policy_revision: "1", policy_digest: hex("policy 1"),
      bytes: Buffer.from(text).toString("hex"), bytes_text: text,
    });
    return { verdict: "quarantined", ...fault };
  }

  /** Takes a step of a revision: status and record, or status and the reason of the refusal. */
  step(step, actor, reason, { node, text, id }) {
    if (!reason?.trim()) return [400, "`reason` is empty; give the reason for the step"];
    const proposal = this.proposals.find(({ proposal_id }) => id && proposal_id.startsWith(id));
    if (step === "propose") {
      const of = this.effective.find((each) => each.node === node);
      const named = (name) => new RegExp(`^${name}\\s*=\\s*"([^"]*)"`, "m").exec(text)?.[1];
      const [revision_id, revision_version] = [named("id"), named("version") ?? named("revision")];
      if (!revision_id || !revision_version) return [422, `the revision cannot come into force:\n  the revision of ${node}:1: it has no \`id\` and \`version\`; a bundle begins with both`];
      if (text === of.text) return [409, `${of.revision_id} ${of.revision_version} is already in force for the ${of.kind.replace("_", " ")} of \`${node}\`; there is nothing to change`];
      const made = { proposal_id: hex("proposal", node, text, actor, reason), node, kind: of.kind, before: of.digest, after: hex(text), revision_id, revision_version, state: "proposed", actor, reason, before_text: of.text, text };
      this.proposals.unshift(made);
      return this.took("proposed", made, actor, reason);
    }
    if (!proposal) return [404, `there is no proposal ${id}; there are ${this.proposals.map(({ proposal_id }) => proposal_id.slice(0, 12)).join(", ")}`];
    const refused = this.following(proposal, actor, ["approver"]).find((each) => each.step === step);
    if (!refused || refused.refused) return [409, refused?.refused ?? `proposal ${proposal.proposal_id.slice(0, 12)} is ${proposal.state}, so that cannot be done`];
    proposal.state = { approve: "approved", activate: "in force", withdraw: "withdrawn", rollback: "rolled back" }[step];
    const of = this.effective.find((each) => each.node === proposal.node);
    if (step === "activate") {
      of.past = { ...of };
      Object.assign(of, { revision_id: proposal.revision_id, revision_version: proposal.revision_version, digest: proposal.after, text: proposal.text, since_utc: this.now(), since_tick: this.tick(), proposal_id: proposal.proposal_id });
    }
    if (step === "rollback") Object.assign(of, of.past, { since_utc: this.now(), since_tick: this.tick() });
    return this.took({ approve: "approved", activate: "activated", withdraw: "withdrawn", rollback: "rolled_back" }[step], proposal, actor, reason);
  }

  took(step, { proposal_id, node, before, after, revision_id, revision_version }, actor, reason) {
    this.time += 1000;
    const taken = { tick: this.tick(), at_utc: this.now(), proposal_id, node, step, actor, reason, before, after, revision_id, revision_version };
    this.steps.unshift(taken);
    return [200, { ...taken, repeated: false, changes: [] }];
  }

  following(proposal, actor, roles) {
    const may = { proposed: ["approve", "withdraw"], approved: ["activate", "withdraw"], "in force": ["rollback"] }[proposal.state] ?? [];
    const own = `${actor} proposed ${proposal.proposal_id.slice(0, 12)}, so someone else must approve it; ask a colleague, or set \`four_eyes = false\` in [governance] of a new topology`;
    return may.map((step) => ({ step, refused: !roles.includes("approver") ? `key \`${actor}\` lacks the role \`approver\`, which this call needs` : step === "approve" && proposal.actor === actor ? own : null }));
  }

  revisions(caller) {
    const proposals = this.proposals.map(({ text, before_text, ...proposal }) => ({ ...proposal, proposed_at_utc: this.steps.find((step) => step.proposal_id === proposal.proposal_id && step.step === "proposed").at_utc, next: this.following(proposal, caller.id, caller.roles) }));
    return { four_eyes: true, effective: this.effective.map(({ past, ...of }) => of), proposals, steps: this.steps };
  }

  commit() {
    this.committed = { number: (this.committed?.number ?? 6) + 1, upper: this.tick(), time: this.now() };
  }

  status() {
    const decided = this.tables.decisions.length;
    const uptime_us = Number((process.hrtime.bigint() - this.started) / 1000n) + 93_000_000;
    const rows = decided * 731;
    const node = (name, kind, inputs, cost, share = 1, held = 0) => ({
      name, kind, ...shownAs(name, kind), inputs, rows: Math.floor(rows * share), busy_us: Math.floor(rows * share * cost), lag_us: cost * 40, ...held && { state: { rows: Math.floor(rows * held), keys: 1000, bytes: Math.floor(rows * held * 41) } },
    });
    const quarantined = {};
    for (const { reason_code } of this.tables.quarantine) quarantined[reason_code] = (quarantined[reason_code] ?? 0) + 1;
    return {
      topology: "fraud", file: "dataflows/fraud.toml", data: "/var/lib/tidegate/fraud", plan: hex("plan"), clock: "event", partitions: 4, workers: 1, version: "0.1.0", tick: this.tick(), time: this.now(), committed: this.committed, ready: this.ready,
      counts: { admitted: this.tables.facts.length, duplicate: this.twice, quarantined },
      nodes: [
        { name: "http", kind: null, role: "source", summary: null, table: null, inputs: [], rows: 0, busy_us: 0 }, node("labels", "source.world", [], 6, 0.9), node("transactions", "source.world", [], 8), node("admitted", "gate", ["labels", "transactions", "http"], 270, 1.9),
        node("payments", "filter", ["admitted"], 1), node("known_labels", "filter", ["admitted"], 1, 0.9), node("card_history", "as_of", ["payments", "known_labels"], 60, 1, 0.9),
        node("windowed", "windows", ["card_history", "payments", "known_labels"], 480, 1, 1.9), node("features", "project", ["windowed"], 12), node("decisions", "decide", ["features"], 90),
        node("features_table", "sink.parquet", ["features"], 3), node("episodes", "seal", ["decisions"], 230), node("decisions_table", "sink.seal", ["episodes"], 5),
      ],
      uptime_us,
    };
  }

  why(id) {
    const decision = this.tables.decisions.find(({ event_id, decision_id }) => event_id === id || decision_id === id);
    if (!decision) return null;
    const fact = this.tables.facts.find(({ _tick }) => _tick === decision._tick);
    const sealed = BigInt(decision._tick) < BigInt(this.committed.upper);
    const fired = decision.rules_fired.map((rule, at) => `${rule} (${decision.reason_codes[at]})`);
    const { _tick, payload, ...envelope } = fact;
    return {
      node: "decisions", nodes: ["decisions"], decision, sealed,
      reason: [
        `Event ${decision.event_id} happened at ${decision.ts_utc}.`,
        `It was admitted as fact ${decision.decided_at_utc}/${fact.partition}, offset ${fact.offset}, with payload ${fact.payload_hash}, under policy card-gate revision 1 (${decision.policy_digest}).`,
        `Facts of each partition applied before the decision: ${decision.basis.join(", ")}.`, `Values that the decision read (snapshot ${decision.snapshot_digest}):`,
        `    customer_id = ${decision.customer_id}`, `    amount = "${decision.amount}"`,
        `Bundle card-rules version 2 (${decision.bundle_digest}): ${fired.length ? `rules fired: ${fired.join(", ")}` : "no rule fired"}; score ${decision.score}.`,
        `Decision ${decision.decision_id}: ${decision.action}.`, `Plan: ${decision.plan_digest}.`,
      ],
      proof: sealed ? {
        commit: this.committed.number, file: "tables/decisions/p=2/000007-6298.parquet", record: decision.record_digest, seal: hex("seal", decision.event_id), number: fact.offset, verified: true,
        key: "c554d26b59257c7c",
      } : null,
      received: { source: fact.trace_id ? "http" : "transactions", position: fact.offset },
      fact: { ...envelope, payload: JSON.parse(payload) },
    };
  }

  /** The columns of a table. Those of empty tables are listed by hand. */
  columns(name) {
    const rows = this.tables[name];
    const empty = {
      receipts: ["receipt_id"], features: ["_tick", "event_id"], errors: ["_tick", "event_id", "node", "error"],
      facts: ["_tick", "event_type", "admitted_at_utc", "payload"], quarantine: ["receipt_id", "reason_code", "position", "bytes_text"],
      decisions: ["_tick", "event_id", "ts_utc", "action", "score", "rules_fired", "reason_codes", "customer_id"],
    }[name] ?? [];
    const names = rows.length ? Object.keys(rows[0]) : empty;
    return names.map((column) => ({ name: column, type: typeOf(column, rows.map((row) => row[column]).find((of) => of !== null)) }));
  }
}

/** What the service gets from its registry of kinds. */
function shownAs(name, kind) {
  const role = ["source", "sink"].find((role) => kind.startsWith(`${role}.`)) ?? (kind === "gate" ? kind : "operator");
  const summary = { decide: "decisions", seal: "episodes" }[kind] ?? null;
  return { role, summary, table: role === "sink" ? name.replace(/_table$/, "") : null };
}

function typeOf(name, of) {
  if (name.endsWith("_utc")) return "time";
  if (/_tick$|^_?offset$|^position$|_nb_tx_|_us_|transaction_id/.test(name)) return "bigint";
  if (/amount$|max_amount/.test(name)) return "decimal(12,2)";
  if (Array.isArray(of)) return "list of text";
  if (/^[0-9a-f]{64}$/.test(of)) return "binary";
  if (/^score$|avg|risk|usual/.test(name)) return "double";
  return { number: "int", boolean: "bool" }[typeof of] ?? "text";
}

/** Answers the SQL that the head of this file names; throws errors that a caller can correct. */
function ask(world, text) {
  const shape = /^\s*SELECT\s+(DISTINCT\s+)?(.+?)\s+FROM\s+"?(\w+)"?(?:\s+WHERE\s+(.+?))?(?:\s+GROUP\s+BY\s+(.+?))?(?:\s+ORDER\s+BY\s+(.+?))?(?:\s+LIMIT\s+(\d+))?\s*$/is.exec(text);
  if (!shape) throw new Error(`SQL error: cannot plan \`${text.slice(0, 60)}\`; only reads are answered, write SELECT .. FROM .. [WHERE] [GROUP BY] [ORDER BY] [LIMIT]`);
  const [, distinct, list, name, where, groups, order, limit] = shape;
  if (!world.tables[name]) throw new Error(`SQL error: there is no table \`${name}\`; use one of ${Object.keys(world.tables).join(", ")}`);
  const known = world.columns(name);
  const plain = (column) => column.trim().replaceAll('"', "");
  const find = (column) => known.find((each) => each.name === plain(column))
    ?? (() => { throw new Error(`SQL error: \`${name}\` has no column \`${plain(column)}\`; use one of ${known.map((each) => each.name).join(", ")}`); })();
  const outputs = list.trim() === "*" ? known.map((each) => ({ ...each, of: each.name })) : list.split(/,(?![^(]*\))/).map((part) => {
    const [, expression, alias] = /^\s*(.+?)(?:\s+AS\s+"?(\w+)"?)?\s*$/is.exec(part);
    const counts = /^count\(\*\)$/i.test(expression);
    const found = counts ? { name: "count(*)", type: "bigint" } : find(expression);
    return { name: alias ?? found.name, type: found.type, of: found.name, counts };
  });
  let rows = world.tables[name].filter(where ? condition(where, find) : () => true);
  if (groups || distinct || outputs.some(({ counts }) => counts)) {
    const by = new Map();
    for (const row of rows) {
      const key = JSON.stringify(outputs.filter(({ counts }) => !counts).map(({ of }) => row[of]));
      by.set(key, { ...row, "count(*)": String(Number(by.get(key)?.["count(*)"] ?? 0) + 1) });
    }
    rows = [...by.values()];
  }
  for (const part of (order ?? "").split(",").reverse().filter(Boolean)) {
    const [, what, down] = /^\s*(\S+)(\s+DESC)?/i.exec(part);
    const of = /^\d+$/.test(what) ? outputs[what - 1].of : outputs.find((each) => each.name === plain(what))?.of ?? find(what).name;
    rows = [...rows].sort((a, b) => compare(a[of], b[of]) * (down ? -1 : 1));
  }
  const most = Math.min(Number(limit ?? 1000), 1000);
  return {
    tick: world.tick(), time: world.now(), columns: outputs.map(({ name: of, type }) => ({ name: of, type })),
    rows: rows.slice(0, most).map((row) => outputs.map(({ of }) => row[of] ?? null)), truncated: limit === undefined && rows.length > most, elapsed_us: 4200,
  };
}

function condition(text, find) {
  const tests = text.split(/\s+AND\s+/i).map((part) => part.split(/\s+OR\s+/i).map((each) => {
    const bare = each.replace(/^\((?=array_has)|(?<=\))\)$/g, "");
    const has = /^array_has\((\w+),\s*'((?:[^']|'')*)'\)$/i.exec(bare);
    if (has) return (row) => row[find(has[1]).name]?.includes(has[2].replaceAll("''", "'"));
    const [, column, operator, quoted, number] = /^"?(\w+)"?\s*(=|<>|<=|>=|<|>)\s*(?:'((?:[^']|'')*)'|(\S+))$/.exec(bare) ?? [];
    if (!column) throw new Error(`SQL error: cannot plan \`${each}\``);
    const { name, type } = find(column);
    const wanted = quoted !== undefined ? quoted.replaceAll("''", "'") : number;
    if (type === "time" && !/^\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d+)?Z?)?$/.test(wanted)) throw new Error(`SQL error: cannot read '${wanted}' as a timestamp; write it as 2026-01-31T12:00:00Z`);
    return (row) => {
      const order = type === "time" ? Date.parse(row[name]) - Date.parse(wanted) : compare(row[name], wanted);
      return { "=": order === 0, "<>": order !== 0, "<": order < 0, ">": order > 0, "<=": order <= 0, ">=": order >= 0 }[operator];
    };
  }));
  return (row) => tests.every((any) => any.some((test) => test(row)));
}

function compare(a, b) {
  const [x, y] = [a, b].map((of) => (/^-?\d+$/.test(of) ? BigInt(of) : /^-?\d+\.\d+$/.test(of) ? Number(of) : String(of)));
  return typeof x === "string" || typeof y === "string" ? String(a).localeCompare(String(b)) : x < y ? -1 : x > y ? 1 : 0;
}

/** Starts the service; returns its address, its state and a function that stops it. */
export async function serve({ port = 0, key = null } = {}) {
  const world = new World();
  const timers = [
    setInterval(() => world.pay(), 1000),
    setInterval(() => world.holds || world.commit(), 5000),
  ];
  const server = createServer((request, response) => {
    answer(world, key, request, response).catch((error) => json(response, 500, { error: error.message }));
  });
  await new Promise((listening) => server.listen(port, "127.0.0.1", listening));
  const stop = () => {
    timers.forEach(clearInterval);
    server.closeAllConnections();
    return new Promise((closed) => server.close(closed));
  };
  return { address: `http://127.0.0.1:${server.address().port}`, world, stop };
}

function json(response, status, of, headers = {}) {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(JSON.stringify(of));
}

async function answer(world, key, request, response) {
  const { pathname: path } = new URL(request.url, "http://mock");
  if (path === "/healthz") return response.end("ok");
  if (path === "/" || path.startsWith("/console/")) return file(path === "/" ? "index.html" : path.slice("/console/".length), response);
  if (key && request.headers.authorization !== `Bearer ${key}`) return json(response, 401, { error: "this call needs a key; send `Authorization: Bearer KEY`" });
  if (path === "/readyz") return json(response, world.ready ? 200 : 503, { ready: world.ready, lag_us: 1200, reason: world.ready ? null : "reading the log" });
  if (path === "/v1/status") return json(response, 200, world.status());
  // A caller without one of the mock's own keys has every role. The two keys belong to two people.
  const given = request.headers.authorization?.slice("Bearer ".length);
  const caller = { id: PEOPLE[given] ? given : "eve", roles: ["producer", "reader", ...PEOPLE[given] ?? ["author", "approver"]], keys: true };
  if (path === "/v1/whoami") return json(response, 200, caller);
  if (path === "/v1/backfills") return json(response, 200, { backfills: world.backfills });
  if (path.startsWith("/v1/revisions")) return revisions(world, caller, path.split("/").slice(3), request, response);
  if (path === "/v1/tables") return json(response, 200, { tables: Object.keys(world.tables).map((name) => ({ name, columns: world.columns(name), decisions_of: name === "decisions" ? name : null })) });
  if (path === "/v1/sql") return answerSql(world, request, response);
  if (path === "/v1/facts") {
    const body = await textOf(request);
    const records = /ndjson/.test(request.headers["content-type"]) ? body.split("\n").filter(Boolean) : [body];
    return json(response, 200, { receipts: records.map((record) => world.submit(record)) });
  }
  if (path.startsWith("/v1/decisions/")) {
    const id = decodeURIComponent(path.slice("/v1/decisions/".length));
    const found = world.why(id);
    return found ? json(response, 200, found) : json(response, 404, { error: `nothing was decided about \`${id}\`; give the id of an event or of a decision` });
  }
  if (path === "/v1/tail/decisions") {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(": rows as they are computed\n\n");
    const listener = (row) => response.write(`data: ${JSON.stringify(row)}\n\n`);
    world.listeners.add(listener);
    request.on("close", () => world.listeners.delete(listener));
    return;
  }
  json(response, 404, { error: `there is no \`${path}\`; see /openapi.json` });
}

async function revisions(world, caller, [id, step], request, response) {
  if (request.method === "POST") {
    const { reason, ...of } = JSON.parse(await textOf(request));
    const [status, told] = world.step(step ?? "propose", caller.id, reason, { ...of, id });
    return json(response, status, status === 200 ? told : { error: told });
  }
  const all = world.revisions(caller);
  if (!id) return json(response, 200, all);
  const found = all.proposals.find(({ proposal_id }) => proposal_id.startsWith(id));
  if (!found) return json(response, 404, { error: `there is no proposal ${id}` });
  const { text, before_text } = world.proposals.find(({ proposal_id }) => proposal_id === found.proposal_id);
  json(response, 200, { ...found, text, before_text, changes: [], steps: all.steps.filter(({ proposal_id }) => proposal_id === found.proposal_id).reverse() });
}

async function answerSql(world, request, response) {
  try {
    json(response, 200, ask(world, JSON.parse(await textOf(request)).sql));
  } catch (error) {
    json(response, 400, { error: error.message });
  }
}

async function textOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

async function file(name, response) {
  try {
    if (!/^[\w.-]+$/.test(name)) throw new Error("not a name");
    const body = await readFile(new URL(name, CONSOLE));
    response.writeHead(200, { "Content-Type": TYPES[name.split(".").at(-1)], "Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff" });
    response.end(body);
  } catch {
    json(response, 404, { error: `there is no \`${name}\`` });
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const option = (name) => process.argv[process.argv.indexOf(name) + 1 || Infinity];
  const { address } = await serve({ port: Number(option("--port") ?? 8088), key: option("--key") ?? null });
  console.log(`mock on ${address}`);
}
