//! Kafka: the consumer, the publisher and the embedded broker. The only user of rdkafka.
//!
//! One OS thread polls (`consumer`). Postgres says where a partition starts: on assignment the
//! thread claims it through [`Claims`], inside librdkafka's callback, and assigns once with those
//! offsets. Records are copied into [`Batch`]es and handed to the workers' [`Inbox`]es; a worker
//! that is behind pauses its partitions, while the thread keeps polling. What the worker committed
//! comes back as [`Feedback`]. Kafka's own offsets are hints for lag tools.
//!
//! Nothing here looks into a record, and nothing is lost without a [`Delivery`] that says so.

mod ask;
pub mod batch;
pub mod broker;
pub mod checkup;
mod consumer;
mod context;
pub mod errors;
pub mod inbox;
pub mod publish;
pub mod read;
pub mod relay;
mod said;
pub mod settings;
mod slot;
mod watch;

use std::sync::mpsc;

pub use ask::ends;
pub use batch::{Batch, Fetched, Fingerprint, Record};
pub use consumer::{Ended, Handle, spawn};
pub use inbox::Inbox;
pub use settings::{Assignment, IngestConfig, Protocol, Security, TopicConfig, TopicMode};
use uuid::Uuid;
pub use watch::{TopicError, check_topics};

use crate::event::TopicPartition;

/// What Postgres knows about a partition, as far as the consumer needs it.
#[derive(Debug)]
pub struct Claimed<C> {
    /// The fence: random, new on every claim.
    pub id: Uuid,
    /// First offset that is not applied.
    pub next_offset: i64,
    /// Offset of the checkpoint: records from here on are replayed.
    pub start: i64,
    /// The last applied record, if any.
    pub last: Option<Fingerprint>,
    /// Set when the partition was halted and is still waiting for an operator.
    pub halted: Option<String>,
    /// What the pipeline needs of it.
    pub state: C,
}

/// Claims partitions in the place that holds the truth about offsets.
pub trait Claims: Send + Sync + 'static {
    /// What the pipeline needs of a claim; passed through.
    type State: Send + 'static;

    /// Claims these partitions; the number is the earliest offset Kafka still has. Runs on the
    /// poll thread and may block it, at most `budget`.
    ///
    /// # Errors
    /// The truth cannot be reached within the budget; the process must end.
    fn claim(
        &self,
        wanted: &[(TopicPartition, i64)],
        budget: std::time::Duration,
    ) -> Result<Vec<Claimed<Self::State>>, ClaimError>;

    /// How many partitions a configured topic has now; said from time to time.
    fn partitions(&self, topic: &str, n: usize) {
        let _ = (topic, n);
    }
}

/// A claim that failed for good.
#[derive(Debug, thiserror::Error)]
#[error("cannot claim partitions: {0}")]
pub struct ClaimError(pub String);

/// Offsets that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// First lost offset.
    pub lo: i64,
    /// One past the last.
    pub hi: i64,
    /// Why: `retention`, `truncated`, `skipped`.
    pub reason: &'static str,
}

/// What the poll thread tells a worker. Order is kept per partition.
#[derive(Debug)]
pub enum Delivery<C> {
    /// The partition is ours from here on.
    Assigned {
        /// The partition.
        tp: TopicPartition,
        /// What it may carry.
        mode: TopicMode,
        /// The claim.
        claim: Claimed<C>,
    },
    /// Records.
    Batch(Batch),
    /// Offsets that Kafka no longer has; the partition goes on behind them.
    Gap {
        /// The partition.
        tp: TopicPartition,
        /// The claim.
        claim: Uuid,
        /// What is gone.
        gap: Gap,
    },
    /// The partition stands at its end: everything appended up to this moment is delivered.
    AtEnd {
        /// The partition.
        tp: TopicPartition,
        /// The claim.
        claim: Uuid,
        /// The offset it stands at.
        offset: i64,
        /// When Kafka said so.
        asked: std::time::Instant,
    },
    /// The partition cannot go on without an operator.
    Halted {
        /// The partition.
        tp: TopicPartition,
        /// The claim.
        claim: Uuid,
        /// First offset that cannot be read.
        offset: i64,
        /// One word: `oversize`, `truncated`, `corrupt`, `panics`.
        reason: &'static str,
    },
    /// The partition belongs to somebody else now. Answer on `done` when nothing of it is in
    /// flight.
    Revoked {
        /// The partition.
        tp: TopicPartition,
        /// Ends the poll thread's wait.
        done: mpsc::Sender<()>,
    },
}

/// What a worker tells the poll thread.
#[derive(Debug)]
pub enum Feedback {
    /// Everything below `next` is committed.
    Committed {
        /// The partition.
        tp: TopicPartition,
        /// The claim.
        claim: Uuid,
        /// First offset that is not applied.
        next: i64,
    },
    /// The claim is void (fenced, or the state had to be thrown away): claim anew if the partition
    /// is still assigned.
    Reclaim {
        /// The partition.
        tp: TopicPartition,
        /// The void claim.
        claim: Uuid,
        /// Wait so long first: whoever claimed it may be its rightful owner, and the group will
        /// tell us.
        after: std::time::Duration,
    },
    /// An operator has looked at a halted partition: claim it anew.
    Resume {
        /// The partition.
        tp: TopicPartition,
    },
    /// The partition must stop.
    Halt {
        /// The partition.
        tp: TopicPartition,
        /// The claim.
        claim: Uuid,
        /// First offset that cannot be applied.
        offset: i64,
        /// One word.
        reason: &'static str,
    },
}
