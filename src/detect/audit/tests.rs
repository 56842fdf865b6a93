//! Gateways of every kind, minute by minute: who is told to be silent, and what is told of losses.

use super::*;
use crate::detect::CLOSE_AFTER_MS;
use crate::detect::part::{GatewaySeen, LaneSeen};
use crate::detect::wire::{Reader, Writer};

const DAY: i64 = 24 * 60;
/// A Monday, 00:00.
const MONDAY: i64 = 4 * DAY;

fn close(minute: i64) -> Time {
    Time::from_minute(minute + 1).plus_ms(CLOSE_AFTER_MS)
}

fn seen(minute: i64, events: u64) -> MinutePart {
    let mut part = MinutePart {
        minute,
        events,
        ..MinutePart::default()
    };
    if events > 0 {
        let seen = GatewaySeen {
            events,
            appended: minute,
            ..GatewaySeen::default()
        };
        part.gateways.insert("g".into(), seen);
    }
    part
}

fn step(audit: &mut Audit, part: &MinutePart, complete: bool) -> Vec<Finding> {
    let mut out = Vec::new();
    let at = close(part.minute);
    audit.minute(&DetectConfig::default(), part, at, complete, &mut out);
    out
}

/// What is told of a gateway that sends so many events in each minute: minute, stage.
fn told(minutes: i64, mut sends: impl FnMut(i64) -> u64) -> Vec<(i64, Stage)> {
    let mut audit = Audit::default();
    let mut out = Vec::new();
    for m in 0..minutes {
        let minute = MONDAY + m;
        for f in step(&mut audit, &seen(minute, sends(m)), true) {
            assert_eq!(f.rule, "audit-silent-gateway");
            out.push((m, f.stage));
        }
    }
    out
}

#[test]
fn sudden_silence_of_a_fast_gateway_is_one_page_and_its_return_makes_room_for_the_next() {
    let stops = |m: i64| u64::from(m < 40 || (60..120).contains(&m)) * 20;
    assert_eq!(told(DAY, stops), [(44, Stage::Page), (125, Stage::Page)]);
    // A few minutes of history are none; nor does one page that faded out.
    assert_eq!(told(DAY, |m| u64::from(m < 20) * 50), []);
    assert_eq!(told(DAY, |m| u64::try_from(40 - m).unwrap_or(0)), []);
}

#[test]
fn slow_bursty_and_cron_gateways_are_not_silent() {
    assert_eq!(told(30 * DAY, |m| u64::from(m % DAY == 600)), []);
    for every in [7, 30, 60, 95, 6 * 60] {
        let cron = |m: i64| u64::from(m % every == 0) * 400;
        assert_eq!(told(20 * DAY, cron), [], "each {every} min");
    }
    // A busy hour, then a call each 40 minutes.
    assert_eq!(
        told(20 * DAY, |m| if m < 60 {
            6
        } else {
            u64::from(m % 40 == 0)
        }),
        []
    );
    // Bursts at random.
    let mut rng = fastrand::Rng::with_seed(4);
    assert_eq!(told(20 * DAY, |_| u64::from(rng.u32(0..45) == 0) * 400), []);
}

#[test]
fn a_job_that_has_run_for_weeks_and_stops_is_a_ticket() {
    let cron = |m: i64| u64::from(m < 20 * DAY && m % 30 == 0) * 400;
    let got = told(22 * DAY, cron);
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].1, Stage::Ticket);
    // Five times its pause after its last minute.
    assert_eq!(got[0].0 - (20 * DAY - 30), 5 * 29);
}

/// Calls in a minute of office hours; `users` at work make one in six minutes each.
fn office(rng: &mut fastrand::Rng, m: i64, users: u64) -> u64 {
    let (day, minute) = (m / DAY % 7, m % DAY);
    let late = rng.i64(-10..40);
    if day > 4 || !(8 * 60 + late..17 * 60 + 60 - late).contains(&minute) {
        return 0;
    }
    (0..users).filter(|_| rng.u32(0..6) == 0).count() as u64
}

#[test]
fn an_office_is_quiet_at_night_and_at_weekends_and_silent_when_nobody_comes() {
    for (users, stage) in [(13, Stage::Ticket), (120, Stage::Page)] {
        let mut rng = fastrand::Rng::with_seed(users);
        assert_eq!(
            told(35 * DAY, |m| office(&mut rng, m, users)),
            [],
            "{users}"
        );
        // In the sixth week it stops on Monday at noon, and does not come on Tuesday either.
        let gone = |m: i64| (35 * DAY + 12 * 60..36 * DAY + 18 * 60).contains(&m);
        let mut rng = fastrand::Rng::with_seed(users);
        let got = told(37 * DAY, |m| {
            u64::from(!gone(m)) * office(&mut rng, m, users)
        });
        assert_eq!(got.len(), 1, "{users}: {got:?}");
        let after = got[0].0 - (35 * DAY + 12 * 60);
        assert!((4..25).contains(&after), "{users}: {after} min");
        assert_eq!(got[0].1, stage, "{users}");
        // Nobody comes on a Tuesday: told in the morning, as a ticket.
        let gone = |m: i64| m / DAY == 36;
        let mut rng = fastrand::Rng::with_seed(users);
        let got = told(37 * DAY, |m| {
            u64::from(!gone(m)) * office(&mut rng, m, users)
        });
        assert_eq!(got.len(), 1, "{users}: {got:?}");
        assert!((9 * 60..11 * 60).contains(&(got[0].0 % DAY)), "{got:?}");
        assert_eq!(got[0].1, Stage::Ticket);
    }
}

#[test]
fn without_a_partition_nothing_is_learnt_or_judged() {
    let mut audit = Audit::default();
    for m in 0..60 {
        step(&mut audit, &seen(m, 20), true);
    }
    for m in 60..120 {
        assert_eq!(step(&mut audit, &seen(m, 0), false), []);
    }
    // Its events come when the partition goes on.
    let mut out = Vec::new();
    for m in 60..120 {
        audit.late(
            &DetectConfig::default(),
            &seen(m, 20),
            120,
            close(120),
            &mut out,
        );
    }
    for m in 120..130 {
        out.extend(step(&mut audit, &seen(m, 20), true));
    }
    assert_eq!(out, []);
}

#[test]
fn late_events_are_a_sign_of_life_and_a_clock_that_is_behind_is_told() {
    let mut audit = Audit::default();
    let mut out = Vec::new();
    for m in 0..120 {
        if m < 40 {
            out.extend(step(&mut audit, &seen(m, 20), true));
            continue;
        }
        let mut late = seen(m - 2, 20);
        late.late = true;
        late.gateways.get_mut("g").expect("g").appended = m;
        audit.late(&DetectConfig::default(), &late, m, close(m), &mut out);
        out.extend(step(&mut audit, &seen(m, 0), true));
    }
    let rules: Vec<_> = out.iter().map(|f| (f.rule.as_str(), f.stage)).collect();
    // Again after an hour.
    assert_eq!(rules, [("audit-late-clock", Stage::Ticket); 2], "{out:?}");
    assert_eq!(out[0].end, Time::from_minute(45));
}

fn lane(part: &mut MinutePart, boot: &str, lane: u32, seen: &[(u64, u64)], declared: u64) {
    let key = LaneKey {
        gateway: "g".into(),
        boot: boot.into(),
        lane,
    };
    let seen = LaneSeen {
        seen: seen.to_vec(),
        declared,
    };
    part.lanes.insert(key, seen);
    let g = part.gateways.entry("g".into()).or_default();
    g.declared = g.declared.saturating_add(declared);
}

#[test]
fn a_declaration_explains_the_holes_around_it_and_no_later_ones() {
    let mut audit = Audit::default();
    let mut out = Vec::new();
    for m in 0..70u64 {
        let minute = i64::try_from(m).expect("small");
        let mut part = seen(minute, 20);
        // Numbers what it sends: declares without a hole for half an hour, loses 500 at 40 and, declared, 500 at 50.
        let lost = [40, 50].iter().filter(|at| m >= **at).count() as u64 * 500;
        let declared = match m {
            0..30 => 20,
            50 => 500,
            _ => 0,
        };
        let from = m * 20 + lost;
        lane(&mut part, "b", 0, &[(from, from + 19)], declared);
        out.extend(step(&mut audit, &part, true));
    }
    let missing: Vec<_> = out
        .iter()
        .filter(|f| f.rule == "audit-missing-events")
        .collect();
    assert_eq!(missing.len(), 1, "{out:?}");
    assert!(missing[0].reason.starts_with("500 events"), "{out:?}");
    assert_eq!(missing[0].end, Time::from_minute(43));
    let (_, sums) = audit.missing().next().expect("g");
    assert_eq!((sums.declared, sums.unexplained), (600 + 500, 500));
    assert_eq!(
        audit.take_noted().values().copied().collect::<Vec<_>>(),
        [sums]
    );
    assert!(audit.take_noted().is_empty());
    // 1,100 of 2,300 in the hour.
    let loss: Vec<_> = out
        .iter()
        .filter(|f| f.rule == "audit-declared-loss")
        .collect();
    assert_eq!(loss.len(), 1, "{out:?}");
    assert!(
        loss[0].reason.contains("1100 of 2300 events"),
        "{}",
        loss[0].reason
    );
    assert_eq!(loss[0].stage, Stage::Ticket);
}

#[test]
fn what_a_restart_lost_is_told_at_the_end_of_the_hour_or_file() {
    let mut audit = Audit::default();
    for m in 0..10 {
        let mut part = seen(m, 60);
        let from = u64::try_from(m).expect("small") * 60;
        let (boot, from) = if m < 5 {
            ("b1", from)
        } else {
            ("b2", from + 4_700)
        };
        lane(&mut part, boot, 0, &[(from, from + 59)], 0);
        assert_eq!(step(&mut audit, &part, true), []);
    }
    let mut out = Vec::new();
    audit.finish(&DetectConfig::default(), 12, close(12), &mut out);
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!(out[0].rule, "audit-declared-loss");
    assert!(
        out[0].reason.starts_with("5000 of 5600 events"),
        "{}",
        out[0].reason
    );
}

#[test]
fn forged_numbers_overflow_nothing() {
    let mut audit = Audit::default();
    let most = u64::try_from(i64::MAX).expect("positive");
    step(&mut audit, &seen(0, 1), true);
    let mut part = seen(1, 8);
    for n in 0..4 {
        lane(&mut part, "b", n, &[(0, 0), (most, most)], most);
    }
    step(&mut audit, &part, true);
    let mut out = Vec::new();
    let mut part = seen(2, 8);
    for n in 0..4 {
        lane(&mut part, "c", n, &[(0, 0), (most, most)], 0);
    }
    out.extend(step(&mut audit, &part, true));
    for m in 3..70 {
        out.extend(step(&mut audit, &seen(m, 0), true));
    }
    let f = out
        .iter()
        .find(|f| f.rule == "audit-missing-events")
        .expect("told");
    assert!(f.reason.starts_with(&u64::MAX.to_string()), "{}", f.reason);
}

#[test]
fn the_state_comes_back_to_the_bit_and_an_older_one_learns_habits_anew() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut audit = Audit::default();
    for m in 0..9 * DAY {
        let mut part = seen(MONDAY + m, office(&mut rng, m, 30));
        if part.events > 0 {
            let from = u64::try_from(m).expect("small") * 2;
            lane(&mut part, "b", 0, &[(from, from)], 1);
            let g = part.gateways.get_mut("g").expect("there");
            g.refused = u64::from(m % 3 == 0);
        }
        step(&mut audit, &part, true);
    }
    audit.take_noted();
    let mut w = Writer::default();
    audit.encode(&mut w);
    let back = Audit::decode(&mut Reader::new(&w.0), false, true).expect("decodes");
    assert_eq!(back, audit);
    for cut in 0..w.0.len() {
        assert!(Audit::decode(&mut Reader::new(&w.0[..cut]), false, true).is_err());
    }

    // As format 3 wrote it: no lanes, one gateway, no costs, nothing told.
    let mut w = Writer::default();
    w.u64(0);
    w.len(0);
    w.len(1);
    w.str("g");
    w.i64(0);
    w.i64(MONDAY);
    w.f64(20.0);
    w.bool(false);
    for n in [1, 2, 3, 4] {
        w.u64(n);
    }
    w.len(0);
    w.len(0);
    let mut r = Reader::new(&w.0);
    let mut old = Audit::decode(&mut r, true, false).expect("decodes");
    assert!(r.is_at_end());
    assert_eq!(
        old.missing().next().map(|(_, m)| m.kinds().map(|k| k.1)),
        Some([1, 2, 3, 4])
    );
    let mut out = Vec::new();
    for m in 1..DAY {
        out.extend(step(&mut old, &seen(MONDAY + m, 0), true));
    }
    assert_eq!(out, [], "its quiet may be usual");
}

#[test]
fn names_that_come_once_push_out_no_habits() {
    let mut audit = Audit::default();
    let mut out = Vec::new();
    for m in 0..60 {
        // From minute 40 on nothing of `g`, and a thousand new names a minute.
        let mut part = seen(m, u64::from(m < 40) * 20);
        for n in 0..u64::from(m >= 40) * 1_000 {
            let once = GatewaySeen {
                events: 1,
                appended: m,
                ..GatewaySeen::default()
            };
            part.gateways.insert(format!("x{m}-{n}").into(), once);
        }
        out.extend(step(&mut audit, &part, true));
    }
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!(out[0].subject, "gateway:g");
    assert_eq!(audit.missing().count(), 4_096);
    assert!(audit.forgotten > 10_000);
}

#[test]
fn invented_models_and_gateways_are_a_bounded_number_of_tickets() {
    let mut audit = Audit::default();
    let mut subjects = std::collections::BTreeSet::new();
    for minute in MONDAY..MONDAY + 3 {
        let mut part = seen(minute, 5);
        for n in 0..4_096 {
            let name = smol_str::format_smolstr!("invented-{minute}-{n}");
            let cost = crate::detect::part::CostSeen {
                unpriced: 1,
                ..Default::default()
            };
            part.costs.insert(name, cost);
        }
        for f in step(&mut audit, &part, true) {
            assert_eq!(f.rule, "audit-unpriced-model");
            assert!(subjects.insert(f.subject), "told twice");
        }
    }
    assert_eq!(subjects.len(), MAX_NAMED + 1);
    assert!(subjects.contains("model:(others)"));
    assert_eq!(audit.told.len(), MAX_NAMED + 1);
}

#[test]
fn lanes_full_of_gaps_are_bounded_together() {
    let mut audit = Audit::default();
    let mut part = seen(MONDAY, 5);
    for lane in 0..8 {
        let gappy = LaneSeen {
            seen: (0..20_000).map(|n| (3 * n, 3 * n)).collect(),
            declared: 0,
        };
        let key = LaneKey {
            gateway: "g".into(),
            boot: "b".into(),
            lane,
        };
        part.lanes.insert(key, gappy);
    }
    let honest = LaneKey {
        gateway: "other".into(),
        boot: "b".into(),
        lane: 0,
    };
    let few = LaneSeen {
        seen: vec![(0, 4), (7, 9)],
        declared: 0,
    };
    part.lanes.insert(honest.clone(), few);
    step(&mut audit, &part, true);
    let of = |gateway: &str| {
        let lanes = audit.lanes.iter().filter(|(k, _)| k.gateway == gateway);
        lanes.map(|(_, l)| l.seen.len()).sum::<usize>()
    };
    assert_eq!(of("g"), MAX_INTERVALS);
    assert_eq!(of("other"), 2);
    assert_eq!(audit.forgotten, 8 * 20_000 - MAX_INTERVALS as u64);
}
