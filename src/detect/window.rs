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

/// Entries kept. Larger finds later duplicates and makes checkpoints larger (about 5 B an entry).
pub const MAX_ENTRIES: usize = 65_536;
/// How long an entry is kept, milliseconds of append time.
pub const MAX_AGE_MS: i64 = 10 * 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Seq(u32, u64),
    Id([u8; 16]),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Lane {
    key: LaneKey,
    entries: usize,
}

/// The window. Entries leave in the order they came.
#[derive(Debug, Default)]
pub struct Window {
    order: VecDeque<(Entry, Time)>,
    seen: std::collections::HashSet<Entry, super::resident::Fast>,
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
        if !self.seen.insert(entry) {
            return true;
        }
        if let Entry::Seq(lane, _) = entry
            && let Some(Some(lane)) = self.lanes.get_mut(lane as usize)
        {
            lane.entries += 1;
        }
        self.order.push_back((entry, append));
        if self.order.len() > MAX_ENTRIES {
            self.pop();
        }
        false
    }

    fn expire(&mut self, append: Time) {
        while let Some((_, at)) = self.order.front()
            && append.since_ms(*at) > MAX_AGE_MS
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some((entry, _)) = self.order.pop_front() else {
            return;
        };
        self.seen.remove(&entry);
        let Entry::Seq(n, _) = entry else { return };
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
        for (entry, _) in &self.order {
            if let Entry::Seq(n, _) = entry
                && !numbers.contains_key(n)
                && let Some(Some(lane)) = self.lanes.get(*n as usize)
            {
                numbers.insert(*n, lanes.len());
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
        for (entry, at) in &self.order {
            w.i64(at.0.wrapping_sub(time));
            time = at.0;
            match entry {
                Entry::Seq(n, seq) => {
                    let lane = numbers.get(n).copied().unwrap_or(0);
                    w.len(lane + 1);
                    w.i64(seq.wrapping_sub(last[lane]).cast_signed());
                    last[lane] = *seq;
                }
                Entry::Id(id) => {
                    w.len(0);
                    w.0.extend_from_slice(id);
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
                if let Some(Some(l)) = window.lanes.get_mut(lane - 1) {
                    l.entries += 1;
                }
                Entry::Seq(n, *prior)
            };
            window.seen.insert(entry);
            window.order.push_back((entry, Time(time)));
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, RawRecord};

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
