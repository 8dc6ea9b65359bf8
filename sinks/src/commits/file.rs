//! One file of a table: its name, its Parquet or JSON form with fixed settings, and the way back.
//!
//! Every column of a Parquet file has a field id: columns count from 1 in their order, and the
//! parts of a nested column follow it. So other systems recognise a column whatever it is called.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, RecordBatchReader, make_array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use tidegate_facts::seal::Chain;
use tidegate_facts::{Digest, Tick, columns};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The folder of table files in a store.
pub(super) const TABLES: &str = "tables";
/// How many digits of its digest a file's name has.
const NAME_DIGITS: usize = 16;

/// The format of a committed table's files: Parquet or JSON lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFileFormat {
    /// Parquet, compressed with zstd, with statistics of each chunk.
    Parquet,
    /// One JSON object per line.
    Jsonl,
}

impl TableFileFormat {
    /// The extension of the files.
    pub fn extension(self) -> &'static str {
        match self {
            TableFileFormat::Parquet => "parquet",
            TableFileFormat::Jsonl => "jsonl",
        }
    }
}

/// One table file, as a commit names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableFile {
    /// The table.
    pub table: String,
    /// The partition of its rows.
    pub partition: u16,
    /// Its name in the store.
    pub name: String,
    /// The number of its rows.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// The seal of its rows, if the table is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<SealedRange>,
}

/// The seal of the rows of one table file, as a commit states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SealedRange {
    /// The hash chain of the table's partition after these rows.
    pub chain: Chain,
    /// The Merkle root of the digests of these records.
    pub root: Digest,
}

impl TableFile {
    /// The beginning of the names of files of `table` with rows of `interval`.
    pub(super) fn name_prefix(table: &str, interval: &Range<Tick>) -> String {
        format!("{TABLES}/{table}/{:020}-{:020}", interval.start.0, interval.end.0)
    }

    /// The name of the file of `table` with rows of `interval` and this digest.
    pub(super) fn name_of(
        table: &str,
        interval: &Range<Tick>,
        digest: &Digest,
        format: TableFileFormat,
    ) -> String {
        let (prefix, digits) = (TableFile::name_prefix(table, interval), digest.to_hex());
        format!("{prefix}-{}.{}", &digits[..NAME_DIGITS], format.extension())
    }
}

/// The interval of ticks in the name of a table file; `None` for any other name.
pub fn interval_of(name: &str) -> Option<Range<Tick>> {
    let (stem, _extension) = name.rsplit('/').next()?.split_once('.')?;
    let mut parts = stem.split('-');
    let (lower, upper, digest) = (parts.next()?, parts.next()?, parts.next()?);
    let tick = |digits: &str| digits.parse().ok().map(Tick);
    let is_ours = digest.len() == NAME_DIGITS && parts.next().is_none();
    is_ours.then_some(tick(lower)?..tick(upper)?)
}

/// The bytes of a file of these rows.
pub(crate) fn encode_file(format: TableFileFormat, rows: &RecordBatch) -> Result<Vec<u8>, BoxError> {
    match format {
        TableFileFormat::Parquet => Ok(encode_parquet(rows.schema_ref(), std::iter::once(rows))?),
        TableFileFormat::Jsonl => {
            let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
            writer.write(rows)?;
            writer.finish()?;
            Ok(writer.into_inner())
        }
    }
}

/// The bytes of a Parquet file of some batches. Its columns have field ids.
pub(crate) fn encode_parquet<'b>(
    schema: &SchemaRef,
    batches: impl Iterator<Item = &'b RecordBatch>,
) -> Result<Vec<u8>, parquet::errors::ParquetError> {
    let with_ids = Arc::new(with_field_ids(schema));
    let mut writer = ArrowWriter::try_new(Vec::new(), with_ids, Some(writer_properties(schema)))?;
    for batch in batches.filter(|batch| batch.num_rows() > 0) {
        writer.write(batch)?;
    }
    writer.into_inner()
}

/// The settings of every Parquet file. Changing one changes the bytes of every table.
fn writer_properties(schema: &SchemaRef) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("zstd has a level 1")))
        .set_created_by("tidegate table 1".to_owned())
        .set_max_row_group_row_count(Some(262_144))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(true);
    for field in schema.fields() {
        let path = ColumnPath::from(field.name().as_str());
        let ascends = [columns::TICK, columns::OFFSET].contains(&field.name().as_str());
        match field.data_type() {
            // Every value is different: a dictionary would be built only to be given up.
            DataType::FixedSizeBinary(_) => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            DataType::Int64 if !ascends => {}
            DataType::Int64 | DataType::UInt64 | DataType::Timestamp(_, _) => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            _ => {}
        }
    }
    properties.build()
}

/// Reads all rows of a table file in Parquet, in the named columns or in all of them.
///
/// # Errors
/// A sentence, when they cannot be read.
pub fn read_rows(bytes: Bytes, named: Option<&[&str]>) -> Result<RecordBatch, String> {
    // The decoder panics on some damaged files where it should return an error.
    match catch_unwind(AssertUnwindSafe(|| decode(bytes, named))) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("the decoder panicked".to_owned()),
    }
}

/// As [`read_rows`], but damage may panic.
fn decode(bytes: Bytes, named: Option<&[&str]>) -> Result<RecordBatch, BoxError> {
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    if let Some(named) = named {
        let mask = ProjectionMask::columns(builder.parquet_schema(), named.iter().copied());
        builder = builder.with_projection(mask);
    }
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    // The number comes from the file, which may be damaged, so it is bounded before memory is
    // reserved.
    let reader = builder.with_batch_size(rows.clamp(1, 1 << 20)).build()?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let rows = match batches.as_slice() {
        [one] => one.clone(),
        many => concat_batches(&schema, many)?,
    };
    Ok(rows_without_field_ids(&rows)?)
}

/// The schema with a field id on every column. They count from 1 in column order; the fields of a
/// nested column follow it.
fn with_field_ids(schema: &Schema) -> Schema {
    let mut last = 0;
    let fields: Vec<FieldRef> = schema.fields().iter().map(|field| numbered(field, &mut last)).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn numbered(field: &FieldRef, last: &mut i32) -> FieldRef {
    *last += 1;
    let mut metadata = field.metadata().clone();
    metadata.insert(PARQUET_FIELD_ID_META_KEY.to_owned(), last.to_string());
    let data_type = with_children(field.data_type(), &mut |child: &FieldRef| numbered(child, last));
    Arc::new(field.as_ref().clone().with_data_type(data_type).with_metadata(metadata))
}

/// The schema of a table file without the field ids of Parquet, as its rows had it before they were
/// written.
pub fn without_field_ids(schema: &Schema) -> Schema {
    let fields: Vec<FieldRef> = schema.fields().iter().map(plain).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn plain(field: &FieldRef) -> FieldRef {
    let mut metadata: HashMap<String, String> = field.metadata().clone();
    metadata.remove(PARQUET_FIELD_ID_META_KEY);
    let data_type = with_children(field.data_type(), &mut plain);
    Arc::new(field.as_ref().clone().with_data_type(data_type).with_metadata(metadata))
}

/// The type with other fields inside.
fn with_children(data_type: &DataType, child: &mut dyn FnMut(&FieldRef) -> FieldRef) -> DataType {
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(child).collect()),
        DataType::List(item) => DataType::List(child(item)),
        DataType::LargeList(item) => DataType::LargeList(child(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(child(item), *length),
        DataType::Map(entries, sorted) => {
            // Parquet numbers keys and values; the pairs have no id of their own.
            let pairs = with_children(entries.data_type(), child);
            DataType::Map(Arc::new(Field::clone(entries).with_data_type(pairs)), *sorted)
        }
        other => other.clone(),
    }
}

fn rows_without_field_ids(rows: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let schema = Arc::new(without_field_ids(rows.schema_ref()));
    let columns = schema.fields().iter().zip(rows.columns());
    let columns = columns.map(|(field, column)| retyped(column, field.data_type())).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

/// The same values under a type that differs in the metadata of its inner fields only.
fn retyped(column: &ArrayRef, data_type: &DataType) -> ArrayRef {
    if column.data_type() == data_type {
        return Arc::clone(column);
    }
    make_array(retyped_data(column.to_data(), data_type))
}

fn retyped_data(data: ArrayData, data_type: &DataType) -> ArrayData {
    let types: Vec<&DataType> = match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => vec![field.data_type()],
        _ => return data,
    };
    let children = data.child_data().iter().cloned().zip(types);
    let children = children.map(|(child, data_type)| retyped_data(child, data_type)).collect();
    let builder = data.into_builder().data_type(data_type.clone()).child_data(children);
    builder.build().expect("the layout of the data is the same")
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::{Fields, Int64Type};
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    fn sample() -> RecordBatch {
        let ticks: ArrayRef = Arc::new(Int64Array::from(vec![5, 6]));
        let basis = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), None]);
        let fields = Fields::from(vec![Field::new("name", DataType::Utf8, true)]);
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("ann"), None]));
        let person = StructArray::new(fields, vec![names], None);
        let columns: [(&str, ArrayRef); 4] = [
            (columns::TICK, Arc::clone(&ticks)),
            ("basis", Arc::new(basis)),
            ("person", Arc::new(person)),
            ("last", ticks),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn every_column_has_a_field_id_and_comes_back_without_it() {
        let rows = sample();
        let bytes = Bytes::from(encode_file(TableFileFormat::Parquet, &rows).unwrap());
        let file = SerializedFileReader::new(bytes.clone()).unwrap();
        let schema = file.metadata().file_metadata().schema_descr().root_schema();
        let ids: Vec<(&str, i32)> =
            schema.get_fields().iter().map(|f| (f.name(), f.get_basic_info().id())).collect();
        assert_eq!(ids, [(columns::TICK, 1), ("basis", 2), ("person", 4), ("last", 6)]);
        let person = schema.get_fields()[2].get_fields()[0].get_basic_info();
        assert_eq!((person.name(), person.id()), ("name", 5));
        assert_eq!(read_rows(bytes.clone(), None).unwrap(), rows);
        let named = read_rows(bytes, Some(&["person", "last"])).unwrap();
        assert_eq!(named, rows.project(&[2, 3]).unwrap());
    }

    #[test]
    fn the_name_of_a_file_states_its_interval() {
        let digest = Digest::of(b"rows");
        let name = TableFile::name_of("t", &(Tick(7)..Tick(9)), &digest, TableFileFormat::Jsonl);
        let digits = &digest.to_hex()[..16];
        assert_eq!(name, format!("tables/t/00000000000000000007-00000000000000000009-{digits}.jsonl"));
        assert_eq!(interval_of(&name), Some(Tick(7)..Tick(9)));
        assert_eq!(interval_of("tables/t/7-9.parquet"), None);
    }
}
