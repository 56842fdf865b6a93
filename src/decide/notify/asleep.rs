//! Groups that wait for nothing leave memory.
//!
//! Most groups of a busy fleet are of one incident that was told and stays open for hours. Of such a
//! group the board keeps when it must be looked at again; the rest stands in its row. The caller asks
//! [`Board::wanted`] which groups a call needs, brings them back with [`Board::wake`], and afterwards
//! lets go of what sleeps with [`Board::rest`]. What is told does not depend on who is in memory.

use std::collections::BTreeSet;

use super::{Board, Change, Group, Head, Id, Routes, repeat_interval};
use crate::decide::notify::place::group_keys;
use crate::event::{Hash16, Time};

/// Groups in memory beyond which those that sleep leave it. Some 2 KB each; what is kept of the others
/// is about 100 B.
pub const AWAKE: usize = 1_024;
/// Most groups woken because their time has come, in one call: after a pause all repeats may be due.
const DUE_AT_ONCE: usize = 1_000;

impl Board {
    /// The groups that must be in memory before these changes are decided on, of those that are not.
    pub fn wanted(
        &self,
        routes: &Routes,
        changes: &[(Change, Head)],
        now: Time,
    ) -> BTreeSet<Hash16> {
        let due = self
            .asleep
            .iter()
            .filter(|(_, due)| due.is_some_and(|d| d <= now));
        let mut wanted: BTreeSet<Hash16> = due.take(DUE_AT_ONCE).map(|(key, _)| *key).collect();
        if self.asleep.is_empty() {
            return wanted;
        }
        for (_, head) in changes {
            self.wanted_for(routes, head, &mut wanted);
        }
        // Whose route is gone is placed anew.
        for g in self
            .groups
            .values()
            .filter(|g| routes.get(&g.route).is_none())
        {
            for m in g.members.iter().filter(|m| m.home) {
                self.wanted_for(routes, &m.head, &mut wanted);
            }
        }
        wanted
    }

    /// Every group that placing the incident may look at.
    fn wanted_for(&self, routes: &Routes, head: &Head, wanted: &mut BTreeSet<Hash16>) {
        let held = self.holders_of((head.key, head.number));
        wanted.extend(held.filter(|key| self.asleep.contains_key(key)));
        for route in routes.of(head) {
            let chain = group_keys(route, head)
                .take_while(|key| self.groups.contains_key(key) || self.asleep.contains_key(key));
            wanted.extend(chain.filter(|key| self.asleep.contains_key(key)));
        }
    }

    /// Takes a group into memory.
    pub fn wake(&mut self, key: Hash16, group: Group) {
        self.asleep.remove(&key);
        for m in &group.members {
            self.holders.insert((m.id(), key));
        }
        self.groups.insert(key, group);
    }

    /// A group that sleeps is lost: its row is gone or cannot be read. Its incidents' next changes begin
    /// anew.
    pub fn forget(&mut self, key: Hash16) {
        if self.asleep.remove(&key).is_some() {
            self.holders.retain(|(_, group)| *group != key);
        }
    }

    /// Lets go of the groups that sleep, if more than `most` are in memory. Their rows must be as they are.
    pub fn rest(&mut self, routes: &Routes, now: Time, most: usize) {
        if self.groups.len() <= most {
            return;
        }
        let asleep = &mut self.asleep;
        self.groups.retain(|key, group| {
            let stays = !group.may_rest(routes, now);
            if !stays {
                asleep.insert(*key, group.wakes(routes));
            }
            stays
        });
    }

    /// How many groups there are, in memory or not.
    pub fn len(&self) -> usize {
        self.groups.len() + self.asleep.len()
    }
    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The groups that hold an incident.
    pub(super) fn holders_of(&self, id: Id) -> impl Iterator<Item = Hash16> {
        let (first, last) = (Hash16([0; 16]), Hash16([u8::MAX; 16]));
        let pairs = self.holders.range((id, first)..=(id, last));
        pairs.map(|(_, group)| *group)
    }
}

impl Group {
    /// Whether the group may leave memory. Larger ones are looked through whenever an incident looks for
    /// room, and what inhibits others is asked all the time.
    fn may_rest(&self, routes: &Routes, now: Time) -> bool {
        let inhibits = |h: &Head| {
            let mut rules = routes.inhibit.iter();
            rules.any(|r| r.source.iter().all(|m| m.matches(h)))
        };
        self.members.len() == 1
            && routes.get(&self.route).is_some()
            && !self.members.iter().any(|m| inhibits(&m.head))
            && self.sleeps(routes, now)
    }

    /// When it must be looked at again though nothing changes.
    fn wakes(&self, routes: &Routes) -> Option<Time> {
        let route = routes.get(&self.route);
        let repeat = self.repeat_due(repeat_interval(route));
        let escalate = route.and_then(|r| self.escalate_due(r));
        [repeat, escalate].into_iter().flatten().min()
    }
}
