//! The whole path on real parts, compared with the single-threaded reference.

use std::collections::BTreeSet;
use std::time::Duration;

use veilwatch::ingest::Ended;
use veilwatch::pipeline::{self, build::Parts};
use veilwatch::telemetry::Health;

use crate::reference::{self, differences, merged_through, stored};
use crate::rig::{Rig, runtime, small};

const BUDGETS: &str = r#"
[[budget]]
scope = "user"
period = "day"
tokens = 20000
[[budget]]
scope = "tenant"
period = "hour"
usd = 0.05
[[budget]]
scope = "everyone"
period = "day"
tokens = 1000000
"#;

/// Compares what is stored with the reference; panics with every difference.
pub async fn judge(rig: &Rig, more: &str, panicking: &BTreeSet<(i32, i64)>) -> reference::Outcome {
    let pool = rig.pool().await;
    let config = rig.config(more);
    let parts = Parts::build(&config).expect("parts");
    let through = merged_through(&pool).await;
    let ingest = rig.ingest();
    let (topic, panicking) = (rig.topic.clone(), panicking.clone());
    let expected = tokio::task::spawn_blocking(move || {
        reference::work_out(
            &ingest,
            &topic,
            &parts.live.load().detect,
            &parts.live.load().books,
            &parts.budgets,
            through,
            &panicking,
        )
    })
    .await
    .expect("worked out");
    let found = stored(&pool).await;
    let wrong = differences(&expected, &found);
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong
            .iter()
            .take(20)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
    expected
}

#[test]
fn f15_f16_every_event_counts_once_and_everything_equals_the_reference() {
    let rig = Rig::new(4);
    let rt = runtime();
    rt.block_on(async {
        let mut workload = small(1, 4);
        rig.publish(&mut workload, 3_000);
        // F16: a gateway sends the same events again after a timeout.
        let again: Vec<Vec<u8>> = {
            let mut w = small(1, 4);
            let first = (0..50)
                .map(|_| w.next(crate::rig::now()))
                .filter(|e| e.partition == 0);
            first.map(|e| e.value.into_bytes()).collect()
        };
        rig.publish_raw(0, &again);
        // F35, F36: what cannot be decoded.
        let bad: Vec<Vec<u8>> = [
            "not json".into(),
            "[".repeat(10_000),
            r#"{"v":1,"id":7}"#.into(),
            r#"{"v":99}"#.into(),
            "{\"v\":1,\"id\":\"\u{0}\"}".into(),
        ]
        .into_iter()
        .map(String::into_bytes)
        .collect();
        rig.publish_raw(1, &bad);

        let health = Health::default();
        let running = pipeline::start(&rig.config(BUDGETS), health.clone())
            .await
            .expect("starts");
        let pool = rig.pool().await;
        let total = 3_000 + again.len() + bad.len();
        rig.wait_applied(
            &pool,
            i64::try_from(total).expect("fits"),
            Duration::from_secs(60),
        )
        .await;
        assert!(health.ready().0, "{}", health.ready().1);
        assert_eq!(running.stop().await, Ended::Stopped);
        let o = judge(&rig, BUDGETS, &BTreeSet::new()).await;
        assert_eq!(o.events, 3_000);
        assert_eq!(o.duplicates, again.len() as u64);
        assert_eq!(o.dead.len(), bad.len());
        assert!(o.findings.len() > 100 && !o.crossings.is_empty());
    });
}
