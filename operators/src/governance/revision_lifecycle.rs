//! The life cycle of revisions: proposed, approved, activated, perhaps rolled back; or withdrawn
//! before.
//!
//! The state is a function of the steps in the order of their ticks, so every reader of the log
//! computes the same state. A proposal names the revision that was effective when it was made, and
//! can be activated only while that revision is still effective. So of two proposals on one
//! revision, the second cannot silently undo the first.

use std::collections::BTreeMap;

use tidegate_facts::governance::{Revision, RevisionKind, RevisionStep, StepRecord, Subject};
use tidegate_facts::{Digest, Tick};

/// The life cycle of the revisions of all subjects: their state after the steps so far.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    four_eyes: bool,
    subjects: BTreeMap<Subject, SubjectState>,
    proposals: BTreeMap<Digest, Proposal>,
    /// In the order of their ticks.
    steps: Vec<(Tick, StepRecord)>,
}

/// The revisions of one subject.
#[derive(Clone, Debug)]
struct SubjectState {
    initial: Revision,
    /// The activated proposals that were not rolled back; the last one is effective.
    active: Vec<Digest>,
    /// The tick from which each proposal was effective; `None` is the initial revision.
    history: Vec<(Tick, Option<Digest>)>,
}

/// A proposal of a revision and its steps so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The id of the proposal.
    pub id: Digest,
    /// The subject that it revises.
    pub subject: Subject,
    /// The revision that was effective when it was made.
    pub before: Digest,
    /// The proposed revision.
    pub after: Revision,
    /// The whole text of the proposed revision.
    pub text: String,
    /// The last step.
    pub state: RevisionStep,
    /// The actor of each step.
    pub by: BTreeMap<RevisionStep, String>,
}

/// The effect of an allowed step in a revision's life cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEffect {
    /// The step changes the state.
    New,
    /// The step changes nothing: the same actor took it for the same reason at this tick, and it
    /// was not undone since.
    Repeated(Tick),
}

/// Why a step in a revision's life cycle is not allowed. A refused step changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node has nothing to revise.
    #[error("node `{node}` has no bundle and no policy to revise; name one of {}", existing.join(", "))]
    UnknownSubject {
        /// The name of the node.
        node: String,
        /// The names of the nodes that have a bundle or policy.
        existing: Vec<String>,
    },
    /// There is no such proposal.
    #[error("there is no proposal {id}; {}", if existing.is_empty() {
        "nothing was proposed yet: begin with `tidegate policy propose`".to_owned()
    } else {
        format!("there are {}", existing.join(", "))
    })]
    UnknownProposal {
        /// The id that was given.
        id: String,
        /// The ids of all proposals, shortened.
        existing: Vec<String>,
    },
    /// The ids of several proposals begin with the given digits.
    #[error("{count} proposals begin with `{id}`; give more digits of the one that is meant")]
    Ambiguous {
        /// The id that was given.
        id: String,
        /// The count of matching proposals.
        count: usize,
    },
    /// The step has no actor or no reason.
    #[error("the step has no {what}; give {how}")]
    Missing {
        /// What is missing: the actor or the reason.
        what: &'static str,
        /// How to give it.
        how: &'static str,
    },
    /// The proposed revision is already effective.
    #[error("{revision} is already in force for {subject}; there is nothing to change")]
    Unchanged {
        /// Of what.
        subject: Subject,
        /// The revision.
        revision: Revision,
    },
    /// Another revision is effective than the one that the step names.
    #[error(
        "the step was made for {subject} when {} was in force, but now {active} is; review the changes, then propose it again",
        expected.short_hex()
    )]
    NotInForce {
        /// Of what.
        subject: Subject,
        /// What the step names.
        expected: Digest,
        /// What is in force.
        active: Box<Revision>,
    },
    /// Another revision has the same name and version.
    #[error(
        "{subject} already has another revision {id} {version} ({}); give the new one its own version",
        digest.short_hex()
    )]
    NameTaken {
        /// Of what.
        subject: Subject,
        /// The name.
        id: String,
        /// The version.
        version: String,
        /// The digest of the existing revision.
        digest: Digest,
    },
    /// The step does not follow the proposal's last step.
    #[error("proposal {} was {state} by {by}, so it cannot be {step}; {advice}", id.short_hex())]
    WrongState {
        /// The proposal.
        id: Digest,
        /// Its last step.
        state: RevisionStep,
        /// The actor of the last step.
        by: String,
        /// The refused step.
        step: RevisionStep,
        /// What to do instead.
        advice: &'static str,
    },
    /// The proposer cannot approve the proposal.
    #[error(
        "{actor} proposed {}, so someone else must approve it; ask a colleague, or set `four_eyes = false` in [governance] of a new topology",
        id.short_hex()
    )]
    FourEyes {
        /// The proposal.
        id: Digest,
        /// The proposer.
        actor: String,
    },
    /// The topology's own revision is effective.
    #[error(
        "{revision} has been in force for {subject} since the beginning; there is nothing to roll back to"
    )]
    NothingBefore {
        /// Of what.
        subject: Subject,
        /// The revision.
        revision: Revision,
    },
    /// The record contradicts its proposal.
    #[error(
        "the step on proposal {} names other revisions than the proposal; Tidegate did not write it",
        id.short_hex()
    )]
    Foreign {
        /// The proposal.
        id: Digest,
    },
}

impl Lifecycle {
    /// A life cycle without steps; `initial` are the topology's own revisions.
    pub fn new(four_eyes: bool, initial: impl IntoIterator<Item = (Subject, Revision)>) -> Lifecycle {
        let unchanged = |initial| SubjectState { initial, active: Vec::new(), history: Vec::new() };
        let subjects = initial.into_iter().map(|(subject, initial)| (subject, unchanged(initial)));
        Lifecycle { four_eyes, subjects: subjects.collect(), proposals: BTreeMap::new(), steps: Vec::new() }
    }

    /// Applies a step of a revision's life cycle; a repeated step changes nothing.
    ///
    /// # Errors
    /// When the step is not allowed.
    ///
    /// # Panics
    /// When its tick is not above that of the last step.
    pub fn apply(&mut self, tick: Tick, step: &StepRecord) -> Result<StepEffect, Refusal> {
        let effect = self.check(step)?;
        if effect != StepEffect::New {
            return Ok(effect);
        }
        assert!(
            self.steps.last().is_none_or(|(last, _)| *last < tick),
            "steps come in the order of their ticks"
        );
        if step.step == RevisionStep::Proposed {
            let proposal = Proposal {
                id: step.proposal_id,
                subject: step.subject.clone(),
                before: step.before,
                after: step.after.clone(),
                text: step.text.clone().expect("the check refuses a proposal without a text"),
                state: RevisionStep::Proposed,
                by: BTreeMap::new(),
            };
            self.proposals.insert(step.proposal_id, proposal);
        }
        let proposal = self.proposals.get_mut(&step.proposal_id).expect("the check found it");
        proposal.state = step.step;
        proposal.by.insert(step.step, step.actor.clone());
        let state = self.subjects.get_mut(&step.subject).expect("the check found it");
        match step.step {
            RevisionStep::Activated => state.active.push(step.proposal_id),
            RevisionStep::RolledBack => {
                state.active.pop();
            }
            RevisionStep::Proposed | RevisionStep::Approved | RevisionStep::Withdrawn => {}
        }
        if step.step.takes_effect() {
            state.history.push((tick, state.active.last().copied()));
        }
        self.steps.push((tick, step.clone()));
        Ok(StepEffect::New)
    }

    /// Checks whether a step of a revision's life cycle is allowed.
    ///
    /// # Errors
    /// When the step is not allowed.
    pub fn check(&self, step: &StepRecord) -> Result<StepEffect, Refusal> {
        let subject = &step.subject;
        let active = self.active(subject)?;
        for (text, what, how) in [
            (&step.actor, "actor", "the actor with --actor"),
            (&step.reason, "reason", "the reason with --reason"),
        ] {
            if text.trim().is_empty() {
                return Err(Refusal::Missing { what, how });
            }
        }
        let same = self.steps.iter().find(|(_, taken)| taken == step);
        if let Some((tick, _)) = same {
            // A step that was undone since is not repeated: its effect is gone.
            let state = self.proposals[&step.proposal_id].state;
            if state == step.step || !matches!(state, RevisionStep::RolledBack | RevisionStep::Withdrawn) {
                return Ok(StepEffect::Repeated(*tick));
            }
        }
        if step.step == RevisionStep::Proposed {
            self.check_proposal(step, active)?;
            return Ok(StepEffect::New);
        }
        let proposal = self.proposal(&step.proposal_id.to_hex())?;
        let wrong_state = |advice| {
            let (id, state) = (proposal.id, proposal.state);
            Err(Refusal::WrongState { id, state, by: proposal.by[&state].clone(), step: step.step, advice })
        };
        match (step.step, proposal.state) {
            (RevisionStep::Approved, RevisionStep::Proposed)
            | (RevisionStep::Activated, RevisionStep::Approved)
            | (RevisionStep::RolledBack, RevisionStep::Activated)
            | (RevisionStep::Withdrawn, RevisionStep::Proposed | RevisionStep::Approved) => {}
            (RevisionStep::Activated, RevisionStep::Proposed) => {
                return wrong_state("have it approved first");
            }
            (RevisionStep::Approved, RevisionStep::Approved) => return wrong_state("it can be activated"),
            (RevisionStep::RolledBack, RevisionStep::Proposed | RevisionStep::Approved) => {
                return wrong_state("it is not in force; withdraw it instead");
            }
            (RevisionStep::Withdrawn, RevisionStep::Activated) => return wrong_state("roll it back instead"),
            (RevisionStep::Approved | RevisionStep::Activated, RevisionStep::Activated) => {
                return wrong_state(
                    "it stays in force until another revision is activated or it is rolled back",
                );
            }
            _ => return wrong_state("propose it again, with another reason"),
        }
        let rolls_back = step.step == RevisionStep::RolledBack;
        let (before, after) = match rolls_back {
            false => (proposal.before, proposal.after.clone()),
            true => (proposal.after.digest, self.before(proposal)),
        };
        if proposal.subject != *subject || step.before != before || step.after != after {
            return Err(Refusal::Foreign { id: proposal.id });
        }
        let proposer = &proposal.by[&RevisionStep::Proposed];
        if step.step == RevisionStep::Approved && self.four_eyes && *proposer == step.actor {
            return Err(Refusal::FourEyes { id: proposal.id, actor: proposer.clone() });
        }
        let in_force = !rolls_back || self.subjects[subject].active.last() == Some(&proposal.id);
        if step.step.takes_effect() && (step.before != active.digest || !in_force) {
            let (subject, active) = (subject.clone(), Box::new(active.clone()));
            return Err(Refusal::NotInForce { subject, expected: step.before, active });
        }
        Ok(StepEffect::New)
    }

    fn check_proposal(&self, step: &StepRecord, active: &Revision) -> Result<(), Refusal> {
        let StepRecord { subject, after, .. } = step;
        if let Some(existing) = self.proposals.get(&step.proposal_id) {
            let (id, state) = (existing.id, existing.state);
            let advice = "to propose it again, give another reason";
            let by = existing.by[&state].clone();
            return Err(Refusal::WrongState { id, state, by, step: RevisionStep::Proposed, advice });
        }
        let expected_id = StepRecord::proposal_id(
            subject,
            &step.scope,
            &step.before,
            &after.digest,
            &step.actor,
            &step.reason,
        );
        if step.proposal_id != expected_id || step.text.is_none() {
            return Err(Refusal::Foreign { id: step.proposal_id });
        }
        if step.before != active.digest {
            let (subject, active) = (subject.clone(), Box::new(active.clone()));
            return Err(Refusal::NotInForce { subject, expected: step.before, active });
        }
        if after.digest == active.digest {
            return Err(Refusal::Unchanged { subject: subject.clone(), revision: active.clone() });
        }
        let earlier = self.proposals.values().filter(|p| p.subject == *subject).map(|p| &p.after);
        for other in earlier.chain([&self.subjects[subject].initial]) {
            if (&other.id, &other.version) == (&after.id, &after.version) && other.digest != after.digest {
                let Revision { id, version, digest } = other.clone();
                return Err(Refusal::NameTaken { subject: subject.clone(), id, version, digest });
            }
        }
        Ok(())
    }

    /// The record by which `actor` would propose a revision in place of the effective one.
    ///
    /// # Errors
    /// When there is no such subject.
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
            step: RevisionStep::Proposed,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            before,
            after,
            text: Some(text.to_owned()),
        })
    }

    /// The record by which `actor` would take a further step on a proposal.
    ///
    /// # Panics
    /// When `step` is [`RevisionStep::Proposed`].
    pub fn follow(
        &self,
        proposal: &Proposal,
        step: RevisionStep,
        scope: &str,
        actor: &str,
        reason: &str,
    ) -> StepRecord {
        assert_ne!(step, RevisionStep::Proposed, "a proposal is the first step");
        let (before, after) = match step {
            RevisionStep::RolledBack => (proposal.after.digest, self.before(proposal)),
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

    /// The record by which `actor` would roll back the effective revision of a subject.
    ///
    /// When the last effective step is a roll-back by the same actor for the same reason, this is
    /// its record, so that a repeated request does not roll back further.
    ///
    /// # Errors
    /// When there is no such subject, or its first revision is effective.
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
            && last.step == RevisionStep::RolledBack
            && (last.actor.as_str(), last.reason.as_str()) == (actor, reason)
        {
            return Ok(last.clone());
        }
        match self.subjects[subject].active.last() {
            Some(id) => Ok(self.follow(&self.proposals[id], RevisionStep::RolledBack, scope, actor, reason)),
            None => Err(Refusal::NothingBefore { subject: subject.clone(), revision: active.clone() }),
        }
    }

    /// The effective revision of a subject.
    ///
    /// # Errors
    /// When there is no such subject.
    pub fn active(&self, subject: &Subject) -> Result<&Revision, Refusal> {
        let state = self.subjects.get(subject).ok_or_else(|| self.unknown(&subject.node))?;
        Ok(state.active.last().map_or(&state.initial, |id| &self.proposals[id].after))
    }

    /// The subject whose revisions a node applies.
    ///
    /// # Errors
    /// When the node has none.
    pub fn subject_of(&self, node: &str) -> Result<&Subject, Refusal> {
        self.subjects.keys().find(|subject| subject.node == node).ok_or_else(|| self.unknown(node))
    }

    /// All subjects, each with the topology's own revision.
    pub fn subjects(&self) -> impl Iterator<Item = (&Subject, &Revision)> {
        self.subjects.iter().map(|(subject, state)| (subject, &state.initial))
    }

    /// The tick from which each proposal was effective; `None` is the topology's own revision.
    pub fn history(&self, subject: &Subject) -> &[(Tick, Option<Digest>)] {
        self.subjects.get(subject).map_or(&[], |state| &state.history)
    }

    /// The effective revision of a subject, the tick of its activation, and its proposal; both are
    /// `None` when no step has been effective yet.
    ///
    /// # Errors
    /// When there is no such subject.
    pub fn in_force(&self, subject: &Subject) -> Result<(&Revision, Option<Tick>, Option<Digest>), Refusal> {
        let last = self.history(subject).last();
        Ok((self.active(subject)?, last.map(|(tick, _)| *tick), last.and_then(|(_, id)| *id)))
    }

    /// The status of a proposal in one or two words: from its last step, and the steps of others
    /// since.
    pub fn status_of(&self, proposal: &Proposal) -> &'static str {
        let (active, _, by) = self.in_force(&proposal.subject).expect("the proposal was checked");
        match proposal.state {
            RevisionStep::Proposed | RevisionStep::Approved if proposal.before != active.digest => "outdated",
            RevisionStep::Activated if by == Some(proposal.id) => "in force",
            RevisionStep::Activated => "replaced",
            RevisionStep::RolledBack => "rolled back",
            other => other.name(),
        }
    }

    /// The proposal whose id begins with `id`.
    ///
    /// # Errors
    /// When there is none or more than one.
    pub fn proposal(&self, id: &str) -> Result<&Proposal, Refusal> {
        let mut found = self.proposals.values().filter(|p| p.id.to_hex().starts_with(id) && !id.is_empty());
        match (found.next(), found.count()) {
            (Some(proposal), 0) => Ok(proposal),
            (Some(_), more) => Err(Refusal::Ambiguous { id: id.to_owned(), count: more + 1 }),
            (None, _) => {
                let existing = self.in_order().into_iter().map(|p| p.id.short_hex()).collect();
                Err(Refusal::UnknownProposal { id: id.to_owned(), existing })
            }
        }
    }

    /// All proposals of revisions, in the order in which they were made.
    pub fn in_order(&self) -> Vec<&Proposal> {
        let made = self.steps.iter().filter(|(_, step)| step.step == RevisionStep::Proposed);
        made.map(|(_, step)| &self.proposals[&step.proposal_id]).collect()
    }

    /// All steps of the life cycle, in the order of their ticks.
    pub fn steps(&self) -> &[(Tick, StepRecord)] {
        &self.steps
    }

    /// The revision that was effective when a proposal was made.
    fn before(&self, proposal: &Proposal) -> Revision {
        let state = &self.subjects[&proposal.subject];
        let mut revisions = self.proposals.values().map(|p| &p.after).chain([&state.initial]);
        revisions.find(|revision| revision.digest == proposal.before).expect("it was effective").clone()
    }

    fn unknown(&self, node: &str) -> Refusal {
        let existing = self.subjects.keys().map(|subject| match subject.kind {
            RevisionKind::Bundle => format!("`{}`", subject.node),
            RevisionKind::GatePolicy => format!("`{}` (the gate)", subject.node),
        });
        Refusal::UnknownSubject { node: node.to_owned(), existing: existing.collect() }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn subject(node: &str) -> Subject {
        let kind = if node == "gate" { RevisionKind::GatePolicy } else { RevisionKind::Bundle };
        Subject { kind, node: node.to_owned() }
    }

    fn revision(name: &str) -> Revision {
        Revision { id: "rules".to_owned(), version: name.to_owned(), digest: Digest::of(name.as_bytes()) }
    }

    fn beginning(four_eyes: bool) -> Lifecycle {
        Lifecycle::new(four_eyes, ["decide", "gate"].map(|node| (subject(node), revision("A"))))
    }

    /// Applies steps such as `ann proposes B`, and checks the result of each.
    fn check(four_eyes: bool, script: &str, expected: &Expect) {
        let mut lifecycle = beginning(four_eyes);
        let mut lines = String::new();
        for (index, line) in script.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
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
                "approves" => Ok(follow(RevisionStep::Approved)),
                "activates" => Ok(follow(RevisionStep::Activated)),
                "withdraws" => Ok(follow(RevisionStep::Withdrawn)),
                _ => lifecycle.roll_back(&subject("decide"), "test", actor, reason),
            };
            let tick = Tick(index as i64 + 1);
            let result = match record.and_then(|record| lifecycle.apply(tick, &record)) {
                Ok(StepEffect::New) => "yes".to_owned(),
                Ok(StepEffect::Repeated(tick)) => format!("as at {}", tick.0),
                Err(refusal) => format!("no: {refusal}"),
            };
            let active = &lifecycle.active(&subject("decide")).unwrap().version;
            lines += &format!("{line}: {result} [{active}]\n");
        }
        expected.assert_eq(&lines);
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
                ann approves B: no: ann proposed cab7acac9e14, so someone else must approve it; ask a colleague, or set `four_eyes = false` in [governance] of a new topology [A]
                bob approves B: yes [A]
                bob approves B: as at 4 [A]
                cyd approves B: no: proposal cab7acac9e14 was approved by bob, so it cannot be approved; it can be activated [A]
                ann activates B: yes [B]
                ann activates B: as at 7 [B]
                bob activates B: no: proposal cab7acac9e14 was activated by ann, so it cannot be activated; it stays in force until another revision is activated or it is rolled back [B]
            "#]],
        );
    }

    #[test]
    fn one_person_is_enough_without_four_eyes() {
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
    fn a_roll_back_goes_one_step_and_repeated_no_further() {
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
                bob rolls back hopeless: no: rules A (32684bfa28c0) has been in force for the bundle of `decide` since the beginning; there is nothing to roll back to [A]
                ann activates B: no: proposal cab7acac9e14 was rolled back by bob, so it cannot be activated; propose it again, with another reason [A]
                ann proposes B: no: proposal cab7acac9e14 was rolled back by bob, so it cannot be proposed; to propose it again, give another reason [A]
                ann proposes B again: yes [A]
            "#]],
        );
    }

    #[test]
    fn a_proposal_on_another_revision_cannot_be_activated() {
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
                bob activates C: no: the step was made for the bundle of `decide` when 32684bfa28c0 was in force, but now rules B (9f9524ca18c0) is; review the changes, then propose it again [B]
                ann proposes B: no: rules B (9f9524ca18c0) is already in force for the bundle of `decide`; there is nothing to change [B]
                ann withdraws B: no: proposal cab7acac9e14 was activated by ann, so it cannot be withdrawn; roll it back instead [B]
                bob withdraws C: yes [B]
                bob withdraws C: as at 9 [B]
                bob approves C: no: proposal dab4cebd465b was withdrawn by bob, so it cannot be approved; propose it again, with another reason [B]
            "#]],
        );
    }

    #[test]
    fn steps_without_actor_reason_or_change_are_refused() {
        let lifecycle = beginning(true);
        let decide = subject("decide");
        let refusal = |step: Result<StepRecord, Refusal>| {
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
            refusal(proposed(revision("A"), "ann", "why")),
            refusal(proposed(other_a, "ann", "why")),
            refusal(proposed(revision("B"), " ", "why")),
            refusal(proposed(revision("B"), "ann", "")),
            refusal(Ok(stale)),
            refusal(Ok(forged)),
            refusal(lifecycle.propose(&subject("features"), "test", revision("B"), "text", "ann", "why")),
            lifecycle.proposal("3f").unwrap_err().to_string() + "\n",
        ];
        expect![[r#"
            rules A (32684bfa28c0) is already in force for the bundle of `decide`; there is nothing to change
            the bundle of `decide` already has another revision rules A (32684bfa28c0); give the new one its own version
            the step has no actor; give the actor with --actor
            the step has no reason; give the reason with --reason
            the step was made for the bundle of `decide` when fc42a5a555aa was in force, but now rules A (32684bfa28c0) is; review the changes, then propose it again
            the step on proposal 79a20a5dccf3 names other revisions than the proposal; Tidegate did not write it
            node `features` has no bundle and no policy to revise; name one of `decide`, `gate` (the gate)
            there is no proposal 3f; nothing was proposed yet: begin with `tidegate policy propose`
        "#]].assert_eq(&refusals.concat());
    }

    #[test]
    fn the_policy_of_control_facts_has_the_digest_of_its_content() {
        use tidegate_facts::control_fact::{policy, policy_rev};
        assert_eq!(crate::gate::GatePolicy::parse(&policy()).unwrap().rev(), policy_rev());
    }

    /// The oracle: searches the list of applied steps for every answer.
    struct Oracle {
        four_eyes: bool,
        taken: Vec<StepRecord>,
    }

    impl Oracle {
        fn of(&self, id: Digest) -> Vec<&StepRecord> {
            self.taken.iter().filter(|step| step.proposal_id == id).collect()
        }

        fn took(&self, id: Digest, step: RevisionStep) -> bool {
            self.of(id).iter().any(|taken| taken.step == step)
        }

        /// The effective revision: the last activation that was not rolled back.
        fn active(&self, subject: &Subject) -> Digest {
            let activated =
                self.taken.iter().filter(|s| s.subject == *subject && s.step == RevisionStep::Activated);
            let mut effective = activated.filter(|s| !self.took(s.proposal_id, RevisionStep::RolledBack));
            effective.next_back().map_or(revision("A").digest, |s| s.after.digest)
        }

        fn is_allowed(&self, step: &StepRecord) -> bool {
            let id = step.proposal_id;
            let open = self.took(id, RevisionStep::Proposed) && !self.took(id, RevisionStep::Withdrawn);
            let active = self.active(&step.subject);
            match step.step {
                RevisionStep::Proposed => {
                    self.of(id).is_empty() && step.before == active && step.after.digest != active
                }
                RevisionStep::Approved => {
                    let by_proposer = self.of(id).iter().any(|s| s.actor == step.actor);
                    open && !self.took(id, RevisionStep::Approved) && !(self.four_eyes && by_proposer)
                }
                RevisionStep::Activated => {
                    open && self.took(id, RevisionStep::Approved)
                        && !self.took(id, RevisionStep::Activated)
                        && step.before == active
                }
                RevisionStep::RolledBack => {
                    let last = self.taken.iter().rfind(|s| {
                        s.subject == step.subject
                            && s.step == RevisionStep::Activated
                            && !self.took(s.proposal_id, RevisionStep::RolledBack)
                    });
                    last.is_some_and(|last| last.proposal_id == id)
                }
                RevisionStep::Withdrawn => open && !self.took(id, RevisionStep::Activated),
            }
        }
    }

    #[test]
    fn random_steps_are_allowed_exactly_when_the_oracle_allows_them() {
        for seed in 0..300u64 {
            let mut state = seed;
            let mut draw = |below: usize| {
                // SplitMix64: short, and the same on every machine.
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) % below as u64) as usize
            };
            let mut lifecycle = beginning(seed % 2 == 0);
            let mut oracle = Oracle { four_eyes: seed % 2 == 0, taken: Vec::new() };
            for index in 0..120 {
                let actor = ["ann", "bob", "cyd"][draw(3)];
                let reason = ["because", "so"][draw(2)];
                let proposals: Vec<Proposal> = lifecycle.in_order().into_iter().cloned().collect();
                let step = RevisionStep::ALL[draw(5)];
                let record = if step == RevisionStep::Proposed || proposals.is_empty() {
                    let of = subject(["decide", "gate"][draw(2)]);
                    let after = revision(["A", "B", "C", "D"][draw(4)]);
                    lifecycle.propose(&of, "test", after, "text", actor, reason).unwrap()
                } else {
                    lifecycle.follow(&proposals[draw(proposals.len())], step, "test", actor, reason)
                };
                let last = oracle.of(record.proposal_id).last().map(|last| last.step);
                let closed = matches!(last, Some(RevisionStep::RolledBack | RevisionStep::Withdrawn));
                let repeated = oracle.taken.contains(&record) && (!closed || last == Some(record.step));
                let allowed = oracle.is_allowed(&record);
                let result = lifecycle.apply(Tick(index + 1), &record);
                match &result {
                    Ok(StepEffect::New) => {
                        assert!(allowed && !repeated, "seed {seed}, step {index}: {record:?}")
                    }
                    Ok(StepEffect::Repeated(_)) => assert!(repeated, "seed {seed}, step {index}: {record:?}"),
                    Err(refusal) => assert!(!allowed && !repeated, "seed {seed}, step {index}: {refusal}"),
                }
                if result == Ok(StepEffect::New) {
                    oracle.taken.push(record);
                }
                for node in ["decide", "gate"] {
                    let of = subject(node);
                    assert_eq!(
                        lifecycle.active(&of).unwrap().digest,
                        oracle.active(&of),
                        "seed {seed}, step {index}"
                    );
                    let in_history = lifecycle.history(&of).last().and_then(|(_, id)| *id);
                    let now = in_history
                        .map_or(revision("A"), |id| lifecycle.proposal(&id.to_hex()).unwrap().after.clone());
                    assert_eq!(now.digest, oracle.active(&of), "seed {seed}, step {index}");
                }
            }
        }
    }
}
