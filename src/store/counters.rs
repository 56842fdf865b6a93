//! What the store counts: each discard and each retry.

use std::sync::atomic::{AtomicU64, Ordering};

/// What happened since the start; each discard and each retry has a counter.
#[derive(Debug, Default)]
pub struct Counters {
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Transactions tried again after a transient error.
    pub retries: AtomicU64,
    /// … of them deadlocks (40P01): 0 while every writer keeps the lock order.
    pub deadlocks: AtomicU64,
    /// Partitions of a batch that failed their compare-and-set.
    pub fenced: AtomicU64,
    /// COMMITs whose outcome had to be read from the partition's row.
    pub unknown_commits: AtomicU64,
    /// Findings that were already stored.
    pub repeated_findings: AtomicU64,
    /// States of the leader that could not be read: its detectors began anew.
    pub leader_resets: AtomicU64,
    /// Rows expired by the leader.
    pub expired_rows: AtomicU64,
    /// Partitions dropped by retention.
    pub dropped_partitions: AtomicU64,
    /// Values dropped by retention before their minute could be judged: it never merged whole.
    pub unjudged_values: AtomicU64,
    /// Minute parts dropped by retention before they could be merged: their partition stood still.
    pub unmerged_parts: AtomicU64,
    /// Candidates of a value beyond the bound of its row, found when batches met in the row.
    pub value_overflow: AtomicU64,
    /// Findings about subjects of a budget beyond those that are told by name in an hour.
    pub crowded_budgets: AtomicU64,
    /// Rows of values that cannot be read, each time one was met: leaks of that value are not seen.
    pub unreadable_values: AtomicU64,
    /// Lanes, intervals and gateways that the ledger of sequences had to forget: holes in them are not
    /// seen.
    pub forgotten_sequences: AtomicU64,
    /// Dead letters whose place had one already: a topic made anew within the day.
    pub repeated_dead_letters: AtomicU64,
    /// Rows in a DEFAULT partition when this process last looked, plus one; 0: it never did.
    default_rows: AtomicU64,
}

impl Counters {
    /// Rows in a DEFAULT partition when this process last looked, as the leader does: 0 in a healthy
    /// database. `None`: it never did.
    pub fn default_rows(&self) -> Option<u64> {
        self.default_rows.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(super) fn found_default_rows(&self, rows: u64) {
        self.default_rows
            .store(rows.saturating_add(1), Ordering::Relaxed);
    }

    /// What was discarded, by what it was.
    pub fn discards(&self) -> [(&'static str, u64); 7] {
        let n = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("unjudged value", n(&self.unjudged_values)),
            ("unmerged minute part", n(&self.unmerged_parts)),
            ("candidate of a value", n(&self.value_overflow)),
            ("subject of a budget", n(&self.crowded_budgets)),
            ("unreadable row of a value", n(&self.unreadable_values)),
            ("sequence interval", n(&self.forgotten_sequences)),
            (
                "dead letter at a known place",
                n(&self.repeated_dead_letters),
            ),
        ]
    }

    /// What else happened, by what it was.
    pub fn events(&self) -> [(&'static str, u64); 7] {
        let n = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("commit", n(&self.commits)),
            ("retry", n(&self.retries)),
            ("deadlock", n(&self.deadlocks)),
            ("unknown commit", n(&self.unknown_commits)),
            ("repeated finding", n(&self.repeated_findings)),
            ("expired row", n(&self.expired_rows)),
            ("dropped partition", n(&self.dropped_partitions)),
        ]
    }

    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
