//! What a worker needs of the outbox. `store` answers it from Postgres; tests answer it from memory.
//!
//! The rules that the answering side keeps (`DESIGN.md` §8): only the lowest unfinished sequence
//! number of an (incident, sink) is handed out; the most severe first; a claim lapses by itself.

use std::future::Future;
use std::time::Duration;

use super::Message;
use crate::event::Severity;

/// A row handed out to this worker until its claim lapses.
#[derive(Debug, Clone)]
pub struct Claimed<T> {
    /// The row and the claim on it, so that a mark by a worker that was asleep changes nothing.
    pub ticket: T,
    /// Attempts before this one.
    pub attempts: u32,
    /// What to send.
    pub message: Message,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Delivered.
    Sent,
    /// To be tried again after a pause.
    Failed {
        /// The pause.
        pause: Duration,
        /// Why, one line.
        why: String,
    },
    /// Refused for good.
    Parked {
        /// Why, one line.
        why: String,
    },
}

/// The outbox, as one sink's worker sees it.
pub trait Outbox: Send + Sync + 'static {
    /// What went wrong when asking.
    type Error: std::fmt::Display + Send;
    /// What names a row and the claim on it.
    type Ticket: Send + Sync + 'static;

    /// Hands out at most `limit` due rows of `sink` that are at least as severe as `floor`, the most
    /// severe and then the oldest first.
    fn claim(
        &self,
        sink: &str,
        limit: usize,
        floor: Severity,
    ) -> impl Future<Output = Result<Vec<Claimed<Self::Ticket>>, Self::Error>> + Send;

    /// Whether the claim still stands, asked just before sending.
    fn holds(
        &self,
        claimed: &Claimed<Self::Ticket>,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Records what became of the attempt. `false`: the claim had lapsed; the outbox then queues a
    /// repeat of the present state if something was sent, so that a stale message is corrected.
    fn mark(
        &self,
        claimed: &Claimed<Self::Ticket>,
        mark: &Mark,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// The sink takes messages again: what waits for another attempt is due now, and parked messages
    /// that are the last word about their incident are queued again. Returns how many of those.
    fn healed(&self, sink: &str) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Queues one parked message again, to see whether the sink takes it. False: none is parked.
    fn probe(&self, sink: &str) -> impl Future<Output = Result<bool, Self::Error>> + Send;
}
