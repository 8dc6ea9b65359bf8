//! The objects of the database, found by name or by oid: schemas, tables, types, functions of
//! types, the owner.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;

use super::columns::{self, TableSpec};
use super::oids;
use crate::error::SqlError;
use crate::types::{self, oid};

/// The role that owns all objects.
pub(crate) const OWNER: &str = "tidegate";
pub(crate) const OWNER_OID: u32 = 10;

/// The schemas, with their oids.
pub(crate) const PG_CATALOG: (&str, u32) = ("pg_catalog", 11);
pub(crate) const PUBLIC: (&str, u32) = ("public", 2200);
pub(crate) const INFORMATION_SCHEMA: (&str, u32) = ("information_schema", 13_207);
pub(crate) const NAMESPACES: [(&str, u32); 3] = [PG_CATALOG, PUBLIC, INFORMATION_SCHEMA];

/// A table or a view among the objects of the database.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) oid: u32,
    /// The name and the oid of its schema.
    pub(crate) namespace: (&'static str, u32),
    pub(crate) name: String,
    /// `r` for a table, `v` for a view.
    pub(crate) kind: char,
    pub(crate) schema: SchemaRef,
}

/// All objects of the database, found by name or by oid.
pub(crate) struct Objects {
    relations: BTreeMap<u32, Relation>,
    /// The I/O functions of types, by oid.
    functions: BTreeMap<u32, String>,
}

impl Objects {
    /// The objects of a database with these tables in the schema `public`.
    pub(crate) fn new(tables: &BTreeMap<String, SchemaRef>) -> Objects {
        let oids = oids::assign(tables.keys().map(String::as_str));
        let public = tables.iter().map(|(name, schema)| Relation {
            oid: oids[name],
            namespace: PUBLIC,
            name: name.clone(),
            kind: 'r',
            schema: SchemaRef::clone(schema),
        });
        let of = |namespace: (&'static str, u32)| {
            move |spec: TableSpec| Relation {
                oid: spec.oid,
                namespace,
                name: spec.name,
                kind: spec.kind,
                schema: spec.schema,
            }
        };
        let system = columns::pg_catalog().into_iter().map(of(PG_CATALOG));
        let information = columns::information_schema().into_iter().map(of(INFORMATION_SCHEMA));
        let relations = public.chain(system).chain(information);
        let functions = types::all().flat_map(|it| it.functions.iter().flatten());
        Objects {
            relations: relations.map(|relation| (relation.oid, relation)).collect(),
            functions: functions.map(|(name, oid)| (*oid, name.clone())).collect(),
        }
    }

    /// All tables and views, by oid.
    pub(crate) fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.values()
    }

    /// The I/O functions of types: oid and name.
    pub(crate) fn functions(&self) -> impl Iterator<Item = (u32, &str)> {
        self.functions.iter().map(|(oid, name)| (*oid, name.as_str()))
    }

    pub(crate) fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relations.get(&oid)
    }

    /// Whether a table can be named without its schema; `None` if there is no such table.
    pub(crate) fn is_visible(&self, oid: u32) -> Option<bool> {
        let relation = self.relation(oid)?;
        let is_hidden =
            relation.namespace == PUBLIC && self.find_relation(Some(PG_CATALOG.0), &relation.name).is_some();
        Some(relation.namespace != INFORMATION_SCHEMA && !is_hidden)
    }

    fn find_relation(&self, schema: Option<&str>, name: &str) -> Option<&Relation> {
        // Without a schema, search the schemas of the search path in their order.
        let path: &[&str] = match &schema {
            Some(schema) => &[schema],
            None => &[PG_CATALOG.0, PUBLIC.0],
        };
        path.iter().find_map(|schema| {
            self.relations().find(|relation| relation.namespace.0 == *schema && relation.name == name)
        })
    }

    /// The object as Postgres shows it in a column of a type such as `regclass`: its name, or its
    /// oid if it has none.
    pub(crate) fn show(&self, kind: u32, oid: u32) -> String {
        self.name_of(kind, oid).unwrap_or_else(|| if oid == 0 { "-".to_owned() } else { oid.to_string() })
    }

    /// The name of the object with an oid; `None` if there is none.
    pub(crate) fn name_of(&self, kind: u32, oid: u32) -> Option<String> {
        match kind {
            oid::REGCLASS => self.relation(oid).map(|relation| {
                let name = quote_ident(&relation.name);
                match self.is_visible(oid) {
                    Some(true) => name,
                    _ => format!("{}.{name}", relation.namespace.0),
                }
            }),
            oid::REGTYPE => types::by_oid(oid).map(|it| it.display_name(None)),
            oid::REGPROC => self.functions.get(&oid).cloned(),
            oid::REGNAMESPACE => {
                NAMESPACES.iter().find(|(_, own)| *own == oid).map(|(name, _)| (*name).to_owned())
            }
            oid::REGROLE => (oid == OWNER_OID).then(|| OWNER.to_owned()),
            _ => None,
        }
    }

    /// Finds the oid of the object that a text names, for a type such as `regclass`. A number is an
    /// oid itself.
    ///
    /// # Errors
    /// 42P01, 42704, 42883 or 3F000 when there is no such object.
    pub(crate) fn find(&self, kind: u32, text: &str) -> Result<u32, SqlError> {
        let text = text.trim();
        if text == "-" {
            return Ok(0);
        }
        if let Ok(oid) = text.parse() {
            return Ok(oid);
        }
        let (found, state, what) = match kind {
            oid::REGCLASS => (self.named(text).map(|relation| relation.oid), "42P01", "relation"),
            oid::REGTYPE => (find_type(text), "42704", "type"),
            oid::REGPROC => {
                let (_, name) = split_name(text);
                let found = self.functions().find(|(_, own)| *own == name).map(|(oid, _)| oid);
                (found, "42883", "function")
            }
            oid::REGNAMESPACE => {
                let (_, name) = split_name(text);
                (NAMESPACES.iter().find(|(own, _)| *own == name).map(|(_, oid)| *oid), "3F000", "schema")
            }
            _ => {
                let (_, name) = split_name(text);
                ((name == OWNER).then_some(OWNER_OID), "42704", "role")
            }
        };
        found.ok_or_else(|| SqlError::new(state, format!("{what} \"{text}\" does not exist")))
    }

    /// Finds a table by its name. Table names of users may have any case. If none matches exactly,
    /// and the name is not quoted, the only one that differs in case alone is meant.
    fn named(&self, text: &str) -> Option<&Relation> {
        let (schema, name) = split_name(text);
        let exact = self.find_relation(schema.as_deref(), &name);
        exact.or_else(|| {
            let is_in = |relation: &&Relation| match &schema {
                Some(schema) => relation.namespace.0 == schema.as_str(),
                None => relation.namespace == PUBLIC,
            };
            let mut like = self.relations().filter(is_in).filter(|it| it.name.eq_ignore_ascii_case(&name));
            let first = like.next();
            first.filter(|_| like.next().is_none() && !text.contains('"'))
        })
    }
}

/// Finds a type by its name in `pg_type` or in SQL.
fn find_type(text: &str) -> Option<u32> {
    let (schema, name) = split_name(text);
    if schema.as_deref().is_some_and(|schema| schema != PG_CATALOG.0) {
        return None;
    }
    let (name, is_array) = match name.strip_suffix("[]") {
        Some(name) => (name.trim().to_owned(), true),
        None => (name, false),
    };
    // Remove precision or length, which do not change the type.
    let plain = match (name.find('('), name.find(')')) {
        (Some(from), Some(to)) if from < to => format!("{}{}", name[..from].trim_end(), &name[to + 1..]),
        _ => name,
    };
    let plain = match plain.as_str() {
        "int" => "int4",
        "decimal" | "dec" => "numeric",
        "float" => "float8",
        "timestamp" => "timestamp",
        other => other,
    };
    let found = types::by_name(plain)
        .or_else(|| types::all().find(|it| !it.is_array && it.display_name(None) == plain))?;
    Some(if is_array { found.array } else { found.oid })
}

/// Splits a name into schema and name. Unquoted parts become lower case.
fn split_name(text: &str) -> (Option<String>, String) {
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => parts.push(String::new()),
            c => {
                let part = parts.last_mut().expect("there is one");
                if is_quoted { part.push(c) } else { part.extend(c.to_lowercase()) }
            }
        }
    }
    let name = parts.pop().unwrap_or_default();
    (parts.pop(), name)
}

/// Quotes a name, unless it is a plain word in lower case.
pub(crate) fn quote_ident(name: &str) -> String {
    let is_plain = name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;

    fn objects() -> Objects {
        let tables = ["decisions", "Labels"].map(|name| (name.to_owned(), Arc::new(Schema::empty())));
        Objects::new(&tables.into())
    }

    #[test]
    fn objects_are_found_by_the_names_that_they_show() {
        let objects = objects();
        for (kind, text, shown) in [
            (oid::REGCLASS, "decisions", "decisions"),
            (oid::REGCLASS, "public.decisions", "decisions"),
            (oid::REGCLASS, "\"Labels\"", "\"Labels\""),
            (oid::REGCLASS, "LABELS", "\"Labels\""),
            (oid::REGCLASS, "pg_catalog.pg_class", "pg_class"),
            (oid::REGCLASS, "information_schema.tables", "information_schema.tables"),
            (oid::REGTYPE, "int4", "integer"),
            (oid::REGTYPE, "timestamp with time zone", "timestamp with time zone"),
            (oid::REGTYPE, "numeric(12,2)", "numeric"),
            (oid::REGTYPE, "pg_catalog.text[]", "text[]"),
            (oid::REGTYPE, "_text", "text[]"),
            (oid::REGPROC, "pg_catalog.array_in", "array_in"),
            (oid::REGNAMESPACE, "public", "public"),
            (oid::REGROLE, "tidegate", "tidegate"),
            (oid::REGCLASS, "-", "-"),
            (oid::REGCLASS, "4711", "4711"),
        ] {
            let found = objects.find(kind, text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(objects.show(kind, found), shown, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_of_its_kind() {
        let objects = objects();
        for (kind, text, state) in [
            (oid::REGCLASS, "desicions", "42P01"),
            (oid::REGCLASS, "\"labels\"", "42P01"),
            (oid::REGTYPE, "hstore", "42704"),
            (oid::REGPROC, "no_such", "42883"),
            (oid::REGNAMESPACE, "private", "3F000"),
        ] {
            assert_eq!(objects.find(kind, text).expect_err(text).state, state);
        }
    }

    #[test]
    fn what_needs_its_schema_is_not_visible() {
        let objects = objects();
        let visible = |text: &str| {
            objects.is_visible(objects.find(oid::REGCLASS, text).expect("it is there")).expect("and known")
        };
        assert!(visible("decisions") && visible("pg_catalog.pg_class"));
        assert!(!visible("information_schema.tables"));
        assert_eq!(objects.is_visible(4711), None);
    }
}
