//! Payload schemas: which fields a payload has, and what each may hold.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Fields, TimeUnit};

/// What one field of a payload may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits; a JSON number in the canonical form.
    Int32,
    /// A whole number of 64 bits; a string in the canonical form.
    Int64,
    /// A finite binary floating-point number.
    Float64,
    /// An exact decimal: digits in all (at most 18), digits after the point.
    Decimal(u8, i8),
    /// UTF-8 text.
    Text,
    /// A moment, in microseconds, UTC.
    Timestamp,
}

impl FieldType {
    /// Reads `bool`, `int32`, `int64`, `float64`, `decimal(P,S)`, `text` or `timestamp`.
    ///
    /// # Errors
    /// A sentence that lists the types, when `text` is none of them.
    pub fn parse(text: &str) -> Result<FieldType, String> {
        let known = match text {
            "bool" => FieldType::Bool,
            "int32" => FieldType::Int32,
            "int64" => FieldType::Int64,
            "float64" => FieldType::Float64,
            "text" => FieldType::Text,
            "timestamp" => FieldType::Timestamp,
            _ => return FieldType::parse_decimal(text),
        };
        Ok(known)
    }

    fn parse_decimal(text: &str) -> Result<FieldType, String> {
        let wrong = || {
            format!(
                "`{text}` is not a type; use bool, int32, int64, float64, decimal(P,S) with P at most 18, text or timestamp"
            )
        };
        let inner = text.strip_prefix("decimal(").and_then(|t| t.strip_suffix(')')).ok_or_else(wrong)?;
        let (digits, scale) = inner.split_once(',').ok_or_else(wrong)?;
        let digits: u8 = digits.trim().parse().map_err(|_| wrong())?;
        let scale: i8 = scale.trim().parse().map_err(|_| wrong())?;
        if (1..=18).contains(&digits) && (0..=digits.cast_signed()).contains(&scale) {
            Ok(FieldType::Decimal(digits, scale))
        } else {
            Err(wrong())
        }
    }

    /// The Arrow type that columns of this field have.
    pub fn arrow(self) -> DataType {
        match self {
            FieldType::Bool => DataType::Boolean,
            FieldType::Int32 => DataType::Int32,
            FieldType::Int64 => DataType::Int64,
            FieldType::Float64 => DataType::Float64,
            FieldType::Decimal(digits, scale) => DataType::Decimal128(digits, scale),
            FieldType::Text => DataType::Utf8,
            FieldType::Timestamp => timestamp(),
        }
    }
}

impl std::fmt::Display for FieldType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FieldType::Bool => f.write_str("bool"),
            FieldType::Int32 => f.write_str("int32"),
            FieldType::Int64 => f.write_str("int64"),
            FieldType::Float64 => f.write_str("float64"),
            FieldType::Decimal(digits, scale) => write!(f, "decimal({digits},{scale})"),
            FieldType::Text => f.write_str("text"),
            FieldType::Timestamp => f.write_str("timestamp"),
        }
    }
}

/// The Arrow type of every moment: microseconds, UTC.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

/// One field of a payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its key in the payload object.
    pub name: String,
    /// What it may hold.
    pub field_type: FieldType,
    /// Whether a record without it is refused.
    pub required: bool,
}

/// The fields of a payload, in the order of their declaration. Other fields are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PayloadSchema {
    /// The fields; names are unique.
    pub fields: Vec<Field>,
}

impl PayloadSchema {
    /// The Arrow fields of a payload column.
    pub fn arrow(&self) -> Fields {
        self.fields.iter().map(|f| ArrowField::new(&f.name, f.field_type.arrow(), !f.required)).collect()
    }

    /// The place of `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }
}
