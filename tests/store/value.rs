//! Values when minutes close: locked in their order, and past rows that cannot be read.

use std::sync::atomic::Ordering;

use veilwatch::detect::part::MinutePart;
use veilwatch::detect::value::Candidate;
use veilwatch::detect::{DetectConfig, ValueRow};
use veilwatch::store::LeaderTask;

use super::*;
use crate::postgres::Db;

fn leader(db: &Db) -> LeaderTask {
    LeaderTask::new(db.store.clone(), Arc::new(DetectConfig::default()))
}

/// A value that a user received in a minute.
fn received(minute: i64) -> ValueRow {
    let mut row = ValueRow::default();
    row.received(Candidate {
        end: Time::from_minute(minute).plus_ms(30_000),
        event: SmolStr::new("e9"),
        user: user(2),
        tenant: SmolStr::new("acme"),
        rule: SmolStr::new("pii-us-ssn"),
        version: 1,
        entity: SmolStr::new("US_SSN"),
        model: SmolStr::new("gpt"),
        gateway: SmolStr::new("gw1"),
        shadow: false,
    });
    row
}

/// Commits a minute with a value, and moves the watermark past it.
async fn minute(db: &Db, owner: &mut Owner, minute: i64, value: u32) {
    owner.watermark = Time::from_minute(minute + 1).plus_ms(10_001);
    let mut b = owner.batch(1);
    let part = MinutePart {
        minute,
        ..MinutePart::default()
    };
    b.effects
        .minute_parts
        .insert((minute, false), part.encode());
    b.effects
        .values
        .insert(user(value).into(), received(minute));
    owner.commit(&db.store, b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f26_a_leader_that_judges_several_minutes_keeps_the_lock_order() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    // The later minute has the smaller key.
    minute(&db, &mut owner, m, 9).await;
    minute(&db, &mut owner, m + 1, 1).await;
    // As a batch: the smaller first.
    let mac = |n: u32| format!("'\\x{n:08x}000000000000000000000000'");
    let lock = |n: u32| {
        format!(
            "UPDATE vw.value SET last_day = last_day WHERE mac = {}",
            mac(n)
        )
    };
    let mut batch = db.pool.begin().await.expect("begin");
    let held = sqlx::query(sqlx::AssertSqlSafe(lock(1)))
        .execute(&mut *batch)
        .await
        .expect("held");
    assert_eq!(held.rows_affected(), 1);
    let mut leader = leader(&db);
    let merged = tokio::spawn(async move { leader.tick().await });
    until_one_waits(&db).await;
    sqlx::query(sqlx::AssertSqlSafe(lock(9)))
        .execute(&mut *batch)
        .await
        .expect("the leader holds no larger key while it waits for a smaller one");
    batch.commit().await.expect("commit");
    let tick = merged.await.expect("task").expect("tick");
    assert_eq!(tick.minutes, 2);
    let open = "SELECT count(*) FROM vw.value_pending WHERE NOT judged";
    assert_eq!(db.number(open).await, 0);
    assert_eq!(db.store.counters().deadlocks.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_stops_neither_the_leader_nor_a_batch() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    minute(&db, &mut owner, m, 5).await;
    db.run("UPDATE vw.value SET row = '\\xffffff'").await;
    let mut leader = leader(&db);
    assert_eq!(leader.tick().await.expect("tick").minutes, 1);
    let unreadable = || {
        let discards: BTreeMap<&str, u64> = db.store.counters().discards().into();
        discards["unreadable row of a value"]
    };
    assert_eq!(unreadable(), 1);
    // A batch leaves it alone, and what else it brings is applied.
    minute(&db, &mut owner, m + 1, 5).await;
    minute(&db, &mut owner, m + 2, 6).await;
    assert_eq!(unreadable(), 2);
    assert_eq!(
        db.text("SELECT string_agg(encode(row, 'hex'), ' ') FROM vw.value WHERE length(row) = 3")
            .await,
        "ffffff"
    );
    assert_eq!(leader.tick().await.expect("tick").minutes, 2);
    assert_eq!(unreadable(), 2, "nobody asks for it again");
}
