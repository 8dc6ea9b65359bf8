//! What is known of each claim: whether enough independent streams agree on one value, now.
//!
//! A stream votes with the newest of its living evidence, by event time, then by tick. What says that it is of the future is of the tick at
//! which it came: otherwise one report of a wrong clock would speak for its stream until then. Streams of one learned family vote once, and
//! not at all when they are divided. The value with most votes leads; when two have as many, none is agreed on. With `n`, `k`, `groups`
//! and `out_of_band` of the claim, none of which may be missing, and of which the numbers are 1 at least:
//!
//! * The quorum holds when the leading value has at least `k` votes, of at least `groups` correlation groups (a stream without a
//!   group is one of its own, and streams that may have copied from each other are of one), one of them out of band where that is required. A quorum that does not hold is UNKNOWN.
//! * It is VERIFIED when it holds and at least `n` streams vote, and DEGRADED when it holds with fewer: "k of n" was agreed on
//!   with a part of the n. Where families are learned it is DEGRADED too as long as those who agree may all have copied: unless it
//!   would hold by the streams alone that a round has looked at, and kin were counted once.
//! * The margin is how many of the agreeing votes must go before it is broken: 0 is broken, 1 fragile, 2 acceptable, 3 and more
//!   healthy. The reference says "N - K", that quorum is "at least K of N", and that 0 is broken, which cannot all be; here a
//!   claim with `k` agreeing votes holds, with a margin of 1. Whoever
//!   disagrees, groups and the out-of-band vote count too: three against two are a tie when one goes, and a claim that hangs on its
//!   only out-of-band stream has a margin of 1, however many others agree.
//!
//! What a vote is worth is told of each stream: it counts, or DISAGREES, speaks through its FAMILY, is of a DIVIDED one, has a STATUS that does
//! not vote, gives NO_VALUE, is EXPIRED, or was WITHDRAWN.
//!
//! * Input: evidence, as facts or as a changelog; declarations of claims; what is known of streams. The last are heard by all workers.
//! * Output: the claims, a changelog with one row a claim; `flips`; `votes`, a changelog with one row a claim and stream.
//! * Time: a claim is looked at once in a tick, after all of it was heard, and only when something of it changed.
//! * State: for each claim its living evidence, and the streams that had some; values and names are kept once.
//!
//! Invariant: at every tick a claim's row is what its living evidence, its declaration and the families of that tick make of it.

use std::collections::BTreeMap;

use tidegate_facts::KeyHash;

use crate::kept::{KeptRow, Names};
use crate::votes::{Ballot, Count, Families, Lead, Membership, Turn};

mod columns;
mod put_down;

pub use columns::{Declared, Evidences, Memberships, Quorum, Shape};

/// One piece of evidence: what a stream said of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When, in microseconds of event time; not after it came.
    pub time: i64,
    /// When, as it says itself.
    pub said: i64,
    /// Who.
    pub stream: u32,
    /// What; [`Names::NULL`] is nothing.
    pub value: u32,
    /// The stream's declared group; the null when it is a group of its own.
    pub group: u32,
    /// Whether the stream is out of band.
    pub out_of_band: bool,
    /// Whether its status lets it vote.
    pub is_fit: bool,
}

/// What a claim needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// So many streams should vote.
    pub n: u32,
    /// So many must agree,
    pub k: u32,
    /// of so many groups,
    pub groups: u32,
    /// one of them out of band.
    pub out_of_band: bool,
}

impl Need {
    /// What is needed of a claim whose declaration lacks something, or has a number below 1: nothing can meet it.
    pub const UNSAID: Need = Need { n: 0, k: 0, groups: 0, out_of_band: false };
}

/// How much a claim can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its quorum holds.
    Verified,
    /// Its quorum holds, with fewer streams than should vote.
    Degraded,
    /// Its quorum is broken.
    Unknown,
}

/// Why a claim is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody said what it needs, or not all of it.
    Undeclared,
    /// Nobody votes.
    NoEvidence,
    /// Two values have as many votes.
    Tied,
    /// Too few agree.
    Votes,
    /// Those who agree are of too few groups.
    Groups,
    /// None of those who agree is out of band.
    OutOfBand,
    /// Fewer vote than should.
    Streams,
    /// Those who agree may have copied from each other: of too few it is known that they have not.
    FamiliesUnknown,
}

/// Why a stream's vote does not count for the leading value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is for another value.
    Disagrees,
    /// Its family votes through another stream.
    Family,
    /// Its family is divided, and abstains.
    Divided,
    /// The status of its evidence lets it not vote.
    Status,
    /// Its evidence gives no value.
    NoValue,
    /// Its evidence expired.
    Expired,
    /// Its evidence was taken back.
    Withdrawn,
}

/// Why a claim was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A stream said something.
    Evidence,
    /// What a stream had said expired or was taken back.
    Ending,
    /// It needs something else.
    Declaration,
    /// Streams are known to be one family, or no longer.
    Families,
}

/// What is known of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The row of what is kept of the claim, see [`Claims::row`].
    pub row: u32,
    /// How much it can be relied on.
    pub status: Status,
    /// Why not more.
    pub reason: Option<Reason>,
    /// The leading value; of those with most votes the least.
    pub value: u32,
    /// How many of the agreeing votes must go before the quorum is broken.
    pub margin: u32,
    /// How many streams have living evidence.
    pub streams: u32,
    /// How many votes count.
    pub votes: u32,
    /// How many of them are for the leading value.
    pub agreeing: u32,
    /// Of how many groups these are.
    pub groups: u32,
    /// How many of them are the vote of a family.
    pub families: u32,
    /// The value and status when it was last heard of: under the families of that time.
    pub heard: (u32, Status),
}

/// A change of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which claim.
    pub claim: u32,
    /// What was known; nothing when it is new.
    pub before: Option<Verdict>,
    /// What is known now.
    pub after: Verdict,
    /// Why.
    pub cause: Cause,
}

/// What became of one stream's vote in a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The row of what is kept of the claim.
    pub row: u32,
    /// The stream.
    pub stream: u32,
    /// What it says; the null when nothing that lives.
    pub value: u32,
    /// Its declared group.
    pub group: u32,
    /// Its learned family.
    pub family: Option<u32>,
    /// Its learned kin.
    pub kin: Option<u32>,
    /// Why it does not count for the leading value.
    pub loss: Option<Loss>,
}

/// A change of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteChange {
    /// In which claim.
    pub claim: u32,
    /// The vote.
    pub vote: Vote,
    /// Whether it is so now, or was until now.
    pub is_so: bool,
}

impl Change {
    /// Whether a reader of the claim must be told: it can be relied on more or less than before, or for something else.
    pub fn is_flip(&self) -> bool {
        let (status, value) = self.before.map_or((Status::Unknown, Names::NULL), |b| (b.status, b.value));
        status != self.after.status || (status != Status::Unknown && value != self.after.value)
    }
}

struct Claim {
    /// The row of what is kept of it.
    row: u32,
    declared: Option<Need>,
    /// By stream, then from the oldest to the newest.
    evidence: Vec<Evidence>,
    /// The streams that had evidence and have none, and why.
    gone: Vec<(u32, Loss)>,
    /// Why it must be looked at, as bits of [`Cause`].
    touched: u8,
    said: Option<Verdict>,
    votes: Vec<Vote>,
}

/// All claims.
pub struct Claims {
    numbers: BTreeMap<KeyHash, u32>,
    claims: Vec<Claim>,
    /// What is kept of claims, and was: a row that was given can be taken back.
    rows: Vec<KeptRow>,
    touched: Vec<u32>,
    /// What claims need of which nobody said so.
    need: Option<Need>,
    /// Whether evidence is never taken back, so that only the newest of a stream can ever vote.
    is_final: bool,
    /// Whether votes are told.
    tells_votes: bool,
    /// Whether families are learned, so that of a stream of which nothing is known anything can be.
    learns: bool,
    families: Families,
    /// In which claims each stream has, or had, a vote.
    claims_of: Vec<Vec<u32>>,
    count: Count,
    groups: Groups,
}

impl Claims {
    /// No claims. `is_final`: evidence is never taken back; `tells_votes`: changes of votes are wanted; `learns`: families are learned.
    pub fn new(need: Option<Need>, is_final: bool, tells_votes: bool, learns: bool) -> Claims {
        Claims {
            numbers: BTreeMap::new(),
            claims: Vec::new(),
            rows: Vec::new(),
            touched: Vec::new(),
            need,
            is_final,
            tells_votes,
            learns,
            families: Families::default(),
            claims_of: Vec::new(),
            count: Count::default(),
            groups: Groups::default(),
        }
    }

    /// The number of a claim; `row` is what is kept of it when it is new.
    pub fn claim(&mut self, key: KeyHash, row: impl FnOnce() -> KeptRow) -> u32 {
        let next = u32::try_from(self.claims.len()).expect("claims fit in memory, and so in 32 bits");
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.rows.push(row());
            self.claims.push(Claim {
                row: self.rows.len() as u32 - 1,
                declared: None,
                evidence: Vec::new(),
                gone: Vec::new(),
                touched: 0,
                said: None,
                votes: Vec::new(),
            });
        }
        number
    }

    /// A row of what is, or was, kept of a claim.
    pub fn row(&self, row: u32) -> &[u8] {
        &self.rows[row as usize]
    }

    fn touch(&mut self, claim: u32, cause: Cause) -> &mut Claim {
        let number = claim;
        let claim = &mut self.claims[number as usize];
        if claim.touched == 0 {
            self.touched.push(number);
        }
        claim.touched |= 1 << cause as u8;
        claim
    }

    /// A stream said something of a claim.
    pub fn hear(&mut self, claim: u32, evidence: Evidence) {
        let number = claim;
        let is_final = self.is_final;
        let claim = self.touch(number, Cause::Evidence);
        let stream = evidence.stream;
        let at =
            claim.evidence.partition_point(|other| (other.stream, other.time) <= (stream, evidence.time));
        let is_known = claim.evidence[..at].last().is_some_and(|other| other.stream == stream);
        let is_overtaken = claim.evidence.get(at).is_some_and(|other| other.stream == stream);
        match (is_final, is_known, is_overtaken) {
            (true, _, true) => {}
            (true, true, false) => claim.evidence[at - 1] = evidence,
            _ => claim.evidence.insert(at, evidence),
        }
        if is_known || is_overtaken {
            return;
        }
        // The first living evidence of the stream; perhaps it had some before.
        let gone = claim.gone.iter().position(|(other, _)| *other == stream);
        if let Some(place) = gone {
            claim.gone.remove(place);
            return;
        }
        let place = stream as usize;
        if self.claims_of.len() <= place {
            self.claims_of.resize(place + 1, Vec::new());
        }
        self.claims_of[place].push(number);
    }

    /// What a stream said of a claim is said no longer.
    ///
    /// # Panics
    /// When it was not said: a changelog takes back only what it gave.
    pub fn unhear(&mut self, claim: u32, evidence: Evidence, loss: Loss) {
        assert!(!self.is_final, "the plan said that nothing is taken back");
        let claim = self.touch(claim, Cause::Ending);
        let place = claim.evidence.iter().position(|other| other.says_as(&evidence));
        claim.evidence.remove(place.expect("a changelog takes back what it gave"));
        if claim.evidence.iter().all(|other| other.stream != evidence.stream) {
            claim.gone.push((evidence.stream, loss));
        }
    }

    /// What a claim needs from now on, and what is kept of it.
    pub fn declare(&mut self, claim: u32, need: Need, row: &[u8]) {
        if self.rows[self.claims[claim as usize].row as usize][..] != *row {
            self.rows.push(row.into());
            self.touch(claim, Cause::Declaration).row = self.rows.len() as u32 - 1;
        }
        if self.declared(claim) != Some(need) {
            self.touch(claim, Cause::Declaration).declared = Some(need);
        }
    }

    /// A claim needs what all need that are not declared.
    pub fn undeclare(&mut self, claim: u32) {
        self.touch(claim, Cause::Declaration).declared = None;
    }

    /// What a claim needs by its own declaration.
    pub fn declared(&self, claim: u32) -> Option<Need> {
        self.claims[claim as usize].declared
    }

    /// What is known of a stream from now on.
    pub fn enrol(&mut self, stream: u32, membership: Membership) {
        if self.families.set(stream, membership) == membership {
            return;
        }
        let claims = self.claims_of.get_mut(stream as usize).map(std::mem::take).unwrap_or_default();
        for claim in &claims {
            self.touch(*claim, Cause::Families);
        }
        if let Some(place) = self.claims_of.get_mut(stream as usize) {
            *place = claims;
        }
    }

    /// Looks at the claims of which something changed; gives what is known now of those of which something else is.
    pub fn settle(
        &mut self,
        streams: &Names,
        values: &Names,
        mut tell: impl FnMut(Change),
        mut tell_vote: impl FnMut(VoteChange),
    ) {
        for number in std::mem::take(&mut self.touched) {
            let claim = &mut self.claims[number as usize];
            let cause = CAUSES[claim.touched.trailing_zeros() as usize];
            let is_heard = claim.touched != 1 << Cause::Families as u8;
            claim.touched = 0;
            let newest = claim
                .evidence
                .chunk_by(|a, b| a.stream == b.stream)
                .map(|of_stream| of_stream.last().expect("chunks are not empty"));
            let ballots = newest.clone().filter(|newest| newest.votes()).map(Evidence::ballot);
            let lead = self.count.count(ballots, &self.families, streams, values);
            let present = newest.count() as u32;
            let need = claim.declared.or(self.need).filter(|need| *need != Need::UNSAID);
            let mut verdict = judged(&self.count, lead, need, present, &mut self.groups);
            if self.learns && verdict.status == Status::Verified {
                let is_vouched = need.is_some_and(|need| self.groups.vouch(&self.count, verdict.value, need));
                if !is_vouched {
                    (verdict.status, verdict.reason) = (Status::Degraded, Some(Reason::FamiliesUnknown));
                    verdict.heard.1 = Status::Degraded;
                }
            }
            verdict.row = claim.row;
            if let (false, Some(said)) = (is_heard, claim.said) {
                verdict.heard = said.heard;
            }
            if claim.said != Some(verdict) {
                tell(Change { claim: number, before: claim.said, after: verdict, cause });
                claim.said = Some(verdict);
            }
            if self.tells_votes {
                let votes = votes(claim, &self.count, lead, &self.families);
                difference(&claim.votes, &votes, |vote, is_so| {
                    tell_vote(VoteChange { claim: number, vote, is_so });
                });
                claim.votes = votes;
            }
        }
    }

    /// How many claims there are.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }
}

const CAUSES: [Cause; 4] = [Cause::Evidence, Cause::Ending, Cause::Declaration, Cause::Families];

impl Evidence {
    fn votes(&self) -> bool {
        self.is_fit && self.value != Names::NULL
    }

    /// Whether both say the same, whenever they came.
    fn says_as(&self, other: &Evidence) -> bool {
        Evidence { time: other.time, ..*self } == *other
    }

    fn ballot(&self) -> Ballot {
        let Evidence { stream, value, group, out_of_band, .. } = *self;
        Ballot { stream, value, group, out_of_band }
    }
}

/// The groups of agreeing votes; kept from one count to the next, so that counting asks for no memory.
#[derive(Default)]
struct Groups {
    /// The declared group of each vote, and its kin.
    votes: Vec<(u64, Option<u32>)>,
    labels: Vec<usize>,
    /// How many votes each group has, in order.
    sizes: Vec<u32>,
}

impl Groups {
    /// Counts the votes of each group. Those of one declared group are of one, those of kin, and whoever that brings together.
    fn count(&mut self) {
        let Groups { votes, labels, sizes } = self;
        votes.sort_unstable();
        labels.clear();
        for (place, (group, kin)) in votes.iter().enumerate() {
            let before = votes[..place].last().filter(|(other, _)| other == group);
            labels.push(before.map_or(place, |_| labels[place - 1]));
            let relative = kin.and_then(|_| votes[..place].iter().position(|(_, other)| other == kin));
            if let Some(relative) = relative {
                let (from, to) = (labels[place], labels[relative]);
                labels.iter_mut().filter(|label| **label == from).for_each(|label| *label = to);
            }
        }
        labels.sort_unstable();
        sizes.clear();
        sizes.extend(labels.chunk_by(|a, b| a == b).map(|group| group.len() as u32));
        sizes.sort_unstable();
    }

    /// Whether those who agree on `value` are enough when only the streams count that a round has looked at, and kin count once.
    fn vouch(&mut self, count: &Count, value: u32, need: Need) -> bool {
        let vouching = || count.votes().filter(|vote| vote.ballot.value == value && vote.is_known);
        self.votes.clear();
        self.votes.extend(vouching().map(|vote| (group_of(&vote.ballot), vote.kin)));
        self.count();
        let is_of_groups = self.sizes.len() >= need.groups as usize;
        let mut kin: Vec<u32> = self.votes.iter().filter_map(|(_, kin)| *kin).collect();
        kin.sort_unstable();
        kin.dedup();
        let voices = self.votes.iter().filter(|(_, kin)| kin.is_none()).count() + kin.len();
        let has_band = !need.out_of_band || vouching().any(|vote| vote.ballot.out_of_band);
        is_of_groups && voices >= need.k as usize && has_band
    }
}

/// The group of a ballot; a stream without one is its own.
fn group_of(ballot: &Ballot) -> u64 {
    match ballot.group {
        Names::NULL => 1 << 32 | u64::from(ballot.stream),
        group => u64::from(group),
    }
}

/// What counted ballots make of a claim.
fn judged(
    count: &Count,
    lead: Option<Lead>,
    need: Option<Need>,
    streams: u32,
    groups: &mut Groups,
) -> Verdict {
    let value = lead.map_or(Names::NULL, |lead| lead.value);
    groups.votes.clear();
    let (mut votes, mut families, mut out_of_band) = (0, 0, 0);
    for counted in count.votes() {
        votes += 1;
        if counted.ballot.value == value {
            families += u32::from(counted.family.is_some());
            out_of_band += u32::from(counted.ballot.out_of_band);
            groups.votes.push((group_of(&counted.ballot), counted.kin));
        }
    }
    groups.count();
    let sizes = &groups.sizes;
    let (agreeing, spanned) = (groups.votes.len() as u32, sizes.len() as u32);
    let (status, reason, margin) = match (need, lead) {
        (None, _) => (Status::Unknown, Some(Reason::Undeclared), 0),
        (_, None) => (Status::Unknown, Some(Reason::NoEvidence), 0),
        (_, Some(lead)) if lead.is_tied() => (Status::Unknown, Some(Reason::Tied), 0),
        (Some(need), _) if agreeing < need.k => (Status::Unknown, Some(Reason::Votes), 0),
        (Some(need), _) if spanned < need.groups => (Status::Unknown, Some(Reason::Groups), 0),
        (Some(need), _) if need.out_of_band && out_of_band == 0 => {
            (Status::Unknown, Some(Reason::OutOfBand), 0)
        }
        (Some(need), Some(lead)) => {
            // The cheapest way to break it: take votes until too few are left or others have as many, take the smallest groups, or
            // take what is out of band.
            let by_votes = (agreeing - need.k + 1).min(until_tied(count, lead));
            let surplus = spanned - need.groups + 1;
            let by_groups: u32 = sizes[..surplus as usize].iter().sum();
            let by_band = if need.out_of_band { out_of_band } else { u32::MAX };
            let margin = by_votes.min(by_groups).min(by_band);
            if votes < need.n {
                (Status::Degraded, Some(Reason::Streams), margin)
            } else {
                (Status::Verified, None, margin)
            }
        }
    };
    Verdict {
        row: 0, // The claim knows it.
        status,
        reason,
        value,
        margin,
        streams,
        votes,
        agreeing,
        groups: spanned,
        families,
        heard: (value, status),
    }
}

/// How many of the votes for the leading value must go, the heaviest first, before another has as many.
fn until_tied(count: &Count, lead: Lead) -> u32 {
    let mut weights: Vec<u32> =
        count.votes().filter(|vote| vote.ballot.value == lead.value).map(|vote| vote.weight).collect();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    let mut ahead = lead.ahead;
    let enough = weights.iter().position(|weight| {
        ahead = ahead.saturating_sub(u64::from(*weight));
        ahead == 0
    });
    enough.map_or(u32::MAX, |place| place as u32 + 1)
}

/// What became of the votes in a claim, by stream.
fn votes(claim: &Claim, count: &Count, lead: Option<Lead>, families: &Families) -> Vec<Vote> {
    let newest =
        claim.evidence.chunk_by(|a, b| a.stream == b.stream).filter_map(|of_stream| of_stream.last());
    let living = newest.map(|newest| {
        let turn =
            || count.ballots.iter().find(|counted| counted.ballot.stream == newest.stream).map(|of| of.turn);
        let loss = match newest {
            _ if !newest.is_fit => Some(Loss::Status),
            _ if newest.value == Names::NULL => Some(Loss::NoValue),
            _ if turn() == Some(Turn::Another) => Some(Loss::Family),
            _ if turn() == Some(Turn::Nobody) => Some(Loss::Divided),
            _ if lead.is_some_and(|lead| lead.value == newest.value) => None,
            _ => Some(Loss::Disagrees),
        };
        let Evidence { stream, value, group, .. } = *newest;
        let Membership { family, kin, .. } = families.of(stream);
        Vote { row: claim.row, stream, value, group, family, kin, loss }
    });
    let gone = claim.gone.iter().map(|(stream, loss)| Vote {
        row: claim.row,
        stream: *stream,
        value: Names::NULL,
        group: Names::NULL,
        family: families.of(*stream).family,
        kin: families.of(*stream).kin,
        loss: Some(*loss),
    });
    let mut votes: Vec<Vote> = living.chain(gone).collect();
    votes.sort_unstable_by_key(|vote| vote.stream);
    votes
}

/// Tells what is so no longer, and what is so now, of votes in the order of their streams.
fn difference(before: &[Vote], after: &[Vote], mut tell: impl FnMut(Vote, bool)) {
    let (mut was, mut is) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (was.peek(), is.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(was), Some(is)) => was.stream.cmp(&is.stream),
        };
        let was = if order.is_le() { was.next() } else { None };
        let is = if order.is_ge() { is.next() } else { None };
        if was != is {
            was.iter().for_each(|vote| tell(**vote, false));
            is.iter().for_each(|vote| tell(**vote, true));
        }
    }
}
