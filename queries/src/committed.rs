//! DataFusion's table provider for a committed table: exactly the files that the commits name.
//!
//! Names and sizes of files come from the commits, so no folder is listed, and a file that a crash
//! left behind is never read.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::reader::{ValueIter, infer_json_schema_from_iterator};
use async_trait::async_trait;
use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{ScalarValue, Statistics, project_schema};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tidegate_facts::{Tick, columns};
use tidegate_sinks::commits::{TableFile, TableFileFormat, interval_of, without_field_ids};
use tidegate_sinks::store::Store;

use crate::error::QueryError;

/// The URL under which the store is registered with DataFusion.
pub(crate) const STORE_URL: &str = "tidegate://store/";

/// One committed table of a store, as DataFusion scans it.
#[derive(Clone, Debug)]
pub(crate) struct CommittedTable {
    schema: SchemaRef,
    format: Arc<dyn FileFormat>,
    /// The list of files, in order, in segments: a table that grows shares them with its
    /// predecessor.
    files: Vec<Arc<[PlannedFile]>>,
}

/// A file, the interval of ticks of its rows, and their number.
#[derive(Clone, Debug)]
struct PlannedFile {
    ticks: Range<Tick>,
    rows: u64,
    file: PartitionedFile,
}

impl CommittedTable {
    /// Opens the table that consists of `files`, of which there must be at least one.
    pub(crate) fn open(
        table: &str,
        files: &[&TableFile],
        store: &Store,
    ) -> Result<CommittedTable, QueryError> {
        check_files(table, files, store)?;
        let is_parquet = files[0].name.ends_with(TableFileFormat::Parquet.extension());
        let (schema, format): (SchemaRef, Arc<dyn FileFormat>) = if is_parquet {
            (
                parquet_schema(table, files[0], store)?,
                Arc::new(ParquetFormat::new().with_options(parquet_options())),
            )
        } else {
            (jsonl_schema(table, files, store)?, Arc::new(JsonFormat::default()))
        };
        Ok(CommittedTable { schema, format, files: vec![planned(files)] })
    }

    /// The same table with more files; only the new files are opened. They must be Parquet, because
    /// the schema of JSON lines follows from all files together.
    pub(crate) fn with(
        &self,
        table: &str,
        more: &[&TableFile],
        store: &Store,
    ) -> Result<CommittedTable, QueryError> {
        check_files(table, more, store)?;
        let mut whole = self.clone();
        whole.files.push(planned(more));
        // An entry is copied once for each doubling of its segment.
        while let [.., before, last] = whole.files.as_slice()
            && before.len() <= 2 * last.len()
        {
            let both: Vec<PlannedFile> = before.iter().chain(last.iter()).cloned().collect();
            whole.files.truncate(whole.files.len() - 2);
            whole.files.push(both.into());
        }
        Ok(whole)
    }

    /// The same table without the files whose rows are all at this tick or later.
    pub(crate) fn before(&self, before: Tick) -> CommittedTable {
        let earlier = self.planned().filter(|planned| planned.ticks.start < before).cloned();
        CommittedTable { files: vec![earlier.collect()], ..self.clone() }
    }

    fn planned(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().flat_map(|files| files.iter())
    }

    /// The number of rows of all its files.
    pub(crate) fn rows(&self) -> u64 {
        self.planned().map(|planned| planned.rows).sum()
    }
}

/// Checks that each file exists in the store with the size that its commit names.
fn check_files(table: &str, files: &[&TableFile], store: &Store) -> Result<(), QueryError> {
    for file in files {
        let found = store.head(&file.name).map_err(|error| unreadable(table, file, store, error))?.bytes;
        if found != file.bytes {
            let (table, location) = (table.to_owned(), store.location(&file.name));
            return Err(QueryError::FileChanged { table, location, found, committed: file.bytes });
        }
    }
    Ok(())
}

fn planned(files: &[&TableFile]) -> Arc<[PlannedFile]> {
    let planned = |file: &&TableFile| PlannedFile {
        ticks: interval_of(&file.name).unwrap_or(Tick::ZERO..Tick::MAX),
        rows: file.rows,
        file: PartitionedFile::new(file.name.clone(), file.bytes),
    };
    files.iter().map(planned).collect()
}

/// The ticks that a scan of a committed table needs for a condition on `_tick`; `None` for any
/// other condition.
pub(crate) fn ticks_matching(condition: &Expr) -> Option<Range<Tick>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
    let (column, op, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let ScalarValue::Int64(Some(tick)) = value else { return None };
    if column.name != columns::TICK {
        return None;
    }
    let (tick, next, last) = (Tick(*tick), Tick(tick.saturating_add(1)), Tick::MAX);
    match op {
        Operator::Eq => Some(tick..next),
        Operator::Lt => Some(Tick::ZERO..tick),
        Operator::LtEq => Some(Tick::ZERO..next),
        Operator::Gt => Some(next..last),
        Operator::GtEq => Some(tick..last),
        _ => None,
    }
}

/// Which conditions a scan of a committed table uses: those on `_tick`, which exclude whole files.
pub(crate) fn pushed_down(conditions: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
    let pushed = |condition: &&Expr| match ticks_matching(condition) {
        Some(_) => TableProviderFilterPushDown::Inexact,
        None => TableProviderFilterPushDown::Unsupported,
    };
    conditions.iter().map(pushed).collect()
}

fn unreadable(
    table: &str,
    file: &TableFile,
    store: &Store,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> QueryError {
    let (table, location) = (table.to_owned(), store.location(&file.name));
    QueryError::FileUnreadable { table, location, source: source.into() }
}

/// Filters rows while they are decoded: other columns are read only for rows that pass.
fn parquet_options() -> TableParquetOptions {
    let mut options = TableParquetOptions::default();
    options.global.pushdown_filters = true;
    options
}

/// A file of a store, as the Parquet reader reads parts of it.
struct StoredFile<'s> {
    store: &'s Store,
    file: &'s TableFile,
}

impl StoredFile<'_> {
    fn range(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let bytes = self.store.get_range(&self.file.name, range);
        bytes.map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl Length for StoredFile<'_> {
    fn len(&self) -> u64 {
        self.file.bytes
    }
}

impl ChunkReader for StoredFile<'_> {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Reader<Bytes>, ParquetError> {
        Ok(self.range(start..self.file.bytes)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.range(start..start + length as u64)
    }
}

/// The schema of a Parquet file; all files of a table have the same.
fn parquet_schema(table: &str, file: &TableFile, store: &Store) -> Result<SchemaRef, QueryError> {
    let metadata = ArrowReaderMetadata::load(&StoredFile { store, file }, ArrowReaderOptions::new());
    let metadata = metadata.map_err(|error| unreadable(table, file, store, error))?;
    Ok(Arc::new(without_field_ids(metadata.schema())))
}

/// The schema of JSON lines. A line omits nulls, so it is inferred from all lines together.
fn jsonl_schema(table: &str, files: &[&TableFile], store: &Store) -> Result<SchemaRef, QueryError> {
    let mut file = files[0];
    let lines = files.iter().flat_map(|next| {
        file = next;
        match store.get(&next.name) {
            Ok(bytes) => Box::new(ValueIter::new(bytes.reader(), None)) as Box<dyn Iterator<Item = _>>,
            Err(error) => Box::new(std::iter::once(Err(ArrowError::from_external_error(error.into())))),
        }
    });
    let inferred = infer_json_schema_from_iterator(lines);
    let inferred = inferred.map_err(|error| unreadable(table, file, store, error))?;
    let fields = inferred.fields().iter().map(|field| match field.name().as_str() {
        columns::TICK => Arc::new(columns::tick_field(columns::TICK)),
        _ => Arc::clone(field),
    });
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

#[async_trait]
impl TableProvider for CommittedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(pushed_down(filters))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        // Files are excluded by their ticks. The optimizer later pushes filters into the other
        // files.
        let ticks: Vec<Range<Tick>> = filters.iter().filter_map(ticks_matching).collect();
        let may_hold = |planned: &&PlannedFile| {
            ticks.iter().all(|ticks| planned.ticks.start < ticks.end && ticks.start < planned.ticks.end)
        };
        let files = || self.planned().filter(may_hold);
        if files().next().is_none() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema, projection)?)));
        }
        let source = self.format.file_source(TableSchema::from(Arc::clone(&self.schema)));
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Exact(files().map(|planned| planned.rows as usize).sum());
        let groups = FileGroup::new(files().map(|planned| planned.file.clone()).collect());
        let groups = groups.split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        self.format.create_physical_plan(state, config).await
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, RecordBatch};
    use tidegate_sinks::commits::TableBuffer;
    use tidegate_sinks::store::{ObjectStoreBackend, RetryPolicy};

    use super::*;

    /// Writes a file with one row for each of the intervals, which have 10 ticks each.
    fn files(store: &Store, intervals: Range<i64>) -> Vec<TableFile> {
        let rows = |tick| {
            let ticks: ArrayRef = Arc::new(columns::tick_array([Tick(tick)]));
            RecordBatch::try_from_iter([(columns::TICK, ticks)]).expect("one column")
        };
        let lower = Tick(intervals.start * 10);
        let mut unsealed = TableBuffer::new("decisions", rows(0).schema(), TableFileFormat::Parquet, lower);
        let file = |interval| {
            unsealed.insert(&rows(interval * 10));
            unsealed.write_before(Tick(interval * 10 + 10), store).expect("it can be written").remove(0)
        };
        intervals.map(file).collect()
    }

    #[test]
    fn a_table_that_grows_opens_only_its_new_files() {
        let store = Store::over(Arc::new(ObjectStoreBackend::in_memory()), RetryPolicy::default());
        let first = files(&store, 0..5);
        let mut table = CommittedTable::open("decisions", &first.iter().collect::<Vec<_>>(), &store)
            .expect("it is there");
        for file in &first {
            store.delete(&file.name).expect("it was there");
        }
        for interval in 5..200 {
            let new = files(&store, interval..interval + 1);
            table = table.with("decisions", &[&new[0]], &store).expect("no old file is opened");
        }
        assert_eq!(table.rows(), 200);
        assert!(table.files.len() < 12, "{} segments, so none was merged", table.files.len());
        assert_eq!(table.before(Tick(70)).rows(), 7);
        assert_eq!(table.before(Tick(71)).rows(), 8);
        let names: Vec<&str> = table.planned().map(|planned| planned.file.path().as_ref()).collect();
        assert!(names.is_sorted(), "files keep their order");
        let matching = |condition: Expr| {
            let ticks = ticks_matching(&condition).expect("it is a condition on ticks");
            let may_hold = table
                .planned()
                .filter(|planned| planned.ticks.start < ticks.end && ticks.start < planned.ticks.end);
            may_hold.count()
        };
        use datafusion::prelude::{ident, lit};
        assert_eq!(matching(ident("_tick").eq(lit(70i64))), 1);
        assert_eq!(matching(ident("_tick").gt_eq(lit(70i64))), 193);
        assert_eq!(matching(lit(69i64).gt_eq(ident("_tick"))), 7);
        assert!(ticks_matching(&ident("amount").eq(lit(70i64))).is_none());
        let gone = TableFile { name: "tables/decisions/none.parquet".to_owned(), ..first[0].clone() };
        assert!(matches!(table.with("decisions", &[&gone], &store), Err(QueryError::FileUnreadable { .. })));
    }
}
