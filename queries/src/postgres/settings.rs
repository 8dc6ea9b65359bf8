//! What a client sets for its connection: how long its statements may take. Nothing that it sets reaches another connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::lit;
use datafusion::sql::sqlparser::ast::{ContextModifier, DiscardObject, Reset, Set, Statement};
use datafusion_postgres::pgwire::api::ClientInfo;
use datafusion_postgres::pgwire::api::results::{Response, Tag};
use datafusion_postgres::pgwire::error::PgWireResult;

use super::dialect::SERVER_VERSION;
use super::{STATEMENT_WITHIN, failed};

const STATEMENT_TIMEOUT: &str = "statement_timeout";

/// What `datafusion-postgres` keeps for a connection, and makes use of where it writes values.
const FORMATS: [&str; 6] =
    ["datestyle", "bytea_output", "intervalstyle", "application_name", "extra_float_digits", "search_path"];

/// How long the statements of one client may take, if it says so.
#[derive(Default)]
struct Timeouts(Mutex<Asked>);

#[derive(Clone, Copy, Default)]
struct Asked {
    session: Option<Duration>,
    transaction: Option<Duration>,
}

impl Timeouts {
    /// What a client said when it connected stands until it says otherwise.
    fn of(client: &(impl ClientInfo + ?Sized)) -> Arc<Timeouts> {
        let first = || {
            let options = client.metadata().get("options").map(String::as_str).unwrap_or_default();
            let said = options.split([' ', '=']).skip_while(|word| !word.ends_with(STATEMENT_TIMEOUT)).nth(1);
            let session = said.and_then(|said| span(said).ok());
            Timeouts(Mutex::new(Asked { session, transaction: None }))
        };
        client.session_extensions().get_or_insert_with(first)
    }
}

/// How long a statement of this client may take.
pub(super) fn within(client: &(impl ClientInfo + ?Sized)) -> Duration {
    let timeouts = Timeouts::of(client);
    let set = *timeouts.0.lock().expect("no panic");
    // None, like zero, leaves it to the service.
    let asked = set.transaction.or(set.session).filter(|asked| !asked.is_zero());
    asked.map_or(STATEMENT_WITHIN, |asked| asked.min(STATEMENT_WITHIN))
}

/// The time that a client writes: milliseconds, or with a unit.
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

/// A time as Postgres shows it: in the greatest unit that it is a multiple of.
pub(super) fn shown_span(span: Duration) -> String {
    let millis = span.as_millis();
    match millis {
        _ if millis.is_multiple_of(60_000) => format!("{}min", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

/// Takes what a client sets; `None` for what is no such statement, or is `datafusion-postgres`'s to keep.
pub(super) fn set(
    statement: &Statement,
    client: &(impl ClientInfo + ?Sized),
) -> Option<PgWireResult<Response>> {
    let done = |tag: &str| Some(Ok(Response::Execution(Tag::new(tag))));
    match statement {
        Statement::Set(Set::SingleAssignment { scope, variable, values, .. }) => {
            let name = variable.to_string().to_lowercase();
            let value = values.first().map(|value| value.to_string()).unwrap_or_default();
            match name.as_str() {
                STATEMENT_TIMEOUT => Some(set_timeout(scope.as_ref(), &value, client)),
                "timezone" | "time.zone" => Some(set_zone(&value)),
                _ if FORMATS.contains(&name.as_str()) => None,
                // It would be set for every connection.
                _ if name.contains('.') => Some(Err(failed(
                    "0A000",
                    format!(
                        "`{name}` cannot be set here: how statements are planned is the same for everybody"
                    ),
                ))),
                _ => done("SET"),
            }
        }
        Statement::Set(Set::SetTimeZone { value, .. }) => Some(set_zone(&value.to_string())),
        Statement::Set(_) => done("SET"),
        Statement::Reset(reset) => {
            let is_timeout = match &reset.reset {
                Reset::ALL => true,
                Reset::ConfigurationParameter(name) => {
                    name.to_string().eq_ignore_ascii_case(STATEMENT_TIMEOUT)
                }
            };
            if is_timeout {
                *Timeouts::of(client).0.lock().expect("no panic") = Asked::default();
            }
            done("RESET")
        }
        Statement::Discard { object_type } => {
            if matches!(object_type, DiscardObject::ALL) {
                *Timeouts::of(client).0.lock().expect("no panic") = Asked::default();
            }
            done("DISCARD")
        }
        Statement::Commit { .. } | Statement::Rollback { .. } => {
            Timeouts::of(client).0.lock().expect("no panic").transaction = None;
            None
        }
        _ => None,
    }
}

fn set_timeout(
    scope: Option<&ContextModifier>,
    value: &str,
    client: &(impl ClientInfo + ?Sized),
) -> PgWireResult<Response> {
    let asked = if value.eq_ignore_ascii_case("default") { Ok(Duration::ZERO) } else { span(value) };
    let asked = asked.map_err(|()| {
        failed("22023", format!("{STATEMENT_TIMEOUT} is no {value}; write milliseconds, or '10s', '2min'"))
    })?;
    let timeouts = Timeouts::of(client);
    let mut set = timeouts.0.lock().expect("no panic");
    match scope {
        Some(ContextModifier::Local) => set.transaction = Some(asked),
        _ => *set = Asked { session: Some(asked), transaction: None },
    }
    Ok(Response::Execution(Tag::new("SET")))
}

/// Times are told in UTC.
fn set_zone(value: &str) -> PgWireResult<Response> {
    let zone = value.trim_matches(['\'', '"']).to_lowercase();
    match zone.as_str() {
        "utc" | "gmt" | "etc/utc" | "zulu" | "z" | "0" | "default" | "local" | "+00:00" => {
            Ok(Response::Execution(Tag::new("SET")))
        }
        _ => Err(failed(
            "0A000",
            format!(
                "the time zone cannot be {value}: times are told in UTC; write AT TIME ZONE in the statement"
            ),
        )),
    }
}

/// What `SHOW` says of what a connection has; `None` for what is not known here.
pub(super) fn shown(statement: &Statement, client: &(impl ClientInfo + ?Sized)) -> Option<LogicalPlan> {
    let Statement::ShowVariable { variable } = statement else { return None };
    let name = variable.iter().map(|word| word.value.to_lowercase()).collect::<Vec<_>>().join(" ");
    let value = match name.as_str() {
        STATEMENT_TIMEOUT => shown_span(within(client)),
        "timezone" | "time zone" => "UTC".to_owned(),
        "server_version" => SERVER_VERSION.to_owned(),
        "client_encoding" | "server_encoding" => "UTF8".to_owned(),
        "standard_conforming_strings" | "default_transaction_read_only" | "transaction_read_only" => {
            "on".to_owned()
        }
        _ => return None,
    };
    let name = if name == "timezone" || name == "time zone" { "TimeZone".to_owned() } else { name };
    let plan = LogicalPlanBuilder::empty(true).project(vec![lit(ScalarValue::from(value)).alias(name)]);
    Some(plan.and_then(LogicalPlanBuilder::build).expect("a value can be planned"))
}

/// The plan of what gives no rows.
pub(super) fn nothing() -> LogicalPlan {
    let schema = Arc::new(DFSchema::empty());
    LogicalPlan::EmptyRelation(datafusion::logical_expr::EmptyRelation { produce_one_row: false, schema })
}

/// Whether a statement is for [`set`].
pub(super) fn sets(statement: &Statement) -> bool {
    matches!(statement, Statement::Set(_) | Statement::Reset(_) | Statement::Discard { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(span(written).map(shown_span), Ok(shown.to_owned()), "{written}");
        }
        for wrong in ["soon", "-1", "'1 week'", ""] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
