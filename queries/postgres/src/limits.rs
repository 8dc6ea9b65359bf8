//! The limits of a running statement: its time, its rows, and cancel requests.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use tidegate_queries::QueryError;
use tidegate_queries::telemetry::{StatementOutcome, StatementTimer};
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, sleep_until};

use crate::error::SqlError;

/// The limit on the time of a running statement.
pub(crate) const STATEMENT_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// The most rows of a statement.
const ROWS_MAX: u64 = 10_000_000;

/// A running statement with its limits: its deadline and its cancel signal.
pub(crate) struct RunningStatement {
    deadline: Instant,
    timeout: Duration,
    cancelled: Pin<Box<OwnedNotified>>,
    timer: Option<StatementTimer>,
    rows: u64,
}

impl RunningStatement {
    /// Starts the time of a statement, which the signal `cancelled` ends early.
    pub(crate) fn start(timeout: Duration, cancelled: OwnedNotified, timer: Option<StatementTimer>) -> Self {
        let (deadline, cancelled) = (Instant::now() + timeout, Box::pin(cancelled));
        RunningStatement { deadline, timeout, cancelled, timer, rows: 0 }
    }

    /// Restarts the time of a statement when the client fetches more of its rows. A cancel request
    /// that came between two fetches has no effect.
    pub(crate) fn resume(&mut self, timeout: Duration, cancelled: OwnedNotified) {
        (self.timeout, self.deadline, self.cancelled) =
            (timeout, Instant::now() + timeout, Box::pin(cancelled));
    }

    /// Runs a part of the statement, unless the statement is cancelled or reaches its deadline
    /// first.
    ///
    /// # Errors
    /// The error of the part; 57014 when the statement is cancelled or late; XX000 when the part
    /// panics.
    pub(crate) async fn part<T>(
        &mut self,
        work: impl Future<Output = Result<T, SqlError>>,
    ) -> Result<T, SqlError> {
        let work = AssertUnwindSafe(work).catch_unwind();
        tokio::select! {
            biased;
            () = self.cancelled.as_mut() => {
                Err(SqlError::new("57014", "canceling statement due to user request"))
            }
            () = sleep_until(self.deadline) => Err(self.too_long()),
            done = work => done.unwrap_or_else(|_| Err(SqlError::from(QueryError::Broken))),
        }
    }

    fn too_long(&self) -> SqlError {
        let is_set = self.timeout < STATEMENT_TIMEOUT_MAX;
        let set = if is_set { ", the statement_timeout of this connection" } else { "" };
        let timeout = show_span(self.timeout);
        SqlError::new("57014", format!("the statement took longer than {timeout}{set}, and was stopped"))
    }

    /// Counts rows that were sent.
    ///
    /// # Errors
    /// 54000 when the statement has sent too many.
    pub(crate) fn count_rows(&mut self, count: usize) -> Result<(), SqlError> {
        self.rows += count as u64;
        if self.rows > ROWS_MAX {
            let what = format!(
                "the statement gives more than {ROWS_MAX} rows; ask for fewer, or write them with \
                 `tidegate sql --format parquet`"
            );
            return Err(SqlError::new("54000", what));
        }
        Ok(())
    }

    /// Records the outcome of the statement in the metrics.
    pub(crate) fn end(&mut self, outcome: StatementOutcome) {
        if let Some(timer) = self.timer.take() {
            timer.end(outcome);
        }
    }
}

/// A duration as Postgres shows it: in the largest unit of which it is a whole number.
pub(crate) fn show_span(span: Duration) -> String {
    let millis = span.as_millis();
    match millis {
        _ if millis.is_multiple_of(60_000) => format!("{}min", millis / 60_000),
        _ if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_queries::telemetry::{Port, Telemetry};
    use tokio::sync::Notify;

    use super::*;

    fn start(timeout: Duration, cancel: &Arc<Notify>) -> RunningStatement {
        let timer = Arc::new(Telemetry::new(None)).statement(Port::Postgres, "SELECT 1");
        RunningStatement::start(timeout, Arc::clone(cancel).notified_owned(), Some(timer))
    }

    #[tokio::test]
    async fn a_statement_ends_with_its_work_its_time_or_its_cancel() {
        let cancel = Arc::new(Notify::new());
        let mut running = start(Duration::from_secs(60), &cancel);
        assert_eq!(running.part(async { Ok(7) }).await.expect("it is done"), 7);
        let endless = std::future::pending::<Result<(), SqlError>>;
        cancel.notify_waiters();
        assert_eq!(running.part(endless()).await.expect_err("it was cancelled").state, "57014");
        // A cancel request before the statement does not reach it.
        let mut running = start(Duration::from_millis(20), &cancel);
        let error = running.part(endless()).await.expect_err("its time is over");
        assert!(error.to_string().contains("longer than 20ms, the statement_timeout"), "{error}");
        let mut running = start(Duration::from_secs(60), &cancel);
        let panics = async { if true { panic!("a fault") } else { Ok(()) } };
        assert_eq!(running.part(panics).await.expect_err("it panicked").state, "XX000");
    }
}
