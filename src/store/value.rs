//! Values of the cross-user leak: one row per (kid, keyed hash), merged under its lock.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use sqlx::{PgConnection, Row as _};

use super::{StoreError, day};
use crate::detect::{ValueDelta, ValueKey, ValueRow};
use crate::event::{Kid, Time};

/// Most values read in one statement, so that it stays far below the server's time-out.
pub(super) const DUE_AT_ONCE: i64 = 5_000;

/// What a batch could not add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Candidates that did not fit their rows.
    pub(super) overflow: u64,
    /// Rows that cannot be read, and were left alone.
    pub(super) unreadable: u64,
}

/// Locks the rows of the keys in order, merges what the batch adds, and notes which minutes have a
/// candidate to judge. A row that cannot be read (damaged, or a newer version's) is left alone: it must
/// not stop its partition, nor the leader.
pub(super) async fn merge(
    conn: &mut PgConnection,
    deltas: &BTreeMap<ValueKey, ValueDelta>,
) -> Result<Left, StoreError> {
    let mut left = Left::default();
    if deltas.is_empty() {
        return Ok(left);
    }
    let what = "could not merge values";
    let kids: Vec<&str> = deltas.keys().map(|k| k.kid.as_str()).collect();
    let macs: Vec<&[u8]> = deltas.keys().map(|k| k.mac.as_slice()).collect();
    // The no-op update takes the row's lock whether the row is new or not.
    let rows = sqlx::query(
        "INSERT INTO vw.value AS v (kid, mac, last_day, row)
         SELECT u.kid, u.mac, '-infinity'::date, ''::bytea FROM unnest($1::text[], $2::bytea[]) AS u (kid, mac)
          ORDER BY u.kid COLLATE \"C\", u.mac
         ON CONFLICT (kid, mac) DO UPDATE SET row = v.row
         RETURNING kid, mac, row",
    )
    .bind(&kids)
    .bind(&macs)
    .fetch_all(&mut *conn)
    .await
    .map_err(StoreError::statement(what))?;
    let mut merged: BTreeMap<ValueKey, ValueRow> = BTreeMap::new();
    for r in &rows {
        let bytes: &[u8] = r.get(2);
        let row = if bytes.is_empty() {
            Some(ValueRow::default())
        } else {
            ValueRow::decode(bytes).ok()
        };
        match key(r.get(0), r.get(1)).zip(row) {
            Some((key, row)) => drop(merged.insert(key, row)),
            None => left.unreadable += 1,
        }
    }
    let mut pending: Vec<(NaiveDate, i64, ValueKey)> = Vec::new();
    for (key, delta) in deltas {
        let Some(row) = merged.get_mut(key) else {
            continue;
        };
        // What the batch itself had to leave out was counted there.
        let known = row.more_candidates.saturating_add(delta.more_candidates);
        row.merge(delta);
        left.overflow += row.more_candidates.saturating_sub(known);
        pending.extend(delta.candidates.iter().map(|c| {
            let minute = c.end.minute();
            (day(Time::from_minute(minute)), minute, *key)
        }));
    }
    write(conn, &merged).await?;
    pending.sort_by_key(|p| (p.0, p.1, p.2));
    pending.dedup();
    if pending.is_empty() {
        return Ok(left);
    }
    // Judged again if a late candidate joins: the minute's mark is lifted.
    sqlx::query(
        "INSERT INTO vw.value_pending AS p (day, minute, kid, mac)
         SELECT u.day, u.minute, u.kid, u.mac
           FROM unnest($1::date[], $2::bigint[], $3::text[], $4::bytea[]) AS u (day, minute, kid, mac)
          ORDER BY u.day, u.minute, u.kid COLLATE \"C\", u.mac
         ON CONFLICT (day, minute, kid, mac) DO UPDATE SET judged = false WHERE p.judged",
    )
    .bind(pending.iter().map(|p| p.0).collect::<Vec<_>>())
    .bind(pending.iter().map(|p| p.1).collect::<Vec<_>>())
    .bind(pending.iter().map(|p| p.2.kid.as_str()).collect::<Vec<_>>())
    .bind(pending.iter().map(|p| p.2.mac.as_slice()).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement(what))?;
    Ok(left)
}

/// Writes rows back that the caller has locked.
pub(super) async fn write(
    conn: &mut PgConnection,
    rows: &BTreeMap<ValueKey, ValueRow>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE vw.value v SET last_day = u.last_day, row = u.row
           FROM unnest($1::text[], $2::bytea[], $3::date[], $4::bytea[]) AS u (kid, mac, last_day, row)
          WHERE v.kid = u.kid COLLATE \"C\" AND v.mac = u.mac",
    )
    .bind(rows.keys().map(|k| k.kid.as_str()).collect::<Vec<_>>())
    .bind(rows.keys().map(|k| k.mac.as_slice()).collect::<Vec<_>>())
    .bind(rows.values().map(|r| day(r.last_used)).collect::<Vec<_>>())
    .bind(rows.values().map(ValueRow::encode).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not write values"))?;
    Ok(())
}

/// Values that have a candidate to judge.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Their rows, locked.
    pub(super) rows: BTreeMap<ValueKey, ValueRow>,
    /// The minutes of their candidates.
    pub(super) minutes: BTreeSet<(i64, ValueKey)>,
    /// Rows that cannot be read, and were left alone.
    pub(super) unreadable: u64,
    /// The last key that was looked at; `None`: there is none behind `after`.
    pub(super) last: Option<Place>,
}

/// A place in the lock order of values.
pub(super) type Place = (String, Vec<u8>);

/// Locks and reads values behind `after` that have a candidate in a minute up to `through`, at most
/// [`DUE_AT_ONCE`], in lock order, and marks those minutes as judged. The values are locked before the marks,
/// as a batch does. Whoever asks again in the same transaction goes on from `last`: a smaller key, that
/// came meanwhile, would be locked out of order.
pub(super) async fn due(
    conn: &mut PgConnection,
    through: i64,
    after: Option<&Place>,
) -> Result<Due, StoreError> {
    let what = "could not read the values to judge";
    let keys = sqlx::query(
        "SELECT DISTINCT kid, mac FROM vw.value_pending
          WHERE NOT judged AND minute <= $1 AND ($3::text IS NULL OR (kid, mac) > ($3 COLLATE \"C\", $4::bytea))
          ORDER BY kid, mac LIMIT $2",
    )
    .bind(through)
    .bind(DUE_AT_ONCE)
    .bind(after.map(|(kid, _)| kid))
    .bind(after.map(|(_, mac)| mac))
    .fetch_all(&mut *conn)
    .await
    .map_err(StoreError::statement(what))?;
    let mut due = Due {
        last: keys.last().map(|r| (r.get(0), r.get(1))),
        ..Due::default()
    };
    if keys.is_empty() {
        return Ok(due);
    }
    let kids: Vec<String> = keys.iter().map(|r| r.get(0)).collect();
    let macs: Vec<Vec<u8>> = keys.iter().map(|r| r.get(1)).collect();
    let rows = sqlx::query(
        "SELECT v.kid, v.mac, v.row FROM vw.value v
          WHERE (v.kid, v.mac) IN (SELECT u.kid COLLATE \"C\", u.mac FROM unnest($1::text[], $2::bytea[]) AS u (kid, mac))
          ORDER BY v.kid, v.mac FOR UPDATE",
    )
    .bind(&kids)
    .bind(&macs)
    .fetch_all(&mut *conn)
    .await
    .map_err(StoreError::statement(what))?;
    let marked = sqlx::query(
        "UPDATE vw.value_pending p SET judged = true
           FROM unnest($2::text[], $3::bytea[]) AS u (kid, mac)
          WHERE NOT p.judged AND p.minute <= $1 AND p.kid = u.kid COLLATE \"C\" AND p.mac = u.mac
         RETURNING p.minute, p.kid, p.mac",
    )
    .bind(through)
    .bind(&kids)
    .bind(&macs)
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement(what))?;
    for r in &rows {
        match key(r.get(0), r.get(1)).zip(ValueRow::decode(r.get(2)).ok()) {
            Some((key, row)) => drop(due.rows.insert(key, row)),
            None => due.unreadable += 1,
        }
    }
    let minutes = marked
        .iter()
        .filter_map(|r| Some((r.get(0), key(r.get(1), r.get(2))?)));
    due.minutes.extend(minutes);
    Ok(due)
}

fn key(kid: &str, mac: &[u8]) -> Option<ValueKey> {
    let (kid, mac) = Kid::parse(kid).zip(mac.try_into().ok())?;
    Some(ValueKey { kid, mac })
}
