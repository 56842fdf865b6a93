//! The leader: closes minutes, holds them, leaves partitions out, is taken over.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use std::sync::atomic::Ordering;
use veilwatch::detect::part::{GatewaySeen, LaneKey, LaneSeen, MinutePart};
use veilwatch::detect::value::Candidate;
use veilwatch::detect::{DetectConfig, Leader, Part, ValueRow};

use veilwatch::store::{LeaderTask, LeaderTick};

use super::*;
use crate::postgres::Db;

fn part(minute: i64, late: bool) -> Vec<u8> {
    MinutePart {
        minute,
        late,
        ..MinutePart::default()
    }
    .encode()
}

/// Commits a part of a minute and moves the watermark to so many milliseconds past that minute's end.
async fn minute(db: &Db, owner: &mut Owner, minute: i64, past_ms: i64) {
    owner.watermark = Time::from_minute(minute + 1).plus_ms(past_ms);
    let mut b = owner.batch(1);
    b.effects
        .minute_parts
        .insert((minute, false), part(minute, false));
    owner.commit(&db.store, b).await;
}

fn leader(db: &Db) -> LeaderTask {
    LeaderTask::new(db.store.clone(), Arc::new(DetectConfig::default()))
}

async fn unmerged(db: &Db) -> i64 {
    db.number("SELECT count(*) FROM vw.minute_part WHERE NOT merged")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_closes_when_every_watermark_has_passed() {
    let db = Db::with(|c| c.hold = None).await;
    let (mut a, mut b) = (
        Owner::claim(&db.store, 0).await,
        Owner::claim(&db.store, 1).await,
    );
    let m = NOON.minute();
    let mut leader = leader(&db);
    assert_eq!(leader.tick().await.expect("tick").merged_through, None);
    minute(&db, &mut a, m, 10_001).await;
    minute(&db, &mut b, m, 9_000).await;
    let tick = leader.tick().await.expect("tick");
    assert!(tick.leads);
    assert_eq!(
        (tick.minutes, unmerged(&db).await),
        (0, 2),
        "b is not past it"
    );
    minute(&db, &mut b, m, 10_001).await;
    let tick = leader.tick().await.expect("tick");
    assert_eq!(
        (tick.minutes, tick.partial, tick.merged_through),
        (1, 0, Some(m))
    );
    assert_eq!(unmerged(&db).await, 0);
    // An idle owner says so: minutes go on closing without records.
    for o in [&a, &b] {
        let done = db
            .store
            .idle_watermark(&o.tp, o.claim.claim_id, o.next, Instant::now())
            .await
            .expect("idle");
        assert!(done);
    }
    assert!(
        !db.store
            .idle_watermark(&a.tp, a.claim.claim_id, 99, Instant::now())
            .await
            .expect("idle")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_behind_is_left_out_and_merged_later_once() {
    let db = Db::with(|c| c.hold = Some(Duration::ZERO)).await;
    let (mut a, mut b) = (
        Owner::claim(&db.store, 0).await,
        Owner::claim(&db.store, 1).await,
    );
    let m = NOON.minute();
    minute(&db, &mut a, m, 10_001).await;
    // Part of b's minute is there, but it is left out whole.
    minute(&db, &mut b, m, -30_000).await;
    let mut leader = leader(&db);
    let tick = leader.tick().await.expect("tick");
    assert_eq!(
        (tick.minutes, tick.partial, tick.merged_through),
        (1, 1, Some(m))
    );
    assert_eq!(unmerged(&db).await, 1);
    assert_eq!(
        db.text("SELECT left_out[1] FROM vw.partial_minute").await,
        "events/1"
    );
    let partial =
        "SELECT partial_minutes FROM completeness WHERE partition = 1 ORDER BY hour DESC LIMIT 1";
    assert_eq!(db.number(partial).await, 1);
    minute(&db, &mut a, m + 1, 10_001).await;
    minute(&db, &mut b, m + 1, 10_001).await;
    let tick = leader.tick().await.expect("tick");
    assert_eq!((tick.minutes, tick.partial), (1, 0));
    assert_eq!(unmerged(&db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_partition_holds_without_limit_if_so_configured() {
    let db = Db::with(|c| c.hold = None).await;
    let (mut a, _b) = (
        Owner::claim(&db.store, 0).await,
        Owner::claim(&db.store, 1).await,
    );
    minute(&db, &mut a, NOON.minute(), 3_600_000).await;
    let mut leader = leader(&db);
    for _ in 0..3 {
        assert_eq!(leader.tick().await.expect("tick").minutes, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_watermark_is_of_the_moment_kafka_was_asked() {
    let db = Db::new().await;
    let a = Owner::claim(&db.store, 0).await;
    let mut other = db.pool.begin().await.expect("begun");
    sqlx::query("SELECT 1 FROM vw.stream_partition FOR UPDATE")
        .execute(&mut *other)
        .await
        .expect("locked");
    let asked = Instant::now();
    let at = db
        .number("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        .await;
    let (store, tp, claim) = (db.store.clone(), a.tp.clone(), a.claim.claim_id);
    let next = a.next;
    let moved = tokio::spawn(async move { store.idle_watermark(&tp, claim, next, asked).await });
    // What is appended while the statement waits must not be passed.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    other.commit().await.expect("unlocked");
    assert!(moved.await.expect("joined").expect("idle"));
    let watermark = db.number("SELECT watermark FROM vw.stream_partition").await;
    assert!(watermark <= at - 999, "{} ms too far", watermark - at);
    assert!(watermark > at - 60_000, "it moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_read_begins_anew() {
    let db = Db::new().await;
    let mut a = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    minute(&db, &mut a, m, 10_001).await;
    let mut first = leader(&db);
    assert_eq!(first.tick().await.expect("tick").merged_through, Some(m));
    first.give_up().await.expect("given up");
    for spoil in ["fmt = 99", "state = '\\x01ff'"] {
        db.run(&format!(
            "UPDATE vw.lease SET {spoil} WHERE name = 'leader'"
        ))
        .await;
        let m = db
            .number("SELECT merged_through FROM vw.lease WHERE name = 'leader'")
            .await
            + 1;
        minute(&db, &mut a, m, 10_001).await;
        let before = db.store.counters().leader_resets.load(Ordering::Relaxed);
        let mut next = leader(&db);
        let tick = next.tick().await.expect("tick");
        assert_eq!(
            (tick.leads, tick.merged_through),
            (true, Some(m)),
            "{spoil}"
        );
        let after = db.store.counters().leader_resets.load(Ordering::Relaxed);
        assert_eq!(after, before + 1, "{spoil}");
        next.give_up().await.expect("given up");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_no_longer_exist_hold_nothing() {
    let db = Db::with(|c| {
        c.hold = None;
        c.topics = vec![SmolStr::new("events")];
    })
    .await;
    let mut a = Owner::claim(&db.store, 0).await;
    let _beyond = Owner::claim(&db.store, 1).await;
    let renamed = TopicPartition {
        topic: SmolStr::new("old"),
        partition: 0,
    };
    db.store.claim(&renamed, 0).await.expect("claim");
    let m = NOON.minute();
    minute(&db, &mut a, m, 10_001).await;
    let mut leader = leader(&db);
    // Whatever is applied now counts, whoever configured it.
    assert_eq!(leader.tick().await.expect("tick").minutes, 0);
    db.run("UPDATE vw.stream_partition SET applied_at = now() - interval '3 minutes' WHERE topic = 'old'")
        .await;
    assert_eq!(leader.tick().await.expect("tick").minutes, 0);
    // The topic has one partition now: the other one's row is of before.
    db.run("UPDATE vw.stream_partition SET applied_at = now() - interval '3 minutes'")
        .await;
    assert_eq!(leader.tick().await.expect("tick").minutes, 0);
    db.store.partitions_are("events", 1);
    let tick = leader.tick().await.expect("tick");
    assert_eq!((tick.minutes, tick.partial), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn minutes_that_stay_partial_are_a_finding() {
    let db = Db::with(|c| {
        c.hold = Some(Duration::ZERO);
        c.partial_after = Duration::from_millis(300);
    })
    .await;
    let mut a = Owner::claim(&db.store, 0).await;
    let mut b = Owner::claim(&db.store, 1).await;
    let m = NOON.minute();
    let mut leader = leader(&db);
    minute(&db, &mut a, m, 10_001).await;
    assert_eq!(leader.tick().await.expect("tick").partial, 1);
    assert_eq!(db.number("SELECT count(*) FROM findings").await, 0);
    tokio::time::sleep(Duration::from_millis(400)).await;
    for n in 1..4 {
        minute(&db, &mut a, m + n, 10_001).await;
        assert_eq!(leader.tick().await.expect("tick").partial, 1);
    }
    let told = "SELECT string_agg(rule || ' ' || subject, ',') FROM findings";
    assert_eq!(db.text(told).await, "audit-partial partition:events/1");
    // Once it has caught up, a new stretch is told anew.
    minute(&db, &mut b, m + 4, 10_001).await;
    minute(&db, &mut a, m + 4, 10_001).await;
    assert_eq!(leader.tick().await.expect("tick").partial, 0);
    minute(&db, &mut a, m + 5, 10_001).await;
    leader.tick().await.expect("tick");
    tokio::time::sleep(Duration::from_millis(400)).await;
    minute(&db, &mut a, m + 6, 10_001).await;
    leader.tick().await.expect("tick");
    assert_eq!(db.number("SELECT count(*) FROM findings").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_stands_in_hours_and_in_the_tick() {
    let db = Db::new().await;
    let mut a = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    let mut leader = leader(&db);
    // Forged: three lanes that each miss all there is.
    let most = u64::try_from(i64::MAX).expect("positive");
    for n in 0..5 {
        a.watermark = Time::from_minute(m + n + 1).plus_ms(10_001);
        let mut part = MinutePart {
            minute: m + n,
            ..MinutePart::default()
        };
        let seen = GatewaySeen {
            events: 3,
            declared: 7,
            appended: m + n,
            ..GatewaySeen::default()
        };
        part.gateways.insert("gw1".into(), seen);
        for lane in 0..3 {
            let key = LaneKey {
                gateway: "gw1".into(),
                boot: format!("b{}", n.min(1)).into(),
                lane,
            };
            let seen = if n == 1 {
                vec![(0, 0), (most, most)]
            } else {
                vec![(0, 0)]
            };
            part.lanes.insert(key, LaneSeen { seen, declared: 0 });
        }
        let mut b = a.batch(1);
        b.effects.minute_parts.insert((m + n, false), part.encode());
        a.commit(&db.store, b).await;
        let tick = leader.tick().await.expect("tick");
        let missing = tick.missing.expect("a minute was merged");
        let gw1 = missing.get("gw1").expect("gw1");
        assert_eq!(gw1.declared, 7 * (u64::try_from(n).expect("small") + 1));
        assert_eq!(gw1.unexplained, if n < 3 { 0 } else { u64::MAX });
    }
    let row = "SELECT gateway || ' ' || declared || ' ' || unexplained FROM missing_events
                WHERE hour = '2026-11-21 12:00:00+00'";
    assert_eq!(db.text(row).await, format!("gw1 35 {}", u64::MAX));
    assert_eq!(leader.tick().await.expect("tick").missing, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn completeness_tells_of_hours_in_which_a_partition_stood_still() {
    let db = Db::new().await;
    let owner = Owner::claim(&db.store, 0).await;
    let skipped = db.store.skip_offsets(&owner.tp, 0, 10, "too large", "ops");
    assert!(skipped.await.expect("skip"));
    let lost = "SELECT sum(lost_records)::bigint FROM completeness WHERE partition = 0";
    assert_eq!(db.number(lost).await, 10);
    for minute in [NOON.minute(), NOON.minute() + 59, NOON.minute() + 60] {
        db.run(&format!(
            "INSERT INTO vw.partial_minute (minute, left_out) VALUES ({minute}, ARRAY['events/0', 'gone/7'])"
        ))
        .await;
    }
    let partial = "SELECT string_agg(partition || ' ' || records || ' ' || partial_minutes, ',' ORDER BY hour)
                     FROM completeness WHERE partial_minutes > 0 AND hour >= '2026-11-21 12:00:00+00'";
    assert_eq!(db.text(partial).await, "0 0 2,0 0 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_minutes_are_caught_up_in_steps() {
    let db = Db::new().await;
    let mut a = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    a.watermark = Time::from_minute(m + 100).plus_ms(10_001);
    let mut b = a.batch(1);
    for i in 0..100 {
        b.effects
            .minute_parts
            .insert((m + i, false), part(m + i, false));
    }
    a.commit(&db.store, b).await;
    let mut leader = leader(&db);
    let mut seen = LeaderTick::default();
    let mut ticks = 0;
    while unmerged(&db).await > 0 {
        let tick = leader.tick().await.expect("tick");
        seen.minutes += tick.minutes;
        ticks += 1;
        assert!(ticks < 10);
        assert_eq!(tick.more, unmerged(&db).await > 0);
    }
    assert_eq!(seen.minutes, 100);
    assert!(ticks >= 4, "at most thirty at once: {ticks}");
    let through = db
        .number("SELECT merged_through FROM vw.lease WHERE name = 'leader'")
        .await;
    assert_eq!(through, m + 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_many_parts_is_merged_as_if_it_were_read_at_once() {
    let db = Db::with(|c| c.hold = None).await;
    let mut a = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    let part_of = |minute: i64, late: bool, n: u64| {
        let lane = LaneKey {
            gateway: SmolStr::new("gw1"),
            boot: SmolStr::new("b"),
            lane: 0,
        };
        let seen = LaneSeen {
            // Two sequence numbers of every five.
            seen: vec![(5 * n, 5 * n + 1)],
            declared: 1,
        };
        MinutePart {
            minute,
            late,
            events: 2,
            lanes: [(lane, seen)].into(),
            ..MinutePart::default()
        }
        .encode()
    };
    // More than a page, in another order than they are merged, and late ones of the minute before.
    let (mut late, mut now) = (Vec::new(), Vec::new());
    a.watermark = Time::from_minute(m + 1).plus_ms(10_001);
    for n in (0..703).rev() {
        let is_late = n % 10 == 9;
        let minute = if is_late { m - 1 } else { m };
        let part = Part {
            from: a.tp.clone(),
            bytes: part_of(minute, is_late, n),
        };
        let mut b = a.batch(1);
        let effects = &mut b.effects.minute_parts;
        effects.insert((minute, is_late), part.bytes.clone());
        a.commit(&db.store, b).await;
        if is_late { &mut late } else { &mut now }.push(part);
    }
    let mut expected = Leader::new(Arc::new(DetectConfig::default()));
    expected.merge_minute(m - 1, &late, false);
    expected.merge_minute(m, &now, false);
    let mut leader = leader(&db);
    let tick = leader.tick().await.expect("tick");
    assert_eq!((tick.merged_through, unmerged(&db).await), (Some(m), 0));
    let state = db
        .text("SELECT encode(state, 'hex') FROM vw.lease WHERE name = 'leader'")
        .await;
    let mut hex = String::new();
    for byte in expected.checkpoint().bytes {
        let _ = write!(hex, "{byte:02x}");
    }
    assert_eq!(state, hex);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_leader_is_taken_over_and_fenced() {
    let db = Db::new().await;
    let other = db.another().await;
    let mut a = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    minute(&db, &mut a, m, 10_001).await;
    let mut first = leader(&db);
    assert_eq!(first.tick().await.expect("tick").merged_through, Some(m));
    let mut second = LeaderTask::new(other, Arc::new(DetectConfig::default()));
    assert!(
        !second.tick().await.expect("tick").leads,
        "the lease is held"
    );
    // The first goes silent for longer than the lease.
    db.run("UPDATE vw.lease SET renewed_at = now() - interval '16 seconds'")
        .await;
    minute(&db, &mut a, m + 1, 10_001).await;
    let tick = second.tick().await.expect("tick");
    assert_eq!(
        (tick.leads, tick.minutes, tick.merged_through),
        (true, 1, Some(m + 1))
    );
    // The first wakes up: its next transaction finds the lease gone and changes nothing.
    minute(&db, &mut a, m + 2, 10_001).await;
    let tick = first.tick().await.expect("tick");
    assert!(!tick.leads && !first.leads());
    assert_eq!(unmerged(&db).await, 1);
    // Given up on shutdown, it is free at once.
    second.give_up().await.expect("give up");
    assert_eq!(
        first.tick().await.expect("tick").merged_through,
        Some(m + 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_merge_leaves_nothing_behind_and_is_done_again() {
    let db = Db::new().await;
    let mut a = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    minute(&db, &mut a, m, 10_001).await;
    db.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE OF merged_through ON vw.lease FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let mut leader = leader(&db);
    leader.tick().await.expect_err("refused");
    assert_eq!(unmerged(&db).await, 1);
    db.run("DROP TRIGGER refuse ON vw.lease").await;
    assert_eq!(leader.tick().await.expect("tick").merged_through, Some(m));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_user_is_judged_once_when_its_minute_closes() {
    let db = Db::new().await;
    let (mut a, mut b) = (
        Owner::claim(&db.store, 0).await,
        Owner::claim(&db.store, 1).await,
    );
    let m = NOON.minute();
    let value = user(77);
    // The sender and the receiver stand in different partitions; the receiver's batch comes first.
    let mut received = ValueRow::default();
    received.received(Candidate {
        end: NOON.plus_ms(30_000),
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
    let mut batch = b.batch(1);
    batch.effects.values.insert(value.into(), received);
    b.commit(&db.store, batch).await;
    let mut sent = ValueRow::default();
    sent.sent(user(1), NOON);
    let mut batch = a.batch(1);
    batch.effects.values.insert(value.into(), sent);
    a.commit(&db.store, batch).await;
    minute(&db, &mut a, m, 10_001).await;
    minute(&db, &mut b, m, 10_001).await;
    let mut leader = leader(&db);
    let tick = leader.tick().await.expect("tick");
    assert_eq!((tick.minutes, tick.findings.new), (1, 1));
    assert_eq!(
        db.text("SELECT rule || ' ' || user_id FROM findings").await,
        format!("leak-cross-user {}", user(2))
    );
    minute(&db, &mut a, m + 1, 10_001).await;
    minute(&db, &mut b, m + 1, 10_001).await;
    let tick = leader.tick().await.expect("tick");
    assert_eq!(
        (tick.minutes, tick.findings.new, tick.findings.folded),
        (1, 0, 0)
    );
    assert_eq!(
        db.number("SELECT count(*) FROM vw.value_pending WHERE NOT judged")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_for_each_event_stops_no_leader() {
    let db = Db::with(|c| c.hold = None).await;
    let mut owners = Vec::new();
    for n in 0..6 {
        owners.push(Owner::claim(&db.store, n).await);
    }
    let m = NOON.minute();
    let mut leader = leader(&db);
    for n in 0..4 {
        for (i, o) in owners.iter_mut().enumerate() {
            o.watermark = Time::from_minute(m + n + 1).plus_ms(10_001);
            let mut part = MinutePart {
                minute: m + n,
                ..MinutePart::default()
            };
            for boot in 0..4_096 {
                let key = LaneKey {
                    gateway: SmolStr::new("gw1"),
                    boot: SmolStr::new(format!("{n}-{i}-{boot}")),
                    lane: 0,
                };
                let seen = LaneSeen {
                    seen: vec![(0, 0)],
                    declared: 0,
                };
                part.lanes.insert(key, seen);
            }
            let mut b = o.batch(1);
            b.effects.minute_parts.insert((m + n, false), part.encode());
            o.commit(&db.store, b).await;
        }
        let tick = leader.tick().await.expect("tick");
        assert_eq!((tick.minutes, tick.partial), (1, 0));
    }
    assert_eq!(
        db.number("SELECT count(*) FROM vw.minute_part WHERE NOT merged")
            .await,
        0
    );
    let told = "SELECT string_agg(DISTINCT rule || ' ' || subject, ',') FROM findings";
    assert_eq!(db.text(told).await, "audit-many-boots gateway:gw1");
    // What is kept is bounded, and what was forgotten is counted.
    let bytes = db
        .number("SELECT length(state)::bigint FROM vw.lease WHERE name = 'leader'")
        .await;
    assert!(bytes < 1_000_000, "{bytes} bytes");
    let forgotten = &db.store.counters().forgotten_sequences;
    assert!(forgotten.load(Ordering::Relaxed) > 3 * 4_096);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_values_than_one_statement_takes_are_judged_with_one_minute() {
    let db = Db::new().await;
    let mut a = Owner::claim(&db.store, 0).await;
    let m = NOON.minute();
    let mut b = a.batch(1);
    for n in 0..6_000 {
        let mut row = ValueRow::default();
        row.received(Candidate {
            end: NOON.plus_ms(30_000),
            event: SmolStr::new("e1"),
            user: user(2),
            tenant: SmolStr::new("acme"),
            rule: SmolStr::new("pii-us-ssn"),
            version: 1,
            entity: SmolStr::new("US_SSN"),
            model: SmolStr::new("gpt"),
            gateway: SmolStr::new("gw1"),
            shadow: false,
        });
        b.effects.values.insert(user(10_000 + n).into(), row);
    }
    a.commit(&db.store, b).await;
    let pending = "SELECT count(*) FROM vw.value_pending WHERE NOT judged";
    assert_eq!(db.number(pending).await, 6_000);
    minute(&db, &mut a, m, 10_001).await;
    let mut leader = leader(&db);
    assert_eq!(leader.tick().await.expect("tick").minutes, 1);
    assert_eq!(db.number(pending).await, 0);
}
