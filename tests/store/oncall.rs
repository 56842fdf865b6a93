//! What the engineer on call runs: `doctor`, `explain`, `top`, as commands on a real database.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use veilwatch::decide::Routes;
use veilwatch::ingest::broker::EmbeddedBroker;
use veilwatch::store::{NotifierTask, schema};

use super::*;
use crate::postgres::{self, Db};

/// Exit code, standard output, standard error.
fn veilwatch(args: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_veilwatch"))
        .args(args)
        .output()
        .expect("runs");
    let text = |b: Vec<u8>| String::from_utf8(b).expect("utf-8");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}")))
        .collect()
}

struct Doctor {
    dir: tempfile::TempDir,
    broker: EmbeddedBroker,
}

impl Doctor {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("folder"),
            broker: EmbeddedBroker::start(&[("e".into(), 2)]).expect("broker"),
        }
    }

    fn write(&self, name: &str, mode: u32, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        path.to_string_lossy().into_owned()
    }

    fn config(&self, topic: &str, url: &str, more: &str) -> String {
        let text = format!(
            "[ingest]\nbrokers = \"{}\"\ntopics = [{{ name = \"{topic}\", mode = \"sealed\" }}]\n\
             [store]\nurl = \"{url}\"\n[http]\nlisten = \"127.0.0.1:0\"\n{more}",
            self.broker.address()
        );
        self.write("veilwatch.toml", 0o600, &text)
    }

    /// The checks by name: state, detail and remedy in one.
    fn ask(config: &str) -> (Option<i32>, BTreeMap<String, String>) {
        let (code, out, err) = veilwatch(&["doctor", "--config", config, "--format", "json"]);
        assert_eq!(err, "");
        let mut checks = BTreeMap::new();
        for c in lines(&out) {
            let part = |k: &str| c[k].as_str().unwrap_or_default().to_owned();
            let said = format!("{} {} -> {}", part("state"), part("detail"), part("remedy"));
            checks.insert(part("check"), said);
        }
        (code, checks)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_healthy_place_healthy_and_names_what_is_not() {
    let db = Db::new().await;
    let url = postgres::server().url(&db.name);
    let d = Doctor::new();
    let log = "[[deliver.sink]]\nname = \"log\"\nkind = \"stdout\"\n";
    let (code, mut checks) = Doctor::ask(&d.config("e", &url, log));
    // The tests' server gives up durability for speed, and doctor says so.
    let durability = checks.remove("postgres durability").expect("said");
    assert!(durability.starts_with("wrong off: fsync"), "{durability}");
    assert_eq!(code, Some(1));
    for check in [
        "config",
        "rules",
        "postgres",
        "postgres schema",
        "postgres rights",
        "clock",
        "topic e",
        "sink log",
        "http",
    ] {
        let said = checks
            .get(check)
            .unwrap_or_else(|| panic!("{check} of {checks:?}"));
        assert!(said.starts_with("ok "), "{check}: {said}");
    }
    assert!(checks.values().all(|s| s.starts_with("ok ")), "{checks:?}");

    // A receiver hears of a question, and nothing of the secret path.
    let hook = TcpListener::bind("127.0.0.1:0").expect("port");
    let address = hook.local_addr().expect("address");
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = hook.accept().expect("asked");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("line");
        stream
            .write_all(b"HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n")
            .expect("answer");
        line
    });
    let secret = d.write("hook.secret", 0o600, "squirrel-squirrel-squirrel-1");
    let sinks = format!(
        "[[deliver.sink]]\nname = \"up\"\nkind = \"webhook\"\nurl = \"http://{address}/squirrel\"\nsecret_file = \"{secret}\"\n\
         [[deliver.sink]]\nname = \"down\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/x\"\nsecret_file = \"{secret}\"\n"
    );
    let (code, checks) = Doctor::ask(&d.config("missing", &url, &sinks));
    assert_eq!(code, Some(1));
    assert!(checks["sink up"].starts_with("ok "), "{checks:?}");
    assert_eq!(heard.join().expect("heard"), "HEAD / HTTP/1.1\r\n");
    for (check, state, said) in [
        ("sink down", "wrong", "cannot connect"),
        ("topic missing", "wrong", "does not exist"),
    ] {
        let found = &checks[check];
        assert!(
            found.starts_with(state) && found.contains(said),
            "{check}: {found}"
        );
    }
    assert!(
        checks["files"].starts_with("ok 1 with secrets"),
        "{checks:?}"
    );
    assert!(!format!("{checks:?}").contains("squirrel"), "{checks:?}");

    // A secret that everybody may read is refused with the configuration.
    d.write("hook.secret", 0o644, "squirrel-squirrel-squirrel-1");
    let (code, checks) = Doctor::ask(&d.config("missing", &url, &sinks));
    assert_eq!(code, Some(1));
    assert!(format!("{checks:?}").contains("chmod 600"), "{checks:?}");
    assert!(!format!("{checks:?}").contains("squirrel-"), "{checks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_missing_rights_and_a_wrong_configuration() {
    let db = Db::new().await;
    schema::apply_roles(db.store.config()).await.expect("roles");
    let name = &db.name;
    db.run(&format!(
        "CREATE ROLE none_{name} LOGIN PASSWORD 'squirrel'; CREATE ROLE some_{name} LOGIN PASSWORD 'squirrel' IN ROLE veilwatch_writer;
         CREATE ROLE all_{name} LOGIN PASSWORD 'squirrel' IN ROLE veilwatch_writer, veilwatch_notify, veilwatch_retention"
    ))
    .await;
    let d = Doctor::new();
    for (role, state, says) in [
        ("none", "wrong", "GRANT veilwatch_writer"),
        ("some", "wrong", "DELETE on vw.outbox"),
        ("all", "ok", "may do what"),
    ] {
        let url = postgres::server().url_as(&format!("{role}_{name}"), "squirrel", name);
        let config = d.config("e", &url, "");
        std::fs::set_permissions(Path::new(&config), std::fs::Permissions::from_mode(0o644))
            .expect("mode");
        let (code, checks) = Doctor::ask(&config);
        assert_eq!(code, Some(1));
        let found = &checks["postgres rights"];
        assert!(
            found.starts_with(state) && found.contains(says),
            "{role}: {found}"
        );
        assert!(
            checks["file config"].contains("everybody may read it"),
            "{checks:?}"
        );
        assert!(checks["sinks"].starts_with("warn "), "{checks:?}");
        assert!(!format!("{checks:?}").contains("squirrel"), "{checks:?}");
    }
    let wrong = d.write("wrong.toml", 0o600, "[ingest]\nbroker = \"x\"\n");
    let (code, out, _) = veilwatch(&["doctor", "--config", &wrong]);
    assert_eq!(code, Some(1));
    assert!(lines(&out).len() >= 3, "all mistakes: {out}");
    let (code, _, err) = veilwatch(&["doctor", "--config", "/nowhere/veilwatch.toml"]);
    assert_eq!(code, Some(3), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_saw_it_on_what_it_rests_and_who_was_told() {
    let db = Db::new().await;
    let url = postgres::server().url(&db.name);
    let mut owner = Owner::claim(&db.store, 0).await;
    let mut notifier = NotifierTask::new(
        db.store.clone(),
        Routes::single(vec![SmolStr::new("mail"), SmolStr::new("pager")]),
    );
    for event in ["e1", "e2"] {
        let mut b = owner.batch(1);
        b.effects
            .findings
            .push(finding(1, event, NOON, Severity::High));
        owner.commit(&db.store, b).await;
    }
    db.run(&format!(
        "INSERT INTO vw.event (day, topic, part, off, id, gateway, user_id, model, end_at, sealed)
         VALUES ('2026-11-21', 'events', 0, 1, 'e2', 'gw1', '{}', 'gpt', now(),
                 '{{\"response\": {{\"chars\": 12, \"hits\": [{{\"rule\": \"pii-us-ssn\", \"n\": 3}}]}}}}')",
        user(1)
    ))
    .await;
    assert_eq!(notifier.tick().await.expect("tick").queued, 2);
    let row = db
        .store
        .outbox_claim("mail", 1, Severity::Low)
        .await
        .expect("claim")
        .remove(0);
    db.store.outbox_sent(&row).await.expect("sent");
    let id = row.key.to_string();

    let (code, out, err) =
        veilwatch(&["explain", &id[..8], "--database", &url, "--format", "json"]);
    assert_eq!((code, &*err), (Some(0), ""));
    let e = &lines(&out)[0];
    assert_eq!(e["incident"]["incident"], id.as_str());
    assert_eq!(e["rules"][0]["rule"], "leak-pii");
    assert_eq!(
        (&e["rules"][0]["findings"], &e["rules"][0]["users"]),
        (&2.into(), &1.into())
    );
    assert_eq!(e["stored_events"][0]["event"], "e2");
    assert_eq!(e["stored_events"][0]["record"], "events/0@1");
    assert_eq!(e["about"][0]["runbook"], "leak.md");
    let told: Vec<&str> = e["told"]
        .as_array()
        .expect("told")
        .iter()
        .filter_map(|t| t["sink"].as_str())
        .collect();
    assert_eq!(told, ["mail", "pager"]);
    let states: Vec<&str> = e["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .filter_map(|m| m["state"].as_str())
        .collect();
    assert_eq!(states, ["sent", "pending"]);

    let (_, text, _) = veilwatch(&["explain", &id, "--database", &url, "--format", "text"]);
    for part in [
        "what saw it",
        "2 findings in 2 events of 1 user,",
        "runbook leak.md",
        "response: 12 characters; pii-us-ssn ×3",
        "who was told, and why",
        "a message of its own",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
    let (code, out, _) = veilwatch(&["explain", "--event", "e2", "--database", &url]);
    assert_eq!(code, Some(0));
    assert_eq!(lines(&out)[0]["findings"][0]["incident"], id.as_str());
    let (code, _, err) = veilwatch(&["explain", "--event", "none", "--database", &url]);
    assert!(code == Some(1) && err.contains("store.events"), "{err}");
    let (code, _, err) = veilwatch(&["explain", &id, "--number", "9", "--database", &url]);
    assert!(code == Some(1) && err.contains("no such number"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn top_orders_by_spend_and_by_findings() {
    let db = Db::new().await;
    let url = postgres::server().url(&db.name);
    db.run(&format!(
        "INSERT INTO vw.ledger SELECT w, s, vw.period_name(k, now() - d), e, e, e, c::numeric * 1e12, 0, u, 0, 0
           FROM (VALUES (0, '{a}', 'd', interval '0', 5, 3, 1), (0, '{b}', 'd', interval '0', 7, 9, 0),
                        (0, '{b}', 'd', interval '9 days', 7, 900, 0), (4, 'gpt', 'h', interval '0', 12, 12, 0),
                        (4, 'gpt', 'h', interval '3 hours', 1, 1, 0), (3, 'acme', 'd', interval '0', 1, 1, 0)) v (w, s, k, d, e, c, u);
         INSERT INTO vw.finding (day, id, detector, rule, version, severity, stage, fate, tenant, subject, happened_at, start_at,
                                 end_at, user_id, model, reason)
         SELECT (now() AT TIME ZONE 'UTC')::date, gen_random_uuid(), 'leak', 'leak-pii', 1, 3, s, 'new', 'acme', '', now(), now(),
                now(), '{a}', 'gpt', '' FROM generate_series(0, 2) s",
        a = user(1),
        b = user(2)
    ))
    .await;
    let top = |args: &[&str]| {
        let (code, out, err) = veilwatch(&[&["top", "--database", &url], args].concat());
        assert_eq!((code, &*err), (Some(0), ""));
        lines(&out)
    };
    let rows = top(&[]);
    let line = |r: &Value| {
        let n = |k: &str| r[k].as_f64().unwrap_or(-1.0);
        let s = |k: &str| r[k].as_str().unwrap_or("-").to_owned();
        (
            s("scope"),
            s("subject"),
            n("cost_usd"),
            n("findings"),
            n("pages"),
            s("worst"),
        )
    };
    let (one, two) = (user(1).to_string(), user(2).to_string());
    let row = |scope: &str, subject: &str, usd: f64, findings: f64, pages: f64, worst: &str| {
        (
            scope.to_owned(),
            subject.to_owned(),
            usd,
            findings,
            pages,
            worst.to_owned(),
        )
    };
    assert_eq!(
        rows.iter().map(line).collect::<Vec<_>>(),
        [
            row("user", &two, 9.0, 0.0, 0.0, "-"),
            row("user", &one, 3.0, 2.0, 1.0, "high"),
            row("model", "gpt", 13.0, 2.0, 1.0, "high"),
            row("tenant", "acme", 0.0, 2.0, 1.0, "high"),
        ]
    );
    assert_eq!(rows[1]["uncosted_events"], 1);
    let found = top(&["--of", "user", "--by", "findings", "--limit", "1"]);
    assert_eq!(found[0]["subject"], one.as_str());
    let month = top(&["--of", "user", "--for", "20d", "--limit", "1"]);
    assert_eq!(month[0]["cost_usd"], 909.0);
    let hour = top(&["--of", "model", "--for", "1h"]);
    assert_eq!(hour[0]["cost_usd"], 12.0);
    let (_, text, _) = veilwatch(&["top", "--database", &url, "--format", "text"]);
    assert!(
        text.starts_with("users of the last 1d\nSUBJECT")
            || text.starts_with("users of the last 24h\nSUBJECT"),
        "{text}"
    );
}
