//! Trace and span ids, where they come from, and which traces are sampled.
//!
//! A caller names its trace in the W3C header `traceparent`, a record in its fields `trace_id` and
//! `span_id`. OpenTelemetry ids have 16 and 8 bytes. A producer's id that is any other text is
//! replaced by the first bytes of its digest, always the same ones, and the span gets the text as
//! an attribute.

use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_facts::Digest;

/// The id of a trace; never zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TraceId(pub(super) [u8; 16]);

/// The id of a span; never zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SpanId(pub(super) [u8; 8]);

/// A trace, and a span in it, that a caller or a record names as its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ParentSpan {
    pub(super) trace: TraceId,
    pub(super) span: Option<SpanId>,
    /// The caller's sampling decision, if it made one.
    pub(super) sampled: Option<bool>,
}

impl ParentSpan {
    /// Parses a header `traceparent`; `None` when it is malformed.
    pub(super) fn of_header(text: &str) -> Option<ParentSpan> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = bytes::<1>(version)?;
        // A later version may append more fields.
        if version == [0xff] || (version == [0] && parts.next().is_some()) {
            return None;
        }
        let [flags] = bytes::<1>(flags)?;
        let (trace, span) = (TraceId(bytes(trace)?), SpanId(bytes(span)?));
        let is_valid = trace.0 != [0; 16] && span.0 != [0; 8];
        is_valid.then_some(ParentSpan { trace, span: Some(span), sampled: Some(flags & 1 == 1) })
    }

    /// The parent that a record names in its fields.
    pub(super) fn of_fields(trace: &str, span: Option<&str>) -> ParentSpan {
        let plain: String = trace.chars().filter(|c| *c != '-').collect();
        let own = bytes(&plain.to_ascii_lowercase()).filter(|id| *id != [0; 16]);
        let first = |text: &str| Digest::of(text.as_bytes()).0;
        let trace = own.unwrap_or_else(|| first(trace)[..16].try_into().expect("16 of 32 bytes"));
        let span = span.map(|span| {
            let own = bytes(&span.to_ascii_lowercase()).filter(|id| *id != [0; 8]);
            SpanId(own.unwrap_or_else(|| first(span)[..8].try_into().expect("8 of 32 bytes")))
        });
        ParentSpan { trace: TraceId(trace), span, sampled: None }
    }
}

/// Parses `N` bytes from lower-case hexadecimal digits.
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

/// Generates unique ids of traces and spans: digests of a random seed and a counter.
#[derive(Debug)]
pub(super) struct IdGenerator {
    seed: [u8; 32],
    next: AtomicU64,
}

impl IdGenerator {
    pub(super) fn new(seed: [u8; 32]) -> IdGenerator {
        IdGenerator { seed, next: AtomicU64::new(0) }
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

/// Decides from the context of a trace whether it is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether the caller's sampling decision counts.
    pub parent_based: bool,
    /// The share of the other traces, from 0 to 1. It is decided by their ids, so every service
    /// with the same share samples the same traces.
    pub share: f64,
}

impl Sampler {
    /// Samples every trace, unless its caller decides otherwise.
    pub const DEFAULT: Sampler = Sampler { parent_based: true, share: 1.0 };

    /// The sampler that a value of `OTEL_TRACES_SAMPLER` and its argument name.
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

    pub(super) fn samples(self, trace: TraceId, by_caller: Option<bool>) -> bool {
        if let Some(by_caller) = by_caller.filter(|_| self.parent_based) {
            return by_caller;
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
    fn a_header_is_parsed_as_the_standard_says() {
        let parent = ParentSpan::of_header(HEADER).expect("the standard's own example");
        assert_eq!(hex(&parent.trace.0), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span.map(|span| hex(&span.0)).as_deref(), Some("00f067aa0ba902b7"));
        assert_eq!(parent.sampled, Some(true));
        let more = format!("{}-more", HEADER.replacen("00", "01", 1));
        assert!(ParentSpan::of_header(&more).is_some(), "a later version may have more fields");
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
            assert_eq!(ParentSpan::of_header(&text), None, "{text}");
        }
    }

    #[test]
    fn a_producers_ids_are_retained_and_another_text_always_gives_the_same_id() {
        let fields = ParentSpan::of_fields("4bf92f35-77b3-4da6-a3ce-929d0e0e4736", Some("00f067aa0ba902b7"));
        let header = ParentSpan::of_header(HEADER).expect("it is one");
        assert_eq!((fields.trace, fields.span), (header.trace, header.span));
        let (one, two) = (ParentSpan::of_fields("order 7", None), ParentSpan::of_fields("order 8", None));
        assert_eq!(one, ParentSpan::of_fields("order 7", None));
        assert_ne!(one.trace, two.trace);
    }

    #[test]
    fn a_share_of_traces_is_sampled_and_the_caller_may_decide() {
        let ids = IdGenerator::new([7; 32]);
        let fourth = Sampler::of("parentbased_traceidratio", Some("0.25")).expect("it is one");
        let sampled = (0..10_000).filter(|_| fourth.samples(ids.trace(), None)).count();
        assert!((2_300..2_700).contains(&sampled), "{sampled} of 10000");
        assert!(
            fourth.samples(TraceId([255; 16]), Some(true)) && !fourth.samples(TraceId([1; 16]), Some(false))
        );
        let every = Sampler::of("always_on", None).expect("it is one");
        assert!(every.samples(ids.trace(), Some(false)), "it ignores the caller");
        for (name, argument) in
            [("traceidratio", Some("2")), ("traceidratio", Some("x")), ("sometimes", None)]
        {
            assert_eq!(Sampler::of(name, argument), None, "{name} {argument:?}");
        }
    }
}
