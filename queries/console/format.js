// Values and names as people read them. Nothing here touches the page.
//
// Integers of 64 bits and decimals come as texts and stay texts: a JavaScript number would round them.

export function count(of) {
  return String(of).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** A count in three digits, where there is no room for more. */
export function compact(of) {
  if (of < 10_000) return count(of);
  const at = of < 1e6 ? ["k", 1e3] : of < 1e9 ? ["M", 1e6] : ["G", 1e9];
  return `${(of / at[1]).toPrecision(3)} ${at[0]}`;
}

export function rate(of) {
  if (of === null) return "–";
  return `${of > 0 && of < 10 ? of.toFixed(1) : count(Math.round(of))}/s`;
}

export function share(of) {
  return of === null ? "–" : `${of > 0 && of < 0.1 ? (of * 100).toFixed(1) : Math.round(of * 100)} %`;
}

export function span(us) {
  const s = us / 1e6;
  if (us < 1000) return `${Math.round(us)} µs`;
  if (s < 1) return `${(us / 1000).toPrecision(3)} ms`;
  if (s < 60) return `${s.toPrecision(3)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** A quantity by the unit that its name ends in. */
export function quantity(name, of) {
  if (name.endsWith("_us")) return span(of);
  if (name.endsWith("_bytes")) return bytes(of);
  return count(of);
}

export function bytes(of) {
  const unit = ["B", "kB", "MB", "GB", "TB"];
  const at = of < 1 ? 0 : Math.min(4, Math.floor(Math.log10(of) / 3));
  return `${at ? (of / 1000 ** at).toPrecision(3) : of} ${unit[at]}`;
}

/** A time in UTC, without the zeros that say nothing. */
export function time(iso) {
  return iso ? iso.replace("T", " ").replace(/\.0+Z$/, "Z").replace(/(\.\d*?)0+Z$/, "$1Z") : "–";
}

/** A time as a person writes it, in UTC, as SQL reads it; what is no time is left for SQL to say so. */
export function utc(text) {
  const [, date, minutes, seconds] = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d(?:\.\d+)?)?Z?)?$/.exec(text) ?? [];
  return date ? `${date}T${minutes ?? "00:00"}${seconds ?? ":00"}Z` : text;
}

/** The time a tick was stamped at: a tick is microseconds and, below them, eight bits of partition. */
export function tickTime(tick) {
  const us = BigInt(tick) >> 8n;
  const iso = new Date(Number(us / 1000n)).toISOString();
  return time(iso.replace("Z", `${String(us % 1000n).padStart(3, "0")}Z`));
}

/** The first digits of a digest, enough to tell two apart by eye. */
export function shorten(hex) {
  return hex.length > 16 ? `${hex.slice(0, 10)}…` : hex;
}

export function isDigest(of) {
  return typeof of === "string" && /^[0-9a-f]{64}$/.test(of);
}

export function isNumeric(type) {
  return /^(u?int(eger)?\d*|bigint|smallint|float\d*|double.*|real|decimal.*|numeric.*)$/i.test(type);
}

export function isTime(type) {
  return /^(time|date)/i.test(type);
}

// Control characters, and those that reorder or join what stands around them.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** A text with nothing hidden in it. */
export function visible(text) {
  return text.replace(HIDDEN, (hidden) => `⟨${hidden.charCodeAt(0).toString(16).padStart(4, "0")}⟩`);
}

export function sqlText(text) {
  return `'${text.replaceAll("'", "''")}'`;
}

export function sqlName(name) {
  return `"${name.replaceAll('"', '""')}"`;
}

export function shellWord(text) {
  return /^[\w.:/@=][\w.:/@=-]*$/.test(text) ? text : `'${visible(text).replaceAll("'", "'\\''")}'`;
}

/**
 * Rows as CSV. A cell of text that a spreadsheet would take for a formula begins with an apostrophe: facts are written by
 * strangers. Numbers stay what they are, negative ones too.
 */
export function csvOf({ columns, rows }) {
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const cell = (of, type) => {
    if (of === null) return "";
    const text = typeof of === "object" ? JSON.stringify(of) : String(of);
    return quoted(isNumeric(type) ? text : harmless(text));
  };
  const lines = [columns.map(({ name }) => quoted(harmless(name))), ...rows.map((row) => row.map((of, at) => cell(of, columns[at].type)))];
  return `${lines.map((cells) => cells.join(",")).join("\r\n")}\r\n`;
}

/**
 * JSON with line breaks, its numbers and texts as they stood. Parsing and printing would round large numbers and
 * merge keys that stand twice, and a record is refused for just such things. What is not JSON is left as it is.
 */
export function layOut(json) {
  try {
    JSON.parse(json);
  } catch {
    return json;
  }
  const tokens = json.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g);
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  return tokens.map((token, at) => {
    const closes = tokens[at + 1] === "}" || tokens[at + 1] === "]";
    if (token === "{" || token === "[") {
      depth += 1;
      return closes ? token : token + line();
    }
    if (token === "}" || token === "]") {
      depth -= 1;
      const opened = tokens[at - 1] === "{" || tokens[at - 1] === "[";
      return opened ? token : line() + token;
    }
    if (token === ",") return token + line();
    return token === ":" ? ": " : token;
  }).join("");
}

// Of the columns of a decision these are the envelope of its fact and the record of the decision; all else was seen.
const ENVELOPE = ["_tick", "_offset", "event_type", "event_id", "ts_utc", "payload_hash", "emitted_at_utc", "trace_id", "span_id",
  "parent_event_id", "manifest_fingerprint", "parameter_hash", "seed", "scenario_id", "run_id", "scenario_run_id", "platform_run_id",
  "schema_version", "producer", "payload", "context"];
const RECORD = ["decision_id", "action", "score", "rules_fired", "reason_codes", "bundle_id", "bundle_version", "bundle_digest", "policy_id",
  "policy_revision", "policy_digest", "decided_at_utc", "plan_digest", "record_digest", "snapshot_digest", "basis", "graph_version", "posture"];

/** Whether a column is something that was seen. */
export const isFeature = (name) => !ENVELOPE.includes(name) && !RECORD.includes(name);
