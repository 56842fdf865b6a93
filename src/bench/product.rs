//! The measured program, as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::stage::Stop;

/// Numbers of events whose notification was handed to the sink, and when.
pub(super) type Told = Arc<Mutex<Vec<(u64, Instant)>>>;

fn listen(out: std::process::ChildStdout, told: &Told) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let at = Instant::now();
        let Ok(v) = serde_json::from_str::<serde_json::Value>(&line) else {
            continue;
        };
        let event = v["data"]["event"].as_str().unwrap_or_default();
        if let Some(n) = event.rsplit_once('-').and_then(|(_, n)| n.parse().ok()) {
            told.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((n, at));
        }
    }
}

/// A running program.
pub(super) struct Product {
    pub(super) child: Child,
    pub(super) told: Told,
    log: PathBuf,
    stop: Stop,
}

impl Drop for Product {
    fn drop(&mut self) {
        // A measurement that fails must not leave the program running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Product {
    /// Starts `veilwatch run` with a configuration. It ends with its standard input, and so with this
    /// process, however that ends.
    pub(super) fn start(exe: &Path, config: &Path, stop: Stop) -> anyhow::Result<Self> {
        let log = config.with_extension("log");
        let mut child = Command::new(exe)
            .args(["run", "--until-eof", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .context("cannot start the program")?;
        let told: Told = Arc::default();
        let out = child.stdout.take().context("no output of the program")?;
        let list = told.clone();
        std::thread::spawn(move || listen(out, &list));
        Ok(Self {
            child,
            told,
            log,
            stop,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it politely.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.child.wait()?;
        Ok(())
    }

    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Fails with the end of its log if it has ended, or when the bench is to stop.
    pub(super) fn alive(&mut self) -> anyhow::Result<()> {
        self.stop.check()?;
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            bail!(
                "the program ended with {status}: {}",
                lines[lines.len().saturating_sub(5)..].join(" | ")
            );
        }
        Ok(())
    }
}

/// Waits until `done`, or fails when the program ends or nothing comes of it.
pub(super) fn wait(
    what: &str,
    product: &mut Product,
    limit: Duration,
    mut done: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        product.alive()?;
        if Instant::now() > deadline {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
