//! The current features of one key: those that the `windows` node would give an event of that key
//! if it came next.
//!
//! They are read from the published timelines, by the same code as the node's own look-ups, as of
//! the last tick before which every worker has computed everything. That tick ends a group of the
//! log, so the number of facts up to it is known for each partition: that is the basis. The request
//! comes from a query, not from a fact, so it does not pass the graph.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use tidegate_facts::columns::tick_array;
use tidegate_facts::{Digest, KeyHash, Tick};
use tidegate_operators::core::keys::keys_of;
use tidegate_operators::identity::entities::graph_version;
use tidegate_operators::temporal::feature_digest::feature_digests;
use tidegate_operators::temporal::temporal_lookup::LookupRequests;
use tidegate_operators::temporal::timeline::{ScanSpec, TimelineSnapshot};

use crate::ingest::frame_columns::basis_column;
use crate::node::FeatureGroup;
use crate::plan::Plan;
use crate::serve::LiveReads;

/// The features of one key, as a feature look-up returns them.
#[derive(Clone, Debug)]
pub struct Features {
    /// The feature group, by its name in the topology.
    pub group: String,
    /// The name of its key column.
    pub key_column: String,
    /// One row: a column for each feature.
    pub values: RecordBatch,
    /// Why they are null, if they are.
    pub reason: Option<MissingReason>,
    /// The features are of the facts with this tick and those before.
    pub as_of: Tick,
    /// The end of their windows, in microseconds of event time.
    pub at: i64,
    /// The number of those facts of each partition.
    pub basis: Vec<i64>,
    /// BLAKE3 over the canonical form of `["tidegate.graph.v1",plan,[basis]]`.
    pub graph_version: Digest,
    /// The feature digest, as rows carry it; the id of the event is `<group>/<key>`.
    pub snapshot_digest: Digest,
    /// Event time and tick of the newest row of the key that a window can reach.
    pub newest: Option<(i64, Tick)>,
}

/// Why a feature look-up returns null features for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingReason {
    /// No window can reach a row of the key.
    UnknownKey,
    /// The rows of the requested time may have been dropped.
    BeyondRetention,
}

impl MissingReason {
    /// The code in HTTP answers.
    pub fn code(self) -> &'static str {
        match self {
            MissingReason::UnknownKey => "UNKNOWN_KEY",
            MissingReason::BeyondRetention => "BEYOND_RETENTION",
        }
    }
}

/// Why the features of a key could not be looked up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// The topology has no such group.
    #[error("there is no group of features `{group}`; there are {}", .known.join(", "))]
    UnknownGroup {
        /// The requested group.
        group: String,
        /// The groups there are.
        known: Vec<String>,
    },
    /// The key is not of the column's type.
    #[error("`{key}` is no {data_type}, which `{column}` is; ask with a value of that column")]
    Key {
        /// The requested key.
        key: String,
        /// The name of the key column.
        column: String,
        /// Its type.
        data_type: DataType,
    },
    /// The graph has computed no group yet.
    #[error("the topology is still catching up with its log; ask /readyz, and try again")]
    NotYet,
}

/// Features that are looked up by one key.
struct GroupsOfKey {
    name: String,
    groups: Vec<FeatureGroup>,
    key: Field,
}

/// The feature groups of a plan: each group as `node.group`, and each node whose groups have one
/// key.
fn groups_of(plan: &Plan) -> Vec<GroupsOfKey> {
    let mut found: Vec<GroupsOfKey> = Vec::new();
    for step in &plan.steps {
        let groups = step.node.feature_groups();
        let Some(first) = groups.first() else { continue };
        let key_of = |index: usize| plan.schema_of(&step.inputs[0]).field(index).clone();
        if groups.iter().all(|group| group.key == first.key) {
            let key = key_of(first.key);
            found.push(GroupsOfKey { name: step.name.clone(), groups: groups.clone(), key });
        }
        for group in groups.into_iter().filter(|group| !group.name.is_empty()) {
            let (name, key) = (format!("{}.{}", step.name, group.name), key_of(group.key));
            found.push(GroupsOfKey { name, groups: vec![group], key });
        }
    }
    found
}

/// Looks up the features of a key, for windows that end at `at`, or at the newest tick.
///
/// # Errors
/// When the group is unknown, the key none of its column's values, or nothing has been computed
/// yet.
pub fn look_up_features(
    plan: &Plan,
    live: &dyn LiveReads,
    group: &str,
    key: &str,
    at: Option<i64>,
) -> Result<Features, FeatureError> {
    let mut groups = groups_of(plan);
    let Some(index) = groups.iter().position(|known| known.name == group) else {
        let known = groups.into_iter().map(|known| known.name).collect();
        return Err(FeatureError::UnknownGroup { group: group.to_owned(), known });
    };
    let GroupsOfKey { name, groups, key: column } = groups.swap_remove(index);
    let hash = key_of(key, &column)?;
    let (before, basis) = live.as_of().ok_or(FeatureError::NotYet)?;
    let as_of = Tick(before.0 - 1);
    let at = at.unwrap_or(as_of.micros());

    let snapshots: Vec<Vec<Arc<TimelineSnapshot>>> =
        groups.iter().map(|group| live.views(&group.timeline)).collect();
    let newest = groups.iter().zip(&snapshots).filter_map(|(group, snapshots)| {
        let newest = snapshots.iter().filter_map(|snapshot| newest(snapshot, hash, before)).max()?;
        // Merges may have dropped older rows.
        (newest.0 > as_of.micros().saturating_sub(group.plan.reach())).then_some(newest)
    });
    let newest = newest.max();
    let beyond = groups.iter().zip(&snapshots).any(|(group, snapshots)| {
        let since = snapshots.iter().map(|snapshot| snapshot.since).max().unwrap_or_default();
        let gone = since.micros().saturating_sub(group.plan.lateness_max);
        at < gone || group.plan.is_beyond_retention(at, as_of)
    });
    let reason = match newest {
        _ if beyond => Some(MissingReason::BeyondRetention),
        None => Some(MissingReason::UnknownKey),
        Some(_) => None,
    };

    let (mut fields, mut values): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (group, snapshots) in groups.iter().zip(&snapshots) {
        let aggregates = group.plan.windows.iter().flat_map(|_| &group.plan.aggregates);
        let types = aggregates.map(|aggregate| group.plan.result_type(*aggregate));
        let own: Vec<Field> = group
            .names
            .iter()
            .zip(types)
            .map(|(name, data_type)| Field::new(name, data_type, true))
            .collect();
        values.extend(match reason {
            Some(_) => own.iter().map(|field| new_null_array(field.data_type(), 1)).collect(),
            None => {
                // A key is on one worker, so the batches of the others do not have it.
                let batches: Vec<_> =
                    snapshots.iter().flat_map(|snapshot| snapshot.batches.iter().cloned()).collect();
                group.plan.read(&batches, &LookupRequests::of_query(hash, at, as_of))
            }
        });
        fields.extend(own);
    }
    let named = fields.iter().map(|field| field.name().as_str()).zip(&values);
    let id = StringArray::from_iter_values([format!("{name}/{key}")]);
    let partitions = basis.len();
    let basis_row = basis_column(basis.clone(), partitions);
    let basis_row = basis_row.as_any().downcast_ref().expect("a basis is a list");
    let digests = feature_digests(&tick_array([as_of]), &id, basis_row, named);
    let snapshot_digest = Digest(digests.value(0).try_into().expect("32 bytes"));
    let values = RecordBatch::try_new(Arc::new(Schema::new(fields)), values).expect("one row of each type");
    Ok(Features {
        group: name,
        key_column: column.name().clone(),
        values,
        reason,
        as_of,
        at,
        graph_version: graph_version(&plan.digest, &basis),
        basis,
        snapshot_digest,
        newest,
    })
}

/// The key of which `text` is the value in its column.
fn key_of(text: &str, column: &Field) -> Result<KeyHash, FeatureError> {
    let refused = || FeatureError::Key {
        key: text.to_owned(),
        column: column.name().clone(),
        data_type: column.data_type().clone(),
    };
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values([text]));
    let value: ArrayRef = match column.data_type() {
        DataType::FixedSizeBinary(size) => {
            let digits = text
                .as_bytes()
                .chunks(2)
                .map(|two| std::str::from_utf8(two).ok().and_then(|two| u8::from_str_radix(two, 16).ok()));
            let bytes: Vec<u8> = digits.collect::<Option<_>>().ok_or_else(refused)?;
            if bytes.len() != *size as usize {
                return Err(refused());
            }
            Arc::new(arrow::array::FixedSizeBinaryArray::new(*size, bytes.into(), None))
        }
        data_type => cast(&texts, data_type).map_err(|_| refused())?,
    };
    if value.is_null(0) {
        return Err(refused());
    }
    Ok(keys_of(&value)[0])
}

/// Event time and tick of the newest row of a key before a tick.
fn newest(snapshot: &Arc<TimelineSnapshot>, key: KeyHash, before: Tick) -> Option<(i64, Tick)> {
    let spec = ScanSpec { keys: Some(vec![key]), before, after: None, measures: Vec::new() };
    let rows = snapshot.scan(spec).next(1)?;
    rows.times.iter().copied().zip(rows.ticks.iter().copied()).max()
}
