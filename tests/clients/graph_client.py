"""psycopg queries the entity graph of a running card world: python3 graph_client.py HOST PORT

Prints `ok` at the end, or fails with the first difference.
"""
import sys

import psycopg

host, port = sys.argv[1:3]
where = dict(host=host, port=port, user="tidegate", dbname="tidegate", connect_timeout=10, autocommit=True)

with psycopg.connect(**where) as connection:
    def ask(sql, parameters=None, **how):
        return connection.execute(sql, parameters, **how).fetchall()

    columns = "component, size, degree_terminal, last_seen, basis"
    for binary in (False, True):
        for prepare in (False, True):
            how = dict(binary=binary, prepare=prepare)
            literal = ask(f"SELECT {columns} FROM profile('customer', '1')", **how)
            assert len(literal) == 1, literal
            given = ask(f"SELECT {columns} FROM profile(%s, %s)", ["customer", "1"], **how)
            assert given == literal, (given, literal)
            page = ask("SELECT page FROM neighbours(%s, %s, 3)", ["customer", "1"], **how)
            assert len(page) == 3, page
            after = ask("SELECT page FROM neighbours(%s, %s, limit => 3, after => %s)", ["customer", "1", page[0][0]], **how)
            assert after[:2] == page[1:], (page, after)
            both = "SELECT conflict, component FROM resolve(%s, %s, 'customer', %s) ORDER BY hint"
            both = ask(both, ["customer", "1", "no such"], **how)
            assert both == [(False, literal[0][0]), (False, None)], both
    try:
        ask("SELECT * FROM profile('costumer', %s)", ["1"])
        raise AssertionError("a kind that there is not was taken")
    except psycopg.Error as error:
        assert "did you mean `customer`?" in str(error), error
    assert ask("SELECT count(*) FROM neighbours('customer', '1')")[0][0] > 0

print("ok")
