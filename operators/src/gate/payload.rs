//! Reads the payload of a JSON record by its schema into cells, and builds columns from cells.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use tidegate_facts::strict_json::{self, JsonError};
use tidegate_facts::time::parse_rfc3339_micros;
use tidegate_facts::{Field, FieldType, PayloadSchema};

use super::number::{self, NotDecimal};

/// The value of one payload field in one JSON record.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// The record does not have the field.
    Absent,
    /// The field is `null`, which means the same as absent.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer of 32 or 64 bits.
    Integer(i64),
    /// A decimal, unscaled.
    Decimal(i128),
    /// A finite float.
    Float(f64),
    /// A text, borrowed from the record unless it has an escape.
    Text(Cow<'a, str>),
    /// A time, in microseconds since 1970 UTC.
    Time(i64),
}

/// Reads the payload `text`, a JSON object, into one cell for each field of `schema`.
///
/// # Errors
/// An error that names the field: the schema does not have it, it is repeated, missing, or of
/// another type.
pub fn read<'a>(text: &'a str, schema: &PayloadSchema, cells: &mut Vec<Cell<'a>>) -> Result<(), JsonError> {
    let fields = &schema.fields;
    cells.clear();
    cells.resize(fields.len(), Cell::Absent);
    // Most records have their fields in the schema's order, so the next one is tried first.
    let mut next = 0;
    strict_json::for_each_field(text, |key, value| {
        let index = match fields.get(next) {
            Some(field) if field.name == key => next,
            _ => schema.index_of(key).ok_or_else(|| {
                let existing: Vec<&str> = fields.iter().map(|f| f.name.as_str()).collect();
                JsonError(format!(
                    "`{}` is not a field of the payload; use one of {existing:?}, or declare it in the policy",
                    strict_json::excerpt(key)
                ))
            })?,
        };
        next = index + 1;
        if cells[index] != Cell::Absent {
            return Err(JsonError(format!("`{key}` is repeated")));
        }
        cells[index] = cell(value, &fields[index])?;
        Ok(())
    })?;
    check_missing(schema, cells)
}

/// Reads a JSON payload into cells, as [`read`] does, from pairs of a field's index, none of them
/// twice, and the source text of its value.
///
/// # Errors
/// An error that names a field that is missing or of another type.
pub fn read_values<'a>(
    values: &[(usize, &'a str)],
    schema: &PayloadSchema,
    cells: &mut Vec<Cell<'a>>,
) -> Result<(), JsonError> {
    cells.clear();
    cells.resize(schema.fields.len(), Cell::Absent);
    for (index, value) in values {
        cells[*index] = cell(value, &schema.fields[*index])?;
    }
    check_missing(schema, cells)
}

fn check_missing(schema: &PayloadSchema, cells: &[Cell<'_>]) -> Result<(), JsonError> {
    for (field, cell) in schema.fields.iter().zip(cells) {
        if field.required && matches!(cell, Cell::Absent | Cell::Null) {
            return Err(missing(&field.name));
        }
    }
    Ok(())
}

/// The error of a required payload field without a value.
pub fn missing(field: &str) -> JsonError {
    JsonError(format!("`{field}` is missing; send it, or declare it optional in the policy"))
}

/// Reads one JSON value, whose syntax is valid, as a value of the field's type.
fn cell<'a>(raw: &'a str, field: &Field) -> Result<Cell<'a>, JsonError> {
    if raw == "null" {
        return Ok(Cell::Null);
    }
    let is_string = raw.starts_with('"');
    let field_type = field.field_type;
    let cell = match field_type {
        FieldType::Text => strict_json::string(raw).map(Cell::Text),
        FieldType::Int64 | FieldType::Decimal(..) if !is_string => value(raw, field_type),
        FieldType::Timestamp | FieldType::Int64 | FieldType::Decimal(..) => {
            strict_json::string(raw).and_then(|text| value(&text, field_type))
        }
        _ if is_string => Err(strict_json::expected(&description(field_type), raw)),
        _ => value(raw, field_type),
    };
    cell.map_err(|error| JsonError(format!("`{}`: {error}", field.name)))
}

/// Parses a text strictly as the value of a payload field of a type other than text.
///
/// # Errors
/// An error with what was expected and what was found.
pub fn value(text: &str, field_type: FieldType) -> Result<Cell<'static>, JsonError> {
    let cell = match field_type {
        FieldType::Bool => match text {
            "true" => Some(Cell::Bool(true)),
            "false" => Some(Cell::Bool(false)),
            _ => None,
        },
        FieldType::Int32 => number::integer(text).filter(|v| i32::try_from(*v).is_ok()).map(Cell::Integer),
        FieldType::Int64 => number::integer(text).map(Cell::Integer),
        FieldType::Float64 => number::float(text).map(Cell::Float),
        FieldType::Text => unreachable!("texts are not parsed"),
        FieldType::Timestamp => parse_rfc3339_micros(text).map(Cell::Time),
        FieldType::Decimal(precision, scale) => match number::decimal(text, precision, scale) {
            Ok(unscaled) => Some(Cell::Decimal(unscaled)),
            Err(NotDecimal::Number) => None,
            Err(NotDecimal::Scale) => {
                let JsonError(found) = strict_json::expected(&description(field_type), text);
                return Err(JsonError(format!("{found}; decimals are not rounded")));
            }
            Err(NotDecimal::Digits) => return Err(strict_json::expected(&description(field_type), text)),
        },
    };
    cell.ok_or_else(|| strict_json::expected(&description(field_type), text))
}

/// A description of the values of a payload field's type, for error messages.
pub fn description(field_type: FieldType) -> String {
    match field_type {
        FieldType::Bool => "true or false".to_owned(),
        FieldType::Int32 => "a whole number of 32 bits".to_owned(),
        FieldType::Int64 => "a whole number of 64 bits".to_owned(),
        FieldType::Float64 => "a finite number".to_owned(),
        FieldType::Text => "text".to_owned(),
        FieldType::Timestamp => "a time such as 2018-04-01T00:00:31.000000Z".to_owned(),
        FieldType::Decimal(precision, scale) => {
            format!("a decimal number of at most {precision} digits, {scale} of them after the point")
        }
    }
}

/// Builds one column of a payload from cells.
pub enum ColumnBuilder {
    /// Booleans.
    Bool(BooleanBuilder),
    /// Integers of 32 bits.
    Int32(Int32Builder),
    /// Integers of 64 bits.
    Int64(Int64Builder),
    /// Finite floats.
    Float64(Float64Builder),
    /// Decimals, with precision and scale.
    Decimal(Decimal128Builder, u8, i8),
    /// Texts.
    Text(StringBuilder),
    /// Times in microseconds, UTC.
    Timestamp(TimestampMicrosecondBuilder),
}

impl ColumnBuilder {
    /// A builder of an empty payload column.
    pub fn new(field_type: FieldType) -> ColumnBuilder {
        match field_type {
            FieldType::Bool => ColumnBuilder::Bool(BooleanBuilder::new()),
            FieldType::Int32 => ColumnBuilder::Int32(Int32Builder::new()),
            FieldType::Int64 => ColumnBuilder::Int64(Int64Builder::new()),
            FieldType::Float64 => ColumnBuilder::Float64(Float64Builder::new()),
            FieldType::Decimal(precision, scale) => {
                ColumnBuilder::Decimal(Decimal128Builder::new(), precision, scale)
            }
            FieldType::Text => ColumnBuilder::Text(StringBuilder::new()),
            FieldType::Timestamp => ColumnBuilder::Timestamp(TimestampMicrosecondBuilder::new()),
        }
    }

    /// Appends one cell.
    ///
    /// # Panics
    /// When the cell was read for another type.
    pub fn push(&mut self, cell: &Cell<'_>) {
        match (self, cell) {
            (ColumnBuilder::Bool(column), Cell::Bool(value)) => column.append_value(*value),
            (ColumnBuilder::Int32(column), Cell::Integer(value)) => {
                column.append_value(i32::try_from(*value).expect("the range was checked on reading"));
            }
            (ColumnBuilder::Int64(column), Cell::Integer(value)) => column.append_value(*value),
            (ColumnBuilder::Float64(column), Cell::Float(value)) => column.append_value(*value),
            (ColumnBuilder::Decimal(column, ..), Cell::Decimal(value)) => column.append_value(*value),
            (ColumnBuilder::Text(column), Cell::Text(value)) => column.append_value(value),
            (ColumnBuilder::Timestamp(column), Cell::Time(value)) => column.append_value(*value),
            (column, Cell::Absent | Cell::Null) => column.push_null(),
            (_, cell) => unreachable!("{cell:?} was read for another type"),
        }
    }

    fn push_null(&mut self) {
        match self {
            ColumnBuilder::Bool(column) => column.append_null(),
            ColumnBuilder::Int32(column) => column.append_null(),
            ColumnBuilder::Int64(column) => column.append_null(),
            ColumnBuilder::Float64(column) => column.append_null(),
            ColumnBuilder::Decimal(column, ..) => column.append_null(),
            ColumnBuilder::Text(column) => column.append_null(),
            ColumnBuilder::Timestamp(column) => column.append_null(),
        }
    }

    /// Returns the column.
    pub fn finish(self) -> ArrayRef {
        match self {
            ColumnBuilder::Bool(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Int32(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Int64(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Float64(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Decimal(mut column, precision, scale) => Arc::new(
                column
                    .finish()
                    .with_precision_and_scale(precision, scale)
                    .expect("the scale is at most the precision"),
            ),
            ColumnBuilder::Text(mut column) => Arc::new(column.finish()),
            ColumnBuilder::Timestamp(mut column) => Arc::new(column.finish().with_timezone("UTC")),
        }
    }
}
