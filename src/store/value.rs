//! Values of the cross-user leak: one row per (kid, keyed hash), merged under its lock.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use sqlx::{PgConnection, Row as _};

use super::{StoreError, day};
use crate::detect::{ValueDelta, ValueKey, ValueRow};
use crate::event::{Kid, Time};

/// Most values read in one statement, so that it stays far below the server's time-out.
pub(super) const DUE_AT_ONCE: i64 = 5_000;

/// Locks the rows of the keys in order, merges what the batch adds, and notes which minutes have a
/// candidate to judge. Gives the candidates that did not fit their rows.
pub(super) async fn merge(
    conn: &mut PgConnection,
    deltas: &BTreeMap<ValueKey, ValueDelta>,
) -> Result<u64, StoreError> {
    if deltas.is_empty() {
        return Ok(0);
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
        let key = key(r.get(0), r.get(1))?;
        let bytes: &[u8] = r.get(2);
        let row = if bytes.is_empty() {
            ValueRow::default()
        } else {
            decode(bytes)?
        };
        merged.insert(key, row);
    }
    let mut pending: Vec<(NaiveDate, i64, ValueKey)> = Vec::new();
    let mut overflow = 0;
    for (key, delta) in deltas {
        let row = merged.entry(*key).or_default();
        // What the batch itself had to leave out was counted there.
        let known = row.more_candidates.saturating_add(delta.more_candidates);
        row.merge(delta);
        overflow += row.more_candidates.saturating_sub(known);
        pending.extend(delta.candidates.iter().map(|c| {
            let minute = c.end.minute();
            (day(Time::from_minute(minute)), minute, *key)
        }));
    }
    write(conn, &merged).await?;
    pending.sort_by_key(|p| (p.0, p.1, p.2));
    pending.dedup();
    if pending.is_empty() {
        return Ok(overflow);
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
    Ok(overflow)
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

/// Locks and reads values that have a candidate in a minute up to `through`, at most [`DUE_AT_ONCE`], in
/// lock order, and marks those minutes as judged. The values are locked before the marks, as a batch does.
pub(super) async fn due(
    conn: &mut PgConnection,
    through: i64,
) -> Result<BTreeMap<ValueKey, ValueRow>, StoreError> {
    let what = "could not read the values to judge";
    let keys = sqlx::query(
        "SELECT DISTINCT kid, mac FROM vw.value_pending WHERE NOT judged AND minute <= $1
          ORDER BY kid, mac LIMIT $2",
    )
    .bind(through)
    .bind(DUE_AT_ONCE)
    .fetch_all(&mut *conn)
    .await
    .map_err(StoreError::statement(what))?;
    if keys.is_empty() {
        return Ok(BTreeMap::new());
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
    sqlx::query(
        "UPDATE vw.value_pending p SET judged = true
           FROM unnest($2::text[], $3::bytea[]) AS u (kid, mac)
          WHERE NOT p.judged AND p.minute <= $1 AND p.kid = u.kid COLLATE \"C\" AND p.mac = u.mac",
    )
    .bind(through)
    .bind(&kids)
    .bind(&macs)
    .execute(conn)
    .await
    .map_err(StoreError::statement(what))?;
    rows.iter()
        .map(|r| Ok((key(r.get(0), r.get(1))?, decode(r.get(2))?)))
        .collect()
}

fn key(kid: &str, mac: &[u8]) -> Result<ValueKey, StoreError> {
    let key = Kid::parse(kid).zip(mac.try_into().ok());
    key.map(|(kid, mac)| ValueKey { kid, mac })
        .ok_or_else(|| StoreError::Corrupt {
            what: "a value's key",
            said: "it is not a key id and 16 bytes".to_owned(),
        })
}

fn decode(bytes: &[u8]) -> Result<ValueRow, StoreError> {
    ValueRow::decode(bytes).map_err(|e| StoreError::Corrupt {
        what: "a value",
        said: format!("{e:?}"),
    })
}
