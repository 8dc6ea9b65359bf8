//! The progress display of a run: rows, rate and busy time of each stage.

use std::io::{IsTerminal, Write};

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_dataflows::metrics::{RunMetrics, StageReport};
use tidegate_facts::Tick;
use tidegate_facts::time::to_rfc3339;

use crate::text::thousands;

/// Displays the progress of a run until it is stopped.
pub struct ProgressDisplay {
    stop: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Displays the progress of a run on standard error, if `enabled`: on a terminal as a table that is
/// redrawn, else as a line every two seconds.
pub fn show(metrics: &RunMetrics, enabled: bool) -> ProgressDisplay {
    if !enabled {
        return ProgressDisplay { stop: None };
    }
    let terminal = std::io::stderr().is_terminal();
    let (sender, receiver) = channel();
    let metrics = metrics.clone();
    let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(2) };
    let thread = std::thread::spawn(move || {
        let (mut before, mut facts_before) = (metrics.report(), metrics.fed_facts());
        let mut drawn = 0;
        while receiver.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let now = metrics.report();
            let mut err = std::io::stderr().lock();
            if terminal {
                drawn = redraw(&mut err, &metrics, &before, &now, every, drawn);
            } else {
                let _ = writeln!(err, "{}", line(&metrics, facts_before, &before, &now, every));
            }
            (before, facts_before) = (now, metrics.fed_facts());
        }
        if drawn > 0 {
            let _ = write!(std::io::stderr(), "\x1b[{drawn}A\x1b[J");
        }
    });
    ProgressDisplay { stop: Some((sender, thread)) }
}

impl ProgressDisplay {
    /// Ends the display, and erases the table.
    pub fn stop(self) {
        if let Some((sender, thread)) = self.stop {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn redraw(
    err: &mut impl Write,
    metrics: &RunMetrics,
    before: &[StageReport],
    now: &[StageReport],
    every: Duration,
    drawn: usize,
) -> usize {
    if drawn > 0 {
        let _ = write!(err, "\x1b[{drawn}A\x1b[J");
    }
    let _ = writeln!(
        err,
        "{:<28} {:>12} {:>12} {:>7}   {:.1} s, fed up to {}",
        "stage",
        "rows",
        "rows/s",
        "busy",
        metrics.elapsed().as_secs_f64(),
        metrics.fed_upper()
    );
    for (before, now) in before.iter().zip(now) {
        let rate = (now.rows - before.rows) as f64 / every.as_secs_f64();
        let busy = (now.busy.saturating_sub(before.busy)).as_secs_f64() / every.as_secs_f64() * 100.0;
        let _ = writeln!(err, "{:<28} {:>12} {:>12.0} {:>6.0}%", now.name, now.rows, rate, busy);
    }
    now.len() + 1
}

/// One line with the number of facts, the rate, the tick that was reached, and the busiest stage.
fn line(
    metrics: &RunMetrics,
    facts_before: u64,
    before: &[StageReport],
    now: &[StageReport],
    every: Duration,
) -> String {
    let stages = || before.iter().zip(now);
    let busy = |(before, now): (&StageReport, &StageReport)| now.busy.saturating_sub(before.busy);
    let facts = metrics.fed_facts();
    let rate = (facts - facts_before) as f64 / every.as_secs_f64();
    let (seconds, facts) = (metrics.elapsed().as_secs_f64(), thousands(facts));
    let mut line = format!("{seconds:6.1} s  {facts} facts ({} a second)", thousands(rate as u64));
    if metrics.fed_upper() > Tick::ZERO {
        line += &format!(", up to {}", to_rfc3339(metrics.fed_upper().micros()));
    }
    if let Some((before, now)) =
        stages().max_by_key(|stage| busy(*stage)).filter(|stage| !busy(*stage).is_zero())
    {
        let share = busy((before, now)).as_secs_f64() / every.as_secs_f64() * 100.0;
        line += &format!("; busiest: {} {share:.0} %", now.name);
    }
    line
}
