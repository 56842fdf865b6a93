//! The store on a real Postgres. Fault cases carry their ids (`f21_…`).

mod audit;
mod budget;
mod cold;
mod commit;
mod fault;
mod house;
mod leader;
mod notifier;
mod oncall;
mod outbox;
mod schema;
mod value;
mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::postgres::Db;
use veilwatch::account::{Grain, LedgerDelta, LedgerKey, LedgerRows, PeriodKind, Scope, Subject};
use veilwatch::detect::{DetectorId, Finding, finding_id};
use veilwatch::event::{Kid, Pseudonym, Severity, SmolStr, Stage, Time, TopicPartition};
use veilwatch::store::{Claim, Commit, DeadLetterRow, PartitionBatch, Store};

/// 2026-11-21T12:00:00Z, when nothing else is said.
pub const NOON: Time = Time(1_795_262_400_000);

/// Until a connection to this database waits for a lock.
pub async fn until_one_waits(db: &Db) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + Duration::from_secs(20);
    while db.number(waiting).await == 0 {
        assert!(Instant::now() < deadline, "nobody waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn tp(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: SmolStr::new("events"),
        partition,
    }
}

pub fn user(n: u32) -> Pseudonym {
    let mut mac = [0; 16];
    mac[..4].copy_from_slice(&n.to_be_bytes());
    Pseudonym {
        kid: Kid::parse("k7").expect("kid"),
        mac,
    }
}

pub fn ledger_key(scope: Scope, subject: &str, at: Time) -> LedgerKey {
    LedgerKey {
        scope,
        subject: Subject::read(scope, subject),
        period: Grain::utc(PeriodKind::Day).period(at),
    }
}

pub fn tokens(n: u64) -> LedgerDelta {
    LedgerDelta {
        events: 1,
        tokens_input: n,
        cost_pico: i128::from(n) * 1_000,
        ..LedgerDelta::default()
    }
}

/// A finding of one event of a user.
pub fn finding(who: u32, event: &str, end: Time, severity: Severity) -> Finding {
    let subject = SmolStr::new(format!("user:{}", user(who)));
    Finding {
        id: finding_id(DetectorId::Leak, "leak-pii", 1, &subject, event.as_bytes()),
        detector: DetectorId::Leak,
        rule: SmolStr::new("leak-pii"),
        version: 1,
        severity,
        stage: Stage::Page,
        tenant: SmolStr::new("acme"),
        subject,
        at: end,
        start: end,
        end,
        user: Some(user(who)),
        model: Some(SmolStr::new("gpt")),
        gateway: Some(SmolStr::new("gw1")),
        event: Some(SmolStr::new(event)),
        reason: "one value of type US_SSN".to_owned(),
        resolve_after_ms: 3_600_000,
    }
}

/// The next batch of a partition as its owner would build it.
pub struct Owner {
    pub tp: TopicPartition,
    pub claim: Claim,
    pub next: i64,
    pub head: [u8; 32],
    pub watermark: Time,
}

impl Owner {
    pub async fn claim(store: &Store, partition: i32) -> Self {
        let tp = tp(partition);
        let claim = store.claim(&tp, 0).await.expect("claim");
        Self {
            next: claim.next_offset,
            head: claim.chain_head,
            watermark: claim.watermark.max(NOON),
            tp,
            claim,
        }
    }

    /// A batch of `n` records, empty otherwise.
    pub fn batch(&self, n: u32) -> PartitionBatch {
        let hi = self.next + i64::from(n);
        let mut h = blake3::Hasher::new();
        h.update(&self.head);
        h.update(&hi.to_le_bytes());
        PartitionBatch {
            tp: self.tp.clone(),
            claim_id: self.claim.claim_id,
            lo: self.next,
            hi,
            records: n,
            watermark: self.watermark,
            last_ts_ms: self.watermark.0,
            last_crc: 7,
            chain_prev: self.head,
            chain_head: *h.finalize().as_bytes(),
            kid: SmolStr::default(),
            dead_letters: Vec::new(),
            halt: None,
            gaps: Vec::new(),
            effects: veilwatch::detect::Effects::default(),
            ledger: LedgerRows::default(),
            checkpoint: None,
        }
    }

    /// The batch was applied.
    pub fn applied(&mut self, b: &PartitionBatch) {
        self.next = b.hi;
        self.head = b.chain_head;
    }

    /// Commits one batch and goes on from it.
    pub async fn commit(&mut self, store: &Store, b: PartitionBatch) -> Commit {
        let batches: Arc<[PartitionBatch]> = Arc::new([b]);
        let done = store.commit(Arc::clone(&batches)).await.expect("commit");
        assert_eq!(done.fenced, vec![]);
        self.applied(&batches[0]);
        done
    }
}

pub fn one(b: PartitionBatch) -> Arc<[PartitionBatch]> {
    Arc::new([b])
}

pub fn dead_letter(offset: i64) -> DeadLetterRow {
    DeadLetterRow {
        offset,
        append: NOON,
        reason: SmolStr::new("bad_json"),
        path: "usage.input".to_owned(),
        byte: Some(12),
        bytes: 900,
        gateway: Some(SmolStr::new("gw1")),
    }
}
