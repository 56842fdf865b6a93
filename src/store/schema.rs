//! The schema: migrations, their state, and the floor of what server is accepted.

use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::error::{StoreError, connect_error};
use super::{StoreConfig, connect_options, maintain};

/// The migrations, compiled in. Expand and contract only: the version before must keep working.
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The migrations, tolerant of newer ones in the database: one version back keeps working.
fn tolerant() -> Migrator {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    migrator
}

/// The roles of `deploy/sql/roles.sql`, compiled in for `db migrate --roles`.
pub const ROLES_SQL: &str = include_str!("../../deploy/sql/roles.sql");

/// Oldest PostgreSQL: 15 has `security_invoker` views and `MERGE`, and is the oldest tested.
pub const MIN_POSTGRES: u32 = 15;

/// One migration and whether it is applied.
#[derive(Debug, Clone, serde::Serialize)]
pub struct MigrationState {
    /// Version.
    pub version: i64,
    /// What it does.
    pub description: String,
    /// When it was applied, RFC 3339.
    pub applied_at: Option<String>,
    /// The file differs from what was applied.
    pub changed: bool,
}

/// State of the schema.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SchemaState {
    /// Version of the server.
    pub postgres: String,
    /// Highest version applied.
    pub found: i64,
    /// Highest version known.
    pub needed: i64,
    /// All of them.
    pub migrations: Vec<MigrationState>,
    /// Rows that fell into a DEFAULT partition: 0 in a healthy database.
    pub default_rows: i64,
    /// Days ahead for which every partition exists.
    pub partition_days_ahead: i64,
}

/// Highest version that this program knows.
pub fn needed_version() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Applies the migrations that are missing; several processes may try at once: one runs, the others
/// wait for the lock and find nothing to do. Returns how many were applied.
pub async fn migrate(config: &StoreConfig) -> Result<usize, StoreError> {
    let mut conn = connect_one(config, "5min").await?;
    check_version(&mut conn).await?;
    let before = applied(&mut conn).await?.len();
    tolerant()
        // `run` would make this future impossible to spawn.
        .run_direct(None, &mut conn, false)
        .await
        .map_err(|e| StoreError::Migration(e.to_string()))?;
    let after = applied(&mut conn).await?.len();
    let _ = conn.close().await;
    Ok(after.saturating_sub(before))
}

/// Writes how long days are kept: the database drops none that is younger, whoever asks. Only the owner
/// of the tables may say it; for others nothing changes, and `false` says so.
pub async fn keep(config: &StoreConfig) -> Result<bool, StoreError> {
    let what = "could not write how long days are kept";
    let mut conn = connect_one(config, "1min").await?;
    let owner: bool = sqlx::query_scalar("SELECT has_table_privilege('vw.day_table', 'UPDATE')")
        .fetch_one(&mut conn)
        .await
        .map_err(StoreError::statement(what))?;
    if owner {
        let days = |table: &str| i32::try_from(config.keep.days(table)).unwrap_or(i32::MAX);
        sqlx::query(
            "UPDATE vw.day_table t SET keep_days = u.days FROM unnest($1::text[], $2::int[]) AS u (name, days)
              WHERE t.name = u.name AND t.keep_days <> u.days",
        )
        .bind(maintain::BY_DAY.as_slice())
        .bind(maintain::BY_DAY.map(days).as_slice())
        .execute(&mut conn)
        .await
        .map_err(StoreError::statement(what))?;
    }
    let _ = conn.close().await;
    Ok(owner)
}

/// Creates or updates the roles and their grants. Needs `CREATEROLE`.
pub async fn apply_roles(config: &StoreConfig) -> Result<(), StoreError> {
    let mut conn = connect_one(config, "1min").await?;
    sqlx::raw_sql(ROLES_SQL)
        .execute(&mut conn)
        .await
        .map_err(StoreError::statement("could not create the roles"))?;
    let _ = conn.close().await;
    Ok(())
}

/// Connections that a login of [`analyst`] may have at a time.
const ANALYST_CONNECTIONS: u32 = 8;

/// Creates the roles, and a login that may read the views and nothing else. Needs `CREATEROLE`.
pub async fn analyst(config: &StoreConfig, name: &str, password: &str) -> Result<(), StoreError> {
    apply_roles(config).await?;
    let what = "could not create a login for analysts";
    let mut conn = connect_one(config, "1min").await?;
    // A role's name and password cannot be bound; the server quotes them.
    let create: String = sqlx::query_scalar(
        "SELECT format('CREATE ROLE %I LOGIN PASSWORD %L CONNECTION LIMIT %s IN ROLE veilwatch_analyst', $1::text, $2::text, $3::bigint)",
    )
    .bind(name)
    .bind(password)
    .bind(i64::from(ANALYST_CONNECTIONS))
    .fetch_one(&mut conn)
    .await
    .map_err(StoreError::statement(what))?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(&mut conn)
        .await
        .map_err(StoreError::statement(what))?;
    let _ = conn.close().await;
    Ok(())
}

/// What is applied and what is missing.
pub async fn status(config: &StoreConfig) -> Result<SchemaState, StoreError> {
    let mut conn = connect_one(config, "1min").await?;
    let postgres = check_version(&mut conn).await?;
    let applied = applied(&mut conn).await?;
    let found = applied.iter().map(|(v, _, _)| *v).max().unwrap_or(0);
    let migrations = MIGRATIONS
        .iter()
        .map(|m| {
            let row = applied.iter().find(|(v, _, _)| *v == m.version);
            MigrationState {
                version: m.version,
                description: m.description.to_string(),
                applied_at: row.map(|(_, at, _)| at.clone()),
                changed: row.is_some_and(|(_, _, sum)| *sum != m.checksum.as_ref()),
            }
        })
        .collect();
    let (mut default_rows, mut partition_days_ahead) = (0, 0);
    if found >= needed_version() {
        let row = sqlx::query(
            "SELECT (SELECT coalesce(sum(n), 0)::bigint FROM vw.default_rows()),
                    (SELECT coalesce(min(d) - (now() AT TIME ZONE 'UTC')::date - 1, 30)::bigint
                       FROM vw.missing_partitions((now() AT TIME ZONE 'UTC')::date,
                                                  (now() AT TIME ZONE 'UTC')::date + 30))",
        )
        .fetch_one(&mut conn)
        .await
        .map_err(StoreError::statement("could not look at the partitions"))?;
        default_rows = row.get(0);
        partition_days_ahead = row.get(1);
    }
    let _ = conn.close().await;
    Ok(SchemaState {
        postgres,
        found,
        needed: needed_version(),
        migrations,
        default_rows,
        partition_days_ahead,
    })
}

/// Refuses servers that are too old and schemas that are behind. A newer schema is fine: one version
/// back is supported.
pub(crate) async fn check(conn: &mut PgConnection) -> Result<(), StoreError> {
    check_version(conn).await?;
    let versions = applied(conn).await.map_err(|e| {
        if e.is_denied() {
            StoreError::Refusal(
                "this role may only read the views of docs/SQL.md: use psql, or a login in veilwatch_writer \
                 or veilwatch_notify (`veilwatch db migrate --roles` makes them)"
                    .to_owned(),
            )
        } else {
            e
        }
    })?;
    let found = versions.iter().map(|(v, _, _)| *v).max().unwrap_or(0);
    let needed = needed_version();
    if found < needed {
        return Err(StoreError::NotMigrated { found, needed });
    }
    Ok(())
}

pub(super) async fn connect_one(
    config: &StoreConfig,
    statement_timeout: &'static str,
) -> Result<PgConnection, StoreError> {
    // A lock is waited for as long as what it stands before: the others' migration takes its time.
    let options = connect_options(config)?.options([
        ("statement_timeout", statement_timeout),
        ("lock_timeout", statement_timeout),
    ]);
    PgConnection::connect_with(&options)
        .await
        .map_err(|e| connect_error(super::address(&options), options.get_username(), &e))
}

async fn check_version(conn: &mut PgConnection) -> Result<String, StoreError> {
    let what = "could not ask for the server's version";
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(conn)
    .await
    .map_err(StoreError::statement(what))?;
    judge_version(row.get(0), row.get(1))
}

fn judge_version(number: i32, name: String) -> Result<String, StoreError> {
    if u32::try_from(number / 10_000).unwrap_or(0) < MIN_POSTGRES {
        return Err(StoreError::TooOld {
            found: name,
            needed: MIN_POSTGRES,
        });
    }
    Ok(name)
}

/// (version, applied at, checksum); empty where nothing was ever applied.
async fn applied(conn: &mut PgConnection) -> Result<Vec<(i64, String, Vec<u8>)>, StoreError> {
    let what = "could not read the state of the migrations";
    let there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await
        .map_err(StoreError::statement(what))?;
    if !there {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "SELECT version, to_char(installed_on AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), checksum
           FROM _sqlx_migrations WHERE success ORDER BY version",
    )
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement(what))?;
    Ok(rows
        .iter()
        .map(|r| (r.get(0), r.get(1), r.get(2)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        assert!(judge_version(150_018, "15.18".to_owned()).is_ok());
        let e = judge_version(140_009, "14.9".to_owned()).expect_err("too old");
        assert_eq!(
            e.to_string(),
            "postgres 14.9 is too old: version 15 or later is needed"
        );
    }
}
