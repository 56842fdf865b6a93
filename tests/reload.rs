//! What changes while `run` is running: rules, taken whole, refused whole, counted; limits set by hand.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::PgPool;

use crate::planted::scrape;
use crate::rig::{Rig, ended, now, runtime, signal, tail};

/// A rule for a token that nobody has.
fn rule(id: &str, prefix: &str, level: &str) -> String {
    format!(
        r#"id: {id}
title: Example token
type: example
level: {level}
match:
  keywords: [{prefix}]
  regex: '\b{prefix}[A-Za-z0-9]{{24}}\b'
tests:
  - {{text: "{prefix}aB3dE5gH7jK9mN1pQ3sT5vX7", match: true}}
  - {{text: "{prefix}short", match: false}}
"#
    )
}

fn event(id: &str, prefix: &str) -> Vec<u8> {
    format!(
        r#"{{"v":1,"id":"{id}","gateway":"gw","at":"{}","operation":"chat","model":{{"requested":"gpt-4o"}},"status":200,"response":{{"text":"here: {prefix}aB3dE5gH7jK9mN1pQ3sT5vX7"}}}}"#,
        now()
    )
    .into_bytes()
}

async fn findings(pool: &PgPool, rule: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM vw.finding WHERE rule = $1")
        .bind(rule)
        .fetch_one(pool)
        .await
        .expect("counted")
}

/// Waits for a line of `/metrics`.
async fn until(rig: &Rig, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let log = rig.logs();
        let address = log.split("\"http\":\"").nth(1);
        if let Some(address) = address.and_then(|l| l.split('"').next())
            && scrape(address).await.lines().any(|l| l == line)
        {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "never: {line}\n{}",
            tail(&log, 5)
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("written");
}

#[test]
fn rules_change_while_it_runs_and_a_bad_set_keeps_the_old_one() {
    let rig = Rig::new(1);
    let rules = rig.dir.path().join("rules/secret");
    std::fs::create_dir_all(&rules).expect("created");
    write(&rules, "sec-one.yml", &rule("sec-one", "extokone_", "high"));
    let key = rig.dir.path().join("seal.key");
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args(["key", "new", "--key-file"])
        .arg(&key)
        .output()
        .expect("key new");
    assert!(made.status.success());
    let more = format!(
        "[seal]\nkey_file = \"{}\"\n[rules]\ndir = \"rules\"\n",
        key.display()
    );
    let text = rig
        .config_text(&more)
        .replace("mode = \"sealed\"", "mode = \"trusted\"");
    let config = rig.write_config("a.toml", &text);
    runtime().block_on(async {
        let mut child = rig.spawn("a", &config, &[]);
        let pool = rig.pool().await;
        let wait = Duration::from_secs(60);
        rig.publish_raw(0, &[event("1", "extokone_"), event("2", "extoktwo_")]);
        rig.wait_applied(&pool, 2, wait).await;
        assert_eq!(findings(&pool, "sec-one").await, 1);
        assert_eq!(findings(&pool, "sec-two").await, 0);

        // By file change: a set with a mistake changes nothing.
        let bad = rule("sec-two", "extoktwo_", "hihg");
        write(&rules, "sec-two.yml", &bad);
        until(&rig, "veilwatch_rule_reloads_total{outcome=\"refused\"} 1").await;
        rig.publish_raw(0, &[event("3", "extokone_"), event("4", "extoktwo_")]);
        rig.wait_applied(&pool, 4, wait).await;
        assert_eq!(findings(&pool, "sec-one").await, 2);
        assert_eq!(findings(&pool, "sec-two").await, 0);
        let log = rig.logs();
        assert!(log.contains("sec-two.yml:4"), "{}", tail(&log, 5));

        // By signal, at once: the mended set.
        write(
            &rules,
            "sec-two.yml",
            &rule("sec-two", "extoktwo_", "critical"),
        );
        signal(&child, Signal::HUP);
        until(&rig, "veilwatch_rule_reloads_total{outcome=\"taken\"} 1").await;
        rig.publish_raw(0, &[event("5", "extokone_"), event("6", "extoktwo_")]);
        rig.wait_applied(&pool, 6, wait).await;
        assert_eq!(findings(&pool, "sec-one").await, 3);
        assert_eq!(findings(&pool, "sec-two").await, 1);
        signal(&child, Signal::TERM);
        assert!(ended(&mut child, Duration::from_secs(30)).success());
    });
}

#[test]
fn a_limit_set_by_hand_counts_without_a_restart() {
    let rig = Rig::new(1);
    let config = rig.write_config("a.toml", &rig.config_text(""));
    let set = || {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_veilwatch"))
            .args(["budget", "set", "--scope", "everyone", "--period", "month"])
            .args(["--tokens", "1000", "--author", "test", "--format", "json"])
            .arg("--config")
            .arg(&config)
            .output()
            .expect("budget set");
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice::<serde_json::Value>(&out.stdout).expect("JSON")
    };
    runtime().block_on(async {
        let mut child = rig.spawn("a", &config, &[]);
        let pool = rig.pool().await;
        let wait = Duration::from_secs(60);
        let month = "SELECT coalesce(sum(events), 0)::bigint FROM vw.ledger WHERE width = 5 AND period LIKE 'm:%'";
        let number = async |sql| -> i64 { sqlx::query_scalar(sql).fetch_one(&pool).await.expect("counted") };
        let mut traffic = crate::rig::small(5, 1);
        rig.publish(&mut traffic, 30);
        rig.wait_applied(&pool, 30, wait).await;
        let said = set();
        assert!(said["counts_from"].is_string(), "the month has begun: {said}");
        let deadline = Instant::now() + wait;
        while !rig.logs().contains("budgets taken") {
            assert!(Instant::now() < deadline, "{}", tail(&rig.logs(), 5));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(number(month).await, 0);
        rig.publish(&mut traffic, 30);
        rig.wait_applied(&pool, 60, wait).await;
        assert_eq!(number(month).await, 30, "what came after, and all of it");
        assert_eq!(
            number("SELECT count(*) FROM vw.budget_crossing WHERE budget_id = 'everyone-each-month-tokens'").await,
            3
        );
        // The same limit again: the ledger is kept since the first.
        assert_eq!(set()["counts_from"], said["counts_from"]);
        signal(&child, Signal::TERM);
        assert!(ended(&mut child, Duration::from_secs(30)).success());
    });
}
