//! The notifier: each change decided on once, told once, and told to be over.

use std::time::Duration;

use veilwatch::decide::notify::AWAKE;
use veilwatch::decide::{Matcher, Routes};
use veilwatch::store::deed::Deed;
use veilwatch::store::outbox::Marked;
use veilwatch::store::{NotifierTask, StoreError};

use super::*;
use crate::postgres::Db;

fn notifier(store: &Store) -> NotifierTask {
    NotifierTask::new(store.clone(), Routes::single(vec![SmolStr::new("mail")]))
}

pub(super) async fn find(
    db: &Db,
    owner: &mut Owner,
    who: u32,
    event: &str,
    at: Time,
    severity: Severity,
) {
    let mut b = owner.batch(1);
    b.watermark = at;
    b.effects.findings.push(finding(who, event, at, severity));
    owner.commit(&db.store, b).await;
    owner.watermark = at;
}

async fn kinds(db: &Db) -> String {
    db.text("SELECT coalesce(string_agg(kind, ' ' ORDER BY key, seq), '') FROM vw.outbox WHERE state <> 5").await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_problem_is_told_once_and_its_end_too() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut n = notifier(&db.store);
    let mut waker = db.store.watch_changes().await.expect("listen");
    for event in ["e1", "e2", "e3"] {
        find(&db, &mut owner, 1, event, NOON, Severity::High).await;
    }
    waker.wait(Duration::from_secs(10)).await;
    let tick = n.tick().await.expect("tick");
    assert_eq!((tick.leads, tick.changes, tick.queued), (true, 1, 1));
    let tick = n.tick().await.expect("tick");
    assert_eq!((tick.changes, tick.queued), (0, 0));
    assert_eq!(kinds(&db).await, "firing");
    let row = db
        .store
        .outbox_claim("mail", 1, Severity::Low)
        .await
        .expect("claim")
        .remove(0);
    assert_eq!(row.payload["rule"], "leak-pii");
    assert_eq!(
        db.store.outbox_sent(&row).await.expect("sent"),
        Marked::Done
    );
    // It resolves by itself once every watermark is past `last end + resolve_after`.
    owner.watermark = NOON.plus_ms(3_600_001);
    let b = owner.batch(1);
    owner.commit(&db.store, b).await;
    let tick = n.tick().await.expect("tick");
    assert_eq!((tick.resolved, tick.queued), (1, 1));
    assert_eq!(kinds(&db).await, "firing resolved");
    let dedup = db
        .number("SELECT count(DISTINCT dedup_key) FROM vw.outbox")
        .await;
    assert_eq!(dedup, 1);
    // Conservation: one fate for each (change, sink).
    let changes = db.number("SELECT count(*) FROM vw.incident_change").await;
    let fates: u64 = db
        .counts("SELECT fate, count(*) FROM vw.fate GROUP BY fate")
        .await
        .values()
        .sum();
    assert_eq!(u64::try_from(changes).expect("fits"), fates);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_notifier_waits_and_takes_over_with_the_same_state() {
    let db = Db::new().await;
    let other = db.another().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let (mut first, mut second) = (notifier(&db.store), notifier(&other));
    find(&db, &mut owner, 1, "e1", NOON, Severity::High).await;
    assert_eq!(first.tick().await.expect("tick").queued, 1);
    assert!(!second.tick().await.expect("tick").leads);
    db.run("UPDATE vw.lease SET renewed_at = now() - interval '16 seconds'")
        .await;
    assert!(second.tick().await.expect("tick").leads);
    find(&db, &mut owner, 1, "e2", NOON.plus_ms(1), Severity::High).await;
    assert_eq!(
        second.tick().await.expect("tick").queued,
        0,
        "it knows that the incident was told"
    );
    assert!(!first.tick().await.expect("tick").leads, "fenced");
    assert_eq!(kinds(&db).await, "firing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rise_in_severity_takes_the_place_of_what_waits() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut n = notifier(&db.store);
    find(&db, &mut owner, 1, "e1", NOON, Severity::Low).await;
    n.tick().await.expect("tick");
    find(&db, &mut owner, 1, "e2", NOON, Severity::Critical).await;
    n.tick().await.expect("tick");
    assert_eq!(
        db.number("SELECT count(*) FROM vw.outbox WHERE state = 5")
            .await,
        1
    );
    let rows = db
        .store
        .outbox_claim("mail", 5, Severity::Low)
        .await
        .expect("claim");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].severity, Severity::Critical);
}

#[tokio::test(flavor = "multi_thread")]
async fn silences_mute_until_they_end() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut n = notifier(&db.store);
    let now = db.store.now().await.expect("now");
    let rule = Matcher::parse("rule=leak-pii").expect("matcher");
    let day = 86_400_000;
    assert!(
        db.store
            .add_silence(&[], now, now.plus_ms(day), "ops", "why")
            .await
            .is_err()
    );
    let long = db
        .store
        .add_silence(
            std::slice::from_ref(&rule),
            now,
            now.plus_ms(999 * day),
            "ops",
            "why",
        )
        .await;
    assert!(long.is_err());
    let id = db
        .store
        .add_silence(
            &[rule],
            now.minus_ms(1_000),
            now.plus_ms(day),
            "ops",
            "known",
        )
        .await
        .expect("silence");
    find(&db, &mut owner, 1, "e1", now, Severity::High).await;
    assert_eq!(n.tick().await.expect("tick").queued, 0);
    assert_eq!(
        db.counts("SELECT fate, count(*) FROM vw.fate GROUP BY fate")
            .await
            .get("silenced"),
        Some(&1)
    );
    assert_eq!(db.store.silences().await.expect("list")[0].author, "ops");
    assert!(db.store.expire_silence(id, "ops").await.expect("expire"));
    assert!(!db.store.expire_silence(id, "ops").await.expect("expire"));
    assert!(db.store.silences().await.expect("list").is_empty());
    assert_eq!(
        db.number("SELECT count(*) FROM vw.action_log WHERE action LIKE 'silence%'")
            .await,
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_left_alone_and_holds_nothing_back() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    // A version after this one wrote a change, an incident that is due, a group, a storm window and a
    // silence that would mute everything if it were not understood.
    find(
        &db,
        &mut owner,
        7,
        "e7",
        NOON.minus_ms(86_400_000),
        Severity::High,
    )
    .await;
    db.run(
        "UPDATE vw.incident_head SET detector = 'telepathy';
         UPDATE vw.incident_change SET head = head || '{\"detector\": \"telepathy\"}';
         INSERT INTO vw.notify_group VALUES ('group:00000000000000000000000000000001', '{\"x\": 1}'),
                                            ('storm:mail', '[]'), ('tide:mail', '{}');
         INSERT INTO vw.silence (matchers, author, comment, ends_at)
         VALUES ('[\"mood=bad\"]', 'a', 'b', now() + interval '1 day'), ('{\"all\": 1}', 'a', 'b', now() + interval '1 day')",
    )
    .await;
    find(&db, &mut owner, 1, "e1", NOON, Severity::High).await;
    let mut n = notifier(&db.store);
    let tick = n.tick().await.expect("tick");
    assert_eq!((tick.changes, tick.queued), (1, 1), "the other is told");
    let unreadable: Vec<_> = tick.unreadable.into_iter().collect();
    assert_eq!(
        unreadable,
        [("change", 1), ("group", 3), ("incident", 1), ("silence", 2)]
    );
    assert_eq!(tick.skipped, 7);
    let tick = n.tick().await.expect("tick");
    assert!(tick.unreadable.is_empty(), "each is told of once");
    assert_eq!(tick.skipped, 7);
    let open = "SELECT count(*) FROM vw.incident_change WHERE NOT taken";
    assert_eq!(db.number(open).await, 1, "for who can read it");
}

#[tokio::test(flavor = "multi_thread")]
async fn f47_the_rows_of_an_incident_stay_few_while_a_sink_is_down() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut routes = Routes::single(vec![SmolStr::new("mail")]);
    routes.root.repeat_interval_ms = 1;
    let mut n = NotifierTask::new(db.store.clone(), routes);
    find(&db, &mut owner, 1, "e1", NOON, Severity::High).await;
    let mut queued = 0;
    for _ in 0..5 {
        queued += n.tick().await.expect("tick").queued;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(queued, 5);
    let rows = db
        .store
        .outbox_claim("mail", 10, Severity::Low)
        .await
        .expect("claim");
    assert_eq!(rows.len(), 1, "the last one");
    assert_eq!(rows[0].kind, "firing", "nobody has heard of it yet");
    assert_eq!(rows[0].payload["kind"], "firing");
    // Conservation: each fate `queued` is a row, each row has a state.
    let fates = db
        .counts("SELECT fate, count(*) FROM vw.fate GROUP BY fate")
        .await;
    assert_eq!(fates.get("queued"), Some(&5));
    assert_eq!(db.number("SELECT count(*) FROM vw.outbox").await, 5);
    assert_eq!(
        db.number("SELECT count(*) FROM vw.outbox WHERE state = 5")
            .await,
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f47_what_nobody_took_for_a_week_expires_and_is_counted() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut n = notifier(&db.store);
    find(&db, &mut owner, 1, "e1", NOON, Severity::High).await;
    find(&db, &mut owner, 2, "e2", NOON, Severity::High).await;
    n.tick().await.expect("tick");
    // One of them had been claimed by a process that is gone, for a sink that is gone.
    let claimed = db.store.outbox_claim("mail", 1, Severity::Low).await;
    assert_eq!(claimed.expect("claimed").len(), 1);
    db.run("UPDATE vw.outbox SET created_at = now() - interval '8 days', claim_until = claim_until - interval '8 days'")
        .await;
    let mut later = NotifierTask::new(
        db.another().await,
        Routes::single(vec![SmolStr::new("mail")]),
    );
    n.give_up().await.expect("given up");
    let tick = later.tick().await.expect("tick");
    assert_eq!(tick.expired, [(SmolStr::new("mail"), 2)]);
    assert_eq!(
        db.number("SELECT count(*) FROM vw.outbox WHERE state = 4 AND finished_at IS NOT NULL")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_after_a_late_send_has_a_change_and_a_fate() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut n = notifier(&db.store);
    find(&db, &mut owner, 1, "e1", NOON, Severity::High).await;
    n.tick().await.expect("tick");
    let claim = async || {
        let rows = db.store.outbox_claim("mail", 1, Severity::Low).await;
        rows.expect("claim").remove(0)
    };
    let slept = claim().await;
    db.run("UPDATE vw.outbox SET claim_until = now() - interval '1 second'")
        .await;
    let second = claim().await;
    db.store.outbox_sent(&second).await.expect("sent");
    let marked = db.store.outbox_sent(&slept).await.expect("sent");
    assert_eq!(marked, Marked::Stale);
    let sums = "SELECT concat_ws(' ', (SELECT count(*) FROM vw.outbox), (SELECT count(*) FROM vw.fate WHERE fate = 'queued'),
                       (SELECT count(*) FROM vw.incident_change), (SELECT count(*) FROM vw.incident_change WHERE NOT taken))";
    assert_eq!(db.text(sums).await, "2 2 2 0", "rows, fates, changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_acknowledge_judge_and_resolve() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut n = notifier(&db.store);
    find(&db, &mut owner, 1, "e1", NOON, Severity::High).await;
    n.tick().await.expect("tick");
    let id = db.text("SELECT incident_id FROM incidents").await;
    let key = db.store.find_incident(&id[..8]).await.expect("found");
    let act = async |deed| db.store.incident_deed(key, None, deed, "alice").await;
    act(Deed::Acknowledge).await.expect("ack");
    assert!(
        matches!(act(Deed::Acknowledge).await, Err(StoreError::Refusal(_))),
        "twice"
    );
    act(Deed::Assign("bob".into())).await.expect("assign");
    act(Deed::Note("looked at it".into())).await.expect("note");
    act(Deed::Verdict("true".into(), "known attacker".into()))
        .await
        .expect("verdict");
    let row = db.text("SELECT concat_ws(' ', state, assignee, verdict, verdict_by, acknowledged_by) FROM incidents").await;
    assert_eq!(row, "acknowledged bob true alice alice");
    n.tick().await.expect("tick");
    act(Deed::Resolve).await.expect("resolve");
    assert!(act(Deed::Resolve).await.is_err(), "twice");
    n.tick().await.expect("tick");
    assert_eq!(kinds(&db).await, "firing acknowledged resolved");
    let story = db
        .store
        .incident_story(key, None)
        .await
        .expect("read")
        .expect("story");
    let what: Vec<&str> = story.timeline.iter().map(|e| e.what.as_str()).collect();
    assert_eq!(
        what,
        [
            "opened",
            "acknowledged",
            "assign",
            "note",
            "verdict",
            "resolved"
        ]
    );
    assert_eq!(story.findings.len(), 1);
    assert!(db.store.find_incident("zz").await.is_err());
    assert!(
        db.store
            .incident_deed(key, Some(7), Deed::Note("x".into()), "a")
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_that_left_memory_are_told_to_be_worse_and_to_be_over() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut n = notifier(&db.store);
    let many = AWAKE + 100;
    let mut b = owner.batch(1);
    b.watermark = NOON;
    for who in 0..u32::try_from(many).expect("small") {
        let f = finding(who, &format!("e{who}"), NOON, Severity::High);
        b.effects.findings.push(f);
    }
    owner.commit(&db.store, b).await;
    owner.watermark = NOON;
    let mut queued = 0;
    loop {
        let tick = n.tick().await.expect("tick");
        queued += tick.queued;
        if !tick.more {
            break;
        }
    }
    assert_eq!(queued, many as u64);
    find(&db, &mut owner, 7, "worse", NOON, Severity::Critical).await;
    assert_eq!(n.tick().await.expect("tick").queued, 1);
    // Another process goes on from the rows, of which one was damaged meanwhile.
    n.give_up().await.expect("given up");
    let mut n = notifier(&db.store);
    assert!(n.tick().await.expect("tick").leads);
    db.run(
        "UPDATE vw.notify_group SET state = '{}'
          WHERE id = (SELECT min(id) FROM vw.notify_group WHERE state::text NOT LIKE '%worse%')",
    )
    .await;
    owner.watermark = NOON.plus_ms(3_600_001);
    let b = owner.batch(1);
    owner.commit(&db.store, b).await;
    let (mut resolved, mut unreadable) = (0, 0);
    loop {
        let tick = n.tick().await.expect("tick");
        resolved += tick.resolved;
        unreadable += tick.unreadable.get("group").copied().unwrap_or_default();
        if !tick.more {
            break;
        }
    }
    assert_eq!((resolved, unreadable), (many as u64, 1));
    let told = db
        .number("SELECT count(*) FROM vw.outbox WHERE kind = 'resolved'")
        .await;
    assert_eq!(told, i64::try_from(many - 1).expect("small"));
    let left = db
        .text("SELECT string_agg(state::text, ' ') FROM vw.notify_group WHERE id LIKE 'group:%'")
        .await;
    assert_eq!(left, "{}", "what cannot be read is left alone");
    let changes = db.number("SELECT count(*) FROM vw.incident_change").await;
    let fates: u64 = db
        .counts("SELECT fate, count(*) FROM vw.fate GROUP BY fate")
        .await
        .values()
        .sum();
    assert_eq!(u64::try_from(changes).expect("fits"), fates);
}
