//! What pages and what must not: streams of ordinary life and of trouble, through the whole core, on
//! which an earlier version was wrong.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use veilwatch::account::{Books, Prices};
use veilwatch::config::{self, Config, Source, no_env};
use veilwatch::decide::Titles;
use veilwatch::detect::Facts;
use veilwatch::event::Time;
use veilwatch::replay::{Line, Replay, Summary};
use veilwatch::rule::{Known, RuleSet};
use veilwatch::seal::{Keys, Sealer};

/// What every configuration here begins with.
const BASE: &str = "[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{ name = \"t\", mode = \"sealed\" }]\n\
    [store]\nurl = \"postgres://127.0.0.1/none\"\n[[deliver.sink]]\nname = \"out\"\nkind = \"stdout\"\n";

/// Every page and ticket to one sink, each incident at once.
const ROUTE: &str =
    "[[deliver.route]]\nsinks = [\"out\"]\nmin_stage = \"ticket\"\ngroup_wait = \"0s\"\n";

/// Replays events (seconds since midnight, event) in the order of their times.
fn replay(toml: &str, mut events: Vec<(f64, Value)>) -> (Vec<Line>, Summary) {
    let text = format!("{BASE}{toml}");
    let source = Source {
        text: &text,
        dir: Path::new("."),
        env: &no_env(),
    };
    let c = Config::parse(&source).expect("config");
    let facts = Facts::from_rules(&RuleSet::built_in(&Known::default()));
    let budgets = config::core::budgets(&c.budgets);
    let mut replay = Replay::new(
        config::core::detect(&c.detect, facts),
        Books::new(Prices::shipped(), &budgets),
        budgets,
        config::core::routes(&c.routing, &c.sinks, Titles::default()),
        Arc::new(Sealer::built_in(Keys::development())),
    );
    events.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (n, (_, event)) in events.iter().enumerate() {
        let mut event = event.clone();
        if event["id"].is_null() {
            event["id"] = json!(format!("e{n}"));
        }
        assert_eq!(replay.line(&event.to_string()), Ok(()), "{event}");
    }
    replay.finish();
    replay.output()
}

/// A Monday's midnight plus so many seconds.
fn at(seconds: f64) -> String {
    let midnight = Time::parse_rfc3339("2026-11-02T00:00:00Z").expect("a time");
    #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
    midnight.plus_ms((seconds * 1_000.0) as i64).to_string()
}

/// A pseudonym for a name.
fn who(name: &str) -> String {
    let mut mac = [0; 16];
    for (i, b) in name.bytes().enumerate() {
        mac[i % 16] = u8::wrapping_add(u8::wrapping_mul(mac[i % 16], 31), b);
    }
    mac[15] = mac[15].wrapping_add(1);
    veilwatch::event::Pseudonym {
        kid: veilwatch::event::Kid::parse("k7").expect("kid"),
        mac,
    }
    .to_string()
}

/// An ordinary call, with `more` on top.
fn call(seconds: f64, more: Value) -> (f64, Value) {
    let mut event = json!({
        "v": 1, "gateway": "gw", "at": at(seconds), "operation": "chat",
        "model": {"requested": "gpt-4o", "served": "gpt-4o-2024-08-06"}, "status": 200,
        "latency": {"total_ms": 500.0, "ttft_ms": 100.0},
        "usage": {"input": 100, "output": 50, "state": "final"},
    });
    let Value::Object(more) = more else {
        panic!("an object is expected")
    };
    for (k, v) in more {
        event[k] = v;
    }
    (seconds, event)
}

fn sketch(rule: &str, value: &str) -> Value {
    json!({"kid": "k7", "bytes": 100, "chars": 100, "words": 20,
           "hits": [{"rule": rule, "n": 1, "values": [who(value)]}]})
}

fn attack() -> Value {
    json!({"kid": "k7", "bytes": 100, "chars": 100, "words": 20, "digest": who("attack"),
           "hits": [{"rule": "inj-override-instructions", "n": 1}], "score": {"injection": 0.99}})
}

fn tokens(n: u64) -> Value {
    json!({"input": n, "output": 0, "state": "final"})
}

fn of<'a>(lines: &'a [Line], kind: &str, rule: &str) -> Vec<&'a Line> {
    let is = |l: &&Line| l.kind == kind && l.rule.as_deref().is_some_and(|r| r.starts_with(rule));
    lines.iter().filter(is).collect()
}

fn show(lines: &[Line]) -> String {
    lines.iter().fold(String::new(), |mut out, l| {
        let _ = writeln!(out, "{l:?}");
        out
    })
}

/// A card that A typed stands in the answers to five others.
fn card_of_another(system: bool) -> Vec<(f64, Value)> {
    let card = || sketch("pii-credit-card", "a card");
    let context = || {
        let mut part = card();
        part["role"] = json!("system");
        if system { json!([part]) } else { json!([]) }
    };
    let mut events = vec![call(
        0.0,
        json!({"user": who("A"), "context": context(), "request": card()}),
    )];
    for i in 0..5 {
        let user = who(&format!("B{i}"));
        events.push(call(
            600.0 + f64::from(i) * 60.0,
            json!({"user": user, "context": context(), "response": card()}),
        ));
    }
    events.push(call(1_800.0, json!({})));
    events
}

#[test]
fn a_value_of_the_system_prompt_belongs_to_nobody() {
    let (lines, _) = replay(ROUTE, card_of_another(true));
    assert!(lines.is_empty(), "{}", show(&lines));
    let (lines, _) = replay(ROUTE, card_of_another(false));
    assert_eq!(of(&lines, "finding", "leak-cross-user").len(), 5);
}

#[test]
fn what_the_user_sent_and_gets_back_is_no_leak() {
    let echo = |back: bool| {
        (0..30).map(move |i| {
            let value = format!("address {i}");
            let request = if back { sketch("pii-us-ssn", &value) } else { json!({"kid": "k7"}) };
            call(
                f64::from(i) * 60.0,
                json!({"user": who(&format!("u{i}")), "request": request, "response": sketch("pii-us-ssn", &value)}),
            )
        })
    };
    let (lines, _) = replay(ROUTE, echo(true).collect());
    assert!(lines.is_empty(), "{}", show(&lines));
    let (lines, _) = replay(ROUTE, echo(false).collect());
    assert_eq!(of(&lines, "finding", "pii-us-ssn").len(), 30);
    // The user's own data, but what the operator keeps secret.
    let secret = |role: &str| {
        let mut part = sketch("sec-aws-access-key", "a key");
        part["role"] = json!(role);
        vec![
            call(
                0.0,
                json!({"user": who("A"), "context": [part], "response": sketch("sec-aws-access-key", "a key")}),
            ),
            call(300.0, json!({})),
        ]
    };
    let in_response = |lines: &[Line]| {
        let said = |l: &&Line| {
            l.reason
                .as_deref()
                .is_some_and(|r| r.contains("in the response"))
        };
        lines
            .iter()
            .filter(said)
            .filter(|l| l.kind == "finding")
            .count()
    };
    assert_eq!(in_response(&replay(ROUTE, secret("system")).0), 1);
    assert_eq!(in_response(&replay(ROUTE, secret("user")).0), 0);
}

#[test]
fn an_address_or_a_phone_number_in_an_answer_is_a_ticket() {
    for rule in ["pii-email", "pii-phone-international", "pii-date-of-birth"] {
        let event = json!({"user": who("A"), "response": sketch(rule, "x")});
        let (lines, _) = replay(ROUTE, vec![call(0.0, event), call(300.0, json!({}))]);
        let stages: Vec<_> = of(&lines, "finding", rule)
            .iter()
            .map(|l| l.stage)
            .collect();
        assert_eq!(stages, [Some("ticket")], "{rule}");
    }
}

#[test]
fn a_detector_in_shadow_tells_nobody() {
    let detect =
        "[detect]\nstages = { leak = \"shadow\", budget = \"shadow\", injection = \"shadow\" }\n";
    let budget = "[[budget]]\nscope = \"everyone\"\nperiod = \"hour\"\ntokens = 1000\n";
    let mut events = card_of_another(false);
    events.extend((0..30).map(|i| call(f64::from(i), json!({"usage": tokens(100)}))));
    // An attack that was let through, and a leak after it.
    events.push(call(
        100.0,
        json!({"user": who("C"), "request": attack(), "policy": {"decision": "allow"}}),
    ));
    let leak = sketch("pii-credit-card", "another card");
    events.push(call(160.0, json!({"user": who("C"), "response": leak})));
    let (lines, _) = replay(&format!("{ROUTE}{budget}"), events.clone());
    for rule in [
        "leak-cross-user",
        "budget-",
        "injection-then-leak",
        "pii-credit-card",
    ] {
        assert!(
            !of(&lines, "notification", rule).is_empty(),
            "{rule} tells nobody:\n{}",
            show(&lines)
        );
    }
    let (lines, summary) = replay(&format!("{detect}{ROUTE}{budget}"), events);
    assert!(summary.findings > 10, "{summary:?}");
    let told: Vec<_> = lines.iter().filter(|l| l.kind != "finding").collect();
    assert!(told.is_empty(), "{told:?}");
    assert!(
        lines.iter().all(|l| l.stage == Some("shadow")),
        "{}",
        show(&lines)
    );
}

#[test]
fn late_usage_of_the_hour_before_hides_no_budget_of_this_one() {
    let budget = "[[budget]]\nscope = \"everyone\"\nperiod = \"hour\"\ntokens = 1000\n";
    const H: f64 = 3_600.0;
    let mut late = call(11.0 * H + 180.0, json!({"usage": tokens(500)}));
    late.1["at"] = json!(at(11.0 * H - 60.0));
    let events = vec![
        call(10.0 * H + 600.0, json!({"usage": tokens(600)})),
        call(11.0 * H + 120.0, json!({"usage": tokens(600)})),
        late,
        call(11.0 * H + 1_800.0, json!({"usage": tokens(500)})),
        call(13.0 * H, json!({"usage": tokens(1)})),
    ];
    let (lines, _) = replay(&format!("{ROUTE}{budget}"), events);
    let pages: Vec<_> = of(&lines, "notification", "budget-")
        .into_iter()
        .filter(|l| l.stage == Some("page") && l.at.starts_with("2026-11-02T11:30"))
        .collect();
    assert_eq!(pages.len(), 1, "{}", show(&lines));
    let reason = pages[0].reason.as_deref().unwrap_or_default();
    assert!(reason.contains("in the hour 2026-11-02T11"), "{reason}");
}

#[test]
fn a_total_budget_has_no_zone() {
    let budget = "[[budget]]\nscope = \"everyone\"\nperiod = \"total\"\nzone = \"Europe/Berlin\"\ntokens = 1000\n";
    let events = (0..3).map(|i| call(f64::from(i) * 60.0, json!({"usage": tokens(400)})));
    let (lines, _) = replay(&format!("{ROUTE}{budget}"), events.collect());
    assert_eq!(
        of(&lines, "finding", "budget-").len(),
        3,
        "{}",
        show(&lines)
    );
}

#[test]
fn names_with_a_slash_share_no_budget() {
    let budget = |scope: &str, tokens: u32| {
        format!("[[budget]]\nscope = \"{scope}\"\nperiod = \"day\"\ntokens = {tokens}\n")
    };
    let events = vec![
        call(
            10.0,
            json!({"tenant": "acme", "team": "eu/support", "usage": tokens(600)}),
        ),
        call(
            20.0,
            json!({"tenant": "acme/eu", "team": "support", "usage": tokens(600)}),
        ),
        call(30.0, json!({"tenant": "-", "usage": tokens(800)})),
        call(40.0, json!({"usage": tokens(800)})),
        call(600.0, json!({"tenant": "other"})),
    ];
    let toml = format!(
        "{ROUTE}{}{}",
        budget("team", 1_000),
        budget("tenant", 1_000)
    );
    let (lines, _) = replay(&toml, events);
    let pages: Vec<_> = of(&lines, "notification", "budget-")
        .into_iter()
        .filter(|l| l.stage == Some("page"))
        .collect();
    assert!(pages.is_empty(), "{pages:?}");
    // Two teams and two tenants past 50 %, the tenant `-` and none past 80 %.
    assert_eq!(
        of(&lines, "finding", "budget-").len(),
        8,
        "{}",
        show(&lines)
    );
}

#[test]
fn one_event_with_a_user_hides_no_campaign_of_keys() {
    let keys = |n: u32| {
        (0..n).map(|i| {
            call(
                f64::from(i) * 2.0,
                json!({"api_key": {"id": who(&format!("k{i}"))}, "request": attack()}),
            )
        })
    };
    let end = || call(400.0, json!({}));
    let mixed = call(
        25.0,
        json!({"user": who("one"), "api_key": {"id": who("k99")}, "request": attack()}),
    );
    let (lines, _) = replay(ROUTE, keys(12).chain([mixed, end()]).collect());
    let found = of(&lines, "finding", "campaign-injection");
    assert_eq!(found.len(), 1, "{}", show(&lines));
    let reason = found[0].reason.as_deref().unwrap_or_default();
    assert!(
        reason.starts_with("13 users, keys and gateways"),
        "{reason}"
    );
}

#[test]
fn a_campaign_over_two_tenants_is_one_page() {
    let wave = |tenant: &'static str, from: f64| {
        (0..12).map(move |i| {
            call(
                from + f64::from(i) * 2.0,
                json!({"user": who(&format!("{tenant}{i}")), "tenant": tenant, "request": attack()}),
            )
        })
    };
    let events = wave("acme", 0.0)
        .chain(wave("bolt", 120.0))
        .chain([call(600.0, json!({}))]);
    let (lines, _) = replay(ROUTE, events.collect());
    assert!(
        of(&lines, "finding", "campaign-injection").len() >= 2,
        "{}",
        show(&lines)
    );
    let opened = of(&lines, "notification", "campaign-injection");
    assert_eq!(
        opened.iter().filter(|l| l.state == Some("firing")).count(),
        1,
        "{}",
        show(&lines)
    );
}

#[test]
fn a_router_with_many_versions_is_no_news_for_ever() {
    let events = (0..1_080).map(|i| {
        let served = format!("m-{:02}", i % 70);
        call(
            f64::from(i) * 10.0,
            json!({"model": {"requested": "auto", "served": served}}),
        )
    });
    let (lines, _) = replay(ROUTE, events.collect());
    let late: Vec<_> = of(&lines, "finding", "drift")
        .into_iter()
        .filter(|l| l.at.as_str() > "2026-11-02T00:30")
        .collect();
    assert!(
        late.is_empty(),
        "{} of them, first {:?}",
        late.len(),
        late.first()
    );
}

#[test]
fn a_digest_of_pages_is_a_page() {
    let route = "[deliver]\nstorm_limit = 5\n[[deliver.route]]\nsinks = [\"out\"]\ngroup_by = [\"tenant\"]\ngroup_wait = \"0s\"\n";
    let events = (0..60)
        .map(|i| {
            call(
                f64::from(i) * 7.0,
                json!({"user": who(&format!("u{i}")), "tenant": format!("t{}", i % 30), "response": sketch("pii-us-itin", &format!("v{i}"))}),
            )
        })
        .chain((0..120).map(|i| call(f64::from(i) * 60.0, json!({}))));
    let (lines, _) = replay(route, events.collect());
    let digests = of(&lines, "notification", "digest");
    assert!(!digests.is_empty(), "{}", show(&lines));
    assert!(
        digests.iter().all(|l| l.stage == Some("page")),
        "{digests:?}"
    );
}

#[test]
fn findings_of_two_events_are_two() {
    // One version behind two names, and one id at two gateways.
    let mut events: Vec<_> = (0..240)
        .flat_map(|i| {
            let t = f64::from(i) * 30.0;
            let v = if i < 120 { "v1" } else { "v2" };
            [("a", 0.0), ("b", 1.0)]
                .map(|(name, s)| call(t + s, json!({"model": {"requested": name, "served": v}})))
        })
        .collect();
    for gateway in ["g1", "g2"] {
        events.push(call(
            10.0,
            json!({"id": "same", "gateway": gateway, "user": who("u"), "request": attack()}),
        ));
    }
    let (lines, _) = replay(ROUTE, events);
    assert_eq!(
        of(&lines, "finding", "drift-new-version").len(),
        2,
        "{}",
        show(&lines)
    );
    assert_eq!(
        of(&lines, "finding", "inj-override").len(),
        2,
        "{}",
        show(&lines)
    );
}
