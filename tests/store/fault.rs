//! Faults of Postgres: killed sessions, unknown commits, crashes, a lagging replica, deadlocks,
//! dropped futures.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};
use veilwatch::account::Scope;
use veilwatch::store::private::{Options, PrivatePostgres, Stop};
use veilwatch::store::{StoreConfig, schema};

use super::*;
use crate::postgres::{self, Db};

/// A server of its own, for tests that stop it.
async fn own_server(options: Options) -> (PrivatePostgres, Store) {
    let server = PrivatePostgres::start(options).expect("private postgres");
    let config = StoreConfig::new(server.url("postgres"));
    schema::migrate(&config).await.expect("migrate");
    let store = Store::connect(config).await.expect("connect");
    (server, store)
}

async fn total(store: &Store) -> u64 {
    let ledger = store.ledger().await.expect("ledger");
    ledger.values().map(|d| d.tokens_input).sum()
}

fn spending(owner: &Owner, n: u32) -> PartitionBatch {
    let mut b = owner.batch(n);
    b.ledger.add(
        ledger_key(Scope::Everyone, "*", NOON),
        &tokens(u64::from(n)),
    );
    b
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_killed_sessions_double_and_lose_nothing() {
    let db = Db::new().await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let killer = {
        let (url, stop) = (postgres::server().url(&db.name), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut conn = PgConnection::connect(&url).await.expect("connect");
            let mut killed = 0u64;
            // Bounded: on a busy machine every transaction would be slower than the next kill.
            while !stop.load(Ordering::Relaxed) && killed < 80 {
                let done = conn
                    .execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                          WHERE datname = current_database() AND application_name LIKE 'veilwatch%' AND state <> 'idle'
                          ORDER BY random() LIMIT 1",
                    )
                    .await
                    .expect("kill");
                killed += done.rows_affected();
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            killed
        })
    };
    let mut tasks = Vec::new();
    for partition in 0..4 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            let mut owner = loop {
                // A claim may be killed too; the caller asks again.
                if let Ok(claim) = store.claim(&tp(partition), 0).await {
                    break Owner {
                        tp: tp(partition),
                        next: claim.next_offset,
                        head: claim.chain_head,
                        watermark: NOON,
                        claim,
                    };
                }
            };
            for i in 0..40 {
                let mut b = spending(&owner, 3);
                b.effects.findings.push(finding(
                    u32::try_from(partition).expect("small"),
                    &format!("e{partition}-{i}"),
                    NOON,
                    Severity::Low,
                ));
                let batches = one(b);
                loop {
                    match store.commit(Arc::clone(&batches)).await {
                        Ok(done) => {
                            assert_eq!(done.fenced, vec![], "partition {partition} batch {i}");
                            break;
                        }
                        Err(e) => assert!(e.is_transient(), "{e}"),
                    }
                }
                owner.applied(&batches[0]);
            }
        }));
    }
    for t in tasks {
        t.await.expect("task");
    }
    stop.store(true, Ordering::Relaxed);
    let killed = killer.await.expect("killer");
    assert!(killed > 0, "nothing was killed");
    assert_eq!(total(&db.store).await, 4 * 40 * 3);
    assert_eq!(db.number("SELECT count(*) FROM vw.finding").await, 160);
    let verdicts = db.store.audit_verify(&[]).await.expect("verify");
    assert!(
        verdicts
            .iter()
            .all(|v| v.broken.is_none() && v.records == 120),
        "{verdicts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_commit_killed_before_it_took_effect_is_sent_again() {
    let db = Db::new().await;
    // A deferred trigger makes COMMIT itself slow, the first time.
    db.run(
        "CREATE SEQUENCE once;
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('once') = 1 THEN PERFORM pg_sleep(30); END IF; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON vw.ledger DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .await;
    let owner = Owner::claim(&db.store, 0).await;
    let (store, b) = (db.store.clone(), spending(&owner, 5));
    let commit = tokio::spawn(async move { store.commit(one(b)).await });
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND query = 'COMMIT' AND state = 'active'";
    while db.number(kill).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let done = commit.await.expect("task").expect("commit");
    assert_eq!((done.tries, done.fenced), (2, vec![]));
    assert_eq!(
        db.store.counters().unknown_commits.load(Ordering::Relaxed),
        1
    );
    assert_eq!(total(&db.store).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_commit_that_took_effect_unanswered_is_not_repeated() {
    let (server, store) = own_server(Options::default()).await;
    let owner = Owner::claim(&store, 0).await;
    let mut admin = PgConnection::connect(&server.url("postgres"))
        .await
        .expect("connect");
    // COMMIT takes effect and then waits for a standby that does not exist.
    admin
        .execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await
        .expect("set");
    admin
        .execute("SELECT pg_reload_conf()")
        .await
        .expect("reload");
    let (task, b) = (store.clone(), spending(&owner, 5));
    let commit = tokio::spawn(async move { task.commit(one(b)).await });
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        )
        .fetch_one(&mut admin)
        .await
        .expect("ask");
        if waiting > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let done = commit.await.expect("task").expect("commit");
    assert_eq!((done.tries, done.fenced), (1, vec![]));
    assert_eq!(store.counters().unknown_commits.load(Ordering::Relaxed), 1);
    assert_eq!(total(&store).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_crash_of_postgres_is_waited_out() {
    let (server, store) = own_server(Options::default()).await;
    let mut owner = Owner::claim(&store, 0).await;
    let crash = tokio::task::spawn_blocking(move || {
        server.stop(Stop::Immediate).expect("stop");
        server.resume().expect("resume");
        server
    });
    // The caller pauses on a transient error and asks again with the same batch.
    for round in 1..=20u64 {
        let batches = one(spending(&owner, 5));
        let mut errors = 0;
        let done = loop {
            match store.commit(Arc::clone(&batches)).await {
                Ok(done) => break done,
                Err(e) => {
                    assert!(e.is_transient() && errors < 200, "{e}");
                    errors += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        assert_eq!(done.fenced, vec![], "round {round}");
        owner.applied(&batches[0]);
    }
    let server = crash.await.expect("crash");
    // Once more while nothing is under way: dead connections of the pool are found by themselves.
    server.crash_and_resume().expect("crash");
    let b = spending(&owner, 5);
    owner.commit(&store, b).await;
    assert_eq!(total(&store).await, 21 * 5);
    let verdicts = store.audit_verify(&[]).await.expect("verify");
    assert_eq!(
        (verdicts[0].broken.as_ref(), verdicts[0].records),
        (None, 105)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_a_lagging_replica_loses_commits_and_stays_exact() {
    let (server, store) = own_server(Options::default()).await;
    let mut owner = Owner::claim(&store, 0).await;
    // The log that Kafka would give again: one number an offset.
    let log: Vec<u64> = (0..100).map(|i| 1 + i % 7).collect();
    let batch = |owner: &Owner, upto: i64| {
        let n = u32::try_from(upto - owner.next).expect("ahead");
        let mut b = owner.batch(n);
        let range =
            usize::try_from(owner.next).expect("fits")..usize::try_from(upto).expect("fits");
        let sum = log[range].iter().sum();
        b.ledger
            .add(ledger_key(Scope::Everyone, "*", NOON), &tokens(sum));
        b.effects
            .findings
            .push(finding(1, &format!("upto{upto}"), NOON, Severity::Low));
        b
    };
    let b = batch(&owner, 40);
    owner.commit(&store, b).await;
    server.stop(Stop::Fast).expect("stop");
    server.save_copy().expect("copy");
    server.resume().expect("resume");
    let b = batch(&owner, 80);
    owner.commit(&store, b).await;
    let before: u64 = log[..80].iter().sum();
    assert_eq!(total(&store).await, before);
    // Failover: acknowledged commits are gone, offset and results together.
    server.stop(Stop::Immediate).expect("stop");
    server.restore_copy().expect("restore");
    server.resume().expect("resume");
    let stale = store
        .commit(one(batch(&owner, 90)))
        .await
        .expect("answered");
    assert_eq!(
        stale.fenced.len(),
        1,
        "the old owner's next batch does not fit"
    );
    let mut owner = Owner::claim(&store, 0).await;
    assert_eq!(owner.next, 40, "the offset went back with the results");
    for upto in [55, 80, 100] {
        let b = batch(&owner, upto);
        owner.commit(&store, b).await;
    }
    assert_eq!(total(&store).await, log.iter().sum::<u64>());
    let verdicts = store.audit_verify(&[]).await.expect("verify");
    assert_eq!(
        (verdicts[0].broken.as_ref(), verdicts[0].records),
        (None, 100)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f26_sorted_writers_do_not_deadlock() {
    let db = Db::new().await;
    let mut tasks = Vec::new();
    for partition in 0..6 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            let mut owner = Owner::claim(&store, partition).await;
            for i in 0..15u32 {
                let mut b = owner.batch(50);
                for n in 0..50 {
                    b.ledger.add(
                        ledger_key(Scope::User, &format!("k7:{n:022}"), NOON),
                        &tokens(1),
                    );
                    b.effects.values.insert(user(n).into(), {
                        let mut v = veilwatch::detect::ValueRow::default();
                        v.sent(user(n), NOON);
                        v
                    });
                }
                for scope in [Scope::Tenant, Scope::Model, Scope::Everyone] {
                    b.ledger.add(ledger_key(scope, "x", NOON), &tokens(1));
                }
                // Findings about the same users in another order in every batch.
                for n in 0..20 {
                    let who = (n * 7 + i * 3) % 20;
                    b.effects.findings.push(finding(
                        who,
                        &format!("{partition}-{i}-{n}"),
                        NOON,
                        Severity::Low,
                    ));
                }
                owner.commit(&store, b).await;
            }
        }));
    }
    for t in tasks {
        t.await.expect("task");
    }
    let c = db.store.counters();
    assert_eq!(
        (
            c.deadlocks.load(Ordering::Relaxed),
            c.retries.load(Ordering::Relaxed)
        ),
        (0, 0)
    );
    assert_eq!(
        db.number("SELECT count(*) FROM vw.finding").await,
        6 * 15 * 20
    );
    assert_eq!(
        db.number("SELECT sum(findings)::bigint FROM vw.incident_head")
            .await,
        6 * 15 * 20
    );
    assert_eq!(
        db.number("SELECT max(findings) FROM vw.incident_head")
            .await,
        90
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f26_control_unsorted_writers_deadlock() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(2);
    for who in ["a", "b"] {
        b.ledger.add(ledger_key(Scope::User, who, NOON), &tokens(1));
    }
    owner.commit(&db.store, b).await;
    let mut first = db.pool.begin().await.expect("begin");
    let mut second = db.pool.begin().await.expect("begin");
    let add =
        |who: &str| format!("UPDATE vw.ledger SET events = events + 1 WHERE subject = '{who}'");
    first
        .execute(sqlx::AssertSqlSafe(add("a")))
        .await
        .expect("a");
    second
        .execute(sqlx::AssertSqlSafe(add("b")))
        .await
        .expect("b");
    let crossed = async {
        tokio::join!(
            first.execute(sqlx::AssertSqlSafe(add("b"))),
            second.execute(sqlx::AssertSqlSafe(add("a")))
        )
    };
    let (one, two) = crossed.await;
    let code = [one, two]
        .into_iter()
        .filter_map(Result::err)
        .find_map(|e| Some(e.as_database_error()?.code()?.into_owned()));
    assert_eq!(
        code.as_deref(),
        Some("40P01"),
        "the test above would notice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_a_locked_table_is_retried_then_told() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut tx = db.pool.begin().await.expect("begin");
    tx.execute("LOCK TABLE vw.ledger IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("lock");
    let (store, batches) = (db.store.clone(), one(spending(&owner, 5)));
    let sent = Arc::clone(&batches);
    let commit = tokio::spawn(async move { store.commit(sent).await });
    while db.store.counters().retries.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tx.rollback().await.expect("unlock");
    let done = commit.await.expect("task").expect("commit");
    assert!(done.tries > 1);
    owner.applied(&batches[0]);
    assert_eq!(total(&db.store).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn f28_dropped_callers_poison_no_connection() {
    let db = Db::with(|c| c.max_connections = 4).await;
    let mut seed = 7u64;
    for round in 0..60 {
        let partition = round % 8;
        let store = db.store.clone();
        let caller = tokio::spawn(async move {
            let owner = Owner::claim(&store, partition).await;
            let _ = store.commit(one(spending(&owner, 1))).await;
        });
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        tokio::time::sleep(Duration::from_micros(seed >> 52)).await;
        caller.abort();
    }
    // What was begun ends by itself; then every connection works and the books agree.
    for partition in 0..8 {
        let mut owner = Owner::claim(&db.store, partition).await;
        let b = spending(&owner, 1);
        owner.commit(&db.store, b).await;
    }
    let applied = db
        .number("SELECT sum(next_offset)::bigint FROM vw.stream_partition")
        .await;
    assert_eq!(
        total(&db.store).await,
        u64::try_from(applied).expect("fits")
    );
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    assert_eq!(db.number(open).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_claim_gets_past_an_owner_stopped_inside_a_transaction() {
    let db = Db::new().await;
    let owner = Owner::claim(&db.store, 0).await;
    // As a stopped process leaves it: the row locked, the session silent. The server's timeout for
    // such sessions is shortened so that the test is.
    let mut stopped = PgConnection::connect(&postgres::server().url(&db.name))
        .await
        .expect("connect");
    stopped
        .execute("SET idle_in_transaction_session_timeout = '300ms'")
        .await
        .expect("set");
    stopped.execute("BEGIN").await.expect("begin");
    stopped
        .execute("UPDATE vw.stream_partition SET next_offset = 5")
        .await
        .expect("lock");
    let claim = db.store.claim(&tp(0), 0).await.expect("claim");
    assert_eq!(
        claim.next_offset, 0,
        "its transaction was ended by the server"
    );
    assert_ne!(claim.claim_id, owner.claim.claim_id);
}
