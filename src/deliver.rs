//! Drains the outbox: one worker per sink, retries with backoff and jitter.
//!
//! In: rows that [`crate::store`] committed and handed out under a claim. Out: one message per row in
//! a mailbox, a webhook, a chat or a pager. Nothing is decided here: who is told, when and how often
//! was settled by [`crate::decide`] before the row was written. What is said, and how it is made
//! harmless, stands in [`render`]; when to try again in [`worker`]; each sink is one file.
//!
//! Invariants: a message is sent at least once and under one idempotency key, whatever crashes
//! between sending and marking; a failing sink delays no other; a message that a sink refuses for good
//! is parked and told about through the others ([`health`]), never dropped, and queued again when the
//! sink takes messages again.

pub mod address;
pub mod email;
pub mod health;
pub mod http;
pub mod outbox;
pub mod render;
pub mod stdout;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

pub use health::{Health, Summary};
pub use outbox::{Claimed, Mark, Outbox};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
pub use worker::{Backoff, Limits, Worker};

use crate::decide::Notification;

/// Longest a send may take, connecting included. Claims last 15 s: a send that outlived its claim
/// could overtake the message after it.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest pause a receiver can impose with `Retry-After`. A larger one would let a broken receiver
/// silence a pager for a day; a smaller one would ignore an honest rate limit.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(15);

/// One message on its way to one sink.
#[derive(Debug, Clone)]
pub struct Message {
    /// Idempotency key: the same in every attempt, different for every row of the outbox.
    /// 32 hexadecimal digits, a dash, the sequence number.
    pub id: String,
    /// What to say.
    pub notification: Notification,
}

/// Where notifications go. Closed set: a new sink is one file, one variant, one arm.
#[derive(Debug)]
pub enum Sink {
    /// Mail over SMTP.
    Email(email::Email),
    /// JSON over HTTP: signed webhook, PagerDuty, Slack or Alertmanager.
    Http(http::Http),
    /// JSON lines on standard output.
    Stdout(stdout::Lines),
}

/// What a sink that took a message made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Receivers of the sink that did not get it.
    pub missed: usize,
    /// Why, one line; empty where none was missed.
    pub why: String,
    /// They may get it at another attempt, which tries them alone.
    pub again: bool,
}

impl Sink {
    /// Asks whether the receiver answers, within [`SEND_TIMEOUT`]. No message is sent.
    ///
    /// # Errors
    /// It does not, and why.
    pub async fn reach(&self) -> Result<(), SendError> {
        let attempt = async {
            match self {
                Self::Email(s) => s.reach().await,
                Self::Http(s) => s.reach().await,
                Self::Stdout(_) => Ok(()),
            }
        };
        match tokio::time::timeout(SEND_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(SendError::retry(Reason::Timeout, "no answer within 10 s")),
        }
    }

    /// Sends one message, within [`SEND_TIMEOUT`].
    pub async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let all = Accepted::default();
        let attempt = async {
            match self {
                Self::Email(s) => s.send(message).await,
                Self::Http(s) => s.send(message).await.map(|()| all),
                Self::Stdout(s) => {
                    let line = render::webhook(message).to_string();
                    s.send(line).await.map(|()| all)
                }
            }
        };
        match tokio::time::timeout(SEND_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(SendError::retry(Reason::Timeout, "no answer within 10 s")),
        }
    }
}

/// A sink under its configured name.
#[derive(Debug, Clone)]
pub struct Named {
    /// The name; routes and metrics use it.
    pub name: Arc<str>,
    /// Where messages go.
    pub sink: Arc<Sink>,
    /// How hard it may be driven.
    pub limits: Limits,
}

/// The workers of a process, one per sink.
#[derive(Debug)]
pub struct Fleet {
    /// Which sinks work.
    pub health: Arc<Health>,
    /// Ring it after a commit that wrote to the outbox; nobody waits for the next look then.
    pub wake: Arc<Notify>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Fleet {
    /// Starts a worker for each sink, and the task that tells of broken sinks. Runs inside tokio.
    pub fn start<O: Outbox>(outbox: &Arc<O>, sinks: &[Named], backoff: Backoff) -> Self {
        let health = Arc::new(Health::default());
        let wake = Arc::new(Notify::new());
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for named in sinks {
            let worker = Worker {
                name: Arc::clone(&named.name),
                sink: Arc::clone(&named.sink),
                outbox: Arc::clone(outbox),
                wake: Arc::clone(&wake),
                health: Arc::clone(&health),
                limits: named.limits,
                backoff,
            };
            tasks.spawn(worker.run(stopped.clone()));
        }
        let told = worker::tell_of_broken_sinks(Arc::clone(&health), sinks.to_vec(), stopped);
        tasks.spawn(told);
        Self {
            health,
            wake,
            stop,
            tasks,
        }
    }

    /// Stops claiming, lets what is under way finish; at most [`SEND_TIMEOUT`] and a little.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Why a message was not sent, and whether to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct SendError {
    /// Try again?
    pub disposition: Disposition,
    /// Class, for metrics.
    pub reason: Reason,
    /// One line for the operator. Holds nothing of the message and nothing of the answer's body.
    pub detail: String,
}

impl SendError {
    /// A failure that time may heal.
    pub fn retry(reason: Reason, detail: impl Into<String>) -> Self {
        Self::new(Disposition::Retry { after: None }, reason, detail)
    }
    /// A failure that time does not heal.
    pub fn give_up(reason: Reason, detail: impl Into<String>) -> Self {
        Self::new(Disposition::GiveUp, reason, detail)
    }
    fn new(disposition: Disposition, reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            disposition,
            reason,
            detail: detail.into(),
        }
    }
}

/// What to do about a failed send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Try again, not before `after` if the receiver named a time (already capped).
    Retry {
        /// The receiver's wish.
        after: Option<Duration>,
    },
    /// Park it: the receiver will not take it, however often it is asked.
    GiveUp,
}

/// Why a send failed. Few values: they are metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No answer in time.
    Timeout,
    /// Could not connect, or the connection broke.
    Connection,
    /// TLS failed, or was not offered where it is required.
    Tls,
    /// The receiver asked for fewer messages.
    RateLimited,
    /// The receiver failed.
    Server,
    /// The receiver does not accept our credentials.
    Auth,
    /// The receiver refuses this message.
    Refused,
    /// The receiver points elsewhere; redirects are never followed.
    Redirect,
    /// The name leads to an address that is not allowed.
    Address,
    /// The message could not be built.
    Message,
}

impl Reason {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::RateLimited => "rate_limited",
            Self::Server => "server_error",
            Self::Auth => "auth",
            Self::Refused => "refused",
            Self::Redirect => "redirect",
            Self::Address => "address",
            Self::Message => "message",
        }
    }
    /// Whether a permanent failure for this reason says something about the sink rather than about
    /// the one message.
    pub fn breaks_sink(self) -> bool {
        !matches!(self, Self::Refused | Self::Message)
    }
}
