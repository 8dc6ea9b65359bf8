//! Functions that return the same value for every object, such as `obj_description`,
//! `pg_type_is_visible` and `has_table_privilege`.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::scalar::Function;

/// The most arguments of these functions.
const ARGUMENTS_MAX: usize = 4;

/// Functions about comments and definitions. No object has any.
const NULL_TEXTS: [&str; 26] = [
    "col_description",
    "obj_description",
    "pg_describe_object",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_function_arg_default",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_function_sqlbody",
    "pg_get_functiondef",
    "pg_get_indexdef",
    "pg_get_partition_constraintdef",
    "pg_get_partkeydef",
    "pg_get_ruledef",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef",
    "pg_get_statisticsobjdef_columns",
    "pg_get_statisticsobjdef_expressions",
    "pg_get_triggerdef",
    "pg_get_viewdef",
    "pg_tablespace_location",
    "shobj_description",
    "inet_client_addr",
    "inet_server_addr",
    "pg_current_logfile",
];

/// Functions about sizes and counts that the server does not keep.
const NULL_NUMBERS: [&str; 8] = [
    "pg_database_size",
    "pg_indexes_size",
    "pg_relation_size",
    "pg_stat_get_numscans",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_my_temp_schema",
];

/// Whether an object can be named without its schema. [`super::objects`] answers it for tables.
const VISIBLE: [&str; 12] = [
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_function_is_visible",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_opfamily_is_visible",
    "pg_statistics_obj_is_visible",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
    "pg_type_is_visible",
];

/// Functions about replication, which the server does not have.
const FALSE: [&str; 3] = ["pg_is_in_recovery", "pg_is_wal_replay_paused", "pg_relation_is_publishable"];

pub(super) fn all() -> Vec<Function> {
    let always = |name: &'static str, value: ScalarValue| {
        Function::new(name, (0, ARGUMENTS_MAX), value.data_type(), move |_, _| Ok(value.clone())).for_nulls()
    };
    let texts = NULL_TEXTS.iter().map(|name| always(name, ScalarValue::Utf8(None)));
    let numbers = NULL_NUMBERS.iter().map(|name| always(name, ScalarValue::Int64(None)));
    let visible = VISIBLE.iter().map(|name| always(name, ScalarValue::from(true)));
    let no = FALSE.iter().map(|name| always(name, ScalarValue::from(false)));
    texts.chain(numbers).chain(visible).chain(no).chain([privileges()].concat()).collect()
}

/// The privilege functions. Every client may read everything, and none may write.
fn privileges() -> Vec<Function> {
    const NAMES: [&str; 9] = [
        "has_any_column_privilege",
        "has_column_privilege",
        "has_database_privilege",
        "has_function_privilege",
        "has_schema_privilege",
        "has_sequence_privilege",
        "has_table_privilege",
        "has_tablespace_privilege",
        "has_type_privilege",
    ];
    let may = |name: &'static str| {
        Function::new(name, (2, ARGUMENTS_MAX), DataType::Boolean, |args, _| {
            let asked = super::scalar::text(&args[args.len() - 1])?.to_lowercase();
            // One of several privileges is enough.
            let may =
                asked.split(',').any(|one| ["select", "usage", "connect", "execute"].contains(&one.trim()));
            Ok(ScalarValue::from(may))
        })
    };
    NAMES.iter().map(|name| may(name)).collect()
}
