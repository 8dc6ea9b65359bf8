//! How alike two values are, and what that says about whether two records are of one thing (Fellegi and Sunter, 1969).
//!
//! Likeness is in thousandths and weight in thousandths of a bit, both whole, so that no sum depends on an order.

use super::normal::normal;

/// How alike two values can be at most.
pub const ALIKE: i64 = 1_000;

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparator {
    /// Equal texts or not.
    Exact,
    /// Jaro's likeness, more for a common beginning (Winkler): for names.
    JaroWinkler,
    /// How few letters have to be put in, left out or changed: for codes and dates.
    Levenshtein,
    /// Of all words that either has, how many both have (Jaccard): for titles and lists.
    Words,
    /// Whole numbers: how little they differ, against so much.
    Within(i64),
}

impl Comparator {
    /// The names of those that need nothing more to be said.
    pub const NAMES: [(&'static str, Comparator); 4] = [
        ("exact", Comparator::Exact),
        ("jaro_winkler", Comparator::JaroWinkler),
        ("levenshtein", Comparator::Levenshtein),
        ("words", Comparator::Words),
    ];
}

/// A value made ready to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing is known, and a comparison says nothing.
    Absent,
    /// The letters of a text in its normal form.
    Letters(Box<[char]>),
    /// The words of a text, each once, in order.
    Words(Box<[Box<str>]>),
    /// A whole number.
    Number(i64),
}

impl Value {
    /// A text as `comparator` reads it.
    pub fn of_text(text: &str, comparator: Comparator) -> Value {
        let text = normal(text);
        if text.is_empty() {
            return Value::Absent;
        }
        match comparator {
            Comparator::Words => {
                let mut words: Vec<Box<str>> = text.split(' ').map(Box::from).collect();
                words.sort_unstable();
                words.dedup();
                Value::Words(words.into())
            }
            Comparator::Within(_) => text.parse().map_or(Value::Absent, Value::Number),
            _ => Value::Letters(text.chars().collect()),
        }
    }
}

/// One comparison: how, and what it says.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// How values are compared.
    pub comparator: Comparator,
    /// From this likeness on, in thousandths, values agree.
    pub full: i64,
    /// Up to this likeness they do not; between the two the weight is between the two weights.
    pub none: i64,
    /// The weight of agreement, in thousandths of a bit.
    pub agree: i64,
    /// The weight of disagreement, likewise.
    pub disagree: i64,
}

/// The weights of agreement and disagreement: `m` is how often records of one thing agree, `u` how often records of two do.
pub fn weights(m: f64, u: f64) -> (i64, i64) {
    let millibits = |ratio: f64| (ratio.log2() * 1_000.0).round() as i64;
    (millibits(m / u), millibits((1.0 - m) / (1.0 - u)))
}

impl Comparison {
    /// What two values say, in thousandths of a bit.
    pub fn weight(&self, one: &Value, other: &Value) -> i64 {
        let Some(alike) = alike(self.comparator, one, other) else { return 0 };
        if alike >= self.full {
            self.agree
        } else if alike <= self.none {
            self.disagree
        } else {
            self.disagree + (self.agree - self.disagree) * (alike - self.none) / (self.full - self.none)
        }
    }
}

/// How alike two values are, from 0 to [`ALIKE`]; `None` when one is absent.
pub fn alike(comparator: Comparator, one: &Value, other: &Value) -> Option<i64> {
    match (comparator, one, other) {
        (Comparator::Within(most), Value::Number(one), Value::Number(other)) => {
            let apart = i128::from(*one).abs_diff(i128::from(*other));
            let apart = i64::try_from(apart).unwrap_or(i64::MAX).min(most);
            Some(ALIKE - apart * ALIKE / most.max(1))
        }
        (Comparator::Words, Value::Words(one), Value::Words(other)) => Some(jaccard(one, other)),
        (_, Value::Letters(one), Value::Letters(other)) if one == other => Some(ALIKE),
        (Comparator::Exact, Value::Letters(_), Value::Letters(_)) => Some(0),
        (Comparator::JaroWinkler, Value::Letters(one), Value::Letters(other)) => {
            Some(jaro_winkler(one, other))
        }
        (Comparator::Levenshtein, Value::Letters(one), Value::Letters(other)) => {
            let longest = one.len().max(other.len()) as i64;
            Some(ALIKE - distance(one, other) as i64 * ALIKE / longest)
        }
        _ => None,
    }
}

/// Of the words of both, how many they share.
fn jaccard(one: &[Box<str>], other: &[Box<str>]) -> i64 {
    let (mut at, mut shared) = (0, 0);
    for word in one {
        while other.get(at).is_some_and(|known| known < word) {
            at += 1;
        }
        shared += usize::from(other.get(at) == Some(word));
    }
    shared as i64 * ALIKE / (one.len() + other.len() - shared) as i64
}

/// How many letters have to be put in, left out or changed.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (place, letter) in one.iter().enumerate() {
        let mut corner = row[0];
        row[0] = place + 1;
        for (at, known) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != known);
            corner = row[at + 1];
            row[at + 1] = changed.min(corner + 1).min(row[at] + 1);
        }
    }
    row[other.len()]
}

fn jaro_winkler(one: &[char], other: &[char]) -> i64 {
    let reach = (one.len().max(other.len()) / 2).saturating_sub(1);
    let mut taken = vec![false; other.len()];
    let mut matched = Vec::new();
    for (place, letter) in one.iter().enumerate() {
        let (from, to) = (place.saturating_sub(reach), (place + reach + 1).min(other.len()));
        if let Some(at) = (from..to).find(|at| !taken[*at] && other[*at] == *letter) {
            taken[at] = true;
            matched.push(*letter);
        }
    }
    if matched.is_empty() {
        return 0;
    }
    let in_other = other.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(letter, _)| letter);
    let moved = matched.iter().zip(in_other).filter(|(letter, known)| letter != known).count() / 2;
    // In millionths, and rounded once.
    let (count, whole) = (matched.len() as i64, 1_000 * ALIKE);
    let part = |of: usize| count * whole / of as i64;
    let jaro = (part(one.len()) + part(other.len()) + (count - moved as i64) * whole / count) / 3;
    let beginning =
        one.iter().zip(other).take(4).take_while(|(letter, known)| letter == known).count() as i64;
    (jaro + beginning * (whole - jaro) / 10 + 500) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(comparator: Comparator, one: &str, other: &str) -> Option<i64> {
        let values = [one, other].map(|text| Value::of_text(text, comparator));
        let there = alike(comparator, &values[0], &values[1]);
        assert_eq!(there, alike(comparator, &values[1], &values[0]), "{one} and {other}, either way round");
        there
    }

    #[test]
    fn likeness_is_what_the_literature_gives() {
        use Comparator::{Exact, JaroWinkler, Levenshtein, Within, Words};
        for (comparator, one, other, wanted) in [
            (JaroWinkler, "MARTHA", "MARHTA", Some(961)),
            (JaroWinkler, "DWAYNE", "DUANE", Some(840)),
            (JaroWinkler, "DIXON", "DICKSONX", Some(813)),
            (JaroWinkler, "abc", "xyz", Some(0)),
            (Levenshtein, "kitten", "sitting", Some(572)),
            (Levenshtein, "19840312", "19840321", Some(750)),
            (Words, "a survey of XML", "XML: a survey", Some(750)),
            (Words, "one", "two", Some(0)),
            (Exact, "NSW", "nsw", Some(1_000)),
            (Exact, "nsw", "vic", Some(0)),
            (Exact, "nsw", "", None),
            (Within(4), "1999", "2000", Some(750)),
            (Within(4), "1999", "2010", Some(0)),
            (Within(4), "1999", "unknown", None),
        ] {
            assert_eq!(check(comparator, one, other), wanted, "{comparator:?} of {one} and {other}");
        }
    }

    #[test]
    fn a_weight_lies_between_those_of_agreement_and_disagreement() {
        let (agree, disagree) = weights(0.9, 0.1);
        assert_eq!((agree, disagree), (3_170, -3_170));
        let comparison =
            Comparison { comparator: Comparator::Levenshtein, full: 900, none: 500, agree, disagree };
        let weight = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| Value::of_text(text, comparison.comparator));
            comparison.weight(&one, &other)
        };
        assert_eq!(weight("abcdefghij", "abcdefghij"), agree);
        assert_eq!(weight("abcdefghij", "abcdefghix"), agree, "one letter of ten");
        assert_eq!(weight("abcdefghij", "abcdefgxyz"), 0, "three of ten are halfway");
        assert_eq!(weight("abcdefghij", "abcdexxxxx"), disagree);
        assert_eq!(weight("abcdefghij", ""), 0, "what is absent says nothing");
    }
}
