//! Rates of made-up minutes.

use super::*;

fn model(model: &str, route: &str) -> ModelKey {
    ModelKey {
        model: SmolStr::new(model),
        route: SmolStr::new(route),
    }
}

/// Judges minutes; the state goes through its bytes at every step.
fn judge(minutes: i64, part: impl Fn(i64, &mut MinutePart)) -> Vec<Finding> {
    let config = DetectConfig::default();
    let (mut e, mut out) = (Errors::default(), Vec::new());
    for minute in 0..minutes {
        let mut p = MinutePart {
            minute,
            ..MinutePart::default()
        };
        part(minute, &mut p);
        e.minute(&config, &p, Time::from_minute(minute), true, &mut out);
        let mut w = Writer::default();
        e.encode(&mut w);
        let back = Errors::decode(&mut Reader::new(&w.0)).expect("decode");
        assert_eq!(back, e);
        e = back;
    }
    out
}

fn seen(requests: u64, errors: u64) -> ModelSeen {
    ModelSeen {
        requests,
        errors,
        ..ModelSeen::default()
    }
}

fn run(rate: impl Fn(i64) -> u64, minutes: i64) -> Vec<Finding> {
    judge(minutes, |m, p| {
        p.models.insert(model("m", ""), seen(60, rate(m)));
    })
}

#[test]
fn an_outage_pages_and_noise_does_not() {
    assert!(run(|m| u64::from(m % 7 == 0), 600).is_empty());
    let f = run(|m| if m >= 120 { 20 } else { 0 }, 125);
    assert_eq!(f.len(), 1, "{f:?}");
    assert_eq!(f[0].stage, Stage::Page);
    assert_eq!(f[0].end, Time::from_minute(121));
    // Few failures are a ticket, and more of them page at once.
    let f = run(
        |m| [0, 4, 9][usize::from(m >= 120) + usize::from(m > 120)],
        124,
    );
    let stages: Vec<_> = f.iter().map(|f| f.stage).collect();
    assert_eq!(stages, [Stage::Ticket, Stage::Page], "{f:?}");
    // Where failures come eight at a time, eight are nothing new.
    let clusters = |m: i64| if m % 97 == 0 { 8 } else { 0 };
    let f = run(clusters, 5_000);
    assert!(f.len() <= 4, "{}", f.len());
    // While learning only the ceiling fires.
    assert!(run(|m| if m >= 5 { 20 } else { 0 }, 20).is_empty());
    assert_eq!(run(|m| if m >= 5 { 50 } else { 0 }, 8).len(), 1);
}

/// Told at once, and every ten minutes to the end.
fn lasts(f: &[Finding], from: i64, to: i64) {
    let mut last = from - 1;
    for f in f {
        let minute = f.end.minute() - 1;
        assert!(minute - last <= 10, "{f:?}");
        last = minute;
    }
    assert!(to - last <= 10, "silent from {last} on");
}

#[test]
fn what_fails_from_its_first_request_is_told_as_long_as_it_does() {
    lasts(&run(|_| 60, 600), 0, 600);
    lasts(&run(|m| if m < 5 { 0 } else { 60 }, 600), 5, 600);
    // Also after a day of good ones: an outage is no new normal.
    lasts(&run(|m| if m < 60 { 0 } else { 60 }, 3_000), 60, 3_000);
    // And it ends when it ends.
    let f = run(|m| if m < 60 { 60 } else { 0 }, 200);
    assert!(f.iter().all(|f| f.end.minute() <= 60), "{f:?}");
}

fn rejected(requests: u64, rejected: u64, denied: u64) -> ModelSeen {
    ModelSeen {
        requests,
        rejected,
        denied,
        ..ModelSeen::default()
    }
}

#[test]
fn a_model_that_rejects_nearly_everything_pages_and_a_callers_loop_does_not() {
    let of = |from: i64, bad: ModelSeen, usual: ModelSeen| {
        judge(from + 60, |m, p| {
            let seen = if m < from { usual.clone() } else { bad.clone() };
            p.models.insert(model("m", ""), seen);
        })
    };
    let usual = rejected(30, 0, 0);
    let f = of(120, rejected(30, 30, 30), usual.clone());
    assert_eq!(
        (f[0].rule.as_str(), f[0].stage),
        ("errors-rejected", Stage::Page)
    );
    assert!(f[0].end <= Time::from_minute(122), "{f:?}");
    lasts(&f, 121, 180);
    // Ten times as many bad ones beside the good: a ticket.
    let f = of(120, rejected(330, 300, 300), usual.clone());
    assert_eq!(f[0].stage, Stage::Ticket, "{f:?}");
    // A name that never was one is a ticket too: nothing is known to have worked.
    let f = of(0, rejected(30, 30, 30), usual);
    assert_eq!(f[0].stage, Stage::Ticket, "{f:?}");
    // One in twenty from the first day on is a habit.
    let habit = rejected(40, 2, 0);
    assert_eq!(of(300, habit.clone(), habit), []);
}

#[test]
fn blocks_are_judged_and_never_counted_as_rejections() {
    let f = judge(200, |m, p| {
        let blocked = if m < 120 { 1 } else { 55 };
        let seen = ModelSeen {
            requests: 60,
            blocked,
            ..ModelSeen::default()
        };
        p.models.insert(model("m", ""), seen);
    });
    assert!(
        !f.is_empty() && f.iter().all(|f| f.rule == "errors-blocked"),
        "{f:?}"
    );
    assert_eq!(f[0].stage, Stage::Page);
}

#[test]
fn a_tenant_that_is_rejected_alone_is_told_and_all_together_are_the_models() {
    let f = |all: bool| {
        judge(180, |m, p| {
            let mut sum = ModelSeen::default();
            for (name, mine) in [("acme", true), ("bolt", false), ("core", false)] {
                let bad = if m >= 120 && (mine || all) { 20 } else { 0 };
                let seen = rejected(20, bad, bad);
                sum.requests += 20;
                sum.rejected += bad;
                sum.denied += bad;
                p.tenants.insert(SmolStr::new(name), seen);
            }
            p.models.insert(model("m", ""), sum);
        })
    };
    let alone = f(false);
    assert!(
        alone.iter().all(|f| f.subject == "tenant:acme"),
        "{alone:?}"
    );
    assert_eq!(alone[0].tenant, "acme");
    assert_eq!(alone[0].stage, Stage::Page);
    let together = f(true);
    assert!(!together.is_empty());
    assert!(
        together.iter().all(|f| f.subject == "model:m"),
        "{together:?}"
    );
}

#[test]
fn one_model_behind_many_routes_and_versions_is_one_incident() {
    let served = |p: &mut MinutePart, version: &str, events: u64| {
        p.served.insert(
            (SmolStr::new("m"), SmolStr::new(version)),
            super::super::part::ServedSeen {
                events,
                first: (Time(0), SmolStr::new("e")),
            },
        );
    };
    let f = |bad: &dyn Fn(&str, &str) -> bool| {
        judge(150, |m, p| {
            for route in ["a", "b", "c"] {
                let mut all = ModelSeen::default();
                for version in ["m-1", "m-2"] {
                    let failed = if m >= 120 && bad(version, route) {
                        20
                    } else {
                        0
                    };
                    p.models.insert(model(version, route), seen(40, failed));
                    served(p, version, 100);
                    all.requests += 40;
                    all.errors += failed;
                }
                p.asked.insert(model("m", route), all);
            }
        })
    };
    let subjects = |f: &[Finding]| {
        let mut s: Vec<_> = f.iter().map(|f| f.subject.clone()).collect();
        s.dedup();
        s
    };
    let all = f(&|_, _| true);
    assert_eq!(subjects(&all), ["model:m"], "{all:?}");
    assert!(
        all[0]
            .reason
            .ends_with("in 8 more of its versions and routes")
    );
    let one = f(&|v, r| v == "m-2" && r == "b");
    assert_eq!(subjects(&one), ["model:m-2 route:b"], "{one:?}");
    assert!(one.iter().all(|f| f.model.as_deref() == Some("m-2")));
}

#[test]
fn an_outage_without_a_version_in_its_answers_is_one_of_the_model_asked_for() {
    // Some always fail and none of these name a version: alone they would always be a total outage.
    let f = judge(200, |m, p| {
        let failed = if m < 120 { 2 } else { 60 };
        p.models.insert(model("m-1", ""), seen(60 - failed, 0));
        p.asked.insert(model("m", ""), seen(60, failed));
    });
    assert_eq!(f[0].end, Time::from_minute(121), "{f:?}");
    assert_eq!(f[0].stage, Stage::Page);
    lasts(&f, 120, 200);
}
