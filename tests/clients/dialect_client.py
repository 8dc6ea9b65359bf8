"""SQL of programs that were written for Postgres: python3 dialect_client.py HOST PORT USER PASSWORD DECISIONS

Prints `ok` at the end, or fails with the first difference.
"""
import datetime
import decimal
import sys
import time

import psycopg

host, port, user, password, decisions = sys.argv[1:6]
where = dict(host=host, port=port, user=user, dbname="tidegate", connect_timeout=10, autocommit=True)
if password:
    where["password"] = password
decisions = int(decisions)
D = decimal.Decimal


def refused(connection, sql, said, parameters=None, state=None):
    try:
        connection.execute(sql, parameters).fetchall()
    except psycopg.Error as error:
        assert said in str(error), (sql, str(error))
        assert state in (None, error.sqlstate), (sql, error.sqlstate)
    else:
        raise AssertionError(f"{sql} was answered")


with psycopg.connect(**where) as connection:
    def ask(sql, parameters=None, **how):
        return connection.execute(sql, parameters, **how).fetchall()

    def name(sql):
        return [column.name for column in connection.execute(sql).description]

    # Every amount is 3.00. A number may be sent in any type, and is compared with all its digits.
    for binary in (False, True):
        how = dict(binary=binary)
        for value, less, equal in [
            (2, False, False), (3, False, True), (4, True, False), (100, True, False), (2**40, True, False),
            (10**25, True, False), (-1, False, False), (2.5, False, False), (3.0, False, True), (3.001, True, False),
            (1e12, True, False), (D("3"), False, True), (D("3.00"), False, True), (D("3.000"), False, True),
            (D("3.0000001"), True, False), (D("2.995"), False, False), ("3.00", False, True), ("3.004", True, False),
        ]:
            for where_, holds in [("amount < %s", less), ("amount = %s", equal), ("amount <= %s", less or equal)]:
                answer = ask(f"SELECT count(*) FROM decisions WHERE {where_}", [value], **how)
                assert answer == [(decisions if holds else 0,)], (where_, value, binary, answer)
        last = ask("SELECT max(_tick) FROM decisions")[0][0]
        for value in (int(last), D(last), str(last)):
            assert ask("SELECT count(*) FROM decisions WHERE _tick <= %s", [value], **how) == [(decisions,)], value
            assert ask("SELECT count(*) FROM decisions WHERE _tick = %s", [value], **how)[0][0] >= 1, value
        assert ask("SELECT count(*) FROM decisions WHERE _tick > %s", [-1], **how) == [(decisions,)]
        of_1 = ask("SELECT count(*) FROM decisions WHERE customer_id = 1")
        for value in (1, 1.0, D(1), "1"):
            assert ask("SELECT count(*) FROM decisions WHERE customer_id = %s", [value], **how) == of_1, value
        for value in (0.5, 1.5):
            of_less = ask(f"SELECT count(*) FROM decisions WHERE customer_id < {value}")
            assert ask("SELECT count(*) FROM decisions WHERE customer_id < %s", [value], **how) == of_less, value
        for value in ("2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01 00:00:00+00", datetime.date(2026, 1, 1),
                      datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)):
            assert ask("SELECT count(*) FROM decisions WHERE ts_utc >= %s", [value], **how) == [(decisions,)], value
            assert ask("SELECT count(*) FROM decisions WHERE ts_utc < %s", [value], **how) == [(0,)], value
        given = dict(x=3)
        twice = "SELECT count(*) FROM decisions WHERE amount = %(x)s AND customer_id <= %(x)s AND _tick > %(x)s"
        assert ask(twice, given, **how)[0][0] > 0
        assert ask("SELECT event_id FROM decisions ORDER BY 1 LIMIT %s OFFSET %s", [2, 1], **how) == \
            ask("SELECT event_id FROM decisions ORDER BY 1 LIMIT 2 OFFSET 1")
        # A parameter without context has the type that it was sent as.
        for value in (7, 2**40, 1.5, D("1.25"), "a", True, None, datetime.date(2026, 1, 31)):
            assert ask("SELECT %s", [value], **how) == [(value,)], (value, binary)
        added = ask("SELECT amount + %s FROM decisions LIMIT 1", [0.125], **how)[0][0]
        assert added in (D("3.125"), 3.125), added
        assert ask("SELECT (SELECT count(*) FROM decisions WHERE amount < %s)", [4], **how) == [(decisions,)]
    refused(connection, "SELECT count(*) FROM decisions WHERE ts_utc > %s", "`soon`, which is no timestamptz", ["soon"], "22P02")
    refused(connection, "SELECT count(*) FROM decisions WHERE amount > %s", "`much`, which is no numeric", ["much"], "22P02")

    # Statements that are hard to plan are answered, too.
    assert ask("SELECT (SELECT max(decisions.amount) FROM decisions)") == [(D("3.00"),)]
    counted = "SELECT d.event_id, (SELECT count(*) FROM facts f WHERE f.event_id = d.event_id) FROM decisions d WHERE event_id = 'p-1'"
    assert ask(counted) == [("p-1", 1)]

    # The notation of Postgres.
    local = "SELECT timestamptz '2026-01-01 00:00:00Z' AT TIME ZONE 'Asia/Tokyo'"
    assert ask(local) == [(datetime.datetime(2026, 1, 1, 9),)]
    assert ask("SELECT '\\x00ff'::bytea, 'a_c' LIKE 'a/_c' ESCAPE '/'") == [(b"\x00\xff", True)]
    assert ask("SELECT to_char(date '2026-01-02', 'DD.MM.YYYY'), 2 = ANY('{1,2}'::int[])") == [("02.01.2026", True)]
    assert ask("SELECT g FROM generate_series(1, 3) AS g") == [(1,), (2,), (3,)]
    assert ask("SELECT 'decisions'::regclass::text, 'int4'::regtype::text") == [("decisions", "integer")]
    hashed = "SELECT count(*) FROM decisions d JOIN decisions e USING (payload_hash) WHERE d.event_id = 'p-1'"
    assert ask(hashed)[0][0] >= 1
    refused(connection, "SELECT 'a' SIMILAR TO 'b'", "SIMILAR TO is not supported", None, "0A000")
    refused(connection, "SELECT 'desicions'::regclass", "does not exist", None, "42P01")
    refused(connection, "SELECT * FROM pg_catalog.pg_nonsense", "does not exist", None, "42P01")
    refused(connection, "SELECT 'x'::int", "x", None, "22P02")

    # A failed transaction refuses statements until it ends, or until a rollback to a savepoint.
    with psycopg.connect(**{**where, "autocommit": False}) as other:
        try:
            other.execute("SELECT 1 / 0").fetchall()
        except psycopg.errors.DivisionByZero:
            pass
        refused(other, "SELECT 1", "transaction is aborted", None, "25P02")
        other.rollback()
        other.execute("SAVEPOINT before")
        refused(other, "SELECT no_such_column FROM decisions", "no_such_column", None, "42703")
        other.execute("ROLLBACK TO SAVEPOINT before")
        assert other.execute("SELECT 1").fetchone() == (1,)

    # The same object has the same oid on every connection.
    named = "SELECT oid FROM pg_class WHERE relname = 'decisions'"
    with psycopg.connect(**where) as other:
        assert other.execute(named).fetchone() == ask(named)[0]

    # The timeout of statements.
    endless = "SELECT count(*) FROM generate_series(1, 1000000000000)"
    shown = lambda: ask("SHOW statement_timeout")[0][0]
    assert shown() == "5min", shown()
    connection.execute("SET statement_timeout = 300")
    assert shown() == "300ms", shown()
    began = time.monotonic()
    refused(connection, endless, "the statement_timeout of this connection", None, "57014")
    refused(connection, endless + " WHERE value > %s", "longer than 300ms", [1], "57014")
    assert time.monotonic() - began < 20
    connection.execute("SET statement_timeout TO '10min'")
    assert shown() == "5min", "the service's own bound holds"
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = '2s'")
        assert shown() == "2s"
    assert shown() == "5min"
    connection.execute("SET SESSION statement_timeout = '1min'")
    connection.execute("RESET statement_timeout")
    connection.execute("SET statement_timeout = 0")
    assert shown() == "5min"
    refused(connection, "SET statement_timeout = 'soon'", "write milliseconds")
    with psycopg.connect(**where, options="-c statement_timeout=1500") as other:
        assert other.execute("SHOW statement_timeout").fetchone() == ("1500ms",)
    # A setting of one connection has no effect on others.
    refused(connection, "SET datafusion.execution.batch_size = 1", "cannot be set here")
    refused(connection, "SET timezone = 'Asia/Tokyo'", "times are shown in UTC")
    connection.execute("SET timezone = 'UTC'")
    assert ask("SHOW timezone") == [("UTC",)]

    # Plans of statements, with and without their execution.
    for explain in ("EXPLAIN", "EXPLAIN ANALYZE", "EXPLAIN VERBOSE", "EXPLAIN (ANALYZE, COSTS false)", "EXPLAIN (FORMAT TEXT)", "EXPLAIN (FORMAT JSON)"):
        said = ask(f"{explain} SELECT event_id FROM decisions WHERE amount > 1 ORDER BY 1 LIMIT 3")
        assert any("decisions" in str(row) or "amount" in str(row) for row in said), (explain, said)
        assert "CAST" not in str(said) or "payload_hash" not in str(said), (explain, said)
    assert "output_rows" in str(ask("EXPLAIN ANALYZE SELECT * FROM decisions WHERE amount > %s", [1]))
    refused(connection, "EXPLAIN (ANALYZE, BUFFERS) SELECT 1", "no option `BUFFERS` here")
    refused(connection, "EXPLAIN INSERT INTO decisions SELECT * FROM decisions", "only read")

    # Column names as in Postgres.
    assert name("SELECT 1, count(*), max(amount), amount::text FROM decisions GROUP BY amount") == \
        ["?column?", "count", "max", "amount"]
    assert name("SELECT current_user") == ["current_user"]
    for who in ("current_user", "session_user", "user"):
        assert ask(f"SELECT {who}") == [(user,)], who
    refused(connection, "SELECT 1; SELECT %s", "prepare one at a time", [2])
print("ok")
