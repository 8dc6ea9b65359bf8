//! One vote a stream, one vote a family: which value has most votes.
//!
//! Streams that are shown to be copies are a family; those that may be, for all that is known, are kin, which takes no vote from
//! anyone. A family speaks with one voice: for the value that most of its streams give, by the stream that stands for it. One that is divided
//! abstains: if the least value spoke for it, whoever copied a source for long enough could speak for it too. What else is even is
//! broken by the order of values and of streams, never by who came first, so that the same ballots have the same outcome.

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
    /// Whether anybody looked at whom it may have copied.
    pub is_known: bool,
}

/// What a vote weighs of which nothing is known.
pub const WEIGHT: u32 = 1_000;

impl Membership {
    /// Nothing is known.
    pub const ALONE: Membership = Membership { family: None, kin: None, weight: WEIGHT, is_known: false };
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
    /// Whether somebody looked at whom the stream may have copied.
    pub is_known: bool,
    /// Who speaks.
    pub turn: Turn,
}

/// Who speaks for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Itself: it is alone, or stands for its family. The vote counts.
    Own,
    /// Another of its family.
    Another,
    /// Nobody: its family is divided.
    Nobody,
}

/// Which value leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The value with the greatest weight of votes, and of those the least.
    pub value: u32,
    /// By how much it leads; 0 when another value has as much.
    pub ahead: u64,
}

impl Lead {
    /// Whether another value has as much.
    pub fn is_tied(&self) -> bool {
        self.ahead == 0
    }
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
            let Membership { family, kin, weight, is_known } = families.of(ballot.stream);
            let turn = if family.is_none() { Turn::Own } else { Turn::Another };
            Counted { ballot, family, kin, weight, is_known, turn }
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
                if family[0].family.is_none() {
                    continue;
                }
                match voice(family) {
                    Some(voice) => family[voice].turn = Turn::Own,
                    None => family.iter_mut().for_each(|counted| counted.turn = Turn::Nobody),
                }
            }
        }
        self.lead(values)
    }

    /// The counted votes.
    pub fn votes(&self) -> impl Iterator<Item = &Counted> {
        self.ballots.iter().filter(|counted| counted.turn == Turn::Own)
    }

    fn lead(&mut self, values: &Names) -> Option<Lead> {
        self.sums.clear();
        for counted in self.ballots.iter().filter(|counted| counted.turn == Turn::Own) {
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
        Some(Lead { value, ahead: most - second.unwrap_or(0) })
    }
}

/// Which ballot of a family, whose ballots are by value, speaks for it: the first of the value that most of it gives; `None` when
/// two are given by as many.
fn voice(family: &[Counted]) -> Option<usize> {
    let (mut start, mut best, mut voice) = (0, 0, None);
    for run in family.chunk_by(|a, b| a.ballot.value == b.ballot.value) {
        if run.len() >= best {
            voice = (run.len() > best).then_some(start);
            best = run.len();
        }
        start += run.len();
    }
    voice
}
