//! What a partition must be told of users and names before it observes their events, and being told.

use std::collections::HashSet;

use super::PartitionState;
use crate::detect::alias::{Claim, Once, Wanted};
use crate::detect::resident::Fast;
use crate::detect::user::UserState;
use crate::event::{Event, Pseudonym, Time};

impl PartitionState {
    /// What must be read before these events are observed, in order of first sight: oldest names for
    /// [`PartitionState::load_alias`], then rows for [`PartitionState::load_user`].
    pub fn unknown<'a>(&self, events: impl Iterator<Item = &'a Event>) -> Vec<(Pseudonym, Wanted)> {
        let mut seen = Once::default();
        let mut unknown = Vec::new();
        let mut want = |name: Pseudonym, what: Wanted| {
            if seen.insert((name, what)) {
                unknown.push((name, what));
            }
        };
        for e in events {
            if let Some(user) = e.user
                && !self.user_known(user, &mut want)
                && let Some(old) = e.prev.and_then(|p| p.user).filter(|o| *o != user)
            {
                self.user_known(old, &mut want);
            }
            if let Some(key) = e.api_key.as_ref().map(|k| k.id) {
                let known = self.aliases.get(&key);
                if known.is_none() {
                    want(key, Wanted::Name);
                }
                if known.is_none_or(|k| k == key)
                    && let Some(old) = e.prev.and_then(|p| p.api_key)
                    && self.aliases.get(&old).is_none()
                {
                    want(old, Wanted::Name);
                }
            }
        }
        unknown
    }

    /// Wants what is not known of a user. Whether an older name is known.
    fn user_known(&self, user: Pseudonym, want: &mut impl FnMut(Pseudonym, Wanted)) -> bool {
        match self.aliases.get(&user) {
            Some(oldest) => {
                if !self.is_resident(&oldest) {
                    want(oldest, Wanted::Row);
                }
                oldest != user
            }
            None => {
                // A user who has a row under this name was looked up before.
                if !self.is_resident(&user) {
                    want(user, Wanted::NameAndRow);
                }
                false
            }
        }
    }

    fn is_resident(&self, user: &Pseudonym) -> bool {
        self.users.contains(user) || self.evicted.contains_key(user)
    }

    /// Users of these events whose rows must be loaded before they are observed, in order of first
    /// sight. Their names must be known.
    pub fn missing_users<'a>(&self, events: impl Iterator<Item = &'a Event>) -> Vec<Pseudonym> {
        let mut seen = HashSet::<Pseudonym, Fast>::default();
        let mut missing = Vec::new();
        for user in events.flat_map(|e| self.users_of(e)).flatten() {
            if seen.insert(user) && !self.is_resident(&user) {
                missing.push(user);
            }
        }
        missing
    }

    /// The same from what [`PartitionState::unknown`] gave for the same events, where none of them names an
    /// older user: who was known then has a state still. Walks over the few instead of all.
    pub fn missing_of(&self, unknown: &[(Pseudonym, Wanted)]) -> Vec<Pseudonym> {
        let mut seen = HashSet::<Pseudonym, Fast>::default();
        let mut missing = Vec::new();
        for (name, what) in unknown.iter().filter(|(_, what)| *what != Wanted::Name) {
            let user = match what {
                Wanted::Row => *name,
                Wanted::Name | Wanted::NameAndRow => self.aliases.get(name).unwrap_or(*name),
            };
            if seen.insert(user) && !self.is_resident(&user) {
                missing.push(user);
            }
        }
        missing
    }

    /// Gives a user's row (`as_of`, bytes), or `None` where there is none. `copy`: the row is of
    /// another partition; the baseline learns again. A row that cannot be read starts afresh, and
    /// `false` says so.
    pub fn load_user(&mut self, user: Pseudonym, row: Option<(i64, &[u8])>, copy: bool) -> bool {
        let stored = row.is_some();
        let (mut state, readable) = match row {
            None => (UserState::default(), true),
            Some((as_of, bytes)) => match UserState::decode(as_of, bytes) {
                Ok(state) => (state, true),
                Err(_) => (UserState::default(), false),
            },
        };
        state.stored = stored;
        if copy {
            // Offsets of another partition mean nothing here, and its time does not count.
            state.as_of = 0;
            state.born = None;
            state.dirty = true;
        }
        self.insert(user, state);
        readable
    }

    /// Whose states an event may need: the user's, and where the event names an older name, that one's.
    /// Which of them it is depends on whether the user has a state.
    fn users_of(&self, event: &Event) -> [Option<Pseudonym>; 2] {
        let Some(user) = event.user else {
            return [None, None];
        };
        if let Some(old) = self.aliases.get(&user).filter(|o| *o != user) {
            return [Some(old), None];
        }
        match self.aliases.claim(user, event.prev.and_then(|p| p.user)) {
            Claim::Oldest(old) => [Some(user), Some(old)],
            Claim::None | Claim::Refused => [Some(user), None],
        }
    }

    /// The oldest name of a pseudonym and when its use was last noted, as Postgres has them; `None`: it
    /// has no older one.
    pub fn load_alias(&mut self, name: Pseudonym, oldest: Option<(Pseudonym, Time)>) {
        let (oldest, noted) = oldest.unwrap_or((name, Time(0)));
        self.aliases.insert(name, oldest, noted);
    }
}
