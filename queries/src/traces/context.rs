//! Which trace a record belongs to, and whether it is followed.
//!
//! A caller says it by the W3C header `traceparent`, a record by its own `trace_id` and `span_id`. The ids of OpenTelemetry are 16
//! and 8 bytes; a producer's that is another text stands for the first bytes of its digest, the same wherever it is met,
//! and the text goes along as an attribute.

use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_facts::Digest;

/// The id of a trace; never zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TraceId(pub(super) [u8; 16]);

/// The id of a span; never zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SpanId(pub(super) [u8; 8]);

/// Where a trace stands that somebody else began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: Option<SpanId>,
    /// Whether it is followed, where that is said.
    pub(super) sampled: Option<bool>,
}

impl Parent {
    /// What a header `traceparent` says; `None` when it is none.
    pub(super) fn of_header(text: &str) -> Option<Parent> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = bytes::<1>(version)?;
        // A later version may say more behind it.
        if version == [0xff] || (version == [0] && parts.next().is_some()) {
            return None;
        }
        let [flags] = bytes::<1>(flags)?;
        let (trace, span) = (TraceId(bytes(trace)?), SpanId(bytes(span)?));
        let is_valid = trace.0 != [0; 16] && span.0 != [0; 8];
        is_valid.then_some(Parent { trace, span: Some(span), sampled: Some(flags & 1 == 1) })
    }

    /// What a record's own fields say.
    pub(super) fn of_fields(trace: &str, span: Option<&str>) -> Parent {
        let plain: String = trace.chars().filter(|c| *c != '-').collect();
        let own = bytes(&plain.to_ascii_lowercase()).filter(|id| *id != [0; 16]);
        let first = |text: &str| Digest::of(text.as_bytes()).0;
        let trace = own.unwrap_or_else(|| first(trace)[..16].try_into().expect("16 of 32 bytes"));
        let span = span.map(|span| {
            let own = bytes(&span.to_ascii_lowercase()).filter(|id| *id != [0; 8]);
            SpanId(own.unwrap_or_else(|| first(span)[..8].try_into().expect("8 of 32 bytes")))
        });
        Parent { trace: TraceId(trace), span, sampled: None }
    }
}

/// `N` bytes as lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = 16 * digit(pair[0])? + digit(pair[1])?;
    }
    Some(bytes)
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes ids that nobody else makes: digests of a seed and a number.
#[derive(Debug)]
pub(super) struct Ids {
    seed: [u8; 32],
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new(seed: [u8; 32]) -> Ids {
        Ids { seed, next: AtomicU64::new(0) }
    }

    fn next(&self) -> Digest {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Digest::of_parts("tidegate.span.v1", &[&self.seed, &number.to_le_bytes()])
    }

    pub(super) fn trace(&self) -> TraceId {
        TraceId(self.next().0[..16].try_into().expect("16 of 32 bytes"))
    }

    pub(super) fn span(&self) -> SpanId {
        SpanId(self.next().0[..8].try_into().expect("8 of 32 bytes"))
    }
}

/// Which traces are followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a caller that says so decides.
    pub parent_based: bool,
    /// Of the others this share, by their ids: who samples by the same share follows the same traces.
    pub share: f64,
}

impl Sampler {
    /// Every trace, unless its caller says otherwise.
    pub const DEFAULT: Sampler = Sampler { parent_based: true, share: 1.0 };

    /// The sampler of a name of `OTEL_TRACES_SAMPLER` and its argument.
    pub(super) fn of(name: &str, argument: Option<&str>) -> Option<Sampler> {
        let (parent_based, name) = match name.strip_prefix("parentbased_") {
            Some(name) => (true, name),
            None => (false, name),
        };
        let share = match name {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                argument.map_or(Some(1.0), |text| text.parse().ok()).filter(|s| (0.0..=1.0).contains(s))?
            }
            _ => return None,
        };
        Some(Sampler { parent_based, share })
    }

    pub(super) fn follows(self, trace: TraceId, said: Option<bool>) -> bool {
        if let Some(said) = said.filter(|_| self.parent_based) {
            return said;
        }
        let random = u64::from_be_bytes(trace.0[8..].try_into().expect("8 of 16 bytes")) >> 1;
        self.share >= 1.0 || (random as f64) < self.share * (1u64 << 63) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_as_the_standard_has_it() {
        let parent = Parent::of_header(HEADER).expect("the standard's own example");
        assert_eq!(hex(&parent.trace.0), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span.map(|span| hex(&span.0)).as_deref(), Some("00f067aa0ba902b7"));
        assert_eq!(parent.sampled, Some(true));
        let more = format!("{}-more", HEADER.replacen("00", "01", 1));
        assert!(Parent::of_header(&more).is_some(), "a later version may say more");
        let refused = [
            format!("{HEADER}-more"),
            HEADER.replacen("00", "ff", 1),
            HEADER.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            HEADER.replace("00f067aa0ba902b7", &"0".repeat(16)),
            HEADER.to_uppercase(),
            HEADER.replace("4bf9", "4bé"),
            "00-1-2-3".to_owned(),
            String::new(),
        ];
        for text in refused {
            assert_eq!(Parent::of_header(&text), None, "{text}");
        }
    }

    #[test]
    fn a_producers_own_ids_are_kept_and_other_texts_stand_for_the_same_id_each_time() {
        let said = Parent::of_fields("4bf92f35-77b3-4da6-a3ce-929d0e0e4736", Some("00f067aa0ba902b7"));
        let header = Parent::of_header(HEADER).expect("it is one");
        assert_eq!((said.trace, said.span), (header.trace, header.span));
        let (one, two) = (Parent::of_fields("order 7", None), Parent::of_fields("order 8", None));
        assert_eq!(one, Parent::of_fields("order 7", None));
        assert_ne!(one.trace, two.trace);
    }

    #[test]
    fn a_share_of_traces_is_followed_and_the_caller_may_decide() {
        let ids = Ids::new([7; 32]);
        let fourth = Sampler::of("parentbased_traceidratio", Some("0.25")).expect("it is one");
        let followed = (0..10_000).filter(|_| fourth.follows(ids.trace(), None)).count();
        assert!((2_300..2_700).contains(&followed), "{followed} of 10000");
        assert!(
            fourth.follows(TraceId([255; 16]), Some(true)) && !fourth.follows(TraceId([1; 16]), Some(false))
        );
        let every = Sampler::of("always_on", None).expect("it is one");
        assert!(every.follows(ids.trace(), Some(false)), "it does not ask");
        for (name, argument) in
            [("traceidratio", Some("2")), ("traceidratio", Some("x")), ("sometimes", None)]
        {
            assert_eq!(Sampler::of(name, argument), None, "{name} {argument:?}");
        }
    }
}
