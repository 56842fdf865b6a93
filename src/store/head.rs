//! Heads of incidents as rows: locking, reading, writing; and the changes that made them so.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::{
    StoreError, clean, hash16, severity, severity_column, stage, stage_column, stamp, time, uuid,
};
use crate::decide::{Change, Head, State};
use crate::detect::{DetectorId, Finding};
use crate::event::{Hash16, SmolStr};

/// Channel that tells the notifier of changes.
pub(super) const CHANGES: &str = "veilwatch_changes";

pub(super) const HEAD: &str = "key, wide, number, state, severity, stage, tenant, detector, rule, subject, user_id, model, gateway,
  event_id, reason, opened_at, last_end, resolve_at, resolved_at, findings, version";

/// A head with the change that made it so.
pub(super) struct Changed {
    pub(super) change: Change,
    pub(super) head: Head,
    pub(super) author: String,
}

/// Locks the heads of the keys in order, making rows for keys that have none (number 0). Returns
/// those that have an incident.
pub(super) async fn lock_heads(
    conn: &mut PgConnection,
    keys: &BTreeMap<Hash16, &Finding>,
    wide: bool,
) -> Result<BTreeMap<Hash16, Head>, StoreError> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    // The no-op update takes the row's lock.
    let sql = format!(
        "INSERT INTO vw.incident_head AS h (key, wide, severity, stage, tenant, detector, rule, subject, opened_at, last_end, resolve_at)
         SELECT u.key, $2, 0, 1, u.tenant, u.detector, u.rule, u.subject, 'epoch', 'epoch', 'epoch'
           FROM unnest($1::uuid[], $3::text[], $4::text[], $5::text[], $6::text[]) AS u (key, tenant, detector, rule, subject)
          ORDER BY u.key
         ON CONFLICT (key) DO UPDATE SET version = h.version
         RETURNING {HEAD}"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(keys.keys().map(|k| uuid(*k)).collect::<Vec<_>>())
        .bind(wide)
        .bind(keys.values().map(|f| clean(&f.tenant)).collect::<Vec<_>>())
        .bind(
            keys.values()
                .map(|f| f.detector.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(keys.values().map(|f| clean(&f.rule)).collect::<Vec<_>>())
        .bind(keys.values().map(|f| clean(&f.subject)).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(StoreError::statement("could not lock incidents"))?;
    rows.iter()
        .filter(|r| r.get::<i32, _>(2) > 0)
        .map(|r| head(r).map(|h| (h.key, h)))
        .collect()
}

/// A row of [`HEAD`].
pub(super) fn head(r: &PgRow) -> Result<Head, StoreError> {
    let name = |i: usize| SmolStr::new(r.get::<&str, _>(i));
    let optional = |i: usize| r.get::<Option<&str>, _>(i).map(SmolStr::new);
    Ok(Head {
        key: hash16(r.get(0)),
        wide: r.get(1),
        number: r.get(2),
        state: state(r.get(3))?,
        severity: severity(r.get(4))?,
        stage: stage(r.get(5))?,
        tenant: name(6),
        detector: DetectorId::parse(r.get(7)).ok_or_else(|| StoreError::Corrupt {
            what: "an incident",
            said: "its detector is unknown to this version".to_owned(),
        })?,
        rule: name(8),
        subject: name(9),
        user: optional(10),
        model: optional(11),
        gateway: optional(12),
        event: optional(13),
        reason: r.get(14),
        opened_at: time(r.get(15)),
        last_end: time(r.get(16)),
        resolve_at: time(r.get(17)),
        resolved_at: r
            .get::<Option<chrono::DateTime<chrono::Utc>>, _>(18)
            .map(time),
        findings: r.get(19),
        version: r.get(20),
    })
}

fn state(n: i16) -> Result<State, StoreError> {
    match n {
        0 => Ok(State::Open),
        1 => Ok(State::Acknowledged),
        2 => Ok(State::Resolved),
        n => Err(StoreError::Corrupt {
            what: "an incident's state",
            said: format!("{n} is none"),
        }),
    }
}

fn state_column(s: State) -> i16 {
    match s {
        State::Open => 0,
        State::Acknowledged => 1,
        State::Resolved => 2,
    }
}

/// Keeps numbers that are over. What people added stands in the head's row, if it still has that
/// number; a number that opened and ended within one batch never stood there.
pub(super) async fn keep_past(conn: &mut PgConnection, past: &[Head]) -> Result<(), StoreError> {
    for h in past {
        sqlx::query(
            "INSERT INTO vw.incident_past (key, wide, number, state, severity, stage, tenant, detector, rule, subject, user_id,
                                           model, gateway, event_id, reason, opened_at, last_end, resolve_at, resolved_at,
                                           findings, version, assignee, acked_at, acked_by, verdict, verdict_by)
             SELECT h.key, h.wide, $2, $3, $4, $5, h.tenant, h.detector, h.rule, h.subject, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                    $15, $16, CASE WHEN h.number = $2 THEN h.assignee END, CASE WHEN h.number = $2 THEN h.acked_at END,
                    CASE WHEN h.number = $2 THEN h.acked_by END, CASE WHEN h.number = $2 THEN h.verdict END,
                    CASE WHEN h.number = $2 THEN h.verdict_by END
               FROM vw.incident_head h WHERE h.key = $1
             ON CONFLICT DO NOTHING",
        )
        .bind(uuid(h.key))
        .bind(h.number)
        .bind(state_column(h.state))
        .bind(severity_column(h.severity))
        .bind(stage_column(h.stage))
        .bind(h.user.as_deref())
        .bind(h.model.as_deref())
        .bind(h.gateway.as_deref())
        .bind(h.event.as_deref())
        .bind(clean(&h.reason))
        .bind(stamp(h.opened_at))
        .bind(stamp(h.last_end))
        .bind(stamp(h.resolve_at))
        .bind(h.resolved_at.map(stamp))
        .bind(h.findings)
        .bind(h.version)
        .execute(&mut *conn)
        .await
        .map_err(StoreError::statement("could not keep a closed incident"))?;
    }
    Ok(())
}

/// Writes heads that the caller has locked. A number that just opened begins without assignee,
/// acknowledgement and verdict.
pub(super) async fn write_heads(
    conn: &mut PgConnection,
    heads: &[&Head],
) -> Result<(), StoreError> {
    if heads.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE vw.incident_head h SET
           assignee = CASE WHEN h.number = u.number THEN h.assignee END,
           acked_at = CASE WHEN h.number = u.number AND u.state > 0 THEN h.acked_at END,
           acked_by = CASE WHEN h.number = u.number AND u.state > 0 THEN h.acked_by END,
           verdict = CASE WHEN h.number = u.number THEN h.verdict END,
           verdict_by = CASE WHEN h.number = u.number THEN h.verdict_by END,
           number = u.number, state = u.state, severity = u.severity, stage = u.stage, user_id = u.user_id, model = u.model,
           gateway = u.gateway, event_id = u.event_id, reason = u.reason, opened_at = u.opened_at, last_end = u.last_end,
           resolve_at = u.resolve_at, resolved_at = u.resolved_at, findings = u.findings, version = u.version
          FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::smallint[], $5::smallint[], $6::text[], $7::text[], $8::text[],
                      $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[],
                      $15::bigint[], $16::bigint[])
            AS u (key, number, state, severity, stage, user_id, model, gateway, event_id, reason, opened_at, last_end,
                  resolve_at, resolved_at, findings, version)
         WHERE h.key = u.key",
    )
    .bind(heads.iter().map(|h| uuid(h.key)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.number).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| state_column(h.state)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| severity_column(h.severity)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| stage_column(h.stage)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.user.as_deref()).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.model.as_deref()).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.gateway.as_deref()).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.event.as_deref()).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| clean(&h.reason)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| stamp(h.opened_at)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| stamp(h.last_end)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| stamp(h.resolve_at)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.resolved_at.map(stamp)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.findings).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.version).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not write incidents"))?;
    Ok(())
}

pub(super) async fn write_changes(
    conn: &mut PgConnection,
    changed: &[Changed],
) -> Result<(), StoreError> {
    if changed.is_empty() {
        return Ok(());
    }
    let what = "could not write incident changes";
    let heads = changed
        .iter()
        .map(|c| serde_json::to_string(&c.head))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| StoreError::Refusal(format!("an incident cannot be written as JSON: {e}")))?;
    sqlx::query(
        "INSERT INTO vw.incident_change (key, number, version, kind, severity, stage, at, reason, author, head)
         SELECT u.key, u.number, u.version, u.kind, u.severity, u.stage, u.at, u.reason, u.author, u.head::jsonb
           FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::smallint[], $6::smallint[], $7::timestamptz[],
                       $8::text[], $9::text[], $10::text[]) WITH ORDINALITY
             AS u (key, number, version, kind, severity, stage, at, reason, author, head, n)
          ORDER BY u.n",
    )
    .bind(changed.iter().map(|c| uuid(c.change.key)).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.change.number).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.change.version).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| c.change.kind.as_str()).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| severity_column(c.change.severity)).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| stage_column(c.change.stage)).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| stamp(c.change.at)).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| clean(&c.change.reason)).collect::<Vec<_>>())
    .bind(changed.iter().map(|c| clean(&c.author)).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| clean(h)).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await
    .map_err(StoreError::statement(what))?;
    sqlx::query("SELECT pg_notify($1, '')")
        .bind(CHANGES)
        .execute(conn)
        .await
        .map_err(StoreError::statement(what))?;
    Ok(())
}
