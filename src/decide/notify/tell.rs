//! What a group says when its time has come: one row per sink at most, and each candidate's fate.

use super::group::Knows;
use super::{Fate, FateRow, Group, NotificationKind, Notifier, OutboxRow, Waiting};
use crate::decide::{Change, ChangeKind, Head, Route, State};
use crate::event::SmolStr;

impl Notifier<'_> {
    /// Tells what waits, if it is the group's turn.
    pub(super) fn flush(&mut self, route: &Route, group: &mut Group) {
        if group.due.is_none_or(|due| due > self.now) {
            return;
        }
        group.due = None;
        let mut news = Vec::new();
        let mut sinks: Vec<SmolStr> = Vec::new();
        for w in std::mem::take(&mut group.waiting) {
            let Some(i) = group.position(w.id()) else {
                self.waiting_fate(&w, Fate::Deduplicated, "");
                continue;
            };
            let m = &group.members[i];
            let over = m.head.state == State::Resolved;
            if !w.ends()
                && !over
                && let Some((fate, by)) = self.muted(&m.head)
            {
                self.waiting_fate(&w, fate, &by);
                continue;
            }
            for sink in &w.sinks {
                if !sinks.contains(sink) {
                    sinks.push(sink.clone());
                }
            }
            news.push((w, i));
        }
        for sink in &sinks {
            self.tell(route, group, &news, sink);
        }
        for (w, i) in &news {
            let m = &mut group.members[*i];
            if m.head.state == State::Resolved {
                m.told_since = None;
                m.escalated = false;
            } else if !w.ends() && !m.told.is_empty() {
                m.told_since = m.told_since.or(Some(self.now));
            }
        }
    }

    /// Tells one sink: at most one row.
    fn tell(
        &mut self,
        route: &Route,
        group: &mut Group,
        news: &[(Waiting, usize)],
        sink: &SmolStr,
    ) {
        let mut mine: Vec<(&Waiting, usize)> = Vec::new();
        for (w, i) in news.iter().filter(|(w, _)| w.sinks.contains(sink)) {
            let m = &mut group.members[*i];
            let over = m.head.state == State::Resolved;
            if (w.ends() || over) && !m.named_at(sink) {
                // Over before its receivers were told, or only counted in a digest.
                self.fate(w, sink.clone(), Fate::Deduplicated, "");
                if over {
                    self.knows(m, sink, None);
                }
            } else {
                mine.push((w, *i));
            }
        }
        if mine.is_empty() {
            return;
        }
        let opens = |group: &Group, (w, i): &(&Waiting, usize)| {
            !w.ends() && group.members[*i].head.state != State::Resolved
        };
        let opened: Vec<usize> = mine
            .iter()
            .filter(|n| opens(group, n))
            .map(|(_, i)| *i)
            .collect();
        // Worse than what the receivers know; who is told for the first time is not worse.
        let escalates = mine.iter().filter(|n| opens(group, n)).any(|(w, i)| {
            let m = &group.members[*i];
            let known = m.told.get(sink).map(|k| k.severity);
            m.named_at(sink) && (known < Some(m.head.severity) || w.kind == ChangeKind::Escalated)
        });
        let is_over = |m: &super::Member| m.head.state == State::Resolved;
        let still = !opened.is_empty()
            || group
                .members
                .iter()
                .any(|m| m.named_at(sink) && !is_over(m));
        let kind = if !still {
            Some(NotificationKind::Resolved)
        } else if escalates {
            Some(NotificationKind::Escalated)
        } else if !opened.is_empty() {
            Some(NotificationKind::Firing)
        } else if mine.iter().any(|(w, _)| w.kind == ChangeKind::Acknowledged) {
            Some(NotificationKind::Acknowledged)
        } else {
            // A member is over, others are not: the lead's next row says so.
            None
        };
        let carrier = mine
            .iter()
            .position(|(w, i)| match kind {
                Some(NotificationKind::Resolved) => w.kind == ChangeKind::Resolved,
                Some(NotificationKind::Acknowledged) => w.kind == ChangeKind::Acknowledged,
                Some(NotificationKind::Escalated) => w.kind == ChangeKind::Escalated,
                _ => opens(group, &(*w, *i)),
            })
            .unwrap_or(0);
        if kind.is_some() && !group.members.iter().any(|m| m.lead) {
            group.members[mine[carrier].1].lead = true;
        }
        let lead = group.lead().head.key.to_string();
        let sent = kind.is_some_and(|kind| self.send(route, sink, group, kind));
        for i in opened {
            let m = &mut group.members[i];
            self.mark(m, sink, sent);
        }
        for (_, i) in &mine {
            let m = &mut group.members[*i];
            if m.head.state == State::Resolved {
                self.knows(m, sink, None);
            }
        }
        for (n, (w, _)) in mine.iter().enumerate() {
            match (kind, n == carrier) {
                (Some(_), true) if sent => self.fate(w, sink.clone(), Fate::Queued, ""),
                (Some(_), true) => self.fate(w, sink.clone(), Fate::Digested, ""),
                _ => self.fate(w, sink.clone(), Fate::Grouped, &lead),
            }
        }
    }

    /// Writes the group's row for a sink; false if its storm window is full and the digest counts it.
    pub(super) fn send(
        &mut self,
        route: &Route,
        sink: &SmolStr,
        group: &mut Group,
        kind: NotificationKind,
    ) -> bool {
        let severity = group.severity();
        group.told_at = Some(self.now);
        // What ends is bounded by what was told.
        let limited = !matches!(
            kind,
            NotificationKind::Resolved | NotificationKind::Acknowledged
        );
        if limited && !self.admit(sink, group, severity) {
            return false;
        }
        group.seq = (group.seq + 1).max(self.now.0);
        let was = group.shown.insert(sink.clone(), severity);
        if kind == NotificationKind::Resolved {
            group.shown.remove(sink);
        }
        let was = was.filter(|was| *was != severity);
        let payload = self.render(route, group, kind, severity, was);
        let head = &group.lead().head;
        self.out.outbox.push(OutboxRow {
            key: head.key,
            number: head.number,
            sink: sink.clone(),
            seq: group.seq,
            kind,
            severity,
            dedup_key: head.dedup_key(),
            at: self.now,
            payload,
        });
        true
    }

    /// What the sink knows after a row about this open incident was sent, or was left to the digest.
    pub(super) fn mark(&mut self, m: &mut super::Member, sink: &SmolStr, sent: bool) {
        let severity = m.head.severity;
        if sent {
            let digest = None;
            self.knows(m, sink, Some(Knows { severity, digest }));
        } else if !m.named_at(sink) {
            let digest = self.storms.get(sink).map(super::Storm::started);
            self.knows(m, sink, Some(Knows { severity, digest }));
        }
    }

    pub(super) fn muted(&self, head: &Head) -> Option<(Fate, SmolStr)> {
        if let Some(s) = self.silences.iter().find(|s| s.mutes(head, self.now)) {
            return Some((Fate::Silenced, s.id.clone()));
        }
        for (i, rule) in self.routes.inhibit.iter().enumerate() {
            if !rule.target.iter().all(|m| m.matches(head)) {
                continue;
            }
            let source = self.open.iter().find(|s| {
                s.key != head.key
                    && s.severity >= head.severity
                    && rule.source.iter().all(|m| m.matches(s))
                    // What matches both sides does not mute its own kind.
                    && !rule.source.iter().all(|m| m.matches(head))
                    && rule.equal.iter().all(|f| f.of(s) == f.of(head))
            });
            if let Some(s) = source {
                return Some((
                    Fate::Inhibited,
                    smol_str::format_smolstr!("rule {i} by {}", s.key),
                ));
            }
        }
        None
    }

    pub(super) fn waiting_fate(&mut self, w: &Waiting, fate: Fate, detail: &str) {
        for sink in &w.sinks {
            self.fate(w, sink.clone(), fate, detail);
        }
    }
    pub(super) fn fate(&mut self, w: &Waiting, sink: SmolStr, fate: Fate, detail: &str) {
        self.out.fates.push(FateRow {
            key: w.key,
            number: w.number,
            version: w.version,
            kind: w.kind,
            sink,
            fate,
            detail: SmolStr::new(detail),
        });
    }
    pub(super) fn push_fate(&mut self, c: &Change, sink: SmolStr, fate: Fate, detail: &str) {
        self.out.fates.push(FateRow {
            key: c.key,
            number: c.number,
            version: c.version,
            kind: c.kind,
            sink,
            fate,
            detail: SmolStr::new(detail),
        });
    }
}
