//! Translates the patterns of `to_char` from the notation of Postgres into that of DataFusion.

use crate::error::SqlError;

/// The patterns that both have; longer ones come before their beginnings. Those with small letters
/// are told apart by case.
const PATTERNS: [(&str, &str); 17] = [
    ("YYYY", "%Y"),
    ("IYYY", "%G"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("DDD", "%j"),
    ("Mon", "%b"),
    ("YY", "%y"),
    ("IW", "%V"),
    ("MM", "%m"),
    ("MI", "%M"),
    ("MS", "%3f"),
    ("DD", "%d"),
    ("Dy", "%a"),
    ("HH", "%I"),
    ("SS", "%S"),
    ("US", "%6f"),
    ("AM", "%p"),
];

/// The pattern of a `to_char` in the notation of DataFusion.
///
/// # Errors
/// 0A000 for a pattern that DataFusion does not have.
pub(crate) fn translated(pattern: &str) -> Result<String, SqlError> {
    let mut out = String::new();
    let mut rest = pattern;
    'patterns: while let Some(c) = rest.chars().next() {
        for (postgres, datafusion) in PATTERNS {
            let Some(head) = rest.get(..postgres.len()) else { continue };
            let is_numeric = postgres.bytes().all(|byte| !byte.is_ascii_lowercase()) && postgres != "AM";
            if head == postgres || is_numeric && head.eq_ignore_ascii_case(postgres) {
                out.push_str(datafusion);
                rest = &rest[postgres.len()..];
                continue 'patterns;
            }
        }
        match c {
            '"' => {
                let (quoted, behind) = rest[1..].split_once('"').unwrap_or((&rest[1..], ""));
                out.push_str(&quoted.replace('%', "%%"));
                rest = behind;
                continue;
            }
            '%' => out.push_str("%%"),
            c if c.is_alphabetic() => {
                let what = format!("to_char has no pattern `{rest}` here; put plain text in double quotes");
                return Err(SqlError::new("0A000", what));
            }
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_postgres_become_those_of_datafusion() {
        let check = |pattern: &str| translated(pattern).map_err(|error| error.state);
        assert_eq!(check("YYYY-MM-DD HH24:MI:SS.US").as_deref(), Ok("%Y-%m-%d %H:%M:%S.%6f"));
        assert_eq!(check("yyyy\"T\"hh12 AM, 5%").as_deref(), Ok("%YT%I %p, 5%%"));
        assert_eq!(check("Dy DD Mon").as_deref(), Ok("%a %d %b"));
        assert_eq!(check("DDth"), Err("0A000"));
        assert_eq!(check("Month"), Err("0A000"));
        assert_eq!(check("MON"), Err("0A000"));
    }
}
