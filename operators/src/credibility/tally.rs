//! Tally of the votes on one claim: one vote per stream, one vote per copy family, and the leading
//! value.
//!
//! Streams that are shown to be copies of each other form a family. Streams that may be copies, but
//! are not shown to be, form a suspected group, which takes a vote from nobody. A family casts one
//! vote, for the value that most of its streams report, and one of its streams is its spokesperson.
//! A family whose most frequent value is tied abstains: if a fixed rule chose among the tied
//! values, whoever copied a source for long enough could speak for that source.
//!
//! Every other tie is broken by the order of values and of stream names, never by the order of
//! arrival, so equal ballots always give equal results.

use crate::core::interner::Interner;

/// A stream's ballot in the tally of one claim: the value that it reports, and what the quorum
/// knows of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The stream's number in the interner of streams.
    pub stream: u32,
    /// The value's number in the interner of values.
    pub value: u32,
    /// The stream's declared correlation group; [`Interner::NULL`] if the stream is its own group.
    pub group: u32,
    /// Whether the stream is out of band.
    pub out_of_band: bool,
}

/// The copy family, the suspected group and the vote weight of every stream, as a tally reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyTable {
    by_stream: Vec<Membership>,
}

/// A stream's membership in a copy family and in a suspected group, and the weight of its vote in a
/// tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The family, named by one of its streams; `None` if the stream copies nobody.
    pub family: Option<u32>,
    /// The streams that may copy from each other, directly or through others; `None` if there are
    /// none.
    pub suspected_group: Option<u32>,
    /// The weight of the family's vote, or of the stream's own, in thousandths.
    pub weight: u32,
    /// Whether copy detection has examined the stream.
    pub is_examined: bool,
}

/// The weight in a tally of a vote to which copy detection gives no other, in thousandths.
pub const WEIGHT_DEFAULT: u32 = 1_000;

impl Membership {
    /// The membership of a stream that copy detection has not examined.
    pub const UNEXAMINED: Membership =
        Membership { family: None, suspected_group: None, weight: WEIGHT_DEFAULT, is_examined: false };
}

impl FamilyTable {
    /// A stream's membership; [`Membership::UNEXAMINED`] if none was set.
    pub fn of(&self, stream: u32) -> Membership {
        self.by_stream.get(stream as usize).copied().unwrap_or(Membership::UNEXAMINED)
    }

    /// Sets a stream's membership and returns the one before.
    pub fn set(&mut self, stream: u32, membership: Membership) -> Membership {
        if self.by_stream.len() <= stream as usize {
            self.by_stream.resize(stream as usize + 1, Membership::UNEXAMINED);
        }
        std::mem::replace(&mut self.by_stream[stream as usize], membership)
    }
}

/// A ballot after the tally: its weight, and whether it is the vote of its stream, of a family, or
/// of nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedBallot {
    /// The ballot as it was cast.
    pub ballot: Ballot,
    /// The stream's copy family.
    pub family: Option<u32>,
    /// The stream's suspected group.
    pub suspected_group: Option<u32>,
    /// The weight of the vote, in thousandths.
    pub weight: u32,
    /// Whether copy detection has examined the stream.
    pub is_examined: bool,
    /// Who votes for the stream.
    pub spokesperson: Spokesperson,
}

/// Who votes for a stream in a tally: the stream, another stream of its copy family, or nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spokesperson {
    /// The stream itself, alone or for its family. Only these ballots count as votes.
    Itself,
    /// Another stream of its family.
    Another,
    /// Nobody: the family is divided and abstains.
    Nobody,
}

/// The leader of a tally: the value with the greatest weight of votes, and its lead over the
/// second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The leading value; the least of several with the same weight.
    pub value: u32,
    /// By how much weight it leads; 0 if another value has the same weight.
    pub ahead: u64,
}

impl Leader {
    /// Whether another value has the same weight.
    pub fn is_tied(&self) -> bool {
        self.ahead == 0
    }
}

/// The tally of one claim: its counted ballots. Reused from count to count, so that counting does
/// not allocate.
#[derive(Default)]
pub struct VoteTally {
    /// The ballots of the last count, each with its spokesperson.
    pub ballots: Vec<CountedBallot>,
    sums: Vec<(u32, u64)>,
}

impl VoteTally {
    /// Counts the ballots, at most one per stream, and returns the leading value; `None` without
    /// votes.
    pub fn count(
        &mut self,
        ballots: impl IntoIterator<Item = Ballot>,
        families: &FamilyTable,
        streams: &Interner,
        values: &Interner,
    ) -> Option<Leader> {
        self.ballots.clear();
        self.ballots.extend(ballots.into_iter().map(|ballot| {
            let Membership { family, suspected_group, weight, is_examined } = families.of(ballot.stream);
            let spokesperson = if family.is_none() { Spokesperson::Itself } else { Spokesperson::Another };
            CountedBallot { ballot, family, suspected_group, weight, is_examined, spokesperson }
        }));
        // Sort the ballots of a family together, by value, the preferred spokesperson of each value
        // first.
        let speaks_first = |a: &Ballot, b: &Ballot| {
            let names = || streams.get(a.stream).cmp(streams.get(b.stream));
            b.out_of_band.cmp(&a.out_of_band).then_with(names)
        };
        if self.ballots.iter().any(|counted| counted.family.is_some()) {
            self.ballots.sort_by(|a, b| {
                let values = || a.ballot.value.cmp(&b.ballot.value);
                a.family.cmp(&b.family).then_with(values).then_with(|| speaks_first(&a.ballot, &b.ballot))
            });
            for family in self.ballots.chunk_by_mut(|a, b| a.family == b.family) {
                if family[0].family.is_none() {
                    continue;
                }
                match spokesperson_of(family) {
                    Some(index) => family[index].spokesperson = Spokesperson::Itself,
                    None => {
                        family.iter_mut().for_each(|counted| counted.spokesperson = Spokesperson::Nobody);
                    }
                }
            }
        }
        self.leader(values)
    }

    /// The ballots of the last count that are votes.
    pub fn votes(&self) -> impl Iterator<Item = &CountedBallot> {
        self.ballots.iter().filter(|counted| counted.spokesperson == Spokesperson::Itself)
    }

    fn leader(&mut self, values: &Interner) -> Option<Leader> {
        self.sums.clear();
        for counted in self.ballots.iter().filter(|counted| counted.spokesperson == Spokesperson::Itself) {
            let weight = u64::from(counted.weight);
            match self.sums.iter_mut().find(|(value, _)| *value == counted.ballot.value) {
                Some((_, sum)) => *sum += weight,
                None => self.sums.push((counted.ballot.value, weight)),
            }
        }
        let most = self.sums.iter().map(|(_, sum)| *sum).max()?;
        let leading = self.sums.iter().filter(|(_, sum)| *sum == most).map(|(value, _)| *value);
        let value = leading.min_by(|a, b| values.get(*a).cmp(values.get(*b)))?;
        let second = self.sums.iter().filter(|(other, _)| *other != value).map(|(_, sum)| *sum).max();
        Some(Leader { value, ahead: most - second.unwrap_or(0) })
    }
}

/// The index of the ballot that votes for a family, whose ballots are sorted by value.
///
/// It is the first ballot of the most frequent value; `None` if two values are equally frequent.
fn spokesperson_of(family: &[CountedBallot]) -> Option<usize> {
    let (mut start, mut most, mut chosen) = (0, 0, None);
    for run in family.chunk_by(|a, b| a.ballot.value == b.ballot.value) {
        if run.len() >= most {
            chosen = (run.len() > most).then_some(start);
            most = run.len();
        }
        start += run.len();
    }
    chosen
}
