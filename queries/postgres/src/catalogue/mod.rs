//! The system catalogue of Postgres: the tables of `pg_catalog` and `information_schema`, and
//! system functions.
//!
//! [`Database`] builds it once from the tables of the service, and it never changes. Statements are
//! planned in a session that has both the tables and the catalogue, see [`Database::state`].

mod byte_literals;
mod casts;
mod cluster;
mod columns;
mod correlated;
mod functions;
mod information;
mod keywords;
mod objects;
mod oids;
mod plan_expressions;
mod relations;
mod session_options;
mod settings_table;
mod table;
mod time_zones;
mod type_names;
mod type_tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, SchemaProvider, TableProvider,
};
use datafusion::datasource::MemTable;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use tidegate_queries::CATALOGUE;

pub(crate) use self::cluster::COLLATIONS;
use self::columns::TableSpec;
pub(crate) use self::correlated::ARRAY_SUBQUERY;
use self::correlated::ArraySubquery;
use self::keywords::Keywords;
use self::objects::Objects;
pub(crate) use self::objects::{INFORMATION_SCHEMA, PG_CATALOG};
pub(crate) use self::session_options::SessionOptions;
use self::settings_table::SettingsTable;
pub(crate) use self::time_zones::TIMEZONE;
use self::time_zones::Timezone;
use self::type_names::TypeNames;

/// The tables of a service together with their system catalogue.
pub(crate) struct Database {
    context: SessionContext,
    objects: Arc<Objects>,
}

impl Database {
    /// Builds the catalogue of `tables`, which the session `base` has in the schema `public`.
    pub(crate) fn new(base: SessionState, tables: &BTreeMap<String, SchemaRef>) -> Database {
        let objects = Arc::new(Objects::new(tables));
        let catalogs = Arc::new(MemoryCatalogProviderList::new());
        let schemas = Schemas {
            tables: base.catalog_list().catalog(CATALOGUE),
            pg_catalog: Arc::new(pg_catalog(&objects)),
            information_schema: Arc::new(information_schema(&objects)),
        };
        catalogs.register_catalog(CATALOGUE.to_owned(), Arc::new(schemas));
        // DataFusion would look up its own `information_schema` first, and replace the catalogs.
        let mut config = base.config().clone();
        config.options_mut().execution.time_zone = Some("UTC".to_owned());
        // Values would keep their length.
        config.options_mut().sql_parser.support_varchar_with_length = false;
        let config = config.with_information_schema(false).with_create_default_catalog_and_schema(false);
        let state = SessionStateBuilder::new_from_existing(base)
            .with_config(config)
            .with_catalog_list(catalogs)
            .with_type_planner(Arc::new(TypeNames))
            .build();
        let context = SessionContext::new_with_state(state);
        for function in functions::all(&objects) {
            context.register_udf(function);
        }
        context.register_udf(ArraySubquery::udf());
        context.register_udf(Timezone::udf());
        context.register_udtf(keywords::NAME, Arc::new(Keywords));
        Database { context, objects }
    }

    /// The session of DataFusion for one statement of a connection.
    pub(crate) fn state(&self, options: SessionOptions) -> SessionState {
        let mut state = self.context.state();
        state.config_mut().options_mut().extensions.insert(options);
        // Functions get the options as they are at this moment.
        state.mark_start_execution();
        state
    }

    /// Gives casts, time zones and literals in a plan their meaning in Postgres. Parameters may be
    /// without values.
    ///
    /// # Errors
    /// For an unknown time zone or an invalid literal, or when the resulting plan is inconsistent.
    pub(crate) fn resolve(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let plan = casts::resolve(plan, &self.objects)?;
        byte_literals::resolve(time_zones::resolve(plan)?)
    }

    /// Replaces subqueries that DataFusion would refuse. Parameters must have values.
    ///
    /// # Errors
    /// When a subquery is not supported.
    pub(crate) fn ready(&self, plan: LogicalPlan, state: &Arc<SessionState>) -> Result<LogicalPlan> {
        correlated::answer(plan, state)
    }

    /// The name of an object, as a value of a type such as `regclass`.
    pub(crate) fn show_object(&self, kind: u32, oid: u32) -> String {
        self.objects.show(kind, oid)
    }

    /// Whether the schema has a table of this name.
    pub(crate) fn has_table(&self, schema: &str, table: &str) -> bool {
        self.objects.relations().any(|it| it.namespace.0 == schema && it.name == table)
    }
}

/// The schemas of the database, for DataFusion.
#[derive(Debug)]
struct Schemas {
    /// The catalog of the service, with the schema `public`.
    tables: Option<Arc<dyn CatalogProvider>>,
    pg_catalog: Arc<SystemSchema>,
    information_schema: Arc<SystemSchema>,
}

impl CatalogProvider for Schemas {
    fn schema_names(&self) -> Vec<String> {
        objects::NAMESPACES.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            _ if name == PG_CATALOG.0 => Some(Arc::clone(&self.pg_catalog) as Arc<dyn SchemaProvider>),
            _ if name == INFORMATION_SCHEMA.0 => {
                Some(Arc::clone(&self.information_schema) as Arc<dyn SchemaProvider>)
            }
            name => self.tables.as_ref()?.schema(name),
        }
    }
}

/// The tables of a schema of the catalogue.
#[derive(Debug)]
struct SystemSchema(BTreeMap<String, Arc<dyn TableProvider>>);

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn pg_catalog(objects: &Objects) -> SystemSchema {
    let tables = columns::pg_catalog().into_iter().map(|TableSpec { name, schema, .. }| {
        let table = match name.as_str() {
            "pg_settings" => Arc::new(SettingsTable { schema }) as Arc<dyn TableProvider>,
            name => of_rows(&schema, pg_catalog_rows(name, &schema, objects)),
        };
        (name, table)
    });
    SystemSchema(tables.collect())
}

fn pg_catalog_rows(name: &str, schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    match name {
        "pg_am" => cluster::pg_am(schema),
        "pg_attribute" => relations::pg_attribute(schema, objects),
        "pg_authid" => cluster::pg_authid(schema),
        "pg_class" => relations::pg_class(schema, objects),
        "pg_collation" => cluster::pg_collation(schema),
        "pg_database" => cluster::pg_database(schema),
        "pg_language" => cluster::pg_language(schema),
        "pg_namespace" => cluster::pg_namespace(schema),
        "pg_proc" => type_tables::pg_proc(schema, objects),
        "pg_roles" => cluster::pg_roles(schema),
        "pg_tables" => relations::pg_tables(schema, objects),
        "pg_tablespace" => cluster::pg_tablespace(schema),
        "pg_type" => type_tables::pg_type(schema),
        "pg_user" | "pg_shadow" => cluster::pg_user(schema),
        "pg_views" => relations::pg_views(schema, objects),
        _ => Vec::new(),
    }
}

fn information_schema(objects: &Objects) -> SystemSchema {
    let tables = columns::information_schema().into_iter().map(|TableSpec { name, schema, .. }| {
        let rows = match name.as_str() {
            "columns" => information::columns(&schema, objects),
            "information_schema_catalog_name" => information::catalog_name(&schema),
            "schemata" => information::schemata(&schema),
            "table_privileges" => information::table_privileges(&schema, objects),
            "tables" => information::tables(&schema, objects),
            "views" => information::views(&schema, objects),
            _ => Vec::new(),
        };
        (name, of_rows(&schema, rows))
    });
    SystemSchema(tables.collect())
}

/// A table with these rows. Without rows it is an [`EmptyTable`], which shows in a plan that it has
/// none.
fn of_rows(schema: &SchemaRef, rows: Vec<RecordBatch>) -> Arc<dyn TableProvider> {
    if rows.is_empty() {
        return Arc::new(EmptyTable::new(Arc::clone(schema)));
    }
    let table = MemTable::try_new(Arc::clone(schema), vec![rows]);
    Arc::new(table.expect("rows of its columns"))
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionConfig;
    use datafusion::sql::parser::Statement as AnyStatement;
    use expect_test::{Expect, expect};

    use super::*;
    use crate::error::SqlError;
    use crate::rewrite;
    use crate::session::Settings;

    /// The catalogue of a database with two tables.
    pub(crate) fn database() -> Database {
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let decisions = Schema::new(vec![
            text("event_id"),
            Field::new("ts_utc", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
            Field::new("amount", DataType::Decimal128(12, 2), true),
            Field::new("tags", DataType::new_list(DataType::Utf8, true), true),
        ]);
        let labels = Schema::new(vec![text("event_id")]);
        let tables = [("decisions", decisions), ("Labels", labels)];
        let tables: BTreeMap<String, SchemaRef> =
            tables.into_iter().map(|(name, schema)| (name.to_owned(), Arc::new(schema))).collect();
        let mut config = SessionConfig::new().with_default_catalog_and_schema(CATALOGUE, "public");
        config.options_mut().sql_parser.enable_ident_normalization = false;
        let context = SessionContext::new_with_config(config);
        for (name, schema) in &tables {
            let table = Arc::new(EmptyTable::new(Arc::clone(schema)));
            context.register_table(name.as_str(), table).expect("a new table");
        }
        Database::new(context.state(), &tables)
    }

    /// The result of a statement as a table, or the SQLSTATE and the message of its error.
    pub(crate) async fn answer(sql: &str) -> String {
        match rows(sql).await {
            Ok(rows) => pretty_format_batches(&rows).expect("a table").to_string(),
            Err(error) => format!("{} {error}", error.state),
        }
    }

    fn options() -> SessionOptions {
        let settings = Settings::at_start("analyst", &BTreeMap::new());
        SessionOptions { user: "analyst".to_owned(), settings, process: 1 }
    }

    async fn rows(sql: &str) -> Result<Vec<RecordBatch>, SqlError> {
        let database = database();
        let statement = rewrite::parse(sql, &database)?.remove(0).planned;
        let state = database.state(options());
        let statement = AnyStatement::Statement(Box::new(statement));
        let plan = state.statement_to_plan(statement).await.map_err(|error| SqlError::of_plan(&error))?;
        let shared = Arc::new(state.clone());
        let plan = database.resolve(plan).and_then(|plan| database.ready(plan, &shared));
        let plan = plan.map_err(|error| SqlError::of_plan(&error))?;
        let physical = state.create_physical_plan(&plan).await.map_err(|error| SqlError::of_plan(&error))?;
        collect(physical, state.task_ctx()).await.map_err(|error| SqlError::of_run(&error))
    }

    async fn check(sql: &str, expect: Expect) {
        expect.assert_eq(&answer(sql).await);
    }

    #[tokio::test]
    async fn tables_and_columns_are_listed_as_clients_ask_for_them() {
        check(
            "SELECT n.nspname, c.relname, c.relkind, pg_catalog.pg_get_userbyid(c.relowner) AS owner
             FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'v', '') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
               AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1, 2",
            expect![[r#"
                +---------+-----------+---------+----------+
                | nspname | relname   | relkind | owner    |
                +---------+-----------+---------+----------+
                | public  | Labels    | r       | tidegate |
                | public  | decisions | r       | tidegate |
                +---------+-----------+---------+----------+"#]],
        )
        .await;
        check(
            "SELECT a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull
             FROM pg_attribute a WHERE a.attrelid = 'decisions'::regclass AND a.attnum > 0 ORDER BY a.attnum",
            expect![[r#"
                +--------+----------+--------------------------+------------+
                | attnum | attname  | type                     | attnotnull |
                +--------+----------+--------------------------+------------+
                | 1      | event_id | text                     | true       |
                | 2      | ts_utc   | timestamp with time zone | true       |
                | 3      | amount   | numeric(12,2)            | false      |
                | 4      | tags     | text[]                   | false      |
                +--------+----------+--------------------------+------------+"#]],
        )
        .await;
        check(
            "SELECT column_name, data_type, is_nullable, numeric_precision AS digits,
               numeric_scale AS scale, udt_name
             FROM information_schema.columns WHERE table_name = 'decisions' ORDER BY ordinal_position",
            expect![[r#"
                +-------------+--------------------------+-------------+--------+-------+-------------+
                | column_name | data_type                | is_nullable | digits | scale | udt_name    |
                +-------------+--------------------------+-------------+--------+-------+-------------+
                | event_id    | text                     | NO          |        |       | text        |
                | ts_utc      | timestamp with time zone | NO          |        |       | timestamptz |
                | amount      | numeric                  | YES         | 12     | 2     | numeric     |
                | tags        | ARRAY                    | YES         |        |       | _text       |
                +-------------+--------------------------+-------------+--------+-------+-------------+"#]],
        )
        .await;
    }

    #[tokio::test]
    async fn every_table_of_the_catalogue_can_be_read() {
        let tables = columns::pg_catalog().into_iter().map(|table| format!("pg_catalog.{}", table.name));
        let views = columns::information_schema();
        let views = views.into_iter().map(|table| format!("information_schema.{}", table.name));
        for table in tables.chain(views) {
            let answer = answer(&format!("SELECT * FROM {table} LIMIT 2")).await;
            assert!(answer.starts_with('+'), "{table}: {answer}");
        }
    }

    #[tokio::test]
    async fn names_and_oids_are_cast_to_each_other() {
        check(
            "SELECT 'decisions'::regclass = (SELECT oid FROM pg_class WHERE relname = 'decisions') AS a,
               t.typname, t.oid::regtype::text AS b, t.typinput::text AS c, 'now'::text AS d
             FROM pg_type t WHERE t.oid IN ('int4'::regtype, to_regtype('timestamp with time zone'))
             ORDER BY t.oid",
            expect![[r#"
                +------+-------------+--------------------------+----------------+-----+
                | a    | typname     | b                        | c              | d   |
                +------+-------------+--------------------------+----------------+-----+
                | true | int4        | integer                  | int4in         | now |
                | true | timestamptz | timestamp with time zone | timestamptz_in | now |
                +------+-------------+--------------------------+----------------+-----+"#]],
        )
        .await;
        check("SELECT 'desicions'::regclass", expect![[r#"42P01 relation "desicions" does not exist"#]])
            .await;
        check(
            "SELECT to_regclass('desicions') IS NULL AS a",
            expect![[r#"
            +------+
            | a    |
            +------+
            | true |
            +------+"#]],
        )
        .await;
        check(
            "SELECT 1 FROM pg_catalog.pg_nonsense",
            expect![[r#"42P01 relation "pg_catalog.pg_nonsense" does not exist"#]],
        )
        .await;
        check(
            "SELECT pg_catalog.pg_get_exprs(1)",
            expect![[r#"42883 the query cannot be planned: Invalid function 'pg_get_exprs'. Did you mean 'pg_get_expr'?"#]],
        )
        .await;
    }

    #[tokio::test]
    async fn the_connection_is_asked_about_itself() {
        check(
            "SELECT current_user AS a, current_schema AS b, current_database() AS c,
               current_schemas(true) AS path,
               current_setting('search_path') AS setting,
               (SELECT setting FROM pg_settings WHERE name = 'TimeZone') AS zone",
            expect![[r#"
                +---------+--------+----------+----------------------+-----------------+------+
                | a       | b      | c        | path                 | setting         | zone |
                +---------+--------+----------+----------------------+-----------------+------+
                | analyst | public | tidegate | [pg_catalog, public] | "$user", public | UTC  |
                +---------+--------+----------+----------------------+-----------------+------+"#]],
        )
        .await;
        check(
            "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name LIKE '%authorization'",
            expect![[r#"
                +-----------------------+---------+
                | name                  | value   |
                +-----------------------+---------+
                | session_authorization | analyst |
                +-----------------------+---------+"#]],
        )
        .await;
        check(
            "SELECT current_setting('nonsense')",
            expect![[r#"42704 unrecognized configuration parameter "nonsense""#]],
        )
        .await;
        check(
            "SELECT current_setting('nonsense', true) IS NULL AS a",
            expect![[r#"
            +------+
            | a    |
            +------+
            | true |
            +------+"#]],
        )
        .await;
        check(
            "SELECT has_table_privilege('decisions', 'SELECT') AS a,
               has_table_privilege('decisions', 'INSERT') AS b",
            expect![[r#"
                +------+-------+
                | a    | b     |
                +------+-------+
                | true | false |
                +------+-------+"#]],
        )
        .await;
    }

    #[tokio::test]
    async fn every_type_finds_its_schema_and_its_functions() {
        check(
            "SELECT count(*) AS lost FROM pg_type t LEFT JOIN pg_namespace n ON n.oid = t.typnamespace
               LEFT JOIN pg_proc i ON i.oid = t.typinput LEFT JOIN pg_proc o ON o.oid = t.typoutput
             WHERE n.oid IS NULL OR i.oid IS NULL OR o.oid IS NULL",
            expect![[r#"
                +------+
                | lost |
                +------+
                | 0    |
                +------+"#]],
        )
        .await;
        check(
            "SELECT word, catcode FROM pg_get_keywords() WHERE word IN ('select', 'year') ORDER BY 1",
            expect![[r#"
                +--------+---------+
                | word   | catcode |
                +--------+---------+
                | select | R       |
                | year   | U       |
                +--------+---------+"#]],
        )
        .await;
    }
}
