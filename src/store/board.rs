//! The notifier's groups and storm windows as rows.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _};

use super::{Store, StoreError};
use crate::decide::notify::{Before, Board, Group, Storm};
use crate::event::{Hash16, SmolStr};

impl Store {
    /// The state, and how many rows could not be read: their incidents' next changes begin anew.
    pub(super) async fn load_board(&self) -> Result<(Board, u64), StoreError> {
        let rows = sqlx::query("SELECT id, state::text FROM vw.notify_group")
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement("could not read the notifier's state"))?;
        let (mut groups, mut storms) = (BTreeMap::new(), BTreeMap::new());
        let mut unreadable = 0;
        for r in &rows {
            let (id, json): (&str, &str) = (r.get(0), r.get(1));
            match id.split_once(':') {
                Some(("group", key)) => match (key.parse(), serde_json::from_str::<Group>(json)) {
                    (Ok(key), Ok(mut group)) if !group.members.is_empty() => {
                        group.members.shrink_to_fit();
                        groups.insert(key, group);
                    }
                    _ => unreadable += 1,
                },
                Some(("storm", sink)) => match serde_json::from_str::<Storm>(json) {
                    Ok(storm) => {
                        storms.insert(SmolStr::new(sink), storm);
                    }
                    Err(_) => unreadable += 1,
                },
                _ => unreadable += 1,
            }
        }
        Ok((Board::new(groups, storms), unreadable))
    }
}

/// Writes the groups and storm windows that changed, removes those that are over.
pub(super) async fn save_board(
    conn: &mut PgConnection,
    before: &Before,
    storms: &BTreeMap<SmolStr, Storm>,
    after: &Board,
) -> Result<(), StoreError> {
    let json = |r: Result<String, serde_json::Error>| {
        r.map_err(|e| {
            StoreError::Refusal(format!(
                "the notifier's state cannot be written as JSON: {e}"
            ))
        })
    };
    let group = |key: &Hash16| format!("group:{key}");
    let storm = |sink: &SmolStr| format!("storm:{sink}");
    let mut put: Vec<(String, String)> = Vec::new();
    let mut gone: Vec<String> = Vec::new();
    for (key, was) in before {
        let is = after.groups.get(key);
        if let (Some(_), None) = (was, is) {
            gone.push(group(key));
        }
        if let Some(g) = is.filter(|g| was.as_ref() != Some(*g)) {
            put.push((group(key), json(serde_json::to_string(g))?));
        }
    }
    for (sink, s) in &after.storms {
        if storms.get(sink) != Some(s) {
            put.push((storm(sink), json(serde_json::to_string(s))?));
        }
    }
    let ended = storms.keys().filter(|s| !after.storms.contains_key(*s));
    gone.extend(ended.map(storm));
    let what = "could not write the notifier's state";
    if !put.is_empty() {
        sqlx::query(
            "INSERT INTO vw.notify_group (id, state)
             SELECT u.id, u.state::jsonb FROM unnest($1::text[], $2::text[]) AS u (id, state) ORDER BY u.id COLLATE \"C\"
             ON CONFLICT (id) DO UPDATE SET state = excluded.state",
        )
        .bind(put.iter().map(|p| p.0.as_str()).collect::<Vec<_>>())
        .bind(put.iter().map(|p| p.1.as_str()).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await
        .map_err(StoreError::statement(what))?;
    }
    if !gone.is_empty() {
        sqlx::query("DELETE FROM vw.notify_group WHERE id = ANY ($1)")
            .bind(&gone)
            .execute(conn)
            .await
            .map_err(StoreError::statement(what))?;
    }
    Ok(())
}
