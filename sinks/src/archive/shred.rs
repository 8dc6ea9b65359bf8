//! Frames as Parquet holds them, and back.
//!
//! Parquet keeps values and not how Arrow lays them out. So dictionaries become plain columns here, and on
//! the way back texts are numbered as they come, or as the manifest says where the log has them
//! otherwise; and what stands under a null is zero.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, DictionaryArray, Int32Array, MutableArrayData, RecordBatch,
    RecordBatchOptions, StringArray, StructArray, UInt32Array, UInt64Array, make_array,
};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int32Type, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::ArchiveError;
use crate::table::writer_properties;

/// The column that says in which group a row stands.
const GROUP: &str = "_group";
/// The column that says in which frame of the group.
const FRAME: &str = "_frame";
const HEADS: usize = 2;

/// A batch in the form that Parquet holds, and the texts of its dictionaries.
pub(super) struct Shredded {
    rows: RecordBatch,
    /// Which columns are dictionaries.
    pub(super) paths: Vec<Vec<usize>>,
    /// For each of them its texts, unless they stand in the order of the rows.
    pub(super) texts: Vec<Option<Vec<String>>>,
}

/// The rows of a frame, ready for a file; or what Parquet would lose of them.
pub(super) fn shred(rows: &RecordBatch, group: u64, frame: u32) -> Result<Shredded, String> {
    let schema = rows.schema_ref();
    if let Some(field) = schema.fields().iter().find(|f| [GROUP, FRAME].contains(&f.name().as_str())) {
        return Err(format!("the column `{}` has a name that the archive needs", field.name()));
    }
    let mut shredded =
        Shredded { rows: RecordBatch::new_empty(Arc::new(Schema::empty())), paths: vec![], texts: vec![] };
    let count = rows.num_rows();
    let mut fields: Vec<FieldRef> = vec![
        Arc::new(Field::new(GROUP, DataType::UInt64, false)),
        Arc::new(Field::new(FRAME, DataType::UInt32, false)),
    ];
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![group; count])),
        Arc::new(UInt32Array::from(vec![frame; count])),
    ];
    for (place, (field, column)) in schema.fields().iter().zip(rows.columns()).enumerate() {
        let (field, column) = shredded.plain(field, column, &mut vec![place])?;
        fields.push(field);
        columns.push(column);
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    shredded.rows =
        RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| error.to_string())?;
    Ok(shredded)
}

impl Shredded {
    fn plain(
        &mut self,
        field: &FieldRef,
        column: &ArrayRef,
        path: &mut Vec<usize>,
    ) -> Result<(FieldRef, ArrayRef), String> {
        match field.data_type() {
            DataType::Dictionary(key, value) => {
                let ordered = field.dict_is_ordered() == Some(true);
                if **key != DataType::Int32 || **value != DataType::Utf8 || ordered {
                    let name = field.name();
                    return Err(format!(
                        "`{name}` is a dictionary of another kind than unordered texts by int32"
                    ));
                }
                let dictionary = column.as_dictionary::<Int32Type>();
                let texts = dictionary.values().as_string::<i32>();
                let plain = take(texts, dictionary.keys(), None).map_err(|error| error.to_string())?;
                self.paths.push(path.clone());
                let (_, expected) = numbered(plain.as_string::<i32>());
                self.texts.push(if expected.iter().eq(texts.iter()) {
                    None
                } else {
                    Some(texts.iter().map(|text| text.unwrap_or_default().to_owned()).collect())
                });
                Ok((retyped(field, DataType::Utf8), plain))
            }
            DataType::Struct(fields) => {
                let structs = column.as_struct();
                let mut plain = Vec::new();
                for (place, (field, column)) in fields.iter().zip(structs.columns()).enumerate() {
                    path.push(place);
                    plain.push(self.plain(field, column, path)?);
                    path.pop();
                }
                let (fields, columns): (Vec<_>, Vec<_>) = plain.into_iter().unzip();
                let fields = Fields::from(fields);
                let nulls = structs.nulls().cloned();
                let array = StructArray::try_new_with_length(fields.clone(), columns, nulls, column.len());
                let array = array.map_err(|error| error.to_string())?;
                Ok((retyped(field, DataType::Struct(fields)), Arc::new(array)))
            }
            _ => Ok((Arc::clone(field), Arc::clone(column))),
        }
    }

    /// The columns of its file.
    pub(super) fn schema(&self) -> &SchemaRef {
        self.rows.schema_ref()
    }

    pub(super) fn rows(&self) -> &RecordBatch {
        &self.rows
    }
}

/// A file of these rows.
pub(super) fn encode(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, ArchiveError> {
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(writer_properties(schema)))?;
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?)
}

/// The rows of a file.
pub(super) fn decode(bytes: Vec<u8>) -> Result<RecordBatch, ArchiveError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes))?;
    let schema = Arc::clone(builder.schema());
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let batches = builder.with_batch_size(rows.max(1)).build()?.collect::<Result<Vec<_>, _>>()?;
    Ok(match batches.as_slice() {
        [one] => one.clone(),
        many => concat_batches(&schema, many)?,
    })
}

/// The frame that stands in `rows` from `at` on; or why it does not.
///
/// `dictionaries` has the paths of dictionary columns, and texts where they do not follow from the rows.
pub(super) fn frame(
    rows: &RecordBatch,
    (at, count): (usize, usize),
    (group, frame): (u64, u32),
    dictionaries: &[(&Vec<usize>, Option<&Vec<String>>)],
) -> Result<RecordBatch, String> {
    if count > rows.num_rows() - at {
        return Err("the file has too few rows".to_owned());
    }
    let schema = rows.schema_ref();
    let heads_fit = schema.fields().len() >= HEADS
        && *schema.field(0).data_type() == DataType::UInt64
        && *schema.field(1).data_type() == DataType::UInt32;
    if !heads_fit {
        return Err("the file lacks its first columns".to_owned());
    }
    let groups: &UInt64Array = rows.column(0).as_primitive();
    let frames: &UInt32Array = rows.column(1).as_primitive();
    if groups.values()[at..at + count].iter().any(|g| *g != group)
        || frames.values()[at..at + count].iter().any(|f| *f != frame)
    {
        return Err("the file's rows stand in another group or frame".to_owned());
    }
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (place, (field, column)) in schema.fields().iter().zip(rows.columns()).skip(HEADS).enumerate() {
        let column = make_array(canonical(&column.to_data(), at, count));
        let (field, column) = restored(field, &column, &mut vec![place], dictionaries)?;
        fields.push(field);
        columns.push(column);
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| error.to_string())
}

fn restored(
    field: &FieldRef,
    column: &ArrayRef,
    path: &mut Vec<usize>,
    dictionaries: &[(&Vec<usize>, Option<&Vec<String>>)],
) -> Result<(FieldRef, ArrayRef), String> {
    if let Some((_, texts)) = dictionaries.iter().find(|(of, _)| *of == path) {
        let plain = column.as_string_opt::<i32>().ok_or("a dictionary is no text in the file")?;
        let (keys, texts) = match texts {
            None => numbered(plain),
            Some(texts) => (placed(plain, texts)?, StringArray::from_iter_values(texts.iter())),
        };
        let array = DictionaryArray::<Int32Type>::try_new(keys, Arc::new(texts));
        let array = array.map_err(|error| error.to_string())?;
        return Ok((retyped(field, tidegate_facts::columns::dictionary()), Arc::new(array)));
    }
    if let DataType::Struct(fields) = field.data_type() {
        let structs = column.as_struct();
        let mut children = Vec::new();
        for (place, (field, column)) in fields.iter().zip(structs.columns()).enumerate() {
            path.push(place);
            children.push(restored(field, column, path, dictionaries)?);
            path.pop();
        }
        let (fields, columns): (Vec<_>, Vec<_>) = children.into_iter().unzip();
        let fields = Fields::from(fields);
        let nulls = structs.nulls().cloned();
        let array = StructArray::try_new_with_length(fields.clone(), columns, nulls, column.len());
        let array = array.map_err(|error| error.to_string())?;
        return Ok((retyped(field, DataType::Struct(fields)), Arc::new(array)));
    }
    Ok((Arc::clone(field), Arc::clone(column)))
}

fn retyped(field: &Field, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
}

/// Each text once, in the order in which they first stand, and their numbers.
fn numbered(plain: &StringArray) -> (Int32Array, StringArray) {
    let mut places: HashMap<&str, i32> = HashMap::new();
    let mut texts: Vec<&str> = Vec::new();
    let keys = plain.iter().map(|text| {
        text.map(|text| {
            *places.entry(text).or_insert_with(|| {
                texts.push(text);
                (texts.len() - 1) as i32
            })
        })
    });
    let keys = keys.collect();
    (keys, StringArray::from(texts))
}

/// The places of texts in a list of them.
fn placed(plain: &StringArray, texts: &[String]) -> Result<Int32Array, String> {
    let mut places: HashMap<&str, i32> = HashMap::new();
    for (place, text) in texts.iter().enumerate() {
        places.entry(text).or_insert(place as i32);
    }
    let place = |text| places.get(text).copied().ok_or("a text is not in its dictionary");
    Ok(plain.iter().map(|text| text.map(place).transpose()).collect::<Result<Int32Array, _>>()?)
}

/// Some rows of an array in buffers of their own, with zeros under its nulls.
fn canonical(data: &ArrayData, at: usize, count: usize) -> ArrayData {
    let mut copy = MutableArrayData::new(vec![data], false, count);
    copy.try_extend(0, at, at + count).expect("a part of an array has no more offsets than the array");
    zeroed(copy.freeze())
}

fn zeroed(data: ArrayData) -> ArrayData {
    let children = data.child_data().iter().cloned().map(zeroed).collect();
    let nulls = data.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
    let width = match data.data_type() {
        DataType::FixedSizeBinary(width) => Some(*width as usize),
        other => other.primitive_width(),
    };
    let buffers: Vec<Buffer> = match (&nulls, width) {
        (Some(nulls), Some(width)) => {
            let from = data.offset() * width;
            let mut bytes = MutableBuffer::new(data.len() * width);
            bytes.extend_from_slice(&data.buffers()[0].as_slice()[from..from + data.len() * width]);
            for row in (0..data.len()).filter(|row| nulls.is_null(*row)) {
                bytes.as_slice_mut()[row * width..(row + 1) * width].fill(0);
            }
            vec![bytes.into()]
        }
        (Some(nulls), None) if *data.data_type() == DataType::Boolean => {
            let values =
                arrow::buffer::BooleanBuffer::new(data.buffers()[0].clone(), data.offset(), data.len());
            vec![(&values & nulls.inner()).into_inner()]
        }
        _ => data.buffers().to_vec(),
    };
    assert_eq!(data.offset(), 0, "a copy begins where its buffers do");
    let builder = data.into_builder().nulls(nulls).buffers(buffers).child_data(children);
    builder.build().expect("zeros are values of every type of fixed width")
}
