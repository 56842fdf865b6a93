//! Runs the detectors over sealed events. Pure: no I/O, no clock, no randomness.
//!
//! Two halves. [`PartitionState`] sees the events of one partition in order and writes [`Effects`]:
//! findings of single events, minute parts, values, user rows. [`Leader`] merges the minute parts of
//! all partitions once a minute has closed and judges what no partition can see alone. Each
//! detector's header says in which of the three homes its state lives: partition, shared row, merged
//! minute.
//!
//! Invariants: the same records in the same order give the same bytes, however they were cut into
//! batches, and whenever the state was checkpointed and restored; nothing here reads a clock.

pub mod access;
pub mod alias;
pub mod audit;
pub mod blind;
pub mod campaign;
pub mod config;
pub mod drift;
pub mod errors;
pub mod fact;
mod flood;
pub mod injection;
pub mod latency;
pub mod leader;
pub mod leak;
pub mod part;
pub mod partition;
pub mod prompt_leak;
pub mod resident;
mod room;
pub mod series;
mod single;
pub mod spend;
mod spread;
mod told;
pub mod user;
pub mod value;
pub mod window;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use alias::Wanted;
pub use config::{DetectConfig, Stages};
pub use fact::{Fact, Facts};
pub use leader::{Gathered, Leader, Part};
pub use partition::PartitionState;
pub use value::{ValueDelta, ValueKey, ValueRow};

use crate::decode::Origin;
use crate::event::{Event, Hash16, Position, Pseudonym, Severity, SmolStr, Stage, Time, hash16};

/// A minute closes this long after its end; an event appended later than that is late.
pub const CLOSE_AFTER_MS: i64 = 10_000;

/// Names a detector. The order is the order of the registry and of sorted output.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum DetectorId {
    /// Prompt injection in requests and context.
    Injection,
    /// PII and credentials in responses, credentials in requests, values of other users.
    Leak,
    /// A registered text reappears.
    PromptLeak,
    /// One attack from many users.
    Campaign,
    /// Spending far above the own baseline.
    Spend,
    /// A threshold of a budget is crossed.
    Budget,
    /// Time to first token, time per output token.
    Latency,
    /// Error, timeout and refusal rates.
    Errors,
    /// A model version appears or changes.
    Drift,
    /// Completeness and honesty of the evidence.
    Audit,
    /// Keys, tools, sources and models outside their limits.
    Access,
}

impl DetectorId {
    /// All detectors, in registry order.
    pub const ALL: [Self; 11] = [
        Self::Injection,
        Self::Leak,
        Self::PromptLeak,
        Self::Campaign,
        Self::Spend,
        Self::Budget,
        Self::Latency,
        Self::Errors,
        Self::Drift,
        Self::Audit,
        Self::Access,
    ];

    /// The name in output, tables, config and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injection => "injection",
            Self::Leak => "leak",
            Self::PromptLeak => "prompt-leak",
            Self::Campaign => "campaign",
            Self::Spend => "spend",
            Self::Budget => "budget",
            Self::Latency => "latency",
            Self::Errors => "errors",
            Self::Drift => "drift",
            Self::Audit => "audit",
            Self::Access => "access",
        }
    }

    /// The detector of that name.
    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.as_str() == s)
    }
}

/// What a detector saw. Becomes part of an incident unless its stage is shadow.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// hash(detector, rule, version, subject, window start or event id).
    pub id: Hash16,
    /// Who saw it.
    pub detector: DetectorId,
    /// Rule id: of the rule file, or the detector's own.
    pub rule: SmolStr,
    /// Version of the rule.
    pub version: u32,
    /// How bad.
    pub severity: Severity,
    /// What it may do.
    pub stage: Stage,
    /// Tenant, empty where none is given.
    pub tenant: SmolStr,
    /// `user:k7:…`, `model:…`, `gateway:…`, `key:…`, `team:…`, `tenant:…`, `everyone:*`.
    pub subject: SmolStr,
    /// When it happens in virtual time: the event's end, or the minute's close.
    pub at: Time,
    /// Start of what was seen.
    pub start: Time,
    /// End of what was seen; incidents resolve and reopen by it.
    pub end: Time,
    /// The user concerned.
    pub user: Option<Pseudonym>,
    /// The model (version) concerned.
    pub model: Option<SmolStr>,
    /// The gateway concerned.
    pub gateway: Option<SmolStr>,
    /// Id of the event, where it is one event.
    pub event: Option<SmolStr>,
    /// Numbers and names only, in one sentence.
    pub reason: String,
    /// How long after `end` the incident resolves by itself, milliseconds.
    pub resolve_after_ms: i64,
}

impl Finding {
    /// The incident key: hash(tenant, detector, rule, subject).
    pub fn key(&self) -> Hash16 {
        incident_key(&self.tenant, self.detector, &self.rule, &self.subject)
    }
}

/// The incident key: hash(tenant, detector, rule, subject). The number is not part of it.
pub fn incident_key(tenant: &str, detector: DetectorId, rule: &str, subject: &str) -> Hash16 {
    hash16(
        "incident",
        &[
            tenant.as_bytes(),
            detector.as_str().as_bytes(),
            rule.as_bytes(),
            subject.as_bytes(),
        ],
    )
}

/// The finding id: hash(detector, rule, version, subject, window start or event id).
pub fn finding_id(
    detector: DetectorId,
    rule: &str,
    version: u32,
    subject: &str,
    what: &[u8],
) -> Hash16 {
    hash16(
        "finding",
        &[
            detector.as_str().as_bytes(),
            rule.as_bytes(),
            &version.to_le_bytes(),
            subject.as_bytes(),
            what,
        ],
    )
}

/// One level worse, at most critical.
pub fn raise(severity: Severity) -> Severity {
    match severity {
        Severity::Informational => Severity::Low,
        Severity::Low => Severity::Medium,
        Severity::Medium => Severity::High,
        Severity::High | Severity::Critical => Severity::Critical,
    }
}

/// One level milder, at least informational.
pub fn lower(severity: Severity) -> Severity {
    match severity {
        Severity::Informational | Severity::Low => Severity::Informational,
        Severity::Medium => Severity::Low,
        Severity::High => Severity::Medium,
        Severity::Critical => Severity::High,
    }
}

/// What [`PartitionState::observe`] says about an event that is not a duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When the call ended, clamped.
    pub end: Time,
    /// Appended more than 10 s after the minute of `end` ended.
    pub late: bool,
    /// The user under the oldest known key id: ledgers, state and senders use it.
    pub user: Option<Pseudonym>,
    /// The API key under the oldest known key id.
    pub api_key: Option<Pseudonym>,
}

/// Everything one batch of one partition wants written (ledgers stand in `account`).
///
/// Call [`Effects::close`] once, after the batch's last event; only then are the maps complete.
#[derive(Debug, Default)]
pub struct Effects {
    /// Findings in record order, shadow ones too.
    pub findings: Vec<Finding>,
    /// One encoded part per (minute, late). Mergeable in any order by the leader. Empty before
    /// [`Effects::close`].
    pub minute_parts: BTreeMap<(i64, bool), Vec<u8>>,
    /// Values seen, for the cross-user leak. Key order is lock order.
    pub values: BTreeMap<ValueKey, ValueDelta>,
    /// User rows evicted since the last batch. Rows of a checkpoint come with it.
    pub user_rows: Vec<UserRow>,
    /// Rotated pseudonyms seen for the first time, or again after a day: (new, oldest known).
    pub aliases: Vec<(Pseudonym, Pseudonym)>,
    /// Events to be kept: those with a finding, and what [`config::Keep`] adds, in record order.
    pub flagged: Vec<FlaggedEvent>,
    /// What happened, counted.
    pub counters: Counters,
    /// Parts under construction.
    parts: part::Builders,
}

impl Effects {
    /// Notes a record that was refused: its gateway's, and its number, which is here if not as an event.
    pub fn refused(&mut self, append: Time, origin: &Origin) {
        let gateway = &origin.gateway;
        let place = origin.place.as_ref().map(|(boot, lane, seq)| {
            let key = part::LaneKey {
                gateway: gateway.clone(),
                boot: boot.clone(),
                lane: *lane,
            };
            (key, *seq)
        });
        let place = place.as_ref().map(|(key, seq)| (key, *seq));
        self.parts
            .refused(append, gateway, place, &mut self.counters);
    }

    /// Ends the batch: encodes the minute parts.
    pub fn close(&mut self) {
        self.parts.finish(&mut self.minute_parts);
    }
}

/// One row of per-user state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Whose.
    pub user: Pseudonym,
    /// Offset up to which (exclusive) the state is applied.
    pub as_of: i64,
    /// The state, at most [`user::MAX_BYTES`].
    pub state: Arc<[u8]>,
}

/// An event that is kept for analysts: it has a finding, or was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct FlaggedEvent {
    /// Where it stands.
    pub position: Position,
    /// Its end, clamped.
    pub end: Time,
    /// The event; sealed, so it holds no text.
    pub event: Event,
}

/// Counters of a batch. Every discard has one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Events accepted.
    pub events: u64,
    /// Duplicates left out.
    pub duplicates: u64,
    /// Accepted, but appended after their minute closed.
    pub late: u64,
    /// End outside [append − 24 h, append + 5 min].
    pub clamped: u64,
    /// Users whose row had not been loaded: they start afresh.
    pub unloaded_users: u64,
    /// Users evicted from memory (their rows are in `user_rows`).
    pub evicted_users: u64,
    /// Entries that did not fit a minute part's bounded tables.
    pub part_overflow: u64,
    /// Values beyond the bound of a value's row.
    pub value_overflow: u64,
    /// Events with a text that was scanned in part only.
    pub part_scanned: u64,
    /// Events whose place in a sequence another event has.
    pub conflicts: u64,
    /// Older names (`prev`) that were not believed.
    pub alias_refused: u64,
    /// Hits of informational rules that would else have been leaks: kept in the sketch, no finding.
    pub informational: u64,
    /// Occurrences in an answer of what its user or its operator had put into the call: no leak.
    pub echoed: u64,
    /// Events of models that nobody is known to have: they share a ledger.
    pub unknown_models: u64,
    /// Findings told of by their gateway, since there were too many subjects.
    pub crowded: u64,
}

impl Counters {
    /// Adds another batch's counters.
    pub fn add(&mut self, o: &Self) {
        self.events += o.events;
        self.duplicates += o.duplicates;
        self.late += o.late;
        self.clamped += o.clamped;
        self.unloaded_users += o.unloaded_users;
        self.evicted_users += o.evicted_users;
        self.part_overflow += o.part_overflow;
        self.value_overflow += o.value_overflow;
        self.part_scanned += o.part_scanned;
        self.informational += o.informational;
        self.echoed += o.echoed;
        self.unknown_models += o.unknown_models;
        self.crowded += o.crowded;
        self.conflicts += o.conflicts;
        self.alias_refused += o.alias_refused;
    }
}

/// A checkpoint: encoded state with its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Offset up to which (exclusive) the state is applied; 0 for the leader.
    pub as_of: i64,
    /// Format number; one version back is readable.
    pub fmt: i32,
    /// The state.
    pub bytes: Vec<u8>,
}

/// A checkpoint that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version.
    #[error(
        "checkpoint has format {found}, this version reads {expected}: start the version that wrote it, or delete the row to learn again"
    )]
    Format {
        /// What the row says.
        found: i32,
        /// What this program writes.
        expected: i32,
    },
    /// Cut off or altered.
    #[error(
        "checkpoint is damaged at byte {at} of {len}: restore the row from a backup, or delete it to learn again"
    )]
    Damaged {
        /// Where reading stopped.
        at: usize,
        /// How long it is.
        len: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for d in DetectorId::ALL {
            assert_eq!(DetectorId::parse(d.as_str()), Some(d));
            assert_eq!(
                serde_json::to_string(&d).expect("json"),
                format!("\"{}\"", d.as_str())
            );
        }
        assert_eq!(DetectorId::parse("nothing"), None);
    }

    #[test]
    fn key_ignores_version_and_window() {
        let k = incident_key("acme", DetectorId::Leak, "r", "user:x");
        assert_ne!(k, incident_key("acme", DetectorId::Leak, "r", "user:y"));
        assert_ne!(
            finding_id(DetectorId::Leak, "r", 1, "user:x", b"e1"),
            finding_id(DetectorId::Leak, "r", 2, "user:x", b"e1")
        );
    }
}
