// The policies view: effective revisions, proposals, and their steps, each taken by a person with a key.
//
// The service decides which steps are possible and why this person may not take one; nothing is decided here.

import { call } from "./api.js";
import { badge, button, card, digest, el, empty, failure, fill, note, say, table } from "./dom.js";
import { showDiff } from "./diff.js";
import { time } from "./format.js";

const TONES = { proposed: "mind", approved: "mind", "in force": "good", activated: "good", "rolled back": "bad", "rolled_back": "bad", outdated: "bad" };
const word = (name) => badge(name.replaceAll("_", " "), TONES[name] ?? "");
const kind = (name) => name.replaceAll("_", " ");
const TITLES = { approve: "Approve", activate: "Activate", withdraw: "Withdraw", rollback: "Roll back" };
const DONE = { proposed: "proposed", approved: "approved", activated: "in force", withdrawn: "withdrawn", rolled_back: "rolled back" };
/** Steps that change what decides, from their tick on. */
const TAKE_EFFECT = ["activate", "rollback"];

export async function showRevisions(main, { argument }, signal) {
  const [revisions, caller] = await Promise.all([call("/v1/revisions", { signal }), call("/v1/whoami", { signal })]);
  const again = () => showRevisions(main, { argument }, signal).catch((error) => { if (!signal.aborted) fill(main, failure(error, again)); });
  const editor = el("div");
  const mayPropose = caller.roles.includes("author");
  const revise = (of) => {
    fill(editor, editorFor(revisions, of, again, () => fill(editor)));
    editor.scrollIntoView({ block: "nearest" });
    editor.querySelector("textarea").focus();
  };
  const propose = button("Propose a revision", () => revise(revisions.effective[0]), { class: "primary", disabled: !mayPropose || !revisions.effective.length });
  const open = revisions.proposals.filter(({ state }) => ["proposed", "approved"].includes(state));
  const closed = revisions.proposals.filter((proposal) => !open.includes(proposal));
  fill(main,
    el("div.head", el("h1", "Policies"), el("span.spring"), who(caller), button("Look again", again), propose),
    !mayPropose && limits(caller),
    editor,
    card("In force", effectiveTable(revisions, mayPropose && revise)),
    el("h2.section", open.length ? `Waiting for somebody (${open.length})` : "Proposals"),
    revisions.proposals.length ? null : empty("The rules and the policy are those that this folder began with; nobody has proposed others."),
    open.map((proposal) => proposalCard(proposal, true, again, signal)),
    closed.map((proposal) => proposalCard(proposal, proposal.proposal_id === argument || proposal.state === "in force" && !open.length, again, signal)),
    revisions.steps.length > 0 && card("History", history(revisions)));
}

function who({ id, roles, keys }) {
  return note(keys ? [`you are `, el("b", id), ` · ${roles.join(", ")}`] : "no API keys: this machine may read and send");
}

/** Why this page is read-only. */
function limits({ keys, roles }) {
  if (!keys) {
    return el("p.note", "Steps are taken by people with names: make keys with ", el("code", "tidegate keys api --role author --role reader"),
      " and ", el("code", "--role approver"), ", and start the service with ", el("code", "--api-keys FILE"), ".");
  }
  return roles.includes("approver") ? null : el("p.note", "Your key shows how things stand. To propose takes the role ", el("code", "author"), ", to approve ", el("code", "approver"), ".");
}

function effectiveTable({ effective }, revise) {
  return table([
    { name: "node", cell: ({ node }) => el("b", node) },
    { name: "kind", less: true, cell: (row) => kind(row.kind) },
    { name: "revision", cell: (row) => `${row.revision_id} ${row.revision_version}` },
    { name: "since (UTC)", cell: ({ since_utc }) => (since_utc ? el("span.time", time(since_utc)) : note("the beginning")) },
    { name: "by", less: true, cell: ({ proposal_id }) => (proposal_id ? digest(proposal_id, "proposal id") : note("the topology")) },
    { name: "digest", less: true, cell: (row) => digest(row.digest) },
    revise && { name: "", cell: (row) => button("Revise", () => revise(row)) },
  ].filter(Boolean), effective, { label: "In force", cards: true });
}

/** The text with the next version number: every revision needs a version of its own. */
function withNextVersion(text, proposals, node) {
  return text.replace(/^((?:version|revision)\s*=\s*")(\d+)(")/m, (_, before, number, after) => {
    const taken = proposals.filter((each) => each.node === node).map(({ revision_version }) => Number(revision_version) || 0);
    return `${before}${Math.max(Number(number), ...taken) + 1}${after}`;
  });
}

function editorFor(revisions, of, again, close) {
  let subject = of;
  const against = note();
  const field = el("textarea", { spellcheck: "false", autocapitalize: "off", rows: 18, "aria-label": "The text of the revision" });
  const node = el("select", { "aria-label": "Node", change: () => choose(revisions.effective[node.selectedIndex]) },
    revisions.effective.map((each) => el("option", { selected: each === of }, `${each.node} (${kind(each.kind)})`)));
  const reason = el("input", { name: "reason", required: true, "aria-label": "Why", placeholder: "why it should change", autocomplete: "off" });
  const changes = el("div");
  const trouble = el("div");
  const show = () => fill(changes, showDiff(subject.text, field.value));
  const choose = (each) => {
    subject = each;
    fill(against, "against what is in force: ", el("b", `${each.revision_id} ${each.revision_version}`));
    field.value = withNextVersion(each.text, revisions.proposals, each.node);
    fill(trouble);
    show();
  };
  const send = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      const body = { node: subject.node, text: field.value, reason: reason.value, before: subject.digest };
      const taken = await call("/v1/revisions", { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
      say(taken.repeated ? "It was proposed before" : `${taken.revision_id} ${taken.revision_version} is proposed`);
      again();
    } catch (error) {
      fill(trouble, failure(error));
      submit.disabled = false;
    }
  };
  const submit = el("button.primary", "Propose");
  field.addEventListener("input", show);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  const form = el("form.stack", { submit: send },
    el("div.row", el("label.row", note("node"), node), against),
    field, el("h3", "What would change"), changes,
    el("div.row", reason, submit, button("Close", close)), trouble);
  choose(of);
  return card("Propose a revision", form,
    note("It is planned with everything that is in force beside it: what cannot run is refused, and nothing changes before another approves it and it is activated."));
}

function proposalCard(proposal, isOpen, again, signal) {
  const whole = el("div.stack");
  const load = async () => {
    if (whole.childElementCount) return;
    fill(whole, el("p.loading", "Asking…"));
    try {
      const all = await call(`/v1/revisions/${proposal.proposal_id}`, { signal });
      fill(whole,
        showDiff(all.before_text, all.text),
        el("details", el("summary", "The whole text"), el("pre", all.text)),
        stepsOf(all.steps));
    } catch (error) {
      if (!signal.aborted) fill(whole, failure(error));
    }
  };
  const details = el("details", { toggle: () => { if (details.open) load(); } }, el("summary", "What it changes, and its steps"), whole);
  if (isOpen) {
    details.open = true;
    load();
  }
  return el("section.card.proposal", { "data-proposal": proposal.proposal_id },
    el("div.head", word(proposal.state), el("h3", `${proposal.revision_id} ${proposal.revision_version}`),
      note(`${kind(proposal.kind)} of `, el("b", proposal.node)), el("span.spring"), digest(proposal.proposal_id, "proposal id")),
    el("p", el("b", proposal.actor), note(` proposed it on ${time(proposal.proposed_at_utc)}: `), proposal.reason),
    details, nextOf(proposal, again));
}

function stepsOf(steps) {
  return table([
    { name: "step", cell: (row) => word(row.step) },
    { name: "taken (UTC)", cell: (row) => el("span.time", time(row.at_utc)) },
    { name: "by", cell: ({ actor }) => actor },
    { name: "reason", cell: ({ reason }) => el("span.detail", reason) },
  ], steps, { label: "Steps" });
}

/** The next steps: a field for the reason, and a button for each step; a disabled one says why. */
function nextOf({ proposal_id, next }, again) {
  if (!next.length) return null;
  const reason = el("input", { required: true, "aria-label": "Reason", placeholder: "reason", autocomplete: "off" });
  const trouble = el("div");
  const take = async (step) => {
    if (!reason.reportValidity()) return;
    buttons.forEach((each) => { each.disabled = true; });
    try {
      const body = JSON.stringify({ reason: reason.value });
      const taken = await call(`/v1/revisions/${proposal_id}/${step}`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
      say(`${taken.revision_id} ${taken.revision_version} is ${DONE[taken.step]}`);
      again();
    } catch (error) {
      fill(trouble, failure(error));
      buttons.forEach((each, at) => { each.disabled = next[at].refused !== null; });
    }
  };
  const buttons = next.map(({ step, refused }) => button(TITLES[step] ?? step, () => take(step), {
    class: ["approve", "activate"].includes(step) ? "primary" : null, disabled: refused !== null, title: refused, "data-step": step,
  }));
  const able = next.some(({ refused }) => refused === null);
  const reasons = [...new Set(next.map(({ refused }) => refused).filter(Boolean))];
  return el("div.next",
    el("div.row", able && reason, buttons),
    able && next.some(({ step, refused }) => TAKE_EFFECT.includes(step) && refused === null)
      && note("It takes effect at once, for every decision from its tick on; the service catches up for a moment and takes facts again."),
    reasons.map((text) => el("p.note", text)), trouble);
}

function history({ steps }) {
  return table([
    { name: "taken (UTC)", cell: (row) => el("span.time", time(row.at_utc)) },
    { name: "step", cell: (row) => word(row.step) },
    { name: "node", cell: ({ node }) => node },
    { name: "revision", cell: (row) => `${row.revision_id} ${row.revision_version}` },
    { name: "by", cell: ({ actor }) => actor },
    { name: "reason", cell: ({ reason }) => el("span.detail", reason) },
    { name: "proposal", less: true, cell: (row) => digest(row.proposal_id, "proposal id") },
  ], steps, { label: "History" });
}
