//! How a verb finds the database: `--database`, else the `[store]` of `--config`.

use std::path::PathBuf;

use super::format::{Format, is_json};
use crate::config::Config;
use crate::store::{Store, StoreConfig};

/// Where the database is.
#[derive(Debug, Clone, clap::Args)]
pub struct Database {
    /// `postgres://user:password@host/database`; instead of the configuration's.
    #[arg(
        long,
        value_name = "URL",
        env = "VEILWATCH_STORE_URL",
        hide_env_values = true,
        global = true
    )]
    database: Option<String>,
    /// The configuration whose `[store]` is used.
    #[arg(short, long, value_name = "F", global = true)]
    config: Option<PathBuf>,
}

impl Database {
    /// The store's settings.
    pub fn settings(&self) -> anyhow::Result<StoreConfig> {
        let url = match (&self.database, &self.config) {
            (Some(url), _) => url.clone(),
            (None, Some(path)) => Config::load(path)?.store.url.reveal().to_owned(),
            (None, None) => anyhow::bail!(
                "no database given: use --database URL, --config FILE or VEILWATCH_STORE_URL"
            ),
        };
        let mut config = StoreConfig::new(url);
        // A command by hand needs one connection at a time.
        config.max_connections = 2;
        config.owner = format!("cli {}", std::process::id());
        Ok(config)
    }

    /// The whole configuration, for a verb that needs more of it than the database.
    pub fn whole(&self, why: &str) -> anyhow::Result<Config> {
        match &self.config {
            Some(path) => Ok(Config::load(path)?),
            None => anyhow::bail!("no configuration given: use --config FILE, {why}"),
        }
    }

    /// Connects, runs the work and closes the connections.
    pub fn with<T, F, Fut>(&self, work: F) -> anyhow::Result<T>
    where
        F: FnOnce(Store) -> Fut,
        Fut: Future<Output = anyhow::Result<T>>,
    {
        let config = self.settings()?;
        block_on(async move {
            let store = Store::connect(config).await?;
            let result = work(store.clone()).await;
            store.close().await;
            result
        })
    }
}

/// Runs a future on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// A column of pretty output: its heading and its cell.
pub type Column<T> = (&'static str, fn(&T) -> String);

/// Writes rows: JSON lines, or columns as wide as their widest cell.
pub fn write_rows<T: serde::Serialize>(
    rows: &[T],
    format: Option<Format>,
    columns: &[Column<T>],
) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if is_json(format) {
        for row in rows {
            serde_json::to_writer(&mut out, row)?;
            writeln!(out)?;
        }
        return Ok(());
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| columns.iter().map(|(_, f)| f(r)).collect())
        .collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, (name, _))| {
            let widest = cells.iter().map(|row| row[i].chars().count()).max();
            widest.unwrap_or(0).max(name.len())
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| -> std::io::Result<()> {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    line(&mut columns.iter().map(|(name, _)| *name))?;
    for row in &cells {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// Who acts: `--author`, else the login name.
pub fn author(given: Option<String>) -> anyhow::Result<String> {
    given
        .or_else(|| std::env::var("USER").ok())
        .or_else(|| std::env::var("LOGNAME").ok())
        .filter(|a| !a.trim().is_empty())
        .ok_or_else(|| anyhow::anyhow!("no author: use --author NAME, it stands in the log"))
}
