//! Gateways whose clocks, numbers and habits are not as a textbook has them, through the whole core: who is
//! paged, what is counted, what it costs.

use std::fmt::Write as _;
use std::sync::Arc;

use veilwatch::account::{Books, Prices};
use veilwatch::decide::Routes;
use veilwatch::detect::{DetectConfig, Facts};
use veilwatch::event::Time;
use veilwatch::replay::{Line, Replay, Summary};
use veilwatch::rule::{Known, RuleSet};
use veilwatch::seal::{Keys, Sealer};

fn start() -> Time {
    Time::parse_rfc3339("2026-11-02T00:00:00Z").expect("a Monday")
}

/// A replay with the shipped rules and prices, and one sink.
fn fresh() -> Replay {
    let facts = Facts::from_rules(&RuleSet::built_in(&Known::default()));
    let config = DetectConfig {
        facts,
        ..DetectConfig::default()
    };
    Replay::new(
        config,
        Books::new(Prices::shipped(), &[]),
        Vec::new(),
        Routes::single(vec!["out".into()]),
        Arc::new(Sealer::built_in(Keys::development())),
    )
}

/// A file of events; each line has a place in it, in seconds.
#[derive(Default)]
struct Stream(Vec<(i64, String)>);

impl Stream {
    /// An event `at` so many seconds, with more members.
    fn add(&mut self, at: i64, gateway: &str, more: &str) {
        self.line(at, at, gateway, more, 500);
    }

    /// An event that stands at `place` and says that it began `at`.
    fn line(&mut self, place: i64, at: i64, gateway: &str, more: &str, total_ms: i64) {
        let n = self.0.len();
        let at = start().plus_ms(at * 1_000);
        let line = format!(
            r#"{{"v":1,"id":"e{n}","gateway":"{gateway}","at":"{at}","operation":"chat","model":{{"requested":"gpt-4o"}},"status":200,"latency":{{"total_ms":{total_ms},"ttft_ms":100}}{more}}}"#
        );
        self.0.push((place, line));
    }

    fn replay(mut self) -> (Vec<Line>, Summary) {
        self.0.sort_by_key(|(place, _)| *place);
        let mut replay = fresh();
        for (_, line) in &self.0 {
            replay.line(line).expect("an event");
        }
        replay.finish();
        replay.output()
    }

    /// Findings by rule, stage and reason, a line each.
    fn found(self) -> String {
        let (lines, _) = self.replay();
        let mut out = String::new();
        for l in lines.iter().filter(|l| l.kind == "finding") {
            let _ = writeln!(
                out,
                "{} {} {} {}",
                &l.at[11..19],
                l.rule.as_deref().unwrap_or_default(),
                l.stage.unwrap_or_default(),
                l.reason.as_deref().unwrap_or_default()
            );
        }
        out
    }
}

#[test]
fn cron_slow_and_fading_gateways_are_not_silent() {
    let mut cron = Stream::default();
    for burst in 0..12 {
        (0..100).for_each(|i| cron.add(burst * 1_800 + i / 2, "cron", ""));
    }
    (0..720).for_each(|i| cron.add(i * 30, "gw-b", ""));
    assert_eq!(cron.found(), "");

    let mut slow = Stream::default();
    (0..360).for_each(|i| slow.add(i * 10, "gw-a", ""));
    (0..35).for_each(|i| slow.add(3_600 + i * 2_400, "gw-a", ""));
    (0..1_440).for_each(|i| slow.add(i * 60, "gw-b", ""));
    assert_eq!(slow.found(), "");

    let mut daily = Stream::default();
    (0..11).for_each(|day| daily.add(day * 86_400, "gw", ""));
    assert_eq!(daily.found(), "");
}

#[test]
fn a_gateway_that_stops_is_one_page_within_six_minutes() {
    let mut s = Stream::default();
    (0..5_400).step_by(3).for_each(|t| s.add(t, "gw-b", ""));
    (0..2_400).step_by(3).for_each(|t| s.add(t + 1, "gw-a", ""));
    let found = s.found();
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(
        found.starts_with(
            "00:45:10 audit-silent-gateway page gateway gw-a has sent nothing for 5 min"
        ),
        "{found}"
    );
}

#[test]
fn a_clock_that_steps_back_is_told_as_such_and_not_as_silence() {
    let mut s = Stream::default();
    for t in (0..5_400).step_by(3) {
        s.add(t, "gw-b", "");
        let behind = if t < 2_400 { 0 } else { 120 };
        s.line(t + 1, t + 1 - behind, "gw-a", "", 500);
    }
    let found = s.found();
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(found.contains("audit-late-clock ticket"), "{found}");
    assert!(found.contains("gw-a"), "{found}");
}

#[test]
fn one_long_call_in_a_file_ordered_by_start_makes_nothing_late() {
    let mut s = Stream::default();
    (0..5_400).step_by(3).for_each(|t| s.add(t, "gw-a", ""));
    s.line(2_701, 2_701, "gw-a", "", 600_000);
    s.line(5_395, 5_395, "gw-a", "", 3_600_000);
    let (lines, summary) = s.replay();
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(summary.events, 1_802);
}

#[test]
fn a_restart_without_boot_loses_nothing_and_is_told_that_it_proves_nothing() {
    let mut s = Stream::default();
    for i in 0..20 {
        s.add(i, "gw", &format!(r#","seq":{i}"#));
        s.add(100 + i, "gw", &format!(r#","seq":{i}"#));
    }
    let (lines, summary) = s.replay();
    assert_eq!((summary.events, summary.duplicates), (40, 0));
    let rules: Vec<_> = lines.iter().filter(|l| l.kind == "finding").collect();
    assert_eq!(rules.len(), 1, "{rules:?}");
    assert_eq!(rules[0].rule.as_deref(), Some("audit-no-boot"));
}

#[test]
fn declared_and_restart_losses_are_tickets_and_buy_no_later_ones() {
    // 90 % is discarded, and said so.
    let mut s = Stream::default();
    for i in 0..1_200 {
        let more = format!(r#","boot":"b","seq":{},"dropped":9"#, i * 10);
        s.add(i * 3, "g", &more);
    }
    let found = s.found();
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(
        found.contains("audit-declared-loss ticket 10800 of 12000 events"),
        "{found}"
    );

    // A publisher that numbers what it sends, and then loses 500.
    let mut s = Stream::default();
    for i in 0..1_200 {
        let seq = i + i64::from(i > 800) * 500;
        let dropped = i64::from(i < 600);
        s.add(
            i * 3,
            "g",
            &format!(r#","boot":"b","seq":{seq},"dropped":{dropped}"#),
        );
    }
    let found = s.found();
    assert!(
        found.contains("audit-missing-events page 500 events"),
        "{found}"
    );
    assert!(
        found.contains("audit-declared-loss ticket 600 of 1800 events"),
        "{found}"
    );
    assert_eq!(found.lines().count(), 2, "{found}");
}

/// Ten minutes of a numbered gateway; one record in the middle cannot be read.
fn with_one_refused(bad: &str) -> String {
    let mut s = Stream::default();
    for n in 0..600 {
        s.add(n, "gw", &format!(r#","boot":"b","seq":{n}"#));
    }
    let mut replay = fresh();
    for (n, (_, line)) in s.0.iter().enumerate() {
        if n == 300 {
            let line = line.replacen(r#""status":200"#, bad, 1);
            assert!(replay.line(&line).is_err(), "{line}");
        } else {
            replay.line(line).expect("an event");
        }
    }
    replay.finish();
    let (lines, summary) = replay.output();
    assert_eq!((summary.events, summary.refused), (599, 1));
    let found = lines.iter().filter(|l| l.kind == "finding");
    let rules: Vec<&str> = found.filter_map(|l| l.rule.as_deref()).collect();
    rules.join(" ")
}

#[test]
fn what_was_refused_is_not_missing() {
    for bad in [
        r#""status":-1"#,
        r#""status":"200""#,
        r#""status":200,"team":7"#,
        r#""status":200,"cost_usd":"much""#,
    ] {
        let found = with_one_refused(bad);
        assert_eq!(found, "", "{bad}");
    }
    // Nobody says whose number this was: it is missing.
    let found = with_one_refused(r#""status":200"#.trim_end_matches("200"));
    assert_eq!(found, "audit-missing-events");
}

/// A gateway that sends four events a second for so many minutes, of which some cannot be read, beside one
/// that is whole. What is told: when, rule, stage.
fn refusing(minutes: i64, bad: impl Fn(i64) -> bool) -> String {
    let mut s = Stream::default();
    for i in 0..minutes * 240 {
        s.add(i / 4, if bad(i) { "broken" } else { "gw" }, "");
        s.add(i / 4, "whole", "");
    }
    let mut replay = fresh();
    for (_, line) in &s.0 {
        if line.contains(r#""gateway":"broken""#) {
            let line = line.replacen("broken", "gw", 1).replacen(
                r#""status":200"#,
                r#""status":"200""#,
                1,
            );
            assert!(replay.line(&line).is_err(), "{line}");
        } else {
            replay.line(line).expect("an event");
        }
    }
    replay.finish();
    let (lines, _) = replay.output();
    let told = lines.iter().filter(|l| l.kind == "finding").map(|l| {
        assert!(
            l.reason
                .as_deref()
                .is_some_and(|r| r.contains("gateway gw "))
        );
        let rule = l.rule.as_deref().unwrap_or_default();
        format!("{} {rule} {}", &l.at[11..16], l.stage.unwrap_or_default())
    });
    told.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_deployment_that_breaks_a_part_of_the_records_is_a_ticket_within_minutes() {
    // From 00:35 on two of a hundred.
    let found = refusing(60, |i| i > 35 * 240 && i % 50 == 9);
    assert_eq!(found, "00:38 audit-refused ticket");
    // And for hours, once an hour.
    let found = refusing(125, |i| i > 35 * 240 && i % 50 == 9);
    assert_eq!(found.lines().count(), 2, "{found}");
}

#[test]
fn a_gateway_of_which_nothing_is_read_any_more_is_one_page() {
    let found = refusing(60, |i| i > 35 * 240 + 8);
    assert_eq!(found, "00:38 audit-refused page");
    // It begins with a part of them: a ticket, and a page when it becomes all.
    let found = refusing(70, |i| i > 50 * 240 + 8 || (i > 35 * 240 && i % 50 == 9));
    assert_eq!(
        found,
        "00:38 audit-refused ticket\n00:51 audit-refused page"
    );
    // One that is being set up wakes nobody.
    assert_eq!(refusing(60, |_| true), "00:03 audit-refused ticket");
}

#[test]
fn single_refused_records_and_bursts_of_them_are_told_to_nobody() {
    // One in three hundred, for an hour.
    assert_eq!(refusing(60, |i| i % 300 == 7), "");
    // A client that sends its broken record again and again for two minutes.
    assert_eq!(
        refusing(60, |i| (40 * 240 + 9..42 * 240).contains(&i) && i % 2 == 0),
        ""
    );
    // A quarter of an hour without anything else in it.
    assert_eq!(refusing(60, |i| i % 3_600 == 7), "");
}

#[test]
fn usage_with_a_forged_clock_costs_what_it_costs_now() {
    let usage = r#","usage":{"input":1000000,"output":0,"state":"final"}"#;
    let mut s = Stream::default();
    s.add(0, "g", "");
    s.line(60, -1_793_577_600, "g", usage, 500);
    s.add(61, "g", usage);
    let (lines, summary) = s.replay();
    assert_eq!(summary.cost_pico, 2 * 2_500_000_000_000);
    let unpriced = lines
        .iter()
        .any(|l| l.rule.as_deref() == Some("audit-unpriced-model"));
    assert!(!unpriced);
}
