//! The live lines of a run: rows, rate and busy time of each stage.

use std::io::{IsTerminal, Write};

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_dataflows::metrics::{RunMetrics, StageReport};
use tidegate_facts::Tick;
use tidegate_facts::time::to_rfc3339;

use crate::text::thousands;

/// The stage that facts have passed when they are durable.
const LOGGED: &str = "gate: log";

/// Shows the progress of a run until it is stopped.
pub struct Shown {
    stop: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Begins to show a run on standard error: redrawn on a terminal, else a line now and then.
pub fn show(watch: &RunMetrics, wanted: bool) -> Shown {
    if !wanted {
        return Shown { stop: None };
    }
    let terminal = std::io::stderr().is_terminal();
    let (sender, receiver) = channel();
    let watch = watch.clone();
    let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(2) };
    let thread = std::thread::spawn(move || {
        let mut before: Vec<StageReport> = watch.report();
        let mut drawn = 0;
        while receiver.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let now = watch.report();
            let mut err = std::io::stderr().lock();
            if terminal {
                drawn = redraw(&mut err, &watch, &before, &now, every, drawn);
            } else {
                let _ = writeln!(err, "{}", plain(&watch, &before, &now, every));
            }
            before = now;
        }
        if drawn > 0 {
            let _ = write!(std::io::stderr(), "\x1b[{drawn}A\x1b[J");
        }
    });
    Shown { stop: Some((sender, thread)) }
}

impl Shown {
    /// Takes the lines away.
    pub fn stop(self) {
        if let Some((sender, thread)) = self.stop {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn redraw(
    err: &mut impl Write,
    watch: &RunMetrics,
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
        "{:<28} {:>12} {:>12} {:>7}   {:.1} s, fed to {}",
        "stage",
        "rows",
        "rows/s",
        "busy",
        watch.elapsed().as_secs_f64(),
        watch.fed_upper()
    );
    for (before, now) in before.iter().zip(now) {
        let rate = (now.rows - before.rows) as f64 / every.as_secs_f64();
        let busy = (now.busy.saturating_sub(before.busy)).as_secs_f64() / every.as_secs_f64() * 100.0;
        let _ = writeln!(err, "{:<28} {:>12} {:>12.0} {:>6.0}%", now.name, now.rows, rate, busy);
    }
    now.len() + 1
}

/// One line that can be read: how far it is, how fast, and what takes longest.
fn plain(watch: &RunMetrics, before: &[StageReport], now: &[StageReport], every: Duration) -> String {
    let grown = || before.iter().zip(now);
    let busy = |(before, now): (&StageReport, &StageReport)| now.busy.saturating_sub(before.busy);
    let facts = |reports: &[StageReport]| {
        reports.iter().find(|stage| stage.name == LOGGED).map_or(0, |stage| stage.rows)
    };
    let rate = (facts(now) - facts(before)) as f64 / every.as_secs_f64();
    let (seconds, logged) = (watch.elapsed().as_secs_f64(), thousands(facts(now)));
    let mut line = format!("{seconds:6.1} s  {logged} facts ({} a second)", thousands(rate as u64));
    if watch.fed_upper() > Tick::ZERO {
        line += &format!(", to {}", to_rfc3339(watch.fed_upper().micros()));
    }
    if let Some((before, now)) =
        grown().max_by_key(|stage| busy(*stage)).filter(|stage| !busy(*stage).is_zero())
    {
        let share = busy((before, now)).as_secs_f64() / every.as_secs_f64() * 100.0;
        line += &format!("; busiest: {} {share:.0} %", now.name);
    }
    line
}
