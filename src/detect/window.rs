//! Finds duplicates within a partition. Home: partition.
//!
//! By (gateway, boot, lane, seq) where boot and seq are given, else by (gateway, `id`), against the last [`MAX_ENTRIES`] events
//! or the last [`MAX_AGE_MS`] of append time, whichever is fewer. A duplicate beyond that, or in
//! another partition, counts; the leader reports overlaps of sequences.
//!
//! A resend is the same event: at the same place and with the same `id`. Another event at that place is none:
//! whoever may publish could else make events vanish by numbering his own ahead of them. It counts, and is told.

use std::collections::VecDeque;

use std::hash::BuildHasher as _;

use foldhash::{HashMap, HashMapExt as _};

use super::part::LaneKey;
use super::wire::{Damaged, Reader, Writer};
use crate::event::{Event, SmolStr, Time, hash16};

mod index;
use index::Index;

/// Entries kept. Larger finds later duplicates and makes checkpoints larger (about 5 B an entry).
pub const MAX_ENTRIES: usize = 65_536;
/// How long an entry is kept, milliseconds of append time.
pub const MAX_AGE_MS: i64 = 10 * 60_000;
/// Room is made for this many entries at least.
const FEWEST: usize = 64;

/// What the window says of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Not seen before.
    New,
    /// The same event was.
    Duplicate,
    /// Another event was, at the same place of a sequence.
    Conflict,
}

/// What an event is known by: its place in a lane, with a mark of its id, or the hash of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Seq(u32, u64, u16),
    Id([u8; 16]),
}

/// The upper half of a hashed id always has this bit, that of a place (a lane's number) never.
const IS_ID: u64 = 1 << 63;
/// Where the mark stands in the upper half of a place.
const MARK_AT: u32 = 32;

/// A mark of an event's id. Not 0, which says that none was kept. It stands in checkpoints, so it must never
/// change; one in 65,535 others is alike.
fn mark(id: &str) -> u16 {
    let (words, rest) = id.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut h = id.len() as u64;
    for word in words.iter().chain([&last]) {
        h = (h ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^= h >> 32;
    }
    let [.., a, b] = h.to_le_bytes();
    u16::from_le_bytes([a, b]).max(1)
}

/// An [`Entry`] and when it came, in 24 bytes: a full window of each of sixteen partitions is in
/// memory most of the time.
#[derive(Debug, Clone, Copy)]
struct Packed {
    high: u64,
    low: u64,
    /// Milliseconds after the window's `base`.
    at: u32,
    hash: u32,
}

impl Packed {
    fn new(entry: Entry, at: u32, seed: [u64; 2]) -> Self {
        let (high, low) = match entry {
            Entry::Seq(lane, seq, mark) => (u64::from(lane) | u64::from(mark) << MARK_AT, seq),
            Entry::Id(id) => {
                let [high, low] = halves(id);
                (high | IS_ID, low)
            }
        };
        let mut packed = Self {
            high,
            low,
            at,
            hash: 0,
        };
        let (high, low) = packed.place();
        packed.hash = index::hash(high ^ seed[0], low ^ seed[1]);
        packed
    }

    /// What no two entries have alike: the place, whoever is there, or the whole id.
    fn place(&self) -> (u64, u64) {
        if self.high & IS_ID == 0 {
            (u64::from(self.lane()), self.low)
        } else {
            (self.high, self.low)
        }
    }

    /// Of a place: the mark of the event that is there, 0 where none was kept.
    fn mark(&self) -> u16 {
        u16::try_from(self.high >> MARK_AT & u64::from(u16::MAX)).unwrap_or_default()
    }

    fn entry(&self) -> Entry {
        if self.high & IS_ID == 0 {
            Entry::Seq(self.lane(), self.low, self.mark())
        } else {
            let id = u128::from(self.high) << 64 | u128::from(self.low);
            Entry::Id(id.to_be_bytes())
        }
    }

    /// Of a place: the lane's number.
    fn lane(&self) -> u32 {
        u32::try_from(self.high & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }
}

fn halves(id: [u8; 16]) -> [u64; 2] {
    let half = |at: usize| {
        let mut b = [0; 8];
        b.copy_from_slice(&id[at..at + 8]);
        u64::from_be_bytes(b)
    };
    [half(0), half(8)]
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lane {
    key: LaneKey,
    /// Of the key, as `lane_of` has it.
    hash: u64,
    entries: usize,
}

/// The window. Entries leave in the order they came.
#[derive(Debug)]
pub struct Window {
    order: VecDeque<Packed>,
    /// Where each entry stands in `order`.
    index: Index,
    /// What the entries' times count from.
    base: Time,
    /// Lanes by the hash of gateway, boot and number, so that a look-up clones nothing and walks over none of
    /// the others, however many a gateway uses.
    lane_of: HashMap<u64, Vec<u32>>,
    lanes: Vec<Option<Lane>>,
    free: Vec<u32>,
    /// Of this process: who numbers events must not know where they stand in the index.
    seed: [u64; 2],
}

impl Default for Window {
    fn default() -> Self {
        let lane_of: HashMap<u64, Vec<u32>> = HashMap::new();
        let seed = [0u64, 1].map(|n| lane_of.hasher().hash_one(n));
        Self {
            order: VecDeque::new(),
            index: Index::default(),
            base: Time::default(),
            lane_of,
            lanes: Vec::new(),
            free: Vec::new(),
            seed,
        }
    }
}

impl Window {
    /// Whether the event was seen before; remembers it if not.
    pub fn see(&mut self, event: &Event, append: Time) -> Sight {
        self.expire(append);
        // Counters of two gateways are not the same events.
        let id = || Entry::Id(hash16("event", &[event.gateway.as_bytes(), event.id.as_bytes()]).0);
        let Some((boot, seq)) = event.place() else {
            return self.add(id(), append);
        };
        let mark = mark(&event.id);
        let at = self.after_base(append);
        let packed = Packed::new(Entry::Seq(self.lane(event, boot), seq, mark), at, self.seed);
        match self.find(&packed).map(Packed::mark) {
            None => {
                self.put(packed);
                Sight::New
            }
            Some(there) if there == mark || there == 0 => Sight::Duplicate,
            // Known by its id from now on: one place has one entry, however many claim it.
            Some(_) => match self.add(id(), append) {
                Sight::New => Sight::Conflict,
                known => known,
            },
        }
    }

    /// Adds an entry that is not there.
    fn add(&mut self, entry: Entry, append: Time) -> Sight {
        let at = self.after_base(append);
        let packed = Packed::new(entry, at, self.seed);
        if self.find(&packed).is_some() {
            return Sight::Duplicate;
        }
        self.put(packed);
        Sight::New
    }

    /// The entry at the same place.
    fn find(&self, packed: &Packed) -> Option<&Packed> {
        let place = packed.place();
        let found = std::cell::Cell::new(None);
        self.index.find(packed.hash, |i| {
            let entry = self.order.get(i).filter(|e| e.place() == place);
            found.set(entry);
            entry.is_some()
        });
        found.get()
    }

    fn put(&mut self, packed: Packed) {
        // Before anything leaves: its lane must not go with the last of its old entries.
        if packed.high & IS_ID == 0
            && let Some(Some(lane)) = self.lanes.get_mut(packed.lane() as usize)
        {
            lane.entries += 1;
        }
        // The oldest leaves first, so that the room never doubles for one entry too many.
        if self.order.len() >= MAX_ENTRIES {
            self.pop();
        }
        let len = self.order.len();
        if len == self.order.capacity() {
            let more = len.clamp(FEWEST, MAX_ENTRIES);
            self.order.reserve_exact(more.min(MAX_ENTRIES - len));
        }
        if self.index.is_full() {
            self.index.grow(self.order.iter().map(|e| e.hash));
        }
        self.order.push_back(packed);
        self.index.push(packed.hash);
    }

    /// The time of a new entry. The entries of a window span [`MAX_AGE_MS`] or less, so that the
    /// base moves once in weeks.
    fn after_base(&mut self, append: Time) -> u32 {
        if self.order.is_empty() {
            self.base = append;
        }
        if append.since_ms(self.base) > i64::from(u32::MAX) {
            let first = self.order.front().map_or(0, |e| e.at);
            self.base = self.base.plus_ms(i64::from(first));
            for e in &mut self.order {
                e.at = e.at.saturating_sub(first);
            }
        }
        // The running maximum of append times never falls behind the base.
        u32::try_from(append.since_ms(self.base).max(0)).unwrap_or(u32::MAX)
    }

    fn time(&self, packed: &Packed) -> Time {
        self.base.plus_ms(i64::from(packed.at))
    }

    fn expire(&mut self, append: Time) {
        while let Some(first) = self.order.front()
            && append.since_ms(self.time(first)) > MAX_AGE_MS
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(first) = self.order.front().copied() else {
            return;
        };
        let order = &self.order;
        self.index
            .pop(first.hash, |i| order.get(i).map_or(0, |e| e.hash));
        self.order.pop_front();
        if first.high & IS_ID != 0 {
            return;
        }
        let n = first.lane();
        let Some(slot) = self.lanes.get_mut(n as usize) else {
            return;
        };
        let Some(lane) = slot else { return };
        lane.entries -= 1;
        if lane.entries == 0 {
            let hash = lane.hash;
            if let Some(all) = self.lane_of.get_mut(&hash) {
                all.retain(|i| *i != n);
                if all.is_empty() {
                    self.lane_of.remove(&hash);
                }
            }
            *slot = None;
            self.free.push(n);
        }
    }

    /// The number of the event's lane, new if need be.
    fn lane(&mut self, event: &Event, boot: &SmolStr) -> u32 {
        let hash = self.lane_hash(&event.gateway, boot, event.lane);
        let same = |n: &&u32| {
            let lane = self.lanes.get(**n as usize).and_then(Option::as_ref);
            lane.is_some_and(|l| {
                l.key.lane == event.lane && l.key.boot == *boot && l.key.gateway == event.gateway
            })
        };
        let found = self
            .lane_of
            .get(&hash)
            .and_then(|all| all.iter().find(same));
        if let Some(n) = found {
            return *n;
        }
        self.add_lane(LaneKey {
            gateway: event.gateway.clone(),
            boot: boot.clone(),
            lane: event.lane,
        })
    }

    fn lane_hash(&self, gateway: &str, boot: &str, lane: u32) -> u64 {
        self.lane_of.hasher().hash_one((gateway, boot, lane))
    }

    fn add_lane(&mut self, key: LaneKey) -> u32 {
        let n = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            // At most one lane an entry, so the count fits easily.
            u32::try_from(self.lanes.len() - 1).unwrap_or(u32::MAX)
        });
        let hash = self.lane_hash(&key.gateway, &key.boot, key.lane);
        self.lane_of.entry(hash).or_default().push(n);
        self.lanes[n as usize] = Some(Lane {
            key,
            hash,
            entries: 0,
        });
        n
    }

    /// Writes the window: lanes once, entries in order as small differences.
    pub fn encode(&self, w: &mut Writer) {
        let mut numbers: HashMap<u32, usize> = HashMap::new();
        let mut lanes = Vec::new();
        for packed in &self.order {
            if let Entry::Seq(n, _, _) = packed.entry()
                && !numbers.contains_key(&n)
                && let Some(Some(lane)) = self.lanes.get(n as usize)
            {
                numbers.insert(n, lanes.len());
                lanes.push(&lane.key);
            }
        }
        w.len(lanes.len());
        for key in &lanes {
            w.str(&key.gateway);
            w.str(&key.boot);
            w.u64(u64::from(key.lane));
        }
        let mut last = vec![0u64; lanes.len()];
        let mut time = 0i64;
        w.len(self.order.len());
        for packed in &self.order {
            let at = self.time(packed);
            w.i64(at.0.wrapping_sub(time));
            time = at.0;
            match packed.entry() {
                Entry::Seq(n, seq, mark) => {
                    let lane = numbers.get(&n).copied().unwrap_or(0);
                    w.len(lane + 1);
                    w.i64(seq.wrapping_sub(last[lane]).cast_signed());
                    last[lane] = seq;
                    w.0.extend_from_slice(&mark.to_le_bytes());
                }
                Entry::Id(id) => {
                    w.len(0);
                    w.0.extend_from_slice(&id);
                }
            }
        }
    }

    /// Reads a window back; `marked`: places have marks of the events there, as they have been written since
    /// there are any.
    pub fn decode(r: &mut Reader<'_>, marked: bool) -> Result<Self, Damaged> {
        let mut window = Self::default();
        let lanes = r.len()?;
        for _ in 0..lanes {
            let key = LaneKey {
                gateway: r.str()?,
                boot: r.str()?,
                lane: r.small()?,
            };
            window.add_lane(key);
        }
        let mut last = vec![0u64; lanes];
        let mut time = 0i64;
        for _ in 0..r.len()? {
            time = time.wrapping_add(r.i64()?);
            let lane: usize = r.small()?;
            let entry = if lane == 0 {
                Entry::Id(r.array16()?)
            } else {
                let step = r.i64()?.cast_unsigned();
                let prior = last.get_mut(lane - 1).ok_or(r.damaged())?;
                *prior = prior.wrapping_add(step);
                let n = u32::try_from(lane - 1).map_err(|_| r.damaged())?;
                let mark = if marked {
                    u16::from_le_bytes([r.u8()?, r.u8()?])
                } else {
                    0
                };
                Entry::Seq(n, *prior, mark)
            };
            window.add(entry, Time(time));
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
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
}
