//! Streams that share wrong values, learned in rounds: they are one family, and speak with one voice.
//!
//! Streams that agree may all be right. But to be wrong in the same way, again and again, is to have copied. So a round looks at the
//! claims that were heard of in one period of event time, takes the value that leads under the families of the round before as the
//! accepted one (no value is accepted when two lead), and counts for each pair of streams that spoke of a claim, one of them wrong:
//!
//! * `shared`: both gave the same wrong value; and `bits`, how surprising that is, log2 of one over the share of that value among
//!   the votes of all other families (with a half added, so that nothing is certain). A wrong value that everyone gives says little, one that only
//!   the two give says much.
//! * `differing`: they gave different values.
//!
//! Two streams are alike when the share of `shared` among both is at least `alike`, three standard deviations sure (the lower end
//! of Wilson's interval), and chance would need `bits` or more. Streams that read the same meaning of a word from the same world, and are
//! wrong together, fail the first: they differ once in twenty or fifty times, in a minute or a digit, where a copy
//! differs once in a thousand. A family is what is alike, directly or through others; it is called after its least stream.
//!
//! That leaves one way to fool it: a family with a majority is never wrong, and whoever tells the truth against it seems to copy. So a
//! second measure asks nobody who is right. On the claims that are contested (two values are given at least), two streams are
//! inseparable when it is shown that they are alike, and not excluded that they differ in a tenth of what `alike` allows: for all that
//! can be known they are one source. They are kin, whoever is right; and a round takes for wrong only what is
//! so both when they vote each and when they vote once, so that no bloc makes others wrong by its number. What neither measure sees is a family that errs where no two others agree on
//! anything else, and one that is always right: of the last nothing is wrong to believe.
//!
//! Two streams are kin when they may be alike: when chance would need `bits` or more, and the upper end of the interval is not
//! below `alike`; or when they are inseparable. To take a vote away, copying must be shown; to vouch for a claim together, it must be excluded. So a family votes
//! once, and kin are of one correlation group.
//!
//! When asked, the share of right values of each family weighs its vote: log2 of 100 times the odds that it is right, as if each claim had
//! a hundred wrong values. It starts at 8 right of 10.
//!
//! * Input: evidence, as facts. The newest of a stream for a claim in the period counts, by event time, then by tick; what says that
//!   it is of the future is of its tick, or it would end all rounds until then.
//! * Output: what is known of each stream that was heard in a round that ended, a changelog; `pairs`, those that are kin, a changelog.
//! * Time: a round ends with the first fact of a later period, before it is heard, at its tick: by the log alone.
//! * State: the votes of the period; for each pair of streams that ever met, five numbers. No value that was accepted is kept.
//!
//! Invariant: what is known at a tick is what the rounds that ended by then have counted; no gold standard is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray,
    UInt64Array,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::{KeyHash, Span, Tick, columns};

use crate::blank::without_blanks;
use crate::checkpointed::Lasting;
use crate::kept::{Names, plain};
use crate::keys::{NULL_KEY, keys_of};
use crate::ordered::Ordered;
use crate::rows::ticks_of;
use crate::votes::{Ballot, Count, Families, Membership, WEIGHT};

/// How families are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learn {
    /// How long a round is.
    pub period: Span,
    /// The least share of shared wrong values of streams that are alike, in millionths.
    pub alike: u32,
    /// How surprising they must be at least.
    pub bits: u32,
    /// Whether votes weigh what the share of right values says.
    pub weighs: bool,
}

/// What a pair of streams had in common where one of them was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// Wrong values that both gave.
    pub shared: u64,
    /// How often they gave different values.
    pub differing: u64,
    /// How surprising the shared ones are, in 65,536ths of a bit.
    pub surprise: u64,
}

/// What a pair of streams gave where two values at least were given, whoever was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contested {
    /// How often they gave the same value.
    pub same: u64,
    /// How often they gave different values.
    pub differing: u64,
}

impl Contested {
    /// Whether the two cannot be told from one source.
    pub fn is_inseparable(&self, learn: &Learn) -> bool {
        let alike = i128::from(learn.alike);
        let nearer = MILLION - (MILLION - alike) / 10;
        let against = |share| Against::of(self.same, self.differing, share);
        against(alike).is_above() && !against(nearer).is_below()
    }
}

const MILLION: i128 = 1_000_000;

/// A share that was counted against one, in millionths, that is supposed. Wilson's interval ends where the score test begins to
/// refuse, so no root is needed.
struct Against {
    beyond: i128,
    is_sure: bool,
}

impl Against {
    fn of(yes: u64, no: u64, share: i128) -> Against {
        let all = i128::from(yes) + i128::from(no);
        let beyond = i128::from(yes) * MILLION - share * all;
        Against { beyond, is_sure: all > 0 && beyond * beyond >= 9 * all * share * (MILLION - share) }
    }

    /// Whether the share is surely at least the one supposed.
    fn is_above(&self) -> bool {
        self.is_sure && self.beyond >= 0
    }

    /// Whether it is surely less.
    fn is_below(&self) -> bool {
        self.is_sure && self.beyond < 0
    }
}

/// The parts of a bit that surprise is counted in.
const BIT: u64 = 1 << 16;

impl Pair {
    /// How near they are.
    pub fn nearness(&self, learn: &Learn) -> Nearness {
        let against = Against::of(self.shared, self.differing, i128::from(learn.alike));
        let is_surprising = self.surprise / BIT >= u64::from(learn.bits);
        match () {
            () if self.shared + self.differing == 0 || !is_surprising => Nearness::Apart,
            () if against.is_above() => Nearness::Family,
            () if against.is_below() => Nearness::Apart,
            () => Nearness::Kin,
        }
    }
}

/// How near two streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Nothing speaks for copying, or it is excluded.
    Apart,
    /// It is not excluded.
    Kin,
    /// It is shown.
    Family,
}

/// Two streams, the lesser number first.
pub type Two = (u32, u32);

/// What speaks for it that two streams are near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Near {
    /// What they had in common where one was wrong.
    pub pair: Pair,
    /// What they had in common whoever was right.
    pub contested: Contested,
    /// How near that brings them.
    pub nearness: Nearness,
}

/// What is known of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its family, if it has one besides itself.
    pub family: Option<u32>,
    /// How many streams the family has.
    pub size: u32,
    /// Its kin, the family among them.
    pub kin: Option<u32>,
    /// The stream that is most like it, and what they have in common.
    pub likest: Option<(u32, Pair)>,
    /// How many of its values were accepted, of how many; only where votes are weighed.
    pub right: Option<(u64, u64)>,
    /// What a vote of its family weighs, in thousandths.
    pub weight: u32,
}

/// What the rounds have counted, and what is known of streams.
pub struct Learner {
    learn: Learn,
    round: Option<i64>,
    /// What was said in this round, by claim: stream, time, value.
    said: BTreeMap<KeyHash, Vec<(u32, i64, u32)>>,
    pairs: BTreeMap<Two, Pair>,
    contested: BTreeMap<Two, Contested>,
    /// Of every stream that was heard in a round that ended: how many of its values were accepted, of how many.
    records: BTreeMap<u32, (u64, u64)>,
    known: BTreeMap<u32, Known>,
    near: BTreeMap<Two, Near>,
    count: Count,
}

/// What differs, by key: what was so, and what is.
pub type Changes<K, V> = Vec<(K, Option<V>, Option<V>)>;

/// What a round has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// What is known of streams.
    pub streams: Changes<u32, Known>,
    /// The pairs that are kin.
    pub pairs: Changes<Two, Near>,
}

impl Learner {
    /// Nothing is known.
    pub fn new(learn: Learn) -> Learner {
        Learner {
            learn,
            round: None,
            said: BTreeMap::new(),
            pairs: BTreeMap::new(),
            contested: BTreeMap::new(),
            records: BTreeMap::new(),
            known: BTreeMap::new(),
            near: BTreeMap::new(),
            count: Count::default(),
        }
    }

    /// Whether a fact of this time ends the round.
    pub fn is_over(&self, time: i64) -> bool {
        self.round.is_some_and(|round| self.round_of(time) > round)
    }

    fn round_of(&self, time: i64) -> i64 {
        time.div_euclid(self.learn.period.micros())
    }

    /// A stream says a value of a claim, perhaps none. A fact of an earlier period is of the round in which it is heard.
    pub fn hear(&mut self, claim: KeyHash, stream: u32, time: i64, value: u32) {
        self.round = self.round.max(Some(self.round_of(time)));
        let said = self.said.entry(claim).or_default();
        match said.iter_mut().find(|(other, ..)| *other == stream) {
            Some((_, last, _)) if *last > time => {}
            Some(before) => *before = (stream, time, value),
            None => said.push((stream, time, value)),
        }
    }

    /// Ends the round, and learns from it.
    pub fn end(&mut self, streams: &Names, values: &Names) -> Learned {
        let said = std::mem::take(&mut self.said);
        for said in said.values() {
            self.compare(said);
        }
        let families = self.near.iter().filter(|(_, near)| near.nearness == Nearness::Family);
        let families: Vec<Two> = families.map(|(streams, _)| *streams).collect();
        let blocs = families.iter().copied().chain(self.inseparable());
        let voices = [self.voices(families.iter().copied(), streams), self.voices(blocs, streams)];
        for said in said.values() {
            self.learn_from(said, &voices, streams, values);
        }
        self.learn_again(streams)
    }

    /// What follows from what the rounds have counted.
    fn learn_again(&mut self, streams: &Names) -> Learned {
        let shown = self.pairs.iter().map(|(streams, pair)| (*streams, pair.nearness(&self.learn)));
        let mut nearness: BTreeMap<Two, Nearness> = shown.filter(|(_, of)| *of > Nearness::Apart).collect();
        for streams in self.inseparable() {
            nearness.entry(streams).or_insert(Nearness::Kin);
        }
        let near = nearness.into_iter().map(|(streams, nearness)| {
            let pair = self.pairs.get(&streams).copied().unwrap_or_default();
            (streams, Near { pair, contested: self.contested[&streams], nearness })
        });
        let near: BTreeMap<Two, Near> = near.collect();
        let known = self.known_by(&near, streams);
        let learned = Learned { streams: changes(&self.known, &known), pairs: changes(&self.near, &near) };
        (self.known, self.near) = (known, near);
        learned
    }

    /// Counts what was said of a claim, if it is contested, whoever is right.
    fn compare(&mut self, said: &[(u32, i64, u32)]) {
        let spoken = || said.iter().filter(|(.., value)| *value != Names::NULL);
        let is_contested = spoken().any(|(.., value)| spoken().any(|(.., other)| value != other));
        for (place, (one, _, value)) in spoken().enumerate() {
            self.records.entry(*one).or_default();
            for (other, _, theirs) in spoken().skip(place + 1).filter(|_| is_contested) {
                let pair = self.contested.entry((*one.min(other), *one.max(other))).or_default();
                let count = if value == theirs { &mut pair.same } else { &mut pair.differing };
                *count += 1;
            }
        }
    }

    /// The pairs that cannot be told from one source.
    fn inseparable(&self) -> impl Iterator<Item = Two> {
        self.contested
            .iter()
            .filter(|(_, pair)| pair.is_inseparable(&self.learn))
            .map(|(streams, _)| *streams)
    }

    /// Who votes once when these pairs are of one voice.
    fn voices(&self, pairs: impl Iterator<Item = Two>, streams: &Names) -> Families {
        let members: BTreeSet<u32> = self.records.keys().copied().collect();
        let blocs = components(&members, pairs, streams);
        let mut sizes: BTreeMap<u32, u32> = BTreeMap::new();
        blocs.values().for_each(|bloc| *sizes.entry(*bloc).or_default() += 1);
        let mut voices = Families::default();
        for (stream, bloc) in blocs {
            let weight = self.known.get(&stream).map_or(WEIGHT, |known| known.weight);
            let family = (sizes[&bloc] > 1).then_some(bloc);
            voices.set(stream, Membership { family, weight, ..Membership::ALONE });
        }
        voices
    }

    fn learn_from(
        &mut self,
        said: &[(u32, i64, u32)],
        voices: &[Families; 2],
        streams: &Names,
        values: &Names,
    ) {
        let spoken = said.iter().filter(|(.., value)| *value != Names::NULL);
        let ballots = spoken.map(|(stream, _, value)| Ballot {
            stream: *stream,
            value: *value,
            group: Names::NULL,
            out_of_band: false,
        });
        let mut leader = |voices: &Families| {
            let lead = self.count.count(ballots.clone(), voices, streams, values);
            lead.filter(|lead| !lead.is_tied()).map(|lead| lead.value)
        };
        let [by_families, by_blocs] = voices;
        let of_blocs = leader(by_blocs);
        let Some(accepted) = leader(by_families).filter(|value| of_blocs == Some(*value)) else { return };
        let ballots = &self.count.ballots;
        let votes = self.count.votes().count();
        for (place, one) in ballots.iter().enumerate() {
            let is_right = one.ballot.value == accepted;
            let (right, all) = self.records.entry(one.ballot.stream).or_default();
            *right += u64::from(is_right);
            *all += 1;
            for other in &ballots[place + 1..] {
                let is_same = one.ballot.value == other.ballot.value;
                if is_right && is_same {
                    continue;
                }
                let (a, b) = (one.ballot.stream, other.ballot.stream);
                let pair = self.pairs.entry((a.min(b), a.max(b))).or_default();
                if !is_same {
                    pair.differing += 1;
                    continue;
                }
                pair.shared += 1;
                let is_theirs = |stream: u32, family: Option<u32>| {
                    [one, other].iter().any(|theirs| {
                        theirs.ballot.stream == stream || (family.is_some() && theirs.family == family)
                    })
                };
                let theirs = self.count.votes().filter(|vote| is_theirs(vote.ballot.stream, vote.family));
                let others = (votes - theirs.count()) as u64;
                let same = self.count.votes().filter(|vote| {
                    vote.ballot.value == one.ballot.value && !is_theirs(vote.ballot.stream, vote.family)
                });
                pair.surprise += log2(2 * others + 2) - log2(2 * same.count() as u64 + 1);
            }
        }
    }

    /// What is known of each stream when these pairs are near.
    fn known_by(&self, near: &BTreeMap<Two, Near>, streams: &Names) -> BTreeMap<u32, Known> {
        let members: BTreeSet<u32> = self.records.keys().copied().collect();
        let pairs = |least: Nearness| {
            near.iter().filter(move |(_, near)| near.nearness >= least).map(|(pair, _)| *pair)
        };
        let families = components(&members, pairs(Nearness::Family), streams);
        let kin = components(&members, pairs(Nearness::Kin), streams);
        let record = |stream: u32| self.records.get(&stream).copied().unwrap_or_default();
        let mut pooled: BTreeMap<u32, (u32, (u64, u64))> = BTreeMap::new();
        let mut relatives: BTreeMap<u32, u32> = BTreeMap::new();
        for stream in &members {
            let (size, (right, all)) = pooled.entry(families[stream]).or_default();
            let own = record(*stream);
            (*size, *right, *all) = (*size + 1, *right + own.0, *all + own.1);
            *relatives.entry(kin[stream]).or_default() += 1;
        }
        let mut likest: BTreeMap<u32, (u32, Pair)> = BTreeMap::new();
        for ((a, b), Near { pair, .. }) in near {
            for (one, other) in [(*a, *b), (*b, *a)] {
                let best = likest.entry(one).or_insert((other, *pair));
                let names = || streams.get(best.0).cmp(streams.get(other));
                if pair.shared.cmp(&best.1.shared).then_with(names).is_gt() {
                    *best = (other, *pair);
                }
            }
        }
        let known = |stream: &u32| {
            let (size, record_of_family) = pooled[&families[stream]];
            let known = Known {
                family: (size > 1).then_some(families[stream]),
                size,
                kin: (relatives[&kin[stream]] > 1).then_some(kin[stream]),
                likest: likest.get(stream).copied(),
                right: self.learn.weighs.then(|| record(*stream)),
                weight: if self.learn.weighs { weight(record_of_family) } else { WEIGHT },
            };
            (*stream, known)
        };
        members.iter().map(known).collect()
    }
}

/// What is connected by pairs, each called after its least stream.
fn components(
    members: &BTreeSet<u32>,
    pairs: impl Iterator<Item = (u32, u32)>,
    streams: &Names,
) -> BTreeMap<u32, u32> {
    let mut of: BTreeMap<u32, u32> = members.iter().map(|stream| (*stream, *stream)).collect();
    for (a, b) in pairs {
        let (a, b) = (of[&a], of[&b]);
        let (least, other) = if streams.get(a) <= streams.get(b) { (a, b) } else { (b, a) };
        of.values_mut().filter(|name| **name == other).for_each(|name| *name = least);
    }
    of
}

/// What differs between two maps, by key.
fn changes<K: Copy + Ord, V: Copy + PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> Changes<K, V> {
    let keys: BTreeSet<K> = before.keys().chain(after.keys()).copied().collect();
    let of = |key: K| (key, before.get(&key).copied(), after.get(&key).copied());
    keys.into_iter().map(of).filter(|(_, before, after)| before != after).collect()
}

/// What a vote weighs, in thousandths of a bit, of which so many were right of so many.
fn weight((right, all): (u64, u64)) -> u32 {
    let (right, wrong) = (right + 8, all - right + 2);
    // Between one in a hundred and ninety-nine in a hundred, so that no vote is worthless or beyond doubt.
    let (odds, against) = match () {
        () if right > 99 * wrong => (99, 1),
        () if wrong > 99 * right => (1, 99),
        () => (right, wrong),
    };
    let bits = (log2(100 * odds) as i64) - (log2(against) as i64);
    u32::try_from(bits * i64::from(WEIGHT) / BIT as i64).unwrap_or(0).max(1)
}

/// The logarithm to base 2 of a number that is not zero, in 65,536ths, by repeated squaring: the same on every machine.
fn log2(number: u64) -> u64 {
    let whole = u64::from(number.ilog2());
    let mut fraction = 0;
    // The number as a fraction from 1 to 2, of 2^63.
    let mut rest = number << (63 - whole);
    for _ in 0..16 {
        let square = (u128::from(rest) * u128::from(rest)) >> 63;
        let is_two = square >> 64 != 0;
        rest = if is_two { (square >> 1) as u64 } else { square as u64 };
        fraction = fraction << 1 | u64::from(is_two);
    }
    whole * BIT + fraction
}

/// Where evidence has what; the first column is the tick.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The claim.
    pub claim: usize,
    /// The stream.
    pub stream: usize,
    /// The value.
    pub value: usize,
    /// The event time.
    pub time: usize,
}

/// A row of a changelog: its tick, its key, what is so, and the difference.
type Said<K, V> = (u64, K, V, i64);

/// What is known of streams, as a changelog.
pub struct Learning {
    places: Places,
    schemas: [SchemaRef; 2],
    learner: Learner,
    streams: Names,
    values: Names,
}

impl Learning {
    /// The columns of the families, and of the pairs, of streams of that type.
    pub fn schemas(stream: &DataType) -> [SchemaRef; 2] {
        let stream = |name: &str, nullable| Field::new(name, plain(stream), nullable);
        let number = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
        let tick = Field::new(columns::TICK, DataType::UInt64, false);
        let families = vec![
            tick.clone(),
            stream("stream", false),
            stream("family", true),
            number("size", false),
            stream("kin", true),
            stream("likest", true),
            number("shared_wrong", true),
            number("differing", true),
            number("surprise_bits", true),
            number("values_right", true),
            number("values_count", true),
            number("weight", false),
            number(columns::DIFF, false),
        ];
        let pairs = vec![
            tick,
            stream("stream", false),
            stream("other", false),
            number("shared_wrong", false),
            number("differing", false),
            number("surprise_bits", false),
            number("contested_same", false),
            number("contested_differing", false),
            Field::new("is_family", DataType::Boolean, false),
            number(columns::DIFF, false),
        ];
        [families, pairs].map(|fields| Arc::new(Schema::new(fields)))
    }

    /// By which columns rows of one tick are in order.
    pub fn orders() -> [Vec<usize>; 2] {
        [vec![1], vec![1, 2]]
    }

    /// Nothing is known; `input` are the columns of the evidence.
    pub fn new(input: &Schema, places: Places, learn: Learn) -> Learning {
        let data_type = |place: usize| input.field(place).data_type().clone();
        Learning {
            schemas: Learning::schemas(&data_type(places.stream)),
            learner: Learner::new(learn),
            streams: Names::new(data_type(places.stream)),
            values: Names::new(data_type(places.value)),
            places,
        }
    }

    fn families_batch(&self, said: &[Said<u32, Known>]) -> RecordBatch {
        let known = || said.iter().map(|(_, _, known, _)| known);
        let pair = |of: fn(&Pair) -> u64| numbers(known().map(|k| k.likest.map(|(_, pair)| of(&pair))));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(said.iter().map(|(tick, ..)| *tick))),
            self.streams.column(said.iter().map(|(_, stream, ..)| *stream)),
            self.streams.column(known().map(|k| k.family.unwrap_or(Names::NULL))),
            numbers(known().map(|k| Some(u64::from(k.size)))),
            self.streams.column(known().map(|k| k.kin.unwrap_or(Names::NULL))),
            self.streams.column(known().map(|k| k.likest.map_or(Names::NULL, |(other, _)| other))),
            pair(|pair| pair.shared),
            pair(|pair| pair.differing),
            pair(|pair| pair.surprise / BIT),
            numbers(known().map(|k| k.right.map(|(right, _)| right))),
            numbers(known().map(|k| k.right.map(|(_, all)| all))),
            numbers(known().map(|k| Some(u64::from(k.weight)))),
            Arc::new(Int64Array::from_iter_values(said.iter().map(|(.., diff)| *diff))),
        ];
        RecordBatch::try_new(Arc::clone(&self.schemas[0]), columns).expect("the columns are the schema's")
    }

    fn pairs_batch(&self, said: &[Said<Two, Near>]) -> RecordBatch {
        // The lesser name first, so that a pair stands in one place.
        let ordered: Vec<(u32, u32)> = said
            .iter()
            .map(
                |(_, (a, b), ..)| {
                    if self.streams.get(*a) < self.streams.get(*b) { (*a, *b) } else { (*b, *a) }
                },
            )
            .collect();
        let near = || said.iter().map(|(_, _, near, _)| near);
        let pair = |of: fn(&Pair) -> u64| numbers(near().map(|near| Some(of(&near.pair))));
        let contested = |of: fn(&Contested) -> u64| numbers(near().map(|near| Some(of(&near.contested))));
        let is_family = near().map(|near| near.nearness == Nearness::Family);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(said.iter().map(|(tick, ..)| *tick))),
            self.streams.column(ordered.iter().map(|(stream, _)| *stream)),
            self.streams.column(ordered.iter().map(|(_, other)| *other)),
            pair(|pair| pair.shared),
            pair(|pair| pair.differing),
            pair(|pair| pair.surprise / BIT),
            contested(|contested| contested.same),
            contested(|contested| contested.differing),
            Arc::new(is_family.map(Some).collect::<BooleanArray>()),
            Arc::new(Int64Array::from_iter_values(said.iter().map(|(.., diff)| *diff))),
        ];
        RecordBatch::try_new(Arc::clone(&self.schemas[1]), columns).expect("the columns are the schema's")
    }
}

fn numbers(numbers: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Arc::new(numbers.map(|number| number.map(signed)).collect::<Int64Array>())
}

impl Ordered for Learning {
    fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
        let rows = &without_blanks(&inputs[0], &[self.places.claim, self.places.stream]);
        let keys = keys_of(rows.column(self.places.claim));
        let streams = self.streams.numbers(rows, self.places.stream);
        let values = self.values.numbers(rows, self.places.value);
        let times = rows.column(self.places.time).as_primitive::<TimestampMicrosecondType>();
        let (mut families, mut pairs) = (Vec::new(), Vec::new());
        for (row, tick) in ticks_of(rows).values().iter().enumerate() {
            if keys[row] == NULL_KEY || streams[row] == Names::NULL || times.is_null(row) {
                continue; // Of no claim, by nobody, or never.
            }
            let time = times.value(row).min(Tick(*tick).micros());
            if self.learner.is_over(time) {
                let learned = self.learner.end(&self.streams, &self.values);
                for (stream, before, after) in learned.streams {
                    families.extend(before.map(|known| (*tick, stream, known, -1)));
                    families.extend(after.map(|known| (*tick, stream, known, 1)));
                }
                for (streams, before, after) in learned.pairs {
                    pairs.extend(before.map(|pair| (*tick, streams, pair, -1)));
                    pairs.extend(after.map(|pair| (*tick, streams, pair, 1)));
                }
            }
            self.learner.hear(keys[row], streams[row], time, values[row]);
        }
        vec![self.families_batch(&families), self.pairs_batch(&pairs)]
    }
}

/// What is put down: rows of five kinds, which use some of the columns each.
#[derive(Default)]
struct PutDown {
    kinds: Vec<&'static str>,
    claims: Vec<KeyHash>,
    streams: [Vec<u32>; 2],
    values: Vec<u32>,
    numbers: [Vec<i64>; 3],
}

impl PutDown {
    fn push(&mut self, kind: &'static str, claim: KeyHash, streams: [u32; 2], value: u32, numbers: [i64; 3]) {
        self.kinds.push(kind);
        self.claims.push(claim);
        self.values.push(value);
        self.streams.iter_mut().zip(streams).for_each(|(all, stream)| all.push(stream));
        self.numbers.iter_mut().zip(numbers).for_each(|(all, number)| all.push(number));
    }
}

impl Learning {
    /// The columns of what is put down, of evidence with these columns.
    pub fn put_down_schema(input: &Schema, places: Places) -> SchemaRef {
        let field = |name: &str, place: usize| Field::new(name, plain(input.field(place).data_type()), true);
        let number = |name: &str| Field::new(name, DataType::Int64, false);
        Arc::new(Schema::new(vec![
            Field::new(columns::TICK, DataType::UInt64, false),
            Field::new("_kind", DataType::Utf8, false),
            Field::new("_claim", DataType::FixedSizeBinary(16), false),
            field("_stream", places.stream),
            field("_other", places.stream),
            field("_value", places.value),
            number("_first"),
            number("_second"),
            number("_third"),
        ]))
    }
}

impl Lasting for Learning {
    fn put_down(&self) -> Vec<ArrayRef> {
        let mut rows = PutDown::default();
        const NULL: u32 = Names::NULL;
        let learner = &self.learner;
        let signed = u64::cast_signed;
        learner.round.iter().for_each(|round| rows.push("round", 0, [NULL; 2], NULL, [*round, 0, 0]));
        for (claim, said) in &learner.said {
            for (stream, time, value) in said {
                rows.push("said", *claim, [*stream, NULL], *value, [*time, 0, 0]);
            }
        }
        for ((a, b), pair) in &learner.pairs {
            // Numbers are another run's; names are not.
            let (one, other) = if self.streams.get(*a) < self.streams.get(*b) { (a, b) } else { (b, a) };
            let Pair { shared, differing, surprise } = *pair;
            rows.push("pair", 0, [*one, *other], NULL, [shared, differing, surprise].map(signed));
        }
        for ((a, b), pair) in &learner.contested {
            let (one, other) = if self.streams.get(*a) < self.streams.get(*b) { (a, b) } else { (b, a) };
            let Contested { same, differing } = *pair;
            rows.push("contested", 0, [*one, *other], NULL, [same, differing, 0].map(signed));
        }
        for (stream, (right, all)) in &learner.records {
            rows.push("record", 0, [*stream, NULL], NULL, [*right, *all, 0].map(signed));
        }
        let claims = rows.claims.iter().map(|claim| claim.to_le_bytes()).collect::<Vec<_>>().concat();
        let [one, other] = rows.streams.map(|streams| self.streams.column(streams));
        let numbers = rows.numbers.map(|numbers| Arc::new(Int64Array::from(numbers)) as ArrayRef);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.kinds)),
            Arc::new(FixedSizeBinaryArray::new(16, Buffer::from_vec(claims), None)),
            one,
            other,
            self.values.column(rows.values),
        ];
        columns.extend(numbers);
        columns
    }

    fn take_up(&mut self, rows: &RecordBatch) {
        let kinds = rows.column(1).as_string::<i32>();
        let claims = rows.column(2).as_fixed_size_binary();
        let [ones, others] = [3, 4].map(|place| self.streams.numbers(rows, place));
        let values = self.values.numbers(rows, 5);
        let numbers = [6, 7, 8].map(|place| rows.column(place).as_primitive::<Int64Type>());
        let learner = &mut self.learner;
        for row in 0..rows.num_rows() {
            let [first, second, third] = numbers.map(|numbers| numbers.value(row));
            let [shared, differing, surprise] = [first, second, third].map(i64::cast_unsigned);
            let (one, other) = (ones[row], others[row]);
            match kinds.value(row) {
                "round" => learner.round = Some(first),
                "said" => {
                    let claim = claims.value(row).try_into().expect("sixteen bytes");
                    let said = learner.said.entry(KeyHash::from_le_bytes(claim)).or_default();
                    said.push((one, first, values[row]));
                }
                "pair" => {
                    let pair = Pair { shared, differing, surprise };
                    learner.pairs.insert((one.min(other), one.max(other)), pair);
                }
                "contested" => {
                    let pair = Contested { same: shared, differing };
                    learner.contested.insert((one.min(other), one.max(other)), pair);
                }
                "record" => drop(learner.records.insert(one, (shared, differing))),
                kind => unreachable!("nothing is put down as {kind}"),
            }
        }
        // What follows was said before.
        learner.learn_again(&self.streams);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_the_mathematics() {
        for number in (1..5_000).chain([u64::MAX, 1 << 40]) {
            let exact = (number as f64).log2() * BIT as f64;
            assert!((log2(number) as f64 - exact).abs() <= 2.0, "{number}: {} and {exact}", log2(number));
        }
    }

    #[test]
    fn alike_is_a_matter_of_enough_and_of_rate() {
        let learn =
            Learn { period: Span::parse("1d").expect("a span"), alike: 990_000, bits: 100, weighs: false };
        let nearness = |shared, differing| Pair { shared, differing, surprise: 200 * BIT }.nearness(&learn);
        assert_eq!(nearness(0, 0), Nearness::Apart);
        assert_eq!(nearness(890, 0), Nearness::Kin, "one in a hundred is not excluded");
        assert_eq!(nearness(891, 0), Nearness::Family, "so many without a difference exclude it");
        assert_eq!(nearness(8_856, 20), Nearness::Family);
        assert_eq!(nearness(8_856, 112), Nearness::Kin, "once in eighty may be its own mistake");
        assert_eq!(nearness(8_856, 250), Nearness::Apart, "and once in thirty-five is");
        let popular = Pair { shared: 5_000, differing: 0, surprise: 99 * BIT };
        assert_eq!(popular.nearness(&learn), Nearness::Apart, "what everyone says is not copied from anyone");
        let inseparable = |same, differing| Contested { same, differing }.is_inseparable(&learn);
        assert!(!inseparable(0, 0) && !inseparable(890, 0), "too few to say so");
        assert!(inseparable(891, 0) && inseparable(4_990, 10), "one in a thousand is not excluded");
        assert!(!inseparable(4_980, 20), "four in a thousand are their own");
    }
}
