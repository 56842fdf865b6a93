//! What `doctor` asks the database: who we are there, what we may do, what time it is, and what waits for
//! a hand. Changes nothing.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, Row as _};

use super::{StoreConfig, StoreError, schema};

/// Reading is asked for apart.
const CHANGES: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];

/// The rights on whole tables that the roles of `run` have, (table, right): a missing one fails a batch, a merge
/// or a page at some later hour.
fn rights() -> Vec<(String, String)> {
    let plain: String = schema::ROLES_SQL
        .lines()
        .filter(|l| !l.trim_start().starts_with("--"))
        .flat_map(|l| [l, " "])
        .collect();
    let mut out = Vec::new();
    for grant in plain.split(';').map(str::trim) {
        // Rights on columns, functions, sequences and schemas are not asked for.
        let Some((rights, on)) = grant
            .strip_prefix("GRANT ")
            .and_then(|g| g.split_once(" ON "))
        else {
            continue;
        };
        let Some((tables, to)) = on.split_once(" TO ") else {
            continue;
        };
        if rights.contains('(') || to.trim() == "veilwatch_analyst" {
            continue;
        }
        for table in tables
            .split(',')
            .map(str::trim)
            .filter(|t| t.starts_with("vw."))
        {
            let rights = rights
                .split(',')
                .map(str::trim)
                .filter(|r| CHANGES.contains(r));
            out.extend(rights.map(|r| (table.to_owned(), r.to_owned())));
        }
    }
    out.sort();
    out.dedup();
    out
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Checkup {
    /// The role we are.
    pub role: String,
    /// Whether it may make tables here.
    pub may_create: bool,
    /// Rights that `run` needs and the role has not, such as `INSERT on vw.finding`.
    pub missing_rights: Vec<String>,
    /// How far this machine's clock is ahead of the database's, milliseconds; negative: behind.
    pub clock_ahead_ms: i64,
    /// Up to how much the answer's way makes that uncertain.
    pub clock_within_ms: i64,
    /// Settings without which a crash of the server's machine damages what is stored. (Without
    /// `synchronous_commit` it loses offsets and effects together, which are then made again.)
    pub undurable: Vec<String>,
    /// Connections that the server takes.
    pub max_connections: i64,
    /// Partitions that stand still until somebody acts: topic, number, why.
    pub halted: Vec<(String, i32, String)>,
    /// Sinks with parked notifications, and how many.
    pub parked: Vec<(String, i64)>,
}

/// Looks at a database that [`schema::status`] has found to be there.
///
/// # Errors
/// It cannot be reached, or refuses to answer.
pub async fn checkup(config: &StoreConfig, migrated: bool) -> Result<Checkup, StoreError> {
    let what = StoreError::statement("could not look at the database");
    let mut conn = schema::connect_one(config, "15s").await?;
    let mut found = about_us(&mut conn).await.map_err(what)?;
    if migrated {
        let what = StoreError::statement("could not look at the tables");
        tables(&mut conn, &mut found).await.map_err(what)?;
    }
    let _ = conn.close().await;
    Ok(found)
}

async fn about_us(conn: &mut PgConnection) -> Result<Checkup, sqlx::Error> {
    let row = sqlx::query(
        "SELECT current_user::text, has_database_privilege(current_database(), 'CREATE'),
                current_setting('max_connections')::bigint,
                array_remove(ARRAY[
                  CASE WHEN current_setting('fsync') = 'off' THEN 'fsync' END,
                  CASE WHEN current_setting('full_page_writes') = 'off' THEN 'full_page_writes' END], NULL)",
    )
    .fetch_one(&mut *conn)
    .await?;
    let asked = (Instant::now(), chrono::Utc::now());
    let there: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(&mut *conn)
        .await?;
    let took = asked.0.elapsed();
    let middle = asked.1 + took / 2;
    Ok(Checkup {
        role: row.get(0),
        may_create: row.get(1),
        max_connections: row.get(2),
        undurable: row.get(3),
        missing_rights: Vec::new(),
        clock_ahead_ms: (middle - there).num_milliseconds(),
        clock_within_ms: i64::try_from((took / 2 + Duration::from_millis(1)).as_millis())
            .unwrap_or(i64::MAX),
        halted: Vec::new(),
        parked: Vec::new(),
    })
}

async fn tables(conn: &mut PgConnection, found: &mut Checkup) -> Result<(), sqlx::Error> {
    let (tables, rights): (Vec<String>, Vec<String>) = rights().into_iter().unzip();
    // Without the schema's usage every other question is refused, too.
    let usage: bool = sqlx::query_scalar("SELECT has_schema_privilege('vw', 'USAGE')")
        .fetch_one(&mut *conn)
        .await?;
    if !usage {
        found.missing_rights.push("USAGE on schema vw".to_owned());
        return Ok(());
    }
    found.missing_rights = sqlx::query_scalar(
        "SELECT r || ' on ' || t FROM unnest($1::text[], $2::text[]) AS a (t, r)
          WHERE NOT has_table_privilege(t, r) ORDER BY t, r",
    )
    .bind(tables)
    .bind(rights)
    .fetch_all(&mut *conn)
    .await?;
    let may_read: bool = sqlx::query_scalar(
        "SELECT has_table_privilege('vw.stream_partition', 'SELECT') AND has_table_privilege('vw.outbox', 'SELECT')",
    )
    .fetch_one(&mut *conn)
    .await?;
    if !may_read {
        found
            .missing_rights
            .push("SELECT on vw.stream_partition and vw.outbox".to_owned());
        return Ok(());
    }
    found.halted = sqlx::query_as(
        "SELECT topic, part, halted FROM vw.stream_partition WHERE halted IS NOT NULL ORDER BY topic, part LIMIT 100",
    )
    .fetch_all(&mut *conn)
    .await?;
    found.parked = sqlx::query_as(
        "SELECT sink, count(*) FROM vw.outbox WHERE state = 3 GROUP BY sink ORDER BY sink LIMIT 100",
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rights_that_are_asked_for_are_those_that_are_granted() {
        let all = rights();
        let has = |table: &str, right: &str| all.contains(&(table.to_owned(), right.to_owned()));
        assert!(has("vw.missing_hour", "INSERT") && has("vw.missing_hour", "DELETE"));
        assert!(has("vw.outbox", "UPDATE") && has("vw.notify_group", "DELETE"));
        assert!(!has("vw.finding", "UPDATE") && !has("vw.audit_batch", "DELETE"));
        assert!(all.len() > 60, "{}", all.len());
    }
}
