//! Sets the demo up: broker, Postgres, mailbox, webhook receiver, monitor; and takes it down again.
//!
//! The broker and the monitor are processes of their own, as in life. Each waits on a pipe from the
//! demo, so that they end with it however it ends; they stand in process groups of their own, so
//! that Ctrl-C reaches the demo alone, which then stops them in order.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;

use super::DemoError;
use super::gateway::{PARTITIONS, SEALED_TOPIC, TRUSTED_TOPIC};
use super::mailbox::Mailbox;
use super::receiver::Receiver;
use crate::deliver::http::SigningKey;
use crate::ingest::IngestConfig;
use crate::ingest::publish::Publisher;
use crate::seal::key::{Key, Keys, Purpose};
use crate::store::private::{Options, PrivatePostgres};
use crate::store::{Store, StoreConfig, schema};

/// Longest wait for the monitor to be ready. The embedded broker alone delays its first join by 3 s.
const READY: Duration = Duration::from_secs(60);
/// The login that the page and the terminal show.
const ANALYST: &str = "analyst";
/// Longest wait for a process to end by itself.
const STOP: Duration = Duration::from_secs(15);
/// The monitor's process: ends when its standard input does.
const GUARD: &str = r#"exec 3<&0
"$0" run --config "$1" 3<&- & p=$!
(cat <&3 >/dev/null; kill -TERM $p 2>/dev/null) & c=$!
wait $p; r=$?
kill $c 2>/dev/null
exit $r"#;

/// A child that is stopped, and not left behind, when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    fn start(name: &'static str, command: &mut Command) -> Result<Self, DemoError> {
        let child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|e| DemoError::new(format!("cannot start {name}"), e))?;
        Ok(Self { child, name })
    }
    fn ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input is the order to stop.
        drop(self.child.stdin.take());
        let start = Instant::now();
        while start.elapsed() < STOP {
            if self.ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        tracing::warn!(process = self.name, "does not stop, killed");
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(group) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Everything that runs. Fields are dropped in order: the monitor first, the database last.
#[derive(Debug)]
pub struct Stage {
    monitor: Option<Process>,
    _broker: Process,
    /// The mail server.
    pub mailbox: Mailbox,
    /// The webhook receiver.
    pub receiver: Receiver,
    /// A view of the database.
    pub store: Store,
    /// The key ring that all gateways share.
    pub keys: Arc<Keys>,
    /// Kafka's address.
    pub brokers: String,
    /// The monitor's `/metrics`.
    pub http: String,
    /// The URL that is shown.
    shown: String,
    _postgres: PrivatePostgres,
    dir: tempfile::TempDir,
}

impl Stage {
    /// Starts all but the monitor.
    pub async fn set() -> Result<Self, DemoError> {
        let dir = tempfile::Builder::new()
            .prefix("veilwatch-demo-")
            .tempdir()
            .map_err(|e| DemoError::new("cannot make a temporary folder", e))?;
        let postgres = tokio::task::spawn_blocking(|| PrivatePostgres::start(Options::default()))
            .await
            .map_err(|e| DemoError::new("cannot start Postgres", e))?
            .map_err(|e| DemoError::new("cannot start a private Postgres", e))?;
        let database = StoreConfig::new(postgres.url("postgres"));
        schema::migrate(&database)
            .await
            .map_err(|e| DemoError::new("cannot create the tables", e))?;
        // What is shown is for every account of this machine to read.
        let password = uuid::Uuid::new_v4().simple().to_string();
        schema::analyst(&database, ANALYST, &password)
            .await
            .map_err(|e| DemoError::new("cannot create the login that is shown", e))?;
        let shown = postgres.url_as(ANALYST, &password, "postgres");
        let store = Store::connect(database)
            .await
            .map_err(|e| DemoError::new("cannot connect to the private Postgres", e))?;

        let topics = [SEALED_TOPIC, TRUSTED_TOPIC].map(|t| format!("{t}:{PARTITIONS}"));
        let mut broker = Process::start(
            "the broker",
            Command::new(this_program()?)
                .arg("broker")
                .args(&topics)
                .arg("--until-eof")
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        )?;
        let brokers = first_line(&mut broker.child)
            .ok_or_else(|| DemoError::said("the broker ended before it named its address"))?;

        let signing = random_bytes();
        let secret = format!(
            "whsec_{}",
            base64::engine::general_purpose::STANDARD.encode(signing)
        );
        let key = SigningKey::parse(&secret).map_err(DemoError::said)?;
        let mailbox = Mailbox::start(None)
            .await
            .map_err(|e| DemoError::new("cannot start the mailbox", e))?;
        let receiver = Receiver::start(Some(key))
            .await
            .map_err(|e| DemoError::new("cannot start the webhook receiver", e))?;
        // The first call is refused once, so that a retry is seen.
        receiver.answer([503]);

        let key = Key::derived(random_bytes(), Purpose::All);
        write_private(&dir.path().join("seal.key"), &key.line())?;
        write_private(&dir.path().join("webhook.secret"), &secret)?;
        let keys = Keys::parse(&key.line()).map_err(|e| DemoError::new("the key ring", e))?;
        let http = free_address()?;
        let config = config(
            &brokers,
            &postgres.url("postgres"),
            &http,
            &mailbox,
            &receiver,
        );
        write_private(&dir.path().join("veilwatch.toml"), &config)?;
        Ok(Self {
            monitor: None,
            _broker: broker,
            mailbox,
            receiver,
            store,
            keys: Arc::new(keys),
            brokers,
            http,
            shown,
            _postgres: postgres,
            dir,
        })
    }

    /// Starts the monitor and waits until it is ready.
    pub async fn start_monitor(&mut self) -> Result<(), DemoError> {
        let log = std::fs::File::create(self.log())
            .map_err(|e| DemoError::new("cannot write the monitor's log", e))?;
        let monitor = Process::start(
            "the monitor",
            Command::new("sh")
                .args(["-c", GUARD])
                .arg(this_program()?)
                .arg(self.config())
                .env("RUST_BACKTRACE", "0")
                .stdout(Stdio::null())
                .stderr(log),
        )?;
        self.monitor = Some(monitor);
        let start = Instant::now();
        while !self.is_ready().await {
            if self.monitor_ended() || start.elapsed() > READY {
                return Err(DemoError::said(format!(
                    "the monitor did not become ready:\n{}",
                    self.log_tail()
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Stops the monitor and waits for it.
    pub async fn stop_monitor(&mut self) {
        let monitor = self.monitor.take();
        let _ = tokio::task::spawn_blocking(move || drop(monitor)).await;
    }

    /// Whether the monitor ended by itself.
    pub fn monitor_ended(&mut self) -> bool {
        self.monitor.as_mut().is_some_and(Process::ended)
    }

    async fn is_ready(&self) -> bool {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(&self.http).await else {
            return false;
        };
        let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let mut answer = Vec::new();
        stream.write_all(request).await.is_ok()
            && stream.read_to_end(&mut answer).await.is_ok()
            && answer.starts_with(b"HTTP/1.1 200")
    }

    /// A publisher for the gateways.
    pub fn publisher(&self) -> Result<Publisher, DemoError> {
        let client = IngestConfig::new(&self.brokers, "demo", Vec::new()).client();
        Publisher::new(client).map_err(|e| DemoError::new("cannot publish", e))
    }

    /// The database, for `psql`: as one who reads the views and nothing else.
    pub fn database(&self) -> &str {
        &self.shown
    }

    /// The monitor's configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("veilwatch.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("monitor.log")
    }

    /// The end of the monitor's log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

fn this_program() -> Result<PathBuf, DemoError> {
    std::env::current_exe().map_err(|e| DemoError::new("cannot find this program's file", e))
}

fn first_line(child: &mut Child) -> Option<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take()?)
        .read_line(&mut line)
        .ok()?;
    let line = line.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

fn random_bytes() -> [u8; 32] {
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let mut out = [0; 32];
    out[..16].copy_from_slice(a.as_bytes());
    out[16..].copy_from_slice(b.as_bytes());
    *blake3::hash(&out).as_bytes()
}

fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| DemoError::new("cannot write into the temporary folder", e))
}

fn free_address() -> Result<String, DemoError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|l| l.local_addr())
        .map(|a| a.to_string())
        .map_err(|e| DemoError::new("no free port on loopback", e))
}

fn config(
    brokers: &str,
    database: &str,
    http: &str,
    mailbox: &Mailbox,
    receiver: &Receiver,
) -> String {
    format!(
        r#"# Made by `veilwatch demo`; a real one differs in addresses only.
[ingest]
brokers = ["{brokers}"]
group = "veilwatch-demo"
topics = [{{ name = "{SEALED_TOPIC}", mode = "sealed" }}, {{ name = "{TRUSTED_TOPIC}", mode = "trusted" }}]

[store]
url = "{database}"

[http]
listen = "{http}"

[detect]
audit_grace_minutes = 0   # usually 2: a demo has no time for latecomers

[seal]
key_file = "seal.key"

[[deliver.sink]]
name = "mail"
kind = "email"
smtp = "{smtp}"
to = ["on-call@example.com"]

[[deliver.sink]]
name = "hook"
kind = "webhook"
url = "{url}"
secret_file = "webhook.secret"

[[deliver.route]]
match = {{ stage = "page" }}
sinks = ["mail", "hook"]
group_wait = "0s"

[[deliver.route]]
match = {{ stage = "ticket" }}
sinks = ["hook"]
group_wait = "2s"

[[budget]]
scope = "team"
subject = "globex/batch"
period = "day"
tokens = 1_000_000

[[budget]]
scope = "tenant"
subject = "acme"
period = "month"
usd = "5000"
"#,
        smtp = mailbox.address(),
        url = receiver.url(),
    )
}
