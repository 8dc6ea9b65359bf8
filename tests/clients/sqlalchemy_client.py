"""SQLAlchemy against a running service: python3 sqlalchemy_client.py HOST PORT USER PASSWORD DECISIONS

Prints `ok` at the end, or fails with what was not as it should be.
"""
import sys

import sqlalchemy as sa

host, port, user, password, decisions = sys.argv[1:6]
url = sa.URL.create("postgresql+psycopg", user, password or None, host, int(port), "tidegate")
engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
tables = sa.inspect(engine).get_table_names()
assert {"decisions", "facts", "features", "receipts"} <= set(tables), tables
table = sa.Table("decisions", sa.MetaData(), sa.Column("event_id", sa.Text), sa.Column("action", sa.Text))
with engine.connect() as connection:
    # Columns are named, not reflected: that asks for functions of Postgres that are not there.
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
