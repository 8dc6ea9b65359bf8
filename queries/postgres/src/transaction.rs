//! The transaction of a connection: its state and its savepoints. Statements only read, so there is
//! nothing to commit or roll back but settings.

use datafusion::sql::sqlparser::ast::Statement;
use pgwire::messages::response::TransactionStatus;

use crate::error::SqlError;
use crate::session::Settings;

/// The transaction of a connection: its state and its savepoints.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    state: State,
    savepoints: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    None,
    Open,
    /// Marks an open transaction as failed.
    Failed,
}

impl Transaction {
    pub(crate) fn status(&self) -> TransactionStatus {
        match self.state {
            State::None => TransactionStatus::Idle,
            State::Open => TransactionStatus::Transaction,
            State::Failed => TransactionStatus::Error,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state != State::None
    }

    /// A statement failed.
    pub(crate) fn fail(&mut self) {
        if self.is_open() {
            self.state = State::Failed;
        }
    }

    /// Checks that a statement may run in this state.
    ///
    /// # Errors
    /// 25P02 in a failed transaction, unless the statement ends it.
    pub(crate) fn check(&self, statement: &Statement) -> Result<(), SqlError> {
        let ends = matches!(statement, Statement::Commit { .. } | Statement::Rollback { .. });
        if self.state == State::Failed && !ends {
            let what = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(SqlError::new("25P02", what));
        }
        Ok(())
    }

    /// Runs a statement that controls the transaction and returns its tag. Returns `None` for other
    /// statements.
    ///
    /// # Errors
    /// 25P01 for a savepoint outside a transaction, 3B001 for an unknown savepoint.
    pub(crate) fn apply(
        &mut self,
        statement: &Statement,
        settings: &mut Settings,
    ) -> Result<Option<&'static str>, SqlError> {
        match statement {
            Statement::StartTransaction { begin, .. } => {
                if !self.is_open() {
                    self.state = State::Open;
                    settings.begin();
                }
                Ok(Some(if *begin { "BEGIN" } else { "START TRANSACTION" }))
            }
            Statement::Commit { chain, .. } => {
                let is_committed = self.state != State::Failed;
                self.end(is_committed, *chain, settings);
                Ok(Some(if is_committed { "COMMIT" } else { "ROLLBACK" }))
            }
            Statement::Rollback { savepoint: None, chain } => {
                self.end(false, *chain, settings);
                Ok(Some("ROLLBACK"))
            }
            Statement::Rollback { savepoint: Some(name), .. } => {
                let at = self.find(&name.value, "ROLLBACK TO SAVEPOINT")?;
                self.savepoints.truncate(at + 1);
                self.state = State::Open;
                Ok(Some("ROLLBACK"))
            }
            Statement::Savepoint { name } => {
                if !self.is_open() {
                    return Err(outside("SAVEPOINT"));
                }
                self.savepoints.push(name.value.clone());
                Ok(Some("SAVEPOINT"))
            }
            Statement::ReleaseSavepoint { name } => {
                let at = self.find(&name.value, "RELEASE SAVEPOINT")?;
                self.savepoints.truncate(at);
                Ok(Some("RELEASE"))
            }
            _ => Ok(None),
        }
    }

    fn end(&mut self, is_committed: bool, chain: bool, settings: &mut Settings) {
        let goes_on = chain && self.is_open();
        settings.end(is_committed);
        self.savepoints.clear();
        self.state = if goes_on { State::Open } else { State::None };
        if goes_on {
            settings.begin();
        }
    }

    /// The index of the last savepoint with this name.
    fn find(&self, name: &str, what: &str) -> Result<usize, SqlError> {
        if !self.is_open() {
            return Err(outside(what));
        }
        self.savepoints
            .iter()
            .rposition(|savepoint| savepoint == name)
            .ok_or_else(|| SqlError::new("3B001", format!("savepoint \"{name}\" does not exist")))
    }
}

fn outside(what: &str) -> SqlError {
    SqlError::new("25P01", format!("{what} can only be used in transaction blocks"))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    /// The tags or SQLSTATEs of statements; `x` is a statement that fails.
    fn run(sql: &str) -> String {
        let (mut transaction, mut settings) = (Transaction::default(), Settings::default());
        let mut done = Vec::new();
        for sql in sql.split("; ") {
            let sql = if sql == "x" { "SELECT x" } else { sql };
            let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it is SQL").remove(0);
            let result = transaction
                .check(&statement)
                .and_then(|()| transaction.apply(&statement, &mut settings))
                .map(|tag| tag.unwrap_or("failed").to_owned());
            if matches!(result.as_deref(), Ok("failed") | Err(_)) {
                transaction.fail();
            }
            done.push(result.unwrap_or_else(|error| error.state.to_owned()));
        }
        format!("{} {:?}", done.join(" "), transaction.state)
    }

    #[test]
    fn a_failed_transaction_does_nothing_until_it_ends() {
        assert_eq!(run("BEGIN; x; SELECT 1; COMMIT"), "BEGIN failed 25P02 ROLLBACK None");
        assert_eq!(run("BEGIN; x; BEGIN"), "BEGIN failed 25P02 Failed");
        assert_eq!(run("START TRANSACTION; COMMIT AND CHAIN"), "START TRANSACTION COMMIT Open");
    }

    #[test]
    fn savepoints_lead_out_of_a_failure() {
        assert_eq!(
            run("BEGIN; SAVEPOINT a; x; ROLLBACK TO SAVEPOINT a; RELEASE SAVEPOINT a; COMMIT"),
            "BEGIN SAVEPOINT failed ROLLBACK RELEASE COMMIT None"
        );
        assert_eq!(run("BEGIN; ROLLBACK TO SAVEPOINT b"), "BEGIN 3B001 Failed");
        assert_eq!(run("SAVEPOINT a"), "25P01 None");
    }
}
