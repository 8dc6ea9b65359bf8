//! Quorum over claims: whether enough independent streams agree on one value of a claim.
//!
//! A stream votes with its newest valid evidence, by event time, then by tick. Evidence with an
//! event time after its tick counts as of its tick: otherwise one report of a clock that runs ahead
//! would speak for its stream until that time. Streams of one copy family vote once, and not at all
//! if the family is divided. The value with most votes leads; if two values have equally many, none
//! is agreed on. A claim requires `n`, `k`, `groups` and `out_of_band`; none of these may be
//! missing, and each number is at least 1.
//!
//! * The quorum holds if the leading value has at least `k` votes, from at least `groups`
//!   correlation groups, and one of them is out of band if `out_of_band` is set. A stream without a
//!   declared group is a group of its own. Streams that may have copied from each other are in one
//!   group.
//! * A claim is UNKNOWN if its quorum does not hold.
//! * It is VERIFIED if its quorum holds and at least `n` streams vote, and DEGRADED if fewer vote:
//!   "k of n" was then reached with a part of the n. With copy detection a claim is also DEGRADED
//!   as long as all agreeing streams may have copied: that is, unless its quorum would also hold
//!   among the streams that copy detection has examined, with each suspected group counted once.
//! * The margin is how many of the agreeing votes must go before the quorum is broken: 0 is broken,
//!   1 fragile, 2 acceptable, 3 and more healthy. The reference defines the margin as "N - K", a
//!   quorum as "at least K of N", and a margin of 0 as broken, which contradict each other; here a
//!   claim with exactly `k` agreeing votes holds, with a margin of 1. Opposition, groups and the
//!   out-of-band vote count too: three votes against two are a tie once one goes, and a claim that
//!   depends on its only out-of-band stream has a margin of 1, however many others agree.
//!
//! The port `votes` gives each stream's vote and, if it does not count for the leading value, the
//! reason: DISAGREES, FAMILY, DIVIDED, STATUS, NO_VALUE, EXPIRED or WITHDRAWN.
//!
//! * Input: evidence, as facts or as a changelog; declarations of claims, by claim; and the
//!   findings of copy detection about streams, which every worker receives.
//! * Output: the claims, a changelog with one row per claim; `flips`; and `votes`, a changelog with
//!   one row per claim and stream.
//! * Time: each claim that changed is evaluated once per tick, after all rows of the tick.
//! * State: per claim its valid evidence, and the streams whose evidence ended. Values and names
//!   are interned.
//!
//! Invariant: at every tick the row of a claim is a function of its valid evidence, its declaration
//! and the copy families of that tick, except for the two columns that the last evidence set.

use std::collections::BTreeMap;

use tidegate_facts::KeyHash;

use crate::core::interner::Interner;
use crate::core::row_encoding::EncodedRow;
use crate::credibility::tally::{Ballot, FamilyTable, Leader, Membership, Spokesperson, VoteTally};

mod operator;
mod snapshot;

pub use operator::{DeclarationColumns, EvidenceColumns, FamilyColumns, Quorum, QuorumConfig};

/// One piece of evidence of a quorum: the value that a stream reports for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The event time in microseconds, at most that of the tick at which the evidence arrived.
    pub time: i64,
    /// The event time in microseconds, as reported.
    pub reported_time: i64,
    /// The stream's number in the interner of streams.
    pub stream: u32,
    /// The value's number in the interner of values; [`Interner::NULL`] for evidence without a
    /// value.
    pub value: u32,
    /// The stream's declared correlation group; [`Interner::NULL`] if the stream is its own group.
    pub group: u32,
    /// Whether the stream is out of band.
    pub out_of_band: bool,
    /// Whether the status of the evidence lets it vote.
    pub is_eligible: bool,
}

/// The quorum requirement of a claim: how many streams should vote, and how many must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// How many streams should vote.
    pub n: u32,
    /// How many votes must agree.
    pub k: u32,
    /// From how many correlation groups the agreeing votes must come.
    pub groups: u32,
    /// Whether one of the agreeing votes must be out of band.
    pub out_of_band: bool,
}

impl Requirement {
    /// The requirement of a claim whose declaration lacks a setting, or has a number below 1. No
    /// evidence meets it.
    pub const INCOMPLETE: Requirement = Requirement { n: 0, k: 0, groups: 0, out_of_band: false };
}

/// The status of a claim by its quorum, that is, how far it can be relied on: VERIFIED, DEGRADED or
/// UNKNOWN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimStatus {
    /// The quorum holds, and as many streams vote as should.
    Verified,
    /// The quorum holds, with fewer streams than should vote, or with streams that may be copies.
    Degraded,
    /// The quorum does not hold.
    Unknown,
}

/// Why a claim is not verified by its quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusReason {
    /// The claim has no requirement, or an incomplete one.
    Undeclared,
    /// No stream votes.
    NoEvidence,
    /// Two values have equally many votes.
    Tied,
    /// Too few votes agree.
    Votes,
    /// The agreeing votes come from too few correlation groups.
    Groups,
    /// None of the agreeing votes is out of band.
    OutOfBand,
    /// Fewer streams vote than should.
    Streams,
    /// The agreeing streams may have copied: copy detection has cleared too few of them.
    FamiliesUnknown,
}

/// Why a quorum does not count a stream's vote for the leading value of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExclusionReason {
    /// The vote is for another value.
    Disagrees,
    /// Another stream votes for the copy family.
    Family,
    /// The copy family is divided and abstains.
    Divided,
    /// The status of the evidence does not let it vote.
    Status,
    /// The evidence has no value.
    NoValue,
    /// The evidence expired.
    Expired,
    /// The evidence was retracted before it expired.
    Withdrawn,
}

/// What caused the quorum of a claim to be evaluated. Of several causes in one tick, the first of
/// these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeCause {
    /// New evidence arrived.
    Evidence,
    /// Evidence expired or was retracted.
    Expiry,
    /// The claim was declared, or its declaration was retracted.
    Declaration,
    /// Copy detection changed the family or suspected group of a stream.
    Families,
}

/// The evaluated quorum of a claim: its status, its leading value and its vote counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimState {
    /// The claim's passthrough row; see [`ClaimTable::row`].
    pub row: u32,
    /// How far the claim can be relied on.
    pub status: ClaimStatus,
    /// Why the status is not VERIFIED.
    pub reason: Option<StatusReason>,
    /// The leading value; the least of several with most votes.
    pub value: u32,
    /// How many of the agreeing votes must go before the quorum is broken.
    pub margin: u32,
    /// How many streams have valid evidence.
    pub streams: u32,
    /// How many votes count.
    pub votes: u32,
    /// How many votes are for the leading value.
    pub agreeing: u32,
    /// From how many correlation groups the agreeing votes come.
    pub groups: u32,
    /// How many of the agreeing votes are those of copy families.
    pub families: u32,
    /// Value and status when the evidence or the declaration last changed, under the families of
    /// that tick.
    pub at_last_evidence: (u32, ClaimStatus),
}

/// A change of a claim's evaluated quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimChange {
    /// The claim's number.
    pub claim: u32,
    /// The state before; `None` for a new claim.
    pub before: Option<ClaimState>,
    /// The state now.
    pub after: ClaimState,
    /// What caused the evaluation.
    pub cause: ChangeCause,
}

/// The vote of one stream in the quorum of a claim, and why it does not count for the leading
/// value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamVote {
    /// The claim's passthrough row; see [`ClaimTable::row`].
    pub row: u32,
    /// The stream.
    pub stream: u32,
    /// The value of the stream's newest valid evidence; [`Interner::NULL`] if it has none.
    pub value: u32,
    /// The stream's declared correlation group.
    pub group: u32,
    /// The stream's copy family.
    pub family: Option<u32>,
    /// The stream's suspected group.
    pub suspected_group: Option<u32>,
    /// Why the vote does not count for the leading value; `None` if it does.
    pub exclusion: Option<ExclusionReason>,
}

/// A row of the quorum's votes changelog: a vote is added or retracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteChange {
    /// The claim's number.
    pub claim: u32,
    /// The vote.
    pub vote: StreamVote,
    /// Whether the vote is added; else it is retracted.
    pub is_added: bool,
}

impl ClaimChange {
    /// Whether the change is a flip: another status, or another value of a claim that is not
    /// UNKNOWN.
    pub fn is_flip(&self) -> bool {
        let (status, value) =
            self.before.map_or((ClaimStatus::Unknown, Interner::NULL), |b| (b.status, b.value));
        status != self.after.status || (status != ClaimStatus::Unknown && value != self.after.value)
    }
}

struct Claim {
    /// The claim's passthrough row.
    row: u32,
    declaration: Option<Requirement>,
    /// The valid evidence: by stream, then from the oldest to the newest.
    evidence: Vec<Evidence>,
    /// The streams that had evidence and have none, and why.
    ended: Vec<(u32, ExclusionReason)>,
    /// Why the claim must be evaluated, as bits of [`ChangeCause`]; 0 if it need not be.
    causes: u8,
    /// The state of the last evaluation.
    state: Option<ClaimState>,
    votes: Vec<StreamVote>,
}

/// The state of a quorum: the evidence, the declaration and the evaluated state of every claim.
pub struct ClaimTable {
    numbers: BTreeMap<KeyHash, u32>,
    claims: Vec<Claim>,
    /// Passthrough rows of claims, the earlier ones too: a retraction repeats the row that was
    /// emitted.
    rows: Vec<EncodedRow>,
    /// The claims to be evaluated.
    changed: Vec<u32>,
    /// The requirement of claims without a declaration.
    default_requirement: Option<Requirement>,
    /// Whether evidence is never retracted, so that only the newest of a stream can ever vote.
    is_append_only: bool,
    /// Whether changes of votes are emitted.
    emits_votes: bool,
    /// Whether copies are detected, so that a stream may be a copy until it is examined.
    detects_copies: bool,
    families: FamilyTable,
    /// By stream, the claims in which the stream has, or had, a vote.
    claims_of: Vec<Vec<u32>>,
    tally: VoteTally,
    groups: GroupCounter,
}

impl ClaimTable {
    /// Returns a quorum's table without claims.
    ///
    /// * `default_requirement`: the requirement of claims without a declaration.
    /// * `is_append_only`: evidence is never retracted.
    /// * `emits_votes`: changes of votes are requested.
    /// * `detects_copies`: the quorum reads the findings of copy detection.
    pub fn new(
        default_requirement: Option<Requirement>,
        is_append_only: bool,
        emits_votes: bool,
        detects_copies: bool,
    ) -> ClaimTable {
        ClaimTable {
            numbers: BTreeMap::new(),
            claims: Vec::new(),
            rows: Vec::new(),
            changed: Vec::new(),
            default_requirement,
            is_append_only,
            emits_votes,
            detects_copies,
            families: FamilyTable::default(),
            claims_of: Vec::new(),
            tally: VoteTally::default(),
            groups: GroupCounter::default(),
        }
    }

    /// Returns the number of a claim, a new one if there is none; `row` makes a new claim's
    /// passthrough row.
    pub fn number_of(&mut self, key: KeyHash, row: impl FnOnce() -> EncodedRow) -> u32 {
        let next = u32::try_from(self.claims.len()).expect("claims fit in memory, and so in 32 bits");
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.rows.push(row());
            self.claims.push(Claim {
                row: self.rows.len() as u32 - 1,
                declaration: None,
                evidence: Vec::new(),
                ended: Vec::new(),
                causes: 0,
                state: None,
                votes: Vec::new(),
            });
        }
        number
    }

    /// A passthrough row, encoded: the claim's own columns, as a claim has them or had them before.
    pub fn row(&self, row: u32) -> &[u8] {
        &self.rows[row as usize]
    }

    /// Marks a claim for evaluation.
    fn mark(&mut self, claim: u32, cause: ChangeCause) -> &mut Claim {
        let number = claim;
        let claim = &mut self.claims[number as usize];
        if claim.causes == 0 {
            self.changed.push(number);
        }
        claim.causes |= 1 << cause as u8;
        claim
    }

    /// Adds a piece of evidence to a claim.
    pub fn add_evidence(&mut self, claim: u32, evidence: Evidence) {
        let number = claim;
        let is_append_only = self.is_append_only;
        let claim = self.mark(number, ChangeCause::Evidence);
        let stream = evidence.stream;
        let index =
            claim.evidence.partition_point(|other| (other.stream, other.time) <= (stream, evidence.time));
        let has_older = claim.evidence[..index].last().is_some_and(|other| other.stream == stream);
        let has_newer = claim.evidence.get(index).is_some_and(|other| other.stream == stream);
        match (is_append_only, has_older, has_newer) {
            (true, _, true) => {}
            (true, true, false) => claim.evidence[index - 1] = evidence,
            _ => claim.evidence.insert(index, evidence),
        }
        if has_older || has_newer {
            return;
        }
        // The first valid evidence of the stream. If the stream had some before, it is registered.
        let ended = claim.ended.iter().position(|(other, _)| *other == stream);
        match ended {
            Some(index) => {
                claim.ended.remove(index);
            }
            None => self.register_stream(stream, number),
        }
    }

    /// Records that a stream has, or had, evidence for a claim.
    fn register_stream(&mut self, stream: u32, claim: u32) {
        let index = stream as usize;
        if self.claims_of.len() <= index {
            self.claims_of.resize(index + 1, Vec::new());
        }
        self.claims_of[index].push(claim);
    }

    /// Removes a piece of evidence from a claim; `reason` is why it no longer votes.
    ///
    /// # Panics
    /// If the claim does not have the evidence: a changelog retracts only rows that it added.
    pub fn remove_evidence(&mut self, claim: u32, evidence: Evidence, reason: ExclusionReason) {
        assert!(!self.is_append_only, "evidence that is never retracted was retracted");
        let claim = self.mark(claim, ChangeCause::Expiry);
        let index = claim.evidence.iter().position(|other| other.is_same_report(&evidence));
        claim.evidence.remove(index.expect("a changelog retracts only rows that it added"));
        if claim.evidence.iter().all(|other| other.stream != evidence.stream) {
            claim.ended.push((evidence.stream, reason));
        }
    }

    /// Sets a claim's own requirement and its passthrough row.
    pub fn declare(&mut self, claim: u32, requirement: Requirement, row: &[u8]) {
        if self.rows[self.claims[claim as usize].row as usize][..] != *row {
            self.rows.push(row.into());
            self.mark(claim, ChangeCause::Declaration).row = self.rows.len() as u32 - 1;
        }
        if self.declaration(claim) != Some(requirement) {
            self.mark(claim, ChangeCause::Declaration).declaration = Some(requirement);
        }
    }

    /// Removes a claim's own requirement: the default applies.
    pub fn undeclare(&mut self, claim: u32) {
        self.mark(claim, ChangeCause::Declaration).declaration = None;
    }

    /// A claim's own requirement.
    pub fn declaration(&self, claim: u32) -> Option<Requirement> {
        self.claims[claim as usize].declaration
    }

    /// Sets a stream's copy family and suspected group, and marks the claims in which it votes.
    pub fn set_membership(&mut self, stream: u32, membership: Membership) {
        if self.families.set(stream, membership) == membership {
            return;
        }
        let claims = self.claims_of.get_mut(stream as usize).map(std::mem::take).unwrap_or_default();
        for claim in &claims {
            self.mark(*claim, ChangeCause::Families);
        }
        if let Some(slot) = self.claims_of.get_mut(stream as usize) {
            *slot = claims;
        }
    }

    /// Evaluates every marked claim, and passes each change of a claim and of a vote to the
    /// callbacks.
    pub fn evaluate_changed(
        &mut self,
        streams: &Interner,
        values: &Interner,
        mut emit: impl FnMut(ClaimChange),
        mut emit_vote: impl FnMut(VoteChange),
    ) {
        for number in std::mem::take(&mut self.changed) {
            let claim = &mut self.claims[number as usize];
            let cause = ChangeCause::ALL[claim.causes.trailing_zeros() as usize];
            let is_families_only = claim.causes == 1 << ChangeCause::Families as u8;
            claim.causes = 0;
            let newest = claim
                .evidence
                .chunk_by(|a, b| a.stream == b.stream)
                .map(|of_stream| of_stream.last().expect("chunks are not empty"));
            let ballots = newest.clone().filter(|newest| newest.votes()).map(Evidence::ballot);
            let leader = self.tally.count(ballots, &self.families, streams, values);
            let present = newest.count() as u32;
            let requirement =
                claim.declaration.or(self.default_requirement).filter(|of| *of != Requirement::INCOMPLETE);
            let mut state = evaluate(&self.tally, leader, requirement, present, &mut self.groups);
            if self.detects_copies && state.status == ClaimStatus::Verified {
                let holds_without_copies = requirement
                    .is_some_and(|of| self.groups.holds_without_copies(&self.tally, state.value, of));
                if !holds_without_copies {
                    (state.status, state.reason) =
                        (ClaimStatus::Degraded, Some(StatusReason::FamiliesUnknown));
                    state.at_last_evidence.1 = ClaimStatus::Degraded;
                }
            }
            state.row = claim.row;
            if let (true, Some(before)) = (is_families_only, claim.state) {
                state.at_last_evidence = before.at_last_evidence;
            }
            if claim.state != Some(state) {
                emit(ClaimChange { claim: number, before: claim.state, after: state, cause });
                claim.state = Some(state);
            }
            if self.emits_votes {
                let votes = votes_of(claim, &self.tally, leader, &self.families);
                for_each_difference(&claim.votes, &votes, |vote, is_added| {
                    emit_vote(VoteChange { claim: number, vote, is_added });
                });
                claim.votes = votes;
            }
        }
    }

    /// The number of claims of the quorum.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether the quorum has no claims.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }
}

impl Evidence {
    fn votes(&self) -> bool {
        self.is_eligible && self.value != Interner::NULL
    }

    /// Whether both are one report, whenever each arrived.
    fn is_same_report(&self, other: &Evidence) -> bool {
        Evidence { time: other.time, ..*self } == *other
    }

    fn ballot(&self) -> Ballot {
        let Evidence { stream, value, group, out_of_band, .. } = *self;
        Ballot { stream, value, group, out_of_band }
    }
}

/// Counts the correlation groups of agreeing votes. Reused, so that counting does not allocate.
#[derive(Default)]
struct GroupCounter {
    /// Of each vote its declared group and its suspected group.
    votes: Vec<(u64, Option<u32>)>,
    labels: Vec<usize>,
    /// The number of votes in each group, ascending.
    sizes: Vec<u32>,
}

impl GroupCounter {
    /// Counts the votes of each group.
    ///
    /// Votes are in one group if they share a declared group or a suspected group, directly or
    /// through other votes.
    fn count(&mut self) {
        let GroupCounter { votes, labels, sizes } = self;
        votes.sort_unstable();
        labels.clear();
        for (index, (group, suspected)) in votes.iter().enumerate() {
            let before = votes[..index].last().filter(|(other, _)| other == group);
            labels.push(before.map_or(index, |_| labels[index - 1]));
            let related =
                suspected.and_then(|_| votes[..index].iter().position(|(_, other)| other == suspected));
            if let Some(related) = related {
                let (from, to) = (labels[index], labels[related]);
                labels.iter_mut().filter(|label| **label == from).for_each(|label| *label = to);
            }
        }
        labels.sort_unstable();
        sizes.clear();
        sizes.extend(labels.chunk_by(|a, b| a == b).map(|group| group.len() as u32));
        sizes.sort_unstable();
    }

    /// Whether the quorum for `value` holds among the streams that copy detection has examined,
    /// with each suspected group counted once.
    fn holds_without_copies(&mut self, tally: &VoteTally, value: u32, requirement: Requirement) -> bool {
        let examined = || tally.votes().filter(|vote| vote.ballot.value == value && vote.is_examined);
        self.votes.clear();
        self.votes.extend(examined().map(|vote| (group_of(&vote.ballot), vote.suspected_group)));
        self.count();
        let has_groups = self.sizes.len() >= requirement.groups as usize;
        let mut suspected: Vec<u32> = self.votes.iter().filter_map(|(_, suspected)| *suspected).collect();
        suspected.sort_unstable();
        suspected.dedup();
        let voices = self.votes.iter().filter(|(_, suspected)| suspected.is_none()).count() + suspected.len();
        let has_band = !requirement.out_of_band || examined().any(|vote| vote.ballot.out_of_band);
        has_groups && voices >= requirement.k as usize && has_band
    }
}

/// The correlation group of a ballot. A stream without a declared group has one of its own.
fn group_of(ballot: &Ballot) -> u64 {
    match ballot.group {
        Interner::NULL => 1 << 32 | u64::from(ballot.stream),
        group => u64::from(group),
    }
}

/// Evaluates a claim from its counted ballots.
fn evaluate(
    tally: &VoteTally,
    leader: Option<Leader>,
    requirement: Option<Requirement>,
    streams: u32,
    groups: &mut GroupCounter,
) -> ClaimState {
    let value = leader.map_or(Interner::NULL, |leader| leader.value);
    groups.votes.clear();
    let (mut votes, mut families, mut out_of_band) = (0, 0, 0);
    for counted in tally.votes() {
        votes += 1;
        if counted.ballot.value == value {
            families += u32::from(counted.family.is_some());
            out_of_band += u32::from(counted.ballot.out_of_band);
            groups.votes.push((group_of(&counted.ballot), counted.suspected_group));
        }
    }
    groups.count();
    let sizes = &groups.sizes;
    let (agreeing, spanned) = (groups.votes.len() as u32, sizes.len() as u32);
    let unknown = |reason| (ClaimStatus::Unknown, Some(reason), 0);
    let (status, reason, margin) = match (requirement, leader) {
        (None, _) => unknown(StatusReason::Undeclared),
        (_, None) => unknown(StatusReason::NoEvidence),
        (_, Some(leader)) if leader.is_tied() => unknown(StatusReason::Tied),
        (Some(of), _) if agreeing < of.k => unknown(StatusReason::Votes),
        (Some(of), _) if spanned < of.groups => unknown(StatusReason::Groups),
        (Some(of), _) if of.out_of_band && out_of_band == 0 => unknown(StatusReason::OutOfBand),
        (Some(of), Some(leader)) => {
            // The fewest votes whose loss breaks the quorum: of any streams, until too few are left
            // or another value ties; of the smallest groups; or of all out-of-band streams.
            let by_votes = (agreeing - of.k + 1).min(votes_until_tied(tally, leader));
            let surplus = spanned - of.groups + 1;
            let by_groups: u32 = sizes[..surplus as usize].iter().sum();
            let by_band = if of.out_of_band { out_of_band } else { u32::MAX };
            let margin = by_votes.min(by_groups).min(by_band);
            if votes < of.n {
                (ClaimStatus::Degraded, Some(StatusReason::Streams), margin)
            } else {
                (ClaimStatus::Verified, None, margin)
            }
        }
    };
    ClaimState {
        row: 0, // The caller sets it.
        status,
        reason,
        value,
        margin,
        streams,
        votes,
        agreeing,
        groups: spanned,
        families,
        at_last_evidence: (value, status),
    }
}

/// How many votes for the leading value must go, the heaviest first, before another value ties.
fn votes_until_tied(tally: &VoteTally, leader: Leader) -> u32 {
    let mut weights: Vec<u32> =
        tally.votes().filter(|vote| vote.ballot.value == leader.value).map(|vote| vote.weight).collect();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    let mut ahead = leader.ahead;
    let last = weights.iter().position(|weight| {
        ahead = ahead.saturating_sub(u64::from(*weight));
        ahead == 0
    });
    last.map_or(u32::MAX, |index| index as u32 + 1)
}

/// The vote of every stream on a claim, in the order of stream numbers.
fn votes_of(
    claim: &Claim,
    tally: &VoteTally,
    leader: Option<Leader>,
    families: &FamilyTable,
) -> Vec<StreamVote> {
    let newest =
        claim.evidence.chunk_by(|a, b| a.stream == b.stream).filter_map(|of_stream| of_stream.last());
    let valid = newest.map(|newest| {
        let spokesperson = || {
            let counted = tally.ballots.iter().find(|counted| counted.ballot.stream == newest.stream);
            counted.map(|counted| counted.spokesperson)
        };
        let exclusion = match newest {
            _ if !newest.is_eligible => Some(ExclusionReason::Status),
            _ if newest.value == Interner::NULL => Some(ExclusionReason::NoValue),
            _ if spokesperson() == Some(Spokesperson::Another) => Some(ExclusionReason::Family),
            _ if spokesperson() == Some(Spokesperson::Nobody) => Some(ExclusionReason::Divided),
            _ if leader.is_some_and(|leader| leader.value == newest.value) => None,
            _ => Some(ExclusionReason::Disagrees),
        };
        let Evidence { stream, value, group, .. } = *newest;
        let Membership { family, suspected_group, .. } = families.of(stream);
        StreamVote { row: claim.row, stream, value, group, family, suspected_group, exclusion }
    });
    let ended = claim.ended.iter().map(|(stream, reason)| StreamVote {
        row: claim.row,
        stream: *stream,
        value: Interner::NULL,
        group: Interner::NULL,
        family: families.of(*stream).family,
        suspected_group: families.of(*stream).suspected_group,
        exclusion: Some(*reason),
    });
    let mut votes: Vec<StreamVote> = valid.chain(ended).collect();
    votes.sort_unstable_by_key(|vote| vote.stream);
    votes
}

/// Emits each vote that differs between two lists, both in the order of stream numbers: the old one
/// with `false`, then the new one with `true`.
fn for_each_difference(before: &[StreamVote], after: &[StreamVote], mut emit: impl FnMut(StreamVote, bool)) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => old.stream.cmp(&new.stream),
        };
        let old = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { after.next() } else { None };
        if old != new {
            old.iter().for_each(|vote| emit(**vote, false));
            new.iter().for_each(|vote| emit(**vote, true));
        }
    }
}

named_column!(ClaimStatus);

impl ClaimStatus {
    const ALL: [ClaimStatus; 3] = [ClaimStatus::Verified, ClaimStatus::Degraded, ClaimStatus::Unknown];

    /// The status as rows spell it, such as `VERIFIED`.
    pub fn name(self) -> &'static str {
        match self {
            ClaimStatus::Verified => "VERIFIED",
            ClaimStatus::Degraded => "DEGRADED",
            ClaimStatus::Unknown => "UNKNOWN",
        }
    }

    fn of_name(name: &str) -> Option<ClaimStatus> {
        ClaimStatus::ALL.into_iter().find(|value| value.name() == name)
    }
}

named_column!(StatusReason);

impl StatusReason {
    const ALL: [StatusReason; 8] = [
        StatusReason::Undeclared,
        StatusReason::NoEvidence,
        StatusReason::Tied,
        StatusReason::Votes,
        StatusReason::Groups,
        StatusReason::OutOfBand,
        StatusReason::Streams,
        StatusReason::FamiliesUnknown,
    ];

    /// The reason as rows spell it, such as `NO_EVIDENCE`.
    pub fn name(self) -> &'static str {
        match self {
            StatusReason::Undeclared => "UNDECLARED",
            StatusReason::NoEvidence => "NO_EVIDENCE",
            StatusReason::Tied => "TIED",
            StatusReason::Votes => "VOTES",
            StatusReason::Groups => "GROUPS",
            StatusReason::OutOfBand => "OUT_OF_BAND",
            StatusReason::Streams => "STREAMS",
            StatusReason::FamiliesUnknown => "FAMILIES_UNKNOWN",
        }
    }

    fn of_name(name: &str) -> Option<StatusReason> {
        StatusReason::ALL.into_iter().find(|value| value.name() == name)
    }
}

named_column!(ExclusionReason);

impl ExclusionReason {
    const ALL: [ExclusionReason; 7] = [
        ExclusionReason::Disagrees,
        ExclusionReason::Family,
        ExclusionReason::Divided,
        ExclusionReason::Status,
        ExclusionReason::NoValue,
        ExclusionReason::Expired,
        ExclusionReason::Withdrawn,
    ];

    /// The reason as rows spell it, such as `DISAGREES`.
    pub fn name(self) -> &'static str {
        match self {
            ExclusionReason::Disagrees => "DISAGREES",
            ExclusionReason::Family => "FAMILY",
            ExclusionReason::Divided => "DIVIDED",
            ExclusionReason::Status => "STATUS",
            ExclusionReason::NoValue => "NO_VALUE",
            ExclusionReason::Expired => "EXPIRED",
            ExclusionReason::Withdrawn => "WITHDRAWN",
        }
    }

    fn of_name(name: &str) -> Option<ExclusionReason> {
        ExclusionReason::ALL.into_iter().find(|value| value.name() == name)
    }
}

named_column!(ChangeCause);

impl ChangeCause {
    const ALL: [ChangeCause; 4] =
        [ChangeCause::Evidence, ChangeCause::Expiry, ChangeCause::Declaration, ChangeCause::Families];

    /// The cause as rows spell it, such as `EXPIRY`.
    pub fn name(self) -> &'static str {
        match self {
            ChangeCause::Evidence => "EVIDENCE",
            ChangeCause::Expiry => "EXPIRY",
            ChangeCause::Declaration => "DECLARATION",
            ChangeCause::Families => "FAMILIES",
        }
    }

    fn of_name(name: &str) -> Option<ChangeCause> {
        ChangeCause::ALL.into_iter().find(|value| value.name() == name)
    }
}
