//! The linkage operator: reads records as rows, and emits links and full blocks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Int64Type};
use tidegate_facts::row::{Micros, Row};
use tidegate_facts::{KeyHash, Tick};

use super::compare::{Comparator, FieldValue};
use super::matcher::{MatchRules, RecordMatcher};
use crate::core::keys::{column_of_keys, identifiers_of, keys_of};
use crate::core::row_layout::{INPUT_KEY, INPUT_TIME, RowLayout};
use crate::core::rows::{micros_of, ticks_of};
use crate::core::tick_ordered::{OperatorOutput, TickOperator};

/// The configuration of the linkage operator. The key of its input is the record's id; the columns
/// of [`compared_column`] and [`block_column`] follow.
#[derive(Clone, Debug)]
pub struct LinkageConfig {
    /// The rules of the matcher.
    pub rules: MatchRules,
    /// The type of ids.
    pub id: DataType,
}

/// The port of the linkage operator: the blocks that are full.
pub const PORTS: [&str; 1] = ["full"];

/// The name of the linkage operator's input column with a compared field of a record.
pub fn compared_column(number: usize) -> String {
    format!("compared_{number}")
}

/// The name of the linkage operator's input column with a block key of a record.
pub fn block_column(number: usize) -> String {
    format!("block_{number}")
}

/// A link: tick and event time of the later record, both records, and the weight. Records are
/// numbers.
#[derive(Row)]
struct LinkRow {
    #[row(name = "_tick")]
    tick: Tick,
    ts_utc: Micros,
    earlier: u32,
    later: u32,
    weight_millibits: i64,
}

/// A row of the port `full`: the index of the block key, and the key that the block's records
/// share.
#[derive(Row)]
struct FullBlockRow {
    #[row(name = "_tick")]
    tick: Tick,
    block: i64,
    key: String,
}

impl LinkageConfig {
    fn link_layout(&self) -> RowLayout<LinkRow> {
        let ids = ["earlier", "later"].map(|name| Field::new(name, self.id.clone(), false));
        RowLayout::new(Vec::new(), ids.into())
    }

    /// The outputs of the linkage operator: the links, then the port.
    pub fn outputs(&self) -> Vec<OperatorOutput> {
        // One worker has all blocks, so rows of one tick keep its order.
        [Arc::clone(self.link_layout().schema()), FullBlockRow::schema()]
            .map(|schema| OperatorOutput { schema, order: Vec::new() })
            .into()
    }

    /// Returns a linkage operator without records.
    pub fn operator(&self) -> LinkageOperator {
        LinkageOperator {
            config: self.clone(),
            matcher: RecordMatcher::new(self.rules.clone()),
            links: self.link_layout(),
            compared_columns: (0..self.rules.comparisons.len()).map(compared_column).collect(),
            block_columns: (0..self.rules.blocks).map(block_column).collect(),
            ids: Vec::new(),
            texts: Vec::new(),
        }
    }
}

/// The linkage operator; see [`LinkageConfig`].
pub struct LinkageOperator {
    config: LinkageConfig,
    matcher: RecordMatcher,
    links: RowLayout<LinkRow>,
    compared_columns: Vec<String>,
    block_columns: Vec<String>,
    /// The key of each record's id, by number.
    ids: Vec<KeyHash>,
    /// The hashed text of each id, by number; empty if ids are not hashed.
    texts: Vec<Arc<[u8]>>,
}

impl TickOperator for LinkageOperator {
    fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
        let rows = &inputs[0];
        let column = |name: &String| rows.column_by_name(name).expect("the plan gives these columns");
        let (ticks, times) = (ticks_of(rows), micros_of(rows.column(INPUT_TIME)));
        let id_column = rows.column(INPUT_KEY);
        let (ids, texts) = (keys_of(id_column), identifiers_of(id_column));
        let comparisons = self.config.rules.comparisons.iter().zip(&self.compared_columns);
        let values = comparisons.map(|(of, name)| values_of(column(name), of.comparator).into_iter());
        let mut values: Vec<_> = values.collect();
        let blocks: Vec<&ArrayRef> = self.block_columns.iter().map(column).collect();
        let keys: Vec<Vec<KeyHash>> = blocks.iter().map(|column| keys_of(column)).collect();
        let (mut links, mut full) = (Vec::new(), Vec::new());
        for row in 0..rows.num_rows() {
            let own = values.iter_mut().map(|column| column.next().expect("a value for each row")).collect();
            if id_column.is_null(row) {
                continue; // The row does not name its record.
            }
            let own_keys: Vec<KeyHash> = keys.iter().map(|keys| keys[row]).collect();
            let number = self.matcher.add(ids[row], own, &own_keys);
            if number as usize == self.ids.len() {
                self.ids.push(ids[row]);
                self.texts.extend(texts.get(row).cloned());
            }
            let tick = Tick(ticks.value(row));
            links.extend(self.matcher.matches().iter().map(|found| LinkRow {
                tick,
                ts_utc: Micros(times[row]),
                earlier: found.with,
                later: number,
                weight_millibits: found.weight,
            }));
            full.extend(self.matcher.full_blocks().iter().map(|block| FullBlockRow {
                tick,
                block: *block as i64,
                key: key_text(blocks[*block], row),
            }));
        }
        let ids = |of: fn(&LinkRow) -> u32| self.id_column(links.iter().map(of));
        let planned = vec![ids(|link| link.earlier), ids(|link| link.later)];
        vec![self.links.batch(Vec::new(), &links, planned), FullBlockRow::to_batch(&full)]
    }
}

impl LinkageOperator {
    /// The ids of records, by number.
    fn id_column(&self, numbers: impl Iterator<Item = u32>) -> ArrayRef {
        let numbers: Vec<usize> = numbers.map(|number| number as usize).collect();
        let keys: Vec<KeyHash> = numbers.iter().map(|number| self.ids[*number]).collect();
        let texts: Vec<Arc<[u8]>> =
            numbers.iter().filter_map(|number| self.texts.get(*number).cloned()).collect();
        column_of_keys(&self.config.id, &keys, &texts)
    }
}

/// The text of a block key.
fn key_text(column: &ArrayRef, row: usize) -> String {
    let key = take(column, &UInt32Array::from(vec![row as u32]), None).expect("a row of the column");
    let text = cast(&key, &DataType::Utf8).expect("keys have a text");
    text.as_string::<i32>().value(0).to_owned()
}

/// The values of a column, normalized for a comparator.
fn values_of(column: &ArrayRef, comparator: Comparator) -> Vec<FieldValue> {
    if let (Comparator::Within(_), true) = (comparator, column.data_type().is_integer()) {
        let numbers = cast(column, &DataType::Int64).expect("whole numbers widen");
        return numbers
            .as_primitive::<Int64Type>()
            .iter()
            .map(|n| n.map_or(FieldValue::Absent, FieldValue::Number))
            .collect();
    }
    let texts = cast(column, &DataType::Utf8).expect("what is compared has a text");
    let texts = texts.as_string::<i32>();
    texts
        .iter()
        .map(|text| text.map_or(FieldValue::Absent, |text| FieldValue::of_text(text, comparator)))
        .collect()
}
