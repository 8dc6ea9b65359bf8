//! The catalogue of tables in a store: the columns of each, so that a table without rows can be
//! queried.
//!
//! The object `schemas/<table>.arrow` is an Arrow IPC stream without batches. A run creates it when
//! it starts, before its first commit.

use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::store::{Store, StoreError};

/// Adds tables to the table catalogue of a store.
///
/// # Errors
/// [`StoreError::Conflict`] when the catalogue has other columns for a table.
pub fn declare(tables: &[(String, SchemaRef)], store: &Store) -> Result<(), StoreError> {
    for (table, schema) in tables {
        let name = format!("schemas/{table}.arrow");
        match store.create(&name, &encode(schema)) {
            // The same columns in other bytes: another release wrote them, or an unused byte was
            // changed.
            Err(StoreError::Conflict { .. }) if decode(&store.get(&name)?).as_ref() == Some(schema) => {
                store.replace(&name, &encode(schema))?;
            }
            created => {
                created?;
            }
        }
    }
    Ok(())
}

/// The tables in the table catalogue of a store, by name, with their columns.
///
/// # Errors
/// When the store cannot be read. An object that is not a schema is left out.
pub fn read_declared(store: &Store) -> Result<Vec<(String, SchemaRef)>, StoreError> {
    let mut tables = Vec::new();
    for name in store.list("schemas")? {
        let table = name.strip_prefix("schemas/").and_then(|file| file.strip_suffix(".arrow"));
        if let (Some(table), Some(schema)) = (table, decode(&store.get(&name)?)) {
            tables.push((table.to_owned(), schema));
        }
    }
    Ok(tables)
}

fn encode(schema: &Schema) -> Vec<u8> {
    StreamWriter::try_new(Vec::new(), schema)
        .and_then(StreamWriter::into_inner)
        .expect("every schema can be written to memory")
}

fn decode(bytes: &[u8]) -> Option<SchemaRef> {
    Some(StreamReader::try_new(bytes, None).ok()?.schema())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, TimeUnit};
    use tidegate_host::SimulatedHost;

    use super::*;
    use crate::store::{LocalBackend, RetryPolicy};

    fn table(name: &str, amount: DataType) -> Vec<(String, SchemaRef)> {
        let label = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let fields = vec![
            tidegate_facts::columns::tick_field("_tick"),
            Field::new("amount", amount, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("label", label, true),
        ];
        vec![(name.to_owned(), Arc::new(Schema::new(fields)))]
    }

    #[test]
    fn a_table_is_known_by_its_columns_and_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(read_declared(&store).unwrap(), []);
        let decisions = table("decisions", DataType::Decimal128(12, 2));
        declare(&decisions, &store).unwrap();
        declare(&decisions, &store).unwrap();
        assert_eq!(read_declared(&store).unwrap(), decisions);
        let other = declare(&table("decisions", DataType::Int64), &store);
        assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");
    }

    #[test]
    fn a_table_stays_known_wherever_a_crash_comes_while_its_columns_are_written_anew() {
        let open = |machine: &SimulatedHost| {
            let backend = LocalBackend::open_on(machine.host().files, Path::new("/store")).unwrap();
            Store::over(Arc::new(backend), RetryPolicy::default()).on_host(&machine.host())
        };
        let tables = table("decisions", DataType::Int64);
        let mut declared = 0;
        for writes in 0..20 {
            let machine = SimulatedHost::new(1);
            let store = open(&machine);
            let other_bytes = [encode(&tables[0].1), vec![0]].concat();
            store.create("schemas/decisions.arrow", &other_bytes).unwrap();
            machine.files.refuse_writes_after(writes, ErrorKind::StorageFull);
            declared += u32::from(declare(&tables, &store).is_ok());
            let survivor = open(&machine.crash());
            assert_eq!(read_declared(&survivor).unwrap(), tables, "after {writes} writes");
        }
        assert!((1..20).contains(&declared), "{declared} of 20 were not cut short");
    }
}
