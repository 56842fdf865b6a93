//! The notifier's groups and storm windows as rows.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::{Store, StoreError, time};
use crate::decide::Routes;
use crate::decide::notify::{AWAKE, Before, Board, Group, Storm};
use crate::event::{Hash16, SmolStr};

/// Rows read at once: a group may be half a megabyte, most are one kilobyte.
const PAGE: i64 = 500;

impl Store {
    /// The state, and how many rows could not be read: their incidents' next changes begin anew. Groups
    /// that wait for nothing stay in their rows.
    pub(super) async fn load_board(&self, routes: &Routes) -> Result<(Board, u64), StoreError> {
        let what = "could not read the notifier's state";
        let mut conn = self
            .pool()
            .acquire()
            .await
            .map_err(StoreError::statement(what))?;
        let now = sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&mut *conn)
            .await
            .map_err(StoreError::statement(what))?;
        let now = time(now);
        let (mut board, mut unreadable) = (Board::default(), 0);
        let mut after = String::new();
        loop {
            let rows: Vec<(String, String)> = sqlx::query_as(
                "SELECT id, state::text FROM vw.notify_group
                  WHERE id > $1 COLLATE \"C\" ORDER BY id COLLATE \"C\" LIMIT $2",
            )
            .bind(&after)
            .bind(PAGE)
            .fetch_all(&mut *conn)
            .await
            .map_err(StoreError::statement(what))?;
            let last = rows.last().map(|(id, _)| id.clone());
            for (id, json) in &rows {
                unreadable += u64::from(!take(&mut board, id, json));
            }
            board.rest(routes, now, AWAKE);
            match last {
                Some(id) => after = id,
                None => return Ok((board, unreadable)),
            }
        }
    }
}

/// Brings groups back into memory. How many could not be read.
pub(super) async fn wake(
    conn: &mut PgConnection,
    board: &mut Board,
    wanted: BTreeSet<Hash16>,
) -> Result<u64, StoreError> {
    if wanted.is_empty() {
        return Ok(0);
    }
    let ids: Vec<String> = wanted.iter().map(|key| format!("group:{key}")).collect();
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT id, state::text FROM vw.notify_group WHERE id = ANY ($1)")
            .bind(ids)
            .fetch_all(conn)
            .await
            .map_err(StoreError::statement("could not read the notifier's state"))?;
    let mut unreadable = 0;
    for (id, json) in &rows {
        unreadable += u64::from(!take(board, id, json));
    }
    for key in wanted {
        board.forget(key);
    }
    Ok(unreadable)
}

/// Takes one row. False: it cannot be read.
fn take(board: &mut Board, id: &str, json: &str) -> bool {
    match id.split_once(':') {
        Some(("group", key)) => match (key.parse(), serde_json::from_str::<Group>(json)) {
            (Ok(key), Ok(mut group)) if !group.members.is_empty() => {
                group.members.shrink_to_fit();
                board.wake(key, group);
                true
            }
            _ => false,
        },
        Some(("storm", sink)) => {
            let storm = serde_json::from_str::<Storm>(json);
            let read = storm.is_ok();
            if let Ok(storm) = storm {
                board.storms.insert(SmolStr::new(sink), storm);
            }
            read
        }
        _ => false,
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
