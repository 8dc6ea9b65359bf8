// What the columns of a decision are: the envelope of its fact, the record of the decision, and all else, which is what was seen.

const ENVELOPE = ["_tick", "_offset", "event_type", "event_id", "ts_utc", "payload_hash", "emitted_at_utc", "trace_id", "span_id",
  "parent_event_id", "manifest_fingerprint", "parameter_hash", "seed", "scenario_id", "run_id", "scenario_run_id", "platform_run_id",
  "schema_version", "producer", "payload", "context"];
const RECORD = ["decision_id", "action", "score", "rules_fired", "reason_codes", "bundle_id", "bundle_version", "bundle_digest", "policy_id",
  "policy_revision", "policy_digest", "decided_at_utc", "plan_digest", "record_digest", "snapshot_digest", "basis", "graph_version", "posture"];

/** Whether a column is something that was seen. */
export const isFeature = (name) => !ENVELOPE.includes(name) && !RECORD.includes(name);
