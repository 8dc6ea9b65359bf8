//! The types of Postgres: their oids and properties, and the type that each Arrow type has on the
//! wire.
//!
//! | Arrow | Postgres |
//! |---|---|
//! | signed integers, and unsigned ones up to 32 bits | the smallest of `int2`, `int4`, `int8` that fits |
//! | `UInt64`, decimals | `numeric` |
//! | floats | `float4`, `float8` |
//! | text, and dictionaries of text | `text` |
//! | bytes | `bytea` |
//! | dates and times | `date`, `time` |
//! | timestamps without and with a time zone | `timestamp`, `timestamptz` |
//! | intervals, durations | `interval` |
//! | lists of any of these | the array type |
//! | structs | `record` |
//! | lists of lists, maps | `text`: their JSON |
//!
//! A field may name another type in its metadata, see [`marked`]. The fields of catalogue tables
//! do, since Arrow has no `oid`, `name` or `regclass`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use arrow::datatypes::{DataType, Field, FieldRef};

/// The metadata key under which a field names its Postgres type.
const TYPE_KEY: &str = "postgres.type";

/// The oids of types that the code mentions by name.
pub(crate) mod oid {
    pub(crate) const BOOL: u32 = 16;
    pub(crate) const BYTEA: u32 = 17;
    pub(crate) const CHAR: u32 = 18;
    pub(crate) const NAME: u32 = 19;
    pub(crate) const INT8: u32 = 20;
    pub(crate) const INT2: u32 = 21;
    pub(crate) const INT2VECTOR: u32 = 22;
    pub(crate) const INT4: u32 = 23;
    pub(crate) const REGPROC: u32 = 24;
    pub(crate) const TEXT: u32 = 25;
    pub(crate) const OID: u32 = 26;
    pub(crate) const OIDVECTOR: u32 = 30;
    pub(crate) const FLOAT4: u32 = 700;
    pub(crate) const FLOAT8: u32 = 701;
    pub(crate) const UNKNOWN: u32 = 705;
    pub(crate) const BPCHAR: u32 = 1042;
    pub(crate) const VARCHAR: u32 = 1043;
    pub(crate) const DATE: u32 = 1082;
    pub(crate) const TIME: u32 = 1083;
    pub(crate) const TIMESTAMP: u32 = 1114;
    pub(crate) const TIMESTAMPTZ: u32 = 1184;
    pub(crate) const INTERVAL: u32 = 1186;
    pub(crate) const NUMERIC: u32 = 1700;
    pub(crate) const REGCLASS: u32 = 2205;
    pub(crate) const REGTYPE: u32 = 2206;
    pub(crate) const RECORD: u32 = 2249;
    pub(crate) const REGNAMESPACE: u32 = 4089;
    pub(crate) const REGROLE: u32 = 4096;
}

/// The built-in types, one row of `pg_type` a line.
///
/// The columns: name, oid, array oid, length, passed by value, category, preferred, alignment,
/// storage, element, kind, collation; then `_` where the I/O functions are called like `date_in`,
/// and `.` where they are called like `boolin`; then the oids of the functions in, out, recv, send,
/// typmodin and typmodout, 0 for none.
const BUILT_IN: &str = "\
bool 16 1000 1 t B t c p 0 b 0 . 1242 1243 2436 2437 0 0
bytea 17 1001 -1 f U f i x 0 b 0 . 1244 31 2412 2413 0 0
char 18 1002 1 t Z f c p 0 b 0 . 1245 33 2434 2435 0 0
name 19 1003 64 f S f c p 18 b 950 . 34 35 2422 2423 0 0
int8 20 1016 8 t N f d p 0 b 0 . 460 461 2408 2409 0 0
int2 21 1005 2 t N f s p 0 b 0 . 38 39 2404 2405 0 0
int2vector 22 1006 -1 f A f i p 21 b 0 . 40 41 2410 2411 0 0
int4 23 1007 4 t N f i p 0 b 0 . 42 43 2406 2407 0 0
regproc 24 1008 4 t N f i p 0 b 0 . 44 45 2444 2445 0 0
text 25 1009 -1 f S t i x 0 b 100 . 46 47 2414 2415 0 0
oid 26 1028 4 t N t i p 0 b 0 . 1798 1799 2418 2419 0 0
xid 28 1011 4 t U f i p 0 b 0 . 50 51 2440 2441 0 0
oidvector 30 1013 -1 f A f i p 26 b 0 . 54 55 2420 2421 0 0
json 114 199 -1 f U f i x 0 b 0 _ 321 322 323 324 0 0
pg_node_tree 194 0 -1 f Z f i x 0 b 100 _ 195 196 197 198 0 0
float4 700 1021 4 t N f i p 0 b 0 . 200 201 2424 2425 0 0
float8 701 1022 8 t N t d p 0 b 0 . 214 215 2426 2427 0 0
unknown 705 0 -2 f X f c p 0 p 0 . 109 110 2416 2417 0 0
aclitem 1033 1034 12 f U f i p 0 b 0 . 1031 1032 0 0 0 0
bpchar 1042 1014 -1 f S f i x 0 b 100 . 1044 1045 2430 2431 2913 2914
varchar 1043 1015 -1 f S f i x 0 b 100 . 1046 1047 2432 2433 2915 2916
date 1082 1182 4 t D f i p 0 b 0 _ 1084 1085 2468 2469 0 0
time 1083 1183 8 t D f d p 0 b 0 _ 1143 1144 2470 2471 2909 2910
timestamp 1114 1115 8 t D f d p 0 b 0 _ 1312 1313 2474 2475 2905 2906
timestamptz 1184 1185 8 t D t d p 0 b 0 _ 1150 1151 2476 2477 2907 2908
interval 1186 1187 16 f T t d p 0 b 0 _ 1160 1161 2478 2479 2903 2904
timetz 1266 1270 12 f D f d p 0 b 0 _ 1350 1351 2472 2473 2911 2912
numeric 1700 1231 -1 f N f i m 0 b 0 _ 1701 1702 2460 2461 2917 2918
regclass 2205 2210 4 t N f i p 0 b 0 . 2218 2219 2452 2453 0 0
regtype 2206 2211 4 t N f i p 0 b 0 . 2220 2221 2454 2455 0 0
record 2249 2287 -1 f P f d x 0 p 0 _ 2290 2291 2402 2403 0 0
cstring 2275 1263 -2 f P f c p 0 p 0 _ 2292 2293 2500 2501 0 0
any 2276 0 4 t P f i p 0 p 0 _ 2294 2295 0 0 0 0
anyarray 2277 0 -1 f P f d x 0 p 0 _ 2296 2297 2502 2503 0 0
void 2278 0 4 t P f i p 0 p 0 _ 2298 2299 3120 3121 0 0
uuid 2950 2951 16 f U f c p 0 b 0 _ 2952 2953 2961 2962 0 0
pg_lsn 3220 3221 8 t U f d p 0 b 0 _ 3229 3230 3238 3239 0 0
jsonb 3802 3807 -1 f U f i x 0 b 0 _ 3806 3804 3805 3803 0 0
regnamespace 4089 4090 4 t N f i p 0 b 0 . 4084 4085 4087 4088 0 0
regrole 4096 4097 4 t N f i p 0 b 0 . 4098 4092 4094 4095 0 0
";

/// A type of Postgres: a row of `pg_type`.
#[derive(Debug)]
pub(crate) struct PgType {
    pub(crate) name: String,
    pub(crate) oid: u32,
    /// The oid of its array type; 0 for none.
    pub(crate) array: u32,
    /// The bytes of a value; -1 when their number varies.
    pub(crate) length: i16,
    pub(crate) by_value: bool,
    pub(crate) category: char,
    pub(crate) is_preferred: bool,
    pub(crate) align: char,
    pub(crate) storage: char,
    /// The oid of its element type; 0 for none.
    pub(crate) element: u32,
    /// `b` for a base type, `p` for a pseudo-type.
    pub(crate) kind: char,
    pub(crate) collation: u32,
    /// The functions in, out, recv, send, typmodin and typmodout, each with its oid.
    pub(crate) functions: [Option<(String, u32)>; 6],
    /// Whether it is an array type. Vectors and `name` have elements too, but are none.
    pub(crate) is_array: bool,
}

static TYPES: LazyLock<BTreeMap<u32, PgType>> = LazyLock::new(|| {
    let base: Vec<PgType> = BUILT_IN.lines().map(PgType::parse).collect();
    let arrays: Vec<PgType> = base.iter().filter_map(PgType::array_of).collect();
    base.into_iter().chain(arrays).map(|it| (it.oid, it)).collect()
});

/// All types, by oid.
pub(crate) fn all() -> impl Iterator<Item = &'static PgType> {
    TYPES.values()
}

/// Finds a type by its oid.
pub(crate) fn by_oid(oid: u32) -> Option<&'static PgType> {
    TYPES.get(&oid)
}

/// Finds a type by its name in `pg_type`, such as `int4` or `_text`.
pub(crate) fn by_name(name: &str) -> Option<&'static PgType> {
    TYPES.values().find(|it| it.name == name)
}

impl PgType {
    fn parse(line: &str) -> PgType {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| parts[index].parse::<i64>().expect("a number of the table above");
        let letter = |index: usize| parts[index].chars().next().expect("a letter of the table above");
        let (name, infix) = (parts[0], parts[12].trim_matches('.'));
        let function = |index: usize, suffix: &str| {
            let infix = if suffix.starts_with("typmod") { "" } else { infix };
            let oid = number(index) as u32;
            (oid != 0).then(|| (format!("{name}{infix}{suffix}"), oid))
        };
        PgType {
            name: name.to_owned(),
            oid: number(1) as u32,
            array: number(2) as u32,
            length: number(3) as i16,
            by_value: parts[4] == "t",
            category: letter(5),
            is_preferred: parts[6] == "t",
            align: letter(7),
            storage: letter(8),
            element: number(9) as u32,
            kind: letter(10),
            collation: number(11) as u32,
            functions: [
                function(13, "in"),
                function(14, "out"),
                function(15, "recv"),
                function(16, "send"),
                function(17, "typmodin"),
                function(18, "typmodout"),
            ],
            is_array: false,
        }
    }

    /// Its array type.
    fn array_of(&self) -> Option<PgType> {
        let function = |name: &str, oid: u32| Some((name.to_owned(), oid));
        (self.array != 0).then(|| PgType {
            name: format!("_{}", self.name),
            oid: self.array,
            array: 0,
            length: -1,
            by_value: false,
            category: 'A',
            is_preferred: false,
            align: if self.align == 'd' { 'd' } else { 'i' },
            storage: 'x',
            element: self.oid,
            kind: self.kind,
            collation: self.collation,
            functions: [
                function("array_in", 750),
                function("array_out", 751),
                function("array_recv", 2400),
                function("array_send", 2401),
                self.functions[4].clone(),
                self.functions[5].clone(),
            ],
            is_array: true,
        })
    }

    /// The name that Postgres shows, such as `timestamp with time zone`, with the modifier if
    /// given.
    pub(crate) fn display_name(&self, modifier: Option<i32>) -> String {
        if self.is_array {
            let element = by_oid(self.element).map_or_else(String::new, |it| it.display_name(modifier));
            return format!("{element}[]");
        }
        let modifier = modifier.filter(|modifier| *modifier >= 0);
        let precision = |name: &str, rest: &str| match modifier {
            Some(digits) => format!("{name}({digits}){rest}"),
            None => format!("{name}{rest}"),
        };
        match self.oid {
            oid::BOOL => "boolean".to_owned(),
            oid::CHAR => "\"char\"".to_owned(),
            oid::INT2 => "smallint".to_owned(),
            oid::INT4 => "integer".to_owned(),
            oid::INT8 => "bigint".to_owned(),
            oid::FLOAT4 => "real".to_owned(),
            oid::FLOAT8 => "double precision".to_owned(),
            oid::BPCHAR => match modifier {
                Some(length) => format!("character({})", length - 4),
                None => "character".to_owned(),
            },
            oid::VARCHAR => match modifier {
                Some(length) => format!("character varying({})", length - 4),
                None => "character varying".to_owned(),
            },
            oid::NUMERIC => match modifier.and_then(numeric_digits) {
                Some((precision, scale)) => format!("numeric({precision},{scale})"),
                None => "numeric".to_owned(),
            },
            oid::TIME => precision("time", " without time zone"),
            oid::TIMESTAMP => precision("timestamp", " without time zone"),
            oid::TIMESTAMPTZ => precision("timestamp", " with time zone"),
            1266 => precision("time", " with time zone"),
            2276 => "\"any\"".to_owned(),
            _ => self.name.clone(),
        }
    }
}

/// The precision and the scale in a type modifier of `numeric`.
pub(crate) fn numeric_digits(modifier: i32) -> Option<(i32, i32)> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    let scale = packed & 0x7ff;
    Some((packed >> 16, (scale ^ 0x400) - 0x400)) // The scale is signed, in 11 bits.
}

fn numeric_modifier(precision: u8, scale: i8) -> i32 {
    ((i32::from(precision) << 16) | (i32::from(scale) & 0x7ff)) + 4
}

/// Names the Postgres type of a field in its metadata.
pub(crate) fn marked(field: Field, name: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(TYPE_KEY.to_owned(), name.to_owned());
    field.with_metadata(metadata)
}

/// The Postgres type that the metadata of a field names.
pub(crate) fn mark_of(field: &Field) -> Option<&str> {
    field.metadata().get(TYPE_KEY).map(String::as_str)
}

/// The Arrow type of catalogue columns of a Postgres type.
pub(crate) fn arrow_type(it: &PgType) -> DataType {
    let list = |element: &PgType| DataType::new_list(arrow_type(element), true);
    match it.oid {
        oid::BOOL => DataType::Boolean,
        oid::BYTEA => DataType::Binary,
        oid::INT2 => DataType::Int16,
        oid::INT4 => DataType::Int32,
        oid::INT8 => DataType::Int64,
        oid::FLOAT4 => DataType::Float32,
        oid::FLOAT8 => DataType::Float64,
        oid::DATE => DataType::Date32,
        oid::TIMESTAMP => DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None),
        oid::TIMESTAMPTZ => tidegate_facts::payload_schema::timestamp(),
        28 => DataType::UInt32, // xid
        oid::INT2VECTOR => DataType::new_list(DataType::Int16, true),
        oid::OIDVECTOR => DataType::new_list(DataType::UInt32, true),
        _ if is_object_type(it.oid) => DataType::UInt32,
        _ if it.is_array => by_oid(it.element).map_or(DataType::Utf8, list),
        _ => DataType::Utf8,
    }
}

/// Whether the values of a type are oids: of `oid` itself, or of a type that shows them by name.
pub(crate) fn is_object_type(oid: u32) -> bool {
    oid == oid::OID || is_named_object(oid)
}

/// Whether the values of a type are oids that are shown as the names of their objects.
pub(crate) fn is_named_object(oid: u32) -> bool {
    [oid::REGPROC, oid::REGCLASS, oid::REGTYPE, oid::REGNAMESPACE, oid::REGROLE].contains(&oid)
}

/// The oid of the Postgres type of a field.
pub(crate) fn oid_of(field: &Field) -> u32 {
    match mark_of(field).and_then(by_name) {
        Some(named) if arrow_type(named).equals_datatype(field.data_type()) => named.oid,
        _ => oid_of_type(field.data_type()),
    }
}

fn oid_of_type(data_type: &DataType) -> u32 {
    match data_type {
        DataType::Boolean => oid::BOOL,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => oid::INT2,
        DataType::Int32 | DataType::UInt16 => oid::INT4,
        DataType::Int64 | DataType::UInt32 => oid::INT8,
        DataType::UInt64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => oid::NUMERIC,
        DataType::Float16 | DataType::Float32 => oid::FLOAT4,
        DataType::Float64 => oid::FLOAT8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            oid::BYTEA
        }
        DataType::Date32 | DataType::Date64 => oid::DATE,
        DataType::Time32(_) | DataType::Time64(_) => oid::TIME,
        DataType::Timestamp(_, None) => oid::TIMESTAMP,
        DataType::Timestamp(_, Some(_)) => oid::TIMESTAMPTZ,
        DataType::Interval(_) | DataType::Duration(_) => oid::INTERVAL,
        DataType::Dictionary(_, values) => oid_of_type(values),
        DataType::RunEndEncoded(_, values) => oid_of(values),
        DataType::Struct(_) => oid::RECORD,
        other => match element_of(other) {
            Some(element) => by_oid(oid_of(element)).map_or(oid::TEXT, |it| it.array),
            None => oid::TEXT, // Text; and what has no type of its own there, as JSON.
        },
    }
}

/// The element field of a list that is a Postgres array. Lists of lists and of maps are none.
pub(crate) fn element_of(data_type: &DataType) -> Option<&FieldRef> {
    let element = list_element(data_type)?;
    let is_nested =
        list_element(element.data_type()).is_some() || matches!(element.data_type(), DataType::Map(_, _));
    (!is_nested).then_some(element)
}

/// The element field of any list.
pub(crate) fn list_element(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => Some(element),
        _ => None,
    }
}

/// The type modifier of a field: precision and scale of a decimal, -1 for other types.
pub(crate) fn modifier_of(field: &Field) -> i32 {
    match field.data_type() {
        DataType::UInt64 => numeric_modifier(20, 0),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => numeric_modifier(*precision, *scale),
        DataType::Dictionary(_, values) => modifier_of(&Field::new("", values.as_ref().clone(), true)),
        other => element_of(other).map_or(-1, |element| modifier_of(element)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_array_type_names_its_element_and_back() {
        for it in all() {
            if let Some(array) = by_oid(it.array) {
                assert_eq!((array.element, array.is_array), (it.oid, true), "{}", it.name);
            }
            if it.is_array {
                assert_eq!(by_oid(it.element).map(|element| element.array), Some(it.oid), "{}", it.name);
            }
            assert_eq!(by_name(&it.name).map(|found| found.oid), Some(it.oid));
        }
    }

    #[test]
    fn arrow_types_have_the_types_of_the_table_above() {
        let check = |data_type: DataType, name: &str| {
            let oid = oid_of(&Field::new("a", data_type.clone(), true));
            assert_eq!(by_oid(oid).map(|it| it.name.as_str()), Some(name), "{data_type}");
        };
        check(DataType::UInt8, "int2");
        check(DataType::UInt32, "int8");
        check(DataType::UInt64, "numeric");
        check(DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), "text");
        check(DataType::new_list(DataType::UInt64, true), "_numeric");
        check(DataType::new_list(DataType::new_list(DataType::Int8, true), true), "text");
        check(tidegate_facts::payload_schema::timestamp(), "timestamptz");
        check(DataType::FixedSizeBinary(32), "bytea");
        let fields = vec![Field::new("b", DataType::Int8, true)];
        let record = DataType::Struct(fields.into());
        check(record.clone(), "record");
        check(DataType::List(Arc::new(Field::new("item", record, true))), "_record");
        let marked = marked(Field::new("a", DataType::UInt32, true), "regclass");
        assert_eq!(oid_of(&marked), oid::REGCLASS);
    }

    #[test]
    fn modifiers_hold_precision_and_scale() {
        for (precision, scale) in [(12, 2), (38, 0), (5, -2)] {
            let field = Field::new("a", DataType::Decimal128(precision, scale), true);
            let digits = (i32::from(precision), i32::from(scale));
            assert_eq!(numeric_digits(modifier_of(&field)), Some(digits));
        }
        let numeric = by_oid(oid::NUMERIC).expect("it is built in");
        assert_eq!(numeric.display_name(Some(numeric_modifier(12, 2))), "numeric(12,2)");
        assert_eq!(
            by_name("_timestamptz").expect("it is one").display_name(None),
            "timestamp with time zone[]"
        );
    }
}
