//! F12 on the whole path: a topic is made anew while the database stays.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::postgres::PgPool;
use veilwatch::ingest::broker::EmbeddedBroker;

use crate::rig::{Broker, Rig, TOPIC, ended, runtime, signal, small, tail};

const STOPPED: Duration = Duration::from_secs(45);

/// Ids of events with a finding.
async fn found(pool: &PgPool) -> BTreeSet<String> {
    sqlx::query_scalar("SELECT event_id FROM vw.finding WHERE event_id IS NOT NULL")
        .fetch_all(pool)
        .await
        .expect("findings")
        .into_iter()
        .collect()
}

async fn wait(pool: &PgPool, rig: &Rig, what: &str, query: &str, n: i64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let at: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()))
            .fetch_one(pool)
            .await
            .unwrap_or(-1);
        if at == n {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {at}, not {n}\n{}",
            tail(&rig.logs(), 30)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn f12_users_are_judged_in_a_topic_made_anew_and_its_rows_are_kept() {
    let mut rig = Rig::new(1);
    runtime().block_on(async {
        let config = rig.write_config("a.toml", &rig.config_text(""));
        let mut workload = small(61, 1);
        rig.publish(&mut workload, 600);
        let mut a = rig.spawn("a", &config, &[]);
        let pool = rig.pool().await;
        let next = "SELECT coalesce(sum(next_offset), 0)::bigint FROM vw.stream_partition";
        wait(&pool, &rig, "first", next, 600).await;
        // Checkpoints are due each second and with records only.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        rig.publish(&mut workload, 20);
        wait(&pool, &rig, "second", next, 620).await;
        let rows = "SELECT count(*) FROM vw.user_state WHERE as_of > 400";
        assert!(
            sqlx::query_scalar::<_, i64>(rows)
                .fetch_one(&pool)
                .await
                .expect("asked")
                > 0,
            "users' rows are written"
        );
        signal(&a, Signal::TERM);
        assert!(ended(&mut a, STOPPED).success());
        let before = found(&pool).await;

        // The same topic, made anew and shorter; the same users.
        let anew = EmbeddedBroker::start(&[(TOPIC.into(), 1)]).expect("broker");
        rig.broker = Broker::Embedded(anew);
        let text = rig
            .config_text("")
            .replace("[ingest]", "[ingest]\naccept_truncation = true");
        let config = rig.write_config("b.toml", &text);
        let mut again = small(62, 1);
        let with_findings = rig.publish(&mut again, 400);
        let mut b = rig.spawn("b", &config, &[]);
        wait(&pool, &rig, "anew", next, 400).await;
        let gap: (i64, i64, String) = sqlx::query_as("SELECT lo, hi, reason FROM vw.stream_gap")
            .fetch_one(&pool)
            .await
            .expect("a gap");
        assert_eq!(gap, (620, 0, "truncated".to_owned()));
        let new = found(&pool).await.difference(&before).count();
        assert!(
            new >= with_findings && with_findings > 0,
            "{new} events have findings, at least {with_findings} must"
        );
        // What is written now takes the place of rows with larger offsets.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        rig.publish(&mut again, 20);
        wait(&pool, &rig, "on", next, 420).await;
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM vw.user_state WHERE as_of = 420")
            .fetch_one(&pool)
            .await
            .expect("asked");
        assert!(kept > 0, "no row of a user was taken");

        // A place behind the end is refused: what comes there later would be lost.
        let skip = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args(["offsets", "skip", "--topic", TOPIC, "--partition", "0"])
            .args(["--from", "420", "--to", "9000", "--reason", "a slip"])
            .arg("--config")
            .arg(&config)
            .output()
            .expect("ran");
        let said = String::from_utf8_lossy(&skip.stderr);
        assert!(!skip.status.success(), "{said}");
        assert!(
            said.contains("behind the end") && said.contains("420"),
            "{said}"
        );
        signal(&b, Signal::TERM);
        assert!(ended(&mut b, STOPPED).success());
    });
}
