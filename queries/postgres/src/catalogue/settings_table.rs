//! The table `pg_settings`: the settings of the connection that reads it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::session_options::SessionOptions;
use super::table::{TableBuilder, batches, values};
use crate::session::Settings;

#[derive(Debug)]
pub(super) struct SettingsTable {
    pub(super) schema: SchemaRef,
}

impl SettingsTable {
    fn rows(&self, settings: &Settings) -> Vec<RecordBatch> {
        let mut table = TableBuilder::new(&self.schema);
        for (setting, value) in settings.all() {
            let is_default = value == setting.default;
            table.row(values! {
                name: setting.name,
                setting: value.as_str(),
                category: "Client Connection Defaults",
                short_desc: "",
                context: "user",
                vartype: "string",
                source: if is_default { "default" } else { "session" },
                boot_val: setting.default,
                reset_val: setting.default,
                pending_restart: false,
            });
        }
        batches(table)
    }
}

#[async_trait]
impl TableProvider for SettingsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = SessionOptions::of(session.config_options());
        let rows = self.rows(&options.settings);
        let source = MemorySourceConfig::try_new_exec(&[rows], self.schema(), projection.cloned())?;
        Ok(source)
    }
}
