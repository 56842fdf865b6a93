//! What the bench measures on: a broker, a durable Postgres, a directory for configurations.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};

use super::ceiling::process::Ceiling;
use super::product::Product;
use crate::ingest::IngestConfig;
use crate::ingest::publish::Publisher;
use crate::store::private::{Options, PrivatePostgres};
use crate::store::{Store, StoreConfig};

/// Asked from outside to stop; whoever waits for something looks at it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks to stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails once it was asked for, so that everything started ends on the way out.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("stopped by a signal; nothing was left running");
        }
        Ok(())
    }
}

/// A folder that nobody else may look into: its configurations name the database with its password.
fn private_folder() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("veilwatch-bench-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
}

/// Writes a file that nobody else may read, in place of what was there.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// Broker, database, a directory for configurations.
pub(super) struct Stage {
    pub(super) brokers: String,
    pub(super) url: String,
    pub(super) embedded: bool,
    pub(super) dir: tempfile::TempDir,
    pub(super) stop: Stop,
    exe: PathBuf,
    broker: Option<Child>,
    _postgres: Option<PrivatePostgres>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(b) = &mut self.broker {
            let _ = b.kill();
            let _ = b.wait();
        }
    }
}

impl Stage {
    pub(super) fn new(
        brokers: Option<&str>,
        database: Option<&str>,
        topics: &[(&str, i32)],
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("cannot find the program itself")?;
        let (broker, address) = match brokers {
            Some(b) => (None, b.to_owned()),
            None => {
                let names = topics.iter().map(|(t, n)| format!("{t}:{n}"));
                let mut child = Command::new(&exe)
                    .arg("broker")
                    .arg("--until-eof")
                    .args(names)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .context("cannot start the embedded broker")?;
                let mut line = String::new();
                let out = child.stdout.take().context("no output of the broker")?;
                BufReader::new(out).read_line(&mut line)?;
                (Some(child), line.trim().to_owned())
            }
        };
        let (postgres, url) = match database {
            Some(u) => (None, u.to_owned()),
            None => {
                let p = PrivatePostgres::start(Options {
                    durable: true,
                    shared_buffers_mb: 256,
                    ..Options::default()
                })?;
                let url = p.url("postgres");
                (Some(p), url)
            }
        };
        Ok(Self {
            brokers: address,
            url,
            embedded: broker.is_some(),
            dir: private_folder()?,
            stop: stop.clone(),
            exe,
            broker,
            _postgres: postgres,
        })
    }

    pub(super) fn publisher(&self) -> anyhow::Result<Publisher> {
        let mut c = IngestConfig::new(&self.brokers, "bench", Vec::new()).client();
        // Large batches: the broker hands out one batch of a partition with each fetch.
        c.set("linger.ms", "20");
        // That a record arrived is seen by its being applied; to be told of each costs a tenth of publishing it.
        c.set("delivery.report.only.error", "true");
        Ok(Publisher::new(c)?)
    }

    pub(super) async fn store(&self) -> anyhow::Result<Store> {
        let mut c = StoreConfig::new(&self.url);
        c.max_connections = 2;
        Ok(Store::connect(c).await?)
    }

    /// Starts `veilwatch run` on a topic.
    pub(super) fn product(&self, topic: &str) -> anyhow::Result<Product> {
        let config = format!(
            r#"
[ingest]
brokers = "{}"
allow_plaintext = true
group = "bench-{topic}"
topics = [{{ name = "{topic}", mode = "sealed" }}]
session_timeout = "6s"
heartbeat_interval = "500ms"
[store]
url = "{}"
allow_plaintext = true
[http]
listen = "127.0.0.1:0"
[deliver]
storm_limit = 100000
[[deliver.sink]]
name = "out"
kind = "stdout"
[[budget]]
scope = "tenant"
period = "month"
usd = 1000000
[[budget]]
scope = "user"
period = "day"
tokens = 100000000
[telemetry]
log = "warn"
"#,
            self.brokers, self.url
        );
        let path = self.dir.path().join(format!("{topic}.toml"));
        write_private(&path, &config)?;
        Product::start(&self.exe, &path, self.stop.clone())
    }

    /// Starts a ceiling, which waits for its first pass.
    pub(super) fn ceiling(&self, topic: &str, parse: bool) -> anyhow::Result<Ceiling> {
        Ceiling::start(&self.exe, &self.brokers, topic, parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_reads_the_password_of_the_database() {
        let dir = private_folder().expect("folder");
        let path = dir.path().join("bench.toml");
        write_private(&path, "first, and longer").expect("write");
        write_private(&path, "second").expect("write");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "second");
        for (path, mode) in [(dir.path(), 0o700), (path.as_path(), 0o600)] {
            let found = path.metadata().expect("there").permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }
}
