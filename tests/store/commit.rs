//! The batch transaction: atomic, fenced, exact.

use std::sync::Arc;

use veilwatch::account::Scope;
use veilwatch::detect::{Checkpoint, UserRow, ValueRow, Wanted};
use veilwatch::event::{Severity, Time};
use veilwatch::store::batch::{Fence, GapRow};
use veilwatch::store::dead_letter::DeadLetterFilter;

use super::*;
use crate::postgres::Db;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_all_or_nothing() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(10);
    b.ledger
        .add(ledger_key(Scope::User, "k7:a", NOON), &tokens(5));
    b.ledger
        .add(ledger_key(Scope::Everyone, "*", NOON), &tokens(5));
    b.dead_letters.push(dead_letter(3));
    b.gaps.push(GapRow {
        lo: 4,
        hi: 6,
        reason: SmolStr::new("retention"),
    });
    b.effects
        .findings
        .push(finding(1, "e1", NOON, Severity::High));
    b.effects
        .minute_parts
        .insert((NOON.minute(), false), vec![1, 2, 3]);
    b.effects.values.insert(user(9).into(), {
        let mut v = ValueRow::default();
        v.sent(user(1), NOON);
        v
    });
    b.effects.user_rows.push(UserRow {
        user: user(1),
        as_of: 10,
        state: vec![9; 300].into(),
    });
    b.effects.aliases.push((user(2), user(1)));
    b.checkpoint = Some(Checkpoint {
        as_of: 10,
        fmt: 1,
        bytes: vec![5; 5_000],
    });
    let done = owner.commit(&db.store, b).await;
    assert_eq!((done.findings.new, done.changes, done.tries), (1, 1, 1));
    let counts = "SELECT (SELECT count(*) FROM vw.ledger) * 1000000 + (SELECT count(*) FROM vw.dead_letter) * 100000
       + (SELECT count(*) FROM vw.finding) * 10000 + (SELECT count(*) FROM vw.minute_part) * 1000
       + (SELECT count(*) FROM vw.value) * 100 + (SELECT count(*) FROM vw.audit_batch) * 10
       + (SELECT count(*) FROM vw.stream_gap)";
    assert_eq!(db.number(counts).await, 2_111_111);

    // The same again, but a late statement of the transaction fails: nothing of it stays.
    db.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON vw.incident_change FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let mut b = owner.batch(10);
    b.ledger
        .add(ledger_key(Scope::User, "k7:b", NOON), &tokens(5));
    b.dead_letters.push(dead_letter(13));
    b.effects
        .findings
        .push(finding(2, "e2", NOON, Severity::High));
    let e = db.store.commit(one(b)).await.expect_err("refused");
    assert!(!e.is_transient(), "{e}");
    assert_eq!(db.number(counts).await, 2_111_111);
    assert_eq!(
        db.number("SELECT next_offset FROM vw.stream_partition")
            .await,
        10
    );

    let claim = db.store.claim(&tp(0), 0).await.expect("claim");
    assert_eq!(claim.next_offset, 10);
    assert_eq!(
        claim.checkpoint.map(|c| (c.as_of, c.bytes.len())),
        Some((10, 5_000))
    );
    assert_eq!(claim.epoch, 2);
    let names = db.store.aliases(&[user(2), user(1)].into()).await;
    let names = names.expect("aliases");
    assert_eq!(names.keys().collect::<Vec<_>>(), [&user(2)]);
    assert_eq!(names[&user(2)].0, user(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_zombie_changes_nothing() {
    let db = Db::new().await;
    let zombie = Owner::claim(&db.store, 0).await;
    let mut b = zombie.batch(5);
    b.ledger
        .add(ledger_key(Scope::User, "k7:a", NOON), &tokens(5));
    let mut owner = Owner::claim(&db.store, 0).await;
    let done = db.store.commit(one(b)).await.expect("answered");
    assert_eq!(done.fenced, vec![(tp(0), Fence::Claimed)]);
    assert!(db.store.ledger().await.expect("ledger").is_empty());
    let mut b = owner.batch(5);
    b.ledger
        .add(ledger_key(Scope::User, "k7:a", NOON), &tokens(5));
    owner.commit(&db.store, b).await;
    assert_eq!(db.store.ledger().await.expect("ledger").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_batch_delivered_twice_counts_once() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let make = |o: &Owner| {
        let mut b = o.batch(5);
        b.ledger
            .add(ledger_key(Scope::User, "k7:a", NOON), &tokens(5));
        b
    };
    let again = make(&owner);
    let first = make(&owner);
    owner.commit(&db.store, first).await;
    let done = db.store.commit(one(again)).await.expect("answered");
    assert_eq!(done.fenced, vec![(tp(0), Fence::Moved { next_offset: 5 })]);
    let ledger = db.store.ledger().await.expect("ledger");
    assert_eq!(ledger.values().map(|d| d.tokens_input).sum::<u64>(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_partition_does_not_hold_the_others_back() {
    let db = Db::new().await;
    let a = Owner::claim(&db.store, 0).await;
    let b = Owner::claim(&db.store, 1).await;
    let c = Owner::claim(&db.store, 2).await;
    let _thief = Owner::claim(&db.store, 1).await;
    let batches: Arc<[PartitionBatch]> = [c, a, b]
        .iter()
        .map(|o| {
            let mut batch = o.batch(1);
            batch
                .ledger
                .add(ledger_key(Scope::Everyone, "*", NOON), &tokens(1));
            batch
        })
        .collect();
    let done = db.store.commit(batches).await.expect("commit");
    assert_eq!(done.fenced, vec![(tp(1), Fence::Claimed)]);
    let ledger = db.store.ledger().await.expect("ledger");
    assert_eq!(ledger.values().map(|d| d.events).sum::<u64>(), 2);
    assert_eq!(
        db.number("SELECT count(*) FROM vw.stream_partition WHERE next_offset = 1")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_overlapping_owners_count_each_record_once() {
    let db = Db::new().await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            // Each believes for a while that it owns the partition.
            let mut applied = 0u64;
            for _ in 0..12 {
                let mut owner = Owner::claim(&store, 0).await;
                for _ in 0..3 {
                    let mut b = owner.batch(7);
                    b.ledger
                        .add(ledger_key(Scope::Tenant, "acme", NOON), &tokens(7));
                    let batches = one(b);
                    let done = store.commit(Arc::clone(&batches)).await.expect("commit");
                    if !done.fenced.is_empty() {
                        break;
                    }
                    owner.applied(&batches[0]);
                    applied += 7;
                }
            }
            applied
        }));
    }
    let mut applied = 0;
    for t in tasks {
        applied += t.await.expect("task");
    }
    let ledger = db.store.ledger().await.expect("ledger");
    let total: u64 = ledger.values().map(|d| d.tokens_input).sum();
    let next = db
        .number("SELECT next_offset FROM vw.stream_partition")
        .await;
    assert_eq!(
        (total, next),
        (applied, i64::try_from(applied).expect("fits"))
    );
    let verdicts = db.store.audit_verify(&[]).await.expect("verify");
    assert_eq!(verdicts[0].broken, None);
    assert_eq!(verdicts[0].records, applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_load_their_own_row_else_a_copy() {
    let db = Db::new().await;
    for (partition, watermark, state) in [(0, NOON, 1u8), (1, NOON.plus_ms(60_000), 2)] {
        let mut owner = Owner::claim(&db.store, partition).await;
        owner.watermark = watermark;
        let mut b = owner.batch(1);
        for n in [1, 2] {
            b.effects.user_rows.push(UserRow {
                user: user(n),
                as_of: 1,
                state: vec![state].into(),
            });
        }
        // Evicted twice in one batch: the newest counts.
        b.effects.user_rows.push(UserRow {
            user: user(1),
            as_of: 0,
            state: vec![99].into(),
        });
        owner.commit(&db.store, b).await;
    }
    let own = db
        .store
        .load_users(&[(
            tp(0),
            vec![(user(1), Wanted::Row), (user(3), Wanted::NameAndRow)],
        )])
        .await
        .expect("load")
        .remove(0)
        .users;
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].state.as_slice(), own[0].copy), (&[1][..], false));
    let copy = db
        .store
        .load_users(&[(tp(7), vec![(user(2), Wanted::NameAndRow)])])
        .await
        .expect("load")
        .remove(0)
        .users;
    assert_eq!((copy[0].state.as_slice(), copy[0].copy), (&[2][..], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_from_before_a_rotation_comes_with_the_row_under_it() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(1);
    b.effects.user_rows.push(UserRow {
        user: user(1),
        as_of: 1,
        state: [7].into(),
    });
    // More rotations than any cache holds; the one that is asked for is the last of them.
    b.effects.aliases = (10..70_000).map(|n| (user(n), user(1))).collect();
    owner.commit(&db.store, b).await;
    let asked = vec![
        (user(69_999), Wanted::NameAndRow),
        (user(69_998), Wanted::Name),
        (user(5), Wanted::Name),
        (user(6), Wanted::NameAndRow),
    ];
    let loaded = db.store.load_users(&[(tp(0), asked)]).await;
    let loaded = loaded.expect("load").remove(0);
    let names: Vec<_> = loaded.names.iter().map(|n| (n.0, n.1)).collect();
    assert_eq!(names, [(user(69_999), user(1)), (user(69_998), user(1))]);
    assert_eq!(loaded.users.len(), 1);
    assert_eq!(
        (loaded.users[0].user, &loaded.users[0].state),
        (user(1), &vec![7])
    );
    // A use is noted, at most once a day.
    let old = "SELECT count(*) FROM vw.alias WHERE at < now() - interval '300 days'";
    db.run("UPDATE vw.alias SET at = now() - interval '399 days'")
        .await;
    let mut b = owner.batch(1);
    b.effects.aliases = vec![(user(69_999), user(1))];
    owner.commit(&db.store, b).await;
    assert_eq!(db.number(old).await, 69_989);
    db.run("UPDATE vw.alias SET at = at - interval '2 days'")
        .await;
    db.store.expire_all().await.expect("expire");
    assert_eq!(db.number("SELECT count(*) FROM vw.alias").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_is_left_out() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(1);
    b.checkpoint = Some(Checkpoint {
        as_of: 1,
        fmt: 1,
        bytes: vec![1, 2, 3],
    });
    owner.commit(&db.store, b).await;
    db.run("UPDATE vw.detector_checkpoint SET state = '\\x010203ff'")
        .await;
    let claim = db.store.claim(&tp(0), 0).await.expect("claim");
    assert!(claim.checkpoint.is_none() && claim.checkpoint_damaged);
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_open_fold_reopen_and_count_on() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let hour = 3_600_000;
    let at = |ms: i64| Time(NOON.0 + ms);
    let key = finding(1, "x", NOON, Severity::Low).key();
    for (event, end, severity) in [
        ("e1", at(0), Severity::Low),
        ("e2", at(1), Severity::High),
        ("e2", at(1), Severity::High),
        ("e3", at(hour + 60_000), Severity::Low),
        ("e4", at(3 * hour), Severity::Low),
        ("e5", at(9 * hour), Severity::Low),
    ] {
        let mut b = owner.batch(1);
        b.effects.findings.push(finding(1, event, end, severity));
        owner.commit(&db.store, b).await;
    }
    let kinds = "SELECT string_agg(kind || number, ' ' ORDER BY id) FROM vw.incident_change";
    // What was over when the next number opened is resolved by that.
    assert_eq!(
        db.text(kinds).await,
        "opened1 escalated1 reopened1 resolved1 opened2 resolved2 opened3"
    );
    let head = db
        .store
        .incident_head(key)
        .await
        .expect("read")
        .expect("head");
    assert_eq!(
        (head.number, head.findings, head.severity),
        (3, 1, Severity::Low)
    );
    let past = "SELECT string_agg(number || ':' || findings || ':' || severity || ':' || state, ' ' ORDER BY number) FROM vw.incident_past";
    // The first was high once; it reopened low and ended so.
    assert_eq!(db.text(past).await, "1:3:1:2 2:1:1:2");
    assert_eq!(db.number("SELECT count(*) FROM incidents").await, 3);
    let fates = db
        .counts("SELECT fate, count(*) FROM vw.finding GROUP BY fate")
        .await;
    assert_eq!((fates["new"], fates["folded"]), (3, 2));
    assert_eq!(
        db.store
            .counters()
            .repeated_findings
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_numbers_within_one_batch_are_all_kept() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(3);
    for (i, event) in ["a", "b", "c"].into_iter().enumerate() {
        let end = NOON.plus_ms(10 * 3_600_000 * i64::try_from(i).expect("small"));
        b.effects
            .findings
            .push(finding(1, event, end, Severity::Low));
    }
    owner.commit(&db.store, b).await;
    assert_eq!(
        db.text("SELECT string_agg(number || state, ' ' ORDER BY number) FROM incidents")
            .await,
        "1resolved 2resolved 3open"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_new_owner_knows_which_records_made_a_detector_panic() {
    let db = Db::new().await;
    let mut a = Owner::claim(&db.store, 0).await;
    let mut b = a.batch(9);
    let panicked = |offset| DeadLetterRow {
        reason: SmolStr::new("detector_panic"),
        ..dead_letter(offset)
    };
    b.dead_letters = vec![panicked(2), dead_letter(3), panicked(5), panicked(8)];
    a.commit(&db.store, b).await;
    // Which one is wanted is asked before the newest so many are taken.
    let one = DeadLetterFilter {
        partition: Some(0),
        offset: Some(2),
        limit: 1,
        ..DeadLetterFilter::default()
    };
    let found = db.store.dead_letters(&one).await.expect("asked");
    assert_eq!(found.iter().map(|d| d.offset).collect::<Vec<_>>(), [2]);
    let near = a.watermark.plus_ms(3_600_000);
    let found = db.store.panicked(&a.tp, 3, 9, near).await.expect("asked");
    assert_eq!(found, [5, 8]);
    assert!(
        db.store
            .panicked(&tp(1), 0, 9, near)
            .await
            .expect("asked")
            .is_empty()
    );
}
