// The Postgres driver of Java against a running service:
// java -cp postgresql.jar JdbcClient.java HOST PORT USER PASSWORD DECISIONS
// Prints `ok` at the end, or fails with the first difference.
import java.math.BigDecimal;
import java.sql.*;
import java.util.*;

public class JdbcClient {
    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    static Object one(PreparedStatement statement) throws SQLException {
        try (ResultSet rows = statement.executeQuery()) {
            check(rows.next(), "no row");
            return rows.getObject(1);
        }
    }

    public static void main(String[] args) throws Exception {
        int decisions = Integer.parseInt(args[4]);
        Properties properties = new Properties();
        properties.setProperty("user", args[2]);
        properties.setProperty("password", args[3]);
        String url = "jdbc:postgresql://" + args[0] + ":" + args[1] + "/tidegate";
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            Set<String> tables = new TreeSet<>();
            try (ResultSet rows = connection.getMetaData().getTables(null, "public", "%", null)) {
                while (rows.next()) tables.add(rows.getString("TABLE_NAME"));
            }
            check(tables.containsAll(List.of("decisions", "facts", "features")), tables);

            DatabaseMetaData metadata = connection.getMetaData();
            Map<String, String> kinds = new TreeMap<>();
            try (ResultSet rows = metadata.getColumns(null, "public", "decisions", null)) {
                while (rows.next()) kinds.put(rows.getString("COLUMN_NAME"), rows.getString("TYPE_NAME"));
            }
            check("text".equals(kinds.get("event_id")) && "numeric".equals(kinds.get("amount")), kinds);
            try (ResultSet rows = metadata.getPrimaryKeys(null, "public", "decisions")) {
                check(!rows.next(), "there are no keys");
            }
            try (ResultSet rows = metadata.getIndexInfo(null, "public", "decisions", false, false)) {
                check(!rows.next(), "there are no indexes");
            }
            try (ResultSet rows = metadata.getImportedKeys(null, "public", "decisions")) {
                check(!rows.next(), "there are no foreign keys");
            }
            try (ResultSet rows = metadata.getTypeInfo()) {
                check(rows.next(), "there are types");
            }

            Object[][] values = {
                {"int", 7}, {"bigint", 1L << 40}, {"text", "ü'\"\\"}, {"double precision", 1.5}, {"boolean", true},
            };
            // The fifth run of a statement is prepared on the server, with values in binary.
            for (Object[] value : values) {
                try (PreparedStatement s = connection.prepareStatement("SELECT CAST(? AS " + value[0] + ")")) {
                    for (int run = 0; run < 7; run++) {
                        s.setObject(1, value[1]);
                        check(value[1].equals(one(s)), value[0] + ": " + one(s));
                    }
                }
            }
            try (PreparedStatement s = connection.prepareStatement("SELECT CAST(? AS numeric(12,2))")) {
                s.setBigDecimal(1, new BigDecimal("12.50"));
                check(((BigDecimal) one(s)).compareTo(new BigDecimal("12.50")) == 0, one(s));
            }
            try (PreparedStatement s = connection.prepareStatement("SELECT CAST(? AS timestamp)")) {
                Timestamp moment = Timestamp.valueOf("2026-01-01 12:30:15.25");
                s.setTimestamp(1, moment);
                check(moment.equals(one(s)), one(s));
            }
            try (PreparedStatement s = connection.prepareStatement("SELECT CAST(? AS int)")) {
                s.setNull(1, Types.INTEGER);
                check(one(s) == null, one(s));
            }

            // Rows in portions; without a transaction the driver would fetch all of them at once.
            connection.setAutoCommit(false);
            try (Statement s = connection.createStatement()) {
                s.setFetchSize(100);
                int count = 0;
                try (ResultSet rows = s.executeQuery("SELECT event_id FROM decisions")) {
                    while (rows.next()) count++;
                }
                check(count == decisions, count);
            }
            connection.commit();
            connection.setAutoCommit(true);

            try (Statement s = connection.createStatement()) {
                s.executeQuery("SELECT * FROM desicions");
                throw new AssertionError("it was answered");
            } catch (SQLException error) {
                check("42P01".equals(error.getSQLState()), error);
            }
            try (Statement s = connection.createStatement()) {
                Thread canceller = new Thread(() -> {
                    try {
                        Thread.sleep(500);
                        s.cancel();
                    } catch (Exception error) {
                        error.printStackTrace();
                    }
                });
                canceller.start();
                long began = System.nanoTime();
                try {
                    s.executeQuery("SELECT count(*) FROM generate_series(1, 1000000000000)");
                    throw new AssertionError("it was not stopped");
                } catch (SQLException error) {
                    check("57014".equals(error.getSQLState()), error);
                }
                check(System.nanoTime() - began < 20_000_000_000L, "it was stopped late");
                canceller.join();
                try (ResultSet rows = s.executeQuery("SELECT count(*) FROM decisions")) {
                    check(rows.next() && rows.getLong(1) == decisions, "after a stop");
                }
            }
        }
        System.out.println("ok");
    }
}
