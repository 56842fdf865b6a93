//! A new database: its tables were empty when the first plans were made, and nothing has counted their rows since.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Row as _;
use veilwatch::detect::{UserRow, Wanted};
use veilwatch::store::private::{Options, PrivatePostgres};
use veilwatch::store::{StoreConfig, schema};

use super::*;

/// Batches of one user and one finding, with an empty outbox: after five of its own, the server keeps to one plan.
const FIRST: u32 = 8;
/// Batches after these, and of each: users, and findings.
const BATCHES: u32 = 24;
const USERS: u32 = 100;
const FINDINGS: u32 = 25;
/// Notifications that wait at once.
const QUEUED: u32 = 1_500;
/// Rows read for each that is looked for, at most. A plan that reads tables whole reads three to twelve here, one that
/// reads half an index for each row hundreds.
const READ: i64 = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_finds_each_row_by_its_key() {
    let server = PrivatePostgres::start(Options {
        settings: vec!["autovacuum=off".to_owned()],
        ..Options::default()
    })
    .expect("private postgres");
    let mut config = StoreConfig::new(server.url("postgres"));
    // One connection for batches and one for all else: each plans for itself.
    config.max_connections = 2;
    schema::migrate(&config).await.expect("migrate");
    let store = Store::connect(config).await.expect("connect");
    let pool = sqlx::PgPool::connect(&server.url("postgres"))
        .await
        .expect("pool");

    // What is looked for in each table, at least.
    let mut sought: BTreeMap<&str, u32> = BTreeMap::new();
    let mut owner = Owner::claim(&store, 0).await;
    for i in 0..FIRST + BATCHES {
        let (users, findings, known) = match i.checked_sub(FIRST) {
            None => (1_000_000 + i..1_000_001 + i, 1, 0),
            Some(0) => (0..USERS, FINDINGS, 0),
            // Half of the users were there before.
            Some(n) => (n * USERS / 2..n * USERS / 2 + USERS, FINDINGS, USERS / 2),
        };
        if i < FIRST {
            let none = store.outbox_claim("mail", 100, Severity::Informational);
            assert_eq!(none.await.expect("claim"), vec![]);
        }
        let n_users = u32::try_from(users.len()).expect("few");
        let wanted = users.clone().map(|n| (user(n), Wanted::NameAndRow));
        let loaded = store
            .load_users(&[(tp(0), wanted.collect())])
            .await
            .expect("loaded");
        assert_eq!(loaded[0].users.len(), known as usize);
        let mut b = owner.batch(USERS);
        for n in users {
            b.effects.user_rows.push(UserRow {
                user: user(n),
                as_of: b.hi,
                state: vec![7; 300].into(),
            });
            b.ledger.add(
                ledger_key(Scope::User, &user(n).to_string(), NOON),
                &tokens(1),
            );
        }
        for n in 0..findings {
            let event = format!("event-{i}-{n}");
            b.effects
                .findings
                .push(finding(i * 1_000 + n, &event, NOON, Severity::High));
        }
        owner.commit(&store, b).await;
        for (table, n) in [
            ("user_state", 2 * n_users),
            ("ledger", n_users),
            // None of them is there.
            ("finding", findings),
            ("incident_head", 2 * findings),
        ] {
            *sought.entry(table).or_default() += n;
        }
    }
    sqlx::query(
        "INSERT INTO vw.outbox (key, number, sink, seq, kind, severity, dedup_key, payload)
         SELECT md5(n::text)::uuid, 1, 'mail', 1, 'firing', 3, md5(n::text)::uuid, '{}' FROM generate_series(1, $1) n",
    )
    .bind(i32::try_from(QUEUED).expect("few"))
    .execute(&pool)
    .await
    .expect("queued");
    let mut sent = 0;
    loop {
        let claimed = store
            .outbox_claim("mail", 100, Severity::Informational)
            .await
            .expect("claim");
        // Each claim looks at what waits, and whether something of the same incident waits ahead of it.
        *sought.entry("outbox").or_default() += 2 * (QUEUED - sent);
        if claimed.is_empty() {
            break;
        }
        for c in &claimed {
            assert!(store.outbox_holds(c).await.expect("held"));
            store.outbox_sent(c).await.expect("sent");
        }
        sent += u32::try_from(claimed.len()).expect("few");
    }
    assert_eq!(sent, QUEUED);

    // A backend says what it did when it ends.
    store.close().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut wrote, mut read): (BTreeMap<String, i64>, BTreeMap<String, i64>);
    loop {
        let rows = sqlx::query(
            "SELECT t.relname, t.n_tup_ins + t.n_tup_upd, t.seq_tup_read + coalesce(sum(i.idx_tup_read), 0)::bigint
               FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
              GROUP BY t.relid, t.relname, t.n_tup_ins, t.n_tup_upd, t.seq_tup_read",
        )
        .fetch_all(&pool)
        .await
        .expect("statistics");
        (wrote, read) = Default::default();
        for r in &rows {
            let name: &str = r.get(0);
            // A partition counts as its table.
            let table = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
            *wrote.entry(table.to_owned()).or_default() += r.get::<i64, _>(1);
            *read.entry(table.to_owned()).or_default() += r.get::<i64, _>(2);
        }
        let batches = i64::from(FIRST + BATCHES * FINDINGS);
        if sought.keys().all(|table| wrote[*table] >= batches)
            && wrote["outbox"] >= i64::from(3 * QUEUED)
        {
            break;
        }
        assert!(Instant::now() < deadline, "counted: {wrote:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let many: Vec<String> = sought
        .iter()
        .filter(|(table, sought)| read[**table] > READ * i64::from(**sought))
        .map(|(table, sought)| format!("{table}: {} read, {sought} looked for", read[*table]))
        .collect();
    assert_eq!(many, Vec::<String>::new());
}
