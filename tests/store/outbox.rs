//! The outbox: in order per incident and sink, most severe first, one worker at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use veilwatch::store::outbox::{Claimed, Marked};

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
    let due = db
        .store
        .outbox_next_due("mail")
        .await
        .expect("due")
        .expect("waits");
    assert!(due <= 60_000);
    // A parked row is finished: it does not hold later ones back.
    assert!(db.store.outbox_park(&first[0], "401").await.expect("park"));
    queue(&db, 2, 2, 3).await;
    assert_eq!(names(&claim(&db, 10).await), [("02".into(), 2)]);
    let backlog = db.store.outbox_backlog().await.expect("backlog");
    assert_eq!(backlog[0].by_state, [1, 2, 1, 1, 0, 0]);
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
    assert!(
        !db.store
            .outbox_failed(&slept, Duration::ZERO, "late")
            .await
            .expect("failed")
    );
}
