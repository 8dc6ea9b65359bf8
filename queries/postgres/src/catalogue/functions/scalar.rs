//! The form of the system functions: a function of the values of one row.
//!
//! Catalogue tables have few rows, so the functions need not work on whole columns.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};

use crate::error::SqlError;
use crate::types;

/// The result of a function for one row.
type CallResult = Result<ScalarValue, SqlError>;

/// Computes the result for one row of arguments.
type Body = Arc<dyn Fn(&[ScalarValue], &ConfigOptions) -> CallResult + Send + Sync>;

/// A system function, as a [`ScalarUDF`] of DataFusion.
#[derive(Clone)]
pub(in crate::catalogue) struct Function {
    name: &'static str,
    returns: DataType,
    /// The Postgres type of the result, if its Arrow type does not say it.
    returns_named: Option<&'static str>,
    /// Whether the result is null when an argument is.
    is_strict: bool,
    signature: Signature,
    body: Body,
}

impl Function {
    /// A function with `least` to `most` arguments of any type. Its result is null when an argument
    /// is.
    pub(in crate::catalogue) fn new(
        name: &'static str,
        (least, most): (usize, usize),
        returns: DataType,
        body: impl Fn(&[ScalarValue], &ConfigOptions) -> CallResult + Send + Sync + 'static,
    ) -> Function {
        let arity = |count: usize| match count {
            0 => TypeSignature::Nullary,
            count => TypeSignature::Any(count),
        };
        let signature = Signature::one_of((least..=most).map(arity).collect(), Volatility::Stable);
        Function { name, returns, returns_named: None, is_strict: true, signature, body: Arc::new(body) }
    }

    /// The same function, called for null arguments too.
    pub(in crate::catalogue) fn for_nulls(mut self) -> Function {
        self.is_strict = false;
        self
    }

    /// The same function, whose result has this Postgres type.
    pub(in crate::catalogue) fn returning(mut self, name: &'static str) -> Function {
        self.returns_named = Some(name);
        self
    }

    pub(in crate::catalogue) fn udf(self) -> ScalarUDF {
        ScalarUDF::from(self)
    }

    fn call(&self, args: &[ScalarValue], options: &ConfigOptions) -> Result<ScalarValue> {
        if self.is_strict && args.iter().any(ScalarValue::is_null) {
            return ScalarValue::try_from(&self.returns);
        }
        (self.body)(args, options).map_err(SqlError::raise)
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = Field::new(self.name, self.returns.clone(), true);
        Ok(Arc::new(match self.returns_named {
            Some(name) => types::marked(field, name),
            None => field,
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let options = args.config_options.as_ref();
        let are_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        if are_constant {
            let row = |arg: &ColumnarValue| match arg {
                ColumnarValue::Scalar(value) => value.clone(),
                ColumnarValue::Array(_) => unreachable!("all are scalars"),
            };
            let row: Vec<ScalarValue> = args.args.iter().map(row).collect();
            return self.call(&row, options).map(ColumnarValue::Scalar);
        }
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let value = |row: usize| {
            let row = columns.iter().map(|column| ScalarValue::try_from_array(column, row));
            self.call(&row.collect::<Result<Vec<_>>>()?, options)
        };
        let values = (0..args.number_rows).map(value).collect::<Result<Vec<_>>>()?;
        let array: ArrayRef = match values.is_empty() {
            true => arrow::array::new_empty_array(&self.returns),
            false => ScalarValue::iter_to_array(values)?,
        };
        Ok(ColumnarValue::Array(array))
    }
}

/// The text of an argument of a system function.
///
/// # Errors
/// 42883 when it is not a text.
pub(in crate::catalogue) fn text(value: &ScalarValue) -> Result<&str, SqlError> {
    value.try_as_str().flatten().ok_or_else(|| {
        SqlError::new(
            "42883",
            format!("a function takes a text here, and got a value of type {}", value.data_type()),
        )
    })
}

/// The whole number of an argument of a system function.
///
/// # Errors
/// 22P02 when it is not a whole number.
pub(in crate::catalogue) fn number(value: &ScalarValue) -> Result<i64, SqlError> {
    let cast = value.cast_to(&DataType::Int64);
    match cast {
        Ok(ScalarValue::Int64(Some(number))) => Ok(number),
        _ => Err(SqlError::new("22P02", format!("a function takes a whole number here, and got {value}"))),
    }
}

/// The oid of an argument of a system function.
///
/// # Errors
/// 22P02 or 22003 when it is not an oid.
pub(in crate::catalogue) fn object_id(value: &ScalarValue) -> Result<u32, SqlError> {
    let number = number(value)?;
    u32::try_from(number).map_err(|_| SqlError::new("22003", format!("{number} is no oid")))
}
