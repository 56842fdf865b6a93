//! Housekeeping: each part alone, whatever the size of a table and whoever holds its rows.

use chrono::Days;
use sqlx::{Connection as _, Executor as _, PgConnection};
use veilwatch::account::{Budget, Grain, Limit, PeriodKind, Scope, Subject, Unit};
use veilwatch::detect::DetectConfig;
use veilwatch::store::{LeaderTask, Store, schema};

use super::*;
use crate::postgres::{self, Db};

fn leader(db: &Db) -> LeaderTask {
    LeaderTask::new(db.store.clone(), Arc::new(DetectConfig::default()))
}

fn each_user(tokens: i128) -> Budget {
    Budget {
        id: SmolStr::new("each-day"),
        scope: Scope::User,
        subject: None,
        grain: Grain::utc(PeriodKind::Day),
        limit: Limit {
            unit: Unit::Tokens,
            amount: tokens,
        },
        thresholds: vec![100],
    }
}

/// Makes every change of a table fail, or note under which limit it ran.
async fn trap(db: &Db, table: &str, when: &str, body: &str) {
    db.run(&format!(
        "CREATE TABLE IF NOT EXISTS noted (what text);
         CREATE FUNCTION trap_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$;
         CREATE TRIGGER trap AFTER {when} ON vw.{table} FOR EACH STATEMENT EXECUTE FUNCTION trap_{table}()"
    ))
    .await;
}

const OLD_VALUES: &str = "INSERT INTO vw.value (kid, mac, last_day, row)
   SELECT 'k7', decode(lpad(to_hex(n), 32, '0'), 'hex'), current_date - 9, '' FROM generate_series(1, 10) n";
const OLD_ALIASES: &str = "INSERT INTO vw.alias (new_id, old_id, at)
   SELECT 'k6:' || n, 'k5:' || n, now() - interval '401 days' FROM generate_series(1, 10) n";

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_keeps_no_other_from_its_work() {
    let db = Db::new().await;
    db.store
        .sync_budgets(&[each_user(1_000)])
        .await
        .expect("budgets");
    let mut owner = Owner::claim(&db.store, 0).await;
    let at = db.store.now().await.expect("now");
    let mut b = owner.batch(1);
    b.ledger
        .add(ledger_key(Scope::User, "k7:a", at), &tokens(500));
    owner.commit(&db.store, b).await;
    db.run(OLD_VALUES).await;
    db.run(OLD_ALIASES).await;
    // Budgets cannot be tested, values cannot expire, and a day has no partition.
    db.store
        .set_budget(&each_user(10), "ops")
        .await
        .expect("set");
    trap(&db, "budget_crossing", "INSERT", "RAISE EXCEPTION 'no'").await;
    trap(&db, "value", "DELETE", "RAISE EXCEPTION 'no'").await;
    let gone =
        sqlx::query_scalar::<_, chrono::NaiveDate>("SELECT (now() AT TIME ZONE 'UTC')::date")
            .fetch_one(&db.pool)
            .await
            .expect("today")
            + Days::new(5);
    let gone = format!("vw.finding_{}", gone.format("%Y%m%d"));
    db.run(&format!("DROP TABLE {gone}")).await;
    let mut leader = leader(&db);
    let tick = leader.tick().await.expect("the merges go on");
    assert!(tick.leads);
    let mut tasks: Vec<&str> = tick.troubles.iter().map(|t| t.task).collect();
    tasks.extend(leader.house_kept().await.iter().map(|t| t.task));
    assert_eq!(tasks, ["budgets", "values"]);
    let made = format!("SELECT count(*) FROM pg_class WHERE oid = to_regclass('{gone}')");
    assert_eq!(db.number(&made).await, 1, "the partition is there again");
    assert_eq!(db.number("SELECT count(*) FROM vw.alias").await, 0);
    // Mended, the budget is tested: it was still marked.
    db.run("DROP TRIGGER trap ON vw.budget_crossing").await;
    leader.keep_house_now();
    assert_eq!(leader.tick().await.expect("tick").findings.new, 1);
    assert_eq!(
        db.number("SELECT count(*) FROM vw.budget_limit WHERE retest")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_has_more_patience_than_a_batch() {
    let db = Db::new().await;
    db.run(OLD_VALUES).await;
    let note = "INSERT INTO noted VALUES (current_setting('statement_timeout'))";
    trap(&db, "value", "DELETE", note).await;
    assert_eq!(db.store.expire_all().await.expect("expire"), 10);
    assert_eq!(db.text("SELECT what FROM noted").await, "5min");
    // And only there.
    let usual = sqlx::query_scalar::<_, String>("SELECT current_setting('statement_timeout')");
    let mut conn = PgConnection::connect(&postgres::server().url(&db.name))
        .await
        .expect("connect");
    conn.execute("SET statement_timeout = '10s'")
        .await
        .expect("set");
    assert_eq!(usual.fetch_one(&mut conn).await.expect("usual"), "10s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_every_user_is_tested_subject_by_subject() {
    let db = Db::new().await;
    db.store
        .sync_budgets(&[each_user(1_000)])
        .await
        .expect("budgets");
    // Three days of twelve thousand users; today's every second one is above the new limit.
    db.run(
        "INSERT INTO vw.ledger SELECT 0, 'k7:' || lpad(n::text, 22, '0'), vw.period_name('d', now() - make_interval(days => d)),
                1, CASE WHEN d = 0 THEN 100 + 100 * (n % 2) ELSE 900 END, 0, 0, 0, 0, 0, 0
           FROM generate_series(1, 12000) n, generate_series(0, 2) d",
    )
    .await;
    let mut leader = leader(&db);
    while db
        .number("SELECT count(*) FROM vw.budget_limit WHERE retest")
        .await
        > 0
    {
        leader.tick().await.expect("tick");
    }
    assert_eq!(
        db.number("SELECT count(*) FROM vw.budget_crossing").await,
        0
    );
    db.store
        .set_budget(&each_user(150), "ops")
        .await
        .expect("set");
    leader.keep_house_now();
    let mut found = 0;
    while db
        .number("SELECT count(*) FROM vw.budget_limit WHERE retest")
        .await
        > 0
    {
        found += leader.tick().await.expect("tick").findings.new;
    }
    // The first 1,024 by name, the others in one more.
    assert_eq!(found, 1_025);
    assert_eq!(
        db.text(
            "SELECT string_agg(DISTINCT left(period, 2), '') || count(*) FROM vw.budget_crossing"
        )
        .await,
        "d:6000"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_changed_during_the_test_is_tested_again() {
    let db = Db::new().await;
    db.store
        .sync_budgets(&[each_user(1_000)])
        .await
        .expect("budgets");
    let mut leader = leader(&db);
    // The mark is lifted only of the limit that was tested.
    db.run(
        "CREATE FUNCTION meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN IF OLD.retest AND NOT NEW.retest THEN NEW.retest := true; NEW.changed_at := clock_timestamp(); END IF; RETURN NEW; END $$;
         CREATE TRIGGER meanwhile BEFORE UPDATE ON vw.budget_limit FOR EACH ROW EXECUTE FUNCTION meanwhile()",
    )
    .await;
    leader.tick().await.expect("tick");
    db.run("DROP TRIGGER meanwhile ON vw.budget_limit").await;
    let marked = "SELECT count(*) FROM vw.budget_limit WHERE retest";
    assert_eq!(db.number(marked).await, 1);
    leader.keep_house_now();
    leader.tick().await.expect("tick");
    assert_eq!(db.number(marked).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_goes_on_where_the_last_leader_stopped() {
    let db = Db::new().await;
    // More than a round's pages: the old rows stand behind them.
    db.run(
        "INSERT INTO vw.alias (new_id, old_id, at) SELECT 'k8:' || lpad(n::text, 22, '0'), 'k7:a',
                CASE WHEN n > 205000 THEN now() - interval '401 days' ELSE now() END
           FROM generate_series(1, 205100) n",
    )
    .await;
    assert_eq!(db.store.expire_all().await.expect("expire"), 0);
    let cursor = "SELECT coalesce(cursor[1], 'none') FROM vw.house WHERE task = 'aliases'";
    assert_eq!(db.text(cursor).await, format!("k8:{:022}", 200_000));
    let other = db.another().await;
    assert_eq!(other.expire_all().await.expect("expire"), 100);
    assert_eq!(db.text(cursor).await, "none");
    // At the end it rests an hour.
    db.run(OLD_ALIASES).await;
    assert_eq!(db.store.expire_all().await.expect("expire"), 0);
    db.run("UPDATE vw.house SET walked_at = walked_at - interval '61 minutes'")
        .await;
    assert_eq!(db.store.expire_all().await.expect("expire"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_query_keeps_an_old_day_and_holds_no_batch_up() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let today = five_days_ago(&db).await;
    let today = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).expect("day")
        + Days::new(u64::try_from(today / 1_440 + 5).expect("day"));
    db.run("SELECT vw.ensure_partition('finding', date '2020-01-01')")
        .await;
    let mut analyst = PgConnection::connect(&postgres::server().url(&db.name))
        .await
        .expect("connect");
    let mut query = analyst.begin().await.expect("begin");
    query
        .execute("SELECT count(*) FROM vw.finding")
        .await
        .expect("read");
    let (store, begun) = (db.store.clone(), Instant::now());
    let dropping = tokio::spawn(async move { store.drop_old(today).await });
    until_one_waits(&db).await;
    super::notifier::find(&db, &mut owner, 1, "e1", NOON, Severity::High).await;
    let held_up = begun.elapsed();
    let refused = dropping.await.expect("no panic").expect_err("not dropped");
    assert!(refused.is_transient(), "{refused}");
    assert!(held_up < Duration::from_secs(3), "{held_up:?}");
    query.commit().await.expect("commit");
    let dropped = db.store.drop_old(today).await.expect("dropped");
    assert!(dropped.iter().any(|t| t.contains("2020")), "{dropped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_waits_for_nobody() {
    let db = Db::new().await;
    db.run(OLD_VALUES).await;
    db.run(
        "INSERT INTO vw.ledger SELECT 0, 'k7:a', 'd:2020-01-0' || n, 1, 1, 1, 1, 0, 0, 0, 0 FROM generate_series(1, 9) n;
         INSERT INTO vw.incident_head (key, wide, number, state, severity, stage, tenant, detector, rule, subject, opened_at, last_end, resolve_at, resolved_at)
           SELECT gen_random_uuid(), false, 1, 2, 3, 2, '', 'leak', 'r', 's', t, t, t, t
             FROM (SELECT now() - interval '500 days') x (t), generate_series(1, 9)",
    )
    .await;
    // A batch holds one of each.
    let mut conn = PgConnection::connect(&postgres::server().url(&db.name))
        .await
        .expect("connect");
    let mut tx = conn.begin().await.expect("begin");
    for held in [
        "SELECT 1 FROM vw.value ORDER BY mac LIMIT 1 FOR UPDATE",
        "SELECT 1 FROM vw.ledger ORDER BY period LIMIT 1 FOR UPDATE",
        "SELECT 1 FROM vw.incident_head LIMIT 1 FOR UPDATE",
    ] {
        tx.execute(held).await.expect(held);
    }
    assert_eq!(db.store.expire_all().await.expect("expire"), 9 + 8 + 8);
    tx.commit().await.expect("commit");
    db.run("UPDATE vw.house SET walked_at = NULL").await;
    assert_eq!(db.store.expire_all().await.expect("expire"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crossing_lives_as_long_as_the_total_that_it_is_about() {
    let db = Db::with(|c| c.keep.findings = 14).await;
    let month = Budget {
        grain: Grain::utc(PeriodKind::Month),
        ..each_user(100)
    };
    db.store
        .sync_budgets(std::slice::from_ref(&month))
        .await
        .expect("budgets");
    let mut owner = Owner::claim(&db.store, 0).await;
    let spend = async |owner: &mut Owner, db: &Db| {
        let mut b = owner.batch(1);
        let key = veilwatch::account::LedgerKey {
            scope: Scope::User,
            subject: Subject::Name("k7:a".into()),
            period: month.grain.period(NOON),
        };
        b.ledger.add(key, &tokens(100));
        let crossed = owner.commit(&db.store, b).await.crossings;
        crossed.get(&Scope::User).copied().unwrap_or(0)
    };
    assert_eq!(spend(&mut owner, &db).await, 1);
    // It fired on the 2nd and the month goes on.
    db.run("UPDATE vw.budget_crossing SET at = at - interval '20 days'")
        .await;
    db.store.expire_all().await.expect("expire");
    assert_eq!(
        spend(&mut owner, &db).await,
        0,
        "each threshold once per period"
    );
    // Of a total that is gone nothing can fire again.
    db.run("DELETE FROM vw.ledger; UPDATE vw.house SET walked_at = NULL")
        .await;
    db.store.expire_all().await.expect("expire");
    assert_eq!(
        db.number("SELECT count(*) FROM vw.budget_crossing").await,
        0
    );
}

const UNMERGED: &str = "SELECT count(*) FROM vw.minute_part WHERE NOT merged";

/// Commits an empty part of one minute, and the watermark that closes it.
async fn work(db: &Db, owner: &mut Owner, minute: i64) {
    owner.watermark = Time::from_minute(minute + 1).plus_ms(10_001);
    let mut b = owner.batch(1);
    let part = veilwatch::detect::part::MinutePart {
        minute,
        ..Default::default()
    };
    b.effects
        .minute_parts
        .insert((minute, false), part.encode());
    owner.commit(&db.store, b).await;
}

/// A minute of a day that has no partition.
async fn five_days_ago(db: &Db) -> i64 {
    let now = db.store.now().await.expect("now");
    now.minus_ms(5 * 86_400_000).minute()
}

/// Lets the leader merge all there is. Housekeeping beside it may move rows of an old day into the partition
/// that it makes for them; a merge that meets this gives up whole and is done again.
async fn merged(db: &Db, leader: &mut LeaderTask) {
    for _ in 0..5 {
        let tick = leader.tick().await;
        leader.house_kept().await;
        if db.number(UNMERGED).await == 0 {
            return;
        }
        assert!(tick.is_err(), "nothing was in the way, and rows are left");
    }
    panic!("not merged in five turns");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_older_than_the_retention_is_kept_until_it_is_merged() {
    let db = Db::new().await;
    let mut owners = [
        Owner::claim(&db.store, 0).await,
        Owner::claim(&db.store, 1).await,
    ];
    let old = five_days_ago(&db).await;
    let mut leader = leader(&db);
    for owner in &mut owners {
        work(&db, owner, old).await;
    }
    // Housekeeping between the commit and the merge.
    let day = db.store.now().await.expect("now").0.div_euclid(86_400_000);
    let today = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).expect("day")
        + Days::new(u64::try_from(day).expect("day"));
    db.store.drop_old(today).await.expect("drop");
    assert_eq!(db.number(UNMERGED).await, 2);
    merged(&db, &mut leader).await;
    // While the backlog is worked off, its days stay; then they go.
    let all = "SELECT count(*) FROM vw.minute_part";
    db.store.drop_old(today).await.expect("drop");
    assert_eq!(db.number(all).await, 2);
    for owner in &mut owners {
        work(&db, owner, old + 5 * 1_440 - 30).await;
    }
    merged(&db, &mut leader).await;
    db.store.drop_old(today).await.expect("drop");
    assert_eq!(db.number(all).await, 2);
    let discards: BTreeMap<&str, u64> = db.store.counters().discards().into();
    assert_eq!(discards["unmerged minute part"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_waits_for_its_rows_to_be_moved_sees_them() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let old = five_days_ago(&db).await;
    // The leader's first minute, and its housekeeping, are done.
    let mut leader = leader(&db);
    work(&db, &mut owner, old).await;
    merged(&db, &mut leader).await;
    // Of two minutes, so that the first would come late with the second if it were not seen.
    for next in [old + 1_440, old + 1_441] {
        work(&db, &mut owner, next).await;
    }
    // Housekeeping is about to commit what it moved out of DEFAULT.
    let mut moving = db.pool.begin().await.expect("begin");
    let made: bool = sqlx::query_scalar(
        "SELECT vw.ensure_partition('minute_part', (SELECT min(day) FROM vw.minute_part WHERE NOT merged))",
    )
    .fetch_one(&mut *moving)
    .await
    .expect("moved");
    assert!(made);
    let merging = tokio::spawn(async move { leader.tick().await });
    until_one_waits(&db).await;
    moving.commit().await.expect("commit");
    let tick = merging.await.expect("no panic").expect("merged");
    assert_eq!(tick.minutes, 2);
    assert_eq!(db.number(UNMERGED).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_unseen_is_counted() {
    let db = Db::new().await;
    let today = db.store.now().await.expect("now").0.div_euclid(86_400_000);
    // Both wait longer than the retention; only the first for longer than anything is waited for.
    let days: Vec<i64> = vec![today - 34, today - 4];
    for day in days {
        db.run(&format!(
            "INSERT INTO vw.value_pending (day, minute, kid, mac, judged)
               SELECT date '1970-01-01' + {day}, {day}::bigint * 1440 + n, 'k7', '\\x00', n > 2 FROM generate_series(1, 5) n;
             INSERT INTO vw.minute_part (day, minute, topic, part, lo, late, claim_id, merged, blob)
               SELECT date '1970-01-01' + {day}, {day}::bigint * 1440 + n, 't', 0, n, false, gen_random_uuid(), n > 1, '' FROM generate_series(1, 5) n"
        ))
        .await;
    }
    let now = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).expect("day")
        + Days::new(u64::try_from(today).expect("day"));
    db.store.drop_old(now).await.expect("drop");
    let discards: BTreeMap<&str, u64> = db.store.counters().discards().into();
    assert_eq!(discards["unjudged value"], 2);
    assert_eq!(discards["unmerged minute part"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_counted() {
    use veilwatch::detect::ValueRow;
    use veilwatch::detect::value::Candidate;
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    // Six candidates in each of two batches; a row has room for eight.
    for batch in 0..2u32 {
        let mut row = ValueRow::default();
        for n in 0..6u32 {
            row.received(Candidate {
                end: NOON.plus_ms(i64::from(n)),
                event: SmolStr::new(format!("e{batch}-{n}")),
                user: user(n),
                tenant: SmolStr::default(),
                rule: SmolStr::new("pii-us-ssn"),
                version: 1,
                entity: SmolStr::new("US_SSN"),
                model: SmolStr::new("gpt"),
                gateway: SmolStr::new("gw1"),
                shadow: false,
            });
        }
        let mut b = owner.batch(1);
        b.effects.values.insert(user(99).into(), row);
        // A topic made anew: the same place on the same day.
        b.dead_letters.push(dead_letter(0));
        owner.commit(&db.store, b).await;
    }
    let discards: BTreeMap<&str, u64> = db.store.counters().discards().into();
    assert_eq!(discards["candidate of a value"], 4);
    assert_eq!(discards["dead letter at a known place"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_is_marked_only_under_its_claim() {
    let db = Db::new().await;
    let owner = Owner::claim(&db.store, 0).await;
    let halt = async |why| {
        db.store
            .set_halted(&owner.tp, owner.claim.claim_id, why)
            .await
            .expect("mark")
    };
    assert!(halt(Some("oversize")).await);
    assert!(
        db.store
            .skip_offsets(&owner.tp, 0, 5, "too large", "ops")
            .await
            .expect("skip")
    );
    // The mark of the commit that was on its way comes after the skip.
    assert!(!halt(Some("oversize")).await);
    assert_eq!(
        db.store.claim(&owner.tp, 0).await.expect("claim").halted,
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_partition_is_resumed_where_it_stands() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let b = owner.batch(7);
    owner.commit(&db.store, b).await;
    let resume = async || {
        let resumed = db.store.resume_partition(&owner.tp, "mended", "ops").await;
        resumed.expect("resume")
    };
    assert_eq!(resume().await, None, "it is not halted");
    let claim = owner.claim.claim_id;
    assert!(
        db.store
            .set_halted(&owner.tp, claim, Some("unwritable"))
            .await
            .expect("mark")
    );
    assert_eq!(resume().await, Some((7, "unwritable".to_owned())));
    // A mark that comes after it changes nothing.
    assert!(
        !db.store
            .set_halted(&owner.tp, claim, Some("unwritable"))
            .await
            .expect("mark")
    );
    let after = db.store.claim(&owner.tp, 0).await.expect("claim");
    assert_eq!((after.next_offset, after.halted), (7, None));
    let log = "SELECT author || ' ' || (detail ->> 'at') || ' ' || (detail ->> 'reason') FROM vw.action_log";
    assert_eq!(db.text(log).await, "ops 7 mended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_first_version_is_migrated_with_what_it_holds() {
    postgres::sql("postgres", "CREATE DATABASE from_first").await;
    let url = postgres::server().url("from_first");
    let config = veilwatch::store::StoreConfig::new(url.clone());
    let mut conn = PgConnection::connect(&url).await.expect("connect");
    let first = sqlx::migrate::Migrator::with_migrations(
        sqlx::migrate!("./migrations")
            .iter()
            .filter(|m| m.version <= 4)
            .cloned()
            .collect(),
    );
    first.run(&mut conn).await.expect("the first version");
    conn.execute(
        "INSERT INTO vw.audit_batch (day, topic, part, lo, hi, n, claim_id, prev, h, seal)
           VALUES (current_date, 't', 0, 0, 9, 9, gen_random_uuid(), '', '', '');
         INSERT INTO vw.stream_gap (topic, part, lo, hi, reason) VALUES ('t', 0, 9, 12, 'skipped');
         INSERT INTO vw.action_log (author, action, detail) VALUES
           ('a', 'dead-letters replay', '{\"event\": \"00000000000000000000000000000007\"}'),
           ('a', 'dead-letters replay', '{\"event\": \"00000000000000000000000000000007\"}'),
           ('a', 'budget set', '{}')",
    )
    .await
    .expect("what it holds");
    assert!(schema::migrate(&config).await.expect("migrate") >= 1);
    Store::connect(config).await.expect("connect");
    let count: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM vw.revived) + 10 * (SELECT count(*) FROM vw.audit_batch WHERE seq = 0)
              + 100 * (SELECT count(*) FROM vw.stream_gap)",
    )
    .fetch_one(&mut conn)
    .await
    .expect("count");
    assert_eq!(count, 111);
    conn.close().await.expect("close");
}
