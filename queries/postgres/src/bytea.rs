//! Reads the text form of `bytea`: `\x` and two hexadecimal digits for each byte.

/// The bytes of a `bytea` in hexadecimal text; `None` if the text is not one.
pub(crate) fn of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    if digits.len() % 2 != 0 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// The bytes of a `bytea` literal. A text without backslashes is its own bytes. Octal escapes are
/// not read.
pub(crate) fn of_literal(text: &str) -> Option<Vec<u8>> {
    if text.contains('\\') { of_hex(text) } else { Some(text.as_bytes().to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_hexadecimal_digits_or_from_plain_text() {
        assert_eq!(of_hex("\\x01aB"), Some(vec![1, 0xab]));
        assert_eq!(of_hex("\\x"), Some(Vec::new()));
        for wrong in ["01ab", "\\x0", "\\x0g", "\\x+1"] {
            assert_eq!(of_hex(wrong), None, "{wrong}");
        }
        assert_eq!(of_literal("ab"), Some(b"ab".to_vec()));
        assert_eq!(of_literal("\\x00"), Some(vec![0]));
        assert_eq!(of_literal("\\000"), None);
    }
}
