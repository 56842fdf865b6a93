//! Users' rows and names on their way from Postgres, or back from what is on its way there, to a partition.

use std::collections::HashMap;

use super::{Decoded, Partition, applied_to};
use crate::detect::Wanted;
use crate::event::Pseudonym;
use crate::store::users::{Loaded, StoredUser};
use crate::telemetry::metrics;

impl Partition {
    /// What must be read before this batch is observed; rows on their way to Postgres are brought back
    /// at once.
    pub(in crate::pipeline) fn unknown(&mut self, d: &Decoded) -> Vec<(Pseudonym, Wanted)> {
        let mut unknown = self.state.unknown(d.events.iter().map(|(_, e)| &**e));
        // Who has a row under a name has no older one.
        unknown.retain(|(user, what)| *what == Wanted::Name || !self.bring_back(*user));
        unknown
    }

    fn bring_back(&mut self, user: Pseudonym) -> bool {
        let Some((as_of, state)) = self.held.find(&user) else {
            return false;
        };
        let as_of = applied_to(as_of, self.handed);
        self.state.load_user(user, Some((as_of, &state)), false);
        true
    }

    /// Gives the detectors what Postgres has of what was unknown.
    pub(in crate::pipeline) fn load(
        &mut self,
        d: &Decoded,
        unknown: &[(Pseudonym, Wanted)],
        loaded: &Loaded,
    ) {
        let m = metrics();
        m.user_rows.add(&["loaded"], loaded.users.len() as u64);
        // Users without an older name are told by their rows; keys have none.
        for (key, _) in unknown.iter().filter(|(_, w)| *w == Wanted::Name) {
            self.state.load_alias(*key, None);
        }
        for (name, oldest, noted) in &loaded.names {
            self.state.load_alias(*name, Some((*oldest, *noted)));
        }
        let found: HashMap<Pseudonym, &StoredUser> =
            loaded.users.iter().map(|r| (r.user, r)).collect();
        let events = || d.events.iter().map(|(_, e)| &**e);
        let renamed = events().any(|e| e.prev.is_some_and(|p| p.user.is_some()));
        let mut missing = if renamed {
            self.state.missing_users(events())
        } else {
            let missing = self.state.missing_of(unknown);
            debug_assert_eq!(missing, self.state.missing_users(events()));
            missing
        };
        missing.retain(|user| !self.bring_back(*user));
        for user in missing {
            let row = found.get(&user);
            let copy = row.is_some_and(|r| r.copy);
            if copy {
                m.learning_copies.inc(&[&self.tp.topic]);
            }
            let row = row.map(|r| (applied_to(r.as_of, self.handed), r.state.as_slice()));
            if !self.state.load_user(user, row, copy) {
                m.log_drops.inc(&["user state"]);
            }
        }
    }
}
