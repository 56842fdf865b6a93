//! The cases, and the routes they play on.

use super::*;
use crate::decide::{Escalate, Field, Inhibit};

/// One route to `ops`: all incidents of a detector together, waits 10 s, news each 20 s, repeats each 1000 s.
pub(super) fn routes() -> Routes {
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

/// Critical to the pager, the rest to the chat.
pub(super) fn split(routes: &mut Routes) {
    let mut pager = routes.root.clone();
    pager.name = "pager".into();
    pager.matchers = vec![Matcher::parse("severity=critical").expect("matcher")];
    pager.sinks = vec!["pager".into()];
    let mut chat = routes.root.clone();
    chat.name = "chat".into();
    chat.sinks = vec!["chat".into()];
    chat.repeat_interval_ms = 30_000;
    chat.escalate = Some(Escalate {
        after_ms: 50_000,
        sinks: vec!["boss".into()],
    });
    routes.root.sinks.clear();
    routes.root.children = vec![pager, chat];
}

/// As [`split`], but the pager's route tells the chat too, and each incident stands alone.
fn shared(routes: &mut Routes) {
    split(routes);
    for route in &mut routes.root.children {
        route.group_by = vec![Field::Key];
        route.escalate = None;
    }
    routes.root.children[0].sinks = vec!["pager".into(), "chat".into()];
}

/// Two routes, one after the other, that name the same sink.
fn twice(routes: &mut Routes) {
    split(routes);
    for route in &mut routes.root.children {
        route.matchers.clear();
        route.carry_on = true;
        route.escalate = None;
    }
    routes.root.children[0].sinks = vec!["chat".into()];
    routes.root.children[1].sinks = vec!["chat".into(), "mail".into()];
}

fn storm(routes: &mut Routes) {
    routes.root.group_by = vec![Field::Key];
    routes.root.group_wait_ms = 0;
    routes.storm_limit = 2;
    routes.storm_window_ms = 60_000;
}

pub(super) const CASES: &[Case] = &[
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
        // At ops and at boss.
        fates: &[
            "b opened grouped",
            "a resolved grouped",
            "a resolved grouped",
        ],
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
        name: "a digest is over when all it counted is; what it counted is not told one by one",
        set: storm,
        acts: &[
            (0, Open("a", Low)),
            (1, Open("b", Low)),
            (2, Open("c", Low)),
            (3, Open("d", Low)),
            (70, Resolve("c")),
            (80, Resolve("a")),
            (90, Resolve("d")),
        ],
        told: &[
            "0 ops firing a",
            "1 ops firing b",
            "60 ops digest digest",
            "80 ops resolved a",
            "90 ops resolved digest",
        ],
        fates: &[
            "c opened digested",
            "d opened digested",
            "c resolved deduplicated",
            "d resolved deduplicated",
        ],
        ..PLAIN
    },
    Case {
        name: "what was only counted and became worse is told by name, and so is its end",
        set: storm,
        acts: &[
            (0, Open("a", Low)),
            (1, Open("b", Low)),
            (2, Open("c", Low)),
            (70, Worse("c", High)),
            (90, Resolve("c")),
        ],
        told: &[
            "0 ops firing a",
            "1 ops firing b",
            "60 ops digest digest",
            "70 ops firing c",
            "70 ops resolved digest",
            "90 ops resolved c",
        ],
        fates: &["c opened digested"],
        ..PLAIN
    },
    Case {
        name: "a rise in severity and a call to others are bounded too",
        set: |r| {
            storm(r);
            escalate(r);
        },
        acts: &[
            (0, Open("a", Low)),
            (1, Open("b", Low)),
            (40, Worse("a", Medium)),
            (41, Worse("b", Medium)),
            (42, Worse("a", High)),
            (43, Worse("b", High)),
            (44, Worse("a", Critical)),
            (45, Open("c", High)),
        ],
        until: 59,
        told: &[
            "0 ops firing a",
            "1 ops firing b",
            "30 boss escalated a",
            "31 boss escalated b",
            "40 ops escalated a",
            "40 boss escalated a",
            "41 ops escalated b",
            "41 boss escalated b",
            "42 ops escalated a",
            "42 boss escalated a",
            "43 ops escalated b",
            "43 boss escalated b",
            "44 ops escalated a",
            "44 boss escalated a",
        ],
        fates: &["c opened digested"],
        ..PLAIN
    },
    Case {
        name: "a rise into another route: the first hears of it and of the end, and does not nag",
        set: split,
        acts: &[
            (0, Open("a", High)),
            (20, Worse("a", Critical)),
            (90, Resolve("a")),
        ],
        until: 300,
        told: &[
            "10 chat firing a",
            "20 chat escalated a",
            "20 pager firing a",
            "90 chat resolved a",
            "90 pager resolved a",
        ],
        ..PLAIN
    },
    Case {
        name: "a rise into another route before anybody was told: told there alone",
        set: split,
        acts: &[
            (0, Open("a", High)),
            (5, Worse("a", Critical)),
            (90, Resolve("a")),
        ],
        until: 300,
        told: &["5 pager firing a", "90 pager resolved a"],
        fates: &["a opened deduplicated"],
        ..PLAIN
    },
    Case {
        name: "a rise into another route with the same sink: one message, the new route's repeats",
        set: shared,
        acts: &[
            (0, Open("a", High)),
            (20, Worse("a", Critical)),
            (90, Resolve("a")),
        ],
        until: 300,
        told: &[
            "10 chat firing a",
            "20 pager firing a",
            "20 chat escalated a",
            "90 pager resolved a",
            "90 chat resolved a",
        ],
        ..PLAIN
    },
    Case {
        name: "two routes to one sink: one message, one fate",
        set: twice,
        acts: &[(0, Open("a", High)), (35, Resolve("a"))],
        told: &[
            "10 mail firing a",
            "10 chat firing a",
            "35 mail resolved a",
            "35 chat resolved a",
        ],
        ..PLAIN
    },
    Case {
        name: "a silence of the first mutes the repeats of no other",
        set: |r| r.root.repeat_interval_ms = 30_000,
        silences: &[("rule=a", 20, 1_000)],
        acts: &[(0, Open("a", High)), (1, Open("b", High))],
        until: 75,
        told: &[
            "10 ops firing a+1",
            "40 ops repeat a+1",
            "70 ops repeat a+1",
        ],
        fates: &["b opened grouped"],
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
