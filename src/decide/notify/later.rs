//! What a group says later: ends of silences, repeats, escalations.

use super::{Fate, Group, NotificationKind, Notifier, Waiting};
use crate::decide::{ChangeKind, Route, State};
use crate::event::SmolStr;

impl Notifier<'_> {
    /// An open incident whose silence or inhibition has ended is news.
    pub(super) fn unmute(&mut self, route: &Route, group: &mut Group) {
        let mut fresh = Vec::new();
        for m in &group.members {
            let sinks: Vec<SmolStr> = m.unaware().cloned().collect();
            let waits = group.waiting.iter().any(|w| w.id() == m.id());
            if !sinks.is_empty() && !waits && self.muted(&m.head).is_none() {
                fresh.push((m.head.change(ChangeKind::Repeat, self.now), sinks));
            }
        }
        for (change, sinks) in fresh {
            group.waiting.push(Waiting {
                key: change.key,
                number: change.number,
                version: change.version,
                kind: change.kind,
                sinks,
            });
            let told = group.told_at.map(|t| t.plus_ms(route.group_interval_ms));
            let due = told.map_or(self.now, |t| t.max(self.now));
            group.due = Some(group.due.map_or(due, |d| d.min(due)));
            self.out.changes.push(change);
        }
    }

    /// Says that it is still so: in the name of the first that is not muted.
    pub(super) fn repeat(&mut self, route: &Route, group: &mut Group) {
        let due = group.repeat_due(route.repeat_interval_ms);
        if due.is_none_or(|due| due > self.now) {
            return;
        }
        let open: Vec<usize> = (0..group.members.len())
            .filter(|&i| group.members[i].repeats())
            .collect();
        let heard: Vec<usize> = open
            .iter()
            .copied()
            .filter(|&i| self.muted(&group.members[i].head).is_none())
            .collect();
        let Some(&first) = heard.first().or(open.first()) else {
            return;
        };
        let change = group.members[first]
            .head
            .change(ChangeKind::Repeat, self.now);
        if heard.is_empty() {
            // Asked again after another interval.
            group.told_at = Some(self.now);
            if let Some((fate, by)) = self.muted(&group.members[first].head) {
                for sink in known_at(group, &open) {
                    self.push_fate(&change, sink, fate, &by);
                }
            }
        } else {
            for sink in known_at(group, &heard) {
                let sent = self.send(route, &sink, group, NotificationKind::Repeat);
                for &i in &heard {
                    let m = &mut group.members[i];
                    if m.told.contains_key(&sink) {
                        self.mark(m, &sink, sent);
                    }
                }
                let fate = if sent { Fate::Queued } else { Fate::Digested };
                self.push_fate(&change, sink, fate, "");
            }
        }
        self.out.changes.push(change);
    }

    /// Calls others in where nobody has reacted.
    pub(super) fn escalate(&mut self, route: &Route, group: &mut Group) {
        let Some(e) = &route.escalate else { return };
        if group.escalate_due(route).is_none_or(|due| due > self.now) {
            return;
        }
        let mut changes = Vec::new();
        for i in 0..group.members.len() {
            let due = group.members[i].escalate_due(e.after_ms);
            if due.is_none_or(|due| due > self.now) {
                continue;
            }
            if self.muted(&group.members[i].head).is_some() {
                // Asked again after the same time.
                group.members[i].told_since = Some(self.now);
                continue;
            }
            group.members[i].escalated = true;
            changes.push(
                group.members[i]
                    .head
                    .change(ChangeKind::Escalated, self.now),
            );
        }
        if changes.is_empty() {
            return;
        }
        let lead = group.lead().head.key.to_string();
        let mut sinks: Vec<SmolStr> = Vec::new();
        for sink in &e.sinks {
            if !sinks.contains(sink) {
                sinks.push(sink.clone());
            }
        }
        for sink in sinks {
            let sent = self.send(route, &sink, group, NotificationKind::Escalated);
            for m in &mut group.members {
                // Who is called in hears of all that others know, and of its end.
                if m.head.state != State::Resolved && m.told_since.is_some() {
                    self.mark(m, &sink, sent);
                }
            }
            for (i, change) in changes.iter().enumerate() {
                match (i, sent) {
                    (0, true) => self.push_fate(change, sink.clone(), Fate::Queued, ""),
                    (0, false) => self.push_fate(change, sink.clone(), Fate::Digested, ""),
                    _ => self.push_fate(change, sink.clone(), Fate::Grouped, &lead),
                }
            }
        }
        self.out.changes.extend(changes);
    }
}

/// The sinks for which the group answers and that know one of the members.
fn known_at(group: &Group, members: &[usize]) -> Vec<SmolStr> {
    let mut out: Vec<SmolStr> = Vec::new();
    for &i in members {
        let m = &group.members[i];
        for sink in m.sinks.iter().filter(|s| m.told.contains_key(*s)) {
            if !out.contains(sink) {
                out.push(sink.clone());
            }
        }
    }
    out
}
