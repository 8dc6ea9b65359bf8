//! What the command says on standard error: for people, or a JSON object a line.

use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Set once, before anything is said.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Begins to log. `RUST_LOG` says how much; without it people see warnings, and programs what
/// happens too.
pub fn begin(format: LogFormat) {
    let usual = match format {
        LogFormat::Text => "warn",
        LogFormat::Json => "warn,tidegate=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| usual.into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
    if format == LogFormat::Json {
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
    let _ = FORMAT.set(format);
}

/// Whether standard error is read by programs: every line of it is then a JSON object.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Logs an error and its causes, or prints them.
pub fn error(error: &(dyn std::error::Error + 'static)) {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    if is_json() {
        tracing::error!(causes = causes.join("; "), "{error}");
        return;
    }
    eprintln!("tidegate: {error}");
    for cause in causes {
        eprintln!("  because: {cause}");
    }
}
