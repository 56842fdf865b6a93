//! Finds duplicates within a partition. Home: partition.
//!
//! By (gateway, boot, lane, seq) where given, else by (gateway, `id`), against the last [`MAX_ENTRIES`] events
//! or the last [`MAX_AGE_MS`] of append time, whichever is fewer. A duplicate beyond that, or in
//! another partition, counts; the leader reports overlaps of sequences.

use std::collections::VecDeque;

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

/// What an event is known by: its place in a lane, or the hash of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Seq(u32, u64),
    Id([u8; 16]),
}

/// The upper half of a hashed id always has this bit, that of a place (a lane's number) never.
const IS_ID: u64 = 1 << 63;

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
    fn new(entry: Entry, at: u32) -> Self {
        let (high, low) = match entry {
            Entry::Seq(lane, seq) => (u64::from(lane), seq),
            Entry::Id(id) => {
                let [high, low] = halves(id);
                (high | IS_ID, low)
            }
        };
        Self {
            high,
            low,
            at,
            hash: index::hash(high, low),
        }
    }

    fn entry(&self) -> Entry {
        if self.high & IS_ID == 0 {
            Entry::Seq(self.lane(), self.low)
        } else {
            let id = u128::from(self.high) << 64 | u128::from(self.low);
            Entry::Id(id.to_be_bytes())
        }
    }

    /// Of a place: the lane's number.
    fn lane(&self) -> u32 {
        u32::try_from(self.high).unwrap_or(u32::MAX)
    }

    fn is(&self, other: &Self) -> bool {
        (self.high, self.low) == (other.high, other.low)
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
    entries: usize,
}

/// The window. Entries leave in the order they came.
#[derive(Debug, Default)]
pub struct Window {
    order: VecDeque<Packed>,
    /// Where each entry stands in `order`.
    index: Index,
    /// What the entries' times count from.
    base: Time,
    /// Lanes by gateway and boot, so that a look-up hashes the names but clones nothing.
    lane_of: HashMap<SmolStr, Vec<u32>>,
    lanes: Vec<Option<Lane>>,
    free: Vec<u32>,
}

impl Window {
    /// Whether the event was seen before; remembers it if not.
    pub fn is_duplicate(&mut self, event: &Event, append: Time) -> bool {
        self.expire(append);
        let entry = match event.seq {
            Some(seq) => Entry::Seq(self.lane(event), seq),
            // Counters of two gateways are not the same events.
            None => Entry::Id(hash16("event", &[event.gateway.as_bytes(), event.id.as_bytes()]).0),
        };
        !self.add(entry, append)
    }

    /// Adds an entry; false if it is there.
    fn add(&mut self, entry: Entry, append: Time) -> bool {
        let at = self.after_base(append);
        let packed = Packed::new(entry, at);
        let order = &self.order;
        if self
            .index
            .find(packed.hash, |i| order.get(i).is_some_and(|e| e.is(&packed)))
        {
            return false;
        }
        // Before anything leaves: its lane must not go with the last of its old entries.
        if let Entry::Seq(lane, _) = entry
            && let Some(Some(lane)) = self.lanes.get_mut(lane as usize)
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
        true
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
            if let Some(all) = self.lane_of.get_mut(&lane.key.gateway) {
                all.retain(|i| *i != n);
                if all.is_empty() {
                    self.lane_of.remove(&lane.key.gateway);
                }
            }
            *slot = None;
            self.free.push(n);
        }
    }

    /// The number of the event's lane, new if need be.
    fn lane(&mut self, event: &Event) -> u32 {
        let boot = event.boot.as_deref().unwrap_or_default();
        if let Some(all) = self.lane_of.get(&event.gateway) {
            for n in all {
                if let Some(Some(lane)) = self.lanes.get(*n as usize)
                    && lane.key.lane == event.lane
                    && lane.key.boot == boot
                {
                    return *n;
                }
            }
        }
        self.add_lane(LaneKey {
            gateway: event.gateway.clone(),
            boot: SmolStr::new(boot),
            lane: event.lane,
        })
    }

    fn add_lane(&mut self, key: LaneKey) -> u32 {
        let n = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            // At most one lane an entry, so the count fits easily.
            u32::try_from(self.lanes.len() - 1).unwrap_or(u32::MAX)
        });
        self.lane_of.entry(key.gateway.clone()).or_default().push(n);
        self.lanes[n as usize] = Some(Lane { key, entries: 0 });
        n
    }

    /// Writes the window: lanes once, entries in order as small differences.
    pub fn encode(&self, w: &mut Writer) {
        let mut numbers: HashMap<u32, usize> = HashMap::new();
        let mut lanes = Vec::new();
        for packed in &self.order {
            if let Entry::Seq(n, _) = packed.entry()
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
                Entry::Seq(n, seq) => {
                    let lane = numbers.get(&n).copied().unwrap_or(0);
                    w.len(lane + 1);
                    w.i64(seq.wrapping_sub(last[lane]).cast_signed());
                    last[lane] = seq;
                }
                Entry::Id(id) => {
                    w.len(0);
                    w.0.extend_from_slice(&id);
                }
            }
        }
    }

    /// Reads a window back.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
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
                Entry::Seq(n, *prior)
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
        !w.add(entry, Time(at))
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
                Entry::Seq(u32::try_from(n % 3).expect("small"), n)
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
            assert!(!is_duplicate(&mut window, Entry::Seq(0, n), 0));
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
                Entry::Seq(lane, at.unsigned_abs()),
                at
            ));
            let id = hash16("event", &[&at.to_le_bytes()]).0;
            assert!(!is_duplicate(&mut window, Entry::Id(id), at));
        }
        let mut w = Writer::default();
        window.encode(&mut w);
        let mut back = Window::decode(&mut Reader::new(&w.0)).expect("decodes");
        let mut again = Writer::default();
        back.encode(&mut again);
        assert_eq!(w.0, again.0);
        let at = 16_000_000_000_i64;
        assert!(is_duplicate(
            &mut back,
            Entry::Seq(0, at.unsigned_abs()),
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
    fn counters_of_two_gateways_are_different_events() {
        let mut w = Window::default();
        assert!(!w.is_duplicate(&event("a", "1"), Time(0)));
        assert!(!w.is_duplicate(&event("b", "1"), Time(0)));
        assert!(w.is_duplicate(&event("a", "1"), Time(0)));
    }
}
