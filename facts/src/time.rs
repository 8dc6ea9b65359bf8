//! Times as text: RFC 3339 in UTC with exactly six fractional digits.
//!
//! RFC 3339 covers the years 0 to 9999. Other times are written as ECMAScript does, with a sign and
//! six digits of the year, so that no two times have the same text. No event can have such a time.

use std::fmt::Write;

/// The RFC 3339 text of `micros` since 1970-01-01 UTC: `2018-04-01T00:00:31.000000Z`.
pub fn to_rfc3339(micros: i64) -> String {
    let mut out = String::with_capacity(27);
    push_rfc3339(micros, &mut out);
    out
}

/// Appends the RFC 3339 text of a time to `out`, as [`to_rfc3339`] gives it.
pub fn push_rfc3339(micros: i64, out: &mut String) {
    match rfc3339(micros) {
        Some(text) => out.push_str(std::str::from_utf8(&text).expect("digits and separators are ASCII")),
        None => {
            let (year, rest) = parts(micros);
            let sign = if year < 0 { '-' } else { '+' };
            let text = std::str::from_utf8(&rest).expect("digits and separators are ASCII");
            write!(out, "{sign}{:06}{text}", year.abs()).expect("writing to a String never fails");
        }
    }
}

/// The RFC 3339 text of a time without an allocation, as [`to_rfc3339`] gives it; `None` outside
/// the years 0 to 9999.
pub fn rfc3339(micros: i64) -> Option<[u8; 27]> {
    let (year, rest) = parts(micros);
    let year = u32::try_from(year).ok().filter(|year| *year <= 9999)?;
    let mut text = [0; 27];
    push_digits(year, &mut text[..4]);
    text[4..].copy_from_slice(&rest);
    Some(text)
}

/// The year as a number, and the rest of the time as text.
fn parts(micros: i64) -> (i64, [u8; 23]) {
    let (year, month, day) = civil_from_days(micros.div_euclid(86_400_000_000));
    let rest = micros.rem_euclid(86_400_000_000);
    let seconds = (rest / 1_000_000) as u32;
    let mut text = *b"-00-00T00:00:00.000000Z";
    push_digits(month as u32, &mut text[1..3]);
    push_digits(day as u32, &mut text[4..6]);
    push_digits(seconds / 3600, &mut text[7..9]);
    push_digits(seconds / 60 % 60, &mut text[10..12]);
    push_digits(seconds % 60, &mut text[13..15]);
    push_digits((rest % 1_000_000) as u32, &mut text[16..22]);
    (year, text)
}

/// Fills `slots` with the last decimal digits of `value`.
fn push_digits(mut value: u32, slots: &mut [u8]) {
    for slot in slots.iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Reads the RFC 3339 text of a time that [`to_rfc3339`] wrote, in microseconds since 1970-01-01
/// UTC; `None` for any other form or an impossible date.
pub fn parse_rfc3339_micros(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 27 || bytes[26] != b'Z' {
        return None;
    }
    for (index, separator) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.')] {
        if bytes[index] != separator {
            return None;
        }
    }
    let number = |from: usize, to: usize| {
        bytes[from..to]
            .iter()
            .try_fold(0i64, |sum, d| d.is_ascii_digit().then(|| sum * 10 + i64::from(d - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) {
        return None;
    }
    Some(((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + number(20, 26)?)
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
///
/// The calculation counts years from March, so that the leap day is the last day of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_and_reading_are_inverse_for_every_day_until_3111() {
        for day in 0..417_000 {
            let micros = day * 86_400_000_000 + day % 86_400 * 1_000_000 + 7;
            assert_eq!(parse_rfc3339_micros(&to_rfc3339(micros)), Some(micros), "{day}");
        }
        assert_eq!(to_rfc3339(1_522_540_831_000_000), "2018-04-01T00:00:31.000000Z");
    }

    #[test]
    fn years_outside_rfc_3339_have_a_sign_and_cannot_be_read() {
        for (micros, text) in [
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (253_402_300_800_000_000, "+010000-01-01T00:00:00.000000Z"),
            (-62_167_219_200_000_000, "0000-01-01T00:00:00.000000Z"),
            (-62_167_219_200_000_001, "-000001-12-31T23:59:59.999999Z"),
            (i64::MAX, "+294247-01-10T04:00:54.775807Z"),
            (i64::MIN, "-290308-12-21T19:59:05.224192Z"),
        ] {
            assert_eq!(to_rfc3339(micros), text);
            assert_eq!(parse_rfc3339_micros(text), (text.len() == 27).then_some(micros));
        }
    }

    #[test]
    fn only_six_fractional_digits_and_a_z_are_accepted() {
        for text in [
            "2018-04-01T00:00:31Z",
            "2018-04-01T00:00:31.000Z",
            "2018-04-01T00:00:31.000000",
            "2018-04-01 00:00:31.000000Z",
            "2018-02-29T00:00:31.000000Z",
            "2018-13-01T00:00:31.000000Z",
            "2018-04-01T24:00:31.000000Z",
            "2018-04-01T00:00:31.00000aZ",
            "+018-04-01T00:00:31.000000Z",
        ] {
            assert_eq!(parse_rfc3339_micros(text), None, "{text}");
        }
        assert!(parse_rfc3339_micros("2020-02-29T23:59:59.999999Z").is_some());
    }
}
