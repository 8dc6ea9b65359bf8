//! The log on standard error: text for people, or one JSON object per line.

use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The format of the log on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Set once, before the first line is written.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts the log on standard error. `RUST_LOG` sets the level. By default the log contains
/// warnings and, as JSON, also the info messages of Tidegate.
pub fn begin(format: LogFormat) {
    let default = match format {
        LogFormat::Text => "warn",
        LogFormat::Json => "warn,tidegate=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
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

/// Whether the log on standard error is JSON. Then every line on standard error must be a JSON
/// object.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Writes an error and its causes to the log on standard error.
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
        eprintln!("  caused by: {cause}");
    }
}
