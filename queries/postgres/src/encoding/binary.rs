//! The binary format of `numeric`, and the epoch of times on the wire.

use bytes::{BufMut, BytesMut};

/// The days and microseconds from 1970-01-01, the epoch of Arrow, to 2000-01-01, that of Postgres.
pub(crate) const EPOCH_DAYS: i64 = 10_957;
pub(crate) const EPOCH_MICROS: i64 = EPOCH_DAYS * 86_400_000_000;

/// Writes a decimal in the binary format of `numeric`: groups of four decimal digits, the weight of
/// the first group, the sign and the display scale.
pub(super) fn numeric(unscaled: &str, scale: i16, out: &mut BytesMut) {
    let (is_negative, digits) = match unscaled.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, unscaled),
    };
    let digits = digits.trim_start_matches('0');
    let display_scale = u16::try_from(scale).unwrap_or(0);
    if digits.is_empty() {
        for field in [0, 0, 0, display_scale] {
            out.put_u16(field);
        }
        return;
    }
    // The decimal point lies between two groups, so the last group is filled up with zeros.
    let scale = i32::from(scale);
    let behind = scale.rem_euclid(4);
    let padding = if behind == 0 { 0 } else { 4 - behind } as usize;
    let mut padded = digits.as_bytes().to_vec();
    padded.resize(padded.len() + padding, b'0');
    let groups_behind = (scale + padding as i32) / 4;
    let first = padded.len() % 4;
    let mut groups: Vec<u16> = Vec::with_capacity(padded.len() / 4 + 1);
    let value = |group: &[u8]| group.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    if first > 0 {
        groups.push(value(&padded[..first]));
    }
    groups.extend(padded[first..].chunks(4).map(value));
    let weight = groups.len() as i32 - groups_behind - 1;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    out.put_u16(groups.len() as u16);
    out.put_i16(weight as i16);
    out.put_u16(if is_negative { 0x4000 } else { 0 });
    out.put_u16(display_scale);
    groups.into_iter().for_each(|group| out.put_u16(group));
}

/// Writes a NaN or an infinity in the binary format of `numeric`.
pub(super) fn special(value: f64, out: &mut BytesMut) {
    let sign = match value {
        value if value.is_nan() => 0xc000,
        value if value > 0.0 => 0xd000,
        _ => 0xf000,
    };
    for field in [0, 0, sign, if sign == 0xc000 { 0 } else { 0x20 }] {
        out.put_u16(field);
    }
}

/// A `numeric` that was read from its binary format.
pub(crate) enum Numeric {
    /// Its decimal digits as a whole number, and how many of them follow the point.
    Finite(String, u16),
    /// Not a number, or an infinity.
    Special,
}

/// Reads a `numeric` in the binary format; `None` if the bytes are not one.
pub(crate) fn read_numeric(bytes: &[u8]) -> Option<Numeric> {
    let field = |index: usize| {
        let part = bytes.get(2 * index..2 * index + 2)?;
        Some(u16::from_be_bytes(part.try_into().expect("two bytes")))
    };
    let (count, weight, sign, scale) = (field(0)?, field(1)? as i16, field(2)?, field(3)?);
    if bytes.len() != 8 + 2 * usize::from(count) || scale > 0x3fff {
        return None;
    }
    if !matches!(sign, 0 | 0x4000) {
        return matches!(sign, 0xc000 | 0xd000 | 0xf000).then_some(Numeric::Special);
    }
    let groups: Vec<u16> = (0..usize::from(count)).map(|index| field(4 + index)).collect::<Option<_>>()?;
    if groups.iter().any(|group| *group > 9999) {
        return None;
    }
    let group = |position: i32| groups.get(usize::try_from(position).ok()?).copied();
    // The group of weight w has the index `weight - w`.
    let weight = i32::from(weight);
    let mut digits = String::new();
    for at in (0..=weight.max(0)).rev() {
        digits.push_str(&format!("{:04}", group(weight - at).unwrap_or(0)));
    }
    let mut part = String::new();
    for at in 1..=i32::from(scale.div_ceil(4)) {
        part.push_str(&format!("{:04}", group(weight + at).unwrap_or(0)));
    }
    part.truncate(usize::from(scale));
    digits.push_str(&part);
    let digits = digits.trim_start_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    let sign = if sign == 0x4000 && digits != "0" { "-" } else { "" };
    Some(Numeric::Finite(format!("{sign}{digits}"), scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_groups_of_four_digits() {
        let check = |unscaled: &str, scale: i16, wanted: &[u16]| {
            let mut out = BytesMut::new();
            numeric(unscaled, scale, &mut out);
            let fields: Vec<u16> = out.chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
            assert_eq!(fields, wanted, "{unscaled} of scale {scale}");
            let read = read_numeric(&out).expect("it was written here");
            let Numeric::Finite(digits, read_scale) = read else { panic!("{unscaled} is finite") };
            if scale >= 0 {
                assert_eq!((digits.as_str(), read_scale), (unscaled, scale as u16));
            }
        };
        // The expected bytes are those of `numeric_send` of PostgreSQL 15.
        check("0", 0, &[0, 0, 0, 0]);
        check("0", 2, &[0, 0, 0, 2]);
        check("1250", 2, &[2, 0, 0, 2, 12, 5000]);
        check("-1", 3, &[1, 0xffff, 0x4000, 3, 10]);
        check("10000", 0, &[1, 1, 0, 0, 1]);
        check("99990000", 0, &[1, 1, 0, 0, 9999]);
        check("1", 10, &[1, 0xfffd, 0, 10, 100]);
        check("7", -2, &[1, 0, 0, 0, 700]);
        check("123456789", 0, &[3, 2, 0, 0, 1, 2345, 6789]);
        check(
            "12345678901234567890123456789012345678",
            38,
            &[10, 0xffff, 0, 38, 1234, 5678, 9012, 3456, 7890, 1234, 5678, 9012, 3456, 7800],
        );
    }

    #[test]
    fn what_is_no_numeric_is_not_read() {
        assert!(read_numeric(b"").is_none());
        assert!(read_numeric(&[0, 1, 0, 0, 0, 0, 0, 0]).is_none(), "the group is missing");
        assert!(read_numeric(&[0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).is_none(), "no four digits");
        assert!(matches!(read_numeric(&[0, 0, 0, 0, 0xc0, 0, 0, 0]), Some(Numeric::Special)));
    }
}
