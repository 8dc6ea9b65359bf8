//! Tests of the gate as a whole: every reason from lines and rows, hostile records, and that lines
//! and rows of the same record are the same fact.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    LargeStringArray, RecordBatch, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Schema};
use arrow::util::pretty::pretty_format_batches;
use expect_test::expect;
use tidegate_facts::envelope::ScenarioId;
use tidegate_facts::{Context, Digest, EventClass, Reason, Topic, columns};

use super::*;

const POLICY: &str = r#"
id = "gate.test"
revision = "1"
record_bytes_max = 4096
[event."card.transaction.v1"]
class = "traffic"
versions = ["v1"]
producers = ["world"]
partition_key = ["customer_id", "note"]
[event."card.transaction.v1".payload]
customer_id = "int32?"
amount = "decimal(12,2)"
at = "timestamp?"
score = "float64?"
note = "text?"
fraud = "bool?"
count = "int64?"
[event."run.started"]
class = "control"
[event."claim.made"]
class = "case"
partition_key = ["subject", "event_id"]
"#;

const LINE: &str = r#"{"event_id":"tx-1","event_type":"card.transaction.v1","ts_utc":"2018-04-01T00:00:31.000000Z","manifest_fingerprint":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","parameter_hash":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","seed":42,"scenario_id":"base","run_id":"cccccccccccccccccccccccccccccccc","scenario_run_id":"dddddddddddddddddddddddddddddddd","platform_run_id":"platform_20180401T000000Z","schema_version":"v1","producer":"world","payload":{"customer_id":7,"amount":"12.50","note":"né"}}"#;
const TIME: i64 = 1_522_540_831_000_000;
/// A week in 2018.
const BOUNDS: TimeBounds = TimeBounds { from: TIME - 1_000_000, to: TIME + 604_800_000_000 };

fn validator(partitions: u16) -> Validator {
    Validator::new(Arc::new(GatePolicy::parse(POLICY).unwrap()), partitions, BOUNDS)
}

fn context() -> Context {
    Context {
        event_type: "card.transaction.v1".to_owned(),
        schema_version: Some("v1".to_owned()),
        producer: Some("world".to_owned()),
        manifest_fingerprint: "a".repeat(64),
        parameter_hash: Some("b".repeat(64)),
        seed: Some(42),
        scenario_id: Some(ScenarioId::Name("base".to_owned())),
        run_id: Some("c".repeat(32)),
        scenario_run_id: Some("d".repeat(32)),
        platform_run_id: Some("platform_20180401T000000Z".to_owned()),
    }
}

fn validate(validator: &mut Validator, lines: &[&[u8]]) -> Validated {
    validator.validate_lines((100..).zip(lines.iter().copied()))
}

fn with(from: &str, to: &str) -> String {
    let line = LINE.replacen(from, to, 1);
    assert_ne!(line, LINE, "the line has no {from}");
    line
}

fn with_payload(payload: &str) -> String {
    with(r#"{"customer_id":7,"amount":"12.50","note":"né"}"#, payload)
}

/// The outcome of a record between two valid ones; asserts that both of these are accepted.
fn outcome(record: &[u8]) -> Result<AcceptedBatch, Box<Rejection>> {
    let before = with("tx-1", "before");
    let after = with("tx-1", "after");
    let mut validated = validate(&mut validator(4), &[before.as_bytes(), record, after.as_bytes()]);
    assert_eq!(validated.positions, [100, 101, 102]);
    match validated.rejected.pop() {
        Some(rejection) => {
            assert_eq!((rejection.record, &rejection.bytes[..]), (1, record));
            assert_eq!((validated.accepted.len(), &validated.accepted[0].records[..]), (1, &[0, 2][..]));
            Err(Box::new(rejection))
        }
        None => Ok(validated.accepted.into_iter().find(|accepted| accepted.records.contains(&1)).unwrap()),
    }
}

fn line_of(rejection: &Rejection) -> String {
    let id = rejection.event_id.as_deref().unwrap_or("-");
    let event_type = rejection.event_type.as_deref().unwrap_or("-");
    let hashed = if rejection.payload_hash.is_some() { " hashed" } else { "" };
    format!("{} {event_type} {id}{hashed}: {}\n", rejection.reason, rejection.detail)
}

#[test]
fn every_reason_is_reached_by_a_line_and_says_what_to_correct() {
    let large = with("né", &"x".repeat(5_000));
    let records = [
        large,
        String::new(),
        "[]".to_owned(),
        with(r#""event_id":"tx-1","#, ""),
        with(r#""event_id":"tx-1""#, r#""event_id":"tx-1","event_id":"tx-2""#),
        with(r#""seed":42"#, r#""sead":42"#),
        with(r#""payload":{"#, r#""payload":7,"x":{"#),
        with("card.transaction.v1", "card.transaction.v9"),
        with(r#","producer":"world""#, ""),
        with(r#""producer":"world""#, r#""producer":"moon""#),
        with(
            r#""run_id":"cccccccccccccccccccccccccccccccc","scenario_run_id":"dddddddddddddddddddddddddddddddd","#,
            "",
        ),
        with(r#""schema_version":"v1","#, ""),
        with(r#""schema_version":"v1""#, r#""schema_version":"v2""#),
        with("2018-04-01T00:00:31", "2019-04-01T00:00:31"),
        with("2018-04-01T00:00:31", "1969-04-01T00:00:31"),
        with_payload(r#"{"customer_id":7}"#),
        with_payload(r#"{"customer_id":7,"amount":null}"#),
        with_payload(r#"{"amount":"1.005"}"#),
        with_payload(r#"{"amount":10000000000}"#),
        with_payload(r#"{"amount":true}"#),
        with_payload(r#"{"amount":"1","amount":"1"}"#),
        with_payload(r#"{"amount":"1","colour":"red"}"#),
        with_payload(r#"{"amount":"1","customer_id":"7"}"#),
        with_payload(r#"{"amount":"1","customer_id":7.0}"#),
        with_payload(r#"{"amount":"1","customer_id":2147483648}"#),
        with_payload(r#"{"amount":"1","score":1e999}"#),
        with_payload(r#"{"amount":"1","score":"1"}"#),
        with_payload(r#"{"amount":"1","at":"2018-04-01"}"#),
        with_payload(r#"{"amount":"1","fraud":"true"}"#),
        with_payload(r#"{"amount":"1","note":["a"]}"#),
        with_payload(r#"{"amount":"1","count":9223372036854775808}"#),
        with_payload(r#"{"amount":"1","note":""}"#),
    ];
    let mut lines = String::new();
    for record in &records {
        lines += &line_of(&outcome(record.as_bytes()).unwrap_err());
    }
    expect![[r#"
        RECORD_TOO_LARGE - -: the record has 5537 bytes, and the policy allows 4096; send less, or raise record_bytes_max
        ENVELOPE_INVALID - -: the record is empty; send one JSON object
        ENVELOPE_INVALID - -: invalid type: sequence, expected an object at line 1 column 0
        ENVELOPE_INVALID card.transaction.v1 -: `event_id` is missing; every record needs it
        ENVELOPE_INVALID card.transaction.v1 tx-1: `event_id` is repeated
        ENVELOPE_INVALID card.transaction.v1 tx-1: `sead` is not a field of the envelope; put it into `payload`, or take it out
        ENVELOPE_INVALID card.transaction.v1 tx-1: `x` is not a field of the envelope; put it into `payload`, or take it out
        SCHEMA_POLICY_MISSING card.transaction.v9 tx-1: the policy has no event type `card.transaction.v9`; add it, or send one of card.transaction.v1, claim.made, run.started
        UNAUTHORIZED card.transaction.v1 tx-1: `producer` is missing; the policy allows `card.transaction.v1` from world only
        UNAUTHORIZED card.transaction.v1 tx-1: producer `moon` may not send `card.transaction.v1`; the policy allows world
        PINS_MISSING card.transaction.v1 tx-1: class traffic requires the pins scenario_run_id, run_id; add them to the envelope
        SCHEMA_VERSION_REQUIRED card.transaction.v1 tx-1: `schema_version` is missing; `card.transaction.v1` requires one of v1
        SCHEMA_VERSION_NOT_ALLOWED card.transaction.v1 tx-1: `schema_version` `v2` of `card.transaction.v1` is not allowed; send v1
        TIME_OUT_OF_RANGE card.transaction.v1 tx-1: `ts_utc` 2019-04-01T00:00:31.000000Z is not between 2018-04-01T00:00:30.000000Z and 2018-04-08T00:00:31.000000Z; correct the record, or widen the source's time_between
        TIME_OUT_OF_RANGE card.transaction.v1 tx-1: `ts_utc` 1969-04-01T00:00:31.000000Z is not between 2018-04-01T00:00:30.000000Z and 2018-04-08T00:00:31.000000Z; correct the record, or widen the source's time_between
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount` is missing; send it, or declare it optional in the policy
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount` is missing; send it, or declare it optional in the policy
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount`: expected a decimal number of at most 12 digits, 2 of them after the point, found 1.005; decimals are not rounded
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount`: expected a decimal number of at most 12 digits, 2 of them after the point, found 10000000000
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount`: expected a decimal number of at most 12 digits, 2 of them after the point, found true
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount` is repeated
        SCHEMA_FAIL card.transaction.v1 tx-1: `colour` is not a field of the payload; use one of ["customer_id", "amount", "at", "score", "note", "fraud", "count"], or declare it in the policy
        SCHEMA_FAIL card.transaction.v1 tx-1: `customer_id`: expected a whole number of 32 bits, found "7"
        SCHEMA_FAIL card.transaction.v1 tx-1: `customer_id`: expected a whole number of 32 bits, found 7.0
        SCHEMA_FAIL card.transaction.v1 tx-1: `customer_id`: expected a whole number of 32 bits, found 2147483648
        SCHEMA_FAIL card.transaction.v1 tx-1: `score`: expected a finite number, found 1e999
        SCHEMA_FAIL card.transaction.v1 tx-1: `score`: expected a finite number, found "1"
        SCHEMA_FAIL card.transaction.v1 tx-1: `at`: expected a time such as 2018-04-01T00:00:31.000000Z, found 2018-04-01
        SCHEMA_FAIL card.transaction.v1 tx-1: `fraud`: expected true or false, found "true"
        SCHEMA_FAIL card.transaction.v1 tx-1: `note`: expected a string, found ["a"]
        SCHEMA_FAIL card.transaction.v1 tx-1: `count`: expected a whole number of 64 bits, found 9223372036854775808
        PARTITION_KEY_MISSING card.transaction.v1 tx-1 hashed: none of the partition keys has a value; send one of customer_id, note, or add "event_id" to them
    "#]].assert_eq(&lines);
}

#[test]
fn hostile_records_are_rejected_and_their_neighbours_are_not() {
    let mut bad_utf8 = LINE.as_bytes().to_vec();
    bad_utf8[15] = 0xff;
    let mut nul = LINE.as_bytes().to_vec();
    nul[15] = 0;
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(500), close.repeat(500));
    let huge = vec![b'{'; 2 << 20];
    let records: Vec<Vec<u8>> = vec![
        bad_utf8,
        nul,
        vec![0; 100],
        huge,
        LINE.as_bytes()[..LINE.len() - 1].to_vec(),
        format!("{LINE}{LINE}").into(),
        deep("[", "]").into(),
        with_payload(&format!(r#"{{"amount":"1","note":{}}}"#, deep("[", "]"))).into(),
        with_payload(&deep(r#"{"a":"#, "}")).into(),
        with_payload(r#"{"amount":NaN}"#).into(),
        with_payload(r#"{"amount":-Infinity}"#).into(),
        with_payload(r#"{"amount":"NaN"}"#).into(),
        with_payload(&format!(r#"{{"amount":{}}}"#, "9".repeat(1_000))).into(),
        with_payload(r#"{"amount":1e9223372036854775807}"#).into(),
        with_payload(r#"{"amount":1e-9223372036854775808}"#).into(),
        with_payload(r#"{"amount":"1","note":"\ud800"}"#).into(),
        with_payload(r#"{"amount":"1","\ud800":"x"}"#).into(),
        with_payload(r#"{"amount":"1","\u0061mount":"1"}"#).into(),
        with(r#""event_id":"tx-1""#, r#""event_id":"\ud800\u0041""#).into(),
        with(r#""producer":"world""#, r#""producer":"world","\u0070roducer":"world""#).into(),
        with("tx-1", &"x".repeat(257)).into(),
        with("tx-1", "").into(),
        b"null".to_vec(),
        b"\"".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
    ];
    for record in &records {
        let rejection =
            outcome(record).expect_err(&String::from_utf8_lossy(&record[..record.len().min(700)]));
        assert!(rejection.detail.chars().count() <= 401, "{}", rejection.detail);
    }
    for good in [
        with_payload(r#" {"amount" : 1.5e1 , "customer_id":-0,"count":"-5"} "#),
        with_payload(r#"{"\u0061mount":"1.5000","note":"\ud83d\ude00\u0000","fraud":null}"#),
        with_payload(r#"{"amount":"1","note":"x","score":-0.0,"at":"0000-01-01T00:00:00.000000Z"}"#),
        with("tx-1", &"é".repeat(256)),
        format!("\t{LINE}\r"),
    ] {
        outcome(good.as_bytes()).unwrap();
    }
}

#[test]
fn an_object_without_a_schema_is_stored_in_canonical_form() {
    let claim = |payload: &str| {
        let record = with_payload(payload).replace("card.transaction.v1", "claim.made");
        outcome(record.as_bytes()).map(|accepted| {
            let last = accepted.rows.num_rows() - 1;
            let row = |name: &str| accepted.rows.column_by_name(name).unwrap().clone();
            let text = row(columns::PAYLOAD).as_string::<i32>().value(last).to_owned();
            let hash = row(columns::PAYLOAD_HASH).as_fixed_size_binary().value(last).to_vec();
            assert_eq!(hash, Digest::of(text.as_bytes()).0);
            (text, accepted.partitions[0])
        })
    };
    let (text, partition) = claim(r#"{ "subject":"s-1", "b":[1.0,{"d":1,"c":null}] }"#).unwrap();
    assert_eq!(text, r#"{"b":[1,{"c":null,"d":1}],"subject":"s-1"}"#);
    assert_eq!(claim(r#"{"subject":"s-1"}"#).unwrap().1, partition);
    assert_eq!(claim("{}").unwrap().0, "{}");
    assert_eq!(claim(r#"{"a":{"b":1,"b":1}}"#).unwrap_err().reason, Reason::SchemaFail);
    assert_eq!(claim(r#"{"a":12345678901234567890}"#).unwrap_err().reason, Reason::SchemaFail);

    let missing = with(r#","payload":{"customer_id":7,"amount":"12.50","note":"né"}"#, "");
    outcome(missing.replace("card.transaction.v1", "claim.made").as_bytes()).unwrap();
    assert_eq!(outcome(missing.as_bytes()).unwrap_err().reason, Reason::SchemaFail);
}

#[test]
fn types_and_contexts_may_alternate_and_each_context_is_stored_once() {
    let control = LINE.replace("card.transaction.v1", "run.started");
    let other_seed = with(r#""seed":42"#, r#""seed":18446744073709551615"#);
    let escaped = with(r#""producer":"world""#, r#""producer":"\u0077orld""#);
    let records = [LINE, &control, &other_seed, &escaped, &control, LINE].map(str::as_bytes);
    let mut validator = validator(1);
    for _ in 0..2 {
        let validated = validate(&mut validator, &records);
        let [cards, runs] = &validated.accepted[..] else { panic!("{validated:?}") };
        assert_eq!((&cards.records[..], &runs.records[..]), (&[0, 2, 3, 5][..], &[1, 4][..]));
        assert_eq!((cards.topic, cards.class), (Topic::Traffic, EventClass::Traffic));
        assert_eq!((runs.topic, runs.class), (Topic::Control, EventClass::Control));
        assert_eq!(cards.partitions, [0; 4]);
        let contexts = cards.rows.column_by_name(columns::CONTEXT).unwrap();
        let contexts = contexts.as_dictionary::<arrow::datatypes::Int32Type>();
        assert_eq!(contexts.keys().values()[..], [0, 1, 0, 0]);
        let texts = contexts.values().as_string::<i32>();
        assert_eq!(serde_json::from_str::<Context>(texts.value(0)).unwrap(), context());
        assert_eq!(
            serde_json::from_str::<Context>(texts.value(1)).unwrap(),
            Context { seed: Some(u64::MAX), ..context() }
        );
        // One run, class and id have one key, whatever else is in the context; another class has
        // another.
        assert!(cards.keys.iter().all(|key| *key == cards.keys[0]) && runs.keys[0] != cards.keys[0]);
    }
}

#[test]
fn a_rejected_record_has_a_time_only_within_the_bounds() {
    let at = |time: &str, from: &str, to: &str| with("2018-04-01T00:00:31", time).replace(from, to);
    let records = [
        "{".to_owned(),
        at("2018-04-01T00:00:40", "", ""),
        at("2018-04-01T00:00:41", "\"world\"", "\"moon\""),
        at("2099-04-01T00:00:41", "\"world\"", "\"moon\""),
        at("2099-04-01T00:00:41", "", ""),
        at("2018-04-01T00:00:42", "\"seed\"", "\"sead\""),
        "{".to_owned(),
    ];
    let mut validator = validator(1);
    let records: Vec<&[u8]> = records.iter().map(String::as_bytes).collect();
    let validated = validate(&mut validator, &records);
    let seconds: Vec<Option<i64>> = validated
        .times
        .iter()
        .map(|time| (*time != i64::MIN).then_some((time.saturating_sub(TIME)) / 1_000_000 + 31))
        .collect();
    assert_eq!(seconds, [None, Some(40), Some(41), None, None, Some(42), None]);
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

fn times(micros: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(micros.to_vec()).with_timezone("UTC"))
}

fn texts<'a>(texts: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(texts))
}

#[test]
fn the_same_record_is_the_same_fact_from_lines_columns_and_texts() {
    let payloads = [
        r#"{"customer_id":7,"amount":"12.50","at":"2018-04-01T00:00:00.000001Z","score":-0.0,"note":"né\n","fraud":true,"count":9007199254740993}"#,
        r#"{"count":"-1","amount":-0.07,"note":"n","score":1e21}"#,
        r#"{"customer_id":-8,"amount":1e2,"fraud":false,"score":0.1,"at":null}"#,
    ];
    let records: Vec<String> = payloads
        .iter()
        .enumerate()
        .map(|(row, payload)| with_payload(payload).replace("tx-1", &format!("tx-{row}")))
        .map(|line| {
            line.replace(
                r#""run_id""#,
                r#""trace_id":"t","emitted_at_utc":"2018-04-01T00:00:32.000000Z","run_id""#,
            )
        })
        .collect();
    let records: Vec<&[u8]> = records.iter().map(String::as_bytes).collect();
    let envelope = || -> Vec<(&str, ArrayRef)> {
        vec![
            ("event_id", texts(["tx-0", "tx-1", "tx-2"].map(Some))),
            ("ts_utc", times(&[TIME; 3])),
            ("emitted_at_utc", times(&[TIME + 1_000_000; 3])),
            ("trace_id", texts([Some("t"); 3])),
        ]
    };
    let mut exact = envelope();
    exact.extend::<Vec<(&str, ArrayRef)>>(vec![
        ("customer_id", Arc::new(Int64Array::from(vec![Some(7), None, Some(-8)]))),
        (
            "amount",
            Arc::new(Decimal128Array::from(vec![1_250, -7, 10_000]).with_precision_and_scale(20, 2).unwrap()),
        ),
        ("at", Arc::new(TimestampNanosecondArray::from(vec![Some(1_522_540_800_000_001_000), None, None]))),
        ("score", Arc::new(Float64Array::from(vec![-0.0, 1e21, 0.1]))),
        ("note", Arc::new(LargeStringArray::from(vec![Some("né\n"), Some("n"), None]))),
        ("fraud", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("count", Arc::new(UInt64Array::from(vec![Some(9_007_199_254_740_993), None, None]))),
        ("ignored", Arc::new(Float32Array::from(vec![f32::NAN; 3]))),
    ]);
    // The second row's count is negative, so this column has the type of the policy.
    exact.retain(|(name, _)| *name != "count");
    exact.push(("count", Arc::new(Int64Array::from(vec![Some(9_007_199_254_740_993), Some(-1), None]))));
    let mut csv = envelope();
    csv.extend([
        ("customer_id", texts([Some("7"), None, Some("-8")])),
        ("amount", texts(["12.5", "-0.07", "100"].map(Some))),
        ("at", texts([Some("2018-04-01T00:00:00.000001Z"), None, None])),
        ("score", texts(["-0.0", "1e21", "0.1"].map(Some))),
        ("note", texts([Some("né\n"), Some("n"), None])),
        ("fraud", texts([Some("true"), None, Some("false")])),
        ("count", texts([Some("9007199254740993"), Some("-1"), None])),
    ]);

    let from_lines = validate(&mut validator(64), &records);
    assert!(from_lines.rejected.is_empty(), "{:?}", from_lines.rejected);
    for columns in [exact, csv] {
        let batch = batch(columns);
        let mut validator = validator(64);
        assert!(validator.check_columns(batch.schema_ref(), "card.transaction.v1").is_empty());
        let from_rows = validator.validate_rows(&batch, &[100, 101, 102], &context());
        assert!(from_rows.rejected.is_empty(), "{:?}", from_rows.rejected);
        assert_eq!((&from_rows.positions, &from_rows.times), (&from_lines.positions, &from_lines.times));
        let (row, line) = (&from_rows.accepted[0], &from_lines.accepted[0]);
        assert_eq!((&row.records, &row.keys, &row.partitions), (&line.records, &line.keys, &line.partitions));
        assert_eq!(row.rows, line.rows);
    }
    let accepted = &from_lines.accepted[0];
    assert_eq!(
        accepted.rows.column_by_name(columns::PAYLOAD_HASH).unwrap().as_fixed_size_binary().value(0),
        Digest::of(
            "{\"amount\":\"12.50\",\"at\":\"2018-04-01T00:00:00.000001Z\",\"count\":\"9007199254740993\",\"customer_id\":7,\
             \"fraud\":true,\"note\":\"né\\n\",\"score\":0}"
                .as_bytes()
        )
        .0
    );
    let fact = columns::fact_schema(
        accepted.rows.schema().field_with_name(columns::PAYLOAD).unwrap().data_type().clone(),
    );
    assert_eq!(accepted.rows.schema().fields()[..], fact.fields()[2..]);
}

#[test]
fn every_reason_is_reached_by_a_row_and_its_neighbours_are_accepted() {
    let check = |name: &str, column: ArrayRef, context: &Context| {
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("event_id", texts(["before", "tx-1", "after"].map(Some))),
            ("ts_utc", times(&[TIME, TIME + 1, TIME + 2])),
            ("amount", texts(["1", "2", "3"].map(Some))),
            ("customer_id", Arc::new(Int32Array::from(vec![7, 7, 7]))),
            ("note", texts([None; 3])),
        ];
        columns.retain(|(other, _)| *other != name);
        columns.push((name, column));
        let batch = batch(columns);
        let validated = validator(4).validate_rows(&batch, &[5, 6, 7], context);
        let rejected: Vec<u32> = validated.rejected.iter().map(|rejection| rejection.record).collect();
        let accepted: Vec<u32> =
            validated.accepted.iter().flat_map(|accepted| accepted.records.clone()).collect();
        match &rejected[..] {
            [1] => assert_eq!(accepted, [0, 2]),
            [0, 1, 2] => {}
            other => panic!("{name}: {other:?}"),
        }
        let rejection = &validated.rejected[rejected.len() / 2];
        let bytes = String::from_utf8(rejection.bytes.clone()).unwrap();
        let bytes = if bytes.len() > 300 { format!("{} bytes", bytes.len()) } else { bytes };
        format!("{}    {bytes}\n", line_of(rejection))
    };
    let large = "x".repeat(5_000);
    let long = "x".repeat(257);
    let mut lines = String::new();
    for (name, column) in [
        ("note", texts([None, Some(large.as_str()), None])),
        ("event_id", texts([Some("before"), None, Some("after")])),
        ("event_id", texts([Some("before"), Some(long.as_str()), Some("after")])),
        ("trace_id", texts([Some("t"), Some(""), None])),
        ("ts_utc", Arc::new(TimestampMicrosecondArray::from(vec![Some(TIME), None, Some(TIME)])) as ArrayRef),
        (
            "ts_utc",
            Arc::new(TimestampNanosecondArray::from(vec![TIME * 1_000, TIME * 1_000 + 1, TIME * 1_000])),
        ),
        ("ts_utc", times(&[TIME, 0, TIME])),
        ("ts_utc", times(&[TIME, i64::MAX, TIME])),
        ("amount", texts([Some("1"), None, Some("3")])),
        ("amount", texts([Some("1"), Some("2.505"), Some("3")])),
        ("amount", texts([Some("1"), Some("two"), Some("3")])),
        (
            "amount",
            Arc::new(
                Decimal128Array::from(vec![1, 10i128.pow(11), 3]).with_precision_and_scale(20, 1).unwrap(),
            ),
        ),
        ("customer_id", Arc::new(Int64Array::from(vec![7, 1 << 31, 7]))),
        ("customer_id", Arc::new(UInt64Array::from(vec![7, u64::MAX, 7]))),
        ("score", Arc::new(Float64Array::from(vec![1.0, f64::NAN, 1.0]))),
        ("score", Arc::new(Float32Array::from(vec![1.0, f32::INFINITY, 1.0]))),
        ("score", texts(["1", "inf", "1"].map(Some))),
        ("fraud", texts(["true", "yes", "false"].map(Some))),
        ("count", Arc::new(UInt64Array::from(vec![7, u64::MAX, 7]))),
        ("at", times(&[TIME, i64::MIN, TIME])),
        ("customer_id", Arc::new(Int32Array::from(vec![Some(7), None, Some(7)]))),
    ] {
        lines += &check(name, column, &context());
    }
    for context in [
        Context { event_type: "card.transaction.v9".to_owned(), ..context() },
        Context { run_id: Some("C".repeat(32)), ..context() },
        Context { producer: None, ..context() },
        Context { seed: None, scenario_id: None, ..context() },
        Context { schema_version: None, ..context() },
        Context { schema_version: Some("v2".to_owned()), ..context() },
    ] {
        lines += &check("fraud", Arc::new(BooleanArray::from(vec![true; 3])), &context);
    }
    expect![[r#"
        RECORD_TOO_LARGE card.transaction.v1 tx-1: the record has 5005 bytes, and the policy allows 4096; send less, or raise record_bytes_max
            5097 bytes
        ENVELOPE_INVALID card.transaction.v1 -: `event_id` is missing; every record needs it
            {"amount":"2","customer_id":7,"ts_utc":"2018-04-01T00:00:31.000001Z"}
        ENVELOPE_INVALID card.transaction.v1 -: `event_id` has 257 characters; send 1 to 256
            340 bytes
        ENVELOPE_INVALID card.transaction.v1 tx-1: `trace_id` has 0 characters; send 1 to 128
            {"amount":"2","customer_id":7,"event_id":"tx-1","trace_id":"","ts_utc":"2018-04-01T00:00:31.000001Z"}
        ENVELOPE_INVALID card.transaction.v1 tx-1: `ts_utc` is missing; every record needs it
            {"amount":"2","customer_id":7,"event_id":"tx-1"}
        ENVELOPE_INVALID card.transaction.v1 tx-1: `ts_utc` is 2018-04-01T00:00:31.000000Z and 1 nanoseconds; send a time of whole microseconds
            {"amount":"2","customer_id":7,"event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000000001"}
        TIME_OUT_OF_RANGE card.transaction.v1 tx-1: `ts_utc` 1970-01-01T00:00:00.000000Z is not between 2018-04-01T00:00:30.000000Z and 2018-04-08T00:00:31.000000Z; correct the record, or widen the source's time_between
            {"amount":"2","customer_id":7,"event_id":"tx-1","ts_utc":"1970-01-01T00:00:00.000000Z"}
        TIME_OUT_OF_RANGE card.transaction.v1 tx-1: `ts_utc` is 9223372036854775807 units after 1970, outside the years 0000 to 9999; correct the record
            {"amount":"2","customer_id":7,"event_id":"tx-1"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount` is missing; send it, or declare it optional in the policy
            {"customer_id":7,"event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount`: expected a decimal number of at most 12 digits, 2 of them after the point, found 2.505; decimals are not rounded
            {"amount":"2.505","customer_id":7,"event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount`: expected a decimal number of at most 12 digits, 2 of them after the point, found two
            {"amount":"two","customer_id":7,"event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `amount`: expected a decimal number of at most 12 digits, 2 of them after the point, found 10000000000.0
            {"amount":"10000000000.0","customer_id":7,"event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `customer_id`: expected a whole number of 32 bits, found 2147483648
            {"amount":"2","customer_id":"2147483648","event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `customer_id`: expected a whole number of 32 bits, found 18446744073709551615
            {"amount":"2","customer_id":"18446744073709551615","event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `score`: expected a finite number, found NaN
            {"amount":"2","customer_id":7,"event_id":"tx-1","score":"NaN","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `score`: expected a finite number, found inf
            {"amount":"2","customer_id":7,"event_id":"tx-1","score":"inf","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `score`: expected a finite number, found inf
            {"amount":"2","customer_id":7,"event_id":"tx-1","score":"inf","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `fraud`: expected true or false, found yes
            {"amount":"2","customer_id":7,"event_id":"tx-1","fraud":"yes","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `count`: expected a whole number of 64 bits, found 18446744073709551615
            {"amount":"2","count":"18446744073709551615","customer_id":7,"event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_FAIL card.transaction.v1 tx-1: `at`: expected a time such as 2018-04-01T00:00:31.000000Z, found -9223372036854775808
            {"amount":"2","customer_id":7,"event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        PARTITION_KEY_MISSING card.transaction.v1 tx-1 hashed: none of the partition keys has a value; send one of customer_id, note, or add "event_id" to them
            {"amount":"2","event_id":"tx-1","ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_POLICY_MISSING card.transaction.v9 tx-1: the policy has no event type `card.transaction.v9`; add it, or send one of card.transaction.v1, claim.made, run.started
            {"amount":"2","customer_id":7,"event_id":"tx-1","fraud":true,"ts_utc":"2018-04-01T00:00:31.000001Z"}
        ENVELOPE_INVALID card.transaction.v1 tx-1: `run_id`: expected 32 lower-case hexadecimal digits, found "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC"
            {"amount":"2","customer_id":7,"event_id":"tx-1","fraud":true,"ts_utc":"2018-04-01T00:00:31.000001Z"}
        UNAUTHORIZED card.transaction.v1 tx-1: `producer` is missing; the policy allows `card.transaction.v1` from world only
            {"amount":"2","customer_id":7,"event_id":"tx-1","fraud":true,"ts_utc":"2018-04-01T00:00:31.000001Z"}
        PINS_MISSING card.transaction.v1 tx-1: class traffic requires the pins scenario_id, seed; add them to the envelope
            {"amount":"2","customer_id":7,"event_id":"tx-1","fraud":true,"ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_VERSION_REQUIRED card.transaction.v1 tx-1: `schema_version` is missing; `card.transaction.v1` requires one of v1
            {"amount":"2","customer_id":7,"event_id":"tx-1","fraud":true,"ts_utc":"2018-04-01T00:00:31.000001Z"}
        SCHEMA_VERSION_NOT_ALLOWED card.transaction.v1 tx-1: `schema_version` `v2` of `card.transaction.v1` is not allowed; send v1
            {"amount":"2","customer_id":7,"event_id":"tx-1","fraud":true,"ts_utc":"2018-04-01T00:00:31.000001Z"}
    "#]].assert_eq(&lines);
}

#[test]
fn columns_that_cannot_be_validated_are_reported_before_anything_starts() {
    let validator = validator(1);
    let check = |event_type: &str, columns: &[(&str, DataType)]| {
        let fields = columns.iter().map(|(name, of)| arrow::datatypes::Field::new(*name, of.clone(), true));
        validator.check_columns(&Schema::new(fields.collect::<Vec<_>>()), event_type).join("\n") + "\n"
    };
    let lines = [
        check("card.transaction.v9", &[]),
        check("card.transaction.v1", &[]),
        check("run.started", &[("event_id", DataType::Int64), ("ts_utc", DataType::Utf8)]),
        check(
            "card.transaction.v1",
            &[
                ("event_id", DataType::Utf8View),
                ("ts_utc", DataType::Date32),
                ("customer_id", DataType::Float64),
                ("amount", DataType::Decimal128(12, 3)),
                ("at", DataType::Date32),
                ("score", DataType::Int32),
                ("note", DataType::Int32),
                ("fraud", DataType::Int8),
                ("count", DataType::Decimal128(12, 0)),
            ],
        ),
        check(
            "card.transaction.v1",
            &[
                ("event_id", DataType::Utf8),
                ("ts_utc", DataType::Timestamp(arrow::datatypes::TimeUnit::Second, None)),
                ("customer_id", DataType::UInt64),
                ("amount", DataType::Null),
            ],
        ),
    ];
    expect![[r#"
        policy `gate.test` has no event type `card.transaction.v9`; add it, or use one of card.transaction.v1, claim.made, run.started
        ---
        there is no column `event_id`, which `card.transaction.v1` needs as text; add it to the source's columns
        there is no column `ts_utc`, which `card.transaction.v1` needs as timestamp; add it to the source's columns
        there is no column `amount`, which `card.transaction.v1` needs as decimal(12,2); add it to the source's columns, or declare it optional in the policy
        ---
        column `event_id` has type Int64, and `run.started` needs text; cast it explicitly
        column `ts_utc` has type Utf8, and `run.started` needs timestamp; cast it explicitly
        there is no column `payload`, which `run.started` needs as text; add it to the source's columns, or declare the payload's fields in the policy
        ---
        column `ts_utc` has type Date32, and `card.transaction.v1` needs timestamp; cast it explicitly
        column `customer_id` has type Float64, and `card.transaction.v1` needs int32; cast it explicitly
        column `amount` has type Decimal128(12, 3), and `card.transaction.v1` needs decimal(12,2); cast it explicitly
        column `at` has type Date32, and `card.transaction.v1` needs timestamp; cast it explicitly
        column `score` has type Int32, and `card.transaction.v1` needs float64; cast it explicitly
        column `note` has type Int32, and `card.transaction.v1` needs text; cast it explicitly
        column `fraud` has type Int8, and `card.transaction.v1` needs bool; cast it explicitly
        column `count` has type Decimal128(12, 0), and `card.transaction.v1` needs int64; cast it explicitly
        ---
        column `amount` has type Null, and `card.transaction.v1` needs decimal(12,2); cast it explicitly
    "#]].assert_eq(&lines.join("---\n"));
}

#[test]
fn a_row_without_a_schema_has_its_payload_as_text() {
    let batch = batch(vec![
        ("event_id", texts(["a", "b", "c", "d"].map(Some))),
        ("ts_utc", times(&[TIME; 4])),
        ("payload", texts([Some(r#"{"subject": "s"}"#), None, Some("[]"), Some("{")])),
    ]);
    let context = Context { event_type: "claim.made".to_owned(), ..context() };
    let mut validator = validator(4);
    assert!(validator.check_columns(batch.schema_ref(), "claim.made").is_empty());
    let validated = validator.validate_rows(&batch, &[0, 1, 2, 3], &context);
    assert_eq!(validated.accepted[0].records, [0, 1]);
    let payload = validated.accepted[0].rows.column_by_name("payload").unwrap().clone();
    assert_eq!(payload.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), [r#"{"subject":"s"}"#, "{}"]);
    assert!(validated.rejected.iter().all(|rejection| rejection.reason == Reason::SchemaFail));
}

/// A linear congruential generator; a failing test prints its seed, which reproduces the failure.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// The outcome of each record as text.
fn outcomes(validated: &Validated) -> Vec<String> {
    let mut outcomes = vec![String::new(); validated.positions.len()];
    for accepted in &validated.accepted {
        let sizes = [accepted.records.len(), accepted.partitions.len(), accepted.keys.len()];
        assert_eq!(sizes, [accepted.rows.num_rows(); 3]);
        for (row, record) in accepted.records.iter().enumerate() {
            let fact = pretty_format_batches(&[accepted.rows.slice(row, 1)]).unwrap();
            outcomes[*record as usize] +=
                &format!("{} {} {fact}", accepted.partitions[row], accepted.keys[row]);
        }
    }
    for rejection in &validated.rejected {
        outcomes[rejection.record as usize] += &line_of(rejection);
    }
    outcomes
}

#[test]
fn every_mutated_line_has_one_outcome_which_is_the_same_alone_and_beside_others() {
    const INSERTED: &[&[u8]] = &[
        b"\"",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"\\u",
        b"\\ud800",
        b"\\n",
        b"\0",
        b"\xff",
        b"null",
        b"1e999",
        b"-",
        b"0",
        b"\"amount\":1,",
        b"\"seed\":1,",
        b" ",
        b"\n",
        b".",
        b"e",
        b"\xc3",
        b"true",
    ];
    let bases = [
        LINE.to_owned(),
        with(r#""seed":42"#, r#""seed":42,"trace_id":"t\u0041","span_id":"s""#),
        with_payload(r#"{"note":"a\nb","amount":1e1,"score":-2.5e-3,"fraud":true}"#),
        with_payload(r#"{"at":null,"count":12,"amount":"7","customer_id":3}"#),
        with("card.transaction.v1", "claim.made"),
    ];
    for seed in 0..100 {
        let mut chance = Chance(seed);
        let records: Vec<Vec<u8>> = (0..100)
            .map(|_| {
                let mut record = bases[chance.below(bases.len())].clone().into_bytes();
                for _ in 0..chance.below(4) {
                    mutate(&mut record, INSERTED, &mut chance);
                }
                record
            })
            .collect();
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let together = outcomes(&validate(&mut validator(8), &records));
        for (record, together) in records.iter().zip(together) {
            let alone = outcomes(&validate(&mut validator(8), &[record])).concat();
            assert!(!alone.is_empty());
            assert_eq!(together, alone, "seed {seed}: {}", String::from_utf8_lossy(record));
        }
    }
}

/// Recovery finds the keys of facts by any revision of the policy that has their event type.
#[test]
fn every_revision_of_a_policy_finds_the_same_dedupe_keys() {
    let revisions = [
        POLICY.replace(r#"producers = ["world"]"#, r#"producers = ["another"]"#),
        POLICY.replace(r#"versions = ["v1"]"#, r#"versions = ["v2"]"#),
        POLICY.to_owned(),
    ];
    let accepted = outcome(LINE.as_bytes()).unwrap();
    for revision in revisions {
        let policy = GatePolicy::parse(&revision).unwrap();
        let mut validator = Validator::new(Arc::new(policy), 4, BOUNDS);
        assert_eq!(validator.dedupe_keys(&accepted.rows), accepted.keys, "{revision}");
    }
}

fn mutate(record: &mut Vec<u8>, inserted: &[&[u8]], chance: &mut Chance) {
    let at = chance.below(record.len());
    let end = (at + 1 + chance.below(40)).min(record.len());
    match chance.below(9) {
        0 => record[at] = chance.below(256) as u8,
        1 => record[at] = b'0' + chance.below(10) as u8,
        2..=4 => drop(record.splice(at..at, inserted[chance.below(inserted.len())].iter().copied())),
        5 => drop(record.drain(at..end)),
        6 => {
            let copied = record[at..end].to_vec();
            let to = chance.below(record.len());
            drop(record.splice(to..to, copied));
        }
        7 => record.swap(at, end - 1),
        _ => record.truncate(at),
    }
    record.push(b' '); // Never empty.
}

/// `cargo test --release -p tidegate-operators gate -- --ignored --nocapture`
#[test]
#[ignore = "prints rows/s"]
fn speed() {
    const ROWS: usize = 200_000;
    let policy = r#"
id = "gate.speed"
revision = "1"
[event."card.transaction.v1"]
class = "traffic"
partition_key = ["customer_id"]
[event."card.transaction.v1".payload]
tx_id = "int64"
customer_id = "int32"
terminal_id = "int32"
amount = "decimal(12,2)"
fraud = "bool"
note = "text?"
"#;
    let policy = Arc::new(GatePolicy::parse(policy).unwrap());
    let records: Vec<String> = (0..ROWS)
        .map(|row| {
            let payload = format!(
                r#"{{"tx_id":"{row}","customer_id":{},"terminal_id":{},"amount":"{}.{:02}","fraud":false,"note":"pos"}}"#,
                row % 5_000, row % 10_000, row % 300, row % 100
            );
            with_payload(&payload).replace("tx-1", &format!("tx-{row}"))
        })
        .collect();
    let batch = batch(vec![
        (
            "event_id",
            Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("tx-{row}")))) as ArrayRef,
        ),
        ("ts_utc", times(&vec![TIME; ROWS])),
        ("tx_id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
        ("customer_id", Arc::new(Int64Array::from_iter_values((0..ROWS as i64).map(|row| row % 5_000)))),
        ("terminal_id", Arc::new(Int64Array::from_iter_values((0..ROWS as i64).map(|row| row % 10_000)))),
        (
            "amount",
            Arc::new(
                Decimal128Array::from_iter_values((0..ROWS as i128).map(|row| row % 30_000))
                    .with_precision_and_scale(12, 2)
                    .unwrap(),
            ),
        ),
        ("fraud", Arc::new(BooleanArray::from(vec![false; ROWS]))),
        ("note", texts(vec![Some("pos"); ROWS])),
    ]);
    let positions: Vec<u64> = (0..ROWS as u64).collect();
    for partitions in [1, 16] {
        for (what, size) in [("lines", 8_192), ("rows", 8_192)] {
            let mut validator = Validator::new(Arc::clone(&policy), partitions, TimeBounds::TICKS);
            let best = (0..5)
                .map(|_| {
                    let start = Instant::now();
                    let mut accepted = 0;
                    for from in (0..ROWS).step_by(size) {
                        let to = (from + size).min(ROWS);
                        let validated = match what {
                            "lines" => validator
                                .validate_lines((0..).zip(records[from..to].iter().map(String::as_bytes))),
                            _ => validator.validate_rows(
                                &batch.slice(from, to - from),
                                &positions[from..to],
                                &context(),
                            ),
                        };
                        accepted += validated.accepted[0].records.len();
                    }
                    assert_eq!(accepted, ROWS);
                    start.elapsed()
                })
                .min()
                .unwrap();
            let rate = ROWS as f64 / best.as_secs_f64() / 1e6;
            println!("{what} of {} bytes, {partitions} partitions: {rate:.2} M/s", records[0].len());
        }
    }
}
