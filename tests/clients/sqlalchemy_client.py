"""SQLAlchemy against a running service: python3 sqlalchemy_client.py HOST PORT USER PASSWORD DECISIONS

Prints `ok` at the end, or fails with the first difference.
"""
import sys

import sqlalchemy as sa

host, port, user, password, decisions = sys.argv[1:6]
url = sa.URL.create("postgresql+psycopg", user, password or None, host, int(port), "tidegate")
engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
inspector = sa.inspect(engine)
tables = inspector.get_table_names()
assert {"decisions", "facts", "features", "receipts"} <= set(tables), tables
assert "public" in inspector.get_schema_names()
assert inspector.has_table("decisions") and not inspector.has_table("desicions")
kinds = {column["name"]: column["type"] for column in inspector.get_columns("decisions")}
assert isinstance(kinds["event_id"], sa.Text) and isinstance(kinds["amount"], sa.Numeric), kinds
assert (kinds["amount"].precision, kinds["amount"].scale, kinds["ts_utc"].timezone) == (12, 2, True), kinds
for listed in ("get_foreign_keys", "get_indexes", "get_unique_constraints", "get_check_constraints"):
    assert getattr(inspector, listed)("decisions") == [], listed
assert inspector.get_pk_constraint("decisions")["constrained_columns"] == []
assert inspector.get_view_names() == [] and inspector.get_sequence_names() == []
table = sa.Table("decisions", sa.MetaData(), autoload_with=engine)
with engine.connect() as connection:
    listed = "SELECT column_name FROM information_schema.columns WHERE table_name = :table"
    columns = set(connection.execute(sa.text(listed), {"table": "decisions"}).scalars())
    assert {"_tick", "event_id", "action", "score"} <= columns, columns
    assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == int(decisions)
    one = sa.select(table).where(table.c.event_id == "p-1", table.c.action.in_(["ALLOW", "BLOCK", "REVIEW"]))
    assert [row.event_id for row in connection.execute(one)] == ["p-1"]
    parted = connection.execution_options(stream_results=True, max_row_buffer=100)
    assert sum(1 for _ in parted.execute(sa.select(table.c.event_id))) == int(decisions)
with engine.connect() as connection:
    try:
        connection.execute(sa.insert(table).values(event_id="x", action="ALLOW"))
    except sa.exc.DBAPIError as error:
        assert "only read" in str(error), error
    else:
        raise AssertionError("a row was written")
print("ok")
