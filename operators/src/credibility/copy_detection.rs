//! Copy detection: finds streams that share wrong values, and groups them into copy families.
//!
//! Streams that agree may all be right. Streams that are wrong in the same way, again and again,
//! copy. So each round looks at the claims reported in one period of event time. It accepts the
//! value that leads under the families of the round before (no value if two lead), and counts, for
//! each pair of streams that reported on a claim and of which one is wrong:
//!
//! * `shared`: both reported the same wrong value; and `surprise`, the evidence in bits: log2 of
//!   one over the share of that value among the votes of all other families (with a half added, so
//!   that no value is impossible). A wrong value that everyone reports is weak evidence, one that
//!   only the two report is strong.
//! * `differing`: they reported different values.
//!
//! Two streams are copies if the share of `shared` among both counts is at least `similarity_min`,
//! by three standard deviations (the lower end of Wilson's interval), and the evidence against
//! chance comes to at least `evidence_bits_min`. Streams that read the same ambiguous word from the
//! same world, and are wrong together, fail the first condition: they differ once in twenty or
//! fifty times, in a minute or a digit, where a copy differs once in a thousand. A family is the
//! set of streams that are copies, directly or through others, and is named after its least stream.
//!
//! This alone can be fooled: a family with a majority is never wrong, and whoever tells the truth
//! against it seems to copy. So a second measure does not depend on the accepted value. On
//! contested claims, those with at least two reported values, two streams are inseparable if they
//! are shown to be at least `similarity_min` similar, and if it is not excluded that they differ in
//! a tenth of what `similarity_min` allows. As far as the data can tell, they are one source,
//! whoever is right; they are in one suspected group. A round then takes a value as wrong only if
//! it is wrong both when every such stream votes and when each such bloc votes once, so that no
//! bloc makes others wrong by its size. Neither measure sees a family that errs only where no two
//! other streams agree on another value, nor a family that is always right; nothing is wrong with
//! believing the latter.
//!
//! Two streams are suspected if they may be copies: if the evidence comes to at least
//! `evidence_bits_min` and the upper end of the interval is not below `similarity_min`, or if they
//! are inseparable. A vote is taken away only if copying is shown; two streams support a claim
//! independently only if copying is excluded. So a family votes once, and a suspected group is one
//! correlation group.
//!
//! If weights are learned, the share of accepted values of each family weighs its vote: log2 of 100
//! times the odds that it is right, as if each claim had a hundred wrong values. The record of a
//! family starts at 8 right out of 10.
//!
//! * Input: evidence, as facts. The newest report of a stream on a claim in the period counts, by
//!   event time, then by tick. A report with an event time after its tick counts as of its tick;
//!   otherwise one such report would end all rounds until that time.
//! * Output: the findings about each stream that reported in a round that ended, a changelog; and
//!   `pairs`, the suspected pairs, a changelog.
//! * Time: a round ends at the tick of the first fact of a later period, before that fact is read.
//!   So it depends on the log alone.
//! * State: the reports of the round; and five numbers for each pair of streams that ever reported
//!   on one claim. Accepted values are not stored.
//!
//! Invariant: the findings at a tick are a function of the rounds that ended by then. No list of
//! true values is read.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_facts::{KeyHash, Span};

use crate::core::interner::Interner;
use crate::credibility::tally::{Ballot, FamilyTable, Membership, VoteTally, WEIGHT_DEFAULT};

mod operator;

pub use operator::{CopyDetection, CopyDetectionColumns};

/// The configuration of copy detection: the round, and how similar and how surprising copies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyConfig {
    /// The event time of one round.
    pub round: Span,
    /// The least share of shared wrong values of two copies, in millionths.
    pub similarity_min: u32,
    /// The least evidence against chance, in bits.
    pub evidence_bits_min: u32,
    /// Whether the share of accepted values of a family weighs its vote.
    pub learns_weights: bool,
}

/// The error overlap of two streams in copy detection: how often they agreed and differed on claims
/// on which at least one of them was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorOverlap {
    /// How often both reported the same wrong value.
    pub shared: u64,
    /// How often they reported different values.
    pub differing: u64,
    /// The evidence that the shared values are no chance, in 65,536ths of a bit.
    pub surprise: u64,
}

/// The contested overlap of two streams in copy detection: how often they agreed and differed on
/// contested claims, whoever was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContestedOverlap {
    /// How often they reported the same value.
    pub same: u64,
    /// How often they reported different values.
    pub differing: u64,
}

impl ContestedOverlap {
    /// Whether the data cannot tell the two streams from one source.
    pub fn is_inseparable(&self, config: &CopyConfig) -> bool {
        let similarity_min = i128::from(config.similarity_min);
        let one_source = MILLION - (MILLION - similarity_min) / 10;
        let test = |share| ShareTest::new(self.same, self.differing, share);
        test(similarity_min).is_above() && !test(one_source).is_below()
    }
}

const MILLION: i128 = 1_000_000;

/// A score test of a counted share against a supposed one, in millionths.
///
/// Wilson's interval ends where the score test begins to reject, so no square root is needed.
struct ShareTest {
    excess: i128,
    is_significant: bool,
}

impl ShareTest {
    fn new(yes: u64, no: u64, share: i128) -> ShareTest {
        let all = i128::from(yes) + i128::from(no);
        let excess = i128::from(yes) * MILLION - share * all;
        let is_significant = all > 0 && excess * excess >= 9 * all * share * (MILLION - share);
        ShareTest { excess, is_significant }
    }

    /// Whether the share is significantly at least the supposed one.
    fn is_above(&self) -> bool {
        self.is_significant && self.excess >= 0
    }

    /// Whether the share is significantly below the supposed one.
    fn is_below(&self) -> bool {
        self.is_significant && self.excess < 0
    }
}

/// One bit, in the unit in which surprise is counted.
const BIT: u64 = 1 << 16;

impl ErrorOverlap {
    /// The relation of two streams with this overlap.
    pub fn relation(&self, config: &CopyConfig) -> Relation {
        let test = ShareTest::new(self.shared, self.differing, i128::from(config.similarity_min));
        let is_surprising = self.surprise / BIT >= u64::from(config.evidence_bits_min);
        match () {
            () if self.shared + self.differing == 0 || !is_surprising => Relation::Independent,
            () if test.is_above() => Relation::Family,
            () if test.is_below() => Relation::Independent,
            () => Relation::Suspected,
        }
    }
}

/// The relation of two streams in copy detection: independent, suspected copies, or shown to be
/// copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// Nothing indicates copying, or copying is excluded.
    Independent,
    /// Copying is not excluded.
    Suspected,
    /// Copying is shown.
    Family,
}

/// A pair of streams that copy detection compares, the lesser number first.
pub type StreamPair = (u32, u32);

/// The similarity of two streams that copy detection found not to be independent, and their
/// relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Similarity {
    /// The overlap where at least one was wrong.
    pub errors: ErrorOverlap,
    /// The overlap on contested claims, whoever was right.
    pub contested: ContestedOverlap,
    /// The relation that follows from both.
    pub relation: Relation,
}

/// The findings of copy detection about one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFinding {
    /// The copy family; `None` if the stream has no copies.
    pub family: Option<u32>,
    /// The number of streams in the family.
    pub family_size: u32,
    /// The suspected group, which includes the family; `None` if nobody is suspected.
    pub suspected_group: Option<u32>,
    /// The stream with most shared wrong values, and the overlap with it.
    pub nearest_stream: Option<(u32, ErrorOverlap)>,
    /// How many values of the stream were accepted, and out of how many; only if weights are
    /// learned.
    pub accepted: Option<(u64, u64)>,
    /// The weight of the family's vote, in thousandths.
    pub weight: u32,
}

/// The state of copy detection: counts the overlaps of streams over rounds, and derives copy
/// families and suspected groups from them.
pub struct CopyDetector {
    config: CopyConfig,
    round: Option<i64>,
    /// The reports of this round, by claim: stream, time, value.
    reports: BTreeMap<KeyHash, Vec<Report>>,
    errors: BTreeMap<StreamPair, ErrorOverlap>,
    contested: BTreeMap<StreamPair, ContestedOverlap>,
    /// For every stream that reported in a round that ended: how many of its values were accepted,
    /// and out of how many.
    records: BTreeMap<u32, (u64, u64)>,
    findings: BTreeMap<u32, StreamFinding>,
    similarities: BTreeMap<StreamPair, Similarity>,
    tally: VoteTally,
}

/// A stream's report on a claim: stream, event time in microseconds, value.
type Report = (u32, i64, u32);

/// The entries of a map that a round of copy detection changed, by key: the value before and the
/// value after.
pub type EntryChanges<K, V> = Vec<(K, Option<V>, Option<V>)>;

/// The findings and the suspected pairs that a round of copy detection changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RoundChanges {
    /// The findings about streams.
    pub streams: EntryChanges<u32, StreamFinding>,
    /// The suspected pairs.
    pub pairs: EntryChanges<StreamPair, Similarity>,
}

impl CopyDetector {
    /// Returns a copy detector without reports.
    pub fn new(config: CopyConfig) -> CopyDetector {
        CopyDetector {
            config,
            round: None,
            reports: BTreeMap::new(),
            errors: BTreeMap::new(),
            contested: BTreeMap::new(),
            records: BTreeMap::new(),
            findings: BTreeMap::new(),
            similarities: BTreeMap::new(),
            tally: VoteTally::default(),
        }
    }

    /// Whether a report of this event time ends the current round of copy detection.
    pub fn ends_round(&self, time: i64) -> bool {
        self.round.is_some_and(|round| self.round_of(time) > round)
    }

    fn round_of(&self, time: i64) -> i64 {
        time.div_euclid(self.config.round.micros())
    }

    /// Adds a stream's report on a claim; the value may be [`Interner::NULL`].
    ///
    /// A report of an earlier period counts in the current round.
    pub fn add_report(&mut self, claim: KeyHash, stream: u32, time: i64, value: u32) {
        self.round = self.round.max(Some(self.round_of(time)));
        let reports = self.reports.entry(claim).or_default();
        match reports.iter_mut().find(|(other, ..)| *other == stream) {
            Some((_, last, _)) if *last > time => {}
            Some(before) => *before = (stream, time, value),
            None => reports.push((stream, time, value)),
        }
    }

    /// Ends the round: counts the overlaps of its reports and returns the findings that changed.
    pub fn end_round(&mut self, streams: &Interner, values: &Interner) -> RoundChanges {
        let reports = std::mem::take(&mut self.reports);
        for of_claim in reports.values() {
            self.count_contested(of_claim);
        }
        let families = self.similarities.iter().filter(|(_, of)| of.relation == Relation::Family);
        let families: Vec<StreamPair> = families.map(|(pair, _)| *pair).collect();
        let blocs = families.iter().copied().chain(self.inseparable_pairs());
        let blocs = [self.blocs(families.iter().copied(), streams), self.blocs(blocs, streams)];
        for of_claim in reports.values() {
            self.count_errors(of_claim, &blocs, streams, values);
        }
        self.update_findings(streams)
    }

    /// Derives the findings from the counted overlaps, and returns those that changed.
    fn update_findings(&mut self, streams: &Interner) -> RoundChanges {
        let relations = self.errors.iter().map(|(pair, errors)| (*pair, errors.relation(&self.config)));
        let mut relations: BTreeMap<StreamPair, Relation> =
            relations.filter(|(_, relation)| *relation > Relation::Independent).collect();
        for pair in self.inseparable_pairs() {
            relations.entry(pair).or_insert(Relation::Suspected);
        }
        let similarities = relations.into_iter().map(|(pair, relation)| {
            let errors = self.errors.get(&pair).copied().unwrap_or_default();
            (pair, Similarity { errors, contested: self.contested[&pair], relation })
        });
        let similarities: BTreeMap<StreamPair, Similarity> = similarities.collect();
        let findings = self.findings_from(&similarities, streams);
        let changes = RoundChanges {
            streams: entry_changes(&self.findings, &findings),
            pairs: entry_changes(&self.similarities, &similarities),
        };
        (self.findings, self.similarities) = (findings, similarities);
        changes
    }

    /// Counts the agreements on a claim, if it is contested, whoever is right.
    fn count_contested(&mut self, reports: &[Report]) {
        let valued = || reports.iter().filter(|(.., value)| *value != Interner::NULL);
        let is_contested = valued().any(|(.., value)| valued().any(|(.., other)| value != other));
        for (index, (stream, _, value)) in valued().enumerate() {
            self.records.entry(*stream).or_default();
            for (other, _, others_value) in valued().skip(index + 1).filter(|_| is_contested) {
                let pair = (*stream.min(other), *stream.max(other));
                let overlap = self.contested.entry(pair).or_default();
                let count = if value == others_value { &mut overlap.same } else { &mut overlap.differing };
                *count += 1;
            }
        }
    }

    /// The pairs of streams that the data cannot tell from one source.
    fn inseparable_pairs(&self) -> impl Iterator<Item = StreamPair> {
        self.contested
            .iter()
            .filter(|(_, overlap)| overlap.is_inseparable(&self.config))
            .map(|(pair, _)| *pair)
    }

    /// The blocs that these pairs connect, each of which votes once.
    fn blocs(&self, pairs: impl Iterator<Item = StreamPair>, streams: &Interner) -> FamilyTable {
        let members: BTreeSet<u32> = self.records.keys().copied().collect();
        let components = components(&members, pairs, streams);
        let mut sizes: BTreeMap<u32, u32> = BTreeMap::new();
        components.values().for_each(|bloc| *sizes.entry(*bloc).or_default() += 1);
        let mut blocs = FamilyTable::default();
        for (stream, bloc) in components {
            let weight = self.findings.get(&stream).map_or(WEIGHT_DEFAULT, |finding| finding.weight);
            let family = (sizes[&bloc] > 1).then_some(bloc);
            blocs.set(stream, Membership { family, weight, ..Membership::UNEXAMINED });
        }
        blocs
    }

    /// Counts the shared and differing errors on a claim, if its families and its blocs accept the
    /// same value.
    fn count_errors(
        &mut self,
        reports: &[Report],
        blocs: &[FamilyTable; 2],
        streams: &Interner,
        values: &Interner,
    ) {
        let valued = reports.iter().filter(|(.., value)| *value != Interner::NULL);
        let ballots = valued.map(|(stream, _, value)| Ballot {
            stream: *stream,
            value: *value,
            group: Interner::NULL,
            out_of_band: false,
        });
        let mut leading_value = |blocs: &FamilyTable| {
            let leader = self.tally.count(ballots.clone(), blocs, streams, values);
            leader.filter(|leader| !leader.is_tied()).map(|leader| leader.value)
        };
        let [families, blocs] = blocs;
        let of_blocs = leading_value(blocs);
        // The tally of the families is the last one, and the loops below read it.
        let of_families = leading_value(families);
        let Some(accepted) = of_families.filter(|value| of_blocs == Some(*value)) else { return };
        let ballots = &self.tally.ballots;
        let votes = self.tally.votes().count();
        for (index, one) in ballots.iter().enumerate() {
            let is_right = one.ballot.value == accepted;
            let (right, all) = self.records.entry(one.ballot.stream).or_default();
            *right += u64::from(is_right);
            *all += 1;
            for other in &ballots[index + 1..] {
                let is_same = one.ballot.value == other.ballot.value;
                if is_right && is_same {
                    continue;
                }
                let (a, b) = (one.ballot.stream, other.ballot.stream);
                let overlap = self.errors.entry((a.min(b), a.max(b))).or_default();
                if !is_same {
                    overlap.differing += 1;
                    continue;
                }
                overlap.shared += 1;
                let is_of_pair = |stream: u32, family: Option<u32>| {
                    [one, other].iter().any(|of_pair| {
                        of_pair.ballot.stream == stream || (family.is_some() && of_pair.family == family)
                    })
                };
                let of_pair = self.tally.votes().filter(|vote| is_of_pair(vote.ballot.stream, vote.family));
                let others = (votes - of_pair.count()) as u64;
                let same = self.tally.votes().filter(|vote| {
                    vote.ballot.value == one.ballot.value && !is_of_pair(vote.ballot.stream, vote.family)
                });
                overlap.surprise += log2(2 * others + 2) - log2(2 * same.count() as u64 + 1);
            }
        }
    }

    /// The findings about each stream that follow from these similarities.
    fn findings_from(
        &self,
        similarities: &BTreeMap<StreamPair, Similarity>,
        streams: &Interner,
    ) -> BTreeMap<u32, StreamFinding> {
        let members: BTreeSet<u32> = self.records.keys().copied().collect();
        let pairs = |least: Relation| {
            similarities.iter().filter(move |(_, of)| of.relation >= least).map(|(pair, _)| *pair)
        };
        let families = components(&members, pairs(Relation::Family), streams);
        let suspected = components(&members, pairs(Relation::Suspected), streams);
        let record = |stream: u32| self.records.get(&stream).copied().unwrap_or_default();
        let mut pooled: BTreeMap<u32, (u32, (u64, u64))> = BTreeMap::new();
        let mut suspected_sizes: BTreeMap<u32, u32> = BTreeMap::new();
        for stream in &members {
            let (size, (right, all)) = pooled.entry(families[stream]).or_default();
            let own = record(*stream);
            (*size, *right, *all) = (*size + 1, *right + own.0, *all + own.1);
            *suspected_sizes.entry(suspected[stream]).or_default() += 1;
        }
        let mut nearest: BTreeMap<u32, (u32, ErrorOverlap)> = BTreeMap::new();
        for ((a, b), Similarity { errors, .. }) in similarities {
            for (one, other) in [(*a, *b), (*b, *a)] {
                let best = nearest.entry(one).or_insert((other, *errors));
                let names = || streams.get(best.0).cmp(streams.get(other));
                if errors.shared.cmp(&best.1.shared).then_with(names).is_gt() {
                    *best = (other, *errors);
                }
            }
        }
        let learns_weights = self.config.learns_weights;
        let finding = |stream: &u32| {
            let (family_size, record_of_family) = pooled[&families[stream]];
            let finding = StreamFinding {
                family: (family_size > 1).then_some(families[stream]),
                family_size,
                suspected_group: (suspected_sizes[&suspected[stream]] > 1).then_some(suspected[stream]),
                nearest_stream: nearest.get(stream).copied(),
                accepted: learns_weights.then(|| record(*stream)),
                weight: if learns_weights { weight(record_of_family) } else { WEIGHT_DEFAULT },
            };
            (*stream, finding)
        };
        members.iter().map(finding).collect()
    }
}

/// The component of each member that pairs connect, named after its least stream.
fn components(
    members: &BTreeSet<u32>,
    pairs: impl Iterator<Item = StreamPair>,
    streams: &Interner,
) -> BTreeMap<u32, u32> {
    let mut of: BTreeMap<u32, u32> = members.iter().map(|stream| (*stream, *stream)).collect();
    for (a, b) in pairs {
        let (a, b) = (of[&a], of[&b]);
        let (least, other) = if streams.get(a) <= streams.get(b) { (a, b) } else { (b, a) };
        of.values_mut().filter(|name| **name == other).for_each(|name| *name = least);
    }
    of
}

/// The entries that differ between two maps, by key.
fn entry_changes<K: Copy + Ord, V: Copy + PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> EntryChanges<K, V> {
    let keys: BTreeSet<K> = before.keys().chain(after.keys()).copied().collect();
    let of = |key: K| (key, before.get(&key).copied(), after.get(&key).copied());
    keys.into_iter().map(of).filter(|(_, before, after)| before != after).collect()
}

/// The weight of the vote of a family of whose values so many were accepted, out of so many: in
/// thousandths of a bit.
fn weight((right, all): (u64, u64)) -> u32 {
    let (right, wrong) = (right + 8, all - right + 2);
    // Between one in a hundred and ninety-nine in a hundred, so that no vote is worthless or
    // certain.
    let (odds, against) = match () {
        () if right > 99 * wrong => (99, 1),
        () if wrong > 99 * right => (1, 99),
        () => (right, wrong),
    };
    let bits = (log2(100 * odds) as i64) - (log2(against) as i64);
    u32::try_from(bits * i64::from(WEIGHT_DEFAULT) / BIT as i64).unwrap_or(0).max(1)
}

/// The logarithm to base 2 of a number that is not zero, in 65,536ths.
///
/// It is computed by repeated squaring of integers, and so is the same on every machine.
fn log2(number: u64) -> u64 {
    let whole = u64::from(number.ilog2());
    let mut fraction = 0;
    // The number scaled into [1, 2), in units of 2^-63.
    let mut rest = number << (63 - whole);
    for _ in 0..16 {
        let square = (u128::from(rest) * u128::from(rest)) >> 63;
        let is_two = square >> 64 != 0;
        rest = if is_two { (square >> 1) as u64 } else { square as u64 };
        fraction = fraction << 1 | u64::from(is_two);
    }
    whole * BIT + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_equal_those_of_floats() {
        for number in (1..5_000).chain([u64::MAX, 1 << 40]) {
            let exact = (number as f64).log2() * BIT as f64;
            assert!((log2(number) as f64 - exact).abs() <= 2.0, "{number}: {} and {exact}", log2(number));
        }
    }

    #[test]
    fn a_relation_follows_from_the_count_and_the_share_of_shared_errors() {
        let config = CopyConfig {
            round: Span::parse("1d").expect("a span"),
            similarity_min: 990_000,
            evidence_bits_min: 100,
            learns_weights: false,
        };
        let relation =
            |shared, differing| ErrorOverlap { shared, differing, surprise: 200 * BIT }.relation(&config);
        assert_eq!(relation(0, 0), Relation::Independent);
        assert_eq!(relation(890, 0), Relation::Suspected, "one in a hundred is not excluded");
        assert_eq!(relation(891, 0), Relation::Family, "so many without a difference exclude it");
        assert_eq!(relation(8_856, 20), Relation::Family);
        assert_eq!(relation(8_856, 112), Relation::Suspected, "once in eighty may be its own mistake");
        assert_eq!(relation(8_856, 250), Relation::Independent, "and once in thirty-five is");
        let popular = ErrorOverlap { shared: 5_000, differing: 0, surprise: 99 * BIT };
        assert_eq!(popular.relation(&config), Relation::Independent, "what everyone reports is no copy");
        let inseparable = |same, differing| ContestedOverlap { same, differing }.is_inseparable(&config);
        assert!(!inseparable(0, 0) && !inseparable(890, 0), "too few to tell");
        assert!(inseparable(891, 0) && inseparable(4_990, 10), "one in a thousand is not excluded");
        assert!(!inseparable(4_980, 20), "four in a thousand are their own");
    }
}
