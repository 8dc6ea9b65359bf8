#!/usr/bin/env python3
"""Compares the committed rows of two stores, table by table: values and order.

    python3 benches/compare_rows.py BASELINE_STORE STORE

The first store may have been written by an earlier program. Columns that were renamed since are
mapped, ticks are compared as time and partition whatever their bits, and the digests that cover the
plan or a recipe are left out; all three lists are below. Needs pyarrow.
"""

import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq

# Column names before, and now.
RENAMED = {
    "value_as_heard": "value_at_last_evidence",
    "status_as_heard": "status_at_last_evidence",
    "vote_loss": "exclusion_reason",
    "kin": "suspected_group",
    "likest": "nearest_stream",
    "surprise_bits": "evidence_bits",
    "frauds": "positives",
}
# Ends of column names before, and now.
RENAMED_SUFFIXES = {"_frauds": "_positives", "_as_heard": "_at_last_evidence"}
# Values before, and now, of text columns.
VALUES = {"cause": {"ENDING": "EXPIRY"}, "exclusion_reason": {"ENDING": "EXPIRY"}}
# Columns that hold ticks.
TICKS = {"_tick", "first_tick", "card_history_tick", "at_terminal_tick", "evidence_first", "evidence_last"}
# Digests that cover the plan, the policy, a tick or a recipe that changed: their values differ by intention.
DIGESTS = {
    "bundle_digest", "decision_id", "drift_id", "fingerprint", "fingerprint_version", "frame_digest", "graph_version",
    "plan_digest", "policy_digest", "record_digest", "snapshot_digest", "supersedes", "tally_version",
}


def renamed(name):
    """The name that a column of an earlier program has now."""
    for before, now in RENAMED_SUFFIXES.items():
        if name.endswith(before):
            return name.removesuffix(before) + now
    return RENAMED.get(name, name)


def tables(store):
    """The files of each table and partition, in the order of the commits."""
    files = {}
    for manifest in sorted(pathlib.Path(store, "commits").glob("*.json")):
        for file in json.loads(manifest.read_text())["files"]:
            files.setdefault(file["table"], {}).setdefault(file["partition"], []).append(file["name"])
    return files


def rows(store, names):
    parts = []
    for name in names:
        path = pathlib.Path(store, name)
        if path.suffix == ".parquet":
            parts.append(pq.ParquetFile(path).read())
        else:
            parts.append(pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()]))
    return pa.concat_tables(parts, promote_options="default")


def tick_bits(column):
    """The bits of a tick that hold the partition: 12 before, 8 now."""
    return 12 if pa.types.is_unsigned_integer(column.type) else 8


def plain(name, column):
    """A column in a form that both programs share."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if name in TICKS or name.endswith("_tick"):
        bits = tick_bits(column)
        values = [None if v is None else (v >> bits, v & ((1 << bits) - 1)) for v in column.to_pylist()]
        return [None if v is None else f"{v[0]}/{v[1]}" for v in values]
    if pa.types.is_integer(column.type):
        column = column.cast(pa.int64())
    values = column.to_pylist()
    if name in VALUES:
        values = [VALUES[name].get(value, value) for value in values]
    return values


def main(before, after):
    failed = False
    old, new = tables(before), tables(after)
    for table in sorted(set(old) | set(new)):
        old_files, new_files = old.get(table, {}), new.get(table, {})
        if set(old_files) != set(new_files):
            print(f"{table}: partitions {sorted(old_files)} and {sorted(new_files)}")
            failed = True
            continue
        count, left_out, columns = 0, set(), set()
        for partition in sorted(old_files):
            one, other = rows(before, old_files[partition]), rows(after, new_files[partition])
            one = one.rename_columns([renamed(name) for name in one.column_names])
            if one.num_rows != other.num_rows:
                print(f"{table}/{partition}: {one.num_rows} rows and {other.num_rows}")
                failed = True
                continue
            missing = set(one.column_names) ^ set(other.column_names)
            if missing:
                print(f"{table}/{partition}: only one has the columns {sorted(missing)}")
                failed = True
            for name in [name for name in one.column_names if name in other.column_names]:
                if name in DIGESTS:
                    left_out.add(name)
                    continue
                columns.add(name)
                a, b = plain(name, one.column(name)), plain(name, other.column(name))
                if a != b:
                    row = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
                    print(f"{table}/{partition}: row {row}, `{name}`: {a[row]!r} and {b[row]!r}")
                    failed = True
            count += one.num_rows
        print(f"{table}: {count} rows, {len(columns)} columns compared, left out: {', '.join(sorted(left_out)) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
