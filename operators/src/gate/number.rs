//! Parses numbers from text strictly and exactly: JSON's grammar, without rounding decimals.

/// The parts of a JSON number.
struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl Number<'_> {
    fn parse(bytes: &[u8]) -> Option<Number<'_>> {
        let (negative, bytes) = match bytes.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, bytes),
        };
        let (whole, mut rest) = digits(bytes);
        if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
            return None;
        }
        let mut fraction: &[u8] = &[];
        if let Some(after_point) = rest.strip_prefix(b".") {
            (fraction, rest) = digits(after_point);
            if fraction.is_empty() {
                return None;
            }
        }
        let mut exponent = 0;
        if let [b'e' | b'E', after_mark @ ..] = rest {
            let (sign, power) = match after_mark {
                [b'-', power @ ..] => (-1, power),
                [b'+', power @ ..] => (1, power),
                power => (1, power),
            };
            let (power, end) = digits(power);
            if power.is_empty() {
                return None;
            }
            rest = end;
            exponent =
                power.iter().fold(0i64, |sum, d| sum.saturating_mul(10).saturating_add(i64::from(d - b'0')));
            exponent *= sign;
        }
        rest.is_empty().then_some(Number { negative, whole, fraction, exponent })
    }
}

/// Splits `bytes` into its leading digits and the rest.
fn digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().take_while(|b| b.is_ascii_digit()).count())
}

/// Whether `bytes` are a JSON number.
pub fn is_number(bytes: &[u8]) -> bool {
    Number::parse(bytes).is_some()
}

/// Parses a number strictly as an integer without point or exponent; `None` for other texts, and
/// outside 64 bits.
pub fn integer(text: &str) -> Option<i64> {
    let (whole, rest) = digits(text.strip_prefix('-').unwrap_or(text).as_bytes());
    if !rest.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
        return None;
    }
    text.parse().ok()
}

/// Parses a number strictly as a finite float; zero has no sign, because its canonical form has
/// none.
pub fn float(text: &str) -> Option<f64> {
    Number::parse(text.as_bytes())?;
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(|value| value + 0.0)
}

/// Why the text of a number is not a decimal of the declared precision and scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDecimal {
    /// The text is not a number.
    Number,
    /// The number has more digits after the point than the scale.
    Scale,
    /// The number has more digits than the precision.
    Digits,
}

/// Parses a number exactly as a decimal: returns `text` times `10^scale` when that is an integer of
/// at most `precision` digits, at most 18.
pub fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, NotDecimal> {
    let Number { negative, whole, fraction, exponent } =
        Number::parse(text.as_bytes()).ok_or(NotDecimal::Number)?;
    let all = || whole.iter().chain(fraction);
    if all().all(|digit| *digit == b'0') {
        return Ok(0);
    }
    let shift = exponent.saturating_sub(fraction.len() as i64).saturating_add(i64::from(scale));
    let dropped = usize::try_from(shift.saturating_neg()).unwrap_or(0);
    let used = (whole.len() + fraction.len()).saturating_sub(dropped);
    if all().skip(used).any(|digit| *digit != b'0') {
        return Err(NotDecimal::Scale);
    }
    let mut unscaled: i128 = 0;
    for digit in all().take(used) {
        unscaled = unscaled * 10 + i128::from(digit - b'0');
        if unscaled >= POWERS[18] {
            return Err(NotDecimal::Digits);
        }
    }
    let power = POWERS.get(usize::try_from(shift).unwrap_or(0)).ok_or(NotDecimal::Digits)?;
    within(if negative { -unscaled } else { unscaled } * power, precision).ok_or(NotDecimal::Digits)
}

/// Returns the decimal number `unscaled` when it has at most `precision` digits, at most 18; else
/// `None`.
pub fn within(unscaled: i128, precision: u8) -> Option<i128> {
    (unscaled.abs() < POWERS[usize::from(precision)]).then_some(unscaled)
}

/// The powers of ten up to `10^18`, for decimal numbers.
pub const POWERS: [i128; 19] = {
    let mut powers = [1; 19];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_exact_or_rejected() {
        for (text, found) in [
            ("0", Ok(0)),
            ("-0.00", Ok(0)),
            ("12.34", Ok(1_234)),
            ("-12.3", Ok(-1_230)),
            ("12.340000", Ok(1_234)),
            ("1.5e2", Ok(15_000)),
            ("1500E-2", Ok(1_500)),
            ("1e-2", Ok(1)),
            ("0e99999999999999999999", Ok(0)),
            ("9999999999.99", Ok(999_999_999_999)),
            ("10000000000", Err(NotDecimal::Digits)),
            ("1e11", Err(NotDecimal::Digits)),
            ("1e99999999999999999999", Err(NotDecimal::Digits)),
            ("99999999999999999999999999999999999999999", Err(NotDecimal::Digits)),
            ("1.005", Err(NotDecimal::Scale)),
            ("1e-3", Err(NotDecimal::Scale)),
            ("1e-99999999999999999999", Err(NotDecimal::Scale)),
            ("", Err(NotDecimal::Number)),
            ("+1", Err(NotDecimal::Number)),
            ("01", Err(NotDecimal::Number)),
            (".5", Err(NotDecimal::Number)),
            ("5.", Err(NotDecimal::Number)),
            ("1e", Err(NotDecimal::Number)),
            (" 1", Err(NotDecimal::Number)),
            ("1_000", Err(NotDecimal::Number)),
            ("NaN", Err(NotDecimal::Number)),
        ] {
            assert_eq!(decimal(text, 12, 2), found, "{text}");
        }
        assert_eq!(decimal("999999999999999999", 18, 0), Ok(999_999_999_999_999_999));
        assert_eq!(decimal("0.000000000000000001", 18, 18), Ok(1));
    }

    #[test]
    fn integers_have_no_point_no_plus_and_no_leading_zero() {
        assert_eq!(integer("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer("0"), Some(0));
        for text in ["9223372036854775808", "5.0", "1e3", "+5", "007", "-", "", "--1", " 1", "٣"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn floats_are_finite_and_zero_has_no_sign() {
        assert_eq!(float("-0.0").map(f64::to_bits), Some(0));
        assert_eq!(float("1e21"), Some(1e21));
        for text in ["1e400", "NaN", "inf", "infinity", ".5", "1.", "0x10", ""] {
            assert_eq!(float(text), None, "{text}");
        }
    }
}
