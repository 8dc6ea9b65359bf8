//! Prefix sums of a measured column: the sum of any range of rows is the difference of two of them.
//!
//! They are 64 bits wide as long as they fit, which is nearly always, and 128 bits from then on. A
//! merged batch starts again from zero, so a long history does not make them wider.

use std::ops::Range;

use super::layout::MeasureLayout;

/// The prefix sums that a batch stores of one measured column.
#[derive(Clone, Debug)]
pub(super) struct PrefixSums {
    sum: RunningSums,
    /// Sums of squares, when the layout has them.
    squares: Option<RunningSums>,
    /// Counts of values that are not null, when the column is nullable.
    present: Option<Vec<u32>>,
}

impl PrefixSums {
    pub(super) fn with_capacity(measure: MeasureLayout, rows: usize) -> PrefixSums {
        let present = || {
            let mut counts = Vec::with_capacity(rows + 1);
            counts.push(0);
            counts
        };
        PrefixSums {
            sum: RunningSums::with_capacity(rows),
            squares: measure.squares.then(|| RunningSums::with_capacity(rows)),
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

    /// Appends `rows` of `other`, which has the same layout.
    pub(super) fn extend(&mut self, other: &PrefixSums, rows: Range<usize>) {
        self.sum.extend(&other.sum, rows.clone());
        if let Some((squares, from)) = self.squares.as_mut().zip(other.squares.as_ref()) {
            squares.extend(from, rows.clone());
        }
        if let Some((present, from)) = self.present.as_mut().zip(other.present.as_ref()) {
            let (last, first) = (present[present.len() - 1], from[rows.start]);
            present.extend(from[rows.start + 1..=rows.end].iter().map(|count| count - first + last));
        }
    }

    /// The size of all prefix sums in bytes.
    pub(super) fn bytes(&self) -> usize {
        let squares = self.squares.as_ref().map_or(0, RunningSums::bytes);
        self.sum.bytes() + squares + self.present.as_ref().map_or(0, |present| 4 * present.len())
    }

    pub(super) fn sum(&self, rows: Range<usize>) -> i128 {
        self.sum.between(rows)
    }

    /// The sum of squares over `rows`.
    ///
    /// # Panics
    /// When the layout has no squares.
    pub(super) fn sum_of_squares(&self, rows: Range<usize>) -> i128 {
        self.squares.as_ref().expect("the plan adds squares for deviations").between(rows)
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

/// The sums of the first 0, 1, 2, .. numbers.
#[derive(Clone, Debug)]
enum RunningSums {
    Narrow(Vec<i64>),
    /// Wrapping: the difference of two sums is exact even if the sum of the whole batch overflows.
    Wide(Vec<i128>),
}

impl RunningSums {
    fn with_capacity(numbers: usize) -> RunningSums {
        let mut sums = Vec::with_capacity(numbers + 1);
        sums.push(0);
        RunningSums::Narrow(sums)
    }

    fn bytes(&self) -> usize {
        match self {
            RunningSums::Narrow(sums) => 8 * sums.len(),
            RunningSums::Wide(sums) => 16 * sums.len(),
        }
    }

    fn push(&mut self, number: i128) {
        match self {
            RunningSums::Narrow(sums) => {
                let last = sums[sums.len() - 1];
                match i64::try_from(number).ok().and_then(|number| last.checked_add(number)) {
                    Some(sum) => sums.push(sum),
                    None => {
                        self.widen();
                        self.push(number);
                    }
                }
            }
            RunningSums::Wide(sums) => sums.push(sums[sums.len() - 1].wrapping_add(number)),
        }
    }

    fn extend(&mut self, other: &RunningSums, rows: Range<usize>) {
        if let (RunningSums::Narrow(sums), RunningSums::Narrow(from)) = (&mut *self, other) {
            let len = sums.len();
            if let Some(shift) = sums[len - 1].checked_sub(from[rows.start]) {
                let mut fits = true;
                sums.extend(from[rows.start + 1..=rows.end].iter().map(|sum| {
                    let (shifted, wrapped) = sum.overflowing_add(shift);
                    fits &= !wrapped;
                    shifted
                }));
                if fits {
                    return;
                }
                sums.truncate(len);
            }
        }
        for row in rows {
            self.push(other.between(row..row + 1));
        }
    }

    fn between(&self, rows: Range<usize>) -> i128 {
        match self {
            RunningSums::Narrow(sums) => i128::from(sums[rows.end]) - i128::from(sums[rows.start]),
            RunningSums::Wide(sums) => sums[rows.end].wrapping_sub(sums[rows.start]),
        }
    }

    fn widen(&mut self) {
        if let RunningSums::Narrow(sums) = self {
            *self = RunningSums::Wide(sums.iter().map(|sum| i128::from(*sum)).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_of(values: &[Option<i64>]) -> PrefixSums {
        let mut sums = PrefixSums::with_capacity(MeasureLayout { squares: true, nullable: true }, 0);
        values.iter().for_each(|value| sums.push(*value));
        sums
    }

    #[test]
    fn sums_beyond_64_bits_are_exact_however_they_were_merged() {
        let values = [Some(i64::MAX), None, Some(i64::MAX), Some(i64::MIN), Some(-1), Some(7)];
        let pushed = sums_of(&values);
        let mut joined = sums_of(&values[..1]);
        joined.extend(&sums_of(&values[1..4]), 0..3);
        joined.extend(&pushed, 4..6);
        for from in 0..values.len() {
            for to in from..=values.len() {
                let sum: i128 = values[from..to].iter().flatten().map(|v| i128::from(*v)).sum();
                let squares: i128 = values[from..to].iter().flatten().map(|v| i128::from(*v).pow(2)).sum();
                for sums in [&pushed, &joined] {
                    assert_eq!(sums.sum(from..to), sum);
                    assert_eq!(sums.sum_of_squares(from..to), squares);
                    assert_eq!(sums.present(from..to), values[from..to].iter().flatten().count() as u64);
                }
            }
            assert_eq!((pushed.value(from), joined.value(from)), (values[from], values[from]));
        }
    }
}
