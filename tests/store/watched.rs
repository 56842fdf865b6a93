//! Registered texts, and the look back over stored sketches.

use veilwatch::decode::bare;
use veilwatch::detect::{DetectConfig, Effects, FlaggedEvent, PartitionState};
use veilwatch::event::{Position, Previous, Role, Side, Sketch};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_is_seen_and_undone_and_is_not_believed_again() {
    let db = Db::new().await;
    let store = &db.store;
    let name = |kid: &str, n: u8| Pseudonym {
        kid: Kid::parse(kid).expect("kid"),
        mac: [n; 16],
    };
    let (new, old) = (name("k2", 1), name("k1", 2));
    db.run(&format!(
        "INSERT INTO vw.alias (new_id, old_id) VALUES ('{new}', '{old}'), ('{}', '{}')",
        name("k2", 3),
        name("k1", 4),
    ))
    .await;
    let (new_id, old_id) = (new.to_string(), old.to_string());
    for of in [&new_id, &old_id] {
        let rows = store.renamed(Some(of), 10).await.expect("listed");
        let rows: Vec<_> = rows.iter().map(|r| (&r.name, &r.counts_as)).collect();
        assert_eq!(rows, [(&new_id, &old_id)]);
    }
    assert_eq!(store.renamed(None, 10).await.expect("listed").len(), 2);
    assert_eq!(store.own_names().await.expect("asked"), []);

    assert!(store.unname(&new_id, "me", "forged").await.expect("undone"));
    assert!(!store.unname(&new_id, "me", "forged").await.expect("again"));
    assert!(
        !store
            .unname(&old_id, "me", "it has none")
            .await
            .expect("none")
    );
    assert_eq!(store.own_names().await.expect("asked"), [new]);
    let rows = store.renamed(Some(&new_id), 10).await.expect("listed");
    assert_eq!(rows[0].counts_as, new_id);
    let logged: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM vw.action_log WHERE action = 'alias remove' AND author = 'me' AND detail->>'counted_as' = $1",
    )
    .bind(&old_id)
    .fetch_one(&db.pool)
    .await
    .expect("asked");
    assert_eq!(logged, 1);

    // A process that remembers the old name learns of it; an event that claims it again is refused.
    let event = |id: &str| {
        let mut e = bare::event(1, Role::User, Side::Request, Sketch::default());
        e.id = id.into();
        e.user = Some(new);
        e.prev = Some(Previous {
            user: Some(old),
            api_key: None,
        });
        e
    };
    let mut state = PartitionState::new(Arc::new(DetectConfig::default()));
    let seen = |state: &mut PartitionState, offset: i64| {
        let mut out = Effects::default();
        let position = Position {
            offset,
            append: Time(offset),
        };
        let event = event(&offset.to_string());
        for (name, _) in state.unknown(std::iter::once(&event)) {
            state.load_alias(name, None);
        }
        let seen = state.observe(position, &event, None, &mut out);
        let told = out.findings.iter().map(|f| f.rule.to_string());
        (seen.expect("new").user, told.collect::<Vec<_>>())
    };
    assert_eq!(seen(&mut state, 1), (Some(old), vec![]));
    state.configure(Arc::new(DetectConfig {
        own_names: Arc::new([new].into()),
        ..DetectConfig::default()
    }));
    let refused = vec!["audit-alias-refused".to_owned()];
    assert_eq!(seen(&mut state, 2), (Some(new), refused.clone()));
    assert_eq!(seen(&mut state, 3), (Some(new), refused));
}
