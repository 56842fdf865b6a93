//! Findings and incidents as rows, and what people do to them.
//!
//! Heads are locked in (wide, key) order before the findings are compared with those stored: all
//! findings of one id belong to one head, so under its lock "is it new" has one answer. Each finding
//! is folded by `decide::fold`; the head as of each change is kept with the change, since that is what
//! the notifier judges.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use sqlx::{PgConnection, Row as _};

use super::head::{self, Changed, HEAD, keep_past, lock_heads, write_changes, write_heads};
use super::{
    Store, StoreError, Uuid, clean, day, hash16, severity_column, stage_column, stamp, uuid,
};
use crate::decide::{self, Head};
use crate::detect::Finding;
use crate::event::{Hash16, Stage, Time};

/// Findings by what became of them.
pub use crate::decide::FindingFates as Fates;

/// What [`apply`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// New findings by what became of them.
    pub fates: Fates,
    /// Findings that were stored already.
    pub repeated: u64,
    /// Incident changes written.
    pub changes: u64,
}

impl Applied {
    pub(super) fn add(&mut self, o: &Self) {
        add_fates(&mut self.fates, &o.fates);
        self.repeated += o.repeated;
        self.changes += o.changes;
    }
}

pub(super) fn add_fates(a: &mut Fates, b: &Fates) {
    a.new += b.new;
    a.folded += b.folded;
    a.shadow += b.shadow;
    a.excepted += b.excepted;
}

/// Stores findings and folds them into their incidents. `wide` says which half of the lock order this
/// is; findings of the other half would be locked out of order and are refused.
pub(super) async fn apply(
    conn: &mut PgConnection,
    mut findings: Vec<Finding>,
    wide: bool,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    // The same finding twice in one batch is one finding.
    let mut seen = BTreeSet::new();
    let before = findings.len();
    findings.retain(|f| seen.insert((day(f.end), f.id)));
    applied.repeated += (before - findings.len()) as u64;
    if findings.is_empty() {
        return Ok(applied);
    }
    if findings.iter().any(|f| decide::is_wide(f) != wide) {
        return Err(StoreError::Refusal(
            "a finding stands in the wrong half of the lock order".to_owned(),
        ));
    }
    let keys: BTreeMap<Hash16, &Finding> = findings
        .iter()
        .filter(|f| f.stage != Stage::Shadow)
        .map(|f| (f.key(), f))
        .collect();
    let mut heads = lock_heads(conn, &keys, wide).await?;
    let stored = stored_ids(conn, &findings).await?;
    let before = findings.len();
    findings.retain(|f| !stored.contains(&(day(f.end), f.id)));
    applied.repeated += (before - findings.len()) as u64;

    let mut rows: Vec<(&'static str, Option<(Hash16, i32)>)> = Vec::with_capacity(findings.len());
    let mut changed: Vec<Changed> = Vec::new();
    let mut past: Vec<Head> = Vec::new();
    let mut touched: BTreeSet<Hash16> = BTreeSet::new();
    for f in &findings {
        let key = f.key();
        if let Some(head) = heads.get_mut(&key)
            && f.stage != Stage::Shadow
            && f.end.0 > head.ends_at().0.saturating_add(decide::REOPEN_WITHIN_MS)
        {
            // The next number opens: this one is over, whether or not that was announced.
            if let Some(change) = head.resolve(Time(i64::MAX)) {
                changed.push(Changed {
                    change,
                    head: head.clone(),
                    author: String::new(),
                });
            }
            past.push(head.clone());
        }
        let folded = decide::fold(std::slice::from_ref(f), &mut heads);
        add_fates(&mut applied.fates, &folded.fates);
        let incident = folded.incidents.first().copied().flatten();
        rows.push((fate(f, &folded), incident));
        if incident.is_some() {
            touched.insert(key);
        }
        if let Some(head) = heads.get(&key) {
            changed.extend(folded.changes.into_iter().map(|change| Changed {
                change,
                head: head.clone(),
                author: String::new(),
            }));
        }
    }
    applied.repeated += insert_findings(conn, &findings, &rows).await?;
    keep_past(conn, &past).await?;
    let touched: Vec<&Head> = touched.iter().filter_map(|k| heads.get(k)).collect();
    write_heads(conn, &touched).await?;
    applied.changes = changed.len() as u64;
    write_changes(conn, &changed).await?;
    Ok(applied)
}

fn fate(f: &Finding, folded: &decide::Folded) -> &'static str {
    match (&folded.fates, f.stage) {
        (_, Stage::Shadow) => "shadow",
        (fates, _) if fates.new > 0 => "new",
        (fates, _) if fates.folded > 0 => "folded",
        _ => "excepted",
    }
}

async fn stored_ids(
    conn: &mut PgConnection,
    findings: &[Finding],
) -> Result<BTreeSet<(NaiveDate, Hash16)>, StoreError> {
    let rows = sqlx::query(
        "SELECT f.day, f.id FROM unnest($1::date[], $2::uuid[]) AS u (day, id)
           JOIN vw.finding f ON f.day = u.day AND f.id = u.id",
    )
    .bind(findings.iter().map(|f| day(f.end)).collect::<Vec<_>>())
    .bind(findings.iter().map(|f| uuid(f.id)).collect::<Vec<_>>())
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not look findings up"))?;
    Ok(rows.iter().map(|r| (r.get(0), hash16(r.get(1)))).collect())
}

/// Returns how many were there already (shadow findings take no head's lock).
async fn insert_findings(
    conn: &mut PgConnection,
    findings: &[Finding],
    rows: &[(&'static str, Option<(Hash16, i32)>)],
) -> Result<u64, StoreError> {
    if findings.is_empty() {
        return Ok(0);
    }
    let mut order: Vec<usize> = (0..findings.len()).collect();
    order.sort_by_key(|&i| (day(findings[i].end), findings[i].id));
    let f: Vec<&Finding> = order.iter().map(|&i| &findings[i]).collect();
    let r: Vec<_> = order.iter().map(|&i| rows[i]).collect();
    let done = sqlx::query(
        "INSERT INTO vw.finding (day, id, detector, rule, version, severity, stage, fate, tenant, subject, happened_at,
                                 start_at, end_at, user_id, model, gateway, event_id, reason, incident, number)
         SELECT * FROM unnest($1::date[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::smallint[], $7::smallint[],
                              $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[],
                              $13::timestamptz[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[],
                              $19::uuid[], $20::int[])
         ON CONFLICT DO NOTHING",
    )
    .bind(f.iter().map(|f| day(f.end)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| uuid(f.id)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| f.detector.as_str()).collect::<Vec<_>>())
    .bind(f.iter().map(|f| clean(&f.rule)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| i32::try_from(f.version).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| severity_column(f.severity)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| stage_column(f.stage)).collect::<Vec<_>>())
    .bind(r.iter().map(|r| r.0).collect::<Vec<_>>())
    .bind(f.iter().map(|f| clean(&f.tenant)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| clean(&f.subject)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| stamp(f.at)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| stamp(f.start)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| stamp(f.end)).collect::<Vec<_>>())
    .bind(f.iter().map(|f| f.user.map(|u| u.to_string())).collect::<Vec<_>>())
    .bind(f.iter().map(|f| f.model.as_ref().map(|m| clean(m))).collect::<Vec<_>>())
    .bind(f.iter().map(|f| f.gateway.as_ref().map(|g| clean(g))).collect::<Vec<_>>())
    .bind(f.iter().map(|f| f.event.as_ref().map(|e| clean(e))).collect::<Vec<_>>())
    .bind(f.iter().map(|f| clean(&f.reason)).collect::<Vec<_>>())
    .bind(r.iter().map(|r| r.1.map(|i| uuid(i.0))).collect::<Vec<Option<Uuid>>>())
    .bind(r.iter().map(|r| r.1.map(|i| i.1)).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not store findings"))?;
    Ok((findings.len() as u64).saturating_sub(done.rows_affected()))
}

/// Resolves the incidents whose moment every watermark has passed. At most `limit`. Those that cannot be
/// read are left alone and join `skip`.
pub(super) async fn resolve_due(
    conn: &mut PgConnection,
    watermark: Time,
    limit: i64,
    skip: &mut BTreeSet<Hash16>,
) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT {HEAD} FROM vw.incident_head WHERE key IN
           (SELECT key FROM vw.incident_head WHERE state < 2 AND number > 0 AND resolve_at < $1 AND key <> ALL ($3)
             -- What tells of a halted partition is not over before it goes on.
               AND NOT (rule = 'audit-halted' AND EXISTS
                        (SELECT 1 FROM vw.stream_partition p WHERE p.halted IS NOT NULL
                            AND subject COLLATE \"C\" = 'partition:' || p.topic || '/' || p.part))
             ORDER BY resolve_at LIMIT $2)
          ORDER BY wide, key FOR UPDATE"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(stamp(watermark))
        .bind(limit)
        .bind(skip.iter().map(|k| uuid(*k)).collect::<Vec<_>>())
        .fetch_all(&mut *conn)
        .await
        .map_err(StoreError::statement(
            "could not read the incidents that are over",
        ))?;
    let mut changed = Vec::new();
    for r in &rows {
        let Ok(mut head) = head::head(r) else {
            skip.insert(hash16(r.get(0)));
            continue;
        };
        // Under the lock it may have moved on.
        if let Some(change) = head.resolve(watermark) {
            changed.push(Changed {
                change,
                head,
                author: String::new(),
            });
        }
    }
    let heads: Vec<&Head> = changed.iter().map(|c| &c.head).collect();
    write_heads(conn, &heads).await?;
    write_changes(conn, &changed).await?;
    Ok(changed.len() as u64)
}

impl Store {
    /// The present head of a key.
    pub async fn incident_head(&self, key: Hash16) -> Result<Option<Head>, StoreError> {
        let sql = format!("SELECT {HEAD} FROM vw.incident_head WHERE key = $1 AND number > 0");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(uuid(key))
            .fetch_optional(self.pool())
            .await
            .map_err(StoreError::statement("could not read an incident"))?;
        row.as_ref().map(head::head).transpose()
    }
}
