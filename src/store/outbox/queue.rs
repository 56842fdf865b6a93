//! Queueing notifications: what the notifier decided on at once is written at once. A statement for each
//! message were most of all statements that a busy server gets of this program.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};

use super::super::{StoreError, Uuid, severity_column, uuid};
use crate::decide::NotificationKind;
use crate::decide::notify::OutboxRow;
use crate::event::Hash16;

const WHAT: &str = "could not queue notifications";

/// Queues rows, each behind those of its (incident, sink). A rise in severity takes the place of milder rows
/// that no worker has claimed, and a repeat the place of what says the same: while a sink is down, the
/// rows of an incident stay few.
pub(in crate::store) async fn queue(
    conn: &mut PgConnection,
    rows: &[OutboxRow],
) -> Result<(), StoreError> {
    for turn in turns(rows) {
        let to = Targets::of(&turn);
        let waiting = lock_waiting(conn, &to).await?;
        let mut unheard = BTreeSet::new();
        if waiting {
            unheard = replace(conn, &to, &turn).await?;
        }
        insert(conn, &to, &turn, &unheard).await?;
    }
    Ok(())
}

/// Rows of one (incident, sink) go one after the other, since each may take the place of the one before; in
/// the order of their keys, in which all lock.
fn turns(rows: &[OutboxRow]) -> Vec<Vec<&OutboxRow>> {
    let mut before: BTreeMap<(Hash16, i32, &str), usize> = BTreeMap::new();
    let mut turns: Vec<Vec<&OutboxRow>> = Vec::new();
    for row in rows {
        let nth = before.entry(target(row)).or_default();
        match turns.get_mut(*nth) {
            Some(turn) => turn.push(row),
            None => turns.push(vec![row]),
        }
        *nth += 1;
    }
    for turn in &mut turns {
        turn.sort_by_key(|row| target(row));
    }
    turns
}

fn target(row: &OutboxRow) -> (Hash16, i32, &str) {
    (row.key, row.number, row.sink.as_str())
}

/// Columns that say whose the rows are.
struct Targets<'a> {
    key: Vec<Uuid>,
    number: Vec<i32>,
    sink: Vec<&'a str>,
}

impl<'a> Targets<'a> {
    fn of(turn: &[&'a OutboxRow]) -> Self {
        Self {
            key: turn.iter().map(|r| uuid(r.key)).collect(),
            number: turn.iter().map(|r| r.number).collect(),
            sink: turn.iter().map(|r| r.sink.as_str()).collect(),
        }
    }
}

/// Whether anything of the same (incident, sink) waits. A row whose send fails at this moment either is
/// waiting when it is looked for here, or sees the new one.
async fn lock_waiting(conn: &mut PgConnection, to: &Targets<'_>) -> Result<bool, StoreError> {
    let found = sqlx::query(
        "SELECT 1 FROM unnest($1::uuid[], $2::int[], $3::text[]) AS u (key, number, sink)
          CROSS JOIN LATERAL (SELECT 1 FROM vw.outbox o
                               WHERE o.key = u.key AND o.number = u.number AND o.sink = u.sink COLLATE \"C\"
                                 AND o.state IN (0, 1)
                               ORDER BY o.seq FOR UPDATE) AS waiting",
    )
    .bind(&to.key)
    .bind(&to.number)
    .bind(&to.sink)
    .execute(conn)
    .await
    .map_err(StoreError::statement(WHAT))?;
    Ok(found.rows_affected() > 0)
}

/// Rows of the turn, by place, that took the place of one that nobody heard of.
async fn replace(
    conn: &mut PgConnection,
    to: &Targets<'_>,
    turn: &[&OutboxRow],
) -> Result<BTreeSet<usize>, StoreError> {
    // Found one by one with a whole key; as a join it is planned by what the table holds, and the plan of an
    // empty one is kept when a storm fills it. What is found is locked, so it stays where it is.
    let rows = sqlx::query(
        "UPDATE vw.outbox o
            SET state = 5, finished_at = now(), last_error = 'a later message took its place'
           FROM (SELECT u.n, old.row
                   FROM unnest($1::uuid[], $2::int[], $3::text[], $4::smallint[], $5::bool[]) WITH ORDINALITY
                     AS u (key, number, sink, severity, repeats, n)
                  CROSS JOIN LATERAL (SELECT w.ctid AS row FROM vw.outbox w
                                       WHERE w.key = u.key AND w.number = u.number AND w.sink = u.sink COLLATE \"C\"
                                         AND w.state = 0
                                         AND (w.severity < u.severity
                                              OR (u.repeats AND w.kind IN ('firing', 'repeat', 'escalated')))
                                      OFFSET 0) AS old) AS replaced
          WHERE o.ctid = replaced.row
         RETURNING replaced.n, o.kind",
    )
    .bind(&to.key)
    .bind(&to.number)
    .bind(&to.sink)
    .bind(turn.iter().map(|r| severity_column(r.severity)).collect::<Vec<_>>())
    .bind(turn.iter().map(|r| repeats(r)).collect::<Vec<_>>())
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement(WHAT))?;
    let unheard = rows.iter().filter(|r| r.get::<&str, _>(1) == "firing");
    Ok(unheard
        .filter_map(|r| usize::try_from(r.get::<i64, _>(0)).ok()?.checked_sub(1))
        .collect())
}

fn repeats(row: &OutboxRow) -> bool {
    row.kind == NotificationKind::Repeat
}

async fn insert(
    conn: &mut PgConnection,
    to: &Targets<'_>,
    turn: &[&OutboxRow],
    unheard: &BTreeSet<usize>,
) -> Result<(), StoreError> {
    // Who never heard of it hears that it is open, not that it still is.
    let rows: Vec<Cow<'_, OutboxRow>> = turn
        .iter()
        .enumerate()
        .map(|(n, row)| {
            let mut row = Cow::Borrowed(*row);
            if repeats(&row) && unheard.contains(&n) {
                let row = row.to_mut();
                row.kind = NotificationKind::Firing;
                row.payload.kind = NotificationKind::Firing;
            }
            row
        })
        .collect();
    sqlx::query(
        "INSERT INTO vw.outbox (key, number, sink, seq, kind, severity, dedup_key, payload)
         SELECT u.key, u.number, u.sink,
                greatest(u.seq, 1 + coalesce((SELECT max(o.seq) FROM vw.outbox o
                                               WHERE o.key = u.key AND o.number = u.number
                                                 AND o.sink = u.sink COLLATE \"C\"), 0)),
                u.kind, u.severity, u.dedup_key, u.payload
           FROM unnest($1::uuid[], $2::int[], $3::text[], $4::bigint[], $5::text[], $6::smallint[], $7::uuid[],
                       $8::jsonb[]) AS u (key, number, sink, seq, kind, severity, dedup_key, payload)",
    )
    .bind(&to.key)
    .bind(&to.number)
    .bind(&to.sink)
    .bind(rows.iter().map(|r| r.seq).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.kind.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| severity_column(r.severity)).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| uuid(r.dedup_key)).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| Json(&r.payload)).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement(WHAT))?;
    Ok(())
}
