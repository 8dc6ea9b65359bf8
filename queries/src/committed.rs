//! A committed table: exactly the files that the commits name, as DataFusion scans them.
//!
//! Names and sizes come from the commits, so no folder is listed, and a file that a crash left behind is
//! never read.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::reader::{ValueIter, infer_json_schema_from_iterator};
use async_trait::async_trait;
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
use tidegate_facts::{Tick, columns};
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Format, TableFile};

use crate::QueryError;

/// Under which the catalogue's store is registered with DataFusion.
pub(crate) const STORE_URL: &str = "tidegate://store/";

/// One table of a store.
#[derive(Clone, Debug)]
pub(crate) struct CommittedTable {
    schema: SchemaRef,
    format: Arc<dyn FileFormat>,
    /// Pieces of the list of files, in their order: a table that goes on shares them with what it was.
    files: Vec<Arc<[PlannedFile]>>,
}

/// A file, the ticks that its rows lie between, and how many these are.
#[derive(Clone, Debug)]
struct PlannedFile {
    ticks: Range<Tick>,
    rows: u64,
    file: PartitionedFile,
}

impl CommittedTable {
    /// The table that consists of `files`, of which there is one at least.
    pub(crate) fn open(
        table: &str,
        files: &[&TableFile],
        store: &Store,
    ) -> Result<CommittedTable, QueryError> {
        let paths = found(table, files, store)?;
        let is_parquet = files[0].name.ends_with(Format::Parquet.extension());
        let (schema, format): (SchemaRef, Arc<dyn FileFormat>) = if is_parquet {
            (
                parquet_schema(table, &paths[0])?,
                Arc::new(ParquetFormat::new().with_options(parquet_options())),
            )
        } else {
            (jsonl_schema(table, &paths)?, Arc::new(JsonFormat::default()))
        };
        Ok(CommittedTable { schema, format, files: vec![planned(files)] })
    }

    /// The same table with more files, which alone are looked at. They are Parquet: lines of JSON have no schema but that of all of
    /// them.
    pub(crate) fn with(
        &self,
        table: &str,
        more: &[&TableFile],
        store: &Store,
    ) -> Result<CommittedTable, QueryError> {
        found(table, more, store)?;
        let mut whole = self.clone();
        whole.files.push(planned(more));
        // Each file is copied once for each doubling of the piece that it stands in.
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
        let kept = self.planned().filter(|planned| planned.ticks.start < before).cloned();
        CommittedTable { files: vec![kept.collect()], ..self.clone() }
    }

    fn planned(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().flat_map(|files| files.iter())
    }

    /// How many rows it holds.
    pub(crate) fn rows(&self) -> u64 {
        self.planned().map(|planned| planned.rows).sum()
    }
}

/// The paths of some files, each as long as its commit says.
fn found(table: &str, files: &[&TableFile], store: &Store) -> Result<Vec<PathBuf>, QueryError> {
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
        let path = store.root().join(&file.name);
        let found = path.metadata().map_err(|error| unreadable(table, &path, error))?.len();
        if found != file.bytes {
            let table = table.to_owned();
            return Err(QueryError::FileChanged { table, path, found, committed: file.bytes });
        }
        paths.push(path);
    }
    Ok(paths)
}

fn planned(files: &[&TableFile]) -> Arc<[PlannedFile]> {
    let planned = |file: &&TableFile| PlannedFile {
        ticks: interval_of(&file.name),
        rows: file.rows,
        file: PartitionedFile::new(file.name.clone(), file.bytes),
    };
    files.iter().map(planned).collect()
}

/// The interval of a file, which its name says; if it does not, all ticks.
fn interval_of(name: &str) -> Range<Tick> {
    let file = name.rsplit('/').next().and_then(|file| file.split('.').next());
    let interval = file.and_then(|file| file.split_once('-'));
    let ticks = interval.and_then(|(lower, upper)| Some(lower.parse().ok()?..upper.parse().ok()?));
    ticks.map_or(Tick::ZERO..Tick(u64::MAX), |ticks: Range<u64>| Tick(ticks.start)..Tick(ticks.end))
}

/// The ticks that a condition on `_tick` leaves; `None` for any other condition.
pub(crate) fn ticks_left(condition: &Expr) -> Option<Range<Tick>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return None };
    let (column, op, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let ScalarValue::UInt64(Some(tick)) = value else { return None };
    if column.name != columns::TICK {
        return None;
    }
    let (tick, next, last) = (Tick(*tick), Tick(tick.saturating_add(1)), Tick(u64::MAX));
    match op {
        Operator::Eq => Some(tick..next),
        Operator::Lt => Some(Tick::ZERO..tick),
        Operator::LtEq => Some(Tick::ZERO..next),
        Operator::Gt => Some(next..last),
        Operator::GtEq => Some(tick..last),
        _ => None,
    }
}

/// Which conditions a scan makes use of: those that tell which files can hold a row.
pub(crate) fn pushed_down(conditions: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
    let pushed = |condition: &&Expr| match ticks_left(condition) {
        Some(_) => TableProviderFilterPushDown::Inexact,
        None => TableProviderFilterPushDown::Unsupported,
    };
    conditions.iter().map(pushed).collect()
}

fn unreadable(
    table: &str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> QueryError {
    QueryError::FileUnreadable { table: table.to_owned(), path: path.to_owned(), source: source.into() }
}

/// Rows are filtered while they are decoded: other columns are read only where a row is left.
fn parquet_options() -> TableParquetOptions {
    let mut options = TableParquetOptions::default();
    options.global.pushdown_filters = true;
    options
}

/// All files of a table have one schema, so the first one's will do.
fn parquet_schema(table: &str, path: &Path) -> Result<SchemaRef, QueryError> {
    let file = File::open(path).map_err(|error| unreadable(table, path, error))?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new());
    Ok(Arc::clone(metadata.map_err(|error| unreadable(table, path, error))?.schema()))
}

/// Lines leave out what is null, so that only all lines together name every column.
fn jsonl_schema(table: &str, paths: &[PathBuf]) -> Result<SchemaRef, QueryError> {
    let mut path = &paths[0];
    let lines = paths.iter().flat_map(|next| {
        path = next;
        match File::open(next) {
            Ok(file) => Box::new(ValueIter::new(BufReader::new(file), None)) as Box<dyn Iterator<Item = _>>,
            Err(error) => Box::new(std::iter::once(Err(ArrowError::from(error)))),
        }
    });
    let inferred = infer_json_schema_from_iterator(lines).map_err(|error| unreadable(table, path, error))?;
    let fields = inferred.fields().iter().map(|field| match field.name().as_str() {
        columns::TICK => Arc::new(Field::new(columns::TICK, DataType::UInt64, false)),
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
        // Files are passed over by their ticks. Filters reach the others later, when the physical plan is optimised.
        let ticks: Vec<Range<Tick>> = filters.iter().filter_map(ticks_left).collect();
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
    use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
    use tidegate_sinks::table::Unsealed;

    use super::*;

    /// A file for each of some intervals of 10 ticks, with one row.
    fn files(store: &Store, intervals: std::ops::Range<u64>) -> Vec<TableFile> {
        let rows = |tick| {
            let ticks: ArrayRef = Arc::new(UInt64Array::from(vec![tick]));
            RecordBatch::try_from_iter([(columns::TICK, ticks)]).expect("one column")
        };
        let lower = Tick(intervals.start * 10);
        let mut unsealed = Unsealed::new("decisions", rows(0).schema(), Format::Parquet, lower);
        let file = |interval| {
            unsealed.insert(&rows(interval * 10));
            unsealed.seal_before(Tick(interval * 10 + 10), store).expect("it can be written").remove(0)
        };
        intervals.map(file).collect()
    }

    #[test]
    fn a_table_that_goes_on_looks_only_at_its_new_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a store");
        let first = files(&store, 0..5);
        let mut table = CommittedTable::open("decisions", &first.iter().collect::<Vec<_>>(), &store)
            .expect("it is there");
        for file in &first {
            std::fs::remove_file(store.root().join(&file.name)).expect("it was there");
        }
        for interval in 5..200 {
            let new = files(&store, interval..interval + 1);
            table = table.with("decisions", &[&new[0]], &store).expect("no old file is looked at");
        }
        assert_eq!(table.rows(), 200);
        assert!(table.files.len() < 12, "{} pieces, so none was put together", table.files.len());
        assert_eq!(table.before(Tick(70)).rows(), 7);
        assert_eq!(table.before(Tick(71)).rows(), 8);
        let names: Vec<&str> = table.planned().map(|planned| planned.file.path().as_ref()).collect();
        assert!(names.is_sorted(), "files keep their order");
        let kept = |condition: Expr| {
            let ticks = ticks_left(&condition).expect("it is about ticks");
            let may_hold = table
                .planned()
                .filter(|planned| planned.ticks.start < ticks.end && ticks.start < planned.ticks.end);
            may_hold.count()
        };
        use datafusion::prelude::{ident, lit};
        assert_eq!(kept(ident("_tick").eq(lit(70u64))), 1);
        assert_eq!(kept(ident("_tick").gt_eq(lit(70u64))), 193);
        assert_eq!(kept(lit(69u64).gt_eq(ident("_tick"))), 7);
        assert!(ticks_left(&ident("amount").eq(lit(70u64))).is_none());
        let gone = TableFile { name: "tables/decisions/none.parquet".to_owned(), ..first[0].clone() };
        assert!(matches!(table.with("decisions", &[&gone], &store), Err(QueryError::FileUnreadable { .. })));
    }
}
