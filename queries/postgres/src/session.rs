//! The settings of one connection, which `SET`, `SHOW` and `RESET` work on.
//!
//! `statement_timeout` limits statements. Some settings can have one value only, since the server
//! has one time zone, one encoding and one format of times. The server keeps and shows the others
//! without any effect, as clients expect them. No setting affects another connection.

use std::collections::BTreeMap;
use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    ContextModifier, Expr, Reset, Set, SetSessionAuthorizationParamKind, Statement,
};

use crate::error::SqlError;
use crate::limits::{STATEMENT_TIMEOUT_MAX, show_span};

/// The version of Postgres that the server announces.
pub(crate) const SERVER_VERSION: &str = concat!("16.6 (Tidegate ", env!("CARGO_PKG_VERSION"), ")");

const STATEMENT_TIMEOUT: &str = "statement_timeout";

/// A setting of a connection that the server knows.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    kind: Kind,
    /// Whether the server reports its value and each change in a `ParameterStatus` message.
    is_reported: bool,
}

/// How a setting can be set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To any value, which is kept and shown.
    Kept,
    /// To these spellings of its one value; `SHOW` shows the default.
    Fixed(&'static [&'static str]),
    /// To one of these values, which is kept and shown.
    OneOf(&'static [&'static str]),
    /// Not at all.
    ReadOnly,
    /// To a time: how long a statement may take.
    Timeout,
}

const ON: &[&str] = &["on", "true", "yes", "1", "t"];

const DATE_STYLES: &[&str] =
    &["iso", "iso, mdy", "iso,mdy", "iso, dmy", "iso,dmy", "iso, ymd", "iso,ymd", "mdy", "dmy", "ymd"];

const ZONES: &[&str] = &["utc", "gmt", "etc/utc", "zulu", "z", "0", "default", "local", "+00:00"];

const ISOLATIONS: &[&str] = &["read committed", "read uncommitted", "repeatable read", "serializable"];

const fn setting(name: &'static str, default: &'static str, kind: Kind) -> Setting {
    Setting { name, default, kind, is_reported: false }
}

const fn reported(name: &'static str, default: &'static str, kind: Kind) -> Setting {
    Setting { name, default, kind, is_reported: true }
}

/// All settings of a connection, in the order of their names.
pub(crate) const SETTINGS: &[Setting] = &[
    reported("application_name", "", Kind::Kept),
    setting("array_nulls", "on", Kind::Fixed(ON)),
    setting("backslash_quote", "safe_encoding", Kind::Kept),
    setting("block_size", "8192", Kind::ReadOnly),
    setting("bytea_output", "hex", Kind::Fixed(&["hex"])),
    setting("check_function_bodies", "on", Kind::Kept),
    reported("client_encoding", "UTF8", Kind::Fixed(&["utf8", "utf-8", "unicode", "default"])),
    setting("client_min_messages", "notice", Kind::Kept),
    setting("constraint_exclusion", "partition", Kind::Kept),
    setting("cursor_tuple_fraction", "0.1", Kind::Kept),
    reported("DateStyle", "ISO, MDY", Kind::Fixed(DATE_STYLES)),
    setting("default_statistics_target", "100", Kind::Kept),
    setting("default_table_access_method", "heap", Kind::Kept),
    setting("default_tablespace", "", Kind::Kept),
    setting("default_transaction_deferrable", "off", Kind::Kept),
    setting("default_transaction_isolation", "read committed", Kind::OneOf(ISOLATIONS)),
    reported("default_transaction_read_only", "on", Kind::Fixed(ON)),
    setting("enable_bitmapscan", "on", Kind::Kept),
    setting("enable_hashagg", "on", Kind::Kept),
    setting("enable_hashjoin", "on", Kind::Kept),
    setting("enable_indexonlyscan", "on", Kind::Kept),
    setting("enable_indexscan", "on", Kind::Kept),
    setting("enable_material", "on", Kind::Kept),
    setting("enable_mergejoin", "on", Kind::Kept),
    setting("enable_nestloop", "on", Kind::Kept),
    setting("enable_seqscan", "on", Kind::Kept),
    setting("enable_sort", "on", Kind::Kept),
    setting("escape_string_warning", "on", Kind::Kept),
    setting("extra_float_digits", "1", Kind::OneOf(&["1", "2", "3"])),
    setting("from_collapse_limit", "8", Kind::Kept),
    setting("geqo", "on", Kind::Kept),
    setting("idle_in_transaction_session_timeout", "0", Kind::Kept),
    setting("idle_session_timeout", "0", Kind::Kept),
    reported("in_hot_standby", "off", Kind::ReadOnly),
    reported("integer_datetimes", "on", Kind::ReadOnly),
    reported("IntervalStyle", "postgres", Kind::Fixed(&["postgres"])),
    reported("is_superuser", "off", Kind::ReadOnly),
    setting("jit", "off", Kind::Kept),
    setting("join_collapse_limit", "8", Kind::Kept),
    setting("lc_messages", "C.UTF-8", Kind::Kept),
    setting("lc_monetary", "C.UTF-8", Kind::Kept),
    setting("lc_numeric", "C.UTF-8", Kind::Kept),
    setting("lc_time", "C.UTF-8", Kind::Kept),
    setting("lock_timeout", "0", Kind::Kept),
    setting("log_min_duration_statement", "-1", Kind::Kept),
    setting("log_statement", "none", Kind::Kept),
    setting("max_connections", "256", Kind::ReadOnly),
    setting("max_identifier_length", "63", Kind::ReadOnly),
    setting("max_index_keys", "32", Kind::ReadOnly),
    setting("password_encryption", "scram-sha-256", Kind::Kept),
    setting("plan_cache_mode", "auto", Kind::Kept),
    setting("quote_all_identifiers", "off", Kind::Kept),
    setting("random_page_cost", "4", Kind::Kept),
    setting("role", "none", Kind::ReadOnly),
    setting("row_security", "on", Kind::Kept),
    reported("scram_iterations", "4096", Kind::ReadOnly),
    setting("search_path", "\"$user\", public", Kind::Kept),
    setting("seq_page_cost", "1", Kind::Kept),
    reported("server_encoding", "UTF8", Kind::ReadOnly),
    reported("server_version", SERVER_VERSION, Kind::ReadOnly),
    setting("server_version_num", "160006", Kind::ReadOnly),
    reported("session_authorization", "", Kind::ReadOnly),
    setting("session_replication_role", "origin", Kind::Kept),
    setting("ssl", "off", Kind::ReadOnly),
    reported("standard_conforming_strings", "on", Kind::Fixed(ON)),
    setting(STATEMENT_TIMEOUT, "0", Kind::Timeout),
    setting("synchronize_seqscans", "on", Kind::Kept),
    setting("synchronous_commit", "on", Kind::Kept),
    setting("temp_tablespaces", "", Kind::Kept),
    reported("TimeZone", "UTC", Kind::Fixed(ZONES)),
    setting("transaction_isolation", "read committed", Kind::OneOf(ISOLATIONS)),
    setting("transaction_read_only", "on", Kind::Fixed(ON)),
    setting("transform_null_equals", "off", Kind::Kept),
    setting("wal_level", "replica", Kind::ReadOnly),
    setting("work_mem", "4MB", Kind::Kept),
    setting("xmloption", "content", Kind::Kept),
];

/// Finds a setting by its name, in any case, or by the words that `SHOW` allows for it.
fn find(name: &str) -> Option<&'static Setting> {
    let name = match name.to_lowercase().as_str() {
        "time zone" | "time.zone" => "TimeZone".to_owned(),
        "transaction isolation level" => "transaction_isolation".to_owned(),
        "session authorization" => "session_authorization".to_owned(),
        other => other.to_owned(),
    };
    SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(&name))
}

fn unknown(name: &str) -> SqlError {
    SqlError::new("42704", format!("unrecognized configuration parameter \"{name}\""))
}

/// The values of the settings of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The values from the start-up message, to which `RESET` returns.
    at_start: BTreeMap<&'static str, String>,
    session: BTreeMap<&'static str, String>,
    /// The values of `SET LOCAL`, until the transaction ends.
    local: BTreeMap<&'static str, String>,
    /// The values at the start of the transaction, for a rollback.
    at_begin: Option<BTreeMap<&'static str, String>>,
}

impl Settings {
    /// The settings of a new connection. Unknown settings and values in the start-up message are
    /// ignored, since drivers send more than they need.
    pub(crate) fn at_start(user: &str, parameters: &BTreeMap<String, String>) -> Settings {
        let options = parameters.get("options").map(String::as_str).unwrap_or_default();
        let given = parameters.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let given = given.chain(options_of(options));
        let mut at_start = BTreeMap::new();
        for (name, value) in given {
            if let Some(setting) = find(name)
                && let Ok(value) = setting.accept(&value)
            {
                at_start.insert(setting.name, value);
            }
        }
        at_start.insert("session_authorization", user.to_owned());
        Settings { session: at_start.clone(), at_start, ..Settings::default() }
    }

    fn get(&self, setting: &Setting) -> String {
        let set = self.local.get(setting.name).or_else(|| self.session.get(setting.name));
        match setting.kind {
            Kind::Timeout => show_span(self.statement_timeout()),
            Kind::Fixed(_) => setting.default.to_owned(),
            _ => set.cloned().unwrap_or_else(|| setting.default.to_owned()),
        }
    }

    /// The value that `SHOW` shows; `None` for an unknown setting.
    pub(crate) fn show(&self, name: &str) -> Option<String> {
        find(name).map(|setting| self.get(setting))
    }

    /// All settings with their values.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static Setting, String)> {
        SETTINGS.iter().map(|setting| (setting, self.get(setting)))
    }

    /// The values of the settings that are reported to the client.
    pub(crate) fn reported(&self) -> BTreeMap<&'static str, String> {
        let reported = self.all().filter(|(setting, _)| setting.is_reported);
        reported.map(|(setting, value)| (setting.name, value)).collect()
    }

    /// How long a statement of this connection may take.
    pub(crate) fn statement_timeout(&self) -> Duration {
        let set = self.local.get(STATEMENT_TIMEOUT).or_else(|| self.session.get(STATEMENT_TIMEOUT));
        // Zero means no limit of the client.
        let set = set.and_then(|set| span(set).ok()).filter(|set| !set.is_zero());
        set.map_or(STATEMENT_TIMEOUT_MAX, |set| set.min(STATEMENT_TIMEOUT_MAX))
    }

    /// Runs a `SET`.
    ///
    /// # Errors
    /// 42704 for an unknown setting, 22023 or 0A000 for a value that is not supported, 55P02 for a
    /// setting that cannot be changed.
    pub(crate) fn set(&mut self, set: &Set) -> Result<(), SqlError> {
        match set {
            Set::SingleAssignment { scope, variable, values, .. } => {
                let values: Vec<String> = values.iter().map(text_of).collect();
                self.assign(scope.as_ref(), &variable.to_string(), &values.join(", "))
            }
            Set::SetTimeZone { local, value } => {
                let scope = local.then_some(ContextModifier::Local);
                self.assign(scope.as_ref(), "TimeZone", &text_of(value))
            }
            Set::SetNames { charset_name, .. } => {
                self.assign(None, "client_encoding", charset_name.value.trim_matches('\''))
            }
            Set::SetNamesDefault {} => Ok(()),
            // Every transaction is read-only, and the isolation level makes no difference to it.
            Set::SetTransaction { .. } => Ok(()),
            Set::SetRole { role_name: None, .. } => Ok(()),
            Set::SetSessionAuthorization(param)
                if matches!(param.kind, SetSessionAuthorizationParamKind::Default) =>
            {
                Ok(())
            }
            other => Err(SqlError::new("0A000", format!("`{other}` is not supported here"))),
        }
    }

    fn assign(&mut self, scope: Option<&ContextModifier>, name: &str, value: &str) -> Result<(), SqlError> {
        let Some(setting) = find(name) else {
            // A setting of DataFusion is shared by all connections.
            if name.contains('.') {
                let what = format!(
                    "`{name}` cannot be set here: how statements are planned is the same for everybody"
                );
                return Err(SqlError::new("0A000", what));
            }
            return Err(unknown(name));
        };
        let is_local = matches!(scope, Some(ContextModifier::Local));
        if value.eq_ignore_ascii_case("default") {
            let values = if is_local { &mut self.local } else { &mut self.session };
            values.remove(setting.name);
            return Ok(());
        }
        let value = setting.accept(value)?;
        if is_local {
            // Outside a transaction `SET LOCAL` has no effect.
            if self.at_begin.is_some() {
                self.local.insert(setting.name, value);
            }
        } else {
            self.local.remove(setting.name);
            self.session.insert(setting.name, value);
        }
        Ok(())
    }

    /// Runs a `RESET`.
    ///
    /// # Errors
    /// 42704 for an unknown setting.
    pub(crate) fn reset(&mut self, reset: &Reset) -> Result<(), SqlError> {
        match reset {
            Reset::ALL => self.reset_all(),
            Reset::ConfigurationParameter(name) => {
                let name = name.to_string();
                let setting = find(&name).ok_or_else(|| unknown(&name))?;
                self.local.remove(setting.name);
                match self.at_start.get(setting.name) {
                    Some(value) => self.session.insert(setting.name, value.clone()),
                    None => self.session.remove(setting.name),
                };
            }
        }
        Ok(())
    }

    /// Returns all settings to their values from the start-up message.
    pub(crate) fn reset_all(&mut self) {
        self.local.clear();
        self.session = self.at_start.clone();
    }

    /// Starts a transaction.
    pub(crate) fn begin(&mut self) {
        self.at_begin = Some(self.session.clone());
    }

    /// Ends a transaction. `SET LOCAL` is undone, and after a rollback every `SET` of the
    /// transaction.
    pub(crate) fn end(&mut self, is_committed: bool) {
        self.local.clear();
        if let Some(before) = self.at_begin.take()
            && !is_committed
        {
            self.session = before;
        }
    }
}

impl Setting {
    /// The value to keep, if the setting accepts it.
    fn accept(&self, value: &str) -> Result<String, SqlError> {
        let value = value.trim();
        let is_in = |list: &[&str]| list.iter().any(|allowed| value.eq_ignore_ascii_case(allowed));
        let name = self.name;
        match self.kind {
            Kind::Kept => Ok(value.to_owned()),
            Kind::Fixed(list) | Kind::OneOf(list) if is_in(list) => Ok(value.to_lowercase()),
            Kind::Fixed(_) if name == "TimeZone" => Err(SqlError::new(
                "0A000",
                format!("the time zone cannot be {value}: times are shown in UTC; use AT TIME ZONE"),
            )),
            Kind::Fixed(_) => Err(SqlError::new(
                "0A000",
                format!("\"{name}\" cannot be {value} here; it is {}", self.default),
            )),
            Kind::OneOf(list) => Err(SqlError::new(
                "22023",
                format!("\"{name}\" cannot be {value} here; use one of {}", list.join(", ")),
            )),
            Kind::ReadOnly => Err(SqlError::new("55P02", format!("parameter \"{name}\" cannot be changed"))),
            Kind::Timeout => match span(value) {
                Ok(_) => Ok(value.to_owned()),
                Err(()) => Err(SqlError::new(
                    "22023",
                    format!("{name} is no {value}; write milliseconds, or '10s', '2min'"),
                )),
            },
        }
    }
}

/// The text of a value in a `SET`, without the quotes of a string or a name.
fn text_of(value: &Expr) -> String {
    match value {
        Expr::Value(value) => value.value.clone().into_string().unwrap_or_else(|| value.to_string()),
        Expr::Identifier(name) => name.value.clone(),
        other => other.to_string(),
    }
}

/// The settings in the start-up option `options`: `-c name=value` and `--name=value`.
fn options_of(options: &str) -> impl Iterator<Item = (&str, String)> {
    let words = options.split_whitespace();
    let words =
        words.filter_map(|word| word.trim_start_matches("--").trim_start_matches("-c").split_once('='));
    words.map(|(name, value)| (name, value.replace('\\', "")))
}

/// The name of the setting in a `SHOW`, its words joined by spaces.
pub(crate) fn shown_name(statement: &Statement) -> Option<String> {
    let Statement::ShowVariable { variable } = statement else { return None };
    let words: Vec<&str> = variable.iter().map(|word| word.value.as_str()).collect();
    Some(words.join(" "))
}

/// The name of the column in which `SHOW` returns a setting.
///
/// # Errors
/// 42704 for an unknown setting.
pub(crate) fn shown_column(name: &str) -> Result<&'static str, SqlError> {
    find(name).map(|setting| setting.name).ok_or_else(|| unknown(name))
}

/// A duration as clients write it: milliseconds, or a number with a unit.
fn span(text: &str) -> Result<Duration, ()> {
    let text = text.trim().trim_matches(['\'', '"']).trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let number: f64 = text[..digits].parse().map_err(|_| ())?;
    let micros = match text[digits..].trim() {
        "us" => 1.0,
        "" | "ms" => 1e3,
        "s" => 1e6,
        "min" => 60e6,
        "h" => 3600e6,
        "d" => 86_400e6,
        _ => return Err(()),
    };
    Duration::try_from_secs_f64(number * micros / 1e6).map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn new(parameters: &[(&str, &str)]) -> Settings {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::at_start("analyst", &parameters.collect())
    }

    fn run(settings: &mut Settings, sql: &str) -> Result<(), SqlError> {
        match Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it is SQL").remove(0) {
            Statement::Set(set) => settings.set(&set),
            Statement::Reset(reset) => settings.reset(&reset.reset),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn settings_are_in_the_order_of_their_names() {
        let names: Vec<String> = SETTINGS.iter().map(|setting| setting.name.to_lowercase()).collect();
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn times_are_read_and_shown_as_postgres_does() {
        for (written, shown) in [
            ("1000", "1s"),
            ("'1500ms'", "1500ms"),
            ("'2 min'", "2min"),
            ("'90s'", "90s"),
            ("'1.5s'", "1500ms"),
            ("'1h'", "60min"),
        ] {
            assert_eq!(span(written).map(show_span), Ok(shown.to_owned()), "{written}");
        }
        for wrong in ["soon", "-1", "'1 week'", ""] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_timeout_is_the_smaller_of_the_clients_and_the_services() {
        let mut settings = new(&[("options", "-c statement_timeout=1500 --jit=on")]);
        assert_eq!(settings.show("statement_timeout").as_deref(), Some("1500ms"));
        assert_eq!(settings.show("jit").as_deref(), Some("on"));
        run(&mut settings, "SET statement_timeout TO '10min'").expect("it can be set");
        assert_eq!(settings.statement_timeout(), STATEMENT_TIMEOUT_MAX);
        settings.begin();
        run(&mut settings, "SET LOCAL statement_timeout = '2s'").expect("it can be set");
        assert_eq!(settings.show("STATEMENT_TIMEOUT").as_deref(), Some("2s"));
        settings.end(true);
        assert_eq!(settings.show("statement_timeout").as_deref(), Some("5min"));
        run(&mut settings, "RESET statement_timeout").expect("it can be reset");
        assert_eq!(settings.show("statement_timeout").as_deref(), Some("1500ms"));
        let error = run(&mut settings, "SET statement_timeout = 'soon'").expect_err("no time");
        assert_eq!(error.state, "22023");
    }

    #[test]
    fn what_there_is_not_is_refused_by_its_name() {
        let mut settings = new(&[("TimeZone", "Asia/Tokyo"), ("nonsense", "1")]);
        assert_eq!(settings.show("time zone").as_deref(), Some("UTC"));
        assert_eq!(settings.show("nonsense"), None);
        let mut refused = |sql: &str| {
            let error = run(&mut settings, sql).expect_err("it cannot be");
            (error.state, error.to_string())
        };
        let (state, what) = refused("SET nonsense = 1");
        assert_eq!((state, what.as_str()), ("42704", "unrecognized configuration parameter \"nonsense\""));
        assert_eq!(refused("SET timezone = 'Asia/Tokyo'").0, "0A000");
        assert_eq!(refused("SET DateStyle = 'SQL'").0, "0A000");
        assert_eq!(refused("SET server_version = '17'").0, "55P02");
        assert!(refused("SET datafusion.execution.batch_size = 1").1.contains("cannot be set here"));
    }

    #[test]
    fn a_transaction_that_is_rolled_back_sets_nothing() {
        let mut settings = new(&[("application_name", "first")]);
        settings.begin();
        run(&mut settings, "SET application_name = 'second'").expect("it can be set");
        assert_eq!(settings.reported()["application_name"], "second");
        settings.end(false);
        assert_eq!(settings.reported()["application_name"], "first");
        assert_eq!(settings.reported()["session_authorization"], "analyst");
    }
}
