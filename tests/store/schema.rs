//! Migrations, partitions, retention, roles, views, and the errors of a first connection.

use chrono::{Days, NaiveDate};
use sqlx::{Connection as _, Executor as _, PgConnection};
use veilwatch::detect::DetectConfig;
use veilwatch::store::{LeaderTask, StoreConfig, StoreError, schema};

use super::*;
use crate::postgres::{self, Db};

async fn today(db: &Db) -> NaiveDate {
    sqlx::query_scalar("SELECT (now() AT TIME ZONE 'UTC')::date")
        .fetch_one(&db.pool)
        .await
        .expect("today")
}

#[tokio::test(flavor = "multi_thread")]
async fn f29_three_migrations_at_once_apply_each_once() {
    postgres::sql("postgres", "CREATE DATABASE migrate_race").await;
    let config = StoreConfig::new(postgres::server().url("migrate_race"));
    let e = Store::connect(config.clone())
        .await
        .expect_err("not migrated");
    assert!(matches!(e, StoreError::NotMigrated { found: 0, .. }), "{e}");
    assert!(e.to_string().contains("run `veilwatch db migrate`"));
    let before = schema::status(&config).await.expect("status");
    assert_eq!((before.found, before.needed), (0, schema::needed_version()));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let config = config.clone();
        tasks.push(tokio::spawn(async move { schema::migrate(&config).await }));
    }
    let mut applied = 0;
    for t in tasks {
        applied += t.await.expect("task").expect("migrate");
    }
    // One did the work; what the others count depends on when they looked, never more than all.
    assert!(applied >= 1);
    assert_eq!(schema::migrate(&config).await.expect("migrate"), 0);
    let status = schema::status(&config).await.expect("status");
    assert_eq!(status.found, schema::needed_version());
    assert!(status.partition_days_ahead >= 7 && status.default_rows == 0);
    assert!(
        status
            .migrations
            .iter()
            .all(|m| m.applied_at.is_some() && !m.changed)
    );
    Store::connect(config).await.expect("connect");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_connections_fail_with_a_remedy() {
    let server = postgres::server();
    let cases = [
        (
            "mysql://a@b/c".to_owned(),
            "write postgres://user@host:5432/database",
        ),
        (
            "postgres://veilwatch@127.0.0.1:1/x".to_owned(),
            "could not reach postgres at 127.0.0.1:1",
        ),
        (
            server.url_as("veilwatch", "wrong", "postgres"),
            "check the user and password",
        ),
        (server.url("nowhere"), "create it (CREATE DATABASE"),
        (
            "postgres://veilwatch@unresolvable.invalid/x".to_owned(),
            "could not reach postgres at unresolvable.invalid:5432",
        ),
    ];
    for (url, want) in cases {
        let e = Store::connect(StoreConfig::new(url)).await.expect_err(want);
        assert!(e.to_string().contains(want), "{e}");
        assert!(
            !e.to_string().contains("wrong"),
            "no password in an error: {e}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_rows_of_a_day_without_a_partition_are_caught_and_moved() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let far = db.store.now().await.expect("now").plus_ms(60 * 86_400_000);
    let mut b = owner.batch(1);
    b.effects
        .findings
        .push(finding(1, "e1", far, Severity::Low));
    owner.commit(&db.store, b).await;
    assert_eq!(
        db.store.default_rows().await.expect("count"),
        1,
        "DEFAULT caught it"
    );
    assert_eq!(db.store.counters().default_rows(), None, "nobody looked");
    let mut leader = LeaderTask::new(db.store.clone(), Arc::new(DetectConfig::default()));
    leader.tick().await.expect("tick");
    assert_eq!(leader.house_kept().await, vec![]);
    // The gauge says what was found; the rows have moved.
    assert_eq!(db.store.counters().default_rows(), Some(1));
    assert_eq!(db.store.default_rows().await.expect("count"), 0);
    assert_eq!(db.number("SELECT count(*) FROM vw.finding").await, 1);
    leader.keep_house_now();
    leader.tick().await.expect("tick");
    assert_eq!(leader.house_kept().await, vec![]);
    assert_eq!(db.store.counters().default_rows(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_drops_days_and_expires_rows() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(2);
    let now = db.store.now().await.expect("now");
    let today = today(&db).await;
    // The day before the oldest that is kept; nobody makes it any more.
    let gone = today - Days::new(31);
    sqlx::query("SELECT vw.ensure_partition('dead_letter', $1)")
        .bind(gone)
        .execute(&db.pool)
        .await
        .expect("made");
    for (offset, at) in [
        (0, now.minus_ms(30 * 86_400_000)),
        (1, now.minus_ms(31 * 86_400_000)),
    ] {
        let mut d = dead_letter(offset);
        d.append = at;
        b.dead_letters.push(d);
    }
    owner.commit(&db.store, b).await;
    assert_eq!(
        db.store.drop_old(today - Days::new(1)).await.expect("drop"),
        Vec::<String>::new()
    );
    let dropped = db.store.drop_old(today).await.expect("drop");
    let gone = format!("dead_letter_{}", gone.format("%Y%m%d"));
    assert!(dropped.contains(&gone), "{dropped:?}");
    assert!(
        !dropped
            .iter()
            .any(|d| d.starts_with("finding") || d.starts_with("audit"))
    );
    assert_eq!(db.number("SELECT count(*) FROM vw.dead_letter").await, 1);
    db.run(
        "INSERT INTO vw.value (kid, mac, last_day, row)
           SELECT 'k7', decode(lpad(to_hex(n), 32, '0'), 'hex'), current_date - CASE WHEN n <= 6000 THEN 9 ELSE 1 END, ''
             FROM generate_series(1, 6010) n;
         INSERT INTO vw.ledger SELECT 0, 'k7:a', p, 1, 1, 1, 1, 0, 0, 0, 0
           FROM unnest('{d:2020-01-01,h:2020-01-01T07,m:2020-01,t}'::text[]) p",
    )
    .await;
    let expired = db.store.expire_all().await.expect("expire");
    assert_eq!(expired, 6_000 + 2);
    assert_eq!(db.number("SELECT count(*) FROM vw.value").await, 10);
    assert_eq!(
        db.text("SELECT string_agg(period, ' ' ORDER BY period) FROM vw.ledger")
            .await,
        "m:2020-01 t"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_drops_what_is_younger_than_the_owner_says() {
    let db = Db::new().await;
    schema::apply_roles(db.store.config()).await.expect("roles");
    let today = today(&db).await;
    let mut conn = PgConnection::connect(&postgres::server().url(&db.name))
        .await
        .expect("connect");
    conn.execute("SET ROLE veilwatch_retention")
        .await
        .expect("role");
    let mut drop = async |table: &str, before: NaiveDate| {
        sqlx::query_scalar::<_, String>("SELECT vw.drop_partitions($1, $2)")
            .bind(table)
            .bind(before)
            .fetch_all(&mut conn)
            .await
            .map_err(|e| e.to_string())
    };
    let ago = |days| today - Days::new(days);
    for (table, keep) in [("audit_batch", 400), ("finding", 400), ("dead_letter", 30)] {
        for before in [today + Days::new(1), today, ago(keep - 1)] {
            let e = drop(table, before).await.expect_err("refused");
            assert!(e.contains(&format!("kept {keep} days")), "{e}");
        }
        assert_eq!(drop(table, ago(keep)).await, Ok(vec![]), "{table}");
    }
    // The owner says less, in the configuration with which it migrates.
    let mut config = db.store.config().clone();
    config.keep.dead_letters = 7;
    assert!(schema::keep(&config).await.expect("keep"));
    assert!(drop("dead_letter", ago(6)).await.is_err());
    assert_eq!(drop("dead_letter", ago(7)).await, Ok(vec![]));
    assert!(drop("finding", ago(399)).await.is_err());
    // Who may drop may not say how long.
    let e = conn
        .execute("UPDATE vw.day_table SET keep_days = 1")
        .await
        .expect_err("refused");
    assert!(e.to_string().contains("permission denied"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_may_do_what_they_need_and_no_more() {
    let db = Db::new().await;
    schema::apply_roles(db.store.config()).await.expect("roles");
    schema::apply_roles(db.store.config()).await.expect("again");
    let mut conn = PgConnection::connect(&postgres::server().url(&db.name))
        .await
        .expect("connect");
    let writer = "veilwatch_writer";
    let notify = "veilwatch_notify";
    let analyst = "veilwatch_analyst";
    let retention = "veilwatch_retention";
    let cases: [(&str, &str, bool); 28] = [
        (analyst, "SELECT * FROM incidents", true),
        (analyst, "SELECT * FROM findings", true),
        (analyst, "SELECT * FROM notifications", true),
        (analyst, "SELECT * FROM budgets", true),
        (analyst, "SELECT * FROM usage_hourly", true),
        (analyst, "SELECT * FROM dead_letters", true),
        (analyst, "SELECT * FROM completeness", true),
        (analyst, "SELECT * FROM missing_events", true),
        (analyst, "SELECT * FROM vw.user_state", false),
        (analyst, "SELECT * FROM vw.value", false),
        (analyst, "DELETE FROM dead_letters", false),
        (analyst, "CREATE TABLE public.mine (a int)", false),
        (
            writer,
            "INSERT INTO vw.stream_gap (topic, part, lo, hi, reason) VALUES ('t', 0, 0, 1, 'retention')",
            true,
        ),
        (writer, "UPDATE vw.ledger SET events = events + 1", true),
        (
            writer,
            "UPDATE vw.dead_letter SET replayed_at = now()",
            true,
        ),
        (writer, "UPDATE vw.dead_letter SET reason = 'x'", false),
        (writer, "UPDATE vw.audit_batch SET n = 0", false),
        (writer, "UPDATE vw.event SET model = 'x'", false),
        (writer, "DELETE FROM vw.audit_batch", false),
        (writer, "TRUNCATE vw.finding", false),
        (writer, "DELETE FROM vw.ledger", false),
        (
            writer,
            "SELECT vw.drop_partitions('finding', '2020-01-01')",
            false,
        ),
        (notify, "UPDATE vw.outbox SET attempts = 0", true),
        (notify, "UPDATE vw.ledger SET events = 0", false),
        (notify, "DELETE FROM vw.outbox", false),
        (retention, "DELETE FROM vw.outbox", true),
        (
            retention,
            "SELECT vw.drop_partitions('finding', '2020-01-01')",
            true,
        ),
        (retention, "DELETE FROM vw.audit_batch", false),
    ];
    for (role, statement, allowed) in cases {
        let mut tx = conn.begin().await.expect("begin");
        tx.execute(sqlx::AssertSqlSafe(format!("SET LOCAL ROLE {role}")))
            .await
            .expect("role");
        let got = tx.execute(statement).await;
        let denied = matches!(&got, Err(e) if e.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("42501"));
        assert_eq!(
            (got.is_ok(), denied),
            (allowed, !allowed),
            "{role}: {statement}: {got:?}"
        );
        tx.rollback().await.expect("rollback");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_the_running_roles_does_everything() {
    let db = Db::new().await;
    schema::apply_roles(db.store.config()).await.expect("roles");
    db.run(&format!(
        "CREATE ROLE run_{0} LOGIN PASSWORD 'secret' IN ROLE veilwatch_writer, veilwatch_notify, veilwatch_retention",
        db.name
    ))
    .await;
    let url = postgres::server().url_as(&format!("run_{}", db.name), "secret", &db.name);
    let store = Store::connect(StoreConfig::new(url))
        .await
        .expect("connect");
    let mut owner = Owner::claim(&store, 0).await;
    let mut b = owner.batch(2);
    b.ledger.add(
        ledger_key(veilwatch::account::Scope::Everyone, "*", NOON),
        &tokens(1),
    );
    b.dead_letters.push(dead_letter(0));
    b.effects
        .findings
        .push(finding(1, "e1", NOON, Severity::High));
    b.effects
        .minute_parts
        .insert((NOON.minute(), true), vec![1]);
    owner.commit(&store, b).await;
    let mut leader = LeaderTask::new(store.clone(), Arc::new(DetectConfig::default()));
    assert!(leader.tick().await.expect("leader").leads);
    assert_eq!(leader.house_kept().await, vec![]);
    let routes = veilwatch::decide::Routes::single(vec![SmolStr::new("mail")]);
    let mut notifier = veilwatch::store::NotifierTask::new(store.clone(), routes);
    assert_eq!(notifier.tick().await.expect("notifier").queued, 1);
    let row = store
        .outbox_claim("mail", 1, Severity::Low)
        .await
        .expect("claim")
        .remove(0);
    store.outbox_sent(&row).await.expect("sent");
    store.expire_all().await.expect("expire");
    let key = row.key;
    store
        .incident_deed(key, None, veilwatch::store::deed::Deed::Acknowledge, "a")
        .await
        .expect("ack");
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_of_usage_are_utc_in_every_session() {
    let db = Db::new().await;
    // Berlin skips 02:00 on the first day and has it twice on the second; what is no hour of UTC stays out.
    db.run(
        "INSERT INTO vw.ledger SELECT 5, '*', p, 1, 1, 1, 1, 0, 0, 0, 0
           FROM unnest('{h:2026-03-29T01,h:2026-03-29T02,h:2026-03-29T03,h:2026-10-25T00,h:2026-10-25T01,h:2026-10-25T02,
                         h:2026-03-29T02+0200@Europe/Berlin,d:2026-03-29,t}'::text[]) p",
    )
    .await;
    let mut conn = PgConnection::connect(&postgres::server().url(&db.name))
        .await
        .expect("connect");
    for zone in [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
    ] {
        conn.execute(sqlx::AssertSqlSafe(format!("SET TIME ZONE '{zone}'")))
            .await
            .expect("zone");
        let hours: Vec<String> = sqlx::query_scalar(
            "SELECT to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM usage_hourly
              WHERE hour > '2026-01-01' ORDER BY hour",
        )
        .fetch_all(&mut conn)
        .await
        .expect("hours");
        assert_eq!(
            hours,
            [
                "2026-03-29 01:00",
                "2026-03-29 02:00",
                "2026-03-29 03:00",
                "2026-10-25 00:00",
                "2026-10-25 01:00",
                "2026-10-25 02:00"
            ],
            "{zone}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_query_runs() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(2);
    b.dead_letters.push(dead_letter(0));
    b.effects
        .findings
        .push(finding(1, "e1", NOON, Severity::High));
    owner.commit(&db.store, b).await;
    let text = include_str!("../../docs/SQL.md");
    let queries: Vec<&str> = text
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(queries.len() >= 20, "{} queries", queries.len());
    for q in &queries {
        db.pool
            .execute(sqlx::AssertSqlSafe((*q).to_owned()))
            .await
            .unwrap_or_else(|e| panic!("{q}\n{e}"));
    }
    // Every column of every view is documented, and nothing else.
    for view in [
        "incidents",
        "findings",
        "notifications",
        "budgets",
        "usage_hourly",
        "dead_letters",
        "completeness",
        "missing_events",
    ] {
        let columns: Vec<String> = sqlx::query_scalar(
            "SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position",
        )
        .bind(view)
        .fetch_all(&db.pool)
        .await
        .expect("columns");
        let section = text.split(&format!("\n## {view}\n")).nth(1).expect(view);
        let section = section.split("\n## ").next().expect("section");
        let documented: Vec<&str> = section
            .lines()
            .filter_map(|l| l.strip_prefix("| `"))
            .filter_map(|l| l.split('`').next())
            .collect();
        assert_eq!(documented, columns, "{view}");
    }
}

/// The ledger keeps a row per user and day for 400 days, and two years of months: no documented question may
/// read all of it.
#[tokio::test(flavor = "multi_thread")]
async fn documented_questions_about_usage_read_a_part_of_the_ledger() {
    let db = Db::new().await;
    db.run(
        "INSERT INTO vw.budget_limit (id, width, subject, period, unit, amount)
         VALUES ('each', 0, '*', 'd', 'tokens', 1000), ('acme', 3, 'tenant-1', 'm', 'usd', 1000)",
    )
    .await;
    let row = "1, 1, 1, 1, 0, 0, 0, 0";
    for rows in [
        "0, 'user-' || u, to_char(now() - d * interval '1 day', '\"d:\"YYYY-MM-DD') FROM generate_series(1, 100) u, generate_series(0, 399) d",
        "3, 'tenant-' || u, to_char((now() - d * interval '1 hour') AT TIME ZONE 'UTC', '\"h:\"YYYY-MM-DD\"T\"HH24') FROM generate_series(1, 4) u, generate_series(0, 9599) d",
        "3, 'tenant-' || u, to_char(now() - d * interval '1 month', '\"m:\"YYYY-MM') FROM generate_series(1, 4) u, generate_series(0, 23) d",
    ] {
        let (values, from) = rows.split_once(" FROM ").expect("a source");
        db.run(&format!(
            "INSERT INTO vw.ledger SELECT {values}, {row} FROM {from} ON CONFLICT DO NOTHING"
        ))
        .await;
    }
    db.run("ANALYZE vw.ledger").await;
    let text = include_str!("../../docs/SQL.md");
    let mut queries = Vec::new();
    for section in ["budgets", "usage_hourly"] {
        let section = text.split(&format!("\n## {section}\n")).nth(1);
        let section = section.expect("there").split("\n## ").next();
        let blocks = section.expect("section").split("```sql\n").skip(1);
        queries.extend(blocks.filter_map(|rest| rest.split("```").next()));
    }
    assert!(queries.len() >= 5, "{} questions", queries.len());
    let reads_all = async || {
        let mut all = Vec::new();
        for query in &queries {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {query}"));
            let plan: Vec<String> = sqlx::query_scalar(explain)
                .fetch_all(&db.pool)
                .await
                .expect("a plan");
            if plan.iter().any(|l| l.contains("Seq Scan on ledger")) {
                all.push(format!("{query}\n{}", plan.join("\n")));
            }
        }
        all
    };
    assert_eq!(reads_all().await, Vec::<String>::new());
    // The same hours, in whatever zone the session is.
    for zone in ["UTC", "Europe/Berlin"] {
        let mut conn = db.pool.acquire().await.expect("connection");
        sqlx::query(sqlx::AssertSqlSafe(format!("SET timezone = '{zone}'")))
            .execute(&mut *conn)
            .await
            .expect("zone");
        let newest: bool = sqlx::query_scalar(
            "SELECT max(hour) = date_trunc('hour', now(), 'UTC') AND min(hour) = max(hour) - interval '9599 hours' FROM usage_hourly",
        )
        .fetch_one(&mut *conn)
        .await
        .expect("hours");
        assert!(newest, "{zone}");
    }
    // There is enough in it for the plans to differ.
    db.run("DROP INDEX vw.ledger_period, vw.ledger_hours").await;
    assert_eq!(reads_all().await.len(), queries.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_that_the_demo_shows_reads_the_views_and_nothing_else() {
    let db = Db::new().await;
    let name = format!("shown_{}", db.name);
    schema::analyst(db.store.config(), &name, "it's secret")
        .await
        .expect("a login");
    let options: sqlx::postgres::PgConnectOptions =
        postgres::server().url(&db.name).parse().expect("a URL");
    let options = options.username(&name).password("it's secret");
    let mut conn = PgConnection::connect_with(&options).await.expect("connect");
    let superuser: bool =
        sqlx::query_scalar("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&mut conn)
            .await
            .expect("asked");
    assert!(!superuser);
    for allowed in [
        "SELECT * FROM incidents",
        "SELECT * FROM completeness",
        "SELECT * FROM budgets",
    ] {
        conn.execute(allowed)
            .await
            .unwrap_or_else(|e| panic!("{allowed}: {e}"));
    }
    for refused in [
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT * FROM vw.finding",
        "UPDATE vw.ledger SET events = 0",
        "CREATE TABLE public.mine (a int)",
    ] {
        let e = conn.execute(refused).await.expect_err(refused);
        let code = e
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        assert_eq!(code.as_deref(), Some("42501"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runbooks_ask_has_an_index() {
    let db = Db::new().await;
    let mut tx = db.pool.begin().await.expect("begin");
    // The tables are empty, where reading all of them is best.
    tx.execute("SET LOCAL enable_seqscan = off")
        .await
        .expect("set");
    for (question, index) in [
        ("SELECT * FROM findings WHERE incident_id = 'a'", "hex"),
        ("SELECT * FROM findings WHERE event_id = 'a'", "event_id"),
        (
            "SELECT * FROM findings WHERE rule = 'a' AND happened_at > now() - interval '1 day'",
            "rule",
        ),
        ("SELECT * FROM usage_hourly", "ledger_hours"),
    ] {
        let plan: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("EXPLAIN {question}")))
                .fetch_all(&mut *tx)
                .await
                .expect("plan");
        let plan = plan.join("\n");
        assert!(!plan.contains("Seq Scan"), "{question}\n{plan}");
        assert!(plan.contains(index), "{question}\n{plan}");
    }
}
