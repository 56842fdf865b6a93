//! What must hold over weeks, over changes of the configuration, and in a flood.

use super::*;
use crate::decide::notify::group::MOST;
use crate::decide::{Escalate, Field};

/// Names of incidents by number; `head` wants names that live as long as the program.
fn incident(n: usize, severity: Severity, at: Time) -> Head {
    Head {
        key: hash16("incident", &[&n.to_le_bytes()]),
        ..head("a", severity, at)
    }
}

fn opened(h: &Head, at: Time) -> (Change, Head) {
    (h.change(ChangeKind::Opened, at), h.clone())
}

fn resolved(h: &mut Head, at: Time) -> (Change, Head) {
    h.state = State::Resolved;
    h.version += 1;
    (h.change(ChangeKind::Resolved, at), h.clone())
}

fn said(n: &Notified) -> Vec<String> {
    let rows = n.outbox.iter();
    rows.map(|r| format!("{} {}", r.sink, r.kind.as_str()))
        .collect()
}

/// Each (change, sink) once.
fn once(n: &Notified) {
    let mut seen = BTreeSet::new();
    for f in &n.fates {
        let new = seen.insert((f.key, f.number, f.version, f.kind, f.sink.clone()));
        assert!(new, "two fates: {f:?}");
    }
}

/// The board as another process would load it.
fn stored(board: &Board) -> Board {
    let groups = serde_json::to_string(&board.groups.values().collect::<Vec<_>>()).expect("json");
    let groups: Vec<Group> = serde_json::from_str(&groups).expect("groups");
    let storms = serde_json::to_string(&board.storms).expect("json");
    let again = Board::new(
        board.groups.keys().copied().zip(groups).collect(),
        serde_json::from_str(&storms).expect("storms"),
    );
    assert_eq!(&again, board, "nothing is lost by storing it");
    again
}

#[test]
fn a_removed_route_still_tells_the_end() {
    let mut first = routes();
    split(&mut first);
    let mut second = first.clone();
    second.root.children.remove(1);
    let mut board = Board::default();
    let mut a = head("a", High, Time(0));
    let mut b = head("b", High, Time(0));
    notify(
        &first,
        &[],
        &mut board,
        &[opened(&a, Time(0)), opened(&b, Time(0))],
        Time(0),
    );
    let n = notify(&first, &[], &mut board, &[], Time(10_000));
    assert_eq!(said(&n), ["chat firing"]);
    // The chat's route is gone after a restart; nobody else is to hear of these.
    let mut board = stored(&board);
    let n = notify(&second, &[], &mut board, &[], Time(20_000));
    assert_eq!(said(&n), [""; 0]);
    let n = notify(
        &second,
        &[],
        &mut board,
        &[resolved(&mut a, Time(0))],
        Time(30_000),
    );
    assert_eq!(said(&n), [""; 0], "the other one is open");
    once(&n);
    let change = resolved(&mut b, Time(0));
    let n = notify(&second, &[], &mut board, &[change], Time(40_000));
    assert_eq!(said(&n), ["chat resolved"]);
    once(&n);
    assert!(stored(&board).groups.is_empty(), "and the group is gone");
}

#[test]
fn a_renamed_route_goes_on_where_the_old_one_stopped() {
    let mut first = routes();
    first.root.group_by = vec![Field::Key];
    let mut second = first.clone();
    second.root.name = "other".into();
    second.root.repeat_interval_ms = 60_000;
    let mut board = Board::default();
    let mut a = head("a", High, Time(0));
    notify(&first, &[], &mut board, &[opened(&a, Time(0))], Time(0));
    let n = notify(&first, &[], &mut board, &[], Time(10_000));
    assert_eq!(said(&n), ["ops firing"]);
    let n = notify(&second, &[], &mut board, &[], Time(20_000));
    assert_eq!(said(&n), [""; 0], "told once");
    let n = notify(&second, &[], &mut board, &[], Time(70_000));
    assert_eq!(said(&n), ["ops repeat"], "by the new route's time");
    let change = resolved(&mut a, Time(0));
    let n = notify(&second, &[], &mut board, &[change], Time(90_000));
    assert_eq!(said(&n), ["ops resolved"]);
    assert!(board.groups.is_empty());
}

#[test]
fn a_reopening_in_another_group_leaves_none_behind() {
    let mut r = routes();
    r.root.group_by = vec![Field::User];
    r.root.group_interval_ms = 300_000;
    let mut board = Board::default();
    let mut a = head("a", High, Time(0));
    a.user = Some("u1".into());
    let mut rows = Vec::new();
    let mut play = |change: Option<(Change, Head)>, second: i64| {
        let now = Time(second * 1000);
        let change: Vec<_> = change.into_iter().collect();
        let n = notify(&r, &[], &mut board, &change, now);
        once(&n);
        rows.extend(n.outbox.iter().map(|row| (second, row.kind, row.dedup_key)));
        board.groups.len()
    };
    play(Some(opened(&a, Time(0))), 0);
    play(None, 10);
    play(Some(resolved(&mut a, Time(0))), 20);
    (a.state, a.user) = (State::Open, Some("u2".into()));
    a.version += 1;
    let again = (a.change(ChangeKind::Reopened, Time(0)), a.clone());
    play(Some(again), 30);
    play(None, 400);
    play(Some(resolved(&mut a, Time(0))), 900);
    let left = play(None, 1_300);
    assert_eq!(left, 0, "no group is left");
    let last = rows.last().expect("rows").1;
    assert_eq!(last, NotificationKind::Resolved);
    assert!(rows.iter().all(|(_, _, key)| *key == a.dedup_key()));
    let ends = rows.iter().filter(|r| r.1 == NotificationKind::Resolved);
    assert_eq!(ends.count(), 1, "{rows:?}");
}

#[test]
fn f46_ten_thousand_incidents_make_a_few_messages_from_beginning_to_end() {
    let mut r = routes();
    r.root.group_by = vec![Field::Key];
    r.root.group_wait_ms = 0;
    r.root.repeat_interval_ms = 86_400_000;
    r.root.escalate = Some(Escalate {
        after_ms: 900_000,
        sinks: vec!["boss".into()],
    });
    (r.storm_limit, r.storm_window_ms) = (20, 300_000);
    let mut board = Board::default();
    let mut heads: Vec<Head> = (0..10_000).map(|n| incident(n, High, Time(0))).collect();
    let mut rows = Vec::new();
    let mut fates: BTreeMap<(ChangeKind, SmolStr), u32> = BTreeMap::new();
    let mut storms = 0;
    // From one thing to do to the next.
    let mut acts: Vec<i64> = (0..10).chain([3_000]).map(|s| s * 1_000).collect();
    loop {
        let act = acts.first().map(|ms| Time(*ms));
        let Some(now) = [act, board.next_due(&r)].into_iter().flatten().min() else {
            break;
        };
        let changes: Vec<(Change, Head)> = if Some(now) != act {
            Vec::new()
        } else if acts.remove(0) == 3_000_000 {
            heads.iter_mut().map(|h| resolved(h, now)).collect()
        } else {
            let from = usize::try_from(now.0).expect("small");
            heads[from..from + 1_000]
                .iter()
                .map(|h| opened(h, now))
                .collect()
        };
        let n = notify(&r, &[], &mut board, &changes, now);
        once(&n);
        for f in &n.fates {
            *fates.entry((f.kind, f.sink.clone())).or_default() += 1;
        }
        rows.extend(n.outbox.into_iter().map(|row| (row.sink, row.kind)));
        let json = serde_json::to_string(&board.storms).expect("json");
        storms = storms.max(json.len());
    }
    let count = |sink: &str, kind| rows.iter().filter(|r| r.0 == sink && r.1 == kind).count();
    for sink in ["ops", "boss"] {
        // Twenty by name, the digest of the rest; the end of each.
        assert_eq!(count(sink, NotificationKind::Digest), 1, "{sink}");
        assert_eq!(count(sink, NotificationKind::Resolved), 21, "{sink}");
    }
    assert_eq!(rows.len(), 4 * 21, "{rows:?}");
    assert!(storms < 8_000, "a window's row is small: {storms}");
    for (sink, kind) in [
        ("ops", ChangeKind::Opened),
        ("ops", ChangeKind::Resolved),
        ("boss", ChangeKind::Escalated),
        ("boss", ChangeKind::Resolved),
    ] {
        assert_eq!(fates.get(&(kind, sink.into())), Some(&10_000), "{sink}");
    }
    assert!(board.groups.is_empty());
}

/// Critical incidents in one second: so many of each gateway.
fn criticals(of: &[(&str, usize)]) -> Vec<(Change, Head)> {
    let heads = of.iter().flat_map(|(gateway, n)| {
        (0..*n).map(move |i| {
            let mut h = head("injection-then-leak", Critical, Time(0));
            h.key = hash16("incident", &[gateway.as_bytes(), &i.to_le_bytes()]);
            h.gateway = Some(SmolStr::new(gateway));
            h
        })
    });
    heads.map(|h| opened(&h, Time(0))).collect()
}

#[test]
fn f54_a_gateway_that_floods_the_critical_lane_hides_nobody_elses() {
    let mut r = routes();
    r.root.group_by = vec![Field::Key];
    r.root.group_wait_ms = 0;
    (r.storm_limit, r.storm_window_ms) = (20, 300_000);
    // How many are told by name, by gateway; and what the digests count.
    let told = |of: &[(&str, usize)]| {
        let mut board = Board::default();
        let changes = criticals(of);
        let mut rows = Vec::new();
        for (now, changes) in [(0, changes.as_slice()), (300_000, &[])] {
            let n = notify(&r, &[], &mut board, changes, Time(now));
            once(&n);
            rows.extend(n.outbox);
        }
        let mut named: BTreeMap<SmolStr, usize> = BTreeMap::new();
        for row in rows
            .iter()
            .filter(|row| row.kind == NotificationKind::Firing)
        {
            *named
                .entry(row.payload.gateway.clone().expect("named"))
                .or_default() += 1;
        }
        let digests = rows
            .iter()
            .filter(|row| row.kind == NotificationKind::Digest);
        let counted: Vec<_> = digests.map(|d| (d.severity, d.payload.findings)).collect();
        (named, counted)
    };
    let (named, counted) = told(&[("gw-a", 500), ("gw-b", 1)]);
    assert_eq!((named["gw-a"], named["gw-b"]), (20, 1));
    assert_eq!(counted, [(Critical, 480)], "all of them are counted");
    let (named, counted) = told(&[("gw-a", 20), ("gw-b", 20)]);
    assert_eq!((named["gw-a"], named["gw-b"]), (20, 20));
    assert_eq!(counted, []);
    // Names may be invented: those beyond the bound share an allowance.
    let invented: Vec<String> = (0..500).map(|n| format!("gw-{n}")).collect();
    let of: Vec<_> = invented.iter().map(|name| (name.as_str(), 1)).collect();
    let (named, counted) = told(&of);
    assert_eq!(named.len(), 64 + 20);
    assert_eq!(counted, [(Critical, 500 - 84)]);
}

#[test]
fn a_busy_group_does_not_grow_and_its_messages_are_bounded() {
    let mut r = routes();
    r.root.group_wait_ms = 0;
    r.root.group_interval_ms = 0;
    r.root.repeat_interval_ms = 60_000;
    r.storm_limit = u32::MAX;
    let mut board = Board::default();
    let mut last: Option<Head> = None;
    let mut longest = 0;
    for n in 0..2_000usize {
        let now = Time(i64::try_from(n).expect("small") * 1000);
        let h = incident(n, High, now);
        // There is always one open: the group is never over.
        let mut changes = vec![opened(&h, now)];
        changes.extend(last.take().map(|mut l| resolved(&mut l, now)));
        let told = notify(&r, &[], &mut board, &changes, now);
        longest = longest.max(
            told.outbox
                .iter()
                .map(|r| r.payload.members.len())
                .max()
                .unwrap_or(0),
        );
        last = Some(h);
        assert_eq!(board.groups.len(), 1);
    }
    let group = board.groups.values().next().expect("group");
    assert!(group.members.len() <= 4, "{}", group.members.len());
    assert!(longest <= MEMBERS);
    assert_eq!(board.holders.len(), group.members.len());
    // A flood into one group: its rows stay small too.
    let changes: Vec<_> = (10_000..12_000)
        .map(|n| opened(&incident(n, High, Time(0)), Time(0)))
        .collect();
    let told = notify(&r, &[], &mut board, &changes, Time(3_000_000));
    once(&told);
    assert_eq!(told.fates.len() - told.changes.len(), 2_000);
    assert!(board.groups.values().all(|g| g.members.len() <= MOST));
    assert_eq!(board.groups.len(), 2_003usize.div_ceil(MOST));
    let most = told.outbox.iter().map(|r| r.payload.members.len()).max();
    assert_eq!(most, Some(MEMBERS));
    let row = told
        .outbox
        .iter()
        .max_by_key(|r| r.payload.more)
        .expect("row");
    assert!(
        row.payload.more > 400 && row.payload.more < 500,
        "{}",
        row.payload.more
    );
}

#[test]
fn who_has_left_memory_is_told_as_all_others() {
    let mut r = routes();
    r.root.group_by = vec![Field::Key];
    r.root.group_interval_ms = 0;
    r.root.repeat_interval_ms = 600_000;
    r.root.escalate = Some(Escalate {
        after_ms: 300_000,
        sinks: vec!["boss".into()],
    });
    let (mut all, mut few) = (Board::default(), Board::default());
    let mut rows = Rows::default();
    let mut heads = Vec::new();
    for minute in 0..40_i64 {
        let now = Time(minute * 60_000);
        let mut changes = Vec::new();
        // Five new ones a minute; some of before are over, some are known of, some come back worse.
        for n in 0..5 {
            let n = usize::try_from(minute).expect("small") * 5 + n;
            heads.push(incident(n, Medium, now));
            changes.push(opened(&heads[n], now));
            match n.checked_sub(40) {
                Some(old) if n % 3 == 0 => changes.push(resolved(&mut heads[old], now)),
                Some(old) if n % 3 == 1 => {
                    let h = &mut heads[old];
                    (h.severity, h.version) = (High, h.version + 1);
                    changes.push((h.change(ChangeKind::Escalated, now), h.clone()));
                }
                _ => {}
            }
        }
        let expected = notify(&r, &[], &mut all, &changes, now);
        rows.wake(&mut few, &r, &changes, now);
        let (n, before) = notify_and_tell(&r, &[], &mut few, &changes, now);
        assert_eq!(n, expected, "minute {minute}");
        assert!(before.len() <= few.groups.len() + changes.len());
        rows.rest(&mut few, &r, now);
        assert_eq!(few.len(), all.groups.len(), "nobody is lost");
        assert_eq!(few.next_due(&r), all.next_due(&r));
    }
    assert!(
        few.groups.len() < 20,
        "{} of {} in memory",
        few.groups.len(),
        few.len()
    );
    assert!(few.asleep.len() > 100);
    // A row that is gone: its incident begins anew.
    let lost = *few.asleep.keys().next().expect("one");
    few.forget(lost);
    assert!(few.holders.iter().all(|(_, group)| *group != lost));
}
