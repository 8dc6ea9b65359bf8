//! The text format of values, with `DateStyle` ISO and `IntervalStyle` postgres.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Writes a double as text, with the fewest digits that read back as the same double.
pub(super) fn float8(value: f64, out: &mut BytesMut) {
    if value.is_finite() {
        digits(&format!("{value:e}"), 15, out);
    } else {
        not_finite(value, out);
    }
}

/// Writes a float as text, with the fewest digits that read back as the same float.
pub(super) fn float4(value: f32, out: &mut BytesMut) {
    if value.is_finite() {
        digits(&format!("{value:e}"), 6, out);
    } else {
        not_finite(f64::from(value), out);
    }
}

fn not_finite(value: f64, out: &mut BytesMut) {
    out.put_slice(match value {
        value if value.is_nan() => b"NaN".as_slice(),
        value if value > 0.0 => b"Infinity",
        _ => b"-Infinity",
    });
}

/// Lays out digits: without an exponent from -4 up to `plain_max`, else with one.
fn digits(scientific: &str, plain_max: i32, out: &mut BytesMut) {
    let (mantissa, exponent) = scientific.split_once('e').expect("written with an exponent");
    let exponent: i32 = exponent.parse().expect("a small number");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let all: String = mantissa.chars().filter(|c| *c != '.').collect();
    out.put_slice(sign.as_bytes());
    if !(-4..plain_max).contains(&exponent) {
        out.put_slice(mantissa.as_bytes());
        write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()).expect("memory");
        return;
    }
    if exponent < 0 {
        out.put_slice(b"0.");
        out.put_bytes(b'0', (-exponent - 1) as usize);
        out.put_slice(all.as_bytes());
        return;
    }
    let whole = exponent as usize + 1;
    if all.len() <= whole {
        out.put_slice(all.as_bytes());
        out.put_bytes(b'0', whole - all.len());
    } else {
        out.put_slice(&all.as_bytes()[..whole]);
        out.put_u8(b'.');
        out.put_slice(&all.as_bytes()[whole..]);
    }
}

/// Writes a decimal as text, from its unscaled digits. A negative scale adds zeros at the end.
pub(super) fn decimal(unscaled: &str, scale: i8, out: &mut BytesMut) {
    let (sign, digits) = match unscaled.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", unscaled),
    };
    out.put_slice(sign.as_bytes());
    let Ok(scale) = usize::try_from(scale) else {
        out.put_slice(digits.as_bytes());
        if digits != "0" {
            out.put_bytes(b'0', usize::from(scale.unsigned_abs()));
        }
        return;
    };
    if scale == 0 {
        out.put_slice(digits.as_bytes());
        return;
    }
    if digits.len() <= scale {
        out.put_slice(b"0.");
        out.put_bytes(b'0', scale - digits.len());
        out.put_slice(digits.as_bytes());
    } else {
        let (whole, part) = digits.split_at(digits.len() - scale);
        out.put_slice(whole.as_bytes());
        out.put_u8(b'.');
        out.put_slice(part.as_bytes());
    }
}

/// Writes a date, given as days since 1970-01-01, as text.
pub(super) fn date(days: i64, out: &mut BytesMut) {
    let (year, month, day) = civil(days);
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    write!(out, "{shown:04}-{month:02}-{day:02}{era}").expect("memory");
}

/// Writes a time of day, given in microseconds, as text.
pub(super) fn time(micros: i64, out: &mut BytesMut) {
    let (seconds, part) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60).expect("memory");
    fraction(part, out);
}

/// Writes a timestamp, given in microseconds since 1970, as text, with `zone` after the time.
pub(super) fn timestamp(micros: i64, zone: &str, out: &mut BytesMut) {
    let (year, month, day) = civil(micros.div_euclid(MICROS_PER_DAY));
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    write!(out, "{shown:04}-{month:02}-{day:02} ").expect("memory");
    time(micros.rem_euclid(MICROS_PER_DAY), out);
    out.put_slice(zone.as_bytes());
    out.put_slice(era.as_bytes());
}

/// Writes the fraction of a second without trailing zeros.
fn fraction(micros: i64, out: &mut BytesMut) {
    if micros != 0 {
        let text = format!(".{micros:06}");
        out.put_slice(text.trim_end_matches('0').as_bytes());
    }
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar. Year 0 is 1 BC.
fn civil(days: i64) -> (i64, u32, u32) {
    // Count years from March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (cycle, day_of_cycle) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month + 2) / 5 + 1) as u32;
    let month = if month < 10 { month + 3 } else { month - 9 } as u32;
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Writes an interval as text: months, days and microseconds, each with its own sign.
pub(super) fn interval(months: i32, days: i32, micros: i64, out: &mut BytesMut) {
    let mut parts: Vec<String> = Vec::new();
    let mut is_before_negative = false;
    let mut part = |count: i32, unit: &str| {
        if count != 0 {
            // A positive part after a negative one has a plus sign.
            let plus = if is_before_negative && count > 0 { "+" } else { "" };
            parts.push(format!("{plus}{count} {unit}{}", if count == 1 { "" } else { "s" }));
            is_before_negative = count < 0;
        }
    };
    part(months / 12, "year");
    part(months % 12, "mon");
    part(days, "day");
    if micros != 0 || parts.is_empty() {
        let sign = match micros {
            micros if micros < 0 => "-",
            _ if is_before_negative => "+",
            _ => "",
        };
        let size = micros.unsigned_abs();
        let seconds = size / 1_000_000;
        let mut text = BytesMut::new();
        let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(text, "{sign}{hours:02}:{minutes:02}:{rest:02}").expect("memory");
        fraction((size % 1_000_000) as i64, &mut text);
        parts.push(String::from_utf8_lossy(&text).into_owned());
    }
    out.put_slice(parts.join(" ").as_bytes());
}

/// Writes bytes as text: `\x` and two hexadecimal digits each.
pub(super) fn bytes(value: &[u8], out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.put_slice(b"\\x");
    out.reserve(2 * value.len());
    for byte in value {
        out.put_u8(DIGITS[usize::from(byte >> 4)]);
        out.put_u8(DIGITS[usize::from(byte & 15)]);
    }
}

/// Writes an element of an array as text, in quotes where it needs them.
pub(super) fn array_element(text: &[u8], out: &mut BytesMut) {
    let needs_quotes = text.is_empty()
        || text.eq_ignore_ascii_case(b"null")
        || text.iter().any(|byte| matches!(byte, b'{' | b'}' | b',' | b'"' | b'\\') || is_space(*byte));
    if !needs_quotes {
        out.put_slice(text);
        return;
    }
    out.put_u8(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

/// Writes a field of a record as text, in quotes where it needs them.
pub(super) fn record_field(text: &[u8], out: &mut BytesMut) {
    let needs_quotes = text.is_empty()
        || text.iter().any(|byte| matches!(byte, b'(' | b')' | b',' | b'"' | b'\\') || is_space(*byte));
    if !needs_quotes {
        out.put_slice(text);
        return;
    }
    out.put_u8(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(*byte); // Doubled.
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).expect("it is text")
    }

    // The expected texts are those of PostgreSQL 15.

    #[test]
    fn floats_have_the_digits_of_postgres() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (1.5, "1.5"),
            (-0.0001, "-0.0001"),
            (0.00001, "1e-05"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1_234_567_890_123_456.8, "1.2345678901234568e+15"),
            (1e300, "1e+300"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(written(|out| float8(value, out)), text);
        }
        for (value, text) in [(0.1f32, "0.1"), (123_456.0, "123456"), (1e6, "1e+06"), (3.4e38, "3.4e+38")] {
            assert_eq!(written(|out| float4(value, out)), text);
        }
    }

    #[test]
    fn decimals_keep_their_scale() {
        for (unscaled, scale, text) in [
            ("0", 2, "0.00"),
            ("5", 2, "0.05"),
            ("-1250", 2, "-12.50"),
            ("7", 0, "7"),
            ("-7", -2, "-700"),
            ("0", -2, "0"),
            ("99999999999999999999999999999999999999", 38, "0.99999999999999999999999999999999999999"),
        ] {
            assert_eq!(written(|out| decimal(unscaled, scale, out)), text);
        }
    }

    #[test]
    fn days_and_times_reach_from_before_christ_to_far_away() {
        let day = |days: i64| written(|out| date(days, out));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(-1), "1969-12-31");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(-719_162), "0001-01-01");
        assert_eq!(day(-719_163), "0001-12-31 BC");
        assert_eq!(day(2_932_897), "10000-01-01");
        let moment = |micros: i64| written(|out| timestamp(micros, "+00", out));
        assert_eq!(moment(1_500_000), "1970-01-01 00:00:01.5+00");
        assert_eq!(moment(-1), "1969-12-31 23:59:59.999999+00");
        assert_eq!(moment(-719_163 * MICROS_PER_DAY), "0001-12-31 00:00:00+00 BC");
        assert_eq!(written(|out| time(45_015_250_000, out)), "12:30:15.25");
    }

    #[test]
    fn intervals_name_their_parts_with_their_signs() {
        for ((months, days, micros), text) in [
            ((0, 0, 0), "00:00:00"),
            ((14, 3, 0), "1 year 2 mons 3 days"),
            ((1, 1, 3_661_500_000), "1 mon 1 day 01:01:01.5"),
            ((-1, 0, 0), "-1 mons"),
            ((-1, 1, 60_000_000), "-1 mons +1 day 00:01:00"),
            ((0, -1, 60_000_000), "-1 days +00:01:00"),
            ((0, 1, -60_000_000), "1 day -00:01:00"),
        ] {
            assert_eq!(written(|out| interval(months, days, micros, out)), text);
        }
    }

    #[test]
    fn what_would_be_misread_stands_in_quotes() {
        let element = |text: &str| written(|out| array_element(text.as_bytes(), out));
        assert_eq!(
            ["a", "", "NuLl", "a b", "a,b", "a\"b", "a\\b", "ü"].map(element).join("|"),
            r#"a|""|"NuLl"|"a b"|"a,b"|"a\"b"|"a\\b"|ü"#
        );
        let field = |text: &str| written(|out| record_field(text.as_bytes(), out));
        assert_eq!(
            ["a", "", "null", "(a", "a\"b", "a\\b"].map(field).join("|"),
            r##"a|""|null|"(a"|"a""b"|"a\\b""##
        );
        assert_eq!(written(|out| bytes(&[0, 0xab], out)), "\\x00ab");
    }
}
