"""psycopg against a running service: python3 psycopg_client.py HOST PORT USER PASSWORD DECISIONS

Prints `ok` at the end, or fails with the first difference.
"""
import datetime
import decimal
import sys
import threading
import time

import psycopg

host, port, user, password, decisions = sys.argv[1:6]
where = dict(host=host, port=port, user=user, dbname="tidegate", connect_timeout=10, autocommit=True)
if password:
    where["password"] = password

with psycopg.connect(**where) as connection:
    def ask(sql, parameters=None, **how):
        return connection.execute(sql, parameters, **how).fetchall()

    assert ask("SELECT count(*) FROM decisions") == [(int(decisions),)]
    # Parameters and results of each type, as text and in binary.
    moment = datetime.datetime(2026, 1, 1, 12, 30, 15, 250000)
    for binary in (False, True):
        values = [
            ("int", 7, 7),
            ("bigint", 2**40, 2**40),
            ("text", "ü'\"\\", "ü'\"\\"),
            ("double precision", 1.5, 1.5),
            ("boolean", True, True),
            ("date", datetime.date(2026, 1, 31), datetime.date(2026, 1, 31)),
            ("timestamp", moment, moment),
            ("numeric(12,2)", decimal.Decimal("12.50"), decimal.Decimal("12.50")),
            ("text", None, None),
            ("int", None, None),
        ]
        for kind, value, wanted in values:
            answer = ask(f"SELECT CAST(%s AS {kind})", [value], binary=binary)
            assert answer == [(wanted,)], (kind, value, binary, answer)
    rows = ask("SELECT event_id FROM decisions WHERE event_id = %s OR event_id = %s ORDER BY 1", ["p-1", "p-2"])
    assert rows == [("p-1",), ("p-2",)], rows

    # Rows in portions: streamed, and from a cursor.
    seen = 0
    with connection.cursor() as cursor:
        for _ in cursor.stream("SELECT event_id FROM decisions"):
            seen += 1
    assert seen == int(decisions), seen
    with connection.transaction():
        with connection.cursor("pieces") as cursor:
            cursor.execute("SELECT event_id FROM DECISIONS WHERE event_id <> %s ORDER BY event_id", ["none"])
            pieces = [len(cursor.fetchmany(400)) for _ in range(5)]
    assert sum(pieces) == min(int(decisions), 2000), pieces

    # Errors carry an SQLSTATE, and the connection stays usable.
    for sql, state in [
        ("SELECT * FROM desicions", "42P01"),
        ("SELECT no_such_column FROM decisions", "42703"),
        ("INSERT INTO decisions SELECT * FROM decisions", "25006"),
        ("SELEC 1", None),
    ]:
        try:
            ask(sql)
        except psycopg.Error as error:
            assert state in (None, error.sqlstate), (sql, error.sqlstate, str(error))
        else:
            raise AssertionError(f"{sql} was answered")
    assert ask("SELECT 1") == [(1,)]

    # A client can cancel a long statement.
    threading.Timer(0.5, connection.cancel).start()
    began = time.monotonic()
    try:
        ask("SELECT count(*) FROM generate_series(1, 1000000000000)")
    except psycopg.errors.QueryCanceled:
        pass
    else:
        raise AssertionError("it was not stopped")
    assert time.monotonic() - began < 20, time.monotonic() - began
    assert ask("SELECT 2") == [(2,)]
print("ok")
