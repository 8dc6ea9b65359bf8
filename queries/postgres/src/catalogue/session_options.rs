//! The user and the settings of a connection, for functions and tables of the catalogue.
//!
//! DataFusion passes the configuration of a session to every function. [`SessionOptions`] is an
//! extension of it.

use std::any::Any;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::plan_err;
use datafusion::error::Result;

use crate::session::Settings;

/// The connection that a statement came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionOptions {
    pub(crate) user: String,
    pub(crate) settings: Settings,
    /// The process number of the connection.
    pub(crate) process: i32,
}

impl SessionOptions {
    /// The connection in the configuration of a session.
    pub(crate) fn of(options: &ConfigOptions) -> SessionOptions {
        options.extensions.get::<SessionOptions>().cloned().unwrap_or_default()
    }
}

impl ConfigExtension for SessionOptions {
    const PREFIX: &'static str = "postgres";
}

impl ExtensionOptions for SessionOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, _: &str) -> Result<()> {
        plan_err!("`{}.{key}` cannot be set", Self::PREFIX)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}
