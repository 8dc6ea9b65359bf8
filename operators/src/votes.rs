//! One vote a stream, one vote a family: which value has most votes.
//!
//! Streams that are shown to be copies are a family; those that may be, for all that is known, are kin, which takes no vote from
//! anyone. A family speaks with one voice: for the value that most of its streams give, by the stream that stands for it. What is even is
//! broken by the order of values and of streams, never by who came first, so that the same ballots have the same outcome.

use std::cmp::Ordering;

use crate::kept::Names;

/// What one stream says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The stream.
    pub stream: u32,
    /// The value.
    pub value: u32,
    /// Its declared group; the null of a stream that is a group of its own.
    pub group: u32,
    /// Whether it is out of band.
    pub out_of_band: bool,
}

/// Which streams are one family, and how much a family's vote weighs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Families {
    of: Vec<Membership>,
}

/// What is known of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Its family, if it has one besides itself.
    pub family: Option<u32>,
    /// Those it may have copied, or they it, directly or through others.
    pub kin: Option<u32>,
    /// What its family's vote weighs, or its own.
    pub weight: u32,
}

/// What a vote weighs of which nothing is known.
pub const WEIGHT: u32 = 1_000;

impl Membership {
    /// Nothing is known.
    pub const ALONE: Membership = Membership { family: None, kin: None, weight: WEIGHT };
}

impl Families {
    /// What is known of a stream.
    pub fn of(&self, stream: u32) -> Membership {
        self.of.get(stream as usize).copied().unwrap_or(Membership::ALONE)
    }

    /// Says what is known of a stream from now on; gives what was said.
    pub fn set(&mut self, stream: u32, membership: Membership) -> Membership {
        if self.of.len() <= stream as usize {
            self.of.resize(stream as usize + 1, Membership::ALONE);
        }
        std::mem::replace(&mut self.of[stream as usize], membership)
    }
}

/// What became of a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The ballot.
    pub ballot: Ballot,
    /// The stream's family.
    pub family: Option<u32>,
    /// Its kin.
    pub kin: Option<u32>,
    /// What the vote weighs.
    pub weight: u32,
    /// Whether it is the vote of its family, or of a stream alone.
    pub counts: bool,
}

/// Which value leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The value with the greatest weight of votes, and of those the least.
    pub value: u32,
    /// Whether another value has as much.
    pub is_tied: bool,
}

/// Ballots, counted; kept from one count to the next, so that counting asks for no memory.
#[derive(Default)]
pub struct Count {
    /// What became of each ballot.
    pub ballots: Vec<Counted>,
    sums: Vec<(u32, u64)>,
}

impl Count {
    /// Counts ballots of different streams; `None` when there are none.
    pub fn count(
        &mut self,
        ballots: impl IntoIterator<Item = Ballot>,
        families: &Families,
        streams: &Names,
        values: &Names,
    ) -> Option<Lead> {
        self.ballots.clear();
        self.ballots.extend(ballots.into_iter().map(|ballot| {
            let Membership { family, kin, weight } = families.of(ballot.stream);
            Counted { ballot, family, kin, weight, counts: family.is_none() }
        }));
        // Those of a family beside each other, by value, and of each value first who would speak for it.
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
                if family[0].family.is_some() {
                    let voice = voice(family, values);
                    family[voice].counts = true;
                }
            }
        }
        self.lead(values)
    }

    /// The counted votes.
    pub fn votes(&self) -> impl Iterator<Item = &Counted> {
        self.ballots.iter().filter(|counted| counted.counts)
    }

    fn lead(&mut self, values: &Names) -> Option<Lead> {
        self.sums.clear();
        for counted in self.ballots.iter().filter(|counted| counted.counts) {
            let weight = u64::from(counted.weight);
            match self.sums.iter_mut().find(|(value, _)| *value == counted.ballot.value) {
                Some((_, sum)) => *sum += weight,
                None => self.sums.push((counted.ballot.value, weight)),
            }
        }
        let most = self.sums.iter().map(|(_, sum)| *sum).max()?;
        let mut leading = self.sums.iter().filter(|(_, sum)| *sum == most).map(|(value, _)| *value);
        let first = leading.next()?;
        let (mut value, mut is_tied) = (first, false);
        for other in leading {
            is_tied = true;
            if values.get(other) < values.get(value) {
                value = other;
            }
        }
        Some(Lead { value, is_tied })
    }
}

/// Which ballot of a family speaks for it: the first of the value that most of it gives, and of those of the least value.
fn voice(family: &[Counted], values: &Names) -> usize {
    let mut start = 0;
    let runs = family.chunk_by(|a, b| a.ballot.value == b.ballot.value).map(|run| {
        start += run.len();
        (start - run.len(), run.len())
    });
    let better = |(a, many): &(usize, usize), (b, more): &(usize, usize)| -> Ordering {
        let value = |place: usize| values.get(family[place].ballot.value);
        many.cmp(more).then_with(|| value(*b).cmp(value(*a)))
    };
    runs.max_by(better).expect("a family has members").0
}
