//! Named crash points for the fault tests: `VEILWATCH_FAIL_AT=before-commit:3` aborts the process
//! when it reaches that point for the third time. Compiled in only with the feature `chaos`.

/// A place where a crash must do no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The transaction is open, nothing is done.
    BeforeCas,
    /// The partition's row is locked and advanced.
    AfterCas,
    /// Everything is written, nothing is visible.
    BeforeCommit,
    /// Everything is visible; the caller does not know.
    AfterCommit,
    /// After Kafka's own offset commit.
    AfterKafkaCommit,
    /// A notification is claimed and not sent.
    MidDispatch,
    /// A notification is sent and not marked.
    AfterSend,
    /// A checkpoint is about to be written.
    MidCheckpoint,
    /// Dead letters are about to be written.
    MidDeadLetter,
}

impl Point {
    /// The name in `VEILWATCH_FAIL_AT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeCas => "before-cas",
            Self::AfterCas => "after-cas",
            Self::BeforeCommit => "before-commit",
            Self::AfterCommit => "after-commit",
            Self::AfterKafkaCommit => "after-kafka-commit",
            Self::MidDispatch => "mid-dispatch",
            Self::AfterSend => "after-send",
            Self::MidCheckpoint => "mid-checkpoint",
            Self::MidDeadLetter => "mid-dead-letter",
        }
    }
}

/// Passes the point, or aborts there.
#[cfg(not(feature = "chaos"))]
pub fn reach(_: Point) {}

/// Passes the point, or aborts there.
#[cfg(feature = "chaos")]
pub fn reach(point: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PLAN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let plan = PLAN.get_or_init(|| {
        let plan = std::env::var("VEILWATCH_FAIL_AT").ok()?;
        let (name, n) = plan.split_once(':')?;
        Some((name.to_owned(), n.parse().ok()?))
    });
    if let Some((name, n)) = plan
        && name == point.as_str()
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *n
    {
        std::process::abort();
    }
}

#[cfg(all(feature = "chaos", not(debug_assertions)))]
compile_error!("the feature `chaos` holds crash points: release builds refuse it");
