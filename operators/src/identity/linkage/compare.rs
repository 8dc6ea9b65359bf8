//! Field comparison for record linkage: how similar two values are, and the weight that this gives
//! a match (Fellegi and Sunter, 1969).
//!
//! Similarities are in thousandths and weights in thousandths of a bit. Both are whole numbers, so
//! no sum depends on the order of its terms.

use super::normalize::normalize;

/// The similarity of equal field values when record linkage compares them.
pub const SIMILARITY_MAX: i64 = 1_000;

/// A comparator of two field values for record linkage, such as edit distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparator {
    /// Equality of texts.
    Exact,
    /// Jaro's similarity, increased for a common prefix (Winkler). For names.
    JaroWinkler,
    /// Edit distance: how few letters must be inserted, deleted or changed. For codes and dates.
    Levenshtein,
    /// The share of the words of either text that both have (Jaccard). For titles and lists.
    Words,
    /// Whole numbers: how little they differ, relative to this difference.
    Within(i64),
}

impl Comparator {
    /// The names of the comparators of field values without parameters.
    pub const NAMES: [(&'static str, Comparator); 4] = [
        ("exact", Comparator::Exact),
        ("jaro_winkler", Comparator::JaroWinkler),
        ("levenshtein", Comparator::Levenshtein),
        ("words", Comparator::Words),
    ];
}

/// A field value, normalized for a comparator of record linkage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// No value. Its comparisons have weight zero.
    Absent,
    /// The letters of a normalized text.
    Letters(Box<[char]>),
    /// The words of a normalized text, each once, sorted.
    Words(Box<[Box<str>]>),
    /// A whole number.
    Number(i64),
}

impl FieldValue {
    /// Normalizes a text for `comparator`.
    pub fn of_text(text: &str, comparator: Comparator) -> FieldValue {
        let text = normalize(text);
        if text.is_empty() {
            return FieldValue::Absent;
        }
        match comparator {
            Comparator::Words => {
                let mut words: Vec<Box<str>> = text.split(' ').map(Box::from).collect();
                words.sort_unstable();
                words.dedup();
                FieldValue::Words(words.into())
            }
            Comparator::Within(_) => text.parse().map_or(FieldValue::Absent, FieldValue::Number),
            _ => FieldValue::Letters(text.chars().collect()),
        }
    }
}

/// The comparison of one field of two records: its comparator and its weights.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The comparator.
    pub comparator: Comparator,
    /// From this similarity on, in thousandths, values agree.
    pub agree_at: i64,
    /// Up to this similarity, in thousandths, values disagree. Between the two, the weight is
    /// interpolated.
    pub disagree_at: i64,
    /// The weight of agreement, in thousandths of a bit.
    pub agree: i64,
    /// The weight of disagreement, in thousandths of a bit.
    pub disagree: i64,
}

/// The weights of agreement and of disagreement of a compared field, in thousandths of a bit.
///
/// `m` is the probability that two records of one thing agree, `u` that of two records of different
/// things.
pub fn weights(m: f64, u: f64) -> (i64, i64) {
    let millibits = |ratio: f64| (ratio.log2() * 1_000.0).round() as i64;
    (millibits(m / u), millibits((1.0 - m) / (1.0 - u)))
}

impl Comparison {
    /// The weight of two compared field values, in thousandths of a bit.
    pub fn weight(&self, one: &FieldValue, other: &FieldValue) -> i64 {
        let Some(similarity) = similarity(self.comparator, one, other) else { return 0 };
        if similarity >= self.agree_at {
            self.agree
        } else if similarity <= self.disagree_at {
            self.disagree
        } else {
            let above = similarity - self.disagree_at;
            self.disagree + (self.agree - self.disagree) * above / (self.agree_at - self.disagree_at)
        }
    }
}

/// The similarity of two compared field values, from 0 to [`SIMILARITY_MAX`]; `None` if one is
/// absent.
pub fn similarity(comparator: Comparator, one: &FieldValue, other: &FieldValue) -> Option<i64> {
    match (comparator, one, other) {
        (Comparator::Within(most), FieldValue::Number(one), FieldValue::Number(other)) => {
            let difference = i128::from(*one).abs_diff(i128::from(*other));
            let difference = i64::try_from(difference).unwrap_or(i64::MAX).min(most);
            Some(SIMILARITY_MAX - difference * SIMILARITY_MAX / most.max(1))
        }
        (Comparator::Words, FieldValue::Words(one), FieldValue::Words(other)) => Some(jaccard(one, other)),
        (_, FieldValue::Letters(one), FieldValue::Letters(other)) if one == other => Some(SIMILARITY_MAX),
        (Comparator::Exact, FieldValue::Letters(_), FieldValue::Letters(_)) => Some(0),
        (Comparator::JaroWinkler, FieldValue::Letters(one), FieldValue::Letters(other)) => {
            Some(jaro_winkler(one, other))
        }
        (Comparator::Levenshtein, FieldValue::Letters(one), FieldValue::Letters(other)) => {
            let longest = one.len().max(other.len()) as i64;
            Some(SIMILARITY_MAX - distance(one, other) as i64 * SIMILARITY_MAX / longest)
        }
        _ => None,
    }
}

/// The share of the words of either that both have.
fn jaccard(one: &[Box<str>], other: &[Box<str>]) -> i64 {
    let (mut at, mut shared) = (0, 0);
    for word in one {
        while other.get(at).is_some_and(|theirs| theirs < word) {
            at += 1;
        }
        shared += usize::from(other.get(at) == Some(word));
    }
    shared as i64 * SIMILARITY_MAX / (one.len() + other.len() - shared) as i64
}

/// The edit distance: how many letters must be inserted, deleted or changed.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.iter().enumerate() {
        let mut corner = row[0];
        row[0] = index + 1;
        for (at, theirs) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != theirs);
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
    for (index, letter) in one.iter().enumerate() {
        let (from, to) = (index.saturating_sub(reach), (index + reach + 1).min(other.len()));
        if let Some(at) = (from..to).find(|at| !taken[*at] && other[*at] == *letter) {
            taken[at] = true;
            matched.push(*letter);
        }
    }
    if matched.is_empty() {
        return 0;
    }
    let in_other = other.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(letter, _)| letter);
    let moved = matched.iter().zip(in_other).filter(|(letter, theirs)| letter != theirs).count() / 2;
    // In millionths, and rounded once at the end.
    let (count, whole) = (matched.len() as i64, 1_000 * SIMILARITY_MAX);
    let part = |of: usize| count * whole / of as i64;
    let jaro = (part(one.len()) + part(other.len()) + (count - moved as i64) * whole / count) / 3;
    let beginning =
        one.iter().zip(other).take(4).take_while(|(letter, theirs)| letter == theirs).count() as i64;
    (jaro + beginning * (whole - jaro) / 10 + 500) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(comparator: Comparator, one: &str, other: &str) -> Option<i64> {
        let values = [one, other].map(|text| FieldValue::of_text(text, comparator));
        let result = similarity(comparator, &values[0], &values[1]);
        let swapped = similarity(comparator, &values[1], &values[0]);
        assert_eq!(result, swapped, "{one} and {other}, in either order");
        result
    }

    #[test]
    fn similarities_are_those_of_the_literature() {
        use Comparator::{Exact, JaroWinkler, Levenshtein, Within, Words};
        for (comparator, one, other, expected) in [
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
            assert_eq!(check(comparator, one, other), expected, "{comparator:?} of {one} and {other}");
        }
    }

    #[test]
    fn a_weight_lies_between_those_of_agreement_and_disagreement() {
        let (agree, disagree) = weights(0.9, 0.1);
        assert_eq!((agree, disagree), (3_170, -3_170));
        let comparison = Comparison {
            comparator: Comparator::Levenshtein,
            agree_at: 900,
            disagree_at: 500,
            agree,
            disagree,
        };
        let weight = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| FieldValue::of_text(text, comparison.comparator));
            comparison.weight(&one, &other)
        };
        assert_eq!(weight("abcdefghij", "abcdefghij"), agree);
        assert_eq!(weight("abcdefghij", "abcdefghix"), agree, "one letter of ten");
        assert_eq!(weight("abcdefghij", "abcdefgxyz"), 0, "three of ten are halfway");
        assert_eq!(weight("abcdefghij", "abcdexxxxx"), disagree);
        assert_eq!(weight("abcdefghij", ""), 0, "an absent value has no weight");
    }
}
