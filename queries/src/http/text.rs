//! Texts in answers: ticks as times, and path segments.

use tidegate_facts::Tick;
use tidegate_facts::time::to_rfc3339;

/// The text of a tick in an HTTP answer: its time, as RFC 3339.
pub(super) fn time_of(tick: Tick) -> String {
    to_rfc3339(tick.micros())
}

/// A text in an HTTP answer as one segment of a URL path.
pub(super) fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}
