//! Which group answers for which sink of an incident.
//!
//! A group that told a sink of an incident goes on to tell it there, to the end, whatever the routes
//! say meanwhile: the severity rose into another route, a reopening changed the group, a route was
//! edited or removed. Sinks that do not know it are the business of the routes of today. So each sink
//! hears of each change once, under one name, and whoever heard the beginning hears the end.

use std::collections::{BTreeMap, BTreeSet};

use super::group::MOST;
use super::{Board, Fate, Group, Id, Notifier, Waiting};
use crate::decide::{Change, ChangeKind, Head, Route, Routes, State};
use crate::event::{Hash16, Severity, SmolStr, hash16};

impl Notifier<'_> {
    /// Keeps the group as it is now, unless it was kept already.
    pub(super) fn remember(&mut self, board: &Board, key: Hash16) {
        let group = || board.groups.get(&key).cloned();
        self.before.entry(key).or_insert_with(group);
    }

    /// Finds the present routes of incidents whose route is no longer configured.
    pub(super) fn rehouse(&mut self, board: &mut Board) {
        let lost =
            |g: &Group| self.routes.get(&g.route).is_none() && g.members.iter().any(|m| m.home);
        let keys: Vec<Hash16> = board
            .groups
            .iter()
            .filter(|(_, g)| lost(g))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.remember(board, key);
            let Some(group) = board.groups.get_mut(&key) else {
                continue;
            };
            let mut heads = Vec::new();
            for m in group.members.iter_mut().filter(|m| m.home) {
                m.home = false;
                m.sinks.clear();
                if m.head.state != State::Resolved {
                    heads.push(m.head.clone());
                }
            }
            group.due = (!group.waiting.is_empty()).then_some(self.now);
            for head in heads {
                self.place(board, &head, None);
            }
        }
    }

    /// Brings an incident, and its change if there is one, to the groups that answer for it.
    pub(super) fn place(&mut self, board: &mut Board, head: &Head, change: Option<&Change>) {
        let id = (head.key, head.number);
        let mut groups: Vec<Hash16> = board.holders_of(id).collect();
        let mut owner = owners(board, &groups, id);
        let (homes, refused) = homes(self.routes, board, head);
        let mut mine: BTreeMap<Hash16, Vec<SmolStr>> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for (key, route) in &homes {
            // Of several routes to one sink the first has it.
            for sink in route.sinks.iter().filter(|s| wanted.insert(*s)) {
                let by = match owner.get(sink) {
                    Some(by)
                        if by != key && self.hand_over(board, (*by, *key), route, id, sink) =>
                    {
                        owner.insert(sink.clone(), *key);
                        *key
                    }
                    Some(by) => *by,
                    None => {
                        owner.insert(sink.clone(), *key);
                        *key
                    }
                };
                mine.entry(by).or_default().push(sink.clone());
            }
        }
        let mut said = BTreeSet::new();
        for (sink, why) in refused {
            if let Some(change) = change
                && !owner.contains_key(&sink)
                && said.insert(sink.clone())
            {
                self.push_fate(change, sink, Fate::BelowSeverity, why);
            }
        }
        let held = |key: &Hash16| board.groups.get(key).and_then(|g| g.member(id));
        let since = groups
            .iter()
            .filter_map(held)
            .filter_map(|m| m.told_since)
            .min();
        let escalated = groups.iter().filter_map(held).any(|m| m.escalated);
        for (key, route) in &homes {
            // Others answer for all of its sinks, and nobody would be called in.
            let idle = !mine.contains_key(key) && route.escalate.is_none();
            if idle && !groups.contains(key) {
                continue;
            }
            self.remember(board, *key);
            let group = board
                .groups
                .entry(*key)
                .or_insert_with(|| Group::new(route.name.clone()));
            let m = group.update(head);
            m.told_since = m.told_since.or(since);
            m.escalated |= escalated;
            board.holders.insert((id, *key));
            if !groups.contains(key) {
                groups.push(*key);
            }
        }
        for key in groups {
            self.remember(board, key);
            let Some(group) = board.groups.get_mut(&key) else {
                continue;
            };
            let m = group.update(head);
            m.home = homes.iter().any(|(home, _)| *home == key);
            m.sinks = mine.remove(&key).unwrap_or_default();
            let mut sinks = m.sinks.clone();
            let more = m.told.keys().filter(|s| !m.sinks.contains(*s));
            sinks.extend(more.filter(|s| owner.get(*s) == Some(&key)).cloned());
            self.reassign(group, id, key, &owner);
            if let Some(change) = change
                && !sinks.is_empty()
            {
                self.wait(group, change, head, sinks);
            }
        }
    }

    /// Moves what a sink knows of an incident from one group to another, if the receivers' name for
    /// both is the incident itself: then nobody sees a difference, and the new route's times hold.
    fn hand_over(
        &mut self,
        board: &mut Board,
        (from, to): (Hash16, Hash16),
        route: &Route,
        id: Id,
        sink: &SmolStr,
    ) -> bool {
        let alone = |g: &Group| g.members.len() == 1 && g.members[0].lead;
        let free = |g: &Group| g.members.iter().all(|m| !m.lead || m.id() == id);
        if !board.groups.get(&from).is_some_and(alone) || !board.groups.get(&to).is_none_or(free) {
            return false;
        }
        self.remember(board, from);
        self.remember(board, to);
        let Some(old) = board.groups.get_mut(&from) else {
            return false;
        };
        let head = old.members[0].head.clone();
        let (knows, shown, held) = (
            old.members[0].told.remove(sink),
            old.shown.remove(sink),
            old.held.remove(sink),
        );
        let (seq, told_at) = (old.seq, old.told_at);
        let new = board
            .groups
            .entry(to)
            .or_insert_with(|| Group::new(route.name.clone()));
        let m = new.update(&head);
        m.lead = true;
        m.told.extend(knows.map(|k| (sink.clone(), k)));
        new.shown.extend(shown.map(|s| (sink.clone(), s)));
        new.held.extend(held.map(|s| (sink.clone(), s)));
        new.seq = new.seq.max(seq);
        new.told_at = new.told_at.max(told_at);
        board.holders.insert((id, to));
        true
    }

    /// Changes of the incident that wait here for sinks that are not this group's any more get their
    /// fate now.
    fn reassign(
        &mut self,
        group: &mut Group,
        id: Id,
        key: Hash16,
        owner: &BTreeMap<SmolStr, Hash16>,
    ) {
        let mut left = Vec::new();
        for w in group.waiting.iter_mut().filter(|w| w.id() == id) {
            let sinks = std::mem::take(&mut w.sinks);
            for sink in sinks {
                match owner.get(&sink) {
                    Some(by) if *by == key => w.sinks.push(sink),
                    Some(_) => left.push((w.clone(), sink, Fate::Grouped)),
                    None => left.push((w.clone(), sink, Fate::Deduplicated)),
                }
            }
        }
        for (w, sink, fate) in left {
            self.fate(&w, sink, fate, "another route has it now");
        }
        group.waiting.retain(|w| !w.sinks.is_empty());
    }

    fn wait(&mut self, group: &mut Group, change: &Change, head: &Head, sinks: Vec<SmolStr>) {
        group.waiting.push(Waiting {
            key: change.key,
            number: change.number,
            version: change.version,
            kind: change.kind,
            sinks,
        });
        // Critical news and worse news do not wait for company.
        let urgent = head.severity == Severity::Critical
            || matches!(
                change.kind,
                ChangeKind::Escalated | ChangeKind::Acknowledged
            );
        let due = match (self.routes.get(&group.route), group.told_at) {
            (Some(route), Some(told)) if !urgent => {
                self.now.max(told.plus_ms(route.group_interval_ms))
            }
            (Some(route), None) if !urgent => self.now.plus_ms(route.group_wait_ms),
            _ => self.now,
        };
        group.due = Some(group.due.map_or(due, |d| d.min(due)));
    }
}

/// The groups to which the routes lead, and the sinks that are not told.
fn homes<'a>(
    routes: &'a Routes,
    board: &Board,
    head: &Head,
) -> (Vec<(Hash16, &'a Route)>, Vec<(SmolStr, &'static str)>) {
    let (mut homes, mut refused) = (Vec::new(), Vec::new());
    for route in routes.of(head) {
        if route.sinks.is_empty() {
            refused.push((route.name.clone(), "no sink"));
            continue;
        }
        let key = group_for(board, route, head);
        let id = (head.key, head.number);
        let held = board.groups.get(&key).and_then(|g| g.member(id));
        let known = held.is_some_and(|m| !m.told.is_empty());
        if head.severity < route.min_severity && !known {
            refused.extend(route.sinks.iter().map(|s| (s.clone(), "")));
        } else {
            homes.push((key, route));
        }
    }
    (homes, refused)
}

/// By sink, the group that told it of the incident.
fn owners(board: &Board, groups: &[Hash16], id: Id) -> BTreeMap<SmolStr, Hash16> {
    let mut owner = BTreeMap::new();
    for key in groups {
        let member = board.groups.get(key).and_then(|g| g.member(id));
        for sink in member.into_iter().flat_map(|m| m.told.keys()) {
            owner.entry(sink.clone()).or_insert(*key);
        }
    }
    owner
}

/// The group of a route that has the incident, or the first with room.
fn group_for(board: &Board, route: &Route, head: &Head) -> Hash16 {
    let id = (head.key, head.number);
    let mut room = None;
    for key in group_keys(route, head) {
        match board.groups.get(&key) {
            None => return room.unwrap_or(key),
            Some(g) if g.position(id).is_some() => return key,
            Some(g) if g.members.len() < MOST => room = room.or(Some(key)),
            Some(_) => {}
        }
    }
    // Not reached: the board would hold 2^32 groups.
    room.unwrap_or(Hash16([0; 16]))
}

/// The keys of a route's groups for such incidents, in the order in which they are filled.
pub(super) fn group_keys(route: &Route, head: &Head) -> impl Iterator<Item = Hash16> {
    let mut parts: Vec<Vec<u8>> = vec![route.name.as_bytes().to_vec()];
    let by = route.group_by.iter();
    parts.extend(by.map(|f| f.of(head).as_bytes().to_vec()));
    (0u32..).map(move |n| {
        let mut parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let nth = n.to_le_bytes();
        if n > 0 {
            parts.push(&nth);
        }
        hash16("group", &parts)
    })
}
