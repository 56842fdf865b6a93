//! Finds duplicates within a partition. Home: partition.
//!
//! By (gateway, boot, lane, seq) where boot and seq are given, else by (gateway, `id`), against the last [`MAX_ENTRIES`] events
//! or the last [`MAX_AGE_MS`] of append time, whichever is fewer. A duplicate beyond that, or in
//! another partition, counts.
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
mod tests;
