//! The users of a partition whose state is in memory: at most [`MAX_USERS`], by recency and
//! frequency.
//!
//! New users enter a small window; one that falls out of it replaces the longest unused user of the
//! main part only if it was seen more often (TinyLFU: a crowd of one-time users does not push out
//! the regulars). Which users are resident changes what is read and written, never what is found:
//! state leaves as a row and comes back equal to the bit.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use super::user::UserState;
use crate::event::Pseudonym;

/// Resident users per partition (and never per process, so that results do not depend on how many
/// processes share the work). Larger costs memory, about 500 B a user.
pub const MAX_USERS: usize = 4_096;
/// Part of them that is the window of newcomers.
const WINDOW: usize = MAX_USERS / 8;
/// Counters per row of the frequency sketch; a power of two.
const SKETCH: usize = MAX_USERS * 2;
/// Rows of the sketch.
const ROWS: usize = 4;
/// Counts are halved after this many sights, so that yesterday's regulars fade.
const FADE_AFTER: u32 = 10 * 4_096;
/// Slots that are added at once.
const GROW_BY: usize = 512;
/// No neighbour.
const NONE: u32 = u32::MAX;

/// Hashes pseudonyms, with a seed of the process. They look like keyed hashes, but whoever publishes sealed
/// events writes what he likes there: with a known hash all of them would meet in one place of a table.
/// Nothing that leaves a table is in its order.
pub type Fast = foldhash::fast::RandomState;

#[derive(Debug)]
struct Slot {
    user: Pseudonym,
    state: UserState,
    prev: u32,
    next: u32,
    main: bool,
}

/// A list through the slots, most recent first.
#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    len: usize,
}

impl List {
    const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        len: 0,
    };
}

/// The resident users.
#[derive(Debug)]
pub struct Residents {
    slots: Vec<Slot>,
    index: HashMap<Pseudonym, u32, Fast>,
    free: Vec<u32>,
    window: List,
    main: List,
    sketch: Vec<u8>,
    sights: u32,
    /// Of the sketch: who knew its cells could take a chosen user's place.
    seed: foldhash::quality::RandomState,
}

impl Default for Residents {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            index: HashMap::default(),
            free: Vec::new(),
            window: List::EMPTY,
            main: List::EMPTY,
            sketch: vec![0; SKETCH * ROWS],
            sights: 0,
            seed: foldhash::quality::RandomState::default(),
        }
    }
}

impl Residents {
    /// Whether the user is here.
    pub fn contains(&self, user: &Pseudonym) -> bool {
        self.index.contains_key(user)
    }

    /// The user's state; leaves no trace.
    pub fn peek(&self, user: &Pseudonym) -> Option<&UserState> {
        let i = *self.index.get(user)?;
        Some(&self.slots[i as usize].state)
    }

    /// Lets a user go who turned out to be another one.
    pub fn forget(&mut self, user: &Pseudonym) {
        if let Some(i) = self.index.get(user) {
            self.remove(*i);
        }
    }

    /// The user's state, marked as used now.
    pub fn get(&mut self, user: &Pseudonym) -> Option<&mut UserState> {
        let i = *self.index.get(user)?;
        self.count(user);
        let main = self.slots[i as usize].main;
        self.unlink(i);
        self.push_front(i, main);
        Some(&mut self.slots[i as usize].state)
    }

    /// Adds a user; returns the one who had to leave.
    pub fn insert(&mut self, user: Pseudonym, state: UserState) -> Option<(Pseudonym, UserState)> {
        if let Some(i) = self.index.get(&user) {
            self.slots[*i as usize].state = state;
            return None;
        }
        self.count(&user);
        let slot = Slot {
            user,
            state,
            prev: NONE,
            next: NONE,
            main: false,
        };
        let i = if let Some(i) = self.free.pop() {
            self.slots[i as usize] = slot;
            i
        } else {
            if self.slots.len() == self.slots.capacity() {
                // One stays free for the newcomer. Doubling would hold room for twice as many.
                let more = (MAX_USERS + 1).saturating_sub(self.slots.len());
                self.slots.reserve_exact(more.clamp(1, GROW_BY));
            }
            self.slots.push(slot);
            // At most MAX_USERS + 1 slots.
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        };
        self.index.insert(user, i);
        self.push_front(i, false);
        if self.window.len <= WINDOW {
            return None;
        }
        let candidate = self.window.tail;
        if self.main.len < MAX_USERS - WINDOW {
            self.unlink(candidate);
            self.push_front(candidate, true);
            return None;
        }
        let victim = self.main.tail;
        let seen = |r: &Self, i: u32| r.frequency(&r.slots[i as usize].user);
        if seen(self, candidate) > seen(self, victim) {
            self.unlink(candidate);
            self.push_front(candidate, true);
            Some(self.remove(victim))
        } else {
            Some(self.remove(candidate))
        }
    }

    /// All users in the order of their names.
    pub fn sorted(&mut self) -> Vec<(Pseudonym, &mut UserState)> {
        let index = &self.index;
        let mut all: Vec<_> = (0u32..)
            .zip(self.slots.iter_mut())
            .filter(|(i, s)| index.get(&s.user) == Some(i))
            .map(|(_, s)| (s.user, &mut s.state))
            .collect();
        all.sort_by_key(|(user, _)| *user);
        all
    }

    /// How many users are here.
    pub fn len(&self) -> usize {
        self.index.len()
    }
    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn remove(&mut self, i: u32) -> (Pseudonym, UserState) {
        self.unlink(i);
        self.free.push(i);
        let slot = &mut self.slots[i as usize];
        let user = slot.user;
        self.index.remove(&user);
        (user, std::mem::take(&mut slot.state))
    }

    fn list(&mut self, main: bool) -> &mut List {
        if main {
            &mut self.main
        } else {
            &mut self.window
        }
    }

    fn unlink(&mut self, i: u32) {
        let (prev, next, main) = {
            let s = &self.slots[i as usize];
            (s.prev, s.next, s.main)
        };
        if prev == NONE {
            self.list(main).head = next;
        } else {
            self.slots[prev as usize].next = next;
        }
        if next == NONE {
            self.list(main).tail = prev;
        } else {
            self.slots[next as usize].prev = prev;
        }
        self.list(main).len -= 1;
    }

    fn push_front(&mut self, i: u32, main: bool) {
        let head = self.list(main).head;
        {
            let s = &mut self.slots[i as usize];
            s.prev = NONE;
            s.next = head;
            s.main = main;
        }
        if head == NONE {
            self.list(main).tail = i;
        } else {
            self.slots[head as usize].prev = i;
        }
        let list = self.list(main);
        list.head = i;
        list.len += 1;
    }

    fn cells(&self, user: &Pseudonym) -> [usize; ROWS] {
        let bytes = self.seed.hash_one(user).to_le_bytes();
        let (parts, _) = bytes.as_chunks::<2>();
        std::array::from_fn(|row| {
            // Sixteen bits a row.
            let part = usize::from(u16::from_le_bytes(parts[row]));
            row * SKETCH + part % SKETCH
        })
    }

    fn count(&mut self, user: &Pseudonym) {
        for cell in self.cells(user) {
            self.sketch[cell] = self.sketch[cell].saturating_add(1).min(15);
        }
        self.sights += 1;
        if self.sights >= FADE_AFTER {
            self.sights = 0;
            for c in &mut self.sketch {
                *c >>= 1;
            }
        }
    }

    fn frequency(&self, user: &Pseudonym) -> u8 {
        self.cells(user)
            .into_iter()
            .map(|c| self.sketch[c])
            .min()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kid;

    fn user(n: u32) -> Pseudonym {
        let mut mac = [0; 16];
        for (i, b) in blake3::hash(&n.to_le_bytes()).as_bytes()[..16]
            .iter()
            .enumerate()
        {
            mac[i] = *b;
        }
        Pseudonym {
            kid: Kid::parse("k7").expect("kid"),
            mac,
        }
    }

    #[test]
    fn users_that_somebody_chose_meet_in_no_place() {
        let chosen = |n: u32| Pseudonym {
            kid: Kid::parse(&format!("{n:05}")).expect("kid"),
            mac: [7; 16],
        };
        let state = Fast::default();
        let hashes: std::collections::BTreeSet<u64> = (0..8_192)
            .map(|n| state.hash_one(chosen(n)) % 65_536)
            .collect();
        // Random ones would take some 7,700 of the places; the seed of a process now and then makes that
        // 6,300. Ones that somebody chose against a hash he knows would take a handful.
        assert!(hashes.len() > 4_096, "{} places", hashes.len());
        // The places of one user differ from process to process, here from table to table.
        let cells = |user: &Pseudonym| -> std::collections::BTreeSet<[usize; ROWS]> {
            (0..8).map(|_| Residents::default().cells(user)).collect()
        };
        assert!(cells(&chosen(1)).len() > 1);
        let r = Residents::default();
        let all: std::collections::BTreeSet<_> = (0..1_000).map(|n| r.cells(&chosen(n))).collect();
        assert!(all.len() > 990, "{}", all.len());
    }

    #[test]
    fn bounded_and_regulars_stay_through_a_crowd() {
        let mut r = Residents::default();
        for n in 0..100 {
            r.insert(user(n), UserState::default());
        }
        let mut evicted = 0;
        for crowd in 1_000..41_000 {
            for n in 0..100 {
                if crowd % 50 == n % 50 {
                    assert!(r.get(&user(n)).is_some(), "regular {n} at {crowd}");
                }
            }
            evicted += usize::from(r.insert(user(crowd), UserState::default()).is_some());
            assert!(r.len() <= MAX_USERS);
        }
        assert_eq!(r.len() + evicted, 40_100);
        assert_eq!(r.sorted().len(), r.len());
        assert!(
            r.slots.capacity() <= MAX_USERS + GROW_BY,
            "memory is bounded"
        );
    }
}
