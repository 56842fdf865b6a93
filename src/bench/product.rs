//! What the bench measures on: a broker, a durable Postgres, the program itself as a process, and a
//! producer that stays a bounded way ahead of whoever consumes.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};

use super::template::Templates;
use crate::event::Time;
use crate::ingest::IngestConfig;
use crate::ingest::publish::Publisher;
use crate::store::private::{Options, PrivatePostgres};
use crate::store::{Store, StoreConfig};

/// Records a partition may be ahead: the embedded broker keeps 5 MiB of each, so 4 MiB of 1 KB.
const AHEAD: i64 = 4_000;
/// Events with a critical finding of a new user, a second, where latencies are measured: milder ones
/// end in the storm guard's digest.
const PROBES: f64 = 20.0;
/// Nothing moves for so long: the measurement has failed.
const STALLED: Duration = Duration::from_secs(60);

/// Records consumed so far, by partition.
pub(super) type Progress = Arc<Vec<AtomicI64>>;

/// Broker, database, a directory for configurations.
pub(super) struct Stage {
    pub(super) brokers: String,
    pub(super) url: String,
    pub(super) embedded: bool,
    pub(super) dir: tempfile::TempDir,
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
            dir: tempfile::tempdir()?,
            exe,
            broker,
            _postgres: postgres,
        })
    }

    pub(super) fn publisher(&self) -> anyhow::Result<Publisher> {
        let mut c = IngestConfig::new(&self.brokers, "bench", Vec::new()).client();
        // Large batches: the broker hands out one batch of a partition with each fetch.
        c.set("linger.ms", "20");
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
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(self.dir.path().join(format!("{topic}.log")))?;
        let mut child = Command::new(&self.exe)
            .args(["run", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the program")?;
        let told: Told = Arc::default();
        let out = child.stdout.take().context("no output of the program")?;
        let list = told.clone();
        std::thread::spawn(move || listen(out, &list));
        Ok(Product {
            child,
            told,
            log: self.dir.path().join(format!("{topic}.log")),
        })
    }

    /// Starts a ceiling and waits until it stands at the topic's end.
    pub(super) fn ceiling(&self, topic: &str, count: u64, parse: bool) -> anyhow::Result<Ceiling> {
        let mut child = Command::new(&self.exe)
            .args([
                "bench",
                "--ceiling",
                if parse { "parse" } else { "consume" },
            ])
            .args([
                "--brokers",
                &self.brokers,
                "--topic",
                topic,
                "--events",
                &count.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the ceiling")?;
        let out = child.stdout.take().context("no output of the ceiling")?;
        let mut lines = BufReader::new(out).lines();
        match lines.next() {
            Some(Ok(l)) if l == "go" => {}
            _ => bail!("the ceiling did not start"),
        }
        let progress: Progress = Arc::new((0..64).map(|_| AtomicI64::new(0)).collect());
        let seen = progress.clone();
        let result = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut words = line.split_whitespace();
                match words.next() {
                    Some("at") => {
                        for (slot, n) in seen.iter().zip(words) {
                            slot.store(n.parse().unwrap_or(0), Ordering::Relaxed);
                        }
                    }
                    Some("done") => {
                        let n: Vec<f64> = words.filter_map(|w| w.parse().ok()).collect();
                        return n.first().copied().zip(n.get(1).copied());
                    }
                    _ => {}
                }
            }
            None
        });
        Ok(Ceiling {
            child,
            progress,
            result,
        })
    }
}

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
}

impl Drop for Product {
    fn drop(&mut self) {
        // A measurement that fails must not leave the program running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Product {
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

    /// Fails with the end of its log if it has ended.
    pub(super) fn alive(&mut self) -> anyhow::Result<()> {
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

/// A running ceiling.
pub(super) struct Ceiling {
    child: Child,
    pub(super) progress: Progress,
    result: std::thread::JoinHandle<Option<(f64, f64)>>,
}

impl Ceiling {
    /// Seconds and CPU seconds for all records.
    pub(super) fn finish(mut self) -> anyhow::Result<(f64, f64)> {
        let result = self.result.join().ok().flatten();
        let _ = self.child.kill();
        self.child.wait()?;
        result.context("the ceiling did not finish")
    }
}

/// Watches how far Postgres is with a topic: a thread that asks every 5 ms.
pub(super) struct Applied {
    pub(super) progress: Progress,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Findings on their way: partition, offset, when published.
    pub(super) pending: Arc<Mutex<Vec<(usize, i64, Instant)>>>,
    /// How long each took until it was committed, in milliseconds.
    pub(super) took: Arc<Mutex<Vec<f64>>>,
}

impl Applied {
    pub(super) fn watch(
        stage: &Stage,
        topic: &str,
        runtime: &tokio::runtime::Handle,
    ) -> anyhow::Result<Self> {
        let store = runtime.block_on(stage.store())?;
        let progress: Progress = Arc::new((0..64).map(|_| AtomicI64::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let pending: Arc<Mutex<Vec<(usize, i64, Instant)>>> = Arc::default();
        let took: Arc<Mutex<Vec<f64>>> = Arc::default();
        let (p, s, w, t) = (
            progress.clone(),
            stop.clone(),
            pending.clone(),
            took.clone(),
        );
        let (topic, runtime) = (topic.to_owned(), runtime.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                if let Ok(rows) = runtime.block_on(store.partitions()) {
                    for r in rows.iter().filter(|r| r.tp.topic == topic) {
                        if let Some(slot) =
                            usize::try_from(r.tp.partition).ok().and_then(|i| p.get(i))
                        {
                            slot.store(r.next_offset, Ordering::Relaxed);
                        }
                    }
                    let mut waiting = w.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut done = t.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.retain(|(part, offset, at)| {
                        let applied = p
                            .get(*part)
                            .is_some_and(|n| n.load(Ordering::Relaxed) > *offset);
                        if applied {
                            done.push(at.elapsed().as_secs_f64() * 1_000.0);
                        }
                        !applied
                    });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self {
            progress,
            stop,
            thread: Some(thread),
            pending,
            took,
        })
    }

    pub(super) fn sum(&self) -> i64 {
        self.progress
            .iter()
            .map(|p| p.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// Publishes to one topic and knows the offsets it gave.
pub(super) struct Producer {
    publisher: Publisher,
    templates: Templates,
    topic: String,
    /// Records sent, by partition.
    pub(super) sent: Vec<i64>,
    /// When events with a finding were published, by number.
    pub(super) published: std::collections::HashMap<u64, Instant>,
}

impl Producer {
    pub(super) fn new(stage: &Stage, topic: &str, templates: Templates) -> anyhow::Result<Self> {
        Ok(Self {
            publisher: stage.publisher()?,
            templates,
            topic: topic.to_owned(),
            sent: vec![0; 64],
            published: std::collections::HashMap::new(),
        })
    }

    /// Publishes `count` events, at most [`AHEAD`] a partition before `progress` (counted from
    /// `base`), at most `rate` a second where given.
    pub(super) fn send(
        &mut self,
        count: u64,
        progress: &Progress,
        base: &[i64],
        rate: Option<f64>,
        findings: Option<&Mutex<Vec<(usize, i64, Instant)>>>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of events"
        )]
        let probe_every = rate.map_or(u64::MAX, |r| (r / PROBES).max(1.0) as u64);
        for n in 0..count {
            if let Some(rate) = rate {
                #[expect(clippy::cast_precision_loss, reason = "a count of events")]
                let due = Duration::from_secs_f64(n as f64 / rate);
                while let Some(left) = due.checked_sub(started.elapsed()).filter(|d| !d.is_zero()) {
                    std::thread::sleep(left.min(Duration::from_millis(1)));
                }
            }
            let e = if findings.is_some() && n % probe_every == 0 {
                self.templates.probe(now())
            } else {
                self.templates.stamp(now())
            };
            let p = e.partition;
            let offset = self.sent[p];
            let mut waiting = Instant::now();
            let mut at = progress[p].load(Ordering::Relaxed);
            while offset - base[p] - (at - base[p]).max(0) > AHEAD {
                std::thread::sleep(Duration::from_millis(1));
                let moved = progress[p].load(Ordering::Relaxed);
                if moved != at {
                    (at, waiting) = (moved, Instant::now());
                }
                if waiting.elapsed() > STALLED {
                    bail!(
                        "{} partition {p} does not move: {offset} sent, {at} consumed",
                        self.topic
                    );
                }
            }
            if e.finding
                && let Some(list) = findings
            {
                let at = Instant::now();
                self.published.insert(e.number, at);
                list.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((p, offset, at));
            }
            let to = i32::try_from(p).unwrap_or(0);
            self.publisher
                .send_waiting(&self.topic, Some(to), e.key, e.value)?;
            self.sent[p] += 1;
        }
        self.publisher.flush(Duration::from_secs(30))?;
        Ok(())
    }
}

/// Wall-clock time of the producer.
pub(super) fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Time(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
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
