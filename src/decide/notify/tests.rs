//! The notifier, case by case: what happens to incidents, and what each sink is then told and when.
//!
//! A case is played second by second. Whatever it is about, three things must hold in all of them:
//! every candidate (change, sink) has exactly one fate, the rows queued are as many as the fates
//! `queued`, and after a call nothing is due in the past (the caller would spin).

use std::collections::BTreeMap;

use super::*;
use crate::decide::{Escalate, Field, Inhibit, Matcher};
use crate::detect::DetectorId;
use crate::event::hash16;

#[derive(Clone, Copy)]
enum Act {
    Open(&'static str, Severity),
    Again(&'static str),
    Worse(&'static str, Severity),
    Ack(&'static str),
    Resolve(&'static str),
}
use Act::{Ack, Again, Open, Resolve, Worse};
use Severity::{Critical, High, Low, Medium};

struct Case {
    name: &'static str,
    set: fn(&mut Routes),
    silences: &'static [(&'static str, i64, i64)],
    acts: &'static [(i64, Act)],
    until: i64,
    /// `second sink kind lead (+members)`.
    told: &'static [&'static str],
    /// Fates other than queued: `incident kind fate`.
    fates: &'static [&'static str],
}

const PLAIN: Case = Case {
    name: "",
    set: |_| {},
    silences: &[],
    acts: &[],
    until: 100,
    told: &[],
    fates: &[],
};

/// One route to `ops`: all incidents of a detector together, waits 10 s, news each 20 s, repeats each 1000 s.
fn routes() -> Routes {
    let mut r = Routes::single(vec!["ops".into()]);
    r.root.group_by = vec![Field::Detector];
    r.root.group_wait_ms = 10_000;
    r.root.group_interval_ms = 20_000;
    r.root.repeat_interval_ms = 1_000_000;
    r
}

fn inhibit(routes: &mut Routes) {
    routes.root.group_by = vec![Field::Key];
    routes.inhibit = vec![Inhibit {
        source: vec![Matcher::parse("rule=a").expect("matcher")],
        target: vec![Matcher::parse("rule=b").expect("matcher")],
        equal: vec![Field::Tenant],
    }];
}

fn escalate(routes: &mut Routes) {
    routes.root.escalate = Some(Escalate {
        after_ms: 30_000,
        sinks: vec!["boss".into()],
    });
}

fn storm(routes: &mut Routes) {
    routes.root.group_by = vec![Field::Key];
    routes.root.group_wait_ms = 0;
    routes.storm_limit = 2;
    routes.storm_window_ms = 60_000;
}

const CASES: &[Case] = &[
    Case {
        name: "group_wait holds the first for company, one row tells both",
        acts: &[(0, Open("a", High)), (4, Open("b", Low))],
        told: &["10 ops firing a+1"],
        fates: &["b opened grouped"],
        ..PLAIN
    },
    Case {
        name: "critical does not wait, and takes the waiting ones along",
        acts: &[(0, Open("a", High)), (4, Open("b", Critical))],
        told: &["4 ops firing a+1"],
        fates: &["b opened grouped"],
        ..PLAIN
    },
    Case {
        name: "group_interval holds news of a group that was told",
        acts: &[
            (0, Open("a", High)),
            (12, Open("b", High)),
            (14, Open("c", High)),
        ],
        told: &["10 ops firing a", "30 ops firing a+2"],
        fates: &["c opened grouped"],
        ..PLAIN
    },
    Case {
        name: "repeat after repeat_interval, not while acknowledged",
        set: |r| r.root.repeat_interval_ms = 30_000,
        acts: &[(0, Open("a", High)), (75, Ack("a"))],
        until: 200,
        told: &[
            "10 ops firing a",
            "40 ops repeat a",
            "70 ops repeat a",
            "75 ops acknowledged a",
        ],
        ..PLAIN
    },
    Case {
        name: "resolved is told once, after all are over",
        acts: &[
            (0, Open("a", High)),
            (1, Open("b", High)),
            (40, Resolve("a")),
            (50, Resolve("b")),
        ],
        told: &["10 ops firing a+1", "50 ops resolved a+1"],
        fates: &["b opened grouped", "a resolved grouped"],
        ..PLAIN
    },
    Case {
        name: "over before anybody was told is not told",
        acts: &[(0, Open("a", High)), (5, Resolve("a"))],
        told: &[],
        fates: &["a opened deduplicated", "a resolved deduplicated"],
        ..PLAIN
    },
    Case {
        name: "back again after its end is told again",
        acts: &[(0, Open("a", High)), (20, Resolve("a")), (40, Again("a"))],
        told: &["10 ops firing a", "30 ops resolved a", "50 ops firing a"],
        ..PLAIN
    },
    Case {
        name: "worse is told at once",
        acts: &[(0, Open("a", Low)), (15, Worse("a", High))],
        told: &["10 ops firing a", "15 ops escalated a"],
        ..PLAIN
    },
    Case {
        name: "a silence mutes, and its end is news",
        silences: &[("rule=a", 0, 50)],
        acts: &[(0, Open("a", High))],
        told: &["50 ops firing a"],
        fates: &["a opened silenced"],
        ..PLAIN
    },
    Case {
        name: "what a silence covered to its end is never told",
        silences: &[("rule=a", 0, 50)],
        acts: &[(0, Open("a", High)), (30, Resolve("a"))],
        told: &[],
        fates: &["a opened silenced", "a resolved deduplicated"],
        ..PLAIN
    },
    Case {
        name: "a silence does not hide the end of what was told",
        silences: &[("rule=a", 15, 90)],
        acts: &[(0, Open("a", High)), (30, Resolve("a"))],
        told: &["10 ops firing a", "30 ops resolved a"],
        ..PLAIN
    },
    Case {
        name: "a source inhibits its target of the same tenant, until it is over",
        set: inhibit,
        acts: &[
            (0, Open("a", High)),
            (1, Open("b", High)),
            (30, Resolve("a")),
        ],
        told: &["10 ops firing a", "30 ops firing b", "30 ops resolved a"],
        fates: &["b opened inhibited"],
        ..PLAIN
    },
    Case {
        name: "a milder source does not inhibit what is worse",
        set: inhibit,
        acts: &[(0, Open("a", Low)), (1, Open("b", High))],
        told: &["10 ops firing a", "11 ops firing b"],
        ..PLAIN
    },
    Case {
        name: "below the route's severity is recorded and not told",
        set: |r| r.root.min_severity = High,
        acts: &[(0, Open("a", Medium)), (1, Resolve("a"))],
        told: &[],
        fates: &["a opened below_severity", "a resolved below_severity"],
        ..PLAIN
    },
    Case {
        name: "nobody acknowledges: the next ones are told, and the end too",
        set: escalate,
        acts: &[(0, Open("a", High)), (60, Resolve("a"))],
        told: &[
            "10 ops firing a",
            "40 boss escalated a",
            "60 ops resolved a",
            "60 boss resolved a",
        ],
        ..PLAIN
    },
    Case {
        name: "two wait for an answer: one call, the other is grouped",
        set: escalate,
        acts: &[(0, Open("a", High)), (1, Open("b", High))],
        told: &["10 ops firing a+1", "40 boss escalated a+1"],
        fates: &["b opened grouped", "b escalated grouped"],
        ..PLAIN
    },
    Case {
        name: "acknowledged in time: nobody else is told",
        set: escalate,
        acts: &[(0, Open("a", High)), (35, Ack("a")), (60, Resolve("a"))],
        told: &[
            "10 ops firing a",
            "35 ops acknowledged a",
            "60 ops resolved a",
        ],
        ..PLAIN
    },
    Case {
        name: "a silence stops the escalation while it lasts",
        set: escalate,
        silences: &[("rule=a", 20, 60)],
        acts: &[(0, Open("a", High))],
        told: &["10 ops firing a", "70 boss escalated a"],
        ..PLAIN
    },
    Case {
        name: "back again after the end: the clock of the escalation begins anew",
        set: escalate,
        acts: &[
            (0, Open("a", High)),
            (1, Open("b", High)),
            (12, Ack("b")),
            (45, Resolve("a")),
            (70, Again("a")),
        ],
        until: 140,
        told: &[
            "10 ops firing a+1",
            "12 ops acknowledged a+1",
            "40 boss escalated a+1",
            "70 ops firing a+1",
            "100 boss escalated a+1",
        ],
        fates: &["b opened grouped", "a resolved grouped"],
        ..PLAIN
    },
    Case {
        name: "the storm guard counts the rest, and hides nothing worse",
        set: storm,
        acts: &[
            (0, Open("a", Low)),
            (1, Open("b", Low)),
            (2, Open("c", Low)),
            (3, Open("d", High)),
            (4, Open("e", Critical)),
            (5, Open("f", Low)),
        ],
        told: &[
            "0 ops firing a",
            "1 ops firing b",
            "3 ops firing d",
            "4 ops firing e",
            "60 ops digest digest",
        ],
        fates: &["c opened digested", "f opened digested"],
        ..PLAIN
    },
    Case {
        name: "a flood of worse ones is bounded too",
        set: storm,
        acts: &[
            (0, Open("a", High)),
            (1, Open("b", High)),
            (2, Open("c", High)),
            (3, Open("d", Low)),
        ],
        until: 50,
        told: &["0 ops firing a", "1 ops firing b"],
        fates: &["c opened digested", "d opened digested"],
        ..PLAIN
    },
    Case {
        name: "a route without a sink records",
        set: |r| r.root.sinks.clear(),
        acts: &[(0, Open("a", Critical))],
        told: &[],
        fates: &["a opened below_severity"],
        ..PLAIN
    },
];

fn head(name: &'static str, severity: Severity, at: Time) -> Head {
    Head {
        key: hash16("incident", &[name.as_bytes()]),
        tenant: "acme".into(),
        detector: DetectorId::Injection,
        rule: name.into(),
        subject: "user:x".into(),
        number: 1,
        state: State::Open,
        severity,
        stage: Stage::Page,
        opened_at: at,
        last_end: at,
        resolve_at: at.plus_ms(86_400_000),
        resolved_at: None,
        findings: 1,
        version: 1,
        wide: false,
        user: None,
        model: None,
        gateway: None,
        event: None,
        reason: String::new(),
    }
}

/// Plays an act on the heads.
fn act(heads: &mut BTreeMap<&'static str, Head>, act: Act, now: Time) -> (Change, Head) {
    let (name, kind) = match act {
        Open(name, severity) => {
            heads.insert(name, head(name, severity, now));
            (name, ChangeKind::Opened)
        }
        Again(name) => (name, ChangeKind::Reopened),
        Worse(name, _) => (name, ChangeKind::Escalated),
        Ack(name) => (name, ChangeKind::Acknowledged),
        Resolve(name) => (name, ChangeKind::Resolved),
    };
    let h = heads.get_mut(name).expect("opened before");
    h.version += 1;
    (h.state, h.severity) = match act {
        Open(..) | Again(_) => (State::Open, h.severity),
        Worse(_, severity) => (h.state, severity),
        Ack(_) => (State::Acknowledged, h.severity),
        Resolve(_) => (State::Resolved, h.severity),
    };
    (h.change(kind, now), h.clone())
}

fn play(case: &Case) -> (Vec<String>, Vec<String>) {
    let mut routes = routes();
    (case.set)(&mut routes);
    let silences: Vec<Silence> = case
        .silences
        .iter()
        .map(|(m, from, to)| Silence {
            id: "s".into(),
            matchers: vec![Matcher::parse(m).expect("matcher")],
            starts: Time(from * 1000),
            ends: Time(to * 1000),
        })
        .collect();
    let mut board = Board::default();
    let mut heads = BTreeMap::new();
    let (mut told, mut fates, mut queued) = (Vec::new(), Vec::new(), 0);
    // Candidates by (incident, version, kind): how many (repeats recur), and their fates by sink.
    let mut candidates: BTreeMap<(Hash16, i64, ChangeKind), (u32, BTreeMap<SmolStr, u32>)> =
        BTreeMap::new();
    for second in 0..=case.until {
        let now = Time(second * 1000);
        let due = case.acts.iter().filter(|(at, _)| *at == second);
        let changes: Vec<_> = due.map(|(_, a)| act(&mut heads, *a, now)).collect();
        let n = notify(&routes, &silences, &mut board, &changes, now);
        let own = n.changes.iter();
        for c in changes.iter().map(|(c, _)| c).chain(own) {
            candidates.entry((c.key, c.version, c.kind)).or_default().0 += 1;
        }
        for row in &n.outbox {
            queued += i32::from(row.kind != NotificationKind::Digest);
            let more = match row.payload.members.len() {
                0 => String::new(),
                _ if row.kind == NotificationKind::Digest => String::new(),
                n => format!("+{n}"),
            };
            let (sink, kind, rule) = (&row.sink, row.kind.as_str(), &row.payload.rule);
            told.push(format!("{second} {sink} {kind} {rule}{more}"));
        }
        for f in &n.fates {
            let name = heads.iter().find(|(_, h)| h.key == f.key).expect("known").0;
            let (_, sinks) = candidates
                .get_mut(&(f.key, f.version, f.kind))
                .unwrap_or_else(|| panic!("{}: a fate without a candidate: {f:?}", case.name));
            *sinks.entry(f.sink.clone()).or_default() += 1;
            queued -= i32::from(f.fate == Fate::Queued);
            if f.fate != Fate::Queued {
                fates.push(format!("{name} {} {}", f.kind.as_str(), f.fate.as_str()));
            }
        }
        if let Some(due) = board.next_due(&routes) {
            assert!(
                due > now,
                "{}: at {second} s something is due in the past",
                case.name
            );
        }
    }
    assert_eq!(queued, 0, "{}: rows and fates `queued` differ", case.name);
    for (what, (count, sinks)) in &candidates {
        let once = !sinks.is_empty() && sinks.values().all(|n| n == count);
        assert!(once, "{}: {what:?} has the fates {sinks:?}", case.name);
    }
    (told, fates)
}

#[test]
fn every_case_is_told_as_written() {
    for case in CASES {
        let (told, fates) = play(case);
        assert_eq!(told, case.told, "{}", case.name);
        assert_eq!(fates, case.fates, "{}", case.name);
    }
}

#[test]
fn the_state_survives_being_stored() {
    // The notifier's lease may change hands between any two calls.
    for case in CASES {
        let mut routes = routes();
        (case.set)(&mut routes);
        let mut board = Board::default();
        let mut heads = BTreeMap::new();
        for (second, a) in case.acts {
            let now = Time(second * 1000);
            let change = act(&mut heads, *a, now);
            notify(&routes, &[], &mut board, &[change], now);
            let groups = serde_json::to_string(&board.groups.values().collect::<Vec<_>>());
            let back: Vec<Group> = serde_json::from_str(&groups.expect("groups")).expect("groups");
            assert!(back.iter().eq(board.groups.values()), "{}", case.name);
            let storms = serde_json::to_string(&board.storms).expect("storms");
            let back: BTreeMap<SmolStr, Storm> = serde_json::from_str(&storms).expect("storms");
            assert_eq!(back, board.storms, "{}", case.name);
        }
    }
}
