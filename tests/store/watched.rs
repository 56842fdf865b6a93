//! Registered texts, and the look back over stored sketches.

use veilwatch::decode::bare;
use veilwatch::detect::FlaggedEvent;
use veilwatch::event::{Position, Role, Side, Sketch};
use veilwatch::store::watched::{HuntFrom, WatchedRow};

use super::*;
use crate::postgres::Db;

fn row(name: &str, kid: &str) -> WatchedRow {
    WatchedRow {
        name: name.to_owned(),
        kind: "document".to_owned(),
        kid: kid.to_owned(),
        // The whole range of u64 must survive Postgres' signed integers.
        prints: vec![0, 7, u64::MAX],
        words: 40,
        author: "me".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_registered_replaced_and_forgotten_and_each_is_logged() {
    let db = Db::new().await;
    let store = &db.store;
    for r in [row("b", "k1"), row("a", "k2"), row("a", "k1")] {
        store.watch_text(&r).await.expect("registers");
    }
    let mut again = row("a", "k1");
    again.prints = vec![9];
    store.watch_text(&again).await.expect("replaces");
    let rows = store.watched().await.expect("reads");
    assert_eq!(rows, [again, row("a", "k2"), row("b", "k1")]);
    assert_eq!(store.unwatch_text("a", "you").await.expect("forgets"), 2);
    assert_eq!(store.unwatch_text("a", "you").await.expect("forgets"), 0);
    store
        .hunted("you", &["k1".to_owned()], 3)
        .await
        .expect("logs");
    let log: Vec<(String, String)> =
        sqlx::query_as("SELECT author, action FROM vw.action_log ORDER BY id")
            .fetch_all(&db.pool)
            .await
            .expect("log");
    let actions: Vec<_> = log.iter().map(|(_, a)| a.as_str()).collect();
    assert_eq!(
        actions,
        [
            "watch add",
            "watch add",
            "watch add",
            "watch add",
            "watch remove",
            "hunt"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hunt_reads_every_stored_event_once() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut b = owner.batch(5);
    for n in 0..5 {
        b.effects.flagged.push(FlaggedEvent {
            position: Position {
                offset: n,
                append: NOON,
            },
            end: NOON,
            event: bare::event(
                n.unsigned_abs(),
                Role::Assistant,
                Side::Response,
                Sketch::default(),
            ),
        });
    }
    owner.commit(&db.store, b).await;
    let day = chrono::DateTime::from_timestamp_millis(NOON.0)
        .expect("time")
        .date_naive();
    let (events, next) = db.store.hunt_page(&HuntFrom::day(day)).await.expect("page");
    assert_eq!(events.len(), 5);
    assert!(events.iter().all(|e| e.sealed.contains("line-")));
    let (rest, end) = db
        .store
        .hunt_page(&next.expect("more"))
        .await
        .expect("page");
    assert!(rest.is_empty() && end.is_none());
    let (later, _) = db
        .store
        .hunt_page(&HuntFrom::day(day + chrono::Days::new(1)))
        .await
        .expect("page");
    assert!(later.is_empty());
    db.store.events_since(day).await.expect("counts");
}
