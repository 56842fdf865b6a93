//! Pseudonyms before a key rotation. Home: shared row (`vw.alias`); memory holds a cache of it.
//!
//! Whoever observes an event must first have said what is known of the pseudonyms in it
//! ([`super::PartitionState::unknown`]), as with users' rows. The cache keeps the
//! [`MAX_ENTRIES`] used last and never drops what a batch in flight may have added.

use std::collections::HashMap;

use super::resident::Fast;
use crate::event::{Pseudonym, Time};

/// Pseudonyms remembered per partition: the resident users', and their keys'.
const MAX_ENTRIES: usize = 8_192;
/// Entries of this many batches stay whatever their number: they may not be committed yet.
const BATCHES: u64 = 3;
/// The last use is noted in the shared row when it is so old, milliseconds.
const NOTE_AFTER_MS: i64 = 86_400_000;

/// What must be read before an event with a pseudonym is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wanted {
    /// A user's row; the name is the oldest.
    Row,
    /// The oldest name of a user, and the row of that.
    NameAndRow,
    /// The oldest name of a key.
    Name,
}

#[derive(Debug)]
struct Entry {
    /// The pseudonym itself where it has no older one.
    oldest: Pseudonym,
    /// Batch of the last use.
    used: u64,
    /// Append time at which the shared row last learnt of a use.
    noted: Time,
}

/// Oldest known pseudonyms.
#[derive(Debug, Default)]
pub struct Aliases {
    map: HashMap<Pseudonym, Entry, Fast>,
    batch: u64,
}

impl Aliases {
    /// The oldest known name; the pseudonym itself where it is known to have none; `None` where
    /// nothing is known.
    pub fn get(&self, name: &Pseudonym) -> Option<Pseudonym> {
        self.map.get(name).map(|e| e.oldest)
    }

    /// The same for an event at `append`, and whether the shared row should learn of the use.
    pub fn used(&mut self, name: &Pseudonym, append: Time) -> Option<(Pseudonym, bool)> {
        let e = self.map.get_mut(name)?;
        e.used = self.batch;
        let note = e.oldest != *name && append.since_ms(e.noted) >= NOTE_AFTER_MS;
        if note {
            e.noted = append;
        }
        Some((e.oldest, note))
    }

    /// Remembers a name's oldest.
    pub fn insert(&mut self, name: Pseudonym, oldest: Pseudonym, noted: Time) {
        let used = self.batch;
        let entry = Entry {
            oldest,
            used,
            noted,
        };
        self.map.insert(name, entry);
    }

    /// Ends a batch: what was not used for longest leaves, down to seven eighths.
    pub fn end_batch(&mut self) {
        self.batch += 1;
        if self.map.len() <= MAX_ENTRIES {
            return;
        }
        let mut order: Vec<(u64, Pseudonym)> = self
            .map
            .iter()
            .filter(|(_, e)| e.used + BATCHES < self.batch)
            .map(|(name, e)| (e.used, *name))
            .collect();
        order.sort_unstable();
        let surplus = self.map.len() - MAX_ENTRIES / 8 * 7;
        for (_, name) in order.into_iter().take(surplus) {
            self.map.remove(&name);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.map.len()
    }
}

/// Ids of a batch, each once.
pub(super) type Once = std::collections::HashSet<(Pseudonym, Wanted), Fast>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::decode::bare;
    use crate::detect::{DetectConfig, Effects, PartitionState, Seen};
    use crate::event::{ApiKey, Event, KeyClass, Kid, Position, Previous, Role, Side, Sketch};

    fn name(n: u32) -> Pseudonym {
        let mut mac = [0; 16];
        mac[..4].copy_from_slice(&n.to_be_bytes());
        Pseudonym {
            kid: Kid::parse("k8").expect("kid"),
            mac,
        }
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_was_used_last() {
        let mut a = Aliases::default();
        let many = u32::try_from(MAX_ENTRIES).expect("small");
        for n in 0..2 * many {
            a.insert(name(n), name(u32::MAX), Time(0));
            if n % 100 == 0 {
                a.used(&name(7), Time(0));
                a.end_batch();
            }
        }
        assert!(a.len() <= MAX_ENTRIES + 500, "{}", a.len());
        assert_eq!(a.get(&name(7)), Some(name(u32::MAX)));
        assert_eq!(a.get(&name(2 * many - 1)), Some(name(u32::MAX)));
        assert_eq!(a.get(&name(1)), None);
        // One batch may hold more than fits, and all of it stays until it can be committed.
        let mut a = Aliases::default();
        for n in 0..2 * many {
            a.insert(name(n), name(u32::MAX), Time(0));
        }
        for _ in 0..BATCHES {
            a.end_batch();
            assert_eq!(a.len(), 2 * MAX_ENTRIES);
        }
        a.end_batch();
        assert!(a.len() <= MAX_ENTRIES);
    }

    #[test]
    fn a_use_is_noted_once_a_day() {
        let mut a = Aliases::default();
        a.insert(name(1), name(0), Time(0));
        a.insert(name(2), name(2), Time(0));
        assert_eq!(a.used(&name(1), Time(1)), Some((name(0), false)));
        assert_eq!(a.used(&name(1), Time(NOTE_AFTER_MS)), Some((name(0), true)));
        assert_eq!(
            a.used(&name(1), Time(NOTE_AFTER_MS + 1)),
            Some((name(0), false))
        );
        assert_eq!(
            a.used(&name(2), Time(NOTE_AFTER_MS)),
            Some((name(2), false))
        );
    }

    /// A caller with a table of its own, as `run` has Postgres.
    #[derive(Default)]
    struct Caller {
        names: BTreeMap<Pseudonym, (Pseudonym, Time)>,
        rows: BTreeMap<Pseudonym, (i64, Arc<[u8]>)>,
        offset: i64,
        asked: usize,
    }

    impl Caller {
        fn batch(&mut self, state: &mut PartitionState, events: &[Event]) -> Vec<Seen> {
            for (name, what) in state.unknown(events.iter()) {
                self.asked += 1;
                match self.names.get(&name) {
                    Some(known) => state.load_alias(name, Some(*known)),
                    None if what == Wanted::Name => state.load_alias(name, None),
                    None => {}
                }
            }
            for user in state.missing_users(events.iter()) {
                let row = self.rows.get(&user).map(|(o, b)| (*o, &**b));
                assert!(state.load_user(user, row, false));
            }
            let mut out = Effects::default();
            let mut seen = Vec::new();
            for event in events {
                let position = Position {
                    offset: self.offset,
                    append: event.at,
                };
                self.offset += 1;
                seen.extend(state.observe(position, event, None, &mut out));
            }
            state.end_batch(&mut out);
            assert_eq!(out.counters.unloaded_users, 0);
            self.rows.extend(
                out.user_rows
                    .into_iter()
                    .map(|r| (r.user, (r.as_of, r.state))),
            );
            let aliases = out.aliases.into_iter();
            self.names
                .extend(aliases.map(|(new, old)| (new, (old, Time(0)))));
            seen
        }
    }

    /// An event of a user, in the overlap of a rotation with the name before it.
    fn event(n: u32, user: Pseudonym, before: Option<Pseudonym>) -> Event {
        let mut e = bare::event(u64::from(n), Role::User, Side::Request, Sketch::default());
        e.user = Some(user);
        e.prev = before.map(|p| Previous {
            user: Some(p),
            api_key: None,
        });
        e
    }

    fn old(n: u32) -> Pseudonym {
        Pseudonym {
            kid: Kid::parse("k7").expect("kid"),
            ..name(n)
        }
    }

    #[test]
    fn more_rotations_than_memory_holds_are_still_the_same_users() {
        let users = 3 * u32::try_from(MAX_ENTRIES).expect("small");
        let mut state = PartitionState::new(Arc::new(DetectConfig::default()));
        let mut caller = Caller::default();
        let mut id = 0;
        for chunk in (0..users).collect::<Vec<_>>().chunks(500) {
            let events: Vec<Event> = chunk
                .iter()
                .map(|n| {
                    id += 1;
                    event(id, name(*n), Some(old(*n)))
                })
                .collect();
            caller.batch(&mut state, &events);
        }
        // The overlap is over; the process begins anew from its checkpoint.
        let (checkpoint, rows) = state.checkpoint(caller.offset);
        caller
            .rows
            .extend(rows.into_iter().map(|r| (r.user, (r.as_of, r.state))));
        let config = Arc::new(DetectConfig::default());
        let mut state =
            PartitionState::restore(config, checkpoint.fmt, &checkpoint.bytes).expect("restores");
        for chunk in (0..users).collect::<Vec<_>>().chunks(500) {
            let events: Vec<Event> = chunk
                .iter()
                .map(|n| {
                    id += 1;
                    event(id, name(*n), None)
                })
                .collect();
            let seen = caller.batch(&mut state, &events);
            for (n, s) in chunk.iter().zip(&seen) {
                assert_eq!(s.user, Some(old(*n)));
            }
        }
        assert_eq!(
            caller.rows.keys().filter(|u| u.kid == name(0).kid).count(),
            0
        );
    }

    #[test]
    fn who_is_known_is_not_asked_for_again() {
        let mut state = PartitionState::new(Arc::new(DetectConfig::default()));
        let mut caller = Caller::default();
        let with_key = |id, key| {
            let mut e = event(id, name(1), None);
            e.api_key = Some(ApiKey {
                id: key,
                created_day: None,
                class: KeyClass::Standard,
            });
            e
        };
        caller.batch(&mut state, &[with_key(1, name(2))]);
        assert_eq!(caller.asked, 2, "the user and the key");
        caller.batch(&mut state, &[with_key(2, name(2)), with_key(3, name(2))]);
        assert_eq!(caller.asked, 2);
        // Learnt by another partition meanwhile; asked for with the next new pseudonym only.
        caller.names.insert(name(3), (name(2), Time(0)));
        let seen = caller.batch(&mut state, &[with_key(4, name(3))]);
        assert_eq!((seen[0].api_key, caller.asked), (Some(name(2)), 3));
    }
}
