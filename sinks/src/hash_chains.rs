//! Hash chains over the records of the log, whose heads each commit states.
//!
//! Each partition of each topic is a chain of its own and grows by one link at each commit
//! boundary: the digest of all its records in the interval, each as a line of canonical JSON. So a
//! chain costs hardly more than writing the lines, and changing, dropping or reordering a record
//! changes every later link.
//!
//! | topic | a line |
//! |---|---|
//! | `traffic`, `control` | the envelope of one fact and the digest of its payload |
//! | `audit` | one receipt, with the digest of a quarantined record's bytes; or one record of the run |
//!
//! The interval of a record follows from the records alone, whatever groups they came in. A fact
//! belongs to the interval of its tick, its receipt to the same one, and any other audit record to
//! the interval of the next admitted fact.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int32Array,
    StringArray,
};
use arrow::datatypes::{DataType, Int32Type, UInt8Type};
use serde::{Deserialize, Serialize};
use tidegate_facts::jcs::{ObjectWriter, push_string};
use tidegate_facts::seal::Chain;
use tidegate_facts::{Digest, Tick, Topic, Verdict, columns};

use crate::log::{Frame, Group};

/// The prefix that is hashed before an interval's lines.
const RANGE: &[u8] = b"tidegate.range.v1\n";
/// The number of bytes of lines that are hashed at once: BLAKE3 is several times faster over long
/// texts.
const BLOCK_BYTES: usize = 128 << 10;

/// The state of the hash chain of one partition of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogHead {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: u16,
    /// The number of records that the chain covers: the offset of the first that it does not cover.
    pub records: u64,
    /// The number of intervals with records of the partition.
    pub links: u64,
    /// The seal of the last interval.
    pub head: Digest,
}

/// The heads of all hash chains of the log at one commit boundary, by topic and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogHeads(pub Vec<LogHead>);

/// The hash chains of a log, up to the last group that was read.
#[derive(Default)]
pub struct LogChains {
    partitions: BTreeMap<(Topic, u16), Partition>,
    /// Lines of audit records after the last admitted fact, which belong to the interval of the
    /// next one.
    waiting: Vec<u8>,
    /// The number of these lines.
    waiting_records: u64,
}

#[derive(Default)]
struct Partition {
    chain: Chain,
    /// The number of records in the closed intervals.
    sealed: u64,
    /// The number of records in the open interval.
    open: u64,
    lines: Vec<u8>,
    hasher: Option<blake3::Hasher>,
}

/// The lines of the records of one frame, concatenated.
struct Lines {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl LogChains {
    /// The chains after a commit boundary with these heads.
    pub fn after(heads: &LogHeads) -> LogChains {
        let partitions = heads.0.iter().map(|head| {
            let chain = Chain { records: head.links, head: head.head };
            ((head.topic, head.partition), Partition { chain, sealed: head.records, ..Partition::default() })
        });
        LogChains { partitions: partitions.collect(), ..LogChains::default() }
    }

    /// Adds the next group, and returns the heads at each of `uppers`: the commit boundaries that
    /// follow from the group, ascending.
    ///
    /// `order` comes from [`Group::facts_in_order`]. Facts before `from` are ignored, and so are
    /// the audit records that belong to them.
    pub fn group(
        &mut self,
        group: &Group,
        order: &[(Tick, u32, u32)],
        uppers: &[Tick],
        from: Tick,
    ) -> Vec<LogHeads> {
        let lines: Vec<Option<Lines>> =
            group.frames.iter().map(|f| (f.topic != Topic::Audit).then(|| Lines::of_facts(f))).collect();
        let audit: Vec<Audit> =
            group.frames.iter().filter(|f| f.topic == Topic::Audit).map(Audit::of).collect();
        let mut audit = audit.iter().flat_map(Audit::records);
        let mut uppers = uppers.iter().peekable();
        let mut heads = Vec::new();
        for (tick, frame, row) in order {
            while uppers.next_if(|upper| *upper <= tick).is_some() {
                heads.push(self.cut());
            }
            if *tick >= from {
                let (frame, row) = (*frame as usize, *row as usize);
                let lines = lines[frame].as_ref().expect("only facts have an order");
                self.partition(group.frames[frame].topic, tick.partition()).push(lines.get(row));
            }
            // Facts are admitted in the order of their ticks, so the next receipt of a fact is this
            // fact's.
            for (line, is_admitted) in audit.by_ref() {
                self.wait(line);
                if is_admitted {
                    break;
                }
            }
            self.audit(*tick >= from);
        }
        audit.for_each(|(line, _)| self.wait(line));
        heads.extend(uppers.map(|_| self.cut()));
        heads
    }

    /// Whether there are audit records after the last admitted fact.
    pub fn is_waiting(&self) -> bool {
        self.waiting_records > 0
    }

    fn wait(&mut self, line: &[u8]) {
        self.waiting.extend_from_slice(line);
        self.waiting_records += 1;
    }

    /// Adds the waiting audit records to the interval of the fact that came, if that fact counts.
    fn audit(&mut self, counts: bool) {
        let (lines, records) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.waiting_records));
        if counts && records > 0 {
            self.partition(Topic::Audit, 0).push_many(&lines, records);
        }
        self.waiting = lines;
        self.waiting.clear();
    }

    /// Closes the interval: the records of each partition since the last boundary become a link of
    /// its chain.
    fn cut(&mut self) -> LogHeads {
        let heads = self.partitions.iter_mut().map(|((topic, partition), state)| {
            state.cut();
            let Chain { records: links, head } = state.chain;
            LogHead { topic: *topic, partition: *partition, records: state.sealed, links, head }
        });
        LogHeads(heads.collect())
    }

    fn partition(&mut self, topic: Topic, partition: u16) -> &mut Partition {
        self.partitions.entry((topic, partition)).or_default()
    }
}

/// The lines of one frame of the audit topic, and which of them are receipts of admitted facts.
struct Audit {
    lines: Lines,
    admitted: Vec<bool>,
}

impl Audit {
    fn of(frame: &Frame) -> Audit {
        let verdicts = frame.rows.column_by_name("verdict").and_then(|c| c.as_primitive_opt::<UInt8Type>());
        let admitted = match verdicts {
            Some(verdicts) => {
                verdicts.values().iter().map(|verdict| *verdict == Verdict::Admit as u8).collect()
            }
            None => vec![false; frame.rows.num_rows()],
        };
        Audit { lines: Lines::of_audit(frame), admitted }
    }

    fn records(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.admitted.iter().enumerate().map(|(row, admitted)| (self.lines.get(row), *admitted))
    }
}

impl Partition {
    fn push(&mut self, line: &[u8]) {
        self.push_many(line, 1);
    }

    fn push_many(&mut self, lines: &[u8], records: u64) {
        self.open += records;
        self.lines.extend_from_slice(lines);
        if self.lines.len() >= BLOCK_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let hasher = self.hasher.get_or_insert_with(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(RANGE);
            hasher
        });
        hasher.update(&self.lines);
        self.lines.clear();
    }

    fn cut(&mut self) {
        if self.open == 0 {
            return;
        }
        self.flush();
        let hasher = self.hasher.take().expect("a flush creates the hasher");
        self.chain.push(&Digest(*hasher.finalize().as_bytes()));
        self.sealed += self.open;
        self.open = 0;
    }
}

impl Lines {
    fn get(&self, row: usize) -> &[u8] {
        let from = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[from..self.ends[row]]
    }

    fn of_facts(frame: &Frame) -> Lines {
        let rows = &frame.rows;
        let event_type: ArrayRef = Arc::new(repeated(&frame.name, rows.num_rows()));
        let context = rows.column_by_name(columns::CONTEXT).map(digests_of_texts);
        let own = rows.schema_ref().fields().iter().zip(rows.columns()).filter_map(|(field, column)| {
            let name = match field.name().as_str() {
                columns::CONTEXT | columns::PAYLOAD => return None,
                columns::TICK => "tick",
                columns::OFFSET => "offset",
                name => name,
            };
            Some((name, column))
        });
        let more = context.iter().map(|c| ("context_digest", c)).chain([(columns::EVENT_TYPE, &event_type)]);
        Lines::of(
            ObjectWriter::new(own.chain(more)).expect("envelopes have a canonical form"),
            rows.num_rows(),
        )
    }

    fn of_audit(frame: &Frame) -> Lines {
        let rows = &frame.rows;
        if rows.num_columns() == 1 {
            return Lines::of_records(&frame.name, rows.column(0).as_string());
        }
        let bytes: Option<ArrayRef> = rows.column_by_name("bytes").map(|bytes| {
            let bytes = bytes.as_binary::<i32>();
            Arc::new(digest_column(bytes.iter().map(|b| b.map(Digest::of)))) as ArrayRef
        });
        let own = rows.schema_ref().fields().iter().zip(rows.columns());
        let own = own.filter(|(f, _)| f.name() != "bytes").map(|(f, column)| (f.name().as_str(), column));
        let form = ObjectWriter::new(own.chain(bytes.iter().map(|b| ("bytes_digest", b))));
        Lines::of(form.expect("receipts have a canonical form"), rows.num_rows())
    }

    /// Lines of records of the run, such as the progress of its sources.
    fn of_records(name: &str, records: &StringArray) -> Lines {
        let mut lines = Lines { text: Vec::new(), ends: Vec::new() };
        for record in records.iter().flatten() {
            lines.text.extend_from_slice(b"{\"name\":");
            push_string(name, &mut lines.text);
            lines.text.extend_from_slice(b",\"record\":");
            push_string(record, &mut lines.text);
            lines.text.extend_from_slice(b"}\n");
            lines.ends.push(lines.text.len());
        }
        lines
    }

    fn of(form: ObjectWriter<'_>, rows: usize) -> Lines {
        let mut lines = Lines { text: Vec::with_capacity(rows * 384), ends: Vec::with_capacity(rows) };
        for row in 0..rows {
            form.push_row(row, &mut lines.text).expect("envelopes and receipts hold no floats");
            lines.text.push(b'\n');
            lines.ends.push(lines.text.len());
        }
        lines
    }
}

fn repeated(text: &str, rows: usize) -> DictionaryArray<Int32Type> {
    let text = Arc::new(StringArray::from_iter_values([text]));
    DictionaryArray::new(Int32Array::from(vec![0; rows]), text)
}

/// The digest of each text of a column. Each distinct text of a dictionary is hashed once.
fn digests_of_texts(texts: &ArrayRef) -> ArrayRef {
    match texts.data_type() {
        DataType::Dictionary(_, _) => {
            let texts = texts.as_dictionary::<Int32Type>();
            let digests: StringArray = texts
                .values()
                .as_string::<i32>()
                .iter()
                .map(|text| text.map(|text| Digest::of(text.as_bytes()).to_hex()))
                .collect();
            Arc::new(DictionaryArray::new(texts.keys().clone(), Arc::new(digests)))
        }
        _ => {
            let texts = texts.as_string::<i32>().iter();
            Arc::new(digest_column(texts.map(|text| text.map(|text| Digest::of(text.as_bytes())))))
        }
    }
}

fn digest_column(digests: impl ExactSizeIterator<Item = Option<Digest>>) -> FixedSizeBinaryArray {
    let mut column = FixedSizeBinaryBuilder::with_capacity(digests.len(), 32);
    for digest in digests {
        match digest {
            Some(digest) => column.append_value(digest.0).expect("a digest has 32 bytes"),
            None => column.append_null(),
        }
    }
    column.finish()
}

impl Group {
    /// All facts in the order of their ticks: tick, frame, row.
    ///
    /// # Panics
    /// When a frame of facts has no ticks: the log refuses such a group.
    pub fn facts_in_order(&self) -> Vec<(Tick, u32, u32)> {
        let mut order = Vec::new();
        for (frame, facts) in self.frames.iter().enumerate().filter(|(_, f)| f.topic != Topic::Audit) {
            let ticks = columns::ticks(&facts.rows).values().iter().enumerate();
            order.extend(ticks.map(|(row, tick)| (Tick(*tick), frame as u32, row as u32)));
        }
        order.sort_unstable();
        order
    }
}
