//! Dedupe keys: when two records are the same event.

use crate::{Digest, EventClass, control_fact};

/// The scope of a dedupe key, within which an event id names one event: a platform run, a class and
/// an event type.
///
/// Facts that the engine makes itself, such as the steps of revisions, have scopes of their own: no
/// producer can take an id from them, nor they from a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupeScope([u8; 16]);

impl DedupeScope {
    /// The scope of events of a type. The class is `None` if the policy has no such type; such
    /// records never become facts.
    pub fn new(platform_run_id: Option<&str>, class: Option<EventClass>, event_type: &str) -> DedupeScope {
        let maker = if control_fact::is_control_fact(event_type) { "engine" } else { "producer" };
        let parts = [maker, platform_run_id.unwrap_or(""), class.map_or("", EventClass::name), event_type];
        let digest = Digest::of_parts("tidegate.dedupe.v2", &parts.map(str::as_bytes));
        DedupeScope(digest.0[..16].try_into().expect("a digest has 32 bytes"))
    }

    /// Appends the text of which the dedupe key of an event is the digest.
    ///
    /// The key is [`Digest::short`] of that digest. Whoever computes many keys hashes the texts in
    /// a batch.
    pub fn push_key_text(&self, event_id: &str, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.0);
        text.extend_from_slice(event_id.as_bytes());
    }

    /// The dedupe key of an event.
    pub fn key(&self, event_id: &str) -> u128 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(event_id.as_bytes());
        Digest(*hasher.finalize().as_bytes()).short()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::governance;

    #[test]
    fn an_id_is_one_event_within_run_class_and_type() {
        let key = |run, class, event_type| DedupeScope::new(run, class, event_type).key("e-1");
        let traffic = Some(EventClass::Traffic);
        let payment = key(None, traffic, "payment");
        assert_eq!(payment, key(Some(""), traffic, "payment"));
        for other in [
            key(Some("run"), traffic, "payment"),
            key(None, Some(EventClass::Case), "payment"),
            key(None, traffic, "refund"),
        ] {
            assert_ne!(payment, other);
        }
        let scope = DedupeScope::new(None, traffic, "payment");
        assert_ne!(payment, scope.key("e-2"));
        let mut text = Vec::new();
        scope.push_key_text("e-1", &mut text);
        assert_eq!(payment, Digest::of(&text).short());
    }

    #[test]
    fn facts_of_the_engine_have_scopes_of_their_own() {
        let own = DedupeScope::new(None, Some(EventClass::Control), governance::EVENT_TYPE);
        let parts: [&[u8]; 4] = [b"producer", b"", b"control", governance::EVENT_TYPE.as_bytes()];
        let of_producer = Digest::of_parts("tidegate.dedupe.v2", &parts);
        assert_ne!(own.0, of_producer.0[..16]);
    }
}
