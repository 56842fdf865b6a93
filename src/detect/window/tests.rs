//! The window of duplicates: what is new, what is known, what leaves.

use std::collections::HashSet;

use super::*;
use crate::decode::{Decoder, RawRecord};

fn is_duplicate(w: &mut Window, entry: Entry, at: i64) -> bool {
    w.expire(Time(at));
    w.add(entry, Time(at)) == Sight::Duplicate
}

/// What the window must answer, told by the plainest means.
#[derive(Default)]
struct Plain {
    order: VecDeque<(String, i64)>,
    seen: HashSet<String>,
}

impl Plain {
    fn is_duplicate(&mut self, entry: Entry, at: i64) -> bool {
        while self.order.front().is_some_and(|(_, t)| at - t > MAX_AGE_MS) {
            self.pop();
        }
        let name = format!("{entry:?}");
        if !self.seen.insert(name.clone()) {
            return true;
        }
        self.order.push_back((name, at));
        if self.order.len() > MAX_ENTRIES {
            self.pop();
        }
        false
    }
    fn pop(&mut self) {
        if let Some((name, _)) = self.order.pop_front() {
            self.seen.remove(&name);
        }
    }
}

#[test]
fn answers_as_a_plain_set_and_list_would() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut window, mut plain) = (Window::default(), Plain::default());
    let (mut at, mut duplicates) = (1_800_000_000_000, 0);
    for n in 0..200_000u64 {
        at += i64::from(rng.u8(0..4));
        // Now and then hours of silence: all that is remembered is too old.
        if rng.u32(0..60_000) == 0 {
            at += 2 * MAX_AGE_MS;
        }
        let back = rng.u64(0..100_000).min(n);
        let n = if rng.u8(0..4) == 0 { n - back } else { n };
        let entry = if n % 5 == 0 {
            Entry::Id(hash16("event", &[&n.to_le_bytes()]).0)
        } else {
            Entry::Seq(u32::try_from(n % 3).expect("small"), n, 1)
        };
        let told = is_duplicate(&mut window, entry, at);
        assert_eq!(told, plain.is_duplicate(entry, at), "{n} at {at}");
        duplicates += u32::from(told);
    }
    assert_eq!(window.order.len(), plain.order.len());
    assert!(duplicates > 10_000, "{duplicates}");
}

#[test]
fn a_full_window_takes_twenty_four_bytes_an_entry_and_eight_of_index() {
    let mut window = Window::default();
    for n in 0..3 * MAX_ENTRIES as u64 {
        assert!(!is_duplicate(&mut window, Entry::Seq(0, n, 1), 0));
    }
    assert_eq!(window.order.len(), MAX_ENTRIES);
    assert_eq!(window.order.capacity(), MAX_ENTRIES);
    assert_eq!(size_of::<Packed>(), 24);
    assert_eq!(window.index.bytes(), 8 * MAX_ENTRIES);
}

#[test]
fn a_window_comes_back_to_the_bit_also_across_half_a_year() {
    let mut window = Window::default();
    let key = LaneKey {
        gateway: "g".into(),
        boot: "b".into(),
        lane: 3,
    };
    // The base moves when the window was silent for longer than 32 bits of milliseconds.
    for at in [5, MAX_AGE_MS, 16_000_000_000, 16_000_000_001_i64] {
        window.expire(Time(at));
        // A lane goes with the last of its entries.
        if window.lanes.iter().all(Option::is_none) {
            window.add_lane(key.clone());
        }
        let lane = 0;
        assert!(!is_duplicate(
            &mut window,
            Entry::Seq(lane, at.unsigned_abs(), 9),
            at
        ));
        let id = hash16("event", &[&at.to_le_bytes()]).0;
        assert!(!is_duplicate(&mut window, Entry::Id(id), at));
    }
    let mut w = Writer::default();
    window.encode(&mut w);
    let mut back = Window::decode(&mut Reader::new(&w.0), true).expect("decodes");
    let mut again = Writer::default();
    back.encode(&mut again);
    assert_eq!(w.0, again.0);
    let at = 16_000_000_000_i64;
    assert!(is_duplicate(
        &mut back,
        Entry::Seq(0, at.unsigned_abs(), 9),
        at + 1
    ));
}

fn event(gateway: &str, id: &str) -> Box<Event> {
    let text = format!(
        r#"{{"v":1,"id":"{id}","gateway":"{gateway}","at":"2026-11-21T07:00:00Z","operation":"chat","model":{{"requested":"m"}},"status":200}}"#
    );
    let raw = RawRecord {
        topic: "t",
        partition: 0,
        offset: 0,
        append: Time(0),
        key: None,
        value: Some(text.as_bytes()),
        headers: &[],
    };
    Decoder::sealed().decode(&raw).expect("an event")
}

#[test]
fn a_number_without_a_start_is_no_proof_of_a_duplicate() {
    let mut w = Window::default();
    let mut numbered = |id: &str, boot: Option<&str>| {
        let mut e = event("a", id);
        (e.seq, e.boot) = (Some(7), boot.map(SmolStr::new));
        w.see(&e, Time(0))
    };
    // A restart begins at the same numbers: another event, until its id comes again.
    assert_eq!(numbered("1", None), Sight::New);
    assert_eq!(numbered("2", None), Sight::New);
    assert_eq!(numbered("2", None), Sight::Duplicate);
    assert_eq!(numbered("3", Some("b")), Sight::New);
    assert_eq!(numbered("3", Some("b")), Sight::Duplicate);
    assert_eq!(numbered("4", Some("b")), Sight::Conflict);
    assert_eq!(numbered("5", Some("c")), Sight::New);
}

#[test]
fn counters_of_two_gateways_are_different_events() {
    let mut w = Window::default();
    assert_eq!(w.see(&event("a", "1"), Time(0)), Sight::New);
    assert_eq!(w.see(&event("b", "1"), Time(0)), Sight::New);
    assert_eq!(w.see(&event("a", "1"), Time(0)), Sight::Duplicate);
}

fn numbered(id: &str, boot: &str, lane: u32, seq: u64) -> Box<Event> {
    let mut e = event("gw-1", id);
    (e.boot, e.lane, e.seq) = (Some(boot.into()), lane, Some(seq));
    e
}

#[test]
fn another_event_at_the_same_place_is_none_that_was_seen() {
    let mut w = Window::default();
    let mut forged_first = Vec::new();
    for seq in 0..3 {
        let forged = numbered(&format!("forged-{seq}"), "b", 0, seq);
        forged_first.push(w.see(&forged, Time(0)));
    }
    assert_eq!(forged_first, [Sight::New; 3]);
    for seq in 0..3 {
        let real = numbered(&format!("real-{seq}"), "b", 0, seq);
        assert_eq!(w.see(&real, Time(0)), Sight::Conflict);
        // Sent again, it is the same one; so is the first.
        assert_eq!(w.see(&real, Time(1)), Sight::Duplicate);
        let forged = numbered(&format!("forged-{seq}"), "b", 0, seq);
        assert_eq!(w.see(&forged, Time(1)), Sight::Duplicate);
    }
    let same = |w: &mut Window| {
        let seen = [
            w.see(&numbered("real-1", "b", 0, 1), Time(2)),
            w.see(&numbered("forged-1", "b", 0, 1), Time(2)),
            w.see(&numbered("third", "b", 0, 1), Time(2)),
        ];
        assert_eq!(seen, [Sight::Duplicate, Sight::Duplicate, Sight::Conflict]);
    };
    // Also after a restart.
    let mut bytes = Writer::default();
    w.encode(&mut bytes);
    let mut back = Window::decode(&mut Reader::new(&bytes.0), true).expect("decodes");
    same(&mut back);
    same(&mut w);
}

#[test]
fn a_checkpoint_of_the_version_before_knows_places_only() {
    let mut w = Window::default();
    for seq in 0..3 {
        w.see(&numbered("a", "b", 0, seq), Time(5));
    }
    // As it was written: without marks.
    let mut old = Writer::default();
    old.len(1);
    old.str("gw-1");
    old.str("b");
    old.u64(0);
    old.len(3);
    for (time, step) in [(5, 0), (0, 1), (0, 1)] {
        old.i64(time);
        old.len(1);
        old.i64(step);
    }
    let mut back = Window::decode(&mut Reader::new(&old.0), false).expect("decodes");
    let seen = [1, 3].map(|seq| back.see(&numbered("z", "b", 0, seq), Time(5)));
    assert_eq!(seen, [Sight::Duplicate, Sight::New]);
}

#[test]
fn a_lane_per_event_costs_no_walk() {
    let mut w = Window::default();
    for n in 0..70_000u32 {
        let boot = format!("boot-{}", n / 2);
        let e = numbered("e", &boot, n % 2, 7);
        assert_eq!(w.see(&e, Time(0)), Sight::New);
    }
    assert_eq!(w.lanes.iter().flatten().count(), MAX_ENTRIES);
    let longest = w.lane_of.values().map(Vec::len).max();
    assert_eq!(longest, Some(1), "a look-up meets its own lane");
    assert_eq!(w.lane_of.len(), MAX_ENTRIES);
}
