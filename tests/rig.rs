//! Real parts for whole-path tests: the embedded broker, a private Postgres, `run` processes.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgPool, PgPoolOptions};
use veilwatch::bench::workload::{Shape, Workload};
use veilwatch::config::{Config, Source, no_env};
use veilwatch::event::Time;
use veilwatch::ingest::broker::EmbeddedBroker;
use veilwatch::ingest::publish::Publisher;
use veilwatch::ingest::{IngestConfig, TopicConfig, TopicMode};
use veilwatch::store::private::{Options, PrivatePostgres};

/// The topic of all tests.
pub const TOPIC: &str = "llm.events.v1";

/// Where the records come from.
pub enum Broker {
    /// In this process.
    Embedded(EmbeddedBroker),
    /// A real one, by address.
    Real(String),
}

impl Broker {
    pub fn address(&self) -> String {
        match self {
            Self::Embedded(b) => b.address(),
            Self::Real(a) => a.clone(),
        }
    }
}

/// Broker, database, a directory for configurations and logs.
pub struct Rig {
    pub broker: Broker,
    pub postgres: PrivatePostgres,
    pub dir: tempfile::TempDir,
    pub topic: String,
}

impl Rig {
    pub fn new(partitions: i32) -> Self {
        let broker = EmbeddedBroker::start(&[(TOPIC.into(), partitions)]).expect("broker");
        Self::with(Broker::Embedded(broker), TOPIC.into())
    }

    pub fn with(broker: Broker, topic: String) -> Self {
        Self {
            broker,
            postgres: PrivatePostgres::start(Options {
                // As a real server for the long chaos run; quicker otherwise.
                durable: std::env::var_os("VEILWATCH_CHAOS_FSYNC").is_some(),
                ..Options::default()
            })
            .expect("postgres"),
            dir: tempfile::tempdir().expect("directory"),
            topic,
        }
    }

    /// The client's view of the topic.
    pub fn ingest(&self) -> IngestConfig {
        let topic = TopicConfig {
            name: self.topic.clone(),
            mode: TopicMode::Sealed,
        };
        IngestConfig::new(self.broker.address(), "test", vec![topic])
    }

    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.ingest().client()).expect("publisher")
    }

    /// A configuration in the chaos profile: short sessions, small batches, an unlimited hold.
    pub fn config_text(&self, more: &str) -> String {
        format!(
            r#"
[ingest]
brokers = "{}"
group = "test"
topics = [{{ name = "{}", mode = "sealed" }}]
session_timeout = "6s"
heartbeat_interval = "500ms"
max_poll_interval = "10s"
batch_records = 500
progress_timeout = "10s"
[store]
url = "{}"
[http]
listen = "127.0.0.1:0"
[detect]
hold = "unlimited"
[pipeline]
checkpoint_records = 2000
checkpoint_every = "1s"
shutdown = "10s"
[telemetry]
log = "info,librdkafka=error"
format = "json"
{more}
"#,
            self.broker.address(),
            self.topic,
            self.postgres.url("postgres"),
        )
    }

    pub fn config(&self, more: &str) -> Config {
        Config::parse(&Source {
            text: &self.config_text(more),
            dir: self.dir.path(),
            env: &no_env(),
        })
        .unwrap_or_else(|p| panic!("configuration: {p:?}"))
    }

    pub fn write_config(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        keep_private(&path);
        path
    }

    /// Publishes `n` events of a workload; returns how many have a finding of one event.
    pub fn publish(&self, workload: &mut Workload, n: usize) -> usize {
        let p = self.publisher();
        let mut findings = 0;
        for _ in 0..n {
            let e = workload.next(now());
            findings += usize::from(e.finding);
            p.send_waiting(
                &self.topic,
                Some(e.partition),
                e.key.as_bytes(),
                e.value.as_bytes(),
            )
            .expect("sent");
        }
        p.flush(Duration::from_secs(30)).expect("flushed");
        findings
    }

    pub fn publish_raw(&self, partition: i32, values: &[Vec<u8>]) {
        let p = self.publisher();
        for v in values {
            p.send_waiting(&self.topic, Some(partition), b"k", v)
                .expect("sent");
        }
        p.flush(Duration::from_secs(30)).expect("flushed");
    }

    /// Starts `veilwatch run` as a process; its log goes to `<name>.log`.
    pub fn spawn(&self, name: &str, config: &Path, env: &[(&str, &str)]) -> Process {
        let config = config.to_str().expect("utf-8");
        self.spawn_verb(name, &["run", "--config", config], env)
    }

    /// Starts the program with other arguments; its log goes to `<name>.log`.
    pub fn spawn_verb(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))
            .expect("log");
        let child = Command::new(program())
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("veilwatch");
        Process(child)
    }

    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.dir.path())
            .expect("directory")
            .flatten()
        {
            if entry.path().extension().is_some_and(|e| e == "log") {
                all.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
        all
    }

    pub async fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(4)
            .connect(&self.postgres.url("postgres"))
            .await
            .expect("a connection")
    }

    /// Offsets applied, summed over partitions.
    pub async fn applied(&self, pool: &PgPool) -> i64 {
        sqlx::query_scalar("SELECT coalesce(sum(next_offset), 0)::bigint FROM vw.stream_partition")
            .fetch_one(pool)
            .await
            .unwrap_or(0)
    }

    /// Waits until `n` offsets are applied.
    pub async fn wait_applied(&self, pool: &PgPool, n: i64, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let at = self.applied(pool).await;
            if at >= n {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "only {at} of {n} offsets applied after {limit:?}\n{}",
                tail(&self.logs(), 40)
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A process of a test. Whatever becomes of the test, its process does not outlive it.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended and was waited for is left alone; a stopped one dies, too.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for Process {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

/// Waits for the end of a process.
pub fn ended(child: &mut Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("waited") {
            return status;
        }
        assert!(Instant::now() < deadline, "still running after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program under test; `VEILWATCH_CHAOS_BIN` names another build of it.
fn program() -> PathBuf {
    std::env::var_os("VEILWATCH_CHAOS_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_veilwatch").into(), PathBuf::from)
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The clock, in the core's form.
pub fn now() -> Time {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    Time(i64::try_from(since.as_millis()).expect("fits"))
}

/// A small workload: few users, so that budgets are crossed.
pub fn small(seed: u64, partitions: i32) -> Workload {
    let shape = Shape {
        seed,
        partitions,
        users: 300,
        finding_every: 20,
        ..Shape::default()
    };
    Workload::new(shape, &format!("boot-{seed}"))
}

/// A runtime for a test that also blocks.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
}

/// Sends a signal to a process.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).expect("pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("pid");
    rustix::process::kill_process(pid, signal).expect("signalled");
}

/// A file that only its owner may read, as secrets must be.
pub fn keep_private(path: &std::path::Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, mode).expect("chmod");
}
