//! OpenTelemetry traces of submitted records, from the HTTP call to the commit that seals them.
//!
//! Each call has one span. Its child spans are what the call waited for: the queue, the log (the
//! append, and within it the fsync), the dataflow, and the reply. A record that names a trace of
//! its own gets a span in that trace, linked to the span of the call. A record that becomes a fact
//! stays pending until a commit has it; then a last span names that commit. Spans hold identifiers,
//! and neither payloads nor API keys.
//!
//! Every queue is bounded, and no caller waits for one: what does not fit is dropped and counted.

mod context;
mod export;
mod otlp;
mod settings;
mod spans;
mod tracer;

pub use self::context::Sampler;
pub use self::settings::{Settings, SettingsError};
pub(crate) use self::spans::{CallSpan, TraceContext};
pub use self::tracer::{TraceCounts, Traces};
