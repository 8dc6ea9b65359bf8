//! How long does somebody wait who asks something small, at a steady rate, from when the question
//! was meant to be asked?
//!
//! An open loop over one connection: whoever waits for an answer is late with the next question,
//! and is charged for it.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate_dataflows::thread_priority::Priority;

use crate::load::{Outcome, answer, connect};

/// The small reads that a bench makes on a service at a steady rate.
#[derive(Clone, Copy, Debug)]
pub struct Reads {
    /// Where the service is.
    pub address: SocketAddr,
    /// Questions a second.
    pub rate: u32,
    /// For how long.
    pub lasts: Duration,
    /// How urgent the asking thread is.
    pub priority: Priority,
}

impl Reads {
    /// Makes the reads; `request` gives each of them by its number.
    ///
    /// # Errors
    /// When no connection can be made.
    pub fn make(&self, request: impl Fn(usize) -> String) -> Result<Outcome, String> {
        let _urgent = self.priority.hold().map_err(|error| error.to_string())?;
        let mut stream = connect(self.address)?;
        let began = Instant::now();
        let mut outcome = Outcome::default();
        for number in 0..(f64::from(self.rate) * self.lasts.as_secs_f64()) as usize {
            let due = began + Duration::from_secs_f64(number as f64 / f64::from(self.rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let asked = stream.write_all(request(number).as_bytes()).ok();
            let answered = asked.and_then(|()| answer(&mut stream));
            let status = answered.map_or(0, |(status, _)| status);
            *outcome.statuses.entry(status).or_default() += 1;
            match status {
                200 => outcome.waited.push(due.elapsed()),
                0 => stream = connect(self.address)?,
                _ => {}
            }
        }
        outcome.waited.sort_unstable();
        Ok(outcome)
    }
}
