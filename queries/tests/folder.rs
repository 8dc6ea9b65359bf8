//! SQL over a data folder: what each table holds, and which statements are refused.
//!
//! The folder has a log of payments with two groups. The first admits two payments and a policy; the second
//! has a duplicate and an event that does not parse. The store has two committed tables.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, DictionaryArray, FixedSizeBinaryBuilder, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use expect_test::{Expect, expect};
use tempfile::TempDir;
use tidegate_facts::audit::{
    QuarantineReceipt, RECEIPTS, RUN, ReceiptBuilder, ReceiptOrigin, RunRecord, json_record,
};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Digest, PolicyRev, Reason, Tick, Topic, columns};
use tidegate_host::Host;
use tidegate_queries::{Catalogue, Format, write};
use tidegate_sinks::commits::{CommitInterval, Commits, TableBuffer, TableFile, TableFileFormat};
use tidegate_sinks::hash_chains::{LogHead, LogHeads};
use tidegate_sinks::log::{EmbeddedLog, Frame, Group, LogFolder, LogOptions, LogWriter};
use tidegate_sinks::store::Store;
use tidegate_sinks::table_catalog;

const START: i64 = 1_522_540_800_000_000;

fn tick(micros: i64, partition: u16) -> Tick {
    Tick::new(START + micros, partition).unwrap()
}

fn digests(texts: &[Option<&str>]) -> ArrayRef {
    let mut digests = FixedSizeBinaryBuilder::new(32);
    for text in texts {
        match text {
            Some(text) => digests.append_value(Digest::of(text.as_bytes()).0).unwrap(),
            None => digests.append_null(),
        }
    }
    Arc::new(digests.finish())
}

fn texts(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(texts.iter().copied().collect::<StringArray>())
}

/// Facts of one event type. The id of a fact is `<event type>-<row>`.
fn facts(topic: Topic, event_type: &str, ticks: &[Tick], offsets: &[i64], payload: ArrayRef) -> Frame {
    let ids: Vec<String> = (0..ticks.len()).map(|row| format!("{event_type}-{row}")).collect();
    let ids: Vec<Option<&str>> = ids.iter().map(|id| Some(id.as_str())).collect();
    let context = format!(
        r#"{{"event_type":"{event_type}","manifest_fingerprint":"","producer":"till","scenario_id":7,"seed":42,"platform_run_id":"platform_20180401T000000Z"}}"#
    );
    let times = TimestampMicrosecondArray::from_iter_values(ticks.iter().map(|tick| tick.micros() - 1));
    let times: ArrayRef = Arc::new(times.with_data_type(timestamp()));
    let none: ArrayRef = texts(&vec![None; ticks.len()]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(columns::tick_array(ticks.iter().copied())),
        Arc::new(columns::OffsetArray::from(offsets.to_vec())),
        texts(&ids),
        Arc::clone(&times),
        Arc::new(ticks.iter().map(|_| Some(context.as_str())).collect::<DictionaryArray<Int32Type>>()),
        digests(&ids),
        Arc::new(TimestampMicrosecondArray::new_null(ticks.len()).with_data_type(timestamp())),
        Arc::clone(&none),
        Arc::clone(&none),
        none,
        Arc::clone(&payload),
    ];
    let schema = columns::fact_schema(payload.data_type().clone());
    let rows = columns::drop_null_columns(&RecordBatch::try_new(schema, columns).unwrap());
    Frame { topic, name: event_type.to_owned(), rows }
}

fn payments(amounts: &[i128]) -> ArrayRef {
    let amounts = Decimal128Array::from(amounts.to_vec()).with_precision_and_scale(12, 2).unwrap();
    let customers = Int64Array::from_iter_values(0..amounts.len() as i64);
    Arc::new(StructArray::from(vec![
        (
            Arc::new(Field::new("TX_AMOUNT", DataType::Decimal128(12, 2), false)),
            Arc::new(amounts) as ArrayRef,
        ),
        (Arc::new(Field::new("CUSTOMER_ID", DataType::Int64, false)), Arc::new(customers)),
    ]))
}

/// The receipt of an event from the source `tills`.
enum Receipt {
    Admitted(Tick, u64),
    /// The first fact, and its event type and id.
    Duplicate(Tick, u64, &'static str, &'static str),
    /// Why the event is rejected, and its bytes.
    Quarantined(&'static str, &'static [u8]),
}

fn receipts(first: u64, receipts: &[Receipt]) -> Frame {
    let mut builder = ReceiptBuilder::default();
    for (position, receipt) in (first..).zip(receipts) {
        let origin = ReceiptOrigin { source: 0, position, order_time: None };
        match receipt {
            Receipt::Admitted(tick, offset) => builder.admitted(origin, *tick, *offset),
            Receipt::Duplicate(tick, offset, event_type, event_id) => {
                let hash = Digest::of(event_id.as_bytes());
                builder.duplicate(origin, (*tick, *offset), event_type, event_id, hash);
            }
            Receipt::Quarantined(detail, bytes) => {
                let reason = Reason::EnvelopeInvalid;
                let receipt = QuarantineReceipt {
                    reason,
                    detail,
                    event_type: None,
                    event_id: None,
                    payload_hash: None,
                    bytes,
                };
                builder.quarantined(origin, &receipt);
            }
        }
    }
    Frame { topic: Topic::Audit, name: RECEIPTS.to_owned(), rows: builder.finish(&["tills"]) }
}

fn run_record(revision: &str) -> Frame {
    let digest = Digest::of(b"policy");
    let (policy_id, revision) = ("gate".to_owned(), revision.to_owned());
    let policy = PolicyRev { policy_id, revision, content_digest: digest };
    let record = RunRecord { topology: "tills".to_owned(), plan: digest, policy, partitions: 2 };
    Frame { topic: Topic::Audit, name: RUN.to_owned(), rows: json_record(&record) }
}

/// Opens the log of a data folder for appending.
fn open_log(data: &Path) -> EmbeddedLog {
    LogFolder::of_data(&Host::real(), data).open(LogOptions::default()).unwrap().0
}

fn write_log(data: &Path) {
    let mut log = open_log(data);
    let run = Group { frames: vec![run_record("1")], lower: Tick::ZERO, upper: Tick::ZERO, commit: false };
    log.append_and_wait(&run).unwrap();
    let (first, second, third) = (tick(1_000_000, 0), tick(1_000_000, 1), tick(2_500_000, 0));
    let policy = texts(&[Some(r#"{"limit":"20.00"}"#)]);
    let upper = third.next();
    log.append_and_wait(&Group {
        frames: vec![
            facts(Topic::Traffic, "payment", &[first, third], &[0, 1], payments(&[1234, -5])),
            facts(Topic::Control, "policy", &[second], &[0], policy),
            receipts(
                0,
                &[Receipt::Admitted(first, 0), Receipt::Admitted(second, 0), Receipt::Admitted(third, 1)],
            ),
        ],
        lower: Tick::ZERO,
        upper,
        commit: true,
    })
    .unwrap();
    let again = Receipt::Duplicate(first, 0, "payment", "payment-0");
    let refused = Receipt::Quarantined("it is not JSON", b"{\xff");
    let frames = vec![run_record("2"), receipts(3, &[again, refused])];
    log.append_and_wait(&Group { frames, lower: upper, upper, commit: false }).unwrap();
}

fn write_store(store: &Path) -> Commits {
    let store = Store::open(store).unwrap();
    let mut commits = Commits::default();
    let schema = Arc::new(Schema::new(vec![
        columns::tick_field("_tick"),
        Field::new("basis", columns::basis_type(), false),
        Field::new("TRANSACTION_ID", DataType::Int64, false),
        Field::new("TX_AMOUNT", DataType::Decimal128(12, 2), true),
        Field::new("action", columns::dictionary(), false),
        Field::new("decided_at_utc", timestamp(), false),
        Field::new("seal", DataType::FixedSizeBinary(32), false),
    ]));
    let decisions = |ids: std::ops::Range<i64>| {
        let ticks: Vec<Tick> = ids.clone().map(|id| tick(id * 1_000_000, (id % 2) as u16)).collect();
        let basis = ids.clone().map(|id| Some([Some(id), Some(1)]));
        let basis = ListArray::from_iter_primitive::<columns::OffsetType, _, _>(basis);
        let item = columns::basis_item();
        let (_, offsets, values, nulls) = basis.into_parts();
        let amounts: Decimal128Array =
            ids.clone().map(|id| (id != 2).then_some(i128::from(id) * 1050)).collect();
        let actions: DictionaryArray<Int32Type> =
            ids.clone().map(|id| Some(if id > 2 { "block" } else { "allow" })).collect();
        let times = TimestampMicrosecondArray::from_iter_values(ticks.iter().map(|tick| tick.micros()));
        let seals: Vec<String> = ids.clone().map(|id| id.to_string()).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(columns::tick_array(ticks.iter().copied())),
            Arc::new(ListArray::new(item, offsets, values, nulls)),
            Arc::new(Int64Array::from_iter_values(ids)),
            Arc::new(amounts.with_precision_and_scale(12, 2).unwrap()),
            Arc::new(actions),
            Arc::new(times.with_data_type(timestamp())),
            digests(&seals.iter().map(|seal| Some(seal.as_str())).collect::<Vec<_>>()),
        ];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let errors = RecordBatch::try_from_iter([
        ("_tick", Arc::new(columns::TickArray::from(vec![tick(1_000_000, 1).0])) as ArrayRef),
        ("cause", texts(&[Some("division by zero")])),
        ("row", Arc::new(Int32Array::from(vec![3]))),
    ])
    .unwrap();
    let mut unsealed =
        TableBuffer::new("decisions", Arc::clone(&schema), TableFileFormat::Parquet, Tick::ZERO);
    let mut failed = TableBuffer::new("errors", errors.schema(), TableFileFormat::Jsonl, Tick::ZERO);
    unsealed.insert(&decisions(0..3));
    failed.insert(&errors);
    let upper = tick(2_500_000, 0);
    let mut files = unsealed.write_before(upper, &store).unwrap();
    files.extend(failed.write_before(upper, &store).unwrap());
    commits.publish(interval(upper, files), None, &store).unwrap();
    unsealed.insert(&decisions(3..5));
    let files = unsealed.write_before(tick(5_000_000, 0), &store).unwrap();
    commits.publish(interval(tick(5_000_000, 0), files), None, &store).unwrap();
    commits
}

fn folder() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    write_log(data.path());
    write_store(&data.path().join("store"));
    data
}

fn answer_as(format: Format, data: &Path, sql: &str) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let catalogue = Catalogue::open(data, None).map_err(|error| error.to_string())?;
        let rows = catalogue.query(sql).await.map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        write(format, rows, &mut out).await.map_err(|error| error.to_string())?;
        Ok(out)
    })
}

fn answer(format: Format, data: &Path, sql: &str) -> String {
    let text = answer_as(format, data, sql)
        .map_or_else(|error| format!("error: {error}\n"), |out| String::from_utf8(out).unwrap());
    text.replace(&data.display().to_string(), "DATA")
}

fn check(sql: &str, expect: Expect) {
    expect.assert_eq(&answer(Format::Table, folder().path(), sql));
}

fn check_as(format: Format, sql: &str, expect: Expect) {
    expect.assert_eq(&answer(format, folder().path(), sql));
}

#[test]
fn facts_have_an_envelope_and_the_canonical_text_of_the_payload() {
    check(
        "select _tick, partition, \"offset\", topic, event_type, event_id, ts_utc, admitted_at_utc from facts order by _tick",
        expect![[r#"
            +--------------------+-----------+--------+---------+------------+-----------+-----------------------------+--------------------------+
            | _tick              | partition | offset | topic   | event_type | event_id  | ts_utc                      | admitted_at_utc          |
            +--------------------+-----------+--------+---------+------------+-----------+-----------------------------+--------------------------+
            | 389770445056000000 | 0         | 0      | traffic | payment    | payment-0 | 2018-04-01T00:00:00.999999Z | 2018-04-01T00:00:01Z     |
            | 389770445056000001 | 1         | 0      | control | policy     | policy-0  | 2018-04-01T00:00:00.999999Z | 2018-04-01T00:00:01Z     |
            | 389770445440000000 | 0         | 1      | traffic | payment    | payment-1 | 2018-04-01T00:00:02.499999Z | 2018-04-01T00:00:02.500Z |
            +--------------------+-----------+--------+---------+------------+-----------+-----------------------------+--------------------------+
        "#]],
    );
    check(
        "select event_id, producer, seed, scenario_id, platform_run_id, run_id, manifest_fingerprint, trace_id, emitted_at_utc from facts where topic = 'traffic' order by event_id",
        expect![[r#"
        +-----------+----------+------+-------------+---------------------------+--------+----------------------+----------+----------------+
        | event_id  | producer | seed | scenario_id | platform_run_id           | run_id | manifest_fingerprint | trace_id | emitted_at_utc |
        +-----------+----------+------+-------------+---------------------------+--------+----------------------+----------+----------------+
        | payment-0 | till     | 42   | 7           | platform_20180401T000000Z | NULL   | NULL                 | NULL     | NULL           |
        | payment-1 | till     | 42   | 7           | platform_20180401T000000Z | NULL   | NULL                 | NULL     | NULL           |
        +-----------+----------+------+-------------+---------------------------+--------+----------------------+----------+----------------+
    "#]],
    );
    check(
        "select payload_hash, payload from facts order by _tick",
        expect![[r#"
        +------------------------------------------------------------------+-----------------------------------------+
        | payload_hash                                                     | payload                                 |
        +------------------------------------------------------------------+-----------------------------------------+
        | 70110fa2fdb1709af923dcdd14bde33ee7107a11068f1c941eb172eb547b411a | {"CUSTOMER_ID":"0","TX_AMOUNT":"12.34"} |
        | 02d10e76afd04e7329ad9593d17962a266fb3b195f7d216086ab66d2bfc4c983 | {"limit":"20.00"}                       |
        | 6040b42e23e29380b0d4bd5c38d48288b60daeef1d447fab422467146c5fc3c3 | {"CUSTOMER_ID":"1","TX_AMOUNT":"-0.05"} |
        +------------------------------------------------------------------+-----------------------------------------+
    "#]],
    );
}

#[test]
fn receipts_of_admitted_events_match_their_facts() {
    check(
        "select position, source, decision, reason_code, event_type, event_id, _tick, partition, \"offset\", topic from receipts order by position",
        expect![[r#"
            +----------+--------+------------+------------------+------------+-----------+--------------------+-----------+--------+---------+
            | position | source | decision   | reason_code      | event_type | event_id  | _tick              | partition | offset | topic   |
            +----------+--------+------------+------------------+------------+-----------+--------------------+-----------+--------+---------+
            | 0        | tills  | ADMIT      | NULL             | payment    | payment-0 | 389770445056000000 | 0         | 0      | traffic |
            | 1        | tills  | ADMIT      | NULL             | policy     | policy-0  | 389770445056000001 | 1         | 0      | control |
            | 2        | tills  | ADMIT      | NULL             | payment    | payment-1 | 389770445440000000 | 0         | 1      | traffic |
            | 3        | tills  | DUPLICATE  | DUPLICATE        | payment    | payment-0 | 389770445056000000 | 0         | 0      | traffic |
            | 4        | tills  | QUARANTINE | ENVELOPE_INVALID | NULL       | NULL      | NULL               | NULL      | NULL   | NULL    |
            +----------+--------+------------+------------------+------------+-----------+--------------------+-----------+--------+---------+
        "#]],
    );
    check(
        "select position, receipt_id, payload_hash from receipts order by position",
        expect![[r#"
        +----------+------------------------------------------------------------------+------------------------------------------------------------------+
        | position | receipt_id                                                       | payload_hash                                                     |
        +----------+------------------------------------------------------------------+------------------------------------------------------------------+
        | 0        | 5985fea90beef6efa333c3d5c93a16070e88c464f6ab7c2a3ee484da7834df04 | 70110fa2fdb1709af923dcdd14bde33ee7107a11068f1c941eb172eb547b411a |
        | 1        | d86a1b970f52f4b6cacd49eb465d123f6a2325e644ebbff60598273b00c021c3 | 02d10e76afd04e7329ad9593d17962a266fb3b195f7d216086ab66d2bfc4c983 |
        | 2        | 78d66fffa0db01cabbac5b5678ba9a1247049c4af7972647e023b21d14d6a1a4 | 6040b42e23e29380b0d4bd5c38d48288b60daeef1d447fab422467146c5fc3c3 |
        | 3        | 3c80a9dc356dcf539f7130972a6dda31d7e78d6bcb8b3a76e67ca8fc3334db19 | 70110fa2fdb1709af923dcdd14bde33ee7107a11068f1c941eb172eb547b411a |
        | 4        | 2918fa1e5b70ba154840434c3e631eb041df45c57287b8f45806714afb9a707b | NULL                                                             |
        +----------+------------------------------------------------------------------+------------------------------------------------------------------+
    "#]],
    );
    check(
        "select position, policy_id, policy_revision, policy_digest, detail from receipts order by position",
        expect![[r#"
        +----------+-----------+-----------------+------------------------------------------------------------------+----------------+
        | position | policy_id | policy_revision | policy_digest                                                    | detail         |
        +----------+-----------+-----------------+------------------------------------------------------------------+----------------+
        | 0        | gate      | 1               | ff096070fb25d5456f50000af78f1c92fda605bdb7bc3d1e7d1cc0091204e61c | NULL           |
        | 1        | gate      | 1               | ff096070fb25d5456f50000af78f1c92fda605bdb7bc3d1e7d1cc0091204e61c | NULL           |
        | 2        | gate      | 1               | ff096070fb25d5456f50000af78f1c92fda605bdb7bc3d1e7d1cc0091204e61c | NULL           |
        | 3        | gate      | 2               | ff096070fb25d5456f50000af78f1c92fda605bdb7bc3d1e7d1cc0091204e61c | NULL           |
        | 4        | gate      | 2               | ff096070fb25d5456f50000af78f1c92fda605bdb7bc3d1e7d1cc0091204e61c | it is not JSON |
        +----------+-----------+-----------------+------------------------------------------------------------------+----------------+
    "#]],
    );
}

#[test]
fn a_receipt_id_can_be_recomputed() {
    let id = Digest::of_parts(
        "tidegate.receipt.v1",
        &[b"platform_20180401T000000Z", b"tills", &2u64.to_le_bytes(), b"ADMIT"],
    );
    let found = answer(Format::Csv, folder().path(), "select receipt_id from receipts where position = 2");
    assert_eq!(found, format!("receipt_id\n{id}\n"));
}

#[test]
fn quarantine_keeps_the_bytes_of_rejected_events() {
    check_as(
        Format::Json,
        "select * from quarantine",
        expect![[r#"
        {"receipt_id":"2918fa1e5b70ba154840434c3e631eb041df45c57287b8f45806714afb9a707b","decision":"QUARANTINE","reason_code":"ENVELOPE_INVALID","source":"tills","position":4,"event_type":null,"event_id":null,"payload_hash":null,"after_tick":389770445440000000,"after_utc":"2018-04-01T00:00:02.500Z","detail":"it is not JSON","policy_id":"gate","policy_revision":"2","policy_digest":"ff096070fb25d5456f50000af78f1c92fda605bdb7bc3d1e7d1cc0091204e61c","bytes":"7bff","bytes_text":"{�"}
    "#]],
    );
    check(
        "select count(*) from quarantine",
        expect![[r#"
        +----------+
        | count(*) |
        +----------+
        | 1        |
        +----------+
    "#]],
    );
}

#[test]
fn committed_tables_hold_the_rows_of_all_commits() {
    check(
        "select * from decisions order by transaction_id",
        expect![[r#"
        +--------------------+--------+----------------+-----------+--------+----------------------+------------------------------------------------------------------+
        | _tick              | basis  | TRANSACTION_ID | TX_AMOUNT | action | decided_at_utc       | seal                                                             |
        +--------------------+--------+----------------+-----------+--------+----------------------+------------------------------------------------------------------+
        | 389770444800000000 | [0, 1] | 0              | 0.00      | allow  | 2018-04-01T00:00:00Z | 4d067153ac729a4a7e8220c97935ffba67487860d58298ceeb23864369867d9f |
        | 389770445056000001 | [1, 1] | 1              | 10.50     | allow  | 2018-04-01T00:00:01Z | d63bd9a826af91c1fea371965a64e11ee20f13e46b5f52c59901136605b3a487 |
        | 389770445312000000 | [2, 1] | 2              | NULL      | allow  | 2018-04-01T00:00:02Z | 813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d |
        | 389770445568000001 | [3, 1] | 3              | 31.50     | block  | 2018-04-01T00:00:03Z | 58d6fd3dc609068615d66b6a2616cce521e6bd49bbcd7854e3f2573b142c6637 |
        | 389770445824000000 | [4, 1] | 4              | 42.00     | block  | 2018-04-01T00:00:04Z | e67a9c4536256f1ec7495a146b5442fa7c0ed99e258a08260a4a244fa31c7c61 |
        +--------------------+--------+----------------+-----------+--------+----------------------+------------------------------------------------------------------+
    "#]],
    );
    check(
        "select action, count(*) as n, sum(TX_AMOUNT) as total from decisions group by action order by N",
        expect![[r#"
        +--------+---+-------+
        | action | n | total |
        +--------+---+-------+
        | block  | 2 | 73.50 |
        | allow  | 3 | 10.50 |
        +--------+---+-------+
    "#]],
    );
    check(
        "select * from errors",
        expect![[r#"
        +--------------------+------------------+-----+
        | _tick              | cause            | row |
        +--------------------+------------------+-----+
        | 389770445056000001 | division by zero | 3   |
        +--------------------+------------------+-----+
    "#]],
    );
    check(
        "select d.transaction_id, f.event_id from decisions d join facts f on d._tick = f._tick order by 1",
        expect![[r#"
        +----------------+----------+
        | TRANSACTION_ID | event_id |
        +----------------+----------+
        | 1              | policy-0 |
        +----------------+----------+
    "#]],
    );
}

#[test]
fn only_the_requested_columns_and_rows_are_read() {
    let plan = answer(
        Format::Csv,
        folder().path(),
        "explain select TX_AMOUNT from decisions where TRANSACTION_ID > 3",
    );
    assert!(
        plan.contains("projection=[TX_AMOUNT], file_type=parquet, predicate=TRANSACTION_ID@2 > 3"),
        "{plan}"
    );
    check(
        "explain format indent select event_id from facts limit 1",
        expect![[r#"
        +---------------+-----------------------------------------------------------------------+
        | plan_type     | plan                                                                  |
        +---------------+-----------------------------------------------------------------------+
        | logical_plan  | Limit: skip=0, fetch=1                                                |
        |               |   TableScan: facts projection=[event_id], fetch=1                     |
        | physical_plan | StreamingTableExec: partition_sizes=1, projection=[event_id], fetch=1 |
        |               |                                                                       |
        +---------------+-----------------------------------------------------------------------+
    "#]],
    );
    check(
        "select count(*) from facts",
        expect![[r#"
        +----------+
        | count(*) |
        +----------+
        | 3        |
        +----------+
    "#]],
    );
    check(
        "select event_type from facts limit 1",
        expect![[r#"
        +------------+
        | event_type |
        +------------+
        | payment    |
        +------------+
    "#]],
    );
}

#[test]
fn a_frame_of_many_facts_is_read_in_parts() {
    let data = tempfile::tempdir().unwrap();
    let mut log = open_log(data.path());
    let ticks: Vec<Tick> = (0..20_000).map(|at| tick(at, 0)).collect();
    let offsets: Vec<i64> = (0..20_000).collect();
    let amounts: Vec<i128> = (0..20_000).collect();
    let frames = vec![facts(Topic::Traffic, "payment", &ticks, &offsets, payments(&amounts))];
    log.append_and_wait(&Group { frames, lower: Tick::ZERO, upper: tick(20_000, 0), commit: false }).unwrap();
    let sql = "select count(*) as facts, count(distinct event_id) as ids, count(distinct payload) as payloads, max(\"offset\") from facts";
    expect![[r#"
        +-------+-------+----------+-------------------+
        | facts | ids   | payloads | max(facts.offset) |
        +-------+-------+----------+-------------------+
        | 20000 | 20000 | 20000    | 19999             |
        +-------+-------+----------+-------------------+
    "#]]
    .assert_eq(&answer(Format::Table, data.path(), sql));
}

#[test]
fn tables_are_listed_and_described() {
    check(
        "show tables",
        expect![[r#"
            +------------+
            | table_name |
            +------------+
            | decisions  |
            | errors     |
            | facts      |
            | governance |
            | quarantine |
            | receipts   |
            +------------+
        "#]],
    );
    check(
        "describe Quarantine",
        expect![[r#"
        +-----------------+----------------------+-------------+
        | column_name     | data_type            | is_nullable |
        +-----------------+----------------------+-------------+
        | receipt_id      | FixedSizeBinary(32)  | NO          |
        | decision        | Utf8                 | NO          |
        | reason_code     | Utf8                 | YES         |
        | source          | Utf8                 | NO          |
        | position        | Int64                | NO          |
        | event_type      | Utf8                 | YES         |
        | event_id        | Utf8                 | YES         |
        | payload_hash    | FixedSizeBinary(32)  | YES         |
        | after_tick      | Int64                | YES         |
        | after_utc       | Timestamp(µs, "UTC") | YES         |
        | detail          | Utf8                 | YES         |
        | policy_id       | Utf8                 | YES         |
        | policy_revision | Utf8                 | YES         |
        | policy_digest   | FixedSizeBinary(32)  | YES         |
        | bytes           | Binary               | YES         |
        | bytes_text      | Utf8                 | YES         |
        +-----------------+----------------------+-------------+
    "#]],
    );
    check(
        "select column_name, data_type from information_schema.columns where table_name = 'errors'",
        expect![[r#"
        +-------------+-----------+
        | column_name | data_type |
        +-------------+-----------+
        | _tick       | Int64     |
        | cause       | Utf8      |
        | row         | Int64     |
        +-------------+-----------+
    "#]],
    );
    let data = folder();
    let tables = Catalogue::open(data.path(), None).unwrap().tables();
    let tables: Vec<(&str, Option<u64>)> =
        tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
    let known = [
        ("decisions", Some(5)),
        ("errors", Some(1)),
        ("facts", None),
        ("governance", None),
        ("quarantine", None),
        ("receipts", None),
    ];
    assert_eq!(tables, known);
}

#[test]
fn csv_has_a_header_and_json_in_place_of_lists() {
    check_as(
        Format::Csv,
        "select TRANSACTION_ID, TX_AMOUNT, action, decided_at_utc, basis, seal from decisions where transaction_id < 3 order by 1",
        expect![[r#"
            TRANSACTION_ID,TX_AMOUNT,action,decided_at_utc,basis,seal
            0,0.00,allow,2018-04-01T00:00:00Z,"[0,1]",4d067153ac729a4a7e8220c97935ffba67487860d58298ceeb23864369867d9f
            1,10.50,allow,2018-04-01T00:00:01Z,"[1,1]",d63bd9a826af91c1fea371965a64e11ee20f13e46b5f52c59901136605b3a487
            2,,allow,2018-04-01T00:00:02Z,"[2,1]",813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d
        "#]],
    );
    check_as(
        Format::Csv,
        "select * from errors where row > 3",
        expect![[r#"
        _tick,cause,row
    "#]],
    );
}

#[test]
fn json_has_one_object_per_line_and_every_digit() {
    check_as(
        Format::Json,
        "select _tick, TX_AMOUNT, action, decided_at_utc, basis, seal from decisions where transaction_id in (1, 2) order by 1",
        expect![[r#"
            {"_tick":389770445056000001,"TX_AMOUNT":10.50,"action":"allow","decided_at_utc":"2018-04-01T00:00:01Z","basis":[1,1],"seal":"d63bd9a826af91c1fea371965a64e11ee20f13e46b5f52c59901136605b3a487"}
            {"_tick":389770445312000000,"TX_AMOUNT":null,"action":"allow","decided_at_utc":"2018-04-01T00:00:02Z","basis":[2,1],"seal":"813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d"}
        "#]],
    );
    check_as(
        Format::Json,
        "select 1 as a, 2 as b, a.row, b.row from errors a, errors b",
        expect![[r#"
        error: the answer has two columns `row`, which json cannot keep apart; give one another name with AS
    "#]],
    );
}

#[test]
fn parquet_reads_back_equal() {
    let bytes =
        answer_as(Format::Parquet, folder().path(), "select * from decisions order by _tick").unwrap();
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("answer.parquet");
    std::fs::write(&path, bytes).unwrap();
    let file = std::fs::File::open(path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1024).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    assert_eq!(batches[0].schema().field_with_name("basis").unwrap().data_type(), &columns::basis_type());
}

#[test]
fn statements_that_change_data_are_refused() {
    for sql in [
        "drop table facts",
        "create table t as select 1",
        "insert into errors values (1, 'a', 2)",
        "delete from facts",
        "update errors set row = 1",
        "copy facts to 'x.csv'",
        "create external table t stored as csv location 'x.csv'",
        "set datafusion.execution.batch_size = 1",
        "select * into t from facts",
        "explain analyze insert into errors values (1, 'a', 2)",
        "begin",
    ] {
        let refusal = answer(Format::Table, folder().path(), sql);
        assert!(refusal.contains("changes data"), "{sql}: {refusal}");
    }
    check(
        "drop table facts",
        expect![[r#"
        error: `DROP` changes data, and SQL only reads it here; use SELECT, WITH, VALUES, EXPLAIN, SHOW or DESCRIBE
    "#]],
    );
}

#[test]
fn a_wrong_statement_gets_a_message_that_names_the_error() {
    check(
        "selec 1",
        expect![[r#"
            error: the query is not SQL: Expected: an SQL statement, found: selec at Line: 1, Column: 1
        "#]],
    );
    check(
        "select 1; select 2",
        expect![[r#"
        error: the text holds 2 statements; send one at a time
    "#]],
    );
    check(
        "select * from descisions",
        expect![[r#"
        error: there is no table `descisions`; did you mean `decisions`?
    "#]],
    );
    check(
        "select * from nothing_like_it",
        expect![[r#"
        error: there is no table `nothing_like_it`; there are `decisions`, `errors`, `facts`, `governance`, `quarantine`, `receipts`
    "#]],
    );
    check(
        "select tx_amont from decisions",
        expect![[r#"
        error: there is no column `tx_amont` here; did you mean `TX_AMOUNT`?
    "#]],
    );
    check(
        "select colour from errors",
        expect![[r#"
        error: there is no column `colour` here; there are `_tick`, `cause`, `row`
    "#]],
    );
    check(
        "select nosuch(row) from errors",
        expect![[r#"
            error: the query cannot be planned: Invalid function 'nosuch'. Did you mean 'cosh'?
        "#]],
    );
    check(
        "select 1 / (row - 3) from errors",
        expect![[r#"
        error: the query stopped: Divide by zero error
    "#]],
    );
}

#[test]
fn an_empty_log_has_empty_tables() {
    let data = tempfile::tempdir().unwrap();
    drop(open_log(data.path()));
    let sql = "select (select count(*) from facts) as f, (select count(*) from receipts) as r";
    expect![[r#"
        +---+---+
        | f | r |
        +---+---+
        | 0 | 0 |
        +---+---+
    "#]]
    .assert_eq(&answer(Format::Table, data.path(), sql));
    expect![[r#"
        +------------+
        | bytes_text |
        +------------+
        +------------+
    "#]]
    .assert_eq(&answer(Format::Table, data.path(), "select bytes_text from quarantine"));
    let store = Store::open(data.path().join("store")).unwrap();
    let fields = [("_tick", columns::tick_type()), ("cause", DataType::Utf8)];
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, false)).to_vec();
    table_catalog::declare(&[("errors".to_owned(), Arc::new(Schema::new(fields)))], &store).unwrap();
    expect![[r#"
        +-------+
        | cause |
        +-------+
        +-------+
    "#]]
    .assert_eq(&answer(Format::Table, data.path(), "select cause from errors where _tick > 5"));
    let tables = Catalogue::open(data.path(), None).unwrap().tables();
    assert!(tables.iter().any(|table| table.name == "errors" && table.rows == Some(0)));
}

#[test]
fn a_folder_without_a_log_is_refused() {
    let data = tempfile::tempdir().unwrap();
    expect![[r#"
        error: no data folder at `DATA`; run a topology with `--data DATA` first
    "#]]
    .assert_eq(&answer(Format::Table, data.path(), "select 1"));
}

#[test]
fn a_file_named_by_a_commit_must_exist_and_be_whole() {
    let data = tempfile::tempdir().unwrap();
    write_log(data.path());
    let commits = write_store(&data.path().join("store"));
    let file = commits.files_of("decisions").next().unwrap();
    let path = data.path().join("store").join(&file.name);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..100]).unwrap();
    expect![[r#"
        error: file `DATA/store/tables/decisions/00000000000000000000-00389770445440000000-3e212e6ff129b6f7.parquet` of table `decisions` has 100 bytes where its commit names 2874; restore it from a copy, or run the topology on the log with a new store
    "#]].assert_eq(&answer(Format::Table, data.path(), "select 1"));
    std::fs::remove_file(&path).unwrap();
    expect![[r#"
        error: file `DATA/store/tables/decisions/00000000000000000000-00389770445440000000-3e212e6ff129b6f7.parquet` of table `decisions` cannot be read, and a commit names it; restore it from a copy, or run the topology on the log with a new store
    "#]].assert_eq(&answer(Format::Table, data.path(), "select 1"));
}

#[test]
fn a_query_that_stops_over_a_damaged_file_names_it() {
    let data = tempfile::tempdir().unwrap();
    write_log(data.path());
    let commits = write_store(&data.path().join("store"));
    let file = commits.files_of("decisions").last().unwrap();
    let path = data.path().join("store").join(&file.name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4..64].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    let answer = answer(Format::Table, data.path(), "select * from decisions");
    let named = format!("file `DATA/store/{}` of table `decisions` is not what was committed (", file.name);
    assert!(answer.contains(&named), "{answer}");
}

#[test]
fn a_flipped_byte_of_the_last_commit_is_refused_wherever_it_is() {
    let data = folder();
    let store = Store::open(data.path().join("store")).unwrap();
    let name = store.list("commits").unwrap().pop().unwrap();
    let whole = store.get(&name).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.to_vec();
        flipped[at] ^= 1;
        std::fs::write(store.location(&name), &flipped).unwrap();
        let refused = Commits::read(&store).expect_err("a byte was flipped").to_string();
        assert!(refused.contains(&name), "byte {at}: {refused}");
    }
}

#[test]
fn a_damaged_log_is_reported() {
    let data = folder();
    let segment = data.path().join("log").join(format!("{:020}.seg", 0));
    let mut bytes = std::fs::read(&segment).unwrap();
    // This byte is in the first group. Groups follow it, so this is damage and not a torn end.
    bytes[200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    expect![[r#"
        error: segment `DATA/log/00000000000000000000.seg` is damaged at byte 0, in group 0: its rows do not match their checksum, but other groups follow it; restore the file from a copy: nothing behind the damage can be trusted
    "#]].assert_eq(&answer(Format::Table, data.path(), "select event_id from facts order by 1"));
}

fn interval(upper: Tick, files: Vec<TableFile>) -> CommitInterval {
    CommitInterval { upper, plan: Digest::of(b"plan"), log: LogHeads::default(), files }
}

/// A folder with the graph `graph`. Two of its three cards are used at one device, until one of those
/// links ends. Later, the first and the last card share another device.
fn graph_folder() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    write_log(data.path());
    let store = Store::open(data.path().join("store")).unwrap();
    let ports = tidegate_dataflows::entity_graphs::port_schemas();
    let names = ["entities", "links", "components", "sightings"];
    let at = |second: i64| tick(second * 100_000, 0);
    let rows = |port: usize, columns: Vec<ArrayRef>| {
        RecordBatch::try_new(Arc::clone(&ports[port]), columns).unwrap()
    };
    let ticks = |seconds: &[i64]| -> ArrayRef {
        Arc::new(columns::tick_array(seconds.iter().map(|second| at(*second))))
    };
    let words = |words: &[&str]| -> ArrayRef { Arc::new(StringArray::from(words.to_vec())) };
    let numbers = |numbers: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(numbers.to_vec())) };
    // In tenths of a second: card 1 is linked to device 9 at 1, and card 2 to device 9 at 3; at 12 the
    // second link ends.
    let entities = rows(
        0,
        vec![
            ticks(&[1, 1, 3, 12, 12, 14, 14]),
            words(&["card", "device", "card", "card", "card", "card", "card"]),
            words(&["1", "9", "2", "2", "2", "it's", "none"]),
            words(&["card:1", "card:1", "card:1", "card:1", "card:2", "card:it's", "card:none"]),
            ticks(&[1, 1, 3, 3, 3, 14, 14]),
            numbers(&[1, 1, 1, -1, 1, 1, 1]),
        ],
    );
    let links = rows(
        1,
        vec![
            ticks(&[1, 3, 12, 14]),
            words(&["card"; 4]),
            words(&["1", "2", "2", "it's"]),
            words(&["device", "device", "device", "card"]),
            words(&["9", "9", "9", "none"]),
            ticks(&[1, 3, 3, 14]),
            numbers(&[1, 1, -1, 1]),
        ],
    );
    let components = rows(
        2,
        vec![
            ticks(&[1, 3, 3, 12, 12, 12]),
            words(&["card:1", "card:1", "card:1", "card:1", "card:1", "card:2"]),
            numbers(&[2, 2, 3, 3, 2, 1]),
            numbers(&[0, 0, 1, 1, 1, 0]),
            numbers(&[1, -1, 1, -1, 1, 1]),
        ],
    );
    let sightings = rows(
        3,
        vec![
            Arc::new(columns::TickArray::from(vec![at(1).0, at(3).0, at(3).0 + (1 << 48)])),
            words(&["card"; 3]),
            words(&["1", "2", "1"]),
        ],
    );
    let graph = tidegate_sinks::graph_catalog::Graph {
        node: "graph".to_owned(),
        plan: Digest::of(b"plan"),
        partitions: 2,
        kinds: vec!["card".to_owned(), "device".to_owned()],
        entities: Some(names[0].to_owned()),
        links: Some(names[1].to_owned()),
        components: Some(names[2].to_owned()),
        sightings: Some(names[3].to_owned()),
    };
    tidegate_sinks::graph_catalog::declare(&[graph], &store).unwrap();
    let mut commits = Commits::default();
    let mut files = Vec::new();
    for (name, rows) in names.iter().zip([entities, links, components, sightings]) {
        let mut unsealed = TableBuffer::new(name, rows.schema(), TableFileFormat::Parquet, Tick::ZERO);
        unsealed.insert(&rows);
        files.extend(unsealed.write_before(tick(2_400_000, 0), &store).unwrap());
    }
    let head =
        LogHead { topic: Topic::Traffic, partition: 0, records: 1, links: 1, head: Digest::of(b"head") };
    let interval = CommitInterval { log: LogHeads(vec![head]), ..interval(tick(2_400_000, 0), files) };
    commits.publish(interval, None, &store).unwrap();
    data
}

fn check_graph(sql: &str, expect: Expect) {
    expect.assert_eq(&answer(Format::Table, graph_folder().path(), sql));
}

#[test]
fn identifiers_are_resolved_to_components_and_a_conflict_is_flagged() {
    check_graph(
        "select hint, kind, identifier, component, size, positives, first_seen, candidates, conflict from resolve('card', 1, 'card', '2', 'device', 'nothing') order by hint",
        expect![[r#"
            +------+--------+------------+-----------+------+-----------+--------------------------+------------+----------+
            | hint | kind   | identifier | component | size | positives | first_seen               | candidates | conflict |
            +------+--------+------------+-----------+------+-----------+--------------------------+------------+----------+
            | 1    | card   | 1          | card:1    | 2    | 1         | 2018-04-01T00:00:00.100Z | 2          | true     |
            | 2    | card   | 2          | card:2    | 1    | 0         | 2018-04-01T00:00:00.300Z | 2          | true     |
            | 3    | device | nothing    | NULL      | NULL | NULL      | NULL                     | 2          | true     |
            +------+--------+------------+-----------+------+-----------+--------------------------+------------+----------+
        "#]],
    );
    check_graph(
        "select hint, component, candidates, conflict, before_tick, basis from Resolve('card', '1', 'card', '2', as_of => '2018-04-01T00:00:01.100000Z') order by HINT",
        expect![[r#"
            +------+-----------+------------+----------+--------------------+--------+
            | hint | component | candidates | conflict | before_tick        | basis  |
            +------+-----------+------------+----------+--------------------+--------+
            | 1    | card:1    | 1          | false    | 389770445081600256 | [1, 0] |
            | 2    | card:1    | 1          | false    | 389770445081600256 | [1, 0] |
            +------+-----------+------------+----------+--------------------+--------+
        "#]],
    );
    // The version is a digest of the plan and the basis; the basis counts the facts before the tick.
    let basis = |when: &str| {
        answer(
            Format::Csv,
            graph_folder().path(),
            &format!("select basis, graph_version from resolve('card', '1'{when})"),
        )
    };
    let version = |basis: &str| {
        Digest::of(format!(r#"["tidegate.graph.v1","{}",{basis}]"#, Digest::of(b"plan").to_hex()).as_bytes())
    };
    for (when, counts) in [("", ["1", "0"]), (", as_of => '2018-04-01T00:00:00.900000Z'", ["0", "0"])] {
        let answer = basis(when);
        let wanted = version(&format!(r#"["{}","{}"]"#, counts[0], counts[1])).to_hex();
        assert!(answer.contains(&wanted), "{answer}");
    }
}

#[test]
fn a_profile_has_times_members_and_sums() {
    check_graph(
        "select kind, identifier, first_seen, last_seen, days_seen, degree, degree_card, degree_device, component, size, positives from profile('card', '1')",
        expect![[r#"
            +------+------------+--------------------------+------------+-----------+--------+-------------+---------------+-----------+------+-----------+
            | kind | identifier | first_seen               | last_seen  | days_seen | degree | degree_card | degree_device | component | size | positives |
            +------+------------+--------------------------+------------+-----------+--------+-------------+---------------+-----------+------+-----------+
            | card | 1          | 2018-04-01T00:00:00.100Z | 2018-04-01 | 1         | 1      | 0           | 1             | card:1    | 2    | 1         |
            +------+------------+--------------------------+------------+-----------+--------+-------------+---------------+-----------+------+-----------+
        "#]],
    );
    check_graph(
        "select first_seen, last_seen, days_seen, degree_card, component, size, p.positives from profile('device', '9', as_of => '2018-04-01T00:00:00.400000Z') p",
        expect![[r#"
            +--------------------------+-----------+-----------+-------------+-----------+------+-----------+
            | first_seen               | last_seen | days_seen | degree_card | component | size | positives |
            +--------------------------+-----------+-----------+-------------+-----------+------+-----------+
            | 2018-04-01T00:00:00.100Z | NULL      | 0         | 2           | card:1    | 3    | 1         |
            +--------------------------+-----------+-----------+-------------+-----------+------+-----------+
        "#]],
    );
    check_graph(
        "select identifier, degree_card, size from profile('card', 'it''s')",
        expect![[r#"
        +------------+-------------+------+
        | identifier | degree_card | size |
        +------------+-------------+------+
        | it's       | 1           | NULL |
        +------------+-------------+------+
    "#]],
    );
    check_graph(
        "select * from profile('card', 'unheard of')",
        expect![[r#"
            +------+------------+------------+------------+-----------+-----------+--------+-------------+---------------+-----------+------+-----------+-------------+-------+---------------+
            | kind | identifier | first_tick | first_seen | last_seen | days_seen | degree | degree_card | degree_device | component | size | positives | before_tick | basis | graph_version |
            +------+------------+------------+------------+-----------+-----------+--------+-------------+---------------+-----------+------+-----------+-------------+-------+---------------+
            +------+------------+------------+------------+-----------+-----------+--------+-------------+---------------+-----------+------+-----------+-------------+-------+---------------+
        "#]],
    );
}

#[test]
fn neighbours_are_paged_direct_or_through_a_shared_node() {
    check_graph(
        "select * exclude (since_tick) from neighbours('device', '9')",
        expect![[r#"
        +------+------------+--------+--------------------------+--------+
        | kind | identifier | shared | since                    | page   |
        +------+------------+--------+--------------------------+--------+
        | card | 1          | NULL   | 2018-04-01T00:00:00.100Z | card:1 |
        +------+------------+--------+--------------------------+--------+
    "#]],
    );
    check_graph(
        "select kind, identifier, since, page from neighbours('device', '9', 1, as_of => '2018-04-01T00:00:00.500000Z')",
        expect![[r#"
            +------+------------+--------------------------+--------+
            | kind | identifier | since                    | page   |
            +------+------------+--------------------------+--------+
            | card | 1          | 2018-04-01T00:00:00.100Z | card:1 |
            +------+------------+--------------------------+--------+
        "#]],
    );
    check_graph(
        "select kind, identifier, since, page from neighbours('device', 9, limit => 1, after => 'card:1', as_of => '2018-04-01T00:00:00.500000Z')",
        expect![[r#"
            +------+------------+--------------------------+--------+
            | kind | identifier | since                    | page   |
            +------+------------+--------------------------+--------+
            | card | 2          | 2018-04-01T00:00:00.300Z | card:2 |
            +------+------------+--------------------------+--------+
        "#]],
    );
    check_graph(
        "select kind, identifier, shared, since, page from neighbours('card', '1', through => 'device', as_of => '2018-04-01T00:00:00.500000Z')",
        expect![[r#"
            +------+------------+----------+--------------------------+-------------------------+
            | kind | identifier | shared   | since                    | page                    |
            +------+------------+----------+--------------------------+-------------------------+
            | card | 2          | device:9 | 2018-04-01T00:00:00.300Z | card:2 through device:9 |
            +------+------------+----------+--------------------------+-------------------------+
        "#]],
    );
    check_graph(
        "select count(*) from neighbours('card', '1', through => 'device')",
        expect![[r#"
        +----------+
        | count(*) |
        +----------+
        | 0        |
        +----------+
    "#]],
    );
    // Both ends of a link may have the same kind.
    check_graph(
        "select kind, identifier from neighbours('card', 'none')",
        expect![[r#"
        +------+------------+
        | kind | identifier |
        +------+------------+
        | card | it's       |
        +------+------------+
    "#]],
    );
    // Names in the statement do not collide with the names that the function uses inside.
    check_graph(
        "with links as (select 1 as kind), found as (select 2 as identifier) select n.identifier, links.kind from neighbours('card', '1') n, links, found",
        expect![[r#"
            +------------+------+
            | identifier | kind |
            +------------+------+
            | 9          | 1    |
            +------------+------+
        "#]],
    );
}

#[test]
fn a_wrong_graph_call_gets_a_message_with_the_valid_choices() {
    for (sql, message) in [
        ("select * from resolve('crad', '1')", "`crad` is no kind of graph `graph`; did you mean `card`?"),
        (
            "select * from neighbours('card', '1', through => 'person')",
            "`person` is no kind of graph `graph`",
        ),
        (
            "select * from resolve('card')",
            "takes a kind and an identifier; write resolve('KIND', 'IDENTIFIER'",
        ),
        ("select * from profile('card', '1', 'card', '2')", "takes a kind and an identifier"),
        (
            "select * from profile('card', '1', graph => 'grph')",
            "there is no graph `grph`; did you mean `graph`?",
        ),
        ("select * from profile('card', '1', limit => 3)", "has no argument `limit`"),
        ("select * from neighbours('card', '1', limit => 'all')", "takes a number of rows"),
        (
            "select * from neighbours('card', '1', as_of => 'long ago')",
            "takes a literal tick or time for `as_of`",
        ),
        ("select * from neighbours('card', (select '1'))", "takes literals and parameters only"),
        ("select * from neighbours('card', '1', 5, limit => 5)", "has `limit` twice"),
        ("select * from graph_version('grph')", "there is no graph `grph`"),
    ] {
        let refusal = answer(Format::Table, graph_folder().path(), sql);
        assert!(refusal.starts_with("error: ") && refusal.contains(message), "{sql}: {refusal}");
    }
    check(
        "select * from resolve('card', '1')",
        expect![[r#"
        error: `resolve`: there is no entity graph here: give the topology a node of kind `entities`, and a `sink.parquet` for each of its ports `entities`, `links` and `components`, and run it (if an earlier version ran it, run it again); write resolve('KIND', 'IDENTIFIER' [, 'KIND', 'IDENTIFIER' ..] [, as_of => TICK or TIME] [, graph => 'NODE'])
    "#]],
    );
}

#[test]
fn the_files_of_other_kinds_are_not_read_for_a_key() {
    // Every link starts at a card and ends at a device or another card. No link starts at a device.
    let read = |sql: &str| {
        let plan = answer(Format::Csv, graph_folder().path(), &format!("explain analyze {sql}"));
        let scans = plan.lines().filter(|line| line.contains("DataSourceExec") && line.contains("/links/"));
        let mut pruned: Vec<bool> =
            scans.map(|scan| scan.contains("row_groups_pruned_statistics=1 total → 0 matched")).collect();
        pruned.sort_unstable();
        pruned
    };
    assert_eq!(read("select * from neighbours('device', '9')"), [false, true]);
    assert_eq!(read("select * from neighbours('card', 'it''s')"), [false, false]);
}
