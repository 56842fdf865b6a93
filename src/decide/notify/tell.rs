//! What a group says when a change comes: taken in, sent when its time has come, each candidate with
//! its fate.

use super::{
    Board, Fate, FateRow, Group, Notification, NotificationKind, Notifier, OutboxRow, Waiting,
    sinks_of,
};
use crate::decide::{Change, ChangeKind, Head, Route, State};
use crate::event::{Hash16, Severity, SmolStr, hash16};

impl Notifier<'_> {
    /// Keeps the group as it is now, unless it was kept already.
    pub(super) fn remember(&mut self, board: &Board, key: Hash16) {
        let group = || board.groups.get(&key).cloned();
        self.before.entry(key).or_insert_with(group);
    }

    /// Puts a change into the groups of its routes.
    pub(super) fn take(&mut self, board: &mut Board, change: &Change, head: &Head) {
        for route in self.routes.of(head) {
            if route.sinks.is_empty() {
                self.fates(route, change, Fate::BelowSeverity, "no sink");
                continue;
            }
            let mut parts: Vec<Vec<u8>> = vec![route.name.as_bytes().to_vec()];
            parts.extend(
                route
                    .group_by
                    .iter()
                    .map(|f| f.of(head).as_bytes().to_vec()),
            );
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let key = hash16("group", &parts);
            let known = board.groups.get(&key).is_some_and(|g| g.has(head));
            if head.severity < route.min_severity && !known {
                self.fates(route, change, Fate::BelowSeverity, "");
                continue;
            }
            self.remember(board, key);
            let group = board.groups.entry(key).or_insert_with(|| Group {
                route: route.name.clone(),
                members: Vec::new(),
                waiting: Vec::new(),
                due: None,
                told_at: None,
                above: false,
                seq: 0,
            });
            group.update(head);
            group.waiting.push(Waiting {
                key: change.key,
                number: change.number,
                version: change.version,
                kind: change.kind,
            });
            // Critical news and worse news do not wait for company.
            let urgent = head.severity == Severity::Critical
                || matches!(
                    change.kind,
                    ChangeKind::Escalated | ChangeKind::Acknowledged
                );
            let due = if urgent {
                self.now
            } else if let Some(told) = group.told_at {
                self.now.max(told.plus_ms(route.group_interval_ms))
            } else {
                self.now.plus_ms(route.group_wait_ms)
            };
            group.due = Some(group.due.map_or(due, |d| d.min(due)));
        }
    }

    /// Tells what waits, if it is the group's turn: at most one row per sink.
    pub(super) fn flush(&mut self, route: &Route, group: &mut Group) {
        if group.due.is_none_or(|due| due > self.now) {
            return;
        }
        group.due = None;
        let mut news = Vec::new();
        for w in std::mem::take(&mut group.waiting) {
            let Some(i) = group.position(w.key, w.number) else {
                continue;
            };
            let m = &group.members[i];
            let ends = matches!(w.kind, ChangeKind::Resolved | ChangeKind::Acknowledged);
            if ends && !m.told {
                self.waiting_fate(route, &w, Fate::Deduplicated, "");
            } else if !ends && m.head.state == State::Resolved && !m.told {
                // Over before anybody was told.
                self.waiting_fate(route, &w, Fate::Deduplicated, "");
            } else if !ends && let Some((fate, by)) = self.muted(&m.head) {
                self.waiting_fate(route, &w, fate, &by);
            } else {
                news.push((w, i));
            }
        }
        if news.is_empty() {
            return;
        }
        let was_told = group.members.iter().any(|m| m.told);
        let opens = |w: &Waiting| {
            matches!(
                w.kind,
                ChangeKind::Opened
                    | ChangeKind::Reopened
                    | ChangeKind::Escalated
                    | ChangeKind::Repeat
            )
        };
        // Worse than what the receivers know; who is told for the first time is not worse.
        let known: Vec<bool> = group.members.iter().map(|m| m.told).collect();
        let mut escalates = false;
        for (w, i) in &news {
            let m = &mut group.members[*i];
            if opens(w) && m.head.state != State::Resolved {
                escalates |= known[*i]
                    && (m.told_severity < Some(m.head.severity) || w.kind == ChangeKind::Escalated);
                m.told = true;
                m.told_severity = Some(m.head.severity);
                m.told_since = m.told_since.or(Some(self.now));
            }
            if m.head.state == State::Resolved {
                m.told = false;
                m.told_since = None;
                m.escalated = false;
            }
        }
        let still = group.members.iter().any(|m| m.told);
        let kind = if !still {
            if was_told {
                NotificationKind::Resolved
            } else {
                // Opened and resolved inside one wait.
                for (w, _) in &news {
                    self.waiting_fate(route, w, Fate::Deduplicated, "");
                }
                return;
            }
        } else if escalates {
            NotificationKind::Escalated
        } else if news
            .iter()
            .any(|(w, i)| opens(w) && group.members[*i].head.state != State::Resolved)
        {
            NotificationKind::Firing
        } else if news.iter().any(|(w, _)| w.kind == ChangeKind::Acknowledged) {
            NotificationKind::Acknowledged
        } else {
            // A member is over, others are not: the lead's next row says so.
            let lead = group.lead_name();
            for (w, _) in &news {
                self.waiting_fate(route, w, Fate::Grouped, &lead);
            }
            return;
        };
        let carrier = news
            .iter()
            .position(|(w, _)| match kind {
                NotificationKind::Resolved => w.kind == ChangeKind::Resolved,
                NotificationKind::Acknowledged => w.kind == ChangeKind::Acknowledged,
                NotificationKind::Escalated => w.kind == ChangeKind::Escalated,
                _ => opens(w),
            })
            .unwrap_or(0);
        let lead = group.lead_name();
        let sinks = match &route.escalate {
            // Who was called in is told how it goes on, and that it is over.
            Some(e) if group.above && kind != NotificationKind::Firing => {
                let more = e.sinks.iter().filter(|s| !route.sinks.contains(s));
                route.sinks.iter().chain(more).cloned().collect()
            }
            _ => route.sinks.clone(),
        };
        group.above &= kind != NotificationKind::Resolved;
        let digested = self.send(route, &sinks, group, kind);
        for (n, (w, _)) in news.iter().enumerate() {
            for sink in sinks.iter().cloned() {
                let fate = if n != carrier {
                    Fate::Grouped
                } else if digested.contains(&sink) {
                    Fate::Digested
                } else {
                    Fate::Queued
                };
                self.fate(w, sink, fate, if n == carrier { "" } else { &lead });
            }
        }
    }

    /// Writes the group's row for each sink; returns the sinks whose storm window is full.
    pub(super) fn send(
        &mut self,
        route: &Route,
        sinks: &[SmolStr],
        group: &mut Group,
        kind: NotificationKind,
    ) -> Vec<SmolStr> {
        let severity = group
            .members
            .iter()
            .map(|m| m.head.severity)
            .max()
            .unwrap_or(Severity::Low);
        group.seq = (group.seq + 1).max(self.now.0);
        group.told_at = Some(self.now);
        let mut digested = Vec::new();
        let limited = matches!(kind, NotificationKind::Firing | NotificationKind::Repeat)
            && severity != Severity::Critical;
        for sink in sinks {
            if limited && !self.admit(sink, &route.name, group, severity) {
                digested.push(sink.clone());
                continue;
            }
            let payload = self.render(group, kind, severity);
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
        }
        digested
    }

    pub(super) fn drop_waiting(&mut self, group: &Group) {
        for w in &group.waiting {
            self.fate(w, group.route.clone(), Fate::Deduplicated, "route removed");
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

    pub(super) fn fates(&mut self, route: &Route, change: &Change, fate: Fate, detail: &str) {
        for sink in sinks_of(route) {
            self.push_fate(change, sink, fate, detail);
        }
    }
    pub(super) fn waiting_fate(&mut self, route: &Route, w: &Waiting, fate: Fate, detail: &str) {
        for sink in sinks_of(route) {
            self.fate(w, sink, fate, detail);
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

    pub(super) fn render(
        &self,
        group: &Group,
        kind: NotificationKind,
        severity: Severity,
    ) -> Notification {
        let lead = group.lead();
        let h = &lead.head;
        let members = group
            .members
            .iter()
            .filter(|m| (m.head.key, m.head.number) != (h.key, h.number))
            .map(|m| {
                let (h, severity) = (&m.head, m.head.severity.as_str());
                format!(
                    "[{severity}] {} ({})",
                    self.titles.line(h),
                    h.state.as_str()
                )
            })
            .collect();
        Notification {
            dedup_key: h.dedup_key().to_string(),
            key: h.key.to_string(),
            number: h.number,
            kind,
            severity,
            stage: h.stage,
            detector: SmolStr::new_static(h.detector.as_str()),
            rule: h.rule.clone(),
            title: self.titles.line(h),
            tenant: h.tenant.clone(),
            subject: h.subject.clone(),
            user: h.user.clone(),
            model: h.model.clone(),
            gateway: h.gateway.clone(),
            event: h.event.clone(),
            since_ms: h.opened_at.0,
            at_ms: self.now.0,
            findings: group.members.iter().map(|m| m.head.findings).sum(),
            reason: h.reason.clone(),
            runbook: format!("{}{}.md", self.routes.runbook_base, h.detector.as_str()),
            silence_command: format!(
                "veilwatch silence add --for 2h --comment 'why' 'rule={}' 'subject={}'",
                h.rule, h.subject
            ),
            members,
        }
    }
}
