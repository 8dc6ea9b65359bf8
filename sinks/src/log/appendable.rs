//! A log as a run uses it: read by anybody, and opened for appending by one writer.

use tidegate_facts::Tick;

use super::embedded::Recovery;
use super::error::LogError;
use super::location::LogFolder;
use super::position::LogPosition;
use super::reader::LogReader;
use super::segment::LogOptions;
use super::writer::LogWriter;

/// An appendable log: a run reads it, and opens it for appending by one writer.
pub trait AppendableLog: LogReader {
    /// Opens the log for appending, or begins one. The writer's epoch begins with
    /// [`LogWriter::open`].
    ///
    /// Everything before the position `checked`, if there is one, was checked before. Every fact
    /// before the tick `acknowledged` is known to have been durable.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another writer has it open; [`LogError::OtherPosition`] when
    /// `checked` is not a position of this log, and nothing was changed then; [`LogError::Lost`]
    /// when the log ends before `acknowledged`; else when it cannot be read or written.
    fn open_writer(
        &self,
        options: LogOptions,
        checked: Option<&LogPosition>,
        acknowledged: Tick,
    ) -> Result<(Box<dyn LogWriter>, Recovery), LogError>;

    /// Keeps writers away until the returned guard is dropped. Every whole group is durable
    /// meanwhile.
    ///
    /// # Errors
    /// [`LogError::Locked`] when a writer has the log open; when there is none, or it cannot be
    /// read.
    fn exclude_writers(&self) -> Result<Box<dyn Send>, LogError>;
}

impl AppendableLog for LogFolder {
    fn open_writer(
        &self,
        options: LogOptions,
        checked: Option<&LogPosition>,
        acknowledged: Tick,
    ) -> Result<(Box<dyn LogWriter>, Recovery), LogError> {
        let (log, recovery) = match checked {
            Some(position) => self.open_from(options, position, acknowledged)?,
            None => self.open_acknowledged(options, acknowledged)?,
        };
        Ok((Box::new(log), recovery))
    }

    fn exclude_writers(&self) -> Result<Box<dyn Send>, LogError> {
        Ok(Box::new(self.lock()?))
    }
}
