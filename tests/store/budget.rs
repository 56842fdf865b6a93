//! Ledgers are exact; thresholds fire once per period.

use veilwatch::account::{Budget, Grain, Limit, PeriodKind, Scope, Unit};
use veilwatch::detect::DetectConfig;
use veilwatch::store::LeaderTask;
use veilwatch::store::budget::Raise;
use veilwatch::store::private::{Options, PrivatePostgres};
use veilwatch::store::{StoreConfig, schema};

use super::*;
use crate::postgres::Db;

fn budget(id: &str, scope: Scope, tokens: i128) -> Budget {
    Budget {
        id: SmolStr::new(id),
        scope,
        subject: None,
        grain: Grain::utc(PeriodKind::Day),
        limit: Limit {
            unit: Unit::Tokens,
            amount: tokens,
        },
        thresholds: vec![50, 80, 100],
    }
}

async fn percents(db: &Db) -> Vec<u32> {
    let crossed = db.store.crossings().await.expect("crossings");
    crossed.into_iter().map(|c| c.3).collect()
}

/// Now, as the database sees it: lowered limits are tested in the present period.
async fn now(db: &Db) -> Time {
    db.store.now().await.expect("now")
}

async fn spend(db: &Db, owner: &mut Owner, scope: Scope, subject: &str, n: u64) -> Commit {
    let at = now(db).await;
    let mut b = owner.batch(1);
    b.watermark = at;
    b.ledger.add(ledger_key(scope, subject, at), &tokens(n));
    owner.commit(&db.store, b).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_fires_once_under_eight_writers() {
    let db = Db::new().await;
    let budgets = [
        budget("acme-day", Scope::Tenant, 4_000),
        budget("each-day", Scope::User, 400),
    ];
    db.store.sync_budgets(&budgets).await.expect("budgets");
    let at = now(&db).await;
    let mut tasks = Vec::new();
    for partition in 0..8 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            let mut owner = Owner::claim(&store, partition).await;
            let mut crossings = 0;
            for i in 0..50u32 {
                let mut b = owner.batch(10);
                b.watermark = at;
                b.ledger
                    .add(ledger_key(Scope::Tenant, "acme", at), &tokens(10));
                let who = format!("k7:{:022}", i % 10);
                b.ledger.add(ledger_key(Scope::User, &who, at), &tokens(10));
                crossings += owner
                    .commit(&store, b)
                    .await
                    .crossings
                    .values()
                    .sum::<u64>();
            }
            crossings
        }));
    }
    let mut crossings = 0;
    for t in tasks {
        crossings += t.await.expect("task");
    }
    // 8 × 50 × 10 tokens: the tenant reaches 100 % exactly; so does each of the ten users.
    assert_eq!(crossings, 3 + 10 * 3);
    assert_eq!(percents(&db).await.len(), 33);
    let ledger = db.store.ledger().await.expect("ledger");
    let tenant = ledger
        .iter()
        .find(|(k, _)| k.scope == Scope::Tenant)
        .expect("row");
    assert_eq!(
        (tenant.1.tokens_input, tenant.1.events, tenant.1.cost_pico),
        (4_000, 400, 4_000_000)
    );
    let findings = db
        .number("SELECT count(*) FROM vw.finding WHERE detector = 'budget'")
        .await;
    assert_eq!(findings, 33);
    let deadlocks = db
        .store
        .counters()
        .deadlocks
        .load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(deadlocks, 0, "the lock order holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_limit_is_tested_against_what_is_used() {
    let db = Db::new().await;
    db.store
        .sync_budgets(&[budget("acme-day", Scope::Tenant, 10_000)])
        .await
        .expect("budgets");
    let mut owner = Owner::claim(&db.store, 0).await;
    spend(&db, &mut owner, Scope::Tenant, "acme", 1_000).await;
    let mut leader = LeaderTask::new(db.store.clone(), Arc::new(DetectConfig::default()));
    leader.tick().await.expect("tick");
    assert_eq!(percents(&db).await, Vec::<u32>::new());
    db.store
        .set_budget(&budget("acme-day", Scope::Tenant, 1_250), "ops")
        .await
        .expect("set");
    leader.keep_house_now();
    let tick = leader.tick().await.expect("tick");
    // 50 % and 80 %: one incident, opened and escalated.
    assert_eq!((tick.findings.new, tick.findings.folded), (1, 1));
    assert_eq!(percents(&db).await, vec![50, 80]);
    leader.keep_house_now();
    assert_eq!(leader.tick().await.expect("tick").findings.new, 0);
    // The next token of usage crosses nothing that was told already.
    spend(&db, &mut owner, Scope::Tenant, "acme", 1).await;
    assert_eq!(percents(&db).await, vec![50, 80]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_lowered_while_a_batch_is_open_is_tested_behind_it() {
    let db = Db::new().await;
    db.store
        .sync_budgets(&[budget("each-day", Scope::User, 10_000)])
        .await
        .expect("budgets");
    let mut owner = Owner::claim(&db.store, 0).await;
    spend(&db, &mut owner, Scope::Tenant, "acme", 1).await;
    // Somebody holds the tenant's row: the batch has tested the user's and waits.
    let mut holder = db.pool.begin().await.expect("begun");
    sqlx::query("SELECT 1 FROM vw.ledger WHERE subject = 'acme' FOR UPDATE")
        .execute(&mut *holder)
        .await
        .expect("held");
    let at = now(&db).await;
    let mut b = owner.batch(1);
    b.watermark = at;
    let (user, tenant) = (
        ledger_key(Scope::User, "k7:alice", at),
        ledger_key(Scope::Tenant, "acme", at),
    );
    b.ledger.add(user, &tokens(1_000));
    b.ledger.add(tenant, &tokens(1));
    let store = db.store.clone();
    let batch = tokio::spawn(async move {
        owner.commit(&store, b).await;
        owner
    });
    let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE NOT l.granted AND a.datname = current_database()";
    while db.number(waits).await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    db.store
        .set_budget(&budget("each-day", Scope::User, 1_250), "ops")
        .await
        .expect("set");
    let mut leader = LeaderTask::new(db.store.clone(), Arc::new(DetectConfig::default()));
    leader.keep_house_now();
    leader.tick().await.expect("tick");
    assert_eq!(percents(&db).await, Vec::<u32>::new());
    holder.rollback().await.expect("let go");
    batch.await.expect("committed");
    // It tested against the old limit; nobody uses anything behind it.
    let mut told = 0;
    for _ in 0..100 {
        told += leader.tick().await.expect("tick").findings.new;
        if !percents(&db).await.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!((percents(&db).await, told), (vec![50, 80], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_users_over_a_budget_open_so_many_incidents_and_one_more() {
    let db = Db::new().await;
    let limit = budget("each-day", Scope::User, 100);
    db.store.sync_budgets(&[limit]).await.expect("budgets");
    let mut owner = Owner::claim(&db.store, 0).await;
    let incidents = "SELECT count(*) FROM vw.incident_head WHERE number > 0";
    let many = "SELECT findings FROM vw.incident_head WHERE subject LIKE 'user:(many) %'";
    let mut crossed = 0;
    let mut spend_each = async |users: std::ops::Range<u32>, n: u64| {
        let at = now(&db).await;
        let mut b = owner.batch(1);
        b.watermark = at;
        for i in users {
            let key = ledger_key(Scope::User, &format!("k7:{i:022}"), at);
            b.ledger.add(key, &tokens(n));
        }
        let done = owner.commit(&db.store, b).await;
        crossed += done.crossings.values().sum::<u64>();
    };
    // Half of it: 50 % each.
    spend_each(0..600, 60).await;
    assert_eq!(db.number(incidents).await, 600);
    spend_each(600..1_600, 60).await;
    assert_eq!(db.number(incidents).await, 1_025);
    assert_eq!(db.number(many).await, 1_600 - 1_024);
    // Who has an incident keeps it; who has none gets none.
    spend_each(0..1_600, 40).await;
    assert_eq!(db.number(incidents).await, 1_025);
    assert_eq!(db.number(many).await, 3 * (1_600 - 1_024));
    // Ledgers and crossings know everybody.
    assert_eq!(crossed, 3 * 1_600);
    let stored = "SELECT count(DISTINCT subject) FROM vw.budget_crossing";
    assert_eq!(db.number(stored).await, 1_600);
    let crowded = &db.store.counters().crowded_budgets;
    let crowded = crowded.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(crowded, 3 * (1_600 - 1_024));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raise_lifts_the_limit_until_it_lapses() {
    let db = Db::new().await;
    db.store
        .sync_budgets(&[budget("each-day", Scope::User, 100)])
        .await
        .expect("budgets");
    let raise = Raise {
        budget: "each-day".to_owned(),
        subject: "k7:alice".to_owned(),
        extra: 900,
        expires: now(&db).await.plus_ms(3_600_000),
        author: "ops".to_owned(),
        reason: "migration".to_owned(),
    };
    db.store.raise_budget(&raise).await.expect("raise");
    let mut owner = Owner::claim(&db.store, 0).await;
    spend(&db, &mut owner, Scope::User, "k7:alice", 120).await;
    assert_eq!(percents(&db).await, Vec::<u32>::new());
    spend(&db, &mut owner, Scope::User, "k7:bob", 120).await;
    assert_eq!(percents(&db).await, vec![50, 80, 100]);

    let mut leader = LeaderTask::new(db.store.clone(), Arc::new(DetectConfig::default()));
    leader.tick().await.expect("tick");
    assert_eq!(percents(&db).await.len(), 3);
    db.run("UPDATE vw.budget_raise SET starts_at = now() - interval '2 hours', expires_at = now() - interval '1 hour'").await;
    leader.keep_house_now();
    leader.tick().await.expect("tick");
    assert_eq!(
        percents(&db).await.len(),
        6,
        "alice's too, once the raise has lapsed"
    );

    let forever = Raise {
        expires: now(&db).await.plus_ms(1_000 * 86_400_000),
        ..raise.clone()
    };
    assert!(db.store.raise_budget(&forever).await.is_err());
    let nobody = Raise {
        budget: "none".to_owned(),
        ..raise
    };
    let e = db
        .store
        .raise_budget(&nobody)
        .await
        .expect_err("no such budget");
    assert!(e.to_string().contains("there is no budget `none`"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_of_the_config_replace_each_other_and_leave_those_set_by_hand() {
    let db = Db::new().await;
    let (a, b) = (budget("a", Scope::Tenant, 10), budget("b", Scope::User, 10));
    db.store.sync_budgets(&[a, b.clone()]).await.expect("sync");
    db.store
        .set_budget(&budget("hand", Scope::Everyone, 10), "ops")
        .await
        .expect("set");
    db.store.sync_budgets(&[b]).await.expect("sync");
    let limits = db.store.limits().await.expect("limits");
    let ids: Vec<&str> = limits.iter().map(|l| l.budget.as_str()).collect();
    assert_eq!(ids, ["b", "hand"]);
    let mut zoned = budget("zoned", Scope::Team, 7);
    zoned.subject = Some(SmolStr::new("acme/x"));
    zoned.grain = Grain {
        kind: PeriodKind::Month,
        zone: Some(veilwatch::account::Zone::named("Europe/Berlin").expect("zone")),
    };
    db.store.set_budget(&zoned, "ops").await.expect("set");
    let all = db.store.enabled_budgets().await.expect("budgets");
    assert_eq!(all.len(), 3);
    assert_eq!(all[2], zoned, "as it was written");
    assert!(
        db.store
            .remove_budget("zoned", "ops")
            .await
            .expect("remove")
    );
    assert_eq!(
        (limits[0].scope.as_str(), limits[0].period.as_str()),
        ("user", "day")
    );
    let mut owner = Owner::claim(&db.store, 0).await;
    spend(&db, &mut owner, Scope::Tenant, "acme", 100).await;
    assert_eq!(
        percents(&db).await,
        Vec::<u32>::new(),
        "a disabled budget tells nothing"
    );
    spend(&db, &mut owner, Scope::User, "k7:a", 5).await;
    let used = db.store.budget_use(Some("b"), None, 10).await.expect("use");
    assert_eq!((used[0].used.as_str(), used[0].limit.as_str()), ("5", "10"));
    assert!((used[0].percent - 50.0).abs() < 1e-9);
    assert!(db.store.remove_budget("hand", "ops").await.expect("remove"));
    assert!(!db.store.remove_budget("hand", "ops").await.expect("remove"));
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_exact_to_the_pico_dollar() {
    let db = Db::new().await;
    let mut usd = budget("usd", Scope::Everyone, 0);
    usd.limit = Limit {
        unit: Unit::Usd,
        amount: 3,
    };
    db.store.sync_budgets(&[usd]).await.expect("budgets");
    let mut owner = Owner::claim(&db.store, 0).await;
    for _ in 0..3 {
        let at = now(&db).await;
        let mut b = owner.batch(1);
        let mut d = tokens(1);
        d.cost_pico = 1;
        b.ledger.add(ledger_key(Scope::Everyone, "*", at), &d);
        owner.commit(&db.store, b).await;
    }
    // 1 of 3 is 33 %, 2 is 66 %, 3 is 100 %: each threshold at the pico-dollar that reaches it.
    assert_eq!(percents(&db).await, vec![50, 80, 100]);
    let big = i128::from(i64::MAX) * 1_000_000;
    let mut b = owner.batch(1);
    let mut d = tokens(1);
    d.cost_pico = big;
    b.ledger.add(
        ledger_key(Scope::Everyone, "*", NOON.plus_ms(-86_400_000)),
        &d,
    );
    owner.commit(&db.store, b).await;
    let ledger = db.store.ledger().await.expect("ledger");
    assert!(ledger.values().any(|d| d.cost_pico == big));
}

#[tokio::test(flavor = "multi_thread")]
async fn f30_updates_of_a_ledger_stay_hot() {
    // A server of its own without autovacuum: a page is pruned only of versions that no transaction
    // of the whole server may still need, and the other tests' transactions would count. Nor does the
    // planner learn anything of the table, as on a new database.
    let options = Options {
        settings: vec!["autovacuum=off".to_owned()],
        ..Options::default()
    };
    let server = PrivatePostgres::start(options).expect("private postgres");
    let config = StoreConfig::new(server.url("postgres"));
    schema::migrate(&config).await.expect("migrate");
    let store = Store::connect(config).await.expect("connect");
    let pool = sqlx::PgPool::connect(&server.url("postgres"))
        .await
        .expect("pool");
    let counted = async |column: &str| -> i64 {
        let query = format!("SELECT {column} FROM pg_stat_user_tables WHERE relname = 'ledger'");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(&pool)
            .await
            .expect("statistics")
    };
    let mut owner = Owner::claim(&store, 0).await;
    // A batch touches some of the rows of each page, as it does in a table of many users.
    for i in 0..60u32 {
        let mut b = owner.batch(200);
        for n in 0..2_000u32 {
            if i == 0 || (n * 7 + i) % 10 == 0 {
                b.ledger.add(
                    ledger_key(Scope::User, &format!("k7:{n:022}"), NOON),
                    &tokens(1),
                );
            }
        }
        owner.commit(&store, b).await;
    }
    // Counted in shared memory by each backend when it is idle; asking in a loop waits for that.
    for _ in 0..100 {
        if counted("n_tup_upd").await >= 11_800 {
            break;
        }
        store.ping().await.expect("ping");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let (updated, hot) = (counted("n_tup_upd").await, counted("n_tup_hot_upd").await);
    assert!(updated >= 11_800, "{updated} updates were counted");
    assert!(
        hot * 10 > updated * 9,
        "{hot} of {updated} updates were hot"
    );
    // A row is looked for by its whole key: once to prune its page, once to update it.
    let read: i64 = sqlx::query_scalar(
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'ledger'",
    )
    .fetch_one(&pool)
    .await
    .expect("statistics");
    assert!(
        (updated..4 * updated).contains(&read),
        "{read} index entries were read for {updated} updates"
    );
    // Connections went back to the pool a hundred times, each time without a transaction.
    let log = std::fs::read_to_string(server.directory().join("server.log")).expect("log");
    let warnings: Vec<&str> = log.lines().filter(|l| l.contains("WARNING")).collect();
    assert_eq!(warnings, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_says_since_when_its_ledger_is_kept() {
    let db = Db::new().await;
    let set = async |b: &Budget| db.store.set_budget(b, "ops").await.expect("set");
    let monthly = |id, tokens| Budget {
        grain: Grain::utc(PeriodKind::Month),
        ..budget(id, Scope::Tenant, tokens)
    };
    // Kept for every tenant, limit or not.
    assert_eq!(set(&budget("day", Scope::Tenant, 10)).await, None);
    let stamp = db.store.budgets_stamp().await.expect("stamp");
    let from = set(&monthly("a", 10)).await;
    assert!(from.is_some());
    assert_ne!(
        db.store.budgets_stamp().await.expect("stamp"),
        stamp,
        "seen by whoever follows"
    );
    assert_eq!(
        set(&monthly("a", 20)).await,
        from,
        "another amount, the same ledger"
    );
    assert_eq!(
        set(&monthly("b", 10)).await,
        from,
        "another limit, the same ledger"
    );
    let listed = db.store.limits().await.expect("limits");
    assert_eq!(listed.iter().filter(|l| l.counts_from.is_some()).count(), 2);
    // Once nobody needs it, it is not kept; then it begins anew.
    for id in ["a", "b"] {
        assert!(db.store.remove_budget(id, "ops").await.expect("remove"));
    }
    assert!(set(&monthly("a", 20)).await > from);
}
