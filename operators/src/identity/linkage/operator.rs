//! The linkage operator: reads records as rows, and emits links and full blocks.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{KeyHash, Tick, columns};

use super::compare::{Comparator, FieldValue};
use super::matcher::{MatchRules, RecordMatcher};
use crate::core::keys::{column_of_keys, identifiers_of, keys_of};
use crate::core::rows::{micros_of, ticks_of};
use crate::core::tick_ordered::{OperatorOutput, TickOperator};

/// The configuration of a `linkage` node. The columns of its input are tick, id, event time, the
/// compared fields, and the block keys.
#[derive(Clone, Debug)]
pub struct LinkageConfig {
    /// The rules of the matcher.
    pub rules: MatchRules,
    /// The type of ids.
    pub id: DataType,
}

/// The port of the node: the blocks that are full.
pub const PORTS: [&str; 1] = ["full"];

/// The schema of the port: tick, index of the block key, and the key that the block's records
/// share.
pub fn full_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("block", DataType::Int64, false),
        Field::new("key", DataType::Utf8, false),
    ]))
}

impl LinkageConfig {
    /// The schema of links: tick and event time of the later record, the ids of the earlier and of
    /// the later record, and the weight in thousandths of a bit.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            columns::tick_field(columns::TICK),
            Field::new(columns::TS_UTC, timestamp(), false),
            Field::new("earlier", self.id.clone(), false),
            Field::new("later", self.id.clone(), false),
            Field::new("weight_millibits", DataType::Int64, false),
        ]))
    }

    /// The outputs of the operator: the links, then the port.
    pub fn outputs(&self) -> Vec<OperatorOutput> {
        // One worker has all blocks, so rows of one tick keep its order.
        [self.schema(), full_schema()].map(|schema| OperatorOutput { schema, order: Vec::new() }).into()
    }

    /// Returns an operator without records.
    pub fn operator(&self) -> LinkageOperator {
        LinkageOperator {
            config: self.clone(),
            matcher: RecordMatcher::new(self.rules.clone()),
            ids: Vec::new(),
            texts: Vec::new(),
        }
    }
}

/// The linkage operator; see [`LinkageConfig`].
pub struct LinkageOperator {
    config: LinkageConfig,
    matcher: RecordMatcher,
    /// The key of each record's id, by number.
    ids: Vec<KeyHash>,
    /// The hashed text of each id, by number; empty if ids are not hashed.
    texts: Vec<Arc<[u8]>>,
}

impl TickOperator for LinkageOperator {
    fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
        let rows = &inputs[0];
        let (ticks, times) = (ticks_of(rows), micros_of(rows.column(2)));
        let (ids, texts) = (keys_of(rows.column(1)), identifiers_of(rows.column(1)));
        let comparisons = &self.config.rules.comparisons;
        let values: Vec<Vec<FieldValue>> = comparisons
            .iter()
            .enumerate()
            .map(|(index, comparison)| values_of(rows.column(3 + index), comparison.comparator))
            .collect();
        let blocks: Vec<&ArrayRef> = rows.columns()[3 + comparisons.len()..].iter().collect();
        let keys: Vec<Vec<KeyHash>> = blocks.iter().map(|column| keys_of(column)).collect();
        let mut values: Vec<_> = values.into_iter().map(Vec::into_iter).collect();
        let mut links: Vec<(usize, u32, u32, i64)> = Vec::new();
        let mut full: Vec<(usize, usize)> = Vec::new();
        for row in 0..rows.num_rows() {
            let own = values.iter_mut().map(|column| column.next().expect("a value for each row")).collect();
            if rows.column(1).is_null(row) {
                continue; // The row does not name its record.
            }
            let own_keys: Vec<KeyHash> = keys.iter().map(|keys| keys[row]).collect();
            let number = self.matcher.add(ids[row], own, &own_keys);
            if number as usize == self.ids.len() {
                self.ids.push(ids[row]);
                self.texts.extend(texts.get(row).cloned());
            }
            links.extend(self.matcher.matches().iter().map(|found| (row, found.with, number, found.weight)));
            full.extend(self.matcher.full_blocks().iter().map(|block| (row, *block)));
        }
        let tick_of = |row: usize| Tick(ticks.value(row));
        let id_of = |numbers: &mut dyn Iterator<Item = u32>| {
            let numbers: Vec<usize> = numbers.map(|number| number as usize).collect();
            let keys: Vec<KeyHash> = numbers.iter().map(|number| self.ids[*number]).collect();
            let texts: Vec<Arc<[u8]>> =
                numbers.iter().filter_map(|number| self.texts.get(*number).cloned()).collect();
            column_of_keys(&self.config.id, &keys, &texts)
        };
        let times = TimestampMicrosecondArray::from_iter_values(links.iter().map(|link| times[link.0]));
        let links: Vec<ArrayRef> = vec![
            Arc::new(columns::tick_array(links.iter().map(|link| tick_of(link.0)))),
            Arc::new(times.with_timezone("UTC")),
            id_of(&mut links.iter().map(|link| link.1)),
            id_of(&mut links.iter().map(|link| link.2)),
            Arc::new(Int64Array::from_iter_values(links.iter().map(|link| link.3))),
        ];
        let key_text = |(row, block): &(usize, usize)| {
            let one = take(blocks[*block], &UInt32Array::from(vec![*row as u32]), None).expect("it is a row");
            let text = cast(&one, &DataType::Utf8).expect("keys have a text");
            text.as_string::<i32>().value(0).to_owned()
        };
        let full: Vec<ArrayRef> = vec![
            Arc::new(columns::tick_array(full.iter().map(|full| tick_of(full.0)))),
            Arc::new(Int64Array::from_iter_values(full.iter().map(|full| full.1 as i64))),
            Arc::new(StringArray::from_iter_values(full.iter().map(key_text))),
        ];
        let batch =
            |schema, columns| RecordBatch::try_new(schema, columns).expect("the columns are the schema's");
        vec![batch(self.config.schema(), links), batch(full_schema(), full)]
    }
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
