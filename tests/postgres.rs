//! One private Postgres for the whole test binary, a database of its own for each test.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};
use tokio::sync::OnceCell;
use veilwatch::store::private::{Options, PrivatePostgres};
use veilwatch::store::{Store, StoreConfig, schema};

static SERVER: OnceLock<PrivatePostgres> = OnceLock::new();
static TEMPLATE: OnceCell<()> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The server; its guard process removes it when the binary ends.
pub fn server() -> &'static PrivatePostgres {
    SERVER.get_or_init(|| {
        let options = Options {
            max_connections: 400,
            ..Options::default()
        };
        PrivatePostgres::start(options).expect("private postgres")
    })
}

/// Runs one statement as superuser in a database.
pub async fn sql(database: &str, statement: &str) {
    let mut conn = PgConnection::connect(&server().url(database))
        .await
        .expect("connect");
    conn.execute(sqlx::AssertSqlSafe(statement))
        .await
        .unwrap_or_else(|e| panic!("{statement}: {e}"));
    conn.close().await.expect("close");
}

/// The name of a fresh, migrated database.
pub async fn database() -> String {
    TEMPLATE
        .get_or_init(|| async {
            sql("postgres", "CREATE DATABASE template_vw").await;
            schema::migrate(&StoreConfig::new(server().url("template_vw")))
                .await
                .expect("migrate");
        })
        .await;
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    sql(
        "postgres",
        &format!("CREATE DATABASE {name} TEMPLATE template_vw"),
    )
    .await;
    name
}

/// A database with a store on it and a pool for looking at it from outside.
pub struct Db {
    pub name: String,
    pub store: Store,
    pub pool: PgPool,
}

impl Db {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a changed configuration.
    pub async fn with(change: impl FnOnce(&mut StoreConfig)) -> Self {
        let name = database().await;
        let mut config = StoreConfig::new(server().url(&name));
        config.max_connections = 24;
        change(&mut config);
        let store = Store::connect(config).await.expect("connect");
        let pool = PgPool::connect(&server().url(&name)).await.expect("pool");
        Self { name, store, pool }
    }

    /// Another process on the same database.
    pub async fn another(&self) -> Store {
        let mut config = self.store.config().clone();
        "another".clone_into(&mut config.owner);
        Store::connect(config).await.expect("connect")
    }

    /// One number.
    pub async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|e| panic!("{query}: {e}"))
    }

    /// One text.
    pub async fn text(&self, query: &str) -> String {
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap_or_else(|e| panic!("{query}: {e}"))
    }

    /// Numbers by name.
    pub async fn counts(&self, query: &str) -> BTreeMap<String, u64> {
        let rows: Vec<(String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(query.to_owned()))
            .fetch_all(&self.pool)
            .await
            .unwrap_or_else(|e| panic!("{query}: {e}"));
        let count = |n: i64| u64::try_from(n).expect("a count");
        rows.into_iter().map(|(k, n)| (k, count(n))).collect()
    }

    /// Runs a statement.
    pub async fn run(&self, statement: &str) {
        self.pool
            .execute(sqlx::AssertSqlSafe(statement.to_owned()))
            .await
            .unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}
