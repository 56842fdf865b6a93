//! Users' rows that left a partition's memory and that Postgres does not have yet: whoever comes back
//! meanwhile is read from here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::detect::UserRow;
use crate::detect::resident::Fast;
use crate::event::Pseudonym;

/// Room that is kept for the rows of the next groups.
const KEPT_ROOM: usize = 1_024;

/// A row on its way.
#[derive(Debug)]
struct Row {
    /// The group that carries it.
    generation: u64,
    as_of: i64,
    /// Shared with the batch.
    state: Arc<[u8]>,
}

/// The rows.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Pushed out of memory by a replay; the next batch carries them.
    carried: Vec<UserRow>,
    /// Handed to the commit task.
    unwritten: HashMap<Pseudonym, Row, Fast>,
}

impl Held {
    /// The newest row of a user. A carried one is the caller's from here on.
    pub(super) fn find(&mut self, user: &Pseudonym) -> Option<(i64, Arc<[u8]>)> {
        if let Some(row) = self.unwritten.get(user) {
            return Some((row.as_of, Arc::clone(&row.state)));
        }
        let at = self.carried.iter().rposition(|r| r.user == *user)?;
        let row = self.carried.swap_remove(at);
        Some((row.as_of, row.state))
    }

    /// Keeps the rows of a replay, whose batches are not written.
    pub(super) fn carry(&mut self, rows: &mut Vec<UserRow>) {
        self.carried.append(rows);
    }

    /// Adds what a replay left to the rows of the first batch behind it.
    pub(super) fn hand_over(&mut self, rows: &mut Vec<UserRow>) {
        if self.carried.is_empty() {
            return;
        }
        let mut carried = std::mem::take(&mut self.carried);
        // A row pushed out again since is newer.
        let newer: HashSet<Pseudonym, Fast> = rows.iter().map(|r| r.user).collect();
        carried.retain(|r| !newer.contains(&r.user));
        rows.append(&mut carried);
    }

    /// Keeps the rows of a group until it is committed.
    pub(super) fn hold(&mut self, rows: &[UserRow], generation: u64) {
        for r in rows {
            let row = Row {
                generation,
                as_of: r.as_of,
                state: Arc::clone(&r.state),
            };
            self.unwritten.insert(r.user, row);
        }
    }

    /// The group is committed: its rows can be read from Postgres.
    pub(super) fn release(&mut self, generation: u64) {
        self.unwritten.retain(|_, r| r.generation > generation);
        // One large group must not hold its room for ever.
        let room = (2 * self.unwritten.len()).max(KEPT_ROOM);
        if self.unwritten.capacity() > 2 * room {
            self.unwritten.shrink_to(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kid, hash16};

    fn row(n: u32, as_of: i64) -> UserRow {
        let user = Pseudonym {
            kid: Kid::default(),
            mac: hash16("user", &[&n.to_le_bytes()]).0,
        };
        UserRow {
            user,
            as_of,
            state: Arc::from(n.to_le_bytes()),
        }
    }

    #[test]
    fn rows_are_found_until_their_group_is_committed() {
        let mut held = Held::default();
        let rows: Vec<UserRow> = (0..10_000).map(|n| row(n, 1)).collect();
        held.hold(&rows, 1);
        // Pushed out again by the next group: the newer row stays longer.
        held.hold(&[row(7, 2)], 2);
        assert_eq!(held.find(&row(7, 0).user).map(|(at, _)| at), Some(2));
        held.release(1);
        assert!(held.find(&row(8, 0).user).is_none());
        assert_eq!(held.find(&row(7, 0).user).map(|(at, _)| at), Some(2));
        assert!(held.unwritten.capacity() <= 4 * KEPT_ROOM);
        held.release(2);
        assert!(held.find(&row(7, 0).user).is_none());
    }

    #[test]
    fn what_a_replay_left_goes_with_the_next_batch_unless_it_is_older() {
        let mut held = Held::default();
        held.carry(&mut vec![row(1, 1), row(2, 1), row(3, 1)]);
        assert_eq!(held.find(&row(3, 0).user).map(|(at, _)| at), Some(1));
        let mut rows = vec![row(2, 5)];
        held.hand_over(&mut rows);
        rows.sort_by_key(|r| r.as_of);
        assert_eq!(rows, vec![row(1, 1), row(2, 5)]);
        assert!(held.find(&row(1, 0).user).is_none());
    }
}
