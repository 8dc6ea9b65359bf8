//! Suggestions for error messages about unknown names.

/// Suggests names for an unknown one in an error message: "did you mean ..?" with the names of
/// `existing` that are nearest to `unknown`, or else all of them.
pub fn did_you_mean(unknown: &str, existing: &[&str]) -> String {
    const NEAREST_MAX: usize = 3;
    let quoted = |names: &[&str], last: &str| {
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        quoted.join(last)
    };
    let mut near: Vec<(usize, &str)> = existing.iter().map(|name| (distance(unknown, name), *name)).collect();
    near.sort_unstable();
    near.dedup();
    near.retain(|(distance, _)| *distance <= unknown.chars().count() / 3 + 1);
    let near: Vec<&str> = near.into_iter().map(|(_, name)| name).take(NEAREST_MAX).collect();
    if existing.is_empty() {
        "there are none".to_owned()
    } else if near.is_empty() {
        format!("there are {}", quoted(existing, ", "))
    } else {
        format!("did you mean {}?", quoted(&near, " or "))
    }
}

/// The Levenshtein distance between two names, ignoring ASCII case.
fn distance(a: &str, b: &str) -> usize {
    strsim::levenshtein(&a.to_ascii_lowercase(), &b.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_suggested_or_else_all() {
        assert_eq!(did_you_mean("TX_AMONT", &["tx_amount", "action"]), "did you mean `tx_amount`?");
        assert_eq!(did_you_mean("colour", &["action", "facts"]), "there are `action`, `facts`");
    }
}
