"""psycopg reads every table of a running service: python3 tables_client.py HOST PORT HTTP_PORT USER PASSWORD

Reads each as text and in binary, prepared and not, with a parameter and through cursors, and compares
the rows with those over HTTP. Prints `ok` at the end, or fails with the first difference.
"""
import datetime
import decimal
import json
import sys
import urllib.request

import psycopg

host, port, http, user, password = sys.argv[1:6]
where = dict(host=host, port=port, user=user, dbname="tidegate", connect_timeout=10, autocommit=True)
if password:
    where["password"] = password


def over_http(sql):
    """Columns and rows of the JSON answer."""
    request = urllib.request.Request(f"http://{host}:{http}/v1/sql", json.dumps({"sql": sql}).encode())
    request.add_header("content-type", "application/json")
    if password:
        request.add_header("authorization", f"Bearer {password}")
    answer = json.load(urllib.request.urlopen(request), parse_float=decimal.Decimal)
    return answer["columns"], answer["rows"]


def plain(value):
    """A value of psycopg or JSON in a common form."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).replace(tzinfo=None).isoformat()
    if isinstance(value, (int, decimal.Decimal)):
        return str(decimal.Decimal(value).normalize() + 0)
    if isinstance(value, float):
        return str(decimal.Decimal(repr(value)).normalize() + 0)
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return [plain(part) for part in value.values()]
    assert isinstance(value, str), type(value)
    try:
        return str(decimal.Decimal(value).normalize() + 0)
    except decimal.InvalidOperation:
        pass
    if len(value) >= 20 and value.endswith("Z"):
        try:
            return datetime.datetime.fromisoformat(value[:-1] + "+00:00").replace(tzinfo=None).isoformat()
        except ValueError:
            pass
    return value


def sorted_rows(rows):
    return sorted(json.dumps([plain(value) for value in row]) for row in rows)


seen = set()
with psycopg.connect(**where) as connection:
    tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
    assert {"facts", "receipts", "quarantine", "governance", "frontier"} <= set(tables), tables
    for table in tables:
        _, wanted = over_http(f"SELECT * FROM {table}")
        wanted = sorted_rows(wanted)
        columns, _ = over_http(f"SELECT * FROM {table} LIMIT 0")
        names = [column["name"] if isinstance(column, dict) else column for column in columns]
        for binary in (False, True):
            for prepare in (False, True):
                how = dict(binary=binary, prepare=prepare)
                cursor = connection.execute(f"SELECT * FROM {table}", **how)
                assert [column.name for column in cursor.description] == names, (table, how)
                seen |= {column.type_code for column in cursor.description}
                rows = cursor.fetchall()
                if table != "frontier":  # It advances between the reads.
                    assert sorted_rows(rows) == wanted, (table, how, sorted_rows(rows)[:1], wanted[:1])
                limited = connection.execute(f"SELECT * FROM {table} WHERE %s = 1 LIMIT 3", [1], **how).fetchall()
                assert len(limited) == min(3, len(rows)), (table, how)
            with connection.transaction(), connection.cursor("parts", binary=binary) as parts:
                parts.execute(f"SELECT * FROM {table} WHERE %s <> ''", ["x"])
                rows = parts.fetchmany(1) + parts.fetchmany(700)
                if table != "frontier":
                    assert set(sorted_rows(rows)) <= set(wanted), (table, binary)
                    assert len(rows) == min(701, len(wanted)), (table, binary, len(rows))
    # The order and limit of a statement hold.
    for table in {"facts", "decisions"} & set(tables):
        asked = f"SELECT * FROM {table} ORDER BY event_id DESC, _tick LIMIT 5"
        wanted = [[plain(value) for value in row] for row in over_http(asked)[1]]
        for binary in (False, True):
            rows = connection.execute(asked, binary=binary).fetchall()
            assert [[plain(value) for value in row] for row in rows] == wanted, table
    # A digest can be looked up by its bytes and by its text.
    event, digest = connection.execute("SELECT event_id, payload_hash FROM facts WHERE topic = 'traffic' LIMIT 1").fetchone()
    for given in (digest, "\\x" + bytes(digest).hex()):
        for binary in (False, True):
            found = connection.execute("SELECT event_id FROM facts WHERE payload_hash = %s", [given], binary=binary)
            assert (event,) in found.fetchall(), (given, binary)
assert 17 in seen and 1700 in seen, f"digests are bytea, ticks numeric: {seen}"
print("ok")
