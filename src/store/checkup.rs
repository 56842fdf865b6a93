//! What `doctor` asks the database: who we are there, what we may do, what time it is, and what waits for
//! a hand. Changes nothing.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, Row as _};

use super::{StoreConfig, StoreError, schema};

/// What `run` does to which table: a missing right fails a batch, a merge or a page at some later hour.
/// `deploy/sql/roles.sql` grants them.
const RIGHTS: [(&str, &str); 18] = [
    ("vw.stream_partition", "INSERT"),
    ("vw.stream_partition", "UPDATE"),
    ("vw.ledger", "INSERT"),
    ("vw.ledger", "UPDATE"),
    ("vw.finding", "INSERT"),
    ("vw.dead_letter", "INSERT"),
    ("vw.audit_batch", "INSERT"),
    ("vw.event", "INSERT"),
    ("vw.minute_part", "INSERT"),
    ("vw.value", "UPDATE"),
    ("vw.value", "DELETE"),
    ("vw.incident_head", "INSERT"),
    ("vw.incident_head", "UPDATE"),
    ("vw.notify_group", "DELETE"),
    ("vw.fate", "INSERT"),
    ("vw.outbox", "INSERT"),
    ("vw.outbox", "UPDATE"),
    ("vw.outbox", "DELETE"),
];

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
    let (tables, rights): (Vec<&str>, Vec<&str>) = RIGHTS.iter().copied().unzip();
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
