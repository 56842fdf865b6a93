//! How a verb finds the database: `--database`, else the `[store]` of `--config`.

use std::path::PathBuf;

use super::format::{Format, Shown, is_json};
use crate::config::Config;
use crate::store::{Store, StoreConfig};

/// Where the configuration usually is: what a page prints can then be run as it stands.
pub const USUAL_CONFIG: &str = "/etc/veilwatch/veilwatch.toml";

/// What every verb on the database takes: where it is, and how results are written.
#[derive(Debug, Clone, clap::Args)]
pub struct Access {
    /// Where the database is.
    #[command(flatten)]
    pub database: Database,
    /// Output format; the default is text on a terminal and JSON lines elsewhere.
    #[arg(long, global = true, value_enum)]
    pub format: Option<Format>,
}

impl Access {
    /// Whether results are JSON lines.
    pub fn json(&self) -> bool {
        is_json(self.format)
    }
}

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
    /// The configuration whose `[store]` is used; default: /etc/veilwatch/veilwatch.toml, if it is there.
    #[arg(short, long, value_name = "F", global = true)]
    config: Option<PathBuf>,
}

impl Database {
    /// The configuration that was named, else the usual one where nothing else says where the database is.
    fn config(&self) -> Option<PathBuf> {
        let usual = || {
            let path = PathBuf::from(USUAL_CONFIG);
            (self.database.is_none() && path.is_file()).then_some(path)
        };
        self.config.clone().or_else(usual)
    }

    /// The store's settings.
    pub fn settings(&self) -> anyhow::Result<StoreConfig> {
        let (url, allow_plaintext) = match (&self.database, self.config()) {
            (Some(url), _) => (url.clone(), false),
            (None, Some(path)) => {
                let store = Config::load(&path)?.store;
                (store.url.reveal().to_owned(), store.allow_plaintext)
            }
            (None, None) => anyhow::bail!(
                "no database given: use --database URL, --config FILE or VEILWATCH_STORE_URL, or put the configuration at {USUAL_CONFIG}"
            ),
        };
        let mut config = StoreConfig::new(url);
        config.allow_plaintext = allow_plaintext;
        // A command by hand needs one connection at a time.
        config.max_connections = 2;
        config.owner = format!("cli {}", std::process::id());
        Ok(config)
    }

    /// The store's settings with what the configuration says about how long things are kept; `None`
    /// without one.
    pub fn kept(&self) -> anyhow::Result<Option<StoreConfig>> {
        let Some(path) = self.config() else {
            return Ok(None);
        };
        let mut config = self.settings()?;
        config.keep = crate::pipeline::build::store_config(&Config::load(&path)?).keep;
        Ok(Some(config))
    }

    /// The whole configuration, for a verb that needs more of it than the database.
    pub fn whole(&self, why: &str) -> anyhow::Result<Config> {
        match self.config() {
            Some(path) => Ok(Config::load(&path)?),
            None => anyhow::bail!("no configuration given: use --config FILE, {why}"),
        }
    }

    /// The configuration, where one is given.
    pub fn configured(&self) -> anyhow::Result<Option<Config>> {
        Ok(self.config().as_deref().map(Config::load).transpose()?)
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
    let mut out = Shown(out);
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

/// Who acts: `--author`, else the login name, else the number of the account (containers, cron).
pub fn author(given: Option<String>) -> anyhow::Result<String> {
    let env = |name| std::env::var(name).ok();
    let login = env("USER").or_else(|| env("LOGNAME"));
    named(given, login, rustix::process::getuid().as_raw())
}

fn named(given: Option<String>, login: Option<String>, uid: u32) -> anyhow::Result<String> {
    match given {
        Some(given) if given.trim().is_empty() => {
            anyhow::bail!("--author is empty; write a name, it stands in the log")
        }
        Some(given) => Ok(given),
        None => Ok(login
            .filter(|l| !l.trim().is_empty())
            .unwrap_or_else(|| format!("uid {uid}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_acts_even_without_a_login_name() {
        let name = |given: Option<&str>, login: Option<&str>| {
            named(given.map(Into::into), login.map(Into::into), 1000).ok()
        };
        assert_eq!(name(Some("ann"), Some("bob")).as_deref(), Some("ann"));
        assert_eq!(name(None, Some("bob")).as_deref(), Some("bob"));
        assert_eq!(name(None, Some(" ")).as_deref(), Some("uid 1000"));
        assert_eq!(name(None, None).as_deref(), Some("uid 1000"));
        assert_eq!(name(Some(" "), Some("bob")), None);
    }
}
