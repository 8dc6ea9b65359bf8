//! Writes the values of one column of a batch, in the text or the binary format.
//!
//! The type of the column is examined once for each batch. After that each value is written
//! directly from its array. Lists, structs and dictionaries contain the cells of their elements,
//! fields and values.

use std::fmt::{Display, Write};
use std::sync::Arc;

use arrow::array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, ByteArrayType, ByteViewType, Date32Type, Date64Type,
    Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalYearMonthType,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, GenericByteArray, GenericByteViewArray,
    PrimitiveArray, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit};
use bytes::{BufMut, BytesMut};

use super::binary::{self, EPOCH_DAYS, EPOCH_MICROS};
use super::text;
use crate::error::SqlError;
use crate::types::{self, oid};

/// Returns the name of an object by the oid of the type that shows it and the oid of the object.
pub(crate) type ObjectNames = Arc<dyn Fn(u32, u32) -> String + Send + Sync>;

/// The cells of a result: the values of a column of a batch.
pub(super) trait Cells: Send {
    fn is_null(&self, row: usize) -> bool;
    /// Writes a value that is not null.
    fn text(&self, row: usize, out: &mut BytesMut);
    /// Writes a value that is not null.
    fn binary(&self, row: usize, out: &mut BytesMut);
}

type AnyCells = Box<dyn Cells>;

/// The cells of `array`, written as the Postgres type of `field`.
///
/// # Errors
/// 0A000 when values of the type cannot be sent.
pub(super) fn of(field: &Field, array: &ArrayRef, names: &ObjectNames) -> Result<AnyCells, SqlError> {
    let wire = types::oid_of(field);
    if types::is_named_object(wire) {
        let names = Arc::clone(names);
        return Ok(primitive::<UInt32Type>(
            array,
            move |value, out| out.put_slice(names(wire, value).as_bytes()),
            |value, out| out.put_u32(value),
        ));
    }
    Ok(match array.data_type() {
        DataType::Null => Box::new(Nulls),
        DataType::Boolean => Box::new(Booleans(array.as_boolean().clone())),
        DataType::Int8 => number::<Int8Type>(array, |value, out| out.put_i16(value.into())),
        DataType::UInt8 => number::<UInt8Type>(array, |value, out| out.put_i16(value.into())),
        DataType::Int16 => number::<Int16Type>(array, |value, out| out.put_i16(value)),
        DataType::UInt16 => number::<UInt16Type>(array, |value, out| out.put_i32(value.into())),
        DataType::Int32 => number::<Int32Type>(array, |value, out| out.put_i32(value)),
        DataType::UInt32 if wire == oid::INT8 => {
            number::<UInt32Type>(array, |value, out| out.put_i64(value.into()))
        }
        DataType::UInt32 => number::<UInt32Type>(array, |value, out| out.put_u32(value)),
        DataType::Int64 => number::<Int64Type>(array, |value, out| out.put_i64(value)),
        DataType::UInt64 => {
            number::<UInt64Type>(array, |value, out| binary::numeric(&value.to_string(), 0, out))
        }
        DataType::Float16 => return of(field, &cast_to(array, &DataType::Float32)?, names),
        DataType::Float32 => primitive::<Float32Type>(array, text::float4, |value, out| out.put_f32(value)),
        DataType::Float64 => primitive::<Float64Type>(array, text::float8, |value, out| out.put_f64(value)),
        DataType::Decimal32(_, scale) => decimal::<Decimal32Type>(array, *scale),
        DataType::Decimal64(_, scale) => decimal::<Decimal64Type>(array, *scale),
        DataType::Decimal128(_, scale) => decimal::<Decimal128Type>(array, *scale),
        DataType::Decimal256(_, scale) => decimal::<Decimal256Type>(array, *scale),
        DataType::Utf8 => texts(array.as_string::<i32>()),
        DataType::LargeUtf8 => texts(array.as_string::<i64>()),
        DataType::Utf8View => views(array.as_string_view(), false),
        DataType::Binary => bytes(array.as_binary::<i32>()),
        DataType::LargeBinary => bytes(array.as_binary::<i64>()),
        DataType::BinaryView => views(array.as_binary_view(), true),
        DataType::FixedSizeBinary(_) => Box::new(FixedBytes(array.as_fixed_size_binary().clone())),
        DataType::Dictionary(key, _) => dictionary(field, array, key, names)?,
        DataType::RunEndEncoded(_, values) => return of(field, &cast_to(array, values.data_type())?, names),
        DataType::Struct(_) => Box::new(Records::new(array.as_struct(), names)?),
        data_type if types::element_of(data_type).is_some() => Box::new(Lists::new(array, wire, names)?),
        data_type if is_json(data_type) => texts(
            tidegate_queries::json_rows::column_texts(array).map_err(SqlError::of_arrow)?.as_string::<i32>(),
        ),
        other => temporal(array, other)?,
    })
}

/// Whether a column is sent as the JSON of its values.
fn is_json(data_type: &DataType) -> bool {
    types::list_element(data_type).is_some() || matches!(data_type, DataType::Map(_, _))
}

/// Dates, times, timestamps, durations and intervals.
fn temporal(array: &ArrayRef, data_type: &DataType) -> Result<AnyCells, SqlError> {
    Ok(match data_type {
        DataType::Date32 => days::<Date32Type>(array, i64::from),
        DataType::Date64 => days::<Date64Type>(array, |millis| millis.div_euclid(86_400_000)),
        DataType::Time32(TimeUnit::Second) => time::<Time32SecondType>(array, |s| i64::from(s) * 1_000_000),
        DataType::Time32(_) => time::<Time32MillisecondType>(array, |ms| i64::from(ms) * 1000),
        DataType::Time64(TimeUnit::Nanosecond) => {
            time::<Time64NanosecondType>(array, |ns| ns.div_euclid(1000))
        }
        DataType::Time64(_) => time::<Time64MicrosecondType>(array, |micros| micros),
        DataType::Timestamp(unit, zone) => {
            let zone = if zone.is_some() { "+00" } else { "" }; // Arrow holds UTC, whatever zone it names.
            match unit {
                TimeUnit::Second => {
                    moment::<TimestampSecondType>(array, zone, |s| s.saturating_mul(1_000_000))
                }
                TimeUnit::Millisecond => {
                    moment::<TimestampMillisecondType>(array, zone, |ms| ms.saturating_mul(1000))
                }
                TimeUnit::Microsecond => moment::<TimestampMicrosecondType>(array, zone, |micros| micros),
                TimeUnit::Nanosecond => {
                    moment::<TimestampNanosecondType>(array, zone, |ns| ns.div_euclid(1000))
                }
            }
        }
        DataType::Duration(unit) => match unit {
            TimeUnit::Second => span::<DurationSecondType>(array, |s| (0, 0, s.saturating_mul(1_000_000))),
            TimeUnit::Millisecond => {
                span::<DurationMillisecondType>(array, |ms| (0, 0, ms.saturating_mul(1000)))
            }
            TimeUnit::Microsecond => span::<DurationMicrosecondType>(array, |micros| (0, 0, micros)),
            TimeUnit::Nanosecond => span::<DurationNanosecondType>(array, |ns| (0, 0, ns / 1000)),
        },
        DataType::Interval(IntervalUnit::YearMonth) => {
            span::<IntervalYearMonthType>(array, |months| (months, 0, 0))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            span::<IntervalDayTimeType>(array, |it| (0, it.days, i64::from(it.milliseconds) * 1000))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            span::<IntervalMonthDayNanoType>(array, |it| (it.months, it.days, it.nanoseconds / 1000))
        }
        other => {
            let what =
                format!("a column of type {other} cannot be sent; cast it to another in the statement");
            return Err(SqlError::new("0A000", what));
        }
    })
}

fn cast_to(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, SqlError> {
    cast(array, data_type).map_err(SqlError::of_arrow)
}

/// A column of nulls.
struct Nulls;

impl Cells for Nulls {
    fn is_null(&self, _: usize) -> bool {
        true
    }

    fn text(&self, _: usize, _: &mut BytesMut) {}

    fn binary(&self, _: usize, _: &mut BytesMut) {}
}

struct Booleans(BooleanArray);

impl Cells for Booleans {
    fn is_null(&self, row: usize) -> bool {
        self.0.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        out.put_u8(if self.0.value(row) { b't' } else { b'f' });
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        out.put_u8(u8::from(self.0.value(row)));
    }
}

/// Values of a fixed width, with the two functions that write them.
struct Primitives<T: ArrowPrimitiveType, X, B> {
    values: PrimitiveArray<T>,
    text: X,
    binary: B,
}

impl<T, X, B> Cells for Primitives<T, X, B>
where
    T: ArrowPrimitiveType,
    X: Fn(T::Native, &mut BytesMut) + Send,
    B: Fn(T::Native, &mut BytesMut) + Send,
{
    fn is_null(&self, row: usize) -> bool {
        self.values.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        (self.text)(self.values.value(row), out);
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        (self.binary)(self.values.value(row), out);
    }
}

fn primitive<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    text: impl Fn(T::Native, &mut BytesMut) + Send + 'static,
    binary: impl Fn(T::Native, &mut BytesMut) + Send + 'static,
) -> AnyCells {
    Box::new(Primitives { values: array.as_primitive::<T>().clone(), text, binary })
}

fn number<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    binary: impl Fn(T::Native, &mut BytesMut) + Send + 'static,
) -> AnyCells
where
    T::Native: Display,
{
    primitive::<T>(array, |value, out| write!(out, "{value}").expect("memory"), binary)
}

fn decimal<T: ArrowPrimitiveType>(array: &ArrayRef, scale: i8) -> AnyCells
where
    T::Native: Display,
{
    primitive::<T>(
        array,
        move |value, out| text::decimal(&value.to_string(), scale, out),
        move |value, out| binary::numeric(&value.to_string(), scale.into(), out),
    )
}

fn days<T: ArrowPrimitiveType>(array: &ArrayRef, days: fn(T::Native) -> i64) -> AnyCells {
    primitive::<T>(
        array,
        move |value, out| text::date(days(value), out),
        move |value, out| out.put_i32((days(value) - EPOCH_DAYS) as i32),
    )
}

fn time<T: ArrowPrimitiveType>(array: &ArrayRef, micros: fn(T::Native) -> i64) -> AnyCells {
    primitive::<T>(
        array,
        move |value, out| text::time(micros(value), out),
        move |value, out| out.put_i64(micros(value)),
    )
}

fn moment<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    zone: &'static str,
    micros: fn(T::Native) -> i64,
) -> AnyCells {
    primitive::<T>(
        array,
        move |value, out| text::timestamp(micros(value), zone, out),
        move |value, out| out.put_i64(micros(value).saturating_sub(EPOCH_MICROS)),
    )
}

/// Intervals and durations as months, days and microseconds.
fn span<T: ArrowPrimitiveType>(array: &ArrayRef, parts: fn(T::Native) -> (i32, i32, i64)) -> AnyCells {
    primitive::<T>(
        array,
        move |value, out| {
            let (months, days, micros) = parts(value);
            text::interval(months, days, micros, out);
        },
        move |value, out| {
            let (months, days, micros) = parts(value);
            out.put_i64(micros);
            out.put_i32(days);
            out.put_i32(months);
        },
    )
}

/// Floats as `numeric`, with the fewest digits that read back as the same float.
struct FloatsAsNumeric(arrow::array::Float64Array);

impl Cells for FloatsAsNumeric {
    fn is_null(&self, row: usize) -> bool {
        self.0.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        match self.0.value(row) {
            value if value.is_finite() => write!(out, "{value}").expect("memory"),
            value => text::float8(value, out),
        }
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        let value = self.0.value(row);
        if !value.is_finite() {
            binary::special(value, out);
            return;
        }
        let text = value.to_string();
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        binary::numeric(&format!("{whole}{part}"), part.len() as i16, out);
    }
}

/// The cells of numbers of any type, written as `numeric`. The value of a parameter may give a
/// column another type than the one described.
pub(super) fn as_numeric(array: &ArrayRef) -> Result<AnyCells, SqlError> {
    if array.data_type().is_floating() {
        let floats = cast_to(array, &DataType::Float64)?;
        return Ok(Box::new(FloatsAsNumeric(floats.as_primitive().clone())));
    }
    Ok(decimal::<Decimal128Type>(&cast_to(array, &DataType::Decimal128(38, 0))?, 0))
}

/// Text or bytes of variable length.
struct Slices<A> {
    array: A,
    is_bytes: bool,
}

impl<T: ByteArrayType> Cells for Slices<GenericByteArray<T>>
where
    T::Native: AsRef<[u8]>,
{
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        put_slice(self.array.value(row).as_ref(), self.is_bytes, out);
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        out.put_slice(self.array.value(row).as_ref());
    }
}

impl<T: ByteViewType> Cells for Slices<GenericByteViewArray<T>> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        put_slice(self.array.value(row).as_ref(), self.is_bytes, out);
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        out.put_slice(self.array.value(row).as_ref());
    }
}

fn put_slice(value: &[u8], is_bytes: bool, out: &mut BytesMut) {
    if is_bytes {
        text::bytes(value, out);
    } else {
        out.put_slice(value);
    }
}

fn texts<T: ByteArrayType>(array: &GenericByteArray<T>) -> AnyCells
where
    T::Native: AsRef<[u8]>,
{
    Box::new(Slices { array: array.clone(), is_bytes: false })
}

fn bytes<T: ByteArrayType>(array: &GenericByteArray<T>) -> AnyCells
where
    T::Native: AsRef<[u8]>,
{
    Box::new(Slices { array: array.clone(), is_bytes: true })
}

fn views<T: ByteViewType>(array: &GenericByteViewArray<T>, is_bytes: bool) -> AnyCells {
    Box::new(Slices { array: array.clone(), is_bytes })
}

/// Bytes of a fixed length, such as digests.
struct FixedBytes(arrow::array::FixedSizeBinaryArray);

impl Cells for FixedBytes {
    fn is_null(&self, row: usize) -> bool {
        self.0.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        text::bytes(self.0.value(row), out);
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        out.put_slice(self.0.value(row));
    }
}

/// Dictionary-encoded values.
struct Keyed<K: ArrowDictionaryKeyType> {
    array: DictionaryArray<K>,
    values: AnyCells,
}

impl<K: ArrowDictionaryKeyType> Cells for Keyed<K> {
    fn is_null(&self, row: usize) -> bool {
        self.array.key(row).is_none_or(|key| self.values.is_null(key))
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        if let Some(key) = self.array.key(row) {
            self.values.text(key, out);
        }
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        if let Some(key) = self.array.key(row) {
            self.values.binary(key, out);
        }
    }
}

fn dictionary(
    field: &Field,
    array: &ArrayRef,
    key: &DataType,
    names: &ObjectNames,
) -> Result<AnyCells, SqlError> {
    fn keyed<K: ArrowDictionaryKeyType>(
        field: &Field,
        array: &ArrayRef,
        names: &ObjectNames,
    ) -> Result<AnyCells, SqlError> {
        let array = array.as_dictionary::<K>();
        let field = field.clone().with_data_type(array.values().data_type().clone());
        let values = of(&field, array.values(), names)?;
        Ok(Box::new(Keyed { array: array.clone(), values }))
    }
    match key {
        DataType::Int8 => keyed::<Int8Type>(field, array, names),
        DataType::Int16 => keyed::<Int16Type>(field, array, names),
        DataType::Int32 => keyed::<Int32Type>(field, array, names),
        DataType::Int64 => keyed::<Int64Type>(field, array, names),
        DataType::UInt8 => keyed::<UInt8Type>(field, array, names),
        DataType::UInt16 => keyed::<UInt16Type>(field, array, names),
        DataType::UInt32 => keyed::<UInt32Type>(field, array, names),
        _ => keyed::<UInt64Type>(field, array, names),
    }
}

/// Lists as one-dimensional arrays, or as vectors in the catalogue.
struct Lists {
    lists: arrow::array::ListArray,
    elements: AnyCells,
    element_oid: u32,
    /// A vector is written without braces, and its first subscript is 0.
    is_vector: bool,
}

impl Lists {
    fn new(array: &ArrayRef, wire: u32, names: &ObjectNames) -> Result<Lists, SqlError> {
        let element = types::element_of(array.data_type()).expect("the caller looked");
        // Convert any kind of list to the one with offsets.
        let lists = cast_to(array, &DataType::List(Arc::clone(element)))?;
        let lists = lists.as_list::<i32>().clone();
        let named = types::by_oid(wire).and_then(|it| types::by_oid(it.element));
        let field = match named {
            Some(named) => types::marked(element.as_ref().clone(), &named.name),
            None => element.as_ref().clone(),
        };
        let elements = of(&field, lists.values(), names)?;
        let is_vector = [oid::INT2VECTOR, oid::OIDVECTOR].contains(&wire);
        Ok(Lists { lists, elements, element_oid: types::oid_of(&field), is_vector })
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        let offsets = self.lists.value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }
}

impl Cells for Lists {
    fn is_null(&self, row: usize) -> bool {
        self.lists.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        let range = self.range(row);
        if self.is_vector {
            for at in range.clone() {
                if at > range.start {
                    out.put_u8(b' ');
                }
                self.elements.text(at, out);
            }
            return;
        }
        out.put_u8(b'{');
        let mut element = BytesMut::new();
        for at in range.clone() {
            if at > range.start {
                out.put_u8(b',');
            }
            if self.elements.is_null(at) {
                out.put_slice(b"NULL");
                continue;
            }
            element.clear();
            self.elements.text(at, &mut element);
            text::array_element(&element, out);
        }
        out.put_u8(b'}');
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        let range = self.range(row);
        let has_nulls = range.clone().any(|at| self.elements.is_null(at));
        out.put_i32(i32::from(!range.is_empty())); // Dimensions.
        out.put_i32(i32::from(has_nulls));
        out.put_u32(self.element_oid);
        if !range.is_empty() {
            out.put_i32(range.len() as i32);
            out.put_i32(i32::from(!self.is_vector)); // The number of the first element.
        }
        for at in range {
            put_value(self.elements.as_ref(), at, true, out);
        }
    }
}

/// Structs as records.
struct Records {
    array: StructArray,
    fields: Vec<(u32, AnyCells)>,
}

impl Records {
    fn new(array: &StructArray, names: &ObjectNames) -> Result<Records, SqlError> {
        let columns = array.fields().iter().zip(array.columns());
        let cells =
            |(field, column): (&FieldRef, &ArrayRef)| Ok((types::oid_of(field), of(field, column, names)?));
        let fields = columns.map(cells).collect::<Result<_, SqlError>>()?;
        Ok(Records { array: array.clone(), fields })
    }
}

impl Cells for Records {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn text(&self, row: usize, out: &mut BytesMut) {
        out.put_u8(b'(');
        let mut value = BytesMut::new();
        for (at, (_, cells)) in self.fields.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            if !cells.is_null(row) {
                value.clear();
                cells.text(row, &mut value);
                text::record_field(&value, out);
            }
        }
        out.put_u8(b')');
    }

    fn binary(&self, row: usize, out: &mut BytesMut) {
        out.put_i32(self.fields.len() as i32);
        for (oid, cells) in &self.fields {
            out.put_u32(*oid);
            put_value(cells.as_ref(), row, true, out);
        }
    }
}

/// Writes the value of a cell after its length; the length of a null is -1.
pub(super) fn put_value(cells: &dyn Cells, row: usize, is_binary: bool, out: &mut BytesMut) {
    let at = out.len();
    out.put_i32(-1);
    if cells.is_null(row) {
        return;
    }
    if is_binary {
        cells.binary(row, out);
    } else {
        cells.text(row, out);
    }
    let length = (out.len() - at - 4) as i32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        FixedSizeBinaryArray, Int16Array, IntervalYearMonthArray, ListArray, MapBuilder, StringArray,
        StringBuilder, UInt32Array, UInt64Array,
    };
    use arrow::buffer::OffsetBuffer;

    use super::*;

    fn written(field: &Field, array: &ArrayRef) -> (Vec<Option<String>>, Vec<Option<Vec<u8>>>) {
        let names: ObjectNames = Arc::new(|_, oid| format!("object {oid}"));
        let cells = of(field, array, &names).expect("the type can be sent");
        let one = |row: usize, write: &dyn Fn(&mut BytesMut)| {
            (!cells.is_null(row)).then(|| {
                let mut out = BytesMut::new();
                write(&mut out);
                out.to_vec()
            })
        };
        let rows = || 0..array.len();
        let texts = rows().map(|row| one(row, &|out| cells.text(row, out)));
        let texts = texts.map(|text| text.map(|text| String::from_utf8(text).expect("it is text")));
        (texts.collect(), rows().map(|row| one(row, &|out| cells.binary(row, out))).collect())
    }

    fn check(array: impl Array + 'static, texts: &[Option<&str>]) {
        let array: ArrayRef = Arc::new(array);
        let field = Field::new("a", array.data_type().clone(), true);
        let texts: Vec<_> = texts.iter().map(|text| text.map(str::to_owned)).collect();
        assert_eq!(written(&field, &array).0, texts, "{}", array.data_type());
    }

    #[test]
    fn values_of_each_kind_are_written_as_text() {
        check(BooleanArray::from(vec![Some(true), Some(false), None]), &[Some("t"), Some("f"), None]);
        check(UInt64Array::from(vec![u64::MAX]), &[Some("18446744073709551615")]);
        check(
            FixedSizeBinaryArray::try_from_iter([[1u8, 0xff]].iter()).expect("of one size"),
            &[Some("\\x01ff")],
        );
        check(
            [Some("b"), None, Some("b")].into_iter().collect::<DictionaryArray<Int32Type>>(),
            &[Some("b"), None, Some("b")],
        );
        check(IntervalYearMonthArray::from(vec![Some(13), None]), &[Some("1 year 1 mon"), None]);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]);
        check(lists.clone(), &[Some("{1,NULL}"), None, Some("{}")]);
        let nested = ListArray::new(
            Arc::new(Field::new("item", lists.data_type().clone(), true)),
            OffsetBuffer::from_lengths([2, 1]),
            Arc::new(lists),
            None,
        );
        check(nested, &[Some("[[1,null],null]"), Some("[[]]")]);
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        map.keys().append_value("k");
        map.values().append_value("v");
        map.append(true).expect("a key and a value");
        check(map.finish(), &[Some("{\"k\":\"v\"}")]);
        let fields = vec![Field::new("b", DataType::Utf8, true), Field::new("c", DataType::UInt64, true)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("x, y"), None])),
            Arc::new(UInt64Array::from(vec![Some(7), None])),
        ];
        check(StructArray::new(fields.into(), columns, None), &[Some("(\"x, y\",7)"), Some("(,)")]);
    }

    #[test]
    fn arrays_and_vectors_differ_in_both_formats() {
        let lists: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int16Type, _, _>([Some(vec![Some(1), Some(2)])]));
        let field = Field::new("a", lists.data_type().clone(), true);
        let head = |first: u8| {
            let head = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, 2, 0, 0, 0, first][..]].concat();
            [head, vec![0, 0, 0, 2, 0, 1, 0, 0, 0, 2, 0, 2]].concat()
        };
        assert_eq!(written(&field, &lists), (vec![Some("{1,2}".to_owned())], vec![Some(head(1))]));
        let vector = types::marked(field, "int2vector");
        assert_eq!(written(&vector, &lists), (vec![Some("1 2".to_owned())], vec![Some(head(0))]));
    }

    #[test]
    fn oids_of_named_objects_are_shown_by_name_and_sent_as_numbers() {
        let oids: ArrayRef = Arc::new(UInt32Array::from(vec![7]));
        let plain = Field::new("a", DataType::UInt32, true);
        assert_eq!(written(&plain, &oids).1, [Some(7i64.to_be_bytes().to_vec())]);
        let oid = types::marked(plain.clone(), "oid");
        assert_eq!(written(&oid, &oids), (vec![Some("7".to_owned())], vec![Some(vec![0, 0, 0, 7])]));
        let class = types::marked(plain, "regclass");
        assert_eq!(written(&class, &oids), (vec![Some("object 7".to_owned())], vec![Some(vec![0, 0, 0, 7])]));
    }

    #[test]
    fn moments_count_from_2000_in_binary() {
        let moments: ArrayRef = Arc::new(
            arrow::array::TimestampMicrosecondArray::from(vec![EPOCH_MICROS + 1]).with_timezone("UTC"),
        );
        let field = Field::new("a", moments.data_type().clone(), true);
        let (texts, binaries) = written(&field, &moments);
        assert_eq!(texts, [Some("2000-01-01 00:00:00.000001+00".to_owned())]);
        assert_eq!(binaries, [Some(1i64.to_be_bytes().to_vec())]);
        let small: ArrayRef = Arc::new(Int16Array::from(vec![-2]));
        let field = Field::new("a", DataType::Int16, true);
        assert_eq!(written(&field, &small).1, [Some(vec![0xff, 0xfe])]);
    }
}
