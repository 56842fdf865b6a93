//! The audit chain: every tampering is found and named.

use veilwatch::store::audit::{Head, Verified};

use super::*;
use crate::postgres::Db;

/// Ten batches of ten records on partition 0, five on partition 1.
async fn chain() -> Db {
    let db = Db::new().await;
    for (partition, batches) in [(0, 10), (1, 5)] {
        let mut owner = Owner::claim(&db.store, partition).await;
        for _ in 0..batches {
            let b = owner.batch(10);
            owner.commit(&db.store, b).await;
        }
    }
    db
}

async fn verify(db: &Db, heads: &[Head]) -> Vec<Verified> {
    db.store.audit_verify(heads).await.expect("verify")
}

/// The offset of the first bad batch of partition 0; partition 1 must hold.
async fn broken(db: &Db, heads: &[Head]) -> Option<i64> {
    let v = verify(db, heads).await;
    assert_eq!(v[1].broken, None);
    v[0].broken.as_ref().map(|b| b.offset)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_chain_holds() {
    let db = chain().await;
    let heads = db.store.audit_heads().await.expect("heads");
    let v = verify(&db, &heads).await;
    assert_eq!(
        (v[0].batches, v[0].records, v[0].from, v[0].to, v[0].heads),
        (10, 100, 0, 100, 1)
    );
    assert_eq!(broken(&db, &heads).await, None);
    // More batches after the export: the exported head stands within.
    let mut owner = Owner::claim(&db.store, 0).await;
    let b = owner.batch(3);
    owner.commit(&db.store, b).await;
    assert_eq!(broken(&db, &heads).await, None);
    // Skipped records are a gap that is accounted for.
    assert!(
        db.store
            .skip_offsets(&tp(0), 103, 110, "too large", "ops")
            .await
            .expect("skip")
    );
    assert!(
        !db.store
            .skip_offsets(&tp(0), 103, 110, "again", "ops")
            .await
            .expect("skip")
    );
    assert_eq!(broken(&db, &heads).await, None);
    let mut owner = Owner::claim(&db.store, 0).await;
    assert_eq!(owner.next, 110);
    let b = owner.batch(3);
    owner.commit(&db.store, b).await;
    let v = verify(&db, &heads).await;
    assert_eq!((v[0].broken.as_ref(), v[0].gaps), (None, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found() {
    for column in ["h", "prev", "seal"] {
        let db = chain().await;
        db.run(&format!(
            "UPDATE vw.audit_batch SET {column} = set_byte({column}, 3, get_byte({column}, 3) # 1) WHERE part = 0 AND lo = 40"
        ))
        .await;
        assert_eq!(broken(&db, &[]).await, Some(40), "{column}");
    }
    let db = chain().await;
    db.run("UPDATE vw.audit_batch SET n = 9 WHERE part = 0 AND lo = 40")
        .await;
    assert_eq!(broken(&db, &[]).await, Some(40), "a count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_row_is_found() {
    let db = chain().await;
    db.run("DELETE FROM vw.audit_batch WHERE part = 0 AND lo = 40")
        .await;
    assert_eq!(broken(&db, &[]).await, Some(40));
    // Also the last: the partition's row tells.
    let db = chain().await;
    db.run("DELETE FROM vw.audit_batch WHERE part = 0 AND lo = 90")
        .await;
    assert_eq!(broken(&db, &[]).await, Some(90));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_beginning_is_caught_by_an_exported_head() {
    let db = Db::new().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    let genesis = db.store.audit_heads().await.expect("heads");
    let mut heads = Vec::new();
    for batch in 1..=10 {
        let b = owner.batch(10);
        owner.commit(&db.store, b).await;
        if batch == 5 || batch == 6 {
            heads.extend(db.store.audit_heads().await.expect("heads"));
        }
    }
    let mut other = Owner::claim(&db.store, 1).await;
    let b = other.batch(10);
    other.commit(&db.store, b).await;
    assert!(heads.iter().all(|h| h.day.is_some()));
    assert_eq!(broken(&db, &heads).await, None);
    db.run("DELETE FROM vw.audit_batch WHERE part = 0 AND lo < 60")
        .await;
    assert_eq!(
        broken(&db, &[]).await,
        None,
        "without heads it looks like retention"
    );
    assert_eq!(broken(&db, &genesis).await, None, "nothing stood there yet");
    assert_eq!(broken(&db, &heads).await, Some(50));
    // The row that is left continues the second head, and only that.
    assert_eq!(broken(&db, &heads[1..]).await, None);
    let mut forged = heads[1].clone();
    forged.seal = "00".repeat(32);
    assert_eq!(broken(&db, &[forged]).await, Some(60));
    // What retention drops breaks nothing: the head says under which day it stood.
    let mut old = heads[0].clone();
    let now = db.store.now().await.expect("now");
    let ago = |days: i64| {
        let day = now.minus_ms(days * 86_400_000).to_string();
        Some(SmolStr::new(&day[..10]))
    };
    old.day = ago(401);
    assert_eq!(broken(&db, &[old.clone()]).await, None);
    old.day = ago(400);
    assert_eq!(broken(&db, &[old]).await, Some(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_swapped_rows_are_found() {
    let db = chain().await;
    db.run(
        "UPDATE vw.audit_batch a SET h = b.h, prev = b.prev, seal = b.seal FROM vw.audit_batch b
          WHERE a.part = 0 AND b.part = 0 AND a.lo IN (30, 60) AND b.lo = 90 - a.lo",
    )
    .await;
    assert_eq!(broken(&db, &[]).await, Some(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_tail_is_caught_by_an_exported_head() {
    let db = chain().await;
    let heads = db.store.audit_heads().await.expect("heads");
    db.run("DELETE FROM vw.audit_batch WHERE part = 0 AND lo >= 70")
        .await;
    assert_eq!(
        broken(&db, &[]).await,
        Some(70),
        "the partition's row still tells"
    );
    // An administrator who also rewrites the partition's row.
    db.run(
        "UPDATE vw.stream_partition p SET next_offset = 70, chain = b.h, audit_seal = b.seal
           FROM vw.audit_batch b WHERE p.part = 0 AND b.part = 0 AND b.lo = 60",
    )
    .await;
    assert_eq!(
        broken(&db, &[]).await,
        None,
        "a chain alone cannot show this"
    );
    let v = verify(&db, &heads).await;
    let said = v[0].broken.as_ref().expect("caught");
    assert_eq!(said.offset, 100);
    assert!(
        said.problem.contains("not in the chain"),
        "{}",
        said.problem
    );
}

/// The gap of a topic made anew: offsets go back to 0, the row covers no record.
async fn truncated(db: &Db, owner: &mut Owner) {
    let mut b = owner.batch(0);
    b.hi = 0;
    b.chain_head = owner.head;
    b.gaps.push(veilwatch::store::GapRow {
        lo: owner.next,
        hi: 0,
        reason: SmolStr::new("truncated"),
    });
    owner.commit(&db.store, b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legal_acts_break_no_chain() {
    let db = chain().await;
    let old = db.store.audit_heads().await.expect("heads");
    // Two skips, one after the other, without a batch between them.
    for (from, to) in [(100, 110), (110, 125)] {
        let at = tp(0);
        let skipped = db.store.skip_offsets(&at, from, to, "too large", "ops");
        assert!(skipped.await.expect("skip"));
    }
    assert_eq!(
        broken(&db, &old).await,
        None,
        "the partition stands past two skips"
    );
    let mut owner = Owner::claim(&db.store, 0).await;
    let b = owner.batch(5);
    owner.commit(&db.store, b).await;
    // The topic is made anew twice on one day, under one claim: the same offsets again.
    for _ in 0..2 {
        truncated(&db, &mut owner).await;
        for _ in 0..3 {
            let b = owner.batch(10);
            owner.commit(&db.store, b).await;
        }
    }
    // A batch that only says something (a halt) ends where the one before it ended.
    let mut b = owner.batch(0);
    b.chain_head = owner.head;
    owner.commit(&db.store, b).await;
    let new = db.store.audit_heads().await.expect("heads");
    let heads: Vec<Head> = old.iter().chain(&new).cloned().collect();
    let v = verify(&db, &heads).await;
    assert_eq!((v[0].broken.as_ref(), v[0].heads), (None, 2));
    assert_eq!(v[0].records, 100 + 5 + 60);
    assert_eq!(
        db.number("SELECT count(*) FROM vw.stream_gap WHERE part = 0")
            .await,
        4,
        "the second gap at offset 30 is one too"
    );
    let lost =
        "SELECT coalesce(sum(lost_records), 0)::bigint FROM completeness WHERE partition = 0";
    assert!(
        db.number(lost).await >= 0,
        "a gap that goes back takes nothing off"
    );
    // Going back without a gap is no legal act.
    db.run("DELETE FROM vw.stream_gap WHERE part = 0 AND reason = 'truncated'")
        .await;
    assert_eq!(broken(&db, &heads).await, Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_records_stands_on_the_day_of_those_before_it() {
    let db = chain().await;
    let mut owner = Owner::claim(&db.store, 0).await;
    // Right after a claim without a checkpoint nobody knows the time of the last record.
    let mut b = owner.batch(0);
    b.watermark = Time(0);
    b.hi += 7;
    b.chain_head = owner.head;
    b.gaps.push(veilwatch::store::GapRow {
        lo: b.lo,
        hi: b.hi,
        reason: SmolStr::new("retention"),
    });
    owner.commit(&db.store, b).await;
    let b = owner.batch(3);
    owner.commit(&db.store, b).await;
    assert_eq!(
        db.number("SELECT count(*) FROM vw.audit_batch_default")
            .await,
        0
    );
    assert_eq!(broken(&db, &[]).await, None);
}
