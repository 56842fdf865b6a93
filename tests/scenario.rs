//! Scenarios: files of events through the whole core, and what comes out, as snapshots. The pipeline
//! without I/O: reading a diff of `tests/data/scenarios/*.snap` is reading a change of behaviour.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use veilwatch::account::{Books, Prices};
use veilwatch::config::{self, Config, Source, no_env};
use veilwatch::decide::Routes;
use veilwatch::detect::{DetectConfig, Facts};
use veilwatch::event::Time;
use veilwatch::replay::Replay;
use veilwatch::rule::{Known, RuleSet};
use veilwatch::seal::{Keys, Sealer};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/scenarios")
}

/// Replays a file and renders findings, incidents, notifications and the summary, one line each.
fn replay(name: &str) -> String {
    let facts = Facts::from_rules(&RuleSet::built_in(&Known::default()));
    let sealer = Arc::new(Sealer::built_in(Keys::development()));
    let path = folder().join(format!("{name}.toml"));
    let mut replay = match std::fs::read_to_string(&path) {
        Err(_) => Replay::new(
            DetectConfig {
                facts,
                ..DetectConfig::default()
            },
            Books::new(Prices::shipped(), &[]),
            Vec::new(),
            Routes::single(vec!["out".into()]),
            sealer,
        ),
        Ok(text) => {
            let c = Config::parse(&Source {
                text: &text,
                dir: &folder(),
                env: &no_env(),
            })
            .expect("config");
            let budgets = config::core::budgets(&c.budgets);
            Replay::new(
                config::core::detect(&c.detect, facts),
                Books::new(Prices::shipped(), &budgets),
                budgets,
                config::core::routes(&c.routing, &c.sinks, veilwatch::decide::Titles::default()),
                sealer,
            )
        }
    };
    let text = if name == "outage" {
        outage_events()
    } else {
        std::fs::read_to_string(folder().join(format!("{name}.jsonl"))).expect("scenario")
    };
    let mut out = String::new();
    for (n, line) in text.lines().enumerate() {
        if let Err(e) = replay.line(line) {
            let _ = writeln!(out, "line {}: {e}", n + 1);
        }
    }
    replay.finish();
    let (lines, summary) = replay.output();
    for l in &lines {
        let _ = writeln!(
            out,
            "{} {} {} {} {} {} {} | {}",
            &l.at[11..],
            l.kind,
            l.state.unwrap_or("-"),
            l.severity.unwrap_or("-"),
            l.stage.unwrap_or("-"),
            l.rule.as_deref().unwrap_or("-"),
            l.event.as_deref().unwrap_or("-"),
            l.reason.as_deref().unwrap_or("-"),
        );
    }
    let _ = writeln!(out, "{summary:?}");
    out
}

/// An hour of one model: errors from minute 40 to 43, everything 2.5 times as slow from 50 to 54.
fn outage_events() -> String {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut out = String::new();
    let start = Time::parse_rfc3339("2026-11-21T07:00:00Z").expect("start");
    for n in 0..1_200i64 {
        let at = start.plus_ms(n * 3_000);
        let minute = n / 20;
        let slow = if (50..55).contains(&minute) { 2.5 } else { 1.0 };
        let ttft = 200.0 * slow * (0.8 + 0.4 * rng.f64());
        let total = ttft + 1_800.0 * slow * (0.9 + 0.2 * rng.f64());
        let (status, usage, latency) = if (40..44).contains(&minute) && n % 3 == 0 {
            (
                503,
                r#"{"state":"missing"}"#.to_owned(),
                r#"{"total_ms":90}"#.to_owned(),
            )
        } else {
            (
                200,
                format!(
                    r#"{{"input":{},"output":120,"state":"final"}}"#,
                    rng.u32(200..900)
                ),
                format!(r#"{{"total_ms":{total:.1},"ttft_ms":{ttft:.1}}}"#),
            )
        };
        let _ = writeln!(
            out,
            r#"{{"v":1,"id":"o{n}","gateway":"gw-1","at":"{at}","operation":"chat","route":"r","provider":"openai","model":{{"requested":"gpt-4o"}},"status":{status},"usage":{usage},"latency":{latency}}}"#
        );
    }
    out
}

fn check(name: &str) {
    let out = replay(name);
    assert_eq!(out, replay(name), "{name}: two runs differ");
    insta::with_settings!({snapshot_path => "data/scenarios", prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!(name, out);
    });
}

#[test]
fn attack_and_leak() {
    check("attack-and-leak");
}

#[test]
fn evidence() {
    check("evidence");
}

#[test]
fn budget() {
    check("budget");
}

#[test]
fn campaign() {
    check("campaign");
}

#[test]
fn outage() {
    check("outage");
}
