//! The notifier, case by case: what happens to incidents, and what each sink is then told and when.
//!
//! A case is played second by second. Whatever it is about, three things must hold in all of them:
//! every candidate (change, sink) has exactly one fate, the rows queued are as many as the fates
//! `queued`, and after a call nothing is due in the past (the caller would spin).

mod cases;
mod lasting;

use std::collections::BTreeMap;

use cases::{CASES, routes, split};

use super::*;
use crate::decide::Matcher;
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

/// The board, and the rows of what left its memory.
#[derive(Default)]
struct Rows(BTreeMap<Hash16, String>);

impl Rows {
    /// Brings back what the call needs, and nothing else.
    fn wake(&self, board: &mut Board, routes: &Routes, changes: &[(Change, Head)], now: Time) {
        for key in board.wanted(routes, changes, now) {
            let group = serde_json::from_str(&self.0[&key]).expect("a group");
            board.wake(key, group);
        }
    }

    /// Lets go of all that sleeps.
    fn rest(&mut self, board: &mut Board, routes: &Routes, now: Time) {
        let before = board.groups.clone();
        board.rest(routes, now, 0);
        for (key, group) in before {
            if !board.groups.contains_key(&key) {
                let row = serde_json::to_string(&group).expect("json");
                self.0.insert(key, row);
            }
        }
    }
}

/// `rests`: what sleeps leaves memory after each call.
fn play(case: &Case, rests: bool) -> (Vec<String>, Vec<String>) {
    let mut rows = Rows::default();
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
        rows.wake(&mut board, &routes, &changes, now);
        let n = notify(&routes, &silences, &mut board, &changes, now);
        if rests {
            rows.rest(&mut board, &routes, now);
        }
        let own = n.changes.iter();
        for c in changes.iter().map(|(c, _)| c).chain(own) {
            candidates.entry((c.key, c.version, c.kind)).or_default().0 += 1;
        }
        for row in &n.outbox {
            // A digest is an incident of its own.
            queued += i32::from(row.payload.detector != "digest");
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
    let mut wrong = String::new();
    for case in CASES {
        for rests in [false, true] {
            let (told, fates) = play(case, rests);
            if told != case.told || fates != case.fates {
                let name = case.name;
                wrong += &format!("{name} {rests}\n  told {told:?}\n  fates {fates:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
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
