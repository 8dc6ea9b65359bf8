//! Running sums of a measured column: the sum of any run of rows is the difference of two places.
//!
//! The places are 64 bits wide as long as they fit, which is nearly always, and 128 bits from then on.
//! A batch that is merged starts again from nothing, so a long history does not make them wider.

use std::ops::Range;

use super::Measure;

/// What a batch keeps of one measured column.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    sum: Running,
    /// Of the squares, where they are asked for.
    squares: Option<Running>,
    /// Of 1 for each value that is not null, where some may be.
    present: Option<Vec<u32>>,
}

impl Sums {
    pub(super) fn with_capacity(measure: Measure, rows: usize) -> Sums {
        let present = || {
            let mut places = Vec::with_capacity(rows + 1);
            places.push(0);
            places
        };
        Sums {
            sum: Running::with_capacity(rows),
            squares: measure.squares.then(|| Running::with_capacity(rows)),
            present: measure.nullable.then(present),
        }
    }

    pub(super) fn push(&mut self, value: Option<i64>) {
        let wide = i128::from(value.unwrap_or(0));
        self.sum.push(wide);
        if let Some(squares) = &mut self.squares {
            squares.push(wide * wide);
        }
        if let Some(present) = &mut self.present {
            present.push(present[present.len() - 1] + u32::from(value.is_some()));
        }
    }

    /// Appends `rows` of `other`, which keeps the same of its column.
    pub(super) fn extend(&mut self, other: &Sums, rows: Range<usize>) {
        self.sum.extend(&other.sum, rows.clone());
        if let Some((squares, from)) = self.squares.as_mut().zip(other.squares.as_ref()) {
            squares.extend(from, rows.clone());
        }
        if let Some((present, from)) = self.present.as_mut().zip(other.present.as_ref()) {
            let (last, first) = (present[present.len() - 1], from[rows.start]);
            present.extend(from[rows.start + 1..=rows.end].iter().map(|place| place - first + last));
        }
    }

    /// The bytes of its places.
    pub(super) fn bytes(&self) -> usize {
        let squares = self.squares.as_ref().map_or(0, Running::bytes);
        self.sum.bytes() + squares + self.present.as_ref().map_or(0, |present| 4 * present.len())
    }

    pub(super) fn sum(&self, rows: Range<usize>) -> i128 {
        self.sum.between(rows)
    }

    /// # Panics
    /// When the layout does not ask for squares.
    pub(super) fn sum_of_squares(&self, rows: Range<usize>) -> i128 {
        self.squares.as_ref().expect("deviations ask for squares").between(rows)
    }

    pub(super) fn present(&self, rows: Range<usize>) -> u64 {
        match &self.present {
            Some(present) => u64::from(present[rows.end] - present[rows.start]),
            None => rows.len() as u64,
        }
    }

    pub(super) fn value(&self, row: usize) -> Option<i64> {
        let is_null = self.present.as_ref().is_some_and(|present| present[row] == present[row + 1]);
        (!is_null).then(|| self.sum.between(row..row + 1) as i64)
    }
}

/// Sums of the first 0, 1, 2, .. numbers.
#[derive(Clone, Debug)]
enum Running {
    Narrow(Vec<i64>),
    /// Wrapping: a difference of two places is exact even if the sum of the whole batch is not.
    Wide(Vec<i128>),
}

impl Running {
    fn with_capacity(numbers: usize) -> Running {
        let mut places = Vec::with_capacity(numbers + 1);
        places.push(0);
        Running::Narrow(places)
    }

    fn bytes(&self) -> usize {
        match self {
            Running::Narrow(places) => 8 * places.len(),
            Running::Wide(places) => 16 * places.len(),
        }
    }

    fn push(&mut self, number: i128) {
        match self {
            Running::Narrow(places) => {
                let last = places[places.len() - 1];
                match i64::try_from(number).ok().and_then(|number| last.checked_add(number)) {
                    Some(place) => places.push(place),
                    None => {
                        self.widen();
                        self.push(number);
                    }
                }
            }
            Running::Wide(places) => places.push(places[places.len() - 1].wrapping_add(number)),
        }
    }

    fn extend(&mut self, other: &Running, rows: Range<usize>) {
        if let (Running::Narrow(places), Running::Narrow(from)) = (&mut *self, other) {
            let len = places.len();
            if let Some(shift) = places[len - 1].checked_sub(from[rows.start]) {
                let mut fits = true;
                places.extend(from[rows.start + 1..=rows.end].iter().map(|place| {
                    let (shifted, wrapped) = place.overflowing_add(shift);
                    fits &= !wrapped;
                    shifted
                }));
                if fits {
                    return;
                }
                places.truncate(len);
            }
        }
        for row in rows {
            self.push(other.between(row..row + 1));
        }
    }

    fn between(&self, rows: Range<usize>) -> i128 {
        match self {
            Running::Narrow(places) => i128::from(places[rows.end]) - i128::from(places[rows.start]),
            Running::Wide(places) => places[rows.end].wrapping_sub(places[rows.start]),
        }
    }

    fn widen(&mut self) {
        if let Running::Narrow(places) = self {
            *self = Running::Wide(places.iter().map(|place| i128::from(*place)).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_of(values: &[Option<i64>]) -> Sums {
        let mut sums = Sums::with_capacity(Measure { squares: true, nullable: true }, 0);
        values.iter().for_each(|value| sums.push(*value));
        sums
    }

    #[test]
    fn sums_beyond_64_bits_are_exact_however_they_came_together() {
        let values = [Some(i64::MAX), None, Some(i64::MAX), Some(i64::MIN), Some(-1), Some(7)];
        let pushed = sums_of(&values);
        let mut joined = sums_of(&values[..1]);
        joined.extend(&sums_of(&values[1..4]), 0..3);
        joined.extend(&pushed, 4..6);
        for from in 0..values.len() {
            for to in from..=values.len() {
                let slow: i128 = values[from..to].iter().flatten().map(|v| i128::from(*v)).sum();
                let squares: i128 = values[from..to].iter().flatten().map(|v| i128::from(*v).pow(2)).sum();
                for sums in [&pushed, &joined] {
                    assert_eq!(sums.sum(from..to), slow);
                    assert_eq!(sums.sum_of_squares(from..to), squares);
                    assert_eq!(sums.present(from..to), values[from..to].iter().flatten().count() as u64);
                }
            }
            assert_eq!((pushed.value(from), joined.value(from)), (values[from], values[from]));
        }
    }
}
