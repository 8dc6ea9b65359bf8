//! Texts that stand in requests and in files that come with them.

use std::path::Path;
use std::sync::OnceLock;

use tidegate_dataflows::plan::{REGISTRY, RevisionText, Revisions};
use tidegate_dataflows::{Plan, Topology};
use tidegate_facts::strict_json::{canonical, for_each_field};
use tidegate_facts::time::{parse_rfc3339_micros, to_rfc3339};
use tidegate_facts::{Digest, FieldType, Span, Tick};
use tidegate_operators::decision::decide::BundleText;
use tidegate_operators::gate::GatePolicy;
use tidegate_queries::access::{Keys, Role};

/// The canonical form of JSON is its own, and has the fields that the text has.
pub fn json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut fields = 0;
    let is_object = for_each_field(text, |_, _| {
        fields += 1;
        Ok(())
    });
    let Ok(form) = canonical(text) else { return };
    assert_eq!(canonical(&form).as_deref(), Ok(form.as_str()), "the form of {text:?} has another form");
    assert_eq!(is_object.is_ok(), form.starts_with('{'));
    if is_object.is_ok() {
        let mut kept = 0;
        for_each_field(&form, |_, _| {
            kept += 1;
            Ok(())
        })
        .expect("it is an object");
        assert_eq!(fields, kept, "a field was lost or made up");
    }
}

/// What is read as a time, a tick or a span is what is written of it.
pub fn times(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(micros) = parse_rfc3339_micros(text) {
        assert_eq!(to_rfc3339(micros), text);
    }
    if let Ok(tick) = Tick::parse(text) {
        assert_eq!(Tick::parse(&tick.0.to_string()), Ok(tick));
        if tick.partition() == 0 {
            assert_eq!(Tick::parse(&to_rfc3339(tick.micros())), Ok(tick));
        }
    }
    if let Ok(span) = Span::parse(text) {
        assert_eq!(Span::parse(&span.to_string()), Ok(span));
    }
    if let Ok(kind) = FieldType::parse(text) {
        assert_eq!(FieldType::parse(&kind.to_string()), Ok(kind));
    }
    if let Some(digest) = Digest::from_hex(text) {
        assert_eq!(digest.to_hex(), text);
    }
    if let Ok(number) = <[u8; 8]>::try_from(bytes) {
        let written = to_rfc3339(i64::from_le_bytes(number));
        if let Some(micros) = parse_rfc3339_micros(&written) {
            assert_eq!(micros, i64::from_le_bytes(number));
        }
    }
}

/// A file of keys, and behind a NUL a key that somebody shows: who is let in has a key of the file, and its roles alone.
pub fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (file, shown) = text.split_once('\0').unwrap_or((text, ""));
    let Ok(keys) = Keys::parse(Path::new("keys.toml"), file) else { return };
    let digest = Digest::of(shown.as_bytes()).to_hex();
    match keys.caller(Some(shown)) {
        Ok(caller) => {
            if caller.require(Role::Reader).is_ok() && !keys.is_empty() {
                assert_eq!(keys.digest_of(caller.id(), Role::Reader).map(Digest::to_hex), Some(digest));
            }
        }
        Err(_) => assert!(!keys.is_empty(), "with no keys everybody of this machine is let in"),
    }
    assert_eq!(keys.caller(None).is_ok(), keys.is_empty());
}

/// Texts that would come into force: policies, and bundles under the topology of card payments.
pub fn revision(bytes: &[u8]) {
    static TOPOLOGY: OnceLock<Topology> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match GatePolicy::parse(text) {
        Ok(policy) => assert_eq!(policy.rev(), policy.rev()),
        Err(faults) => assert!(!faults.is_empty(), "it is refused, and nothing is said"),
    }
    let Ok(bundle) = BundleText::parse(text) else { return };
    assert_eq!(bundle.digest(), bundle.digest());
    let topology = TOPOLOGY.get_or_init(|| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dataflows/fraud.toml");
        let read = Topology::read(&file, &[], REGISTRY);
        read.unwrap_or_else(|faults| panic!("{faults:?}")).0
    });
    let revised = RevisionText { file: "rules.toml".into(), text: text.into() };
    let revisions =
        Revisions::from([("decisions".to_owned(), vec![(Tick::new(1, 0).expect("a tick"), Some(revised))])]);
    if let Err(faults) = Plan::with_revisions(topology.clone(), &revisions) {
        assert!(!faults.is_empty(), "it is refused, and nothing is said");
    }
}
