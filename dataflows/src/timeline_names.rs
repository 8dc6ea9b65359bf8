//! Names of the timelines of a graph, as checkpoints and metrics carry them, and which of their
//! rows a checkpoint keeps.
//!
//! A timeline is `NODE/NUMBER`, by the position of its input at the node; the snapshots of a node's
//! state are a timeline of their own, `NODE/snapshot`.

/// The name of the timeline of a node's input number `index`, counted from 0.
pub fn timeline_name(node: &str, index: usize) -> String {
    format!("{node}/{index}")
}

/// The name of the timeline that holds the snapshots of a node's state.
pub fn snapshot_timeline_name(node: &str) -> String {
    format!("{node}/{SNAPSHOT}")
}

const SNAPSHOT: &str = "snapshot";

/// The node to which a timeline with this name belongs.
pub fn node_of_timeline(timeline: &str) -> &str {
    timeline.rsplit_once('/').map_or(timeline, |(node, _)| node)
}

/// Whether a timeline's name says that it holds snapshots of a node's state, as
/// [`snapshot_timeline_name`] does.
pub fn is_snapshot_timeline(timeline: &str) -> bool {
    timeline.rsplit_once('/').is_some_and(|(_, number)| number == SNAPSHOT)
}

/// Which rows of a named timeline a checkpoint keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// All.
    Forever,
    /// Those of the last so many microseconds of event time.
    Span(i64),
    /// Those that came since the node's last snapshot.
    SinceSnapshot,
    /// Those of so many microseconds of event time before the node's last snapshot.
    SpanBeforeSnapshot(i64),
}
