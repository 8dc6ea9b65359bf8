//! Contexts by number: what many records share is judged, written and hashed once.

use std::collections::BTreeMap;

use tidegate_facts::json::{self, JsonFault};
use tidegate_facts::time::to_rfc3339;
use tidegate_facts::{Context, Digest, Envelope, Reason};

use super::convert::WRITABLE;
use super::judge::TimeBounds;
use super::policy::EventPolicy;

/// The first fault of a record in the gate's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its code.
    pub reason: Reason,
    /// What exactly is wrong, a sentence.
    pub detail: String,
}

impl Fault {
    /// A fault with that sentence; a long one is cut, since hostile records are quoted in it.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Fault {
        const DETAIL_CHARS_MAX: usize = 400;
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(end);
            detail.push('…');
        }
        Fault { reason, detail }
    }

    /// The record is larger than the policy allows.
    pub fn too_large(bytes: usize, bytes_max: usize) -> Fault {
        Fault::new(
            Reason::RecordTooLarge,
            format!(
                "the record has {bytes} bytes, and the policy allows {bytes_max}; send less, or raise record_bytes_max"
            ),
        )
    }

    /// The event time is not one that the source may send.
    pub fn out_of_range(time: i64, bounds: TimeBounds) -> Fault {
        let shown = if WRITABLE.contains(&time) {
            to_rfc3339(time)
        } else {
            format!("{time} microseconds after 1970")
        };
        let (from, to) = (to_rfc3339(bounds.from), to_rfc3339(bounds.to));
        Fault::new(
            Reason::TimeOutOfRange,
            format!(
                "`ts_utc` {shown} is not within {from} to {to}; mend the record, or widen the source's time_between"
            ),
        )
    }
}

/// A context that was seen, and all that follows from it alone.
pub struct Known {
    /// The context.
    pub context: Context,
    /// Its canonical text.
    pub text: String,
    /// The place of its event type in the policy, or why its records are refused.
    pub judgement: Result<usize, Fault>,
    /// Stands for the platform run and the class in dedupe keys.
    pub scope: [u8; 16],
}

/// Every context that was seen of late.
pub struct Contexts {
    events: Vec<EventPolicy>,
    all: Vec<Known>,
    numbers: BTreeMap<Context, u32>,
}

impl Contexts {
    /// None yet, under a policy's event types in the order of their names.
    pub fn new(events: Vec<EventPolicy>) -> Contexts {
        Contexts { events, all: Vec::new(), numbers: BTreeMap::new() }
    }

    /// The policy's event types, in the order of their names.
    pub fn events(&self) -> &[EventPolicy] {
        &self.events
    }

    /// The context of that number.
    pub fn get(&self, number: u32) -> &Known {
        &self.all[number as usize]
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Forgets all; numbers given before mean nothing from here on.
    pub fn clear(&mut self) {
        self.all.clear();
        self.numbers.clear();
    }

    /// The number of a context.
    pub fn number(&mut self, context: &Context) -> u32 {
        if let Some(number) = self.numbers.get(context) {
            return *number;
        }
        let number = self.all.len() as u32;
        let judgement = judge(context, &self.events);
        let class = judgement.as_ref().map_or("", |place| self.events[*place].class.name());
        let run = context.platform_run_id.as_deref().unwrap_or("");
        let scope = Digest::of_parts("tidegate.dedupe.v1", &[run.as_bytes(), class.as_bytes()]);
        self.all.push(Known {
            context: context.clone(),
            text: text_of(context),
            judgement,
            scope: scope.0[..16].try_into().expect("a digest has 32 bytes"),
        });
        self.numbers.insert(context.clone(), number);
        number
    }
}

/// Everything that the context alone decides, in the gate's order.
fn judge(context: &Context, events: &[EventPolicy]) -> Result<usize, Fault> {
    let event_type = context.event_type.as_str();
    let place = events.binary_search_by(|event| event.event_type.as_ref().cmp(event_type)).map_err(|_| {
        let known: Vec<&str> = events.iter().map(|event| event.event_type.as_ref()).collect();
        Fault::new(
            Reason::SchemaPolicyMissing,
            format!(
                "the policy has no event type `{event_type}`; add it, or send one of {}",
                known.join(", ")
            ),
        )
    })?;
    let event = &events[place];
    if let Some(allowed) = &event.producers {
        let allowed_text = || allowed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match &context.producer {
            Some(producer) if allowed.contains(producer) => {}
            Some(producer) => {
                return Err(Fault::new(
                    Reason::Unauthorized,
                    format!(
                        "producer `{producer}` may not send `{event_type}`; the policy lets {}",
                        allowed_text()
                    ),
                ));
            }
            None => {
                return Err(Fault::new(
                    Reason::Unauthorized,
                    format!(
                        "`producer` is missing; the policy lets only {} send `{event_type}`",
                        allowed_text()
                    ),
                ));
            }
        }
    }
    let missing = context.missing_pins(event.class);
    if !missing.is_empty() {
        return Err(Fault::new(
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
                return Err(Fault::new(
                    Reason::SchemaVersionNotAllowed,
                    format!(
                        "`schema_version` `{version}` of `{event_type}` is not allowed; send {}",
                        allowed_text()
                    ),
                ));
            }
            None => {
                return Err(Fault::new(
                    Reason::SchemaVersionRequired,
                    format!("`schema_version` is missing; `{event_type}` requires one of {}", allowed_text()),
                ));
            }
        }
    }
    Ok(place)
}

/// The canonical text of a context, from which the context can be read back.
///
/// Its whole numbers keep all 64 bits, where strict RFC 8785 would print a seed above 2^53 as another.
fn text_of(context: &Context) -> String {
    let written = serde_json::to_string(context).expect("a context is plain data");
    let mut fields: Vec<(String, &str)> = Vec::new();
    json::for_each_field(&written, |key, value| {
        fields.push((key.to_owned(), value));
        Ok(())
    })
    .expect("it was just written");
    fields.sort_unstable();
    let fields: Vec<String> = fields.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Checks the form of a context that did not come in a record.
///
/// # Errors
/// The fault that a record with this context would have.
pub fn check(context: &Context) -> Result<(), JsonFault> {
    let written = serde_json::to_string(context).expect("a context is plain data");
    let record = format!(r#"{{"event_id":"any","ts_utc":"1970-01-01T00:00:00.000000Z",{}"#, &written[1..]);
    Envelope::parse(&record, context).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_context_is_sorted_and_reads_back() {
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
        assert_eq!(text_of(&small), json::canonical(&serde_json::to_string(&small).unwrap()).unwrap());
    }
}
