//! A bound on the incidents that crossed thresholds may open in an hour.
//!
//! A budget of each user has as many subjects as records name users, and who may publish may invent any number
//! of them and any usage. Within an hour the thresholds of one budget are told of [`OWN`] subjects by name; what
//! comes after that is one incident more, which counts it, while every finding keeps its subject in its reason
//! and its user. Ledgers and crossings are exact for all.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{PgConnection, Row as _};

use super::{StoreError, Uuid, hash16, uuid};
use crate::account::Crossing;
use crate::decide;
use crate::detect::{Finding, Stages};
use crate::event::Hash16;

/// Subjects of a budget with an incident of their own in an hour. So many people over their budget at once are
/// one problem: the budget, or whoever publishes.
const OWN: usize = 1_024;
/// Crossings of a budget that are looked at for it: each subject has a few thresholds.
const LOOK: i64 = 4_096;

/// Subjects that crossed something of these budgets in the last hour, before this transaction.
const BEFORE: &str = "
SELECT u.id, (SELECT count(DISTINCT c.subject) FROM
         (SELECT x.subject FROM vw.budget_crossing x
           WHERE x.budget_id = u.id COLLATE \"C\" AND x.at > now() - interval '1 hour' AND x.at < now()
           ORDER BY x.at DESC LIMIT $2) c)
  FROM unnest($1::text[]) AS u (id)";

/// What is told of these crossings, and how much of it is not told by name.
pub(super) async fn findings(
    conn: &mut PgConnection,
    crossings: &[Crossing],
    stages: &Stages,
) -> Result<(Vec<Finding>, u64), StoreError> {
    let what = "could not look for what is told of the budgets";
    let mut findings = decide::findings(crossings, stages);
    let mut subjects: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for c in crossings {
        subjects.entry(&c.budget_id).or_default().insert(&c.subject);
    }
    if subjects.is_empty() {
        return Ok((findings, 0));
    }
    let budgets: Vec<&str> = subjects.keys().copied().collect();
    let rows = sqlx::query(BEFORE)
        .bind(&budgets)
        .bind(LOOK)
        .fetch_all(&mut *conn)
        .await
        .map_err(StoreError::statement(what))?;
    let mut room: BTreeMap<String, usize> = BTreeMap::new();
    for r in &rows {
        let (budget, before): (String, i64) = (r.get(0), r.get(1));
        let before = usize::try_from(before).unwrap_or(OWN);
        let new = subjects.get(budget.as_str()).map_or(0, BTreeSet::len);
        if before + new > OWN {
            room.insert(budget, OWN.saturating_sub(before));
        }
    }
    if room.is_empty() {
        return Ok((findings, 0));
    }
    // Who has an incident keeps it.
    let keys: Vec<Uuid> = findings.iter().map(|f| uuid(f.key())).collect();
    let known: BTreeSet<Hash16> =
        sqlx::query_scalar::<_, Uuid>("SELECT key FROM vw.incident_head WHERE key = ANY ($1)")
            .bind(&keys)
            .fetch_all(conn)
            .await
            .map_err(StoreError::statement(what))?
            .into_iter()
            .map(hash16)
            .collect();
    let mut named: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut crowded = 0;
    for (f, c) in findings.iter_mut().zip(crossings) {
        let Some(left) = room.get_mut(c.budget_id.as_str()) else {
            continue;
        };
        let who = (c.budget_id.as_str(), c.subject.as_str());
        if known.contains(&f.key()) || named.contains(&who) {
            continue;
        }
        if *left > 0 {
            *left -= 1;
            named.insert(who);
        } else {
            decide::crowd(f, c);
            crowded += 1;
        }
    }
    Ok((findings, crowded))
}
