//! Outages and slowness through the whole core: who is told, once, and for as long as it lasts.

use std::fmt::Write as _;
use std::sync::Arc;

use veilwatch::account::{Books, Prices};
use veilwatch::decide::Routes;
use veilwatch::detect::DetectConfig;
use veilwatch::event::Time;
use veilwatch::replay::Replay;
use veilwatch::seal::{Keys, Sealer};

/// What an event says beside its time.
struct Call {
    /// What is left out of the event where it is empty.
    served: &'static str,
    route: &'static str,
    tenant: &'static str,
    status: u16,
    latency: String,
    output: u32,
}

impl Default for Call {
    fn default() -> Self {
        Self {
            served: "",
            route: "r",
            tenant: "",
            status: 200,
            latency: r#"{"total_ms":500,"ttft_ms":100}"#.to_owned(),
            output: 50,
        }
    }
}

/// (minute, kind and state, stage, rule, reason) of findings and notifications.
type Line = (i64, String, String, String, String);

/// Replays calls, so many milliseconds apart.
fn replay(apart_ms: i64, calls: impl IntoIterator<Item = Call>) -> Vec<Line> {
    let start = Time::parse_rfc3339("2026-11-02T00:00:00Z").expect("start");
    let mut replay = Replay::new(
        DetectConfig::default(),
        Books::new(Prices::shipped(), &[]),
        Vec::new(),
        Routes::single(vec!["out".into()]),
        Arc::new(Sealer::built_in(Keys::development())),
    );
    for (n, c) in calls.into_iter().enumerate() {
        let at = start.plus_ms(i64::try_from(n).expect("few") * apart_ms);
        let mut line = format!(
            r#"{{"v":1,"id":"e{n}","gateway":"gw","at":"{at}","operation":"chat","route":"{}","status":{},"latency":{},"usage":{{"input":100,"output":{},"state":"final"}}"#,
            c.route, c.status, c.latency, c.output
        );
        let _ = match c.served {
            "" => write!(line, r#","model":{{"requested":"gpt-4o"}}"#),
            v => write!(line, r#","model":{{"requested":"gpt-4o","served":"{v}"}}"#),
        };
        if !c.tenant.is_empty() {
            let _ = write!(line, r#","tenant":"{}""#, c.tenant);
        }
        line.push('}');
        replay.line(&line).expect("a good line");
    }
    replay.finish();
    let text = |s: Option<&str>| s.unwrap_or("-").to_owned();
    replay
        .output()
        .0
        .iter()
        .filter(|l| l.kind != "incident")
        .map(|l| {
            let at = Time::parse_rfc3339(&l.at).expect("time");
            (
                (at.0 - start.0) / 60_000,
                format!("{} {}", l.kind, l.state.unwrap_or("-")),
                text(l.stage),
                text(l.rule.as_deref()),
                text(l.reason.as_deref()),
            )
        })
        .filter(|l| l.3.starts_with("errors") || l.3.starts_with("latency"))
        .collect()
}

/// One notification, no end of it, and a finding at least each ten minutes from `from` to `to`.
fn one_page_that_lasts(lines: &[Line], rule: &str, from: i64, to: i64) {
    let told: Vec<_> = lines.iter().filter(|l| l.1 != "finding -").collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(
        (told[0].1.as_str(), told[0].2.as_str(), told[0].3.as_str()),
        ("notification firing", "page", rule)
    );
    assert!((from..=from + 3).contains(&told[0].0), "{told:?}");
    let mut last = from;
    for l in lines.iter().filter(|l| l.1 == "finding -") {
        assert!(l.0 - last <= 12, "nothing from {last} to {}", l.0);
        last = l.0;
    }
    assert!(to - last <= 12, "nothing after {last}");
}

fn failed(status: u16) -> Call {
    Call {
        status,
        ..Call::default()
    }
}

#[test]
fn a_model_that_fails_from_its_first_request_is_told_until_it_works() {
    let calls = || (0..5_400).map(|_| failed(503));
    one_page_that_lasts(&replay(2_000, calls()), "errors-rate", 0, 180);
    let calls = (0..5_400).map(|n| failed(if n < 150 { 200 } else { 503 }));
    one_page_that_lasts(&replay(2_000, calls), "errors-rate", 5, 180);
}

#[test]
fn a_revoked_key_and_a_retired_model_are_outages() {
    for status in [401, 403, 404] {
        let calls = (0..5_400).map(|n| failed(if n < 3_600 { 200 } else { status }));
        one_page_that_lasts(&replay(2_000, calls), "errors-rejected", 120, 180);
    }
    // One bad request in twenty from the first day on is a habit.
    let calls = (0..5_400).map(|n| failed(if n % 20 == 0 { 400 } else { 200 }));
    assert_eq!(replay(2_000, calls), Vec::<Line>::new());
}

#[test]
fn a_tenant_whose_key_is_revoked_is_told_by_name() {
    let calls = (0..5_400).map(|n| {
        let tenant = ["acme", "bolt", "core"][n % 3];
        Call {
            tenant,
            status: if n >= 3_600 && tenant == "acme" {
                401
            } else {
                200
            },
            ..Call::default()
        }
    });
    let lines = replay(2_000, calls);
    one_page_that_lasts(&lines, "errors-rejected", 120, 180);
}

/// Lognormal noise around 1.
fn noise(rng: &mut fastrand::Rng, width: f64) -> f64 {
    let sum: f64 = (0..12).map(|_| rng.f64()).sum();
    ((sum - 6.0) * width).exp()
}

/// Three hours; `slow` of (minute, draw) is the factor of a call.
fn slow(routes: &[&'static str], streamed: bool, slow: impl Fn(f64, f64) -> f64) -> Vec<Line> {
    let mut rng = fastrand::Rng::with_seed(22);
    let apart = 500;
    let calls: Vec<Call> = (0..21_600i64)
        .map(|n| {
            let minute = n as f64 * apart as f64 / 60_000.0;
            let factor = slow(minute, rng.f64());
            let output = 8 + rng.u32(..400) * rng.u32(1..3) / 2;
            let ttft = 300.0 * noise(&mut rng, 0.35) * factor;
            let total = ttft + f64::from(output) * 20.0 * noise(&mut rng, 0.2) * factor;
            Call {
                served: "gpt-4o-2024-08-06",
                route: routes[rng.usize(..routes.len())],
                latency: if streamed {
                    format!(r#"{{"total_ms":{total:.1},"ttft_ms":{ttft:.1}}}"#)
                } else {
                    format!(r#"{{"total_ms":{total:.1}}}"#)
                },
                output,
                ..Call::default()
            }
        })
        .collect();
    replay(apart, calls)
}

#[test]
fn one_slow_model_is_one_incident_whatever_its_routes_and_however_it_begins() {
    let after = |factor: f64| move |m: f64, _: f64| if m >= 120.0 { factor } else { 1.0 };
    let routes = ["r1", "r2", "r3", "r4", "r5", "r6"];
    one_page_that_lasts(&slow(&routes, true, after(3.0)), "latency-slow", 120, 180);
    // Ever more calls take five times as long: a tail that becomes a shift.
    let gradual = |m: f64, lot: f64| {
        if lot < ((m - 120.0) / 20.0).clamp(0.0, 1.0) {
            5.0
        } else {
            1.0
        }
    };
    one_page_that_lasts(&slow(&["r"], true, gradual), "latency-slow", 120, 180);
}

#[test]
fn calls_that_are_not_streamed_have_a_latency_too() {
    let after = |factor: f64| move |m: f64, _: f64| if m >= 120.0 { factor } else { 1.0 };
    one_page_that_lasts(&slow(&["r"], false, after(2.0)), "latency-slow", 120, 180);
    assert_eq!(slow(&["r"], false, after(1.0)), Vec::<Line>::new());
}
