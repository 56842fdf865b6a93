//! Pseudonyms before a key rotation. Home: shared row (`vw.alias`); memory holds a cache of it.
//!
//! Whoever observes an event must first have said what is known of the pseudonyms in it
//! ([`super::PartitionState::unknown`]), as with users' rows. The cache keeps the
//! [`MAX_ENTRIES`] used last and never drops what a batch in flight may have added.
//!
//! An older name (`prev`) is what any publisher of the topic may write. It is believed at a rotation's
//! first sight only: under another key id, and of a user without a history. What is refused is counted
//! and told.

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

    /// What an event says about an older name, as far as the names tell: of one rotation to the next the
    /// key's id changes, and no two names under one key are the same user.
    pub fn claim(&self, new: Pseudonym, old: Option<Pseudonym>) -> Claim {
        let Some(old) = old.filter(|o| *o != new) else {
            return Claim::None;
        };
        let oldest = self.get(&old).unwrap_or(old);
        if oldest == new {
            Claim::None
        } else if old.kid == new.kid || oldest.kid == new.kid {
            Claim::Refused
        } else {
            Claim::Oldest(oldest)
        }
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

/// See [`Aliases::claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing that is not known.
    None,
    /// This is the oldest name, if the newer one is of nobody who is known.
    Oldest(Pseudonym),
    /// What cannot be.
    Refused,
}

/// Ids of a batch, each once.
pub(super) type Once = std::collections::HashSet<(Pseudonym, Wanted), Fast>;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::*;
    use crate::decode::bare;
    use crate::detect::{DetectConfig, Effects, PartitionState, Seen};
    use crate::event::{
        ApiKey, Event, KeyClass, Kid, Position, Previous, Role, Side, Sketch, SmolStr,
    };

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
        refused: u64,
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
            self.refused += out.counters.alias_refused;
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

    /// Events one by one or all in one batch, with a restart after each batch or none: the same names.
    fn names(events: &[Event], cut: usize, restart: bool) -> (Vec<Option<Pseudonym>>, u64) {
        let config = Arc::new(DetectConfig::default());
        let mut state = PartitionState::new(config.clone());
        let mut caller = Caller::default();
        let mut seen = Vec::new();
        for batch in events.chunks(cut) {
            seen.extend(caller.batch(&mut state, batch).iter().map(|s| s.user));
            if restart {
                let (c, rows) = state.checkpoint(caller.offset);
                caller
                    .rows
                    .extend(rows.into_iter().map(|r| (r.user, (r.as_of, r.state))));
                state = PartitionState::restore(config.clone(), c.fmt, &c.bytes).expect("restores");
            }
        }
        (seen, caller.refused)
    }

    #[test]
    fn who_has_a_history_is_not_renamed() {
        let (victim, other) = (name(1), old(2));
        let mut events: Vec<Event> = (0..10).map(|n| event(n, victim, None)).collect();
        events.push(event(10, victim, Some(other)));
        events.extend((11..14).map(|n| event(n, victim, None)));
        for (cut, restart) in [(1, false), (1, true), (14, false), (4, false), (4, true)] {
            let (seen, refused) = names(&events, cut, restart);
            assert!(seen.iter().all(|u| *u == Some(victim)), "cut {cut}");
            assert_eq!(refused, 1, "cut {cut}");
        }
    }

    #[test]
    fn two_names_under_one_key_are_two_users() {
        let events = [
            event(0, name(1), Some(name(2))),
            event(1, name(2), Some(name(1))),
            event(2, name(1), None),
        ];
        for cut in [1, 3] {
            let (seen, refused) = names(&events, cut, false);
            assert_eq!(seen, [Some(name(1)), Some(name(2)), Some(name(1))]);
            assert_eq!(refused, 2);
        }
        // Nor by way of a third.
        let events = [
            event(0, old(5), Some(name(1))),
            event(1, name(2), Some(old(5))),
        ];
        let (seen, refused) = names(&events, 2, false);
        assert_eq!((seen[1], refused), (Some(name(2)), 1));
    }

    #[test]
    fn a_rotation_is_believed_however_batches_are_cut() {
        let mut events: Vec<Event> = (0..5).map(|n| event(n, old(1), None)).collect();
        events.extend((5..10).map(|n| event(n, name(1), Some(old(1)))));
        events.extend((10..15).map(|n| event(n, name(1), None)));
        for (cut, restart) in [(1, false), (1, true), (15, false), (6, false), (6, true)] {
            let (seen, refused) = names(&events, cut, restart);
            assert!(seen.iter().all(|u| *u == Some(old(1))), "cut {cut}");
            assert_eq!(refused, 0);
        }
    }

    #[test]
    fn each_refusal_is_told_of_its_gateway() {
        let mut state = PartitionState::new(Arc::new(DetectConfig::default()));
        let mut out = Effects::default();
        for n in 0..50u32 {
            let mut e = event(n, name(n), Some(name(n + 100)));
            e.gateway = SmolStr::new(["gw-a", "gw-b"][usize::from(n % 2 == 1)]);
            let position = Position {
                offset: i64::from(n),
                append: Time(i64::from(n / 25) * 60_000 + 600_000),
            };
            state.load_user(name(n), None, false);
            state.observe(position, &e, None, &mut out);
        }
        assert_eq!(out.counters.alias_refused, 50);
        let told = out.findings.iter();
        let of_a = told.clone().filter(|f| f.subject == "gateway:gw-a").count();
        assert_eq!((told.len(), of_a), (50, 25));
        let ids: BTreeSet<_> = told.map(|f| f.id).collect();
        assert_eq!(ids.len(), 50);
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
