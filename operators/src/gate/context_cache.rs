//! The cache of contexts: what follows from a context alone is checked, written and hashed once.

use std::collections::BTreeMap;

use tidegate_facts::strict_json::{self, JsonError};
use tidegate_facts::time::to_rfc3339;
use tidegate_facts::{Context, DedupeScope, Envelope, Reason};

use super::convert::WRITABLE;
use super::policy::EventPolicy;
use super::time_bounds::TimeBounds;

/// The first error of a record, in the gate's order of checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// The reason code.
    pub reason: Reason,
    /// A sentence that says what is wrong and how to correct it.
    pub detail: String,
}

impl RecordError {
    /// An error with this sentence. A long one is truncated, because it may quote a hostile record.
    pub fn new(reason: Reason, detail: impl Into<String>) -> RecordError {
        const DETAIL_CHARS_MAX: usize = 400;
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        RecordError { reason, detail }
    }

    /// The error of a record that is larger than the policy allows.
    pub fn too_large(bytes: usize, bytes_max: usize) -> RecordError {
        RecordError::new(
            Reason::RecordTooLarge,
            format!(
                "the record has {bytes} bytes, and the policy allows {bytes_max}; send less, or raise record_bytes_max"
            ),
        )
    }

    /// The error of a record whose event time is not within the source's bounds.
    pub fn out_of_range(time: i64, bounds: TimeBounds) -> RecordError {
        let written = if WRITABLE.contains(&time) {
            to_rfc3339(time)
        } else {
            format!("{time} microseconds after 1970")
        };
        let (from, to) = (to_rfc3339(bounds.from), to_rfc3339(bounds.to));
        RecordError::new(
            Reason::TimeOutOfRange,
            format!(
                "`ts_utc` {written} is not between {from} and {to}; correct the record, or widen the source's time_between"
            ),
        )
    }
}

/// A cached context of records, and what follows from it alone.
pub struct CachedContext {
    /// The context.
    pub context: Context,
    /// The canonical text of the context.
    pub text: String,
    /// The index of its event type in the policy, or the error of every record with this context.
    pub event: Result<usize, RecordError>,
    /// The scope of the dedupe keys of its events.
    ///
    /// It depends on the class of the event type and not on `event`, because another revision of
    /// the policy may admit what this one rejects.
    pub scope: DedupeScope,
}

/// The gate's cache of the contexts of recent records, each with a number.
pub struct ContextCache {
    events: Vec<EventPolicy>,
    all: Vec<CachedContext>,
    numbers: BTreeMap<Context, u32>,
}

impl ContextCache {
    /// An empty context cache for a policy with these event types, in the order of their names.
    pub fn new(events: Vec<EventPolicy>) -> ContextCache {
        ContextCache { events, all: Vec::new(), numbers: BTreeMap::new() }
    }

    /// The policy's event types, in the order of their names.
    pub fn events(&self) -> &[EventPolicy] {
        &self.events
    }

    /// The context with this number.
    pub fn get(&self, number: u32) -> &CachedContext {
        &self.all[number as usize]
    }

    /// The count of cached contexts.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Removes all contexts from the cache; numbers that were returned before become invalid.
    pub fn clear(&mut self) {
        self.all.clear();
        self.numbers.clear();
    }

    /// The number of a context; adds the context if necessary.
    pub fn number(&mut self, context: &Context) -> u32 {
        if let Some(number) = self.numbers.get(context) {
            return *number;
        }
        let number = self.all.len() as u32;
        let event = check_policy(context, &self.events);
        let class = event_index(context, &self.events).map(|index| self.events[index].class);
        let run = context.platform_run_id.as_deref();
        let scope = DedupeScope::new(run, class, &context.event_type);
        self.all.push(CachedContext { context: context.clone(), text: text_of(context), event, scope });
        self.numbers.insert(context.clone(), number);
        number
    }
}

/// The index of a context's event type in the policy.
fn event_index(context: &Context, events: &[EventPolicy]) -> Option<usize> {
    events.binary_search_by(|event| event.event_type.as_ref().cmp(context.event_type.as_str())).ok()
}

/// Checks a context against the policy, in the gate's order; returns the index of its event type.
fn check_policy(context: &Context, events: &[EventPolicy]) -> Result<usize, RecordError> {
    let event_type = context.event_type.as_str();
    let index = event_index(context, events).ok_or_else(|| {
        let existing: Vec<&str> = events.iter().map(|event| event.event_type.as_ref()).collect();
        RecordError::new(
            Reason::SchemaPolicyMissing,
            format!(
                "the policy has no event type `{event_type}`; add it, or send one of {}",
                existing.join(", ")
            ),
        )
    })?;
    let event = &events[index];
    if let Some(allowed) = &event.producers {
        let allowed_text = || allowed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match &context.producer {
            Some(producer) if allowed.contains(producer) => {}
            Some(producer) => {
                return Err(RecordError::new(
                    Reason::Unauthorized,
                    format!(
                        "producer `{producer}` may not send `{event_type}`; the policy allows {}",
                        allowed_text()
                    ),
                ));
            }
            None => {
                return Err(RecordError::new(
                    Reason::Unauthorized,
                    format!(
                        "`producer` is missing; the policy allows `{event_type}` from {} only",
                        allowed_text()
                    ),
                ));
            }
        }
    }
    let missing = context.missing_pins(event.class);
    if !missing.is_empty() {
        return Err(RecordError::new(
            Reason::PinsMissing,
            format!(
                "class {} requires the pins {}; add them to the envelope",
                event.class.name(),
                missing.join(", ")
            ),
        ));
    }
    if let Some(allowed) = &event.versions {
        let allowed_text = || allowed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match &context.schema_version {
            Some(version) if allowed.contains(version) => {}
            Some(version) => {
                return Err(RecordError::new(
                    Reason::SchemaVersionNotAllowed,
                    format!(
                        "`schema_version` `{version}` of `{event_type}` is not allowed; send {}",
                        allowed_text()
                    ),
                ));
            }
            None => {
                return Err(RecordError::new(
                    Reason::SchemaVersionRequired,
                    format!("`schema_version` is missing; `{event_type}` requires one of {}", allowed_text()),
                ));
            }
        }
    }
    Ok(index)
}

/// The canonical text of a context; parsing it returns the context.
///
/// Integers keep all 64 bits, while strict RFC 8785 would round a seed above 2^53.
fn text_of(context: &Context) -> String {
    let written = serde_json::to_string(context).expect("a context is plain data");
    let mut fields: Vec<(String, &str)> = Vec::new();
    strict_json::for_each_field(&written, |key, value| {
        fields.push((key.to_owned(), value));
        Ok(())
    })
    .expect("serde_json writes valid JSON");
    fields.sort_unstable();
    let fields: Vec<String> = fields.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Checks the fields of a context that does not come from a record.
///
/// # Errors
/// The error that a record with this context would have.
pub fn check(context: &Context) -> Result<(), JsonError> {
    let written = serde_json::to_string(context).expect("a context is plain data");
    let record = format!(r#"{{"event_id":"any","ts_utc":"1970-01-01T00:00:00.000000Z",{}"#, &written[1..]);
    Envelope::parse(&record, context).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_context_is_sorted_and_parses_to_the_context() {
        let context = Context {
            event_type: "a\u{7}\"é".to_owned(),
            seed: Some(u64::MAX),
            run_id: Some("c".repeat(32)),
            ..Context::default()
        };
        let text = text_of(&context);
        assert_eq!(
            text,
            format!(
                r#"{{"event_type":"a\u0007\"é","manifest_fingerprint":"","run_id":"{}","seed":18446744073709551615}}"#,
                "c".repeat(32)
            )
        );
        assert_eq!(serde_json::from_str::<Context>(&text).unwrap(), context);
        let small = Context { seed: Some(7), ..context };
        assert_eq!(text_of(&small), strict_json::canonical(&serde_json::to_string(&small).unwrap()).unwrap());
    }
}
