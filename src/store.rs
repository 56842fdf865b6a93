//! Postgres: one fenced transaction per batch, and everything else that touches SQL.
//!
//! Postgres holds the truth about offsets. Each batch begins with a compare-and-set on the row of its
//! partition (`claim_id`, `next_offset`), so a process that no longer owns it changes nothing; results
//! and offset live or die together. Every writer locks in one order:
//!
//! lease → `stream_partition` by (topic, part) → aliases → values by (kid, mac) → ledgers of width 0
//! by (subject, period) → narrow incident heads by key → wide ledgers by (width, subject, period) →
//! wide heads by key → outbox.
//!
//! Housekeeping passes over rows that others hold, and locks nothing but one table's rows and its own
//! place in it (`vw.house`). A replayed dead letter comes before the ledgers (`vw.dead_letter`, `vw.revived`).
//!
//! Transactions run in tasks that are never aborted (`begin` is not cancel-safe) and are bounded by
//! timeouts on the server.

pub mod alias;
mod append;
pub mod audit;
pub mod batch;
mod board;
pub mod budget;
pub mod chaos;
pub mod checkup;
pub mod claim;
mod counters;
mod crowd;
pub mod dead_letter;
pub mod deed;
pub mod error;
mod expire;
mod head;
pub mod history;
pub mod incident;
pub mod leader;
mod lease;
mod ledger;
pub mod maintain;
pub mod notifier;
pub mod offsets;
pub mod outbox;
mod present;
pub mod private;
pub mod report;
mod retest;
pub mod revive;
pub mod schema;
pub mod seed;
pub mod silence;
pub mod told;
pub mod top;
pub mod users;
mod value;
pub mod watched;

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{Connection as _, Executor as _, Row as _};

pub use batch::{Commit, DeadLetterRow, GapRow, PartitionBatch};
pub use claim::Claim;
pub use counters::Counters;
pub use error::StoreError;
pub use leader::{LeaderTask, LeaderTick};
pub use notifier::{NotifierTask, NotifierTick};
pub use sqlx::types::Uuid;

use crate::detect::Stages;
use crate::event::{Hash16, Severity, SmolStr, Stage, Time};

/// The server cancels a statement after this long: a batch takes tens of milliseconds.
const STATEMENT_TIMEOUT: &str = "10s";
/// The server gives up waiting for a lock after this long; the batch is tried again.
const LOCK_TIMEOUT: &str = "4s";
/// The server ends a transaction whose client went silent: a stopped process holds a partition's row
/// no longer than this.
const IDLE_TIMEOUT: &str = "5s";
/// The server ends a transaction that is older (PostgreSQL 17 and later).
const TRANSACTION_TIMEOUT: &str = "20s";
/// How long to wait for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections are renewed after this long, so that a failover behind a name is followed.
const MAX_LIFETIME: Duration = Duration::from_mins(30);
/// What a batch reads it finds by whole keys, row by row. Without statistics (a new database, its first minutes) the
/// planner would rather read small tables whole, and keeps to that while they grow.
const BY_KEY: [(&str, &str); 3] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];
/// A batch's connection that was used within this time is taken to be alive: batches come every tenth of a second,
/// and what breaks in between is tried again. Others are asked before each use.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// How to reach the store and how it behaves.
#[derive(Clone)]
pub struct StoreConfig {
    /// `postgres://user:password@host:5432/database`.
    pub url: String,
    /// Password, where it is not in the URL.
    pub password: Option<String>,
    /// Whether a server on the network may be reached without verified TLS, where the URL does not say
    /// how (`sslmode`).
    pub allow_plaintext: bool,
    /// Connections of the pool: writers, leader, notifier, sinks' workers.
    pub max_connections: u32,
    /// Of them, those that only batches use. Few: each keeps its own prepared plans and caches, so
    /// that batches spread over many are planned again and again.
    pub writers: u32,
    /// Name of this process in `owner` columns and `application_name`.
    pub owner: String,
    /// How long a partition that is behind may hold a minute open; `None` for ever (fault tests).
    pub hold: Option<Duration>,
    /// How long things are kept.
    pub keep: Keep,
    /// Topics whose partitions hold minutes open; empty: all that were ever claimed.
    pub topics: Vec<SmolStr>,
    /// A partition that minutes have been merged without for so long is a finding.
    pub partial_after: Duration,
    /// How far the detectors may go whose findings are made here: budgets, and minutes that stay partial.
    pub stages: Stages,
}

/// How many days things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Dead letters.
    pub dead_letters: u16,
    /// Stored events.
    pub events: u16,
    /// Findings, closed incidents and what was sent about them.
    pub findings: u16,
    /// Audit batches. The head of the chain stands in `stream_partition` for ever.
    pub audit: u16,
    /// Minute parts.
    pub minutes: u16,
    /// Values after their last use.
    pub values: u16,
    /// Ledgers, and users' state after its last change.
    pub ledgers: u16,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            dead_letters: 30,
            events: 30,
            findings: 400,
            audit: 400,
            minutes: 3,
            values: 7,
            ledgers: 400,
        }
    }
}

impl StoreConfig {
    /// With the defaults for everything but the URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password: None,
            allow_plaintext: false,
            max_connections: 16,
            writers: 4,
            owner: format!("{}", std::process::id()),
            hold: Some(Duration::from_mins(2)),
            keep: Keep::default(),
            topics: Vec::new(),
            partial_after: Duration::from_mins(10),
            stages: Stages::default(),
        }
    }
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may carry a password.
        f.debug_struct("StoreConfig")
            .field("owner", &self.owner)
            .field("max_connections", &self.max_connections)
            .field("hold", &self.hold)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

/// A handle on the database. Cloning it is cheap.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    writers: PgPool,
    config: StoreConfig,
    counters: Counters,
    present: std::sync::Mutex<present::Present>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

/// At most `max` connections, opened when they are needed. One that was used within `trust` is taken to be alive.
fn pool(max: u32, trust: Duration, options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(MAX_LIFETIME)
        .test_before_acquire(false)
        .before_acquire(move |conn, meta| {
            Box::pin(async move {
                Ok(meta.idle_for < trust || sqlx::Connection::ping(conn).await.is_ok())
            })
        })
        .after_connect(|conn, _| {
            Box::pin(async move {
                if conn.server_version_num().is_some_and(|v| v >= 170_000) {
                    sqlx::query("SELECT set_config('transaction_timeout', $1, false)")
                        .bind(TRANSACTION_TIMEOUT)
                        .execute(conn)
                        .await?;
                }
                Ok(())
            })
        })
        // A connection whose transaction was left open by a dropped future must not go back
        // into the pool as it is.
        .after_release(|conn, _| {
            Box::pin(async move {
                // Alone, ROLLBACK outside a transaction is a warning in the server's log, at every release.
                conn.execute("BEGIN; ROLLBACK").await?;
                // A batch's statements are megabytes long: each connection would keep its largest.
                conn.shrink_buffers();
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

impl Store {
    /// Connects, and checks the server's version and the schema.
    ///
    /// # Errors
    /// Each with its remedy: unreachable, wrong password, no TLS, too old, not migrated.
    pub async fn connect(config: StoreConfig) -> Result<Self, StoreError> {
        let options = connect_options(&config)?;
        let (at, user) = (address(&options), options.get_username().to_owned());
        // A first connection by hand: the pool would hide a refused login behind a timeout.
        let mut first = <sqlx::PgConnection as sqlx::Connection>::connect_with(&options)
            .await
            .map_err(|e| error::connect_error(at, &user, &e))?;
        schema::check(&mut first).await?;
        let _ = sqlx::Connection::close(first).await;
        let writers = config.writers.min(config.max_connections / 2).max(1);
        let others = config.max_connections.saturating_sub(writers).max(1);
        Ok(Self {
            inner: Arc::new(Inner {
                pool: pool(others, Duration::ZERO, options.clone()),
                writers: pool(writers, TRUSTED_FOR, options.options(BY_KEY)),
                config,
                counters: Counters::default(),
                present: std::sync::Mutex::default(),
            }),
        })
    }

    /// How far the detectors may go whose findings are made here.
    fn stages(&self) -> &Stages {
        &self.inner.config.stages
    }

    /// What happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// The configuration.
    pub fn config(&self) -> &StoreConfig {
        &self.inner.config
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.inner.writers.close().await;
        self.inner.pool.close().await;
    }

    /// Database time: the clock of leases, expiries and idle watermarks.
    pub async fn now(&self) -> Result<Time, StoreError> {
        let at: DateTime<Utc> = sqlx::query("SELECT clock_timestamp()")
            .fetch_one(self.pool())
            .await
            .map_err(StoreError::statement("could not ask for the time"))?
            .get(0);
        Ok(Time(at.timestamp_millis()))
    }

    /// Whether the database answers (`/readyz`).
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.now().await.map(|_| ())
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    /// The connections of batches.
    pub(crate) fn writers(&self) -> &PgPool {
        &self.inner.writers
    }

    /// Runs a future to its end even if the caller goes away: a transaction that is dropped halfway
    /// would leave its connection in an unknown state.
    pub(crate) async fn unabortable<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Err(StoreError::Task(e.to_string())))
    }
}

pub(crate) fn connect_options(config: &StoreConfig) -> Result<PgConnectOptions, StoreError> {
    let scheme = config.url.split_once("://").map(|(s, _)| s);
    if !matches!(scheme, Some("postgres" | "postgresql")) {
        // The URL itself is not shown: it may hold the password.
        return Err(StoreError::Url("it does not begin with postgres://".into()));
    }
    let mut options =
        PgConnectOptions::from_str(&config.url).map_err(|e| StoreError::Url(e.to_string()))?;
    if let Some(password) = &config.password {
        options = options.password(password);
    }
    // sqlx's default would silently go on without TLS.
    if !config.allow_plaintext
        && !is_here(&options)
        && matches!(options.get_ssl_mode(), PgSslMode::Prefer)
    {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    Ok(options
        .application_name(&format!("veilwatch {}", config.owner))
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", LOCK_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_TIMEOUT),
            ("timezone", "UTC"),
            // Compiling a plan takes longer than any batch.
            ("jit", "off"),
            // ROLLBACK outside a transaction is normal on release and need not be reported.
            ("client_min_messages", "error"),
        ]))
}

/// Whether the server is on this machine.
fn is_here(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Whether a URL asks for a server on the network without TLS that is verified. Judged as the connection
/// is made: what the driver reads, wherever in the URL it stands. False for one that cannot be read.
pub fn asks_for_plaintext(url: &str) -> bool {
    PgConnectOptions::from_str(url).is_ok_and(|options| {
        let verified = matches!(
            options.get_ssl_mode(),
            PgSslMode::VerifyCa | PgSslMode::VerifyFull
        );
        !verified && !is_here(&options)
    })
}

pub(crate) fn address(options: &PgConnectOptions) -> String {
    match options.get_socket().cloned().map(PathBuf::into_os_string) {
        Some(socket) => socket.to_string_lossy().into_owned(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// A time for a `timestamptz` column. Times beyond the years 0–9999 cannot leave `decode`; the bound
/// stands for them.
pub(crate) fn stamp(t: Time) -> DateTime<Utc> {
    /// 0000-01-01 and 9999-12-31, milliseconds.
    const YEARS: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);
    DateTime::from_timestamp_millis(t.0.clamp(YEARS.0, YEARS.1)).unwrap_or_default()
}

/// A `timestamptz` as the core's time.
pub(crate) fn time(t: DateTime<Utc>) -> Time {
    Time(t.timestamp_millis())
}

/// The day of a time: the partition key of tables that grow.
pub(crate) fn day(t: Time) -> NaiveDate {
    stamp(t).date_naive()
}

/// A name as it stands in the database.
pub(crate) fn uuid(h: Hash16) -> Uuid {
    Uuid::from_bytes(h.0)
}

/// A uuid column as a name.
pub(crate) fn hash16(u: Uuid) -> Hash16 {
    Hash16(*u.as_bytes())
}

/// A count for a bigint column; saturates.
pub(crate) fn big(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A bigint column as a count; negative is 0.
pub(crate) fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Postgres refuses NUL in text, which would fail the whole batch.
pub(crate) fn clean(s: &str) -> String {
    if s.contains('\0') {
        s.replace('\0', "\u{fffd}")
    } else {
        s.to_owned()
    }
}

/// A severity column: its index in [`crate::event::Severity::ALL`].
pub(crate) fn severity(n: i16) -> Result<Severity, StoreError> {
    usize::try_from(n)
        .ok()
        .and_then(|i| Severity::ALL.get(i).copied())
        .ok_or_else(|| StoreError::Corrupt {
            what: "a severity",
            said: format!("{n} is none"),
        })
}

/// A stage column.
pub(crate) fn stage(n: i16) -> Result<Stage, StoreError> {
    match n {
        0 => Ok(Stage::Shadow),
        1 => Ok(Stage::Ticket),
        2 => Ok(Stage::Page),
        n => Err(StoreError::Corrupt {
            what: "a stage",
            said: format!("{n} is none"),
        }),
    }
}

/// A severity for its column.
pub(crate) fn severity_column(s: Severity) -> i16 {
    match s {
        Severity::Informational => 0,
        Severity::Low => 1,
        Severity::Medium => 2,
        Severity::High => 3,
        Severity::Critical => 4,
    }
}

/// A stage for its column.
pub(crate) fn stage_column(s: Stage) -> i16 {
    match s {
        Stage::Shadow => 0,
        Stage::Ticket => 1,
        Stage::Page => 2,
    }
}
