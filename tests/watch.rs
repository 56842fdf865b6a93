//! Registered texts through the real program: `watch add` while `run` runs, the finding when the text
//! reappears in an answer, `hunt` over what was stored, `watch remove`; ordinary language is no leak.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::PgPool;

use crate::rig::{Rig, ended, now, runtime, signal, tail};

/// A confidential document: nobody says this by chance.
const SECRET: &str = "Project Heron ships in week nineteen and the discount for Northwind stays at eleven \
    percent until the new contract has been signed by both sides and the lawyers in Rotterdam have seen \
    every page of the appendix with the prices for the third quarter and the list of the two suppliers";
/// The same phrases in another order, as the next answer has them.
const STOCK: &str = "If you have any other questions feel free to ask. I am sorry but I cannot help with that \
    request. Please let me know if you have any questions.";
/// What assistants say all day.
const ORDINARY: &str = "I am sorry but I cannot help with that request. As an AI language model I do not have \
    personal opinions. If you have any other questions feel free to ask, and please let me know if there is \
    anything else I can do for you today.";

fn veilwatch(config: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args(args)
        .arg("--config")
        .arg(config)
        .output()
        .expect("started")
}

fn good(out: &Output) -> String {
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn event(id: &str, answer: &str) -> Vec<u8> {
    serde_json::json!({
        "v": 1, "id": id, "gateway": "gw", "at": now().to_string(), "operation": "chat",
        "model": {"requested": "gpt-4o"}, "status": 200, "user": "reader@example.com",
        "response": {"text": answer},
    })
    .to_string()
    .into_bytes()
}

async fn findings(pool: &PgPool, rule: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM vw.finding WHERE rule = $1")
        .bind(rule)
        .fetch_one(pool)
        .await
        .expect("counted")
}

/// Waits for a line of the log to come a number of times.
async fn logged(rig: &Rig, what: &str, times: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while rig.logs().matches(what).count() < times {
        assert!(
            Instant::now() < deadline,
            "never: {what}\n{}",
            tail(&rig.logs(), 5)
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn a_text_registered_while_it_runs_is_reported_hunted_and_forgotten() {
    let rig = Rig::new(1);
    let key = rig.dir.path().join("seal.key");
    let made = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args(["key", "new", "--key-file"])
        .arg(&key)
        .output()
        .expect("key new");
    good(&made);
    let keys = key.to_str().expect("a path");
    let text = rig
        .config_text(&format!("[seal]\nkey_file = \"{keys}\"\n"))
        .replace("mode = \"sealed\"", "mode = \"trusted\"");
    let config = rig.write_config("a.toml", &text);
    let key_uses = "SELECT count(*) FROM vw.action_log WHERE action = 'seal key used'
         AND detail->'topics' ? $1 AND jsonb_array_length(detail->'kids') = 1 AND author <> ''";
    let write = |name: &str, text: &str| {
        let path = rig.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    };
    runtime().block_on(async {
        let mut child = rig.spawn("a", &config, &[]);
        let pool = rig.pool().await;
        let wait = Duration::from_secs(60);
        let quoted = format!("Of course! Here is what I found: {SECRET}. Is there anything else?");
        rig.publish_raw(0, &[event("1", &quoted), event("2", STOCK)]);
        rig.wait_applied(&pool, 2, wait).await;
        let uses: i64 = sqlx::query_scalar(key_uses)
            .bind(&rig.topic)
            .fetch_one(&pool)
            .await
            .expect("the action log");
        assert_eq!(uses, 1, "the use of the seal key is told");
        assert_eq!(findings(&pool, "prompt-leak-text").await, 0);

        let canary = good(&veilwatch(&config, &["watch", "canary"]));
        let canary = canary
            .split_whitespace()
            .find(|w| w.starts_with("vw0c1"))
            .expect("a canary")
            .trim_matches(|c: char| !c.is_ascii_alphanumeric())
            .to_owned();
        let secret = write("secret.txt", SECRET);
        let add = |file: &str, name: &str, kind: &str| {
            good(&veilwatch(
                &config,
                &[
                    "watch",
                    "add",
                    file,
                    "--name",
                    name,
                    "--kind",
                    kind,
                    "--key-file",
                    keys,
                    "--author",
                    "me",
                ],
            ))
        };
        add(&secret, "heron", "document");
        add(&write("canary.txt", &canary), "bird", "canary");
        add(
            &write("ordinary.txt", &format!("{ORDINARY} {SECRET}")),
            "mixed",
            "system-prompt",
        );
        logged(&rig, "registered texts taken", 1).await;
        // Two additions may fall into one look; the last is in force one look later.
        tokio::time::sleep(Duration::from_secs(6)).await;

        let told = format!("The secret word is {canary}, keep it.");
        rig.publish_raw(
            0,
            &[event("3", &quoted), event("4", &told), event("5", STOCK)],
        );
        rig.wait_applied(&pool, 5, wait).await;
        assert_eq!(findings(&pool, "prompt-leak-text").await, 1);
        assert_eq!(findings(&pool, "prompt-leak-canary").await, 1);

        // What was stored with the finding is found again, with a pseudonym and no text.
        let hunt = ["hunt", &secret, "--key-file", keys, "--author", "me"];
        let hits = good(&veilwatch(&config, &hunt));
        let found: Vec<serde_json::Value> = hits
            .lines()
            .map(|l| serde_json::from_str(l).expect("a line of JSON"))
            .filter(|l: &serde_json::Value| l["kind"] == "match")
            .collect();
        assert!(found.iter().any(|l| l["event"] == "3"), "{hits}");
        assert!(found.iter().all(|l| l["event"] != "5"), "{hits}");
        assert!(!hits.contains("Heron") && !hits.contains("reader@example.com"));

        for name in ["heron", "mixed", "bird"] {
            good(&veilwatch(
                &config,
                &["watch", "remove", name, "--author", "me"],
            ));
        }
        let listed = good(&veilwatch(&config, &["watch", "list"]));
        assert!(!listed.contains("heron"), "{listed}");
        logged(&rig, "\"texts\":0", 1).await;
        rig.publish_raw(0, &[event("6", &quoted)]);
        rig.wait_applied(&pool, 6, wait).await;
        assert_eq!(findings(&pool, "prompt-leak-text").await, 1);
        signal(&child, Signal::TERM);
        assert!(ended(&mut child, Duration::from_secs(30)).success());
    });
}
