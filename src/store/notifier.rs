//! The notifier: one process in the fleet decides what is sent.
//!
//! One transaction takes the changes that nobody decided on yet, calls `decide::notify`, and writes
//! outbox rows, one fate for each (change, sink), the groups it changed and its own changes (repeats,
//! escalations). It takes changes by state, not by a mark it passed: a lower id may commit later. It
//! also resolves incidents whose moment every watermark has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{PgConnection, Row as _};

use super::board::save_board;
use super::lease::{self, Lease, LeaseName};
use super::silence::active_silences;
use super::{
    Store, StoreError, Uuid, clean, hash16, head, incident, severity, severity_column, stage,
    stage_column, stamp, time, uuid,
};
use crate::decide::notify::{Board, FateRow, OutboxRow};
use crate::decide::{self, Change, ChangeKind, Head, Notified, Routes};
use crate::event::{SmolStr, Time};

/// Most changes decided on in one transaction.
const CHANGES_AT_ONCE: i64 = 1_000;
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
}

/// The notifier of this process; call [`NotifierTask::tick`] when woken, and about once a second.
#[derive(Debug)]
pub struct NotifierTask {
    store: Store,
    routes: Routes,
    held: Option<Held>,
    claim: Option<Uuid>,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    board: Board,
}

impl NotifierTask {
    /// Not the notifier yet.
    pub fn new(store: Store, routes: Routes) -> Self {
        Self {
            store,
            routes,
            held: None,
            claim: None,
        }
    }

    /// New routes hold from the next tick.
    pub fn set_routes(&mut self, routes: Routes) {
        self.routes = routes;
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
            let board = self.store.load_board().await?;
            Held { lease, board }
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
            Ok((held, tick)) => {
                self.held = Some(held);
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
        let mut tx = self.pool().begin().await.map_err(sql(what))?;
        lease::renew(&mut tx, &held.lease).await?;
        let marks = self.watermarks(&mut tx).await?;
        let watermark = marks.iter().map(|m| m.watermark).min();
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
            tick.resolved = incident::resolve_due(&mut tx, watermark, RESOLVE_AT_ONCE).await?;
        }
        let (ids, changes) = untaken(&mut tx).await?;
        let silences = active_silences(&mut tx).await?;
        let storms = held.board.storms.clone();
        let (notified, before) =
            decide::notify_and_tell(routes, &silences, &mut held.board, &changes, now);
        tick.changes = changes.len() as u64;
        tick.queued = notified.outbox.len() as u64;
        tick.more = i64::try_from(ids.len()).unwrap_or(0) == CHANGES_AT_ONCE
            || tick.resolved == RESOLVE_AT_ONCE.unsigned_abs();
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
        tick.next_due = held.board.next_due(routes);
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

    /// What became of the candidates: (change, sink) by fate. With the outbox's states these are the
    /// conservation that is exported.
    pub async fn notification_fates(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let rows = sqlx::query("SELECT fate, count(*) FROM vw.fate GROUP BY fate ORDER BY fate")
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement("could not count fates"))?;
        Ok(rows
            .iter()
            .map(|r| (r.get(0), super::count(r.get(1))))
            .collect())
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
async fn untaken(conn: &mut PgConnection) -> Result<(Vec<i64>, Vec<(Change, Head)>), StoreError> {
    let rows = sqlx::query(
        "SELECT id, key, number, version, kind, at, severity, stage, reason, head::text
           FROM vw.incident_change WHERE NOT taken ORDER BY id LIMIT $1",
    )
    .bind(CHANGES_AT_ONCE)
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read incident changes"))?;
    let mut ids = Vec::with_capacity(rows.len());
    let mut changes = Vec::with_capacity(rows.len());
    for r in &rows {
        let corrupt = |said: String| StoreError::Corrupt {
            what: "an incident change",
            said,
        };
        ids.push(r.get(0));
        let change = Change {
            key: hash16(r.get(1)),
            number: r.get(2),
            version: r.get(3),
            kind: ChangeKind::parse(r.get(4))
                .ok_or_else(|| corrupt("its kind is unknown".into()))?,
            at: time(r.get(5)),
            severity: severity(r.get(6))?,
            stage: stage(r.get(7))?,
            reason: r.get(8),
        };
        let head: Head = serde_json::from_str(r.get::<Option<&str>, _>(9).unwrap_or("null"))
            .map_err(|e| corrupt(e.to_string()))?;
        changes.push((change, head));
    }
    Ok((ids, changes))
}

async fn write(conn: &mut PgConnection, n: &Notified) -> Result<(), StoreError> {
    let what = "could not write notifications";
    for row in &n.outbox {
        queue(conn, row).await?;
    }
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

/// Queues a row behind those of its (incident, sink). A rise in severity takes the place of milder
/// rows that no worker has claimed.
async fn queue(conn: &mut PgConnection, row: &OutboxRow) -> Result<(), StoreError> {
    let what = "could not queue a notification";
    sqlx::query(
        "UPDATE vw.outbox SET state = 5, finished_at = now(), last_error = 'a more severe message took its place'
          WHERE key = $1 AND number = $2 AND sink = $3 AND state = 0 AND severity < $4",
    )
    .bind(uuid(row.key))
    .bind(row.number)
    .bind(row.sink.as_str())
    .bind(severity_column(row.severity))
    .execute(&mut *conn)
    .await
    .map_err(StoreError::statement(what))?;
    let payload = serde_json::to_value(&row.payload).map_err(|e| {
        StoreError::Refusal(format!("a notification cannot be written as JSON: {e}"))
    })?;
    sqlx::query(
        "INSERT INTO vw.outbox (key, number, sink, seq, kind, severity, dedup_key, payload)
         SELECT $1, $2, $3, greatest($4, coalesce(max(o.seq), 0) + 1), $5, $6, $7, $8
           FROM vw.outbox o WHERE o.key = $1 AND o.number = $2 AND o.sink = $3",
    )
    .bind(uuid(row.key))
    .bind(row.number)
    .bind(row.sink.as_str())
    .bind(row.seq)
    .bind(row.kind.as_str())
    .bind(severity_column(row.severity))
    .bind(uuid(row.dedup_key))
    .bind(payload)
    .execute(conn)
    .await
    .map_err(StoreError::statement(what))?;
    Ok(())
}
