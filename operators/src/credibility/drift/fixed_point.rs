//! Fixed-point arithmetic of drift detection: logarithms, entropies and ratios in millionths, by
//! integers alone.
//!
//! A statistic decides what is sealed, so it must not depend on the logarithm of a machine's
//! floats.

/// One as a fixed-point number, in millionths.
pub const ONE: i64 = 1_000_000;

/// The fixed-point logarithm to base 2, in millionths, rounded down.
///
/// # Panics
/// If the number is zero.
pub fn log2(number: u64) -> i64 {
    let whole = number.ilog2();
    // The number scaled into [1, 2), with 63 fractional bits. Squaring it doubles its logarithm,
    // whose next bit is whether the square has reached 2.
    let mut rest = u128::from(number) << (63 - whole);
    let mut bits: u64 = 0;
    for _ in 0..40 {
        rest = (rest * rest) >> 63;
        bits <<= 1;
        if rest >= 1 << 64 {
            rest >>= 1;
            bits |= 1;
        }
    }
    i64::from(whole) * ONE + ((u128::from(bits) * 1_000_000) >> 40) as i64
}

/// The fixed-point entropy of a histogram, in millionths of a bit; zero if the histogram is empty.
pub fn entropy(counts: impl Iterator<Item = u64>) -> i64 {
    let (mut total, mut sum) = (0, 0);
    for count in counts.filter(|count| *count > 0) {
        total += count;
        sum += i128::from(count) * i128::from(log2(count));
    }
    if total == 0 { 0 } else { log2(total) - (sum / i128::from(total)) as i64 }
}

/// The fixed-point ratio `above / below`, in millionths, rounded toward zero.
///
/// # Panics
/// If `below` is zero.
pub fn ratio(above: i128, below: i128) -> i64 {
    let ratio = above * i128::from(ONE) / below;
    ratio.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_floats() {
        for number in (1..5000).chain([u64::MAX, u64::MAX / 3, 1 << 40, (1 << 40) + 1]) {
            let float = (number as f64).log2() * 1e6;
            assert!((log2(number) as f64 - float).abs() <= 1.001, "{number}: {} and {float}", log2(number));
        }
    }

    #[test]
    fn the_entropy_of_equal_parts_is_the_logarithm_of_their_number() {
        assert_eq!(entropy([7; 8].into_iter()), 3 * ONE);
        assert_eq!(entropy([9].into_iter()), 0);
        assert_eq!(entropy([].into_iter()), 0);
    }
}
