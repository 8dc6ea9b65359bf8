//! Which step may follow which: proposed, approved, activated, and perhaps rolled back; or withdrawn before.
//!
//! The state is a function of the steps in the order of their ticks, so everyone who reads the log knows
//! the same. A proposal names what was in force when it was made, and takes effect only while that is
//! still so: two proposals on one revision cannot undo each other unseen.

use std::collections::BTreeMap;

use tidegate_facts::governance::{Kind, Revision, Step, StepRecord, Subject, short};
use tidegate_facts::{Digest, Tick};

/// How the revisions of all subjects stand.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    four_eyes: bool,
    subjects: BTreeMap<Subject, Changes>,
    proposals: BTreeMap<Digest, Proposal>,
    /// In the order of their ticks.
    steps: Vec<(Tick, StepRecord)>,
}

/// What was in force of one subject.
#[derive(Clone, Debug)]
struct Changes {
    initial: Revision,
    /// The activated proposals that were not rolled back, the one in force last.
    active: Vec<Digest>,
    /// Since when which proposal, or the initial revision, was in force.
    history: Vec<(Tick, Option<Digest>)>,
}

/// A proposal and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its id.
    pub id: Digest,
    /// What it would revise.
    pub subject: Subject,
    /// What was in force when it was made.
    pub before: Digest,
    /// The revision.
    pub after: Revision,
    /// The revision's whole text.
    pub text: String,
    /// The last step it took.
    pub state: Step,
    /// Its steps, each by whom.
    pub by: BTreeMap<Step, String>,
}

/// What a step that may be taken would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something that was not done before.
    New,
    /// Nothing: the same actor took it, for the same reason, at that tick, and it was not taken back since.
    Repeated(Tick),
}

/// Why a step may not be taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node has nothing that could be revised.
    #[error("node `{node}` has no bundle and no policy to revise; name one of {}", known.join(", "))]
    UnknownSubject {
        /// The node.
        node: String,
        /// The nodes that have.
        known: Vec<String>,
    },
    /// No such proposal.
    #[error("there is no proposal {id}; {}", if known.is_empty() {
        "nothing was proposed yet: begin with `tidegate policy propose`".to_owned()
    } else {
        format!("there are {}", known.join(", "))
    })]
    UnknownProposal {
        /// What was asked for.
        id: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Several proposals begin with the digits given.
    #[error("{count} proposals begin with `{id}`; give more digits of the one that is meant")]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// How many there are.
        count: usize,
    },
    /// Nobody, or no reason.
    #[error("the step has no {what}; say {mend}")]
    Missing {
        /// Which of the two.
        what: &'static str,
        /// How to give it.
        mend: &'static str,
    },
    /// The revision says what is in force.
    #[error("{revision} is in force for {subject} already; there is nothing to change")]
    Unchanged {
        /// Of what.
        subject: Subject,
        /// The revision.
        revision: Revision,
    },
    /// Something else is in force than the step takes for granted.
    #[error(
        "the step was made for {subject} with {} in force, and {active} is; look at what changed, then propose it again",
        short(expected)
    )]
    NotInForce {
        /// Of what.
        subject: Subject,
        /// What the step names.
        expected: Digest,
        /// What is in force.
        active: Box<Revision>,
    },
    /// Two revisions with one name and version.
    #[error(
        "{subject} has had a revision {id} {version} that says something else ({}); give the new one a version of its own",
        short(digest)
    )]
    NameTaken {
        /// Of what.
        subject: Subject,
        /// The name.
        id: String,
        /// The version.
        version: String,
        /// The digest of the one that has them.
        digest: Digest,
    },
    /// The proposal is not where the step begins.
    #[error("proposal {} was {state} by {by}, so it cannot be {step}; {mend}", short(id))]
    WrongState {
        /// The proposal.
        id: Digest,
        /// Its last step.
        state: Step,
        /// Who took that.
        by: String,
        /// The step that was refused.
        step: Step,
        /// What can be done instead.
        mend: &'static str,
    },
    /// One actor would do what takes two.
    #[error(
        "{actor} proposed {}, and another must approve it; ask a colleague, or set `four_eyes = false` in [governance] of a new topology",
        short(id)
    )]
    FourEyes {
        /// The proposal.
        id: Digest,
        /// Who proposed it.
        actor: String,
    },
    /// What the topology began with is in force.
    #[error("{revision} is in force for {subject} since the beginning; there is nothing to roll back to")]
    NothingBefore {
        /// Of what.
        subject: Subject,
        /// The revision.
        revision: Revision,
    },
    /// The record does not say what its proposal says.
    #[error(
        "the step about proposal {} names other revisions than the proposal; it was not made by this program",
        short(id)
    )]
    Foreign {
        /// The proposal.
        id: Digest,
    },
}

impl Lifecycle {
    /// Nothing has changed yet; `initial` is what the topology begins with.
    pub fn new(four_eyes: bool, initial: impl IntoIterator<Item = (Subject, Revision)>) -> Lifecycle {
        let unchanged = |initial| Changes { initial, active: Vec::new(), history: Vec::new() };
        let subjects = initial.into_iter().map(|(subject, initial)| (subject, unchanged(initial)));
        Lifecycle { four_eyes, subjects: subjects.collect(), proposals: BTreeMap::new(), steps: Vec::new() }
    }

    /// Takes a step; a repeated one changes nothing.
    ///
    /// # Errors
    /// Why it may not be taken.
    ///
    /// # Panics
    /// When its tick is not above that of the last step.
    pub fn apply(&mut self, tick: Tick, step: &StepRecord) -> Result<Verdict, Refusal> {
        let verdict = self.check(step)?;
        if verdict != Verdict::New {
            return Ok(verdict);
        }
        assert!(
            self.steps.last().is_none_or(|(last, _)| *last < tick),
            "steps come in the order of their ticks"
        );
        if step.step == Step::Proposed {
            let proposal = Proposal {
                id: step.proposal_id,
                subject: step.subject.clone(),
                before: step.before,
                after: step.after.clone(),
                text: step.text.clone().expect("a proposal without a text is refused"),
                state: Step::Proposed,
                by: BTreeMap::new(),
            };
            self.proposals.insert(step.proposal_id, proposal);
        }
        let proposal = self.proposals.get_mut(&step.proposal_id).expect("the check found it");
        proposal.state = step.step;
        proposal.by.insert(step.step, step.actor.clone());
        let changes = self.subjects.get_mut(&step.subject).expect("the check found it");
        match step.step {
            Step::Activated => changes.active.push(step.proposal_id),
            Step::RolledBack => {
                changes.active.pop();
            }
            Step::Proposed | Step::Approved | Step::Withdrawn => {}
        }
        if step.step.takes_effect() {
            changes.history.push((tick, changes.active.last().copied()));
        }
        self.steps.push((tick, step.clone()));
        Ok(Verdict::New)
    }

    /// Whether a step may be taken.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, step: &StepRecord) -> Result<Verdict, Refusal> {
        let subject = &step.subject;
        let active = self.active(subject)?;
        for (text, what, mend) in [
            (&step.actor, "actor", "who takes it with --actor"),
            (&step.reason, "reason", "why with --reason"),
        ] {
            if text.trim().is_empty() {
                return Err(Refusal::Missing { what, mend });
            }
        }
        let same = self.steps.iter().find(|(_, taken)| taken == step);
        if let Some((tick, _)) = same {
            // What was taken back since is not as the step left it, and to say "done" would mislead.
            let state = self.proposals[&step.proposal_id].state;
            if state == step.step || !matches!(state, Step::RolledBack | Step::Withdrawn) {
                return Ok(Verdict::Repeated(*tick));
            }
        }
        if step.step == Step::Proposed {
            self.check_proposal(step, active)?;
            return Ok(Verdict::New);
        }
        let proposal = self.proposal(&step.proposal_id.to_hex())?;
        let wrong = |mend| {
            let (id, state) = (proposal.id, proposal.state);
            Err(Refusal::WrongState { id, state, by: proposal.by[&state].clone(), step: step.step, mend })
        };
        match (step.step, proposal.state) {
            (Step::Approved, Step::Proposed)
            | (Step::Activated, Step::Approved)
            | (Step::RolledBack, Step::Activated)
            | (Step::Withdrawn, Step::Proposed | Step::Approved) => {}
            (Step::Activated, Step::Proposed) => return wrong("have it approved first"),
            (Step::Approved, Step::Approved) => return wrong("it can be activated"),
            (Step::RolledBack, Step::Proposed | Step::Approved) => {
                return wrong("it is not in force; withdraw it instead");
            }
            (Step::Withdrawn, Step::Activated) => return wrong("roll it back instead"),
            (Step::Approved | Step::Activated, Step::Activated) => {
                return wrong(
                    "it took effect then, and stays in force until another does or it is rolled back",
                );
            }
            _ => return wrong("propose it again, with a reason of its own"),
        }
        let rolls_back = step.step == Step::RolledBack;
        let (before, after) = match rolls_back {
            false => (proposal.before, proposal.after.clone()),
            true => (proposal.after.digest, self.before(proposal)),
        };
        if proposal.subject != *subject || step.before != before || step.after != after {
            return Err(Refusal::Foreign { id: proposal.id });
        }
        let proposer = &proposal.by[&Step::Proposed];
        if step.step == Step::Approved && self.four_eyes && *proposer == step.actor {
            return Err(Refusal::FourEyes { id: proposal.id, actor: proposer.clone() });
        }
        let in_force = !rolls_back || self.subjects[subject].active.last() == Some(&proposal.id);
        if step.step.takes_effect() && (step.before != active.digest || !in_force) {
            let (subject, active) = (subject.clone(), Box::new(active.clone()));
            return Err(Refusal::NotInForce { subject, expected: step.before, active });
        }
        Ok(Verdict::New)
    }

    fn check_proposal(&self, step: &StepRecord, active: &Revision) -> Result<(), Refusal> {
        let StepRecord { subject, after, .. } = step;
        if let Some(standing) = self.proposals.get(&step.proposal_id) {
            let (id, state) = (standing.id, standing.state);
            let mend = "to propose it again, give a reason of its own";
            let by = standing.by[&state].clone();
            return Err(Refusal::WrongState { id, state, by, step: Step::Proposed, mend });
        }
        let own = StepRecord::proposal_id(
            subject,
            &step.scope,
            &step.before,
            &after.digest,
            &step.actor,
            &step.reason,
        );
        if step.proposal_id != own || step.text.is_none() {
            return Err(Refusal::Foreign { id: step.proposal_id });
        }
        if step.before != active.digest {
            let (subject, active) = (subject.clone(), Box::new(active.clone()));
            return Err(Refusal::NotInForce { subject, expected: step.before, active });
        }
        if after.digest == active.digest {
            return Err(Refusal::Unchanged { subject: subject.clone(), revision: active.clone() });
        }
        let known = self.proposals.values().filter(|p| p.subject == *subject).map(|p| &p.after);
        for other in known.chain([&self.subjects[subject].initial]) {
            if (&other.id, &other.version) == (&after.id, &after.version) && other.digest != after.digest {
                let Revision { id, version, digest } = other.clone();
                return Err(Refusal::NameTaken { subject: subject.clone(), id, version, digest });
            }
        }
        Ok(())
    }

    /// The record by which `actor` would propose a revision for what is in force now.
    ///
    /// # Errors
    /// When nothing of that subject is known.
    pub fn propose(
        &self,
        subject: &Subject,
        scope: &str,
        after: Revision,
        text: &str,
        actor: &str,
        reason: &str,
    ) -> Result<StepRecord, Refusal> {
        let before = self.active(subject)?.digest;
        Ok(StepRecord {
            proposal_id: StepRecord::proposal_id(subject, scope, &before, &after.digest, actor, reason),
            subject: subject.clone(),
            scope: scope.to_owned(),
            step: Step::Proposed,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            before,
            after,
            text: Some(text.to_owned()),
        })
    }

    /// The record by which `actor` would take another step about a proposal.
    ///
    /// # Panics
    /// When the step is a proposal, which is not about one.
    pub fn follow(
        &self,
        proposal: &Proposal,
        step: Step,
        scope: &str,
        actor: &str,
        reason: &str,
    ) -> StepRecord {
        assert_ne!(step, Step::Proposed, "a proposal follows nothing");
        let (before, after) = match step {
            Step::RolledBack => (proposal.after.digest, self.before(proposal)),
            _ => (proposal.before, proposal.after.clone()),
        };
        StepRecord {
            subject: proposal.subject.clone(),
            scope: scope.to_owned(),
            step,
            proposal_id: proposal.id,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            before,
            after,
            text: None,
        }
    }

    /// The record by which `actor` would take back what is in force of a subject.
    ///
    /// The same actor with the same reason means the roll-back that was made last: asked again, it goes no further back.
    ///
    /// # Errors
    /// When the topology's own revision is in force.
    pub fn roll_back(
        &self,
        subject: &Subject,
        scope: &str,
        actor: &str,
        reason: &str,
    ) -> Result<StepRecord, Refusal> {
        let active = self.active(subject)?;
        let last = self.steps.iter().rev().find(|(_, s)| s.subject == *subject && s.step.takes_effect());
        if let Some((_, last)) = last
            && last.step == Step::RolledBack
            && (last.actor.as_str(), last.reason.as_str()) == (actor, reason)
        {
            return Ok(last.clone());
        }
        match self.subjects[subject].active.last() {
            Some(id) => Ok(self.follow(&self.proposals[id], Step::RolledBack, scope, actor, reason)),
            None => Err(Refusal::NothingBefore { subject: subject.clone(), revision: active.clone() }),
        }
    }

    /// What is in force of a subject.
    ///
    /// # Errors
    /// When nothing of it is known.
    pub fn active(&self, subject: &Subject) -> Result<&Revision, Refusal> {
        let changes = self.subjects.get(subject).ok_or_else(|| self.unknown(&subject.node))?;
        Ok(changes.active.last().map_or(&changes.initial, |id| &self.proposals[id].after))
    }

    /// The subject of a node.
    ///
    /// # Errors
    /// When it has none.
    pub fn subject_of(&self, node: &str) -> Result<&Subject, Refusal> {
        self.subjects.keys().find(|subject| subject.node == node).ok_or_else(|| self.unknown(node))
    }

    /// Everything that can be revised, and what the topology began with.
    pub fn subjects(&self) -> impl Iterator<Item = (&Subject, &Revision)> {
        self.subjects.iter().map(|(subject, changes)| (subject, &changes.initial))
    }

    /// Since which tick which proposal has been in force; `None` is the topology's own revision.
    pub fn history(&self, subject: &Subject) -> &[(Tick, Option<Digest>)] {
        self.subjects.get(subject).map_or(&[], |changes| &changes.history)
    }

    /// What is in force of a subject, since which tick, and by which proposal; by none it was there at the beginning.
    ///
    /// # Errors
    /// When nothing of it is known.
    pub fn in_force(&self, subject: &Subject) -> Result<(&Revision, Option<Tick>, Option<Digest>), Refusal> {
        let last = self.history(subject).last();
        Ok((self.active(subject)?, last.map(|(tick, _)| *tick), last.and_then(|(_, id)| *id)))
    }

    /// How a proposal stands, in a word: its last step, and what others have made of it since.
    pub fn word_for(&self, proposal: &Proposal) -> &'static str {
        let (active, _, by) = self.in_force(&proposal.subject).expect("the proposal was checked");
        match proposal.state {
            Step::Proposed | Step::Approved if proposal.before != active.digest => "outdated",
            Step::Activated if by == Some(proposal.id) => "in force",
            Step::Activated => "replaced",
            Step::RolledBack => "rolled back",
            other => other.name(),
        }
    }

    /// The proposal whose id begins with `id`.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn proposal(&self, id: &str) -> Result<&Proposal, Refusal> {
        let mut found = self.proposals.values().filter(|p| p.id.to_hex().starts_with(id) && !id.is_empty());
        match (found.next(), found.count()) {
            (Some(one), 0) => Ok(one),
            (Some(_), more) => Err(Refusal::Ambiguous { id: id.to_owned(), count: more + 1 }),
            (None, _) => {
                let known = self.in_order().into_iter().map(|p| short(&p.id)).collect();
                Err(Refusal::UnknownProposal { id: id.to_owned(), known })
            }
        }
    }

    /// Every proposal, in the order in which they were made.
    pub fn in_order(&self) -> Vec<&Proposal> {
        let made = self.steps.iter().filter(|(_, step)| step.step == Step::Proposed);
        made.map(|(_, step)| &self.proposals[&step.proposal_id]).collect()
    }

    /// Every step, in the order of their ticks.
    pub fn steps(&self) -> &[(Tick, StepRecord)] {
        &self.steps
    }

    /// The revision that a proposal was made on.
    fn before(&self, proposal: &Proposal) -> Revision {
        let changes = &self.subjects[&proposal.subject];
        let mut known = self.proposals.values().map(|p| &p.after).chain([&changes.initial]);
        known.find(|revision| revision.digest == proposal.before).expect("it was in force").clone()
    }

    fn unknown(&self, node: &str) -> Refusal {
        let known = self.subjects.keys().map(|subject| match subject.kind {
            Kind::Bundle => format!("`{}`", subject.node),
            Kind::GatePolicy => format!("`{}` (the gate)", subject.node),
        });
        Refusal::UnknownSubject { node: node.to_owned(), known: known.collect() }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn subject(node: &str) -> Subject {
        let kind = if node == "gate" { Kind::GatePolicy } else { Kind::Bundle };
        Subject { kind, node: node.to_owned() }
    }

    fn revision(name: &str) -> Revision {
        Revision { id: "rules".to_owned(), version: name.to_owned(), digest: Digest::of(name.as_bytes()) }
    }

    fn beginning(four_eyes: bool) -> Lifecycle {
        Lifecycle::new(four_eyes, ["decide", "gate"].map(|node| (subject(node), revision("A"))))
    }

    /// Takes steps such as `ann proposes B`, and shows what came of each.
    fn check(four_eyes: bool, script: &str, wanted: &Expect) {
        let mut lifecycle = beginning(four_eyes);
        let mut shown = String::new();
        for (place, line) in script.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            let (actor, reason) = (words[0], words.get(3).copied().unwrap_or("because"));
            let about = |name: &str| {
                lifecycle
                    .in_order()
                    .into_iter()
                    .rev()
                    .find(|p| p.after.version == name)
                    .expect("proposed")
                    .clone()
            };
            let follow = |step| lifecycle.follow(&about(words[2]), step, "test", actor, reason);
            let record = match words[1] {
                "proposes" => {
                    lifecycle.propose(&subject("decide"), "test", revision(words[2]), words[2], actor, reason)
                }
                "approves" => Ok(follow(Step::Approved)),
                "activates" => Ok(follow(Step::Activated)),
                "withdraws" => Ok(follow(Step::Withdrawn)),
                _ => lifecycle.roll_back(&subject("decide"), "test", actor, reason),
            };
            let tick = Tick(place as u64 + 1);
            let said = match record.and_then(|record| lifecycle.apply(tick, &record)) {
                Ok(Verdict::New) => "yes".to_owned(),
                Ok(Verdict::Repeated(tick)) => format!("as at {}", tick.0),
                Err(refusal) => format!("no: {refusal}"),
            };
            let active = &lifecycle.active(&subject("decide")).unwrap().version;
            shown += &format!("{line}: {said} [{active}]\n");
        }
        wanted.assert_eq(&shown);
    }

    #[test]
    fn a_revision_takes_two_people_and_three_steps() {
        check(
            true,
            "ann proposes B
             ann activates B
             ann approves B
             bob approves B
             bob approves B
             cyd approves B
             ann activates B
             ann activates B
             bob activates B",
            &expect![[r#"
                ann proposes B: yes [A]
                ann activates B: no: proposal cab7acac9e14 was proposed by ann, so it cannot be activated; have it approved first [A]
                ann approves B: no: ann proposed cab7acac9e14, and another must approve it; ask a colleague, or set `four_eyes = false` in [governance] of a new topology [A]
                bob approves B: yes [A]
                bob approves B: as at 4 [A]
                cyd approves B: no: proposal cab7acac9e14 was approved by bob, so it cannot be approved; it can be activated [A]
                ann activates B: yes [B]
                ann activates B: as at 7 [B]
                bob activates B: no: proposal cab7acac9e14 was activated by ann, so it cannot be activated; it took effect then, and stays in force until another does or it is rolled back [B]
            "#]],
        );
    }

    #[test]
    fn one_is_enough_where_the_topology_says_so() {
        check(
            false,
            "ann proposes B
             ann approves B
             ann activates B",
            &expect![[r#"
                ann proposes B: yes [A]
                ann approves B: yes [A]
                ann activates B: yes [B]
            "#]],
        );
    }

    #[test]
    fn a_roll_back_goes_one_step_and_asked_again_no_further() {
        check(
            false,
            "ann proposes B
             ann approves B
             ann activates B
             ann proposes C
             ann approves C
             ann activates C
             bob rolls back wrong
             bob rolls back wrong
             bob rolls back worse
             bob rolls back worse
             bob rolls back hopeless
             ann activates B
             ann proposes B
             ann proposes B again",
            &expect![[r#"
                ann proposes B: yes [A]
                ann approves B: yes [A]
                ann activates B: yes [B]
                ann proposes C: yes [B]
                ann approves C: yes [B]
                ann activates C: yes [C]
                bob rolls back wrong: yes [B]
                bob rolls back wrong: as at 7 [B]
                bob rolls back worse: yes [A]
                bob rolls back worse: as at 9 [A]
                bob rolls back hopeless: no: rules A (32684bfa28c0) is in force for the bundle of `decide` since the beginning; there is nothing to roll back to [A]
                ann activates B: no: proposal cab7acac9e14 was rolled back by bob, so it cannot be activated; propose it again, with a reason of its own [A]
                ann proposes B: no: proposal cab7acac9e14 was rolled back by bob, so it cannot be proposed; to propose it again, give a reason of its own [A]
                ann proposes B again: yes [A]
            "#]],
        );
    }

    #[test]
    fn what_was_proposed_on_another_revision_does_not_take_effect() {
        check(
            false,
            "ann proposes B
             bob proposes C
             ann approves B
             bob approves C
             ann activates B
             bob activates C
             ann proposes B
             ann withdraws B
             bob withdraws C
             bob withdraws C
             bob approves C",
            &expect![[r#"
                ann proposes B: yes [A]
                bob proposes C: yes [A]
                ann approves B: yes [A]
                bob approves C: yes [A]
                ann activates B: yes [B]
                bob activates C: no: the step was made for the bundle of `decide` with 32684bfa28c0 in force, and rules B (9f9524ca18c0) is; look at what changed, then propose it again [B]
                ann proposes B: no: rules B (9f9524ca18c0) is in force for the bundle of `decide` already; there is nothing to change [B]
                ann withdraws B: no: proposal cab7acac9e14 was activated by ann, so it cannot be withdrawn; roll it back instead [B]
                bob withdraws C: yes [B]
                bob withdraws C: as at 9 [B]
                bob approves C: no: proposal dab4cebd465b was withdrawn by bob, so it cannot be approved; propose it again, with a reason of its own [B]
            "#]],
        );
    }

    #[test]
    fn nobody_and_nothing_are_refused() {
        let lifecycle = beginning(true);
        let decide = subject("decide");
        let said = |step: Result<StepRecord, Refusal>| {
            step.and_then(|step| lifecycle.check(&step).map(|_| ())).unwrap_err().to_string() + "\n"
        };
        let proposed = |after: Revision, actor: &str, reason: &str| {
            lifecycle.propose(&decide, "test", after, "text", actor, reason)
        };
        let other_a = Revision { digest: Digest::of(b"another A"), ..revision("A") };
        let mut stale = proposed(revision("B"), "ann", "why").unwrap();
        stale.before = Digest::of(b"C");
        stale.proposal_id =
            StepRecord::proposal_id(&decide, "test", &stale.before, &stale.after.digest, "ann", "why");
        let mut forged = proposed(revision("B"), "ann", "why").unwrap();
        forged.actor = "bob".to_owned();
        let refusals = [
            said(proposed(revision("A"), "ann", "why")),
            said(proposed(other_a, "ann", "why")),
            said(proposed(revision("B"), " ", "why")),
            said(proposed(revision("B"), "ann", "")),
            said(Ok(stale)),
            said(Ok(forged)),
            said(lifecycle.propose(&subject("features"), "test", revision("B"), "text", "ann", "why")),
            lifecycle.proposal("3f").unwrap_err().to_string() + "\n",
        ];
        expect![[r#"
            rules A (32684bfa28c0) is in force for the bundle of `decide` already; there is nothing to change
            the bundle of `decide` has had a revision rules A that says something else (32684bfa28c0); give the new one a version of its own
            the step has no actor; say who takes it with --actor
            the step has no reason; say why with --reason
            the step was made for the bundle of `decide` with fc42a5a555aa in force, and rules A (32684bfa28c0) is; look at what changed, then propose it again
            the step about proposal 79a20a5dccf3 names other revisions than the proposal; it was not made by this program
            node `features` has no bundle and no policy to revise; name one of `decide`, `gate` (the gate)
            there is no proposal 3f; nothing was proposed yet: begin with `tidegate policy propose`
        "#]].assert_eq(&refusals.concat());
    }

    #[test]
    fn the_door_is_cited_by_the_digest_of_what_it_says() {
        use tidegate_facts::governance::{DOOR, door};
        assert_eq!(crate::gate::GatePolicy::parse(DOOR).unwrap().rev(), door());
    }

    /// The slow, obvious version: everything is looked up in the list of the steps that were taken.
    struct Oracle {
        four_eyes: bool,
        taken: Vec<StepRecord>,
    }

    impl Oracle {
        fn of(&self, id: Digest) -> Vec<&StepRecord> {
            self.taken.iter().filter(|step| step.proposal_id == id).collect()
        }

        fn took(&self, id: Digest, step: Step) -> bool {
            self.of(id).iter().any(|taken| taken.step == step)
        }

        /// What is in force: the last activation that was not rolled back.
        fn active(&self, subject: &Subject) -> Digest {
            let activated = self.taken.iter().filter(|s| s.subject == *subject && s.step == Step::Activated);
            let mut standing = activated.filter(|s| !self.took(s.proposal_id, Step::RolledBack));
            standing.next_back().map_or(revision("A").digest, |s| s.after.digest)
        }

        fn may(&self, step: &StepRecord) -> bool {
            let id = step.proposal_id;
            let open = self.took(id, Step::Proposed) && !self.took(id, Step::Withdrawn);
            let active = self.active(&step.subject);
            match step.step {
                Step::Proposed => {
                    self.of(id).is_empty() && step.before == active && step.after.digest != active
                }
                Step::Approved => {
                    let by_proposer = self.of(id).iter().any(|s| s.actor == step.actor);
                    open && !self.took(id, Step::Approved) && !(self.four_eyes && by_proposer)
                }
                Step::Activated => {
                    open && self.took(id, Step::Approved)
                        && !self.took(id, Step::Activated)
                        && step.before == active
                }
                Step::RolledBack => {
                    let last = self.taken.iter().rfind(|s| {
                        s.subject == step.subject
                            && s.step == Step::Activated
                            && !self.took(s.proposal_id, Step::RolledBack)
                    });
                    last.is_some_and(|last| last.proposal_id == id)
                }
                Step::Withdrawn => open && !self.took(id, Step::Activated),
            }
        }
    }

    #[test]
    fn random_steps_are_allowed_exactly_when_the_slow_version_allows_them() {
        for seed in 0..300u64 {
            let mut state = seed;
            let mut draw = |below: usize| {
                // SplitMix64: a few lines, and the same on every machine.
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) % below as u64) as usize
            };
            let mut lifecycle = beginning(seed % 2 == 0);
            let mut oracle = Oracle { four_eyes: seed % 2 == 0, taken: Vec::new() };
            for place in 0..120u64 {
                let actor = ["ann", "bob", "cyd"][draw(3)];
                let reason = ["because", "so"][draw(2)];
                let proposals: Vec<Proposal> = lifecycle.in_order().into_iter().cloned().collect();
                let step = Step::ALL[draw(5)];
                let record = if step == Step::Proposed || proposals.is_empty() {
                    let of = subject(["decide", "gate"][draw(2)]);
                    let after = revision(["A", "B", "C", "D"][draw(4)]);
                    lifecycle.propose(&of, "test", after, "text", actor, reason).unwrap()
                } else {
                    lifecycle.follow(&proposals[draw(proposals.len())], step, "test", actor, reason)
                };
                let last = oracle.of(record.proposal_id).last().map(|last| last.step);
                let closed = matches!(last, Some(Step::RolledBack | Step::Withdrawn));
                let repeated = oracle.taken.contains(&record) && (!closed || last == Some(record.step));
                let may = oracle.may(&record);
                let said = lifecycle.apply(Tick(place + 1), &record);
                match &said {
                    Ok(Verdict::New) => assert!(may && !repeated, "seed {seed}, step {place}: {record:?}"),
                    Ok(Verdict::Repeated(_)) => assert!(repeated, "seed {seed}, step {place}: {record:?}"),
                    Err(refusal) => assert!(!may && !repeated, "seed {seed}, step {place}: {refusal}"),
                }
                if said == Ok(Verdict::New) {
                    oracle.taken.push(record);
                }
                for node in ["decide", "gate"] {
                    let of = subject(node);
                    assert_eq!(
                        lifecycle.active(&of).unwrap().digest,
                        oracle.active(&of),
                        "seed {seed}, step {place}"
                    );
                    let in_history = lifecycle.history(&of).last().and_then(|(_, id)| *id);
                    let now = in_history
                        .map_or(revision("A"), |id| lifecycle.proposal(&id.to_hex()).unwrap().after.clone());
                    assert_eq!(now.digest, oracle.active(&of), "seed {seed}, step {place}");
                }
            }
        }
    }
}
