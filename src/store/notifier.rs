//! The notifier: one process in the fleet decides what is sent.
//!
//! One transaction takes the changes that nobody decided on yet, calls `decide::notify`, and writes
//! outbox rows, one fate for each (change, sink), the groups it changed and its own changes (repeats,
//! escalations). It takes changes by state, not by a mark it passed: a lower id may commit later. It
//! also resolves incidents whose moment every watermark has passed.
//!
//! A row that this version cannot read (a newer one wrote it, a byte was damaged) is left alone and
//! counted; the others are decided on. A silence that cannot be read mutes nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgListener, PgRow};
use sqlx::{PgConnection, Row as _};

use super::board::{save_board, wake};
use super::lease::{self, Lease, LeaseName};
use super::outbox::{expire_unsent, queue};
use super::silence::active_silences;
use super::{
    Store, StoreError, Uuid, clean, hash16, head, incident, severity, severity_column, stage,
    stage_column, stamp, time, uuid,
};
use crate::decide::notify::{AWAKE, Board, FateRow};
use crate::decide::{self, Change, ChangeKind, Head, Notified, Routes, Titles};
use crate::event::{Hash16, SmolStr, Time};

/// Most changes decided on in one transaction.
const CHANGES_AT_ONCE: i64 = 1_000;
/// Unreadable rows that are remembered, so as not to be read each time; beyond that all are read again.
const SKIPPED: usize = 10_000;
/// Pause between two looks for messages that nobody took.
const EXPIRE: Duration = Duration::from_mins(1);
/// Most incidents resolved in one transaction.
const RESOLVE_AT_ONCE: i64 = 500;
/// Channel that tells the sinks' workers of new rows.
pub(super) const OUTBOX: &str = "veilwatch_outbox";

/// What a tick did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifierTick {
    /// Whether this process is the notifier.
    pub leads: bool,
    /// Changes decided on.
    pub changes: u64,
    /// Outbox rows written.
    pub queued: u64,
    /// Incidents resolved.
    pub resolved: u64,
    /// Changes it made itself: repeats and escalations.
    pub own: u64,
    /// Candidates by sink and fate.
    pub fates: BTreeMap<(SmolStr, decide::Fate), u64>,
    /// More changes wait: call again at once.
    pub more: bool,
    /// When to call again even if nothing changes (database time).
    pub next_due: Option<Time>,
    /// Rows that turned out unreadable in this call, by what they are.
    pub unreadable: BTreeMap<&'static str, u64>,
    /// All rows left alone because they cannot be read.
    pub skipped: u64,
    /// Messages that nobody took for days and that were given up, by sink.
    pub expired: Vec<(SmolStr, u64)>,
}

/// The notifier of this process; call [`NotifierTask::tick`] when woken, and about once a second.
#[derive(Debug)]
pub struct NotifierTask {
    store: Store,
    routes: Routes,
    held: Option<Held>,
    claim: Option<Uuid>,
    /// Groups that could not be read when the lease was taken, until a tick has told of them.
    new_groups: u64,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    board: Board,
    skip: Skip,
    expired_at: Option<Instant>,
}

/// Rows that cannot be read and are left alone, so that they hold nothing else back.
#[derive(Debug, Clone, Default)]
pub(super) struct Skip {
    pub(super) changes: BTreeSet<i64>,
    pub(super) heads: BTreeSet<Hash16>,
    pub(super) groups: u64,
    pub(super) silences: BTreeSet<i64>,
}

impl Skip {
    fn counts(&self) -> [(&'static str, u64); 4] {
        [
            ("change", self.changes.len() as u64),
            ("incident", self.heads.len() as u64),
            ("group", self.groups),
            ("silence", self.silences.len() as u64),
        ]
    }
    /// What came since `before`.
    fn since(&self, before: &Self) -> BTreeMap<&'static str, u64> {
        let pairs = self.counts().into_iter().zip(before.counts());
        pairs
            .map(|((what, is), (_, was))| (what, is.saturating_sub(was)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }
    fn bound(&mut self) {
        if self.changes.len() > SKIPPED {
            self.changes.clear();
        }
        if self.heads.len() > SKIPPED {
            self.heads.clear();
        }
        if self.silences.len() > SKIPPED {
            self.silences.clear();
        }
    }
}

impl NotifierTask {
    /// Not the notifier yet.
    pub fn new(store: Store, routes: Routes) -> Self {
        Self {
            store,
            routes,
            held: None,
            claim: None,
            new_groups: 0,
        }
    }

    /// Takes other titles, between two ticks.
    pub fn configure(&mut self, titles: Titles) {
        self.routes.titles = titles;
    }

    /// Takes or renews the lease, resolves, decides.
    ///
    /// # Errors
    /// Transient ones: call again. The state is read afresh.
    pub async fn tick(&mut self) -> Result<NotifierTick, StoreError> {
        let mut held = if let Some(held) = self.held.take() {
            held
        } else {
            let Some(lease) = self
                .store
                .take_lease(LeaseName::Notifier, self.claim)
                .await?
            else {
                return Ok(NotifierTick::default());
            };
            self.claim = Some(lease.claim_id);
            let (board, groups) = self.store.load_board(&self.routes).await?;
            self.new_groups = groups;
            Held {
                lease,
                board,
                skip: Skip {
                    groups,
                    ..Skip::default()
                },
                expired_at: None,
            }
        };
        let (store, routes) = (self.store.clone(), self.routes.clone());
        let done = self
            .store
            .unabortable(async move {
                let tick = store.notify(&routes, &mut held).await?;
                Ok((held, tick))
            })
            .await;
        match done {
            Ok((held, mut tick)) => {
                self.held = Some(held);
                let groups = std::mem::take(&mut self.new_groups);
                if groups > 0 {
                    tick.unreadable.insert("group", groups);
                }
                Ok(tick)
            }
            Err(StoreError::LeaseLost(_)) => Ok(NotifierTick::default()),
            Err(e) => Err(e),
        }
    }

    /// Gives the lease up, so that another process need not wait for it to lapse.
    pub async fn give_up(&mut self) -> Result<(), StoreError> {
        if let Some(held) = self.held.take() {
            self.store.give_up(&held.lease).await?;
        }
        Ok(())
    }
}

impl Store {
    async fn notify(&self, routes: &Routes, held: &mut Held) -> Result<NotifierTick, StoreError> {
        let what = "could not decide on notifications";
        let sql = StoreError::statement;
        let mut skip = held.skip.clone();
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        lease::renew(&mut tx, &held.lease).await?;
        let marks = self.watermarks(&mut tx).await?;
        // A partition that waits for an operator would keep every incident open until then.
        let going = marks.iter().filter(|m| !m.halted).map(|m| m.watermark);
        let watermark = going
            .min()
            .or_else(|| marks.iter().map(|m| m.watermark).min());
        let now = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&mut *tx)
            .await
            .map_err(sql(what))?;
        let now = time(now);
        let mut tick = NotifierTick {
            leads: true,
            ..NotifierTick::default()
        };
        if let Some(watermark) = watermark {
            tick.resolved =
                incident::resolve_due(&mut tx, watermark, RESOLVE_AT_ONCE, &mut skip.heads).await?;
        }
        let (ids, changes) = untaken(&mut tx, &mut skip.changes).await?;
        let silences = active_silences(&mut tx, &mut skip.silences).await?;
        let wanted = held.board.wanted(routes, &changes, now);
        skip.groups += wake(&mut tx, &mut held.board, wanted).await?;
        let storms = held.board.storms.clone();
        let (notified, before) =
            decide::notify_and_tell(routes, &silences, &mut held.board, &changes, now);
        tick.changes = changes.len() as u64;
        tick.queued = notified.outbox.len() as u64;
        tick.more = i64::try_from(ids.len()).unwrap_or(0) == CHANGES_AT_ONCE
            || tick.resolved == RESOLVE_AT_ONCE.unsigned_abs();
        if held.expired_at.is_none_or(|at| at.elapsed() >= EXPIRE) {
            tick.expired = expire_unsent(&mut tx).await?;
            held.expired_at = Some(Instant::now());
        }
        write(&mut tx, &notified).await?;
        save_board(&mut tx, &before, &storms, &held.board).await?;
        if !ids.is_empty() {
            sqlx::query("UPDATE vw.incident_change SET taken = true WHERE id = ANY ($1)")
                .bind(&ids)
                .execute(&mut *tx)
                .await
                .map_err(sql(what))?;
        }
        if !notified.outbox.is_empty() {
            sqlx::query("SELECT pg_notify($1, '')")
                .bind(OUTBOX)
                .execute(&mut *tx)
                .await
                .map_err(sql(what))?;
        }
        tx.commit().await.map_err(sql(what))?;
        tick.own = notified.changes.len() as u64;
        for f in &notified.fates {
            *tick.fates.entry((f.sink.clone(), f.fate)).or_default() += 1;
        }
        held.board.rest(routes, now, AWAKE);
        tick.next_due = held.board.next_due(routes);
        tick.unreadable = skip.since(&held.skip);
        tick.skipped = skip.counts().iter().map(|(_, n)| n).sum();
        skip.bound();
        held.skip = skip;
        Ok(tick)
    }

    /// A listener that wakes on changes (for the notifier).
    pub async fn watch_changes(&self) -> Result<Waker, StoreError> {
        self.watch(head::CHANGES).await
    }

    /// A listener that wakes on new outbox rows (for the sinks' workers).
    pub async fn watch_outbox(&self) -> Result<Waker, StoreError> {
        self.watch(OUTBOX).await
    }

    async fn watch(&self, channel: &'static str) -> Result<Waker, StoreError> {
        let what = "could not listen for changes";
        let mut listener = PgListener::connect_with(self.pool())
            .await
            .map_err(StoreError::statement(what))?;
        listener
            .listen(channel)
            .await
            .map_err(StoreError::statement(what))?;
        Ok(Waker { listener })
    }
}

/// Wakes a task when another transaction has work for it.
#[derive(Debug)]
pub struct Waker {
    listener: PgListener,
}

impl Waker {
    /// Waits for a wake-up, at most `most`. A lost connection counts as a wake-up: the caller looks
    /// and waits again.
    pub async fn wait(&mut self, most: Duration) {
        match tokio::time::timeout(most, self.listener.try_recv()).await {
            // Several may wait: one look serves them all.
            Ok(Ok(_)) => while self.listener.next_buffered().is_some() {},
            Ok(Err(_)) => tokio::time::sleep(most.min(Duration::from_secs(1))).await,
            Err(_) => {}
        }
    }
}

/// Changes that nobody decided on, oldest first, each with its head as of the change.
async fn untaken(
    conn: &mut PgConnection,
    skip: &mut BTreeSet<i64>,
) -> Result<(Vec<i64>, Vec<(Change, Head)>), StoreError> {
    let rows = sqlx::query(
        "SELECT id, key, number, version, kind, at, severity, stage, reason, head::text
           FROM vw.incident_change WHERE NOT taken AND id <> ALL ($2) ORDER BY id LIMIT $1",
    )
    .bind(CHANGES_AT_ONCE)
    .bind(skip.iter().copied().collect::<Vec<_>>())
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read incident changes"))?;
    let mut ids = Vec::with_capacity(rows.len());
    let mut changes = Vec::with_capacity(rows.len());
    for r in &rows {
        match change(r) {
            Ok(change) => {
                ids.push(r.get(0));
                changes.push(change);
            }
            Err(_) => {
                skip.insert(r.get(0));
            }
        }
    }
    Ok((ids, changes))
}

fn change(r: &PgRow) -> Result<(Change, Head), StoreError> {
    let corrupt = |said: String| StoreError::Corrupt {
        what: "an incident change",
        said,
    };
    let change = Change {
        key: hash16(r.get(1)),
        number: r.get(2),
        version: r.get(3),
        kind: ChangeKind::parse(r.get(4)).ok_or_else(|| corrupt("its kind is unknown".into()))?,
        at: time(r.get(5)),
        severity: severity(r.get(6))?,
        stage: stage(r.get(7))?,
        reason: r.get(8),
    };
    let head = serde_json::from_str(r.get::<Option<&str>, _>(9).unwrap_or("null"))
        .map_err(|e| corrupt(e.to_string()))?;
    Ok((change, head))
}

async fn write(conn: &mut PgConnection, n: &Notified) -> Result<(), StoreError> {
    let what = "could not write notifications";
    queue(conn, &n.outbox).await?;
    let fates: Vec<&FateRow> = n.fates.iter().collect();
    if !fates.is_empty() {
        sqlx::query(
            "INSERT INTO vw.fate (key, number, version, kind, sink, fate, detail)
             SELECT * FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
             ON CONFLICT DO NOTHING",
        )
        .bind(fates.iter().map(|f| uuid(f.key)).collect::<Vec<_>>())
        .bind(fates.iter().map(|f| f.number).collect::<Vec<_>>())
        .bind(fates.iter().map(|f| f.version).collect::<Vec<_>>())
        .bind(fates.iter().map(|f| f.kind.as_str()).collect::<Vec<_>>())
        .bind(fates.iter().map(|f| f.sink.as_str()).collect::<Vec<_>>())
        .bind(fates.iter().map(|f| f.fate.as_str()).collect::<Vec<_>>())
        .bind(fates.iter().map(|f| f.detail.as_str()).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await
        .map_err(StoreError::statement(what))?;
    }
    if !n.changes.is_empty() {
        // The notifier's own changes are decided on as they are made.
        sqlx::query(
            "INSERT INTO vw.incident_change (key, number, version, kind, severity, stage, at, reason, taken)
             SELECT u.*, true FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::smallint[], $6::smallint[],
                                          $7::timestamptz[], $8::text[]) AS u",
        )
        .bind(n.changes.iter().map(|c| uuid(c.key)).collect::<Vec<_>>())
        .bind(n.changes.iter().map(|c| c.number).collect::<Vec<_>>())
        .bind(n.changes.iter().map(|c| c.version).collect::<Vec<_>>())
        .bind(n.changes.iter().map(|c| c.kind.as_str()).collect::<Vec<_>>())
        .bind(n.changes.iter().map(|c| severity_column(c.severity)).collect::<Vec<_>>())
        .bind(n.changes.iter().map(|c| stage_column(c.stage)).collect::<Vec<_>>())
        .bind(n.changes.iter().map(|c| stamp(c.at)).collect::<Vec<_>>())
        .bind(n.changes.iter().map(|c| clean(&c.reason)).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map_err(StoreError::statement(what))?;
    }
    Ok(())
}
