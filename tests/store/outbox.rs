//! The outbox: in order per incident and sink, most severe first, one worker at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use veilwatch::event::Hash16;
use veilwatch::store::outbox::{Claimed, Marked, Which};

use super::*;
use crate::postgres::Db;

/// Queues a row by hand: (incident, seq, severity).
async fn queue(db: &Db, incident: u32, seq: i64, severity: i16) {
    db.run(&format!(
        "INSERT INTO vw.outbox (key, number, sink, seq, kind, severity, dedup_key, payload)
         VALUES ('{incident:032x}', 1, 'mail', {seq}, 'firing', {severity}, '{incident:032x}', '{{\"n\": {seq}}}')"
    ))
    .await;
}

async fn claim(db: &Db, limit: i64) -> Vec<Claimed> {
    db.store
        .outbox_claim("mail", limit, Severity::Informational)
        .await
        .expect("claim")
}

fn names(claimed: &[Claimed]) -> Vec<(String, i64)> {
    claimed
        .iter()
        .map(|c| (c.key.to_string()[30..].to_owned(), c.seq))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_lowest_unfinished_of_an_incident_may_go() {
    let db = Db::new().await;
    for (incident, seq, severity) in [(1, 1, 2), (1, 2, 4), (2, 1, 3), (3, 1, 1)] {
        queue(&db, incident, seq, severity).await;
    }
    let first = claim(&db, 10).await;
    // Incident 1's critical second row waits for its first; the others go by severity.
    assert_eq!(
        names(&first),
        [("02".into(), 1), ("01".into(), 1), ("03".into(), 1)]
    );
    assert!(claim(&db, 10).await.is_empty());
    assert_eq!(
        db.store.outbox_sent(&first[1]).await.expect("sent"),
        Marked::Done
    );
    let next = claim(&db, 10).await;
    assert_eq!(names(&next), [("01".into(), 2)]);
    assert_eq!(
        db.store
            .outbox_claim("mail", 10, Severity::Critical)
            .await
            .expect("claim")
            .len(),
        0
    );
    assert!(
        db.store
            .outbox_failed(&next[0], Duration::from_secs(60), "503")
            .await
            .expect("failed")
    );
    assert!(claim(&db, 10).await.is_empty(), "not due for a minute");
    let due = "SELECT count(*) FROM vw.outbox WHERE sink = 'mail' AND state = 0 AND next_at BETWEEN now() + interval '30 s' AND now() + interval '60 s'";
    assert_eq!(db.number(due).await, 1);
    // A parked row is finished: it does not hold later ones back.
    assert!(db.store.outbox_park(&first[0], "401").await.expect("park"));
    queue(&db, 2, 2, 3).await;
    assert_eq!(names(&claim(&db, 10).await), [("02".into(), 2)]);
    let backlog = db.store.outbox_backlog().await.expect("backlog");
    let b = &backlog[0];
    assert_eq!(
        (b.pending, b.claimed, b.parked),
        (1, 2, 1),
        "not what was sent"
    );
    assert!(b.oldest_seconds > 0.0);
}

/// Queues a row by hand that has been through something: (incident, seq, kind, state).
async fn past(db: &Db, incident: u32, seq: i64, kind: &str, state: i16) {
    db.run(&format!(
        "INSERT INTO vw.outbox (key, number, sink, seq, kind, severity, dedup_key, payload, state, finished_at, next_at)
         VALUES ('{incident:032x}', 1, 'mail', {seq}, '{kind}', 3, '{incident:032x}', '{{\"kind\": \"{kind}\"}}', {state},
                 CASE WHEN {state} > 1 THEN now() END, now() + interval '15 minutes')"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healed_sink_gets_the_last_word_about_what_was_parked() {
    let db = Db::new().await;
    // 1: nobody was told, and it goes on. 2: told, the end was parked. 3: neither beginning nor end was
    // told. 4: what was parked is no longer so. 5: waits for another attempt. 6: worse than it was.
    for (incident, seq, kind, state) in [
        (1, 1, "firing", 3),
        (2, 1, "firing", 2),
        (2, 2, "resolved", 3),
        (3, 1, "firing", 3),
        (3, 2, "resolved", 3),
        (4, 1, "firing", 3),
        (4, 2, "repeat", 2),
        (5, 1, "firing", 0),
        (6, 1, "firing", 3),
        (6, 2, "escalated", 3),
    ] {
        past(&db, incident, seq, kind, state).await;
    }
    assert!(claim(&db, 10).await.is_empty(), "nothing is due");
    assert!(db.store.outbox_probe("mail").await.expect("probe"));
    let probe = claim(&db, 10).await;
    assert_eq!(probe.len(), 1, "one is tried");
    assert!(db.store.outbox_park(&probe[0], "401").await.expect("park"));
    assert_eq!(db.store.outbox_heal("mail").await.expect("heal"), 3);
    let mut due = names(&claim(&db, 10).await);
    due.sort();
    let want = [("01", 1), ("02", 2), ("05", 1), ("06", 2)];
    assert_eq!(due, want.map(|(n, seq)| (n.to_owned(), seq)));
    assert_eq!(db.store.outbox_heal("other").await.expect("heal"), 0);
    assert!(!db.store.outbox_probe("other").await.expect("probe"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_lists_what_was_not_sent_and_queues_it_again() {
    let db = Db::new().await;
    past(&db, 1, 1, "firing", 3).await;
    past(&db, 2, 1, "firing", 2).await;
    past(&db, 3, 1, "firing", 4).await;
    past(&db, 4, 1, "firing", 0).await;
    let which = Which {
        sink: Some("mail".into()),
        limit: 10,
        ..Which::default()
    };
    let listed = db.store.outbox_list(&which).await.expect("list");
    let states: Vec<_> = listed.iter().map(|r| r.state.as_str()).collect();
    assert_eq!(states, ["parked", "pending"]);
    let retry = async |which: Which| db.store.outbox_retry(&which, "alice").await.expect("retry");
    let one = Which {
        incident: Some(Hash16(3u128.to_be_bytes())),
        states: vec![2, 4],
        ..which.clone()
    };
    assert_eq!(retry(one).await, 1, "what was sent is not sent again");
    assert_eq!(retry(which).await, 3);
    assert_eq!(claim(&db, 10).await.len(), 3);
    let log = db.text("SELECT string_agg(detail ->> 'rows', ' ' ORDER BY id) FROM vw.action_log WHERE action = 'outbox retry'").await;
    assert_eq!(log, "1 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_workers_never_hold_the_same_row() {
    let db = Db::new().await;
    for incident in 0..60 {
        for seq in 1..=3 {
            queue(
                &db,
                incident,
                seq,
                i16::try_from(incident % 5).expect("small"),
            )
            .await;
        }
    }
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let store = db.store.clone();
        tasks.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            let mut idle = 0;
            while idle < 20 {
                let rows = store
                    .outbox_claim("mail", 5, Severity::Informational)
                    .await
                    .expect("claim");
                idle = if rows.is_empty() { idle + 1 } else { 0 };
                for c in rows {
                    assert!(store.outbox_holds(&c).await.expect("holds"));
                    assert_eq!(store.outbox_sent(&c).await.expect("sent"), Marked::Done);
                    sent.push((c.key, c.seq));
                }
            }
            sent
        }));
    }
    let mut all = Vec::new();
    for t in tasks {
        all.extend(t.await.expect("task"));
    }
    assert_eq!(all.len(), 180);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 180);
    let disorder = "SELECT count(*) FROM vw.outbox a JOIN vw.outbox b USING (key, number, sink)
                     WHERE a.seq < b.seq AND a.finished_at > b.finished_at";
    assert_eq!(db.number(disorder).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f48_a_stopped_workers_stale_message_is_corrected() {
    let db = Db::new().await;
    queue(&db, 1, 1, 3).await;
    let slept = claim(&db, 1).await.remove(0);
    // It was stopped after claiming; its claim lapses and another sends the row and its successor.
    db.run("UPDATE vw.outbox SET claim_until = now() - interval '1 second'")
        .await;
    let second = claim(&db, 1).await.remove(0);
    assert!(!db.store.outbox_holds(&slept).await.expect("holds"));
    assert_eq!(
        db.store.outbox_sent(&second).await.expect("sent"),
        Marked::Done
    );
    // It wakes up behind its own check, sends, and marks: the present state is repeated, last.
    assert_eq!(
        db.store.outbox_sent(&slept).await.expect("sent"),
        Marked::Stale
    );
    let again = claim(&db, 10).await;
    assert_eq!(again.len(), 1);
    assert_eq!(
        (again[0].kind.as_str(), again[0].seq, again[0].dedup_key),
        ("repeat", 2, slept.dedup_key)
    );
    assert_eq!(again[0].payload["kind"], "repeat", "and it says so");
    assert!(
        !db.store
            .outbox_failed(&slept, Duration::ZERO, "late")
            .await
            .expect("failed")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worse_message_does_not_wait_for_the_pause_of_a_milder_one() {
    let db = Db::new().await;
    queue(&db, 1, 1, 3).await;
    let sending = claim(&db, 10).await;
    assert_eq!(names(&sending), [("01".to_owned(), 1)]);
    // While it is being sent, its incident gets worse; then the send fails.
    queue(&db, 1, 2, 4).await;
    assert!(
        claim(&db, 10).await.is_empty(),
        "not past a send that is under way"
    );
    let pause = Duration::from_mins(15);
    assert!(
        db.store
            .outbox_failed(&sending[0], pause, "hung")
            .await
            .expect("failed")
    );
    assert_eq!(names(&claim(&db, 10).await), [("01".to_owned(), 2)]);
    let states = "SELECT string_agg(state::text, ' ' ORDER BY seq) FROM vw.outbox";
    assert_eq!(db.text(states).await, "5 1");
    assert!(
        !db.store
            .outbox_failed(&sending[0], pause, "hung")
            .await
            .expect("failed"),
        "gone"
    );
    // What is not worse waits behind it: order is kept.
    queue(&db, 2, 1, 4).await;
    let sending = claim(&db, 10).await;
    queue(&db, 2, 2, 3).await;
    assert!(
        db.store
            .outbox_failed(&sending[0], pause, "hung")
            .await
            .expect("failed")
    );
    assert!(claim(&db, 10).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_opens_nothing_again_that_is_over() {
    let db = Db::new().await;
    // 1: parked, then resolved. 2: parked, and that is the last word. 3: neither beginning nor end was told.
    for (incident, seq, kind, state) in [
        (1, 1, "firing", 3),
        (1, 2, "resolved", 2),
        (2, 1, "firing", 3),
        (3, 1, "firing", 3),
        (3, 2, "resolved", 3),
    ] {
        past(&db, incident, seq, kind, state).await;
    }
    let mail = Which {
        sink: Some("mail".into()),
        ..Which::default()
    };
    let retry = async |which: &Which| db.store.outbox_retry(which, "alice").await.expect("retry");
    assert_eq!(retry(&mail).await, 1);
    assert_eq!(names(&claim(&db, 10).await), [("02".to_owned(), 1)]);
    let all = Which {
        overtaken: true,
        ..mail
    };
    assert_eq!(retry(&all).await, 3);
}
