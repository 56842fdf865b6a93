//! Settings of the consumer, and what they mean to librdkafka.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::telemetry::Secret;

/// Whether a topic may carry text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicMode {
    /// Sealed events only: plain identity or text is refused.
    Sealed,
    /// Text and plain identities are sealed on the way in; needs the seal key.
    Trusted,
}

/// One topic to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// Name.
    pub name: String,
    /// What it may carry.
    pub mode: TopicMode,
}

/// How the group spreads partitions. Never mix both in one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// Eager: everything is revoked, then assigned.
    Range,
    /// Incremental: only what moves is revoked.
    CooperativeSticky,
}

/// How the connection to the brokers is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Neither encrypted nor authenticated.
    Plaintext,
    /// TLS.
    Ssl,
    /// Authenticated, not encrypted.
    SaslPlaintext,
    /// Authenticated over TLS.
    SaslSsl,
}

impl Protocol {
    /// librdkafka's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }
    /// Whether the bytes on the wire are encrypted.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }
}

/// Who we are to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Protection of the connection.
    pub protocol: Protocol,
    /// `SCRAM-SHA-512`, `SCRAM-SHA-256` or `PLAIN`.
    pub mechanism: String,
    /// SASL user.
    pub username: Option<String>,
    /// SASL password.
    pub password: Option<Secret>,
    /// Certificate authorities (PEM); the system's if none.
    pub ca_file: Option<PathBuf>,
    /// Client certificate (PEM) for mutual TLS.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            protocol: Protocol::Plaintext,
            mechanism: "SCRAM-SHA-512".into(),
            username: None,
            password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// Everything `ingest` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestConfig {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// Consumer group.
    pub group: String,
    /// Topics, at least one.
    pub topics: Vec<TopicConfig>,
    /// Protection of the connection.
    pub security: Security,
    /// How partitions are spread.
    pub assignment: Assignment,
    /// A member that is silent so long has left. 30 s rides over a slow machine; a killed process
    /// is replaced after it.
    pub session_timeout: Duration,
    /// Interval of heartbeats, at most a third of the session timeout.
    pub heartbeat_interval: Duration,
    /// A poll thread that is silent so long has left. The claim may take half of it.
    pub max_poll_interval: Duration,
    /// Bytes of records held between Kafka and Postgres, over all partitions of the process; what is
    /// made of them takes twice as much again. A third of it is a commit's worth: a tenth of a second
    /// at 50,000 events a second. More only waits longer.
    pub buffer_bytes: usize,
    /// Most records in a batch of one partition.
    pub batch_records: usize,
    /// A batch waits at most so long for more records.
    pub batch_age: Duration,
    /// A partition with work and without progress for so long is claimed anew.
    pub progress_timeout: Duration,
    /// Accept that a topic was truncated or recreated: go on from what it has now.
    pub accept_truncation: bool,
}

impl IngestConfig {
    /// Settings for a plain broker on loopback, as tests, the demo and the bench use them.
    pub fn new(
        brokers: impl Into<String>,
        group: impl Into<String>,
        topics: Vec<TopicConfig>,
    ) -> Self {
        Self {
            brokers: brokers.into(),
            group: group.into(),
            topics,
            security: Security::default(),
            assignment: Assignment::Range,
            session_timeout: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(3),
            max_poll_interval: Duration::from_secs(120),
            buffer_bytes: 16 * 1024 * 1024,
            batch_records: 4_000,
            batch_age: Duration::from_millis(100),
            progress_timeout: Duration::from_secs(30),
            accept_truncation: false,
        }
    }

    /// The mode of a topic.
    pub fn mode(&self, topic: &str) -> TopicMode {
        let found = self.topics.iter().find(|t| t.name == topic);
        found.map_or(TopicMode::Sealed, |t| t.mode)
    }

    /// What every client of ours needs to reach the brokers.
    pub fn client(&self) -> ClientConfig {
        let mut c = ClientConfig::new();
        let s = &self.security;
        c.set("bootstrap.servers", &self.brokers)
            .set("client.id", "veilwatch")
            .set("security.protocol", s.protocol.as_str())
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "10000")
            .set("log_level", "5");
        if let (Some(user), Some(password)) = (&s.username, &s.password) {
            c.set("sasl.mechanism", &s.mechanism)
                .set("sasl.username", user)
                .set("sasl.password", password.reveal());
        }
        for (key, file) in [
            ("ssl.ca.location", &s.ca_file),
            ("ssl.certificate.location", &s.cert_file),
            ("ssl.key.location", &s.key_file),
        ] {
            if let Some(f) = file {
                c.set(key, f.to_string_lossy());
            }
        }
        c
    }

    /// The consumer's settings without a group: `reliability.md`'s baseline, each for a reason.
    pub fn reader(&self) -> ClientConfig {
        let mut c = self.client();
        c
            // An oversize response costs the connection and with it the other partitions: they must
            // go on soon once its partition is halted.
            .set("reconnect.backoff.max.ms", "2000")
            // Postgres holds the offsets; both would commit unprocessed records.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A new partition is asked after by the leader within half a minute, and holds the minutes until
            // it is read: the default would find it after five.
            .set("topic.metadata.refresh.interval.ms", "30000")
            // The default skips everything unread without a word.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("allow.auto.create.topics", "false")
            // Memory: 16 MiB of fetched records, counted in the memory budget.
            .set("queued.max.messages.kbytes", "16384")
            .set("queued.min.messages", "10000")
            // What filled that memory is read in milliseconds; the default would fetch on after a second.
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.message.max.bytes", "1048576")
            .set("fetch.max.bytes", "8388608")
            // Fixed: it bounds what a compressed batch can cost, and a larger record halts its
            // partition by name instead of the process.
            .set("receive.message.max.bytes", RECEIVE_MAX_BYTES.to_string())
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100");
        c
    }

    /// The settings of the group member.
    pub fn member(&self) -> ClientConfig {
        let mut c = self.reader();
        let ms = |d: Duration| d.as_millis().to_string();
        c.set("group.id", &self.group)
            .set(
                "partition.assignment.strategy",
                match self.assignment {
                    Assignment::Range => "range",
                    Assignment::CooperativeSticky => "cooperative-sticky",
                },
            )
            .set("session.timeout.ms", ms(self.session_timeout))
            .set("heartbeat.interval.ms", ms(self.heartbeat_interval))
            .set("max.poll.interval.ms", ms(self.max_poll_interval));
        c
    }
}

/// `receive.message.max.bytes`: a response above it drops the connection.
pub const RECEIVE_MAX_BYTES: usize = 16 * 1024 * 1024;
