//! Frames of the log as rows that Parquet can store, and back.
//!
//! Parquet stores values and not their layout in Arrow. So dictionary columns become plain columns
//! here. On the way back texts are numbered in the order of their first row, or as the manifest
//! lists them where the log numbers them differently; and values under a null become zero.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, MutableArrayData,
    RecordBatch, RecordBatchOptions, StringArray, StructArray, make_array,
};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int32Type, Schema, SchemaRef};

/// The column with the number of a row's group.
const GROUP: &str = "_group";
/// The column with the index of a row's frame in its group.
const FRAME: &str = "_frame";
/// How many columns come before those of the frame.
const LEADING_COLUMNS: usize = 2;

/// The rows of one frame as Parquet can store them, and the texts of their dictionaries.
pub(super) struct ColumnarGroup {
    rows: RecordBatch,
    /// The columns that are dictionaries in the log, each as a path of column indexes.
    pub(super) paths: Vec<Vec<usize>>,
    /// The texts of each of them, unless they are in the order of the rows.
    pub(super) texts: Vec<Option<Vec<String>>>,
}

impl ColumnarGroup {
    /// Converts the rows of a frame.
    ///
    /// # Errors
    /// A sentence that says what Parquet would lose of them.
    pub(super) fn of_frame(rows: &RecordBatch, group: i64, frame: i32) -> Result<ColumnarGroup, String> {
        let schema = rows.schema_ref();
        if let Some(field) = schema.fields().iter().find(|f| [GROUP, FRAME].contains(&f.name().as_str())) {
            return Err(format!("the column `{}` has a name that the archive needs", field.name()));
        }
        let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let mut columnar = ColumnarGroup { rows: empty, paths: vec![], texts: vec![] };
        let count = rows.num_rows();
        let mut fields: Vec<FieldRef> = vec![
            Arc::new(Field::new(GROUP, DataType::Int64, false)),
            Arc::new(Field::new(FRAME, DataType::Int32, false)),
        ];
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![group; count])),
            Arc::new(Int32Array::from(vec![frame; count])),
        ];
        for (index, (field, column)) in schema.fields().iter().zip(rows.columns()).enumerate() {
            let (field, column) = columnar.without_dictionaries(field, column, &mut vec![index])?;
            fields.push(field);
            columns.push(column);
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let rows = RecordBatch::try_new_with_options(schema, columns, &options);
        columnar.rows = rows.map_err(|error| error.to_string())?;
        Ok(columnar)
    }

    /// The column at `path` with plain texts instead of dictionaries, which are noted.
    fn without_dictionaries(
        &mut self,
        field: &FieldRef,
        column: &ArrayRef,
        path: &mut Vec<usize>,
    ) -> Result<(FieldRef, ArrayRef), String> {
        match field.data_type() {
            DataType::Dictionary(key, value) => {
                let is_ordered = field.dict_is_ordered() == Some(true);
                if **key != DataType::Int32 || **value != DataType::Utf8 || is_ordered {
                    let name = field.name();
                    return Err(format!(
                        "`{name}` is a dictionary of another kind than unordered texts by int32"
                    ));
                }
                let dictionary = column.as_dictionary::<Int32Type>();
                let texts = dictionary.values().as_string::<i32>();
                let plain = take(texts, dictionary.keys(), None).map_err(|error| error.to_string())?;
                self.paths.push(path.clone());
                let (_, expected) = number_texts(plain.as_string::<i32>());
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
                for (index, (field, column)) in fields.iter().zip(structs.columns()).enumerate() {
                    path.push(index);
                    plain.push(self.without_dictionaries(field, column, path)?);
                    path.pop();
                }
                struct_of(field, structs, plain)
            }
            _ => Ok((Arc::clone(field), Arc::clone(column))),
        }
    }

    /// The columns of the file for these rows.
    pub(super) fn schema(&self) -> &SchemaRef {
        self.rows.schema_ref()
    }

    /// The rows, with the number of their group and the index of their frame.
    pub(super) fn rows(&self) -> &RecordBatch {
        &self.rows
    }
}

/// The frame whose rows begin at index `at` of a file's rows.
///
/// `dictionaries` has the paths of dictionary columns, and their texts where these are not in the
/// order of the rows.
///
/// # Errors
/// A sentence that says why the rows are not those of the frame.
pub(super) fn restore_frame(
    rows: &RecordBatch,
    (at, count): (usize, usize),
    (group, frame): (i64, i32),
    dictionaries: &[(&Vec<usize>, Option<&Vec<String>>)],
) -> Result<RecordBatch, String> {
    if count > rows.num_rows() - at {
        return Err("the file has too few rows".to_owned());
    }
    let schema = rows.schema_ref();
    let has_leading_columns = schema.fields().len() >= LEADING_COLUMNS
        && *schema.field(0).data_type() == DataType::Int64
        && *schema.field(1).data_type() == DataType::Int32;
    if !has_leading_columns {
        return Err("the file lacks its first columns".to_owned());
    }
    let groups: &Int64Array = rows.column(0).as_primitive();
    let frames: &Int32Array = rows.column(1).as_primitive();
    if groups.values()[at..at + count].iter().any(|g| *g != group)
        || frames.values()[at..at + count].iter().any(|f| *f != frame)
    {
        return Err("the file's rows belong to another group or frame".to_owned());
    }
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    let stored = schema.fields().iter().zip(rows.columns()).skip(LEADING_COLUMNS);
    for (index, (field, column)) in stored.enumerate() {
        let column = make_array(canonical(&column.to_data(), at, count));
        let (field, column) = with_dictionaries(field, &column, &mut vec![index], dictionaries)?;
        fields.push(field);
        columns.push(column);
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| error.to_string())
}

/// The column at `path` with the dictionaries that it has in the log.
fn with_dictionaries(
    field: &FieldRef,
    column: &ArrayRef,
    path: &mut Vec<usize>,
    dictionaries: &[(&Vec<usize>, Option<&Vec<String>>)],
) -> Result<(FieldRef, ArrayRef), String> {
    if let Some((_, texts)) = dictionaries.iter().find(|(of, _)| *of == path) {
        let plain = column.as_string_opt::<i32>().ok_or("a dictionary is not text in the file")?;
        let (keys, texts) = match texts {
            None => number_texts(plain),
            Some(texts) => (find_texts(plain, texts)?, StringArray::from_iter_values(texts.iter())),
        };
        let array = DictionaryArray::<Int32Type>::try_new(keys, Arc::new(texts));
        let array = array.map_err(|error| error.to_string())?;
        return Ok((retyped(field, tidegate_facts::columns::dictionary()), Arc::new(array)));
    }
    if let DataType::Struct(fields) = field.data_type() {
        let structs = column.as_struct();
        let mut children = Vec::new();
        for (index, (field, column)) in fields.iter().zip(structs.columns()).enumerate() {
            path.push(index);
            children.push(with_dictionaries(field, column, path, dictionaries)?);
            path.pop();
        }
        return struct_of(field, structs, children);
    }
    Ok((Arc::clone(field), Arc::clone(column)))
}

/// The struct column with other fields and columns inside.
fn struct_of(
    field: &Field,
    structs: &StructArray,
    children: Vec<(FieldRef, ArrayRef)>,
) -> Result<(FieldRef, ArrayRef), String> {
    let (fields, columns): (Vec<_>, Vec<_>) = children.into_iter().unzip();
    let fields = Fields::from(fields);
    let nulls = structs.nulls().cloned();
    let array = StructArray::try_new_with_length(fields.clone(), columns, nulls, structs.len());
    let array = array.map_err(|error| error.to_string())?;
    Ok((retyped(field, DataType::Struct(fields)), Arc::new(array)))
}

fn retyped(field: &Field, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone()))
}

/// Numbers each distinct text in the order of its first row. Returns the numbers of the rows, and
/// the texts.
fn number_texts(plain: &StringArray) -> (Int32Array, StringArray) {
    let mut numbers: HashMap<&str, i32> = HashMap::new();
    let mut texts: Vec<&str> = Vec::new();
    let keys = plain.iter().map(|text| {
        text.map(|text| {
            *numbers.entry(text).or_insert_with(|| {
                texts.push(text);
                (texts.len() - 1) as i32
            })
        })
    });
    let keys = keys.collect();
    (keys, StringArray::from(texts))
}

/// The index of each row's text in a list of texts.
fn find_texts(plain: &StringArray, texts: &[String]) -> Result<Int32Array, String> {
    let mut indexes: HashMap<&str, i32> = HashMap::new();
    for (index, text) in texts.iter().enumerate() {
        indexes.entry(text).or_insert(index as i32);
    }
    let index_of = |text| indexes.get(text).copied().ok_or("a text is not in its dictionary");
    Ok(plain.iter().map(|text| text.map(index_of).transpose()).collect::<Result<Int32Array, _>>()?)
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
