// One decision: its action, rules, features and fact, and the proof of its seal.
//
// Commands to copy name the decision by its id, which is hexadecimal: an event's id is text from outside, which must
// not be pasted into a shell.

import { call } from "./api.js";
import { action, badge, breakable, button, card, code, command, copier, digest, el, empty, facts, failure, fill, note, prose, scored, value } from "./dom.js";
import { count, isDigest, isFeature, shellWord, time } from "./format.js";
import * as status from "./status.js";

/** The path of a decision, without its id. */
const DECISIONS = "/v1/decisions/";

export async function showWhy(main, { argument: id, filters }, signal) {
  if (!id) {
    fill(main, el("h1", "Why"), empty("Choose one of the ", el("a", { href: "#/decisions" }, "decisions"), "."));
    return;
  }
  const node = filters.get("node");
  const path = `${DECISIONS}${encodeURIComponent(id)}${node ? `?${new URLSearchParams({ node })}` : ""}`;
  const answer = await ambiguous(main, call(path, { signal }));
  if (!answer) return;
  const { decision, fact } = answer;
  const seal = el("div.stack");
  const reasons = el("div");
  const links = el("div");
  const show = (of, checked) => {
    fill(seal, sealOf(of, checked));
    fill(reasons, story(of.reason ?? []));
    fill(links, chain(of));
  };
  const reload = async (asked) => {
    try {
      const fresh = await call(path, { signal });
      show(fresh, asked ? new Date() : null);
      return fresh.sealed;
    } catch (error) {
      if (!signal.aborted) fill(seal, failure(error));
      return false;
    }
  };
  show(answer, null);
  const verify = button("Verify", () => reload(true), { class: "primary", "data-verify": "", title: "v" });
  fill(main,
    el("p.crumb", el("a", { href: "#/decisions" }, "Decisions"), " / ", decision.event_id),
    el("div.head", action(String(decision.action)), el("h1", decision.event_id),
      note("score ", scored(decision.score), ` · happened ${time(decision.ts_utc)}`), others(answer)),
    card("From the record to the seal", links),
    el("div.beside",
      el("div.stack", rulesCard(decision), card("How it came about", reasons), featuresCard(decision)),
      el("div.stack",
        el("section.card", el("div.head", el("h2", "Seal and proof"), el("span.spring"), verify), seal,
          note("Prove it without this console:"),
          command(`tidegate verify --public-key FILE --data ${shellWord(status.latest()?.data ?? "DATA")} --episode ${isDigest(decision.decision_id) ? decision.decision_id : "ID"}`)),
        basedOn(decision), factCard(fact, decision))));
  if (!answer.sealed) sealLater(reload, signal);
}

/** Links to the decisions of other nodes on the same fact. */
function others({ node, nodes, decision }) {
  const rest = nodes.filter((other) => other !== node);
  if (!rest.length) return null;
  const link = (other) => [" ", el("a", { href: `#/why/${encodeURIComponent(decision.decision_id)}?${new URLSearchParams({ node: other })}` }, other)];
  return note(`by ${node}; see also`, rest.map(link));
}

/** The answer; or, if the id names several facts, nothing, and a list of them to choose from. */
async function ambiguous(main, answer) {
  try {
    return await answer;
  } catch (error) {
    if (!error.candidates?.length) throw error;
    const link = ({ location }) => {
      const address = location.slice(DECISIONS.length);
      return el("li", el("a", { href: `#/why/${address}` }, decodeURIComponent(address.split("?")[0])));
    };
    fill(main, el("h1", "Which fact?"), el("p", error.message), el("ul", error.candidates.map(link)));
    return null;
  }
}

/** The chain from record to seal. Each link covers the one before it by its digest. */
function chain({ decision, fact, received, sealed, proof }) {
  const link = (tone, title, ...lines) => el("li", { class: tone }, el("strong", title), lines.filter(Boolean).map((line) => el("div", line)));
  const facts = decision.basis?.reduce((sum, each) => sum + BigInt(each), 0n);
  const position = fact && `partition ${Number(BigInt(decision._tick) & 255n)}, offset ${fact._offset ?? decision._offset ?? "–"}`;
  return el("ol.chain",
    link("good", "Received", received ? ["from ", el("b", received.source)] : "by the gate", received && `position ${count(received.position)}`),
    link(fact ? "good" : "mind", fact ? "Admitted as a fact" : "Its fact is in neither log nor archive", position, decision.payload_hash && ["payload ", digest(decision.payload_hash, "payload digest")],
      [`under ${decision.policy_id} ${decision.policy_revision}`]),
    link("good", "Seen", facts !== undefined && `as of ${count(facts)} facts`, decision.snapshot_digest && ["snapshot ", digest(decision.snapshot_digest, "snapshot digest")]),
    link("good", "Decided", [action(String(decision.action)), ` by ${decision.bundle_id} ${decision.bundle_version}`], ["decision ", digest(decision.decision_id, "decision id")]),
    sealed && proof
      ? link(proof.verified ? "good" : "bad", proof.verified ? "Sealed, and proven" : "The seal does not hold", `commit #${proof.commit}, number ${proof.number} of its chain`, proof.seal && ["seal ", digest(proof.seal, "seal")])
      : link("mind", "Not yet sealed", "the next commit does"));
}

/** Reloads after every commit, until the decision is sealed. */
function sealLater(reload, signal) {
  let number = status.latest()?.committed?.number;
  let sealed = false;
  status.onStatus(async () => {
    const now = status.latest()?.committed?.number;
    if (sealed || now === number) return;
    number = now;
    sealed = await reload(false);
  }, signal);
}

function sealOf({ sealed, proof }, checked) {
  const at = checked && ` Checked at ${checked.toLocaleTimeString()}.`;
  if (!sealed || !proof) {
    return el("div.verdict.mind", { "data-verdict": "unsealed" }, el("strong", "Not yet sealed"),
      el("p", "It is decided and durable; the next commit seals it. This page looks again when that is there.", at));
  }
  const good = proof.verified;
  return [
    el("div", { class: `verdict ${!good ? "bad" : proof.key ? "good" : "mind"}`, "data-verdict": good ? "verified" : "broken" },
      el("strong", !good ? "Not what was committed" : proof.key ? "Verified" : "Verified, and signed by nobody"),
      el("p", good ? "The record has the digest that its seal chains, under a root that the commit states"
        + (proof.key ? " and signs." : ". The commit is not signed: who could write to the store could have written all of it.")
        : [proof.problem ?? "The proof does not hold.", " The command below names every file and record that differs."], at)),
    facts(
      ["commit", `#${proof.commit}`],
      ["number", [`${proof.number} of its chain`]],
      ["record", digest(proof.record, "record digest")],
      ["seal", digest(proof.seal, "seal")],
      ["signed by", proof.key ? code(proof.key) : "nobody"],
      ["file", code(proof.file)]),
  ];
}

function rulesCard({ rules_fired = [], reason_codes = [], bundle_id, bundle_version }) {
  if (!rules_fired?.length) {
    return card("Rules", el("p", `No rule of ${bundle_id} ${bundle_version} fired, so its default applied.`));
  }
  return card("Rules", el("ol.rules", rules_fired.map((rule, at) =>
    el("li", code(rule), " ", badge(reason_codes?.[at] ?? "no reason"), at === 0 && note(" names the action")))));
}

/** The reasons in words; indented lines belong to the sentence before them. */
function story(lines) {
  const sentences = [];
  for (const line of lines) {
    if (/^\s/.test(line) && sentences.length) sentences.at(-1).under.push(line.trim());
    else sentences.push({ line, under: [] });
  }
  if (!sentences.length) return note("The service gives no reasons for it.");
  return el("ol.story", sentences.map(({ line, under }) => el("li",
    under.length ? el("details", el("summary", prose(line), ` ${under.length} values`), el("ul", under.map((each) => el("li", code(prose(each))))))
      : prose(line))));
}

function featuresCard(decision) {
  const names = Object.keys(decision).filter(isFeature);
  if (!names.length) return null;
  const row = (name) => el("tr", el("th", { scope: "row" }, breakable(name)), el("td", { class: isCount(decision[name]) ? "number" : null }, value(decision[name])));
  const half = Math.ceil(names.length / 2);
  const part = (some) => el("table.pairs", { "aria-label": "Features" }, el("tbody", some.map(row)));
  return card("What the decision read", el("div.halves", part(names.slice(0, half)), part(names.slice(half))));
}

const isCount = (of) => /^-?\d+(\.\d+)?$/.test(of);

function basedOn(decision) {
  const rev = (id, version, hex) => [`${id ?? "–"} ${version ?? ""} `, hex && digest(hex)];
  return card("Based on", facts(
    ["decision", digest(decision.decision_id, "decision id")],
    ["bundle", rev(decision.bundle_id, decision.bundle_version, decision.bundle_digest)],
    ["policy", rev(decision.policy_id, decision.policy_revision, decision.policy_digest)],
    decision.snapshot_digest && ["features seen", digest(decision.snapshot_digest, "snapshot digest")],
    decision.plan_digest && ["plan", digest(decision.plan_digest, "plan digest")],
    decision.posture && ["posture", decision.posture],
    ["tick", code(decision._tick)],
    decision.decided_at_utc && ["decided", time(decision.decided_at_utc)],
    decision.basis && ["basis", el("table.basis", el("tbody",
      el("tr", el("th", { scope: "row" }, "partition"), decision.basis.map((_, at) => el("td.number", at))),
      el("tr", el("th", { scope: "row" }, "facts applied"), decision.basis.map((offset) => el("td.number", offset)))))]));
}

function factCard(fact, decision) {
  if (!fact) {
    return card("Fact", el("p", "Neither the log nor the archive holds the fact; its payload's digest is ",
      decision.payload_hash ? digest(decision.payload_hash) : "unknown", "."));
  }
  const { payload, context, ...own } = fact;
  // A JavaScript number would round a tick; the decision has it as text.
  const envelope = { ...own, ...typeof context === "string" ? JSON.parse(context) : {}, _tick: decision._tick };
  const text = typeof payload === "string" ? payload : JSON.stringify(payload, null, 2);
  const given = Object.entries(envelope).filter(([, of]) => of !== null && of !== undefined);
  return card("Fact", facts(...given.map(([name, of]) => [name, isDigest(of) ? digest(of) : name.endsWith("_utc") ? time(of) : value(of)])),
    el("div.head", el("h3", "Payload"), el("span.spring"), copier(text, "payload")), el("pre", text));
}
