//! What a group says later: storm digests, ends of silences, repeats, escalations.

use super::{
    Fate, Group, Notification, NotificationKind, Notifier, OutboxRow, Storm, Waiting, sinks_of,
};
use crate::decide::{ChangeKind, Route, State, dedup_key};
use crate::event::{Severity, SmolStr, Stage, hash16};

impl Notifier<'_> {
    /// Counts a notification against the sink's storm window.
    pub(super) fn admit(
        &mut self,
        sink: &SmolStr,
        route: &str,
        group: &Group,
        severity: Severity,
    ) -> bool {
        let storm = self.storms.entry(sink.clone()).or_default();
        if self.now.since_ms(storm.start) >= self.routes.storm_window_ms && storm.digested == 0 {
            *storm = Storm {
                start: self.now,
                ..Storm::default()
            };
        }
        let worse: u32 = storm.sent.range(severity..).map(|(_, n)| n).sum();
        if worse < self.routes.storm_limit {
            *storm.sent.entry(severity).or_default() += 1;
            return true;
        }
        storm.digested += 1;
        storm.worst = storm.worst.max(Some(severity));
        storm
            .groups
            .insert(format!("{route}: {}", self.titles.line(&group.lead().head)));
        false
    }

    /// Closes storm windows that overflowed: one digest each, an incident of its own.
    pub(super) fn digests(&mut self) {
        let mut rows = Vec::new();
        for (sink, storm) in &mut self.storms {
            if storm.digested == 0 || self.now.since_ms(storm.start) < self.routes.storm_window_ms {
                continue;
            }
            let key = hash16("digest", &[sink.as_bytes(), &storm.start.0.to_le_bytes()]);
            let severity = storm.worst.unwrap_or(Severity::Low);
            let dedup = dedup_key(key, 1);
            rows.push(OutboxRow {
                key,
                number: 1,
                sink: sink.clone(),
                seq: self.now.0,
                kind: NotificationKind::Digest,
                severity,
                dedup_key: dedup,
                at: self.now,
                payload: Notification {
                    dedup_key: dedup.to_string(),
                    key: key.to_string(),
                    number: 1,
                    kind: NotificationKind::Digest,
                    severity,
                    stage: Stage::Ticket,
                    detector: SmolStr::new_static("digest"),
                    rule: SmolStr::new_static("digest"),
                    title: format!(
                        "{} notifications of {} groups held back by the storm guard",
                        storm.digested,
                        storm.groups.len()
                    ),
                    tenant: SmolStr::default(),
                    subject: smol_str::format_smolstr!("sink:{sink}"),
                    user: None,
                    model: None,
                    gateway: None,
                    event: None,
                    since_ms: storm.start.0,
                    at_ms: self.now.0,
                    findings: i64::from(storm.digested),
                    reason: format!(
                        "more than {} notifications in {} s; {} were held back, the worst of severity {}",
                        self.routes.storm_limit,
                        self.routes.storm_window_ms / 1_000,
                        storm.digested,
                        severity.as_str()
                    ),
                    runbook: format!("{}digest.md", self.routes.runbook_base),
                    silence_command: String::new(),
                    members: storm.groups.iter().cloned().collect(),
                },
            });
            *storm = Storm {
                start: self.now,
                ..Storm::default()
            };
        }
        self.out.outbox.extend(rows);
    }

    /// An open incident whose silence or inhibition has ended is news.
    pub(super) fn unmute(&mut self, route: &Route, group: &mut Group) {
        let mut fresh = Vec::new();
        for m in &group.members {
            let waits = group
                .waiting
                .iter()
                .any(|w| (w.key, w.number) == (m.head.key, m.head.number));
            if !m.told && m.head.state == State::Open && !waits && self.muted(&m.head).is_none() {
                fresh.push(m.head.change(ChangeKind::Repeat, self.now));
            }
        }
        for change in fresh {
            group.waiting.push(Waiting {
                key: change.key,
                number: change.number,
                version: change.version,
                kind: change.kind,
            });
            let told = group.told_at.map(|t| t.plus_ms(route.group_interval_ms));
            let due = told.map_or(self.now, |t| t.max(self.now));
            group.due = Some(group.due.map_or(due, |d| d.min(due)));
            self.out.changes.push(change);
        }
    }

    pub(super) fn repeat(&mut self, route: &Route, group: &mut Group) {
        if group.repeat_due(route).is_none_or(|due| due > self.now) {
            return;
        }
        let Some(i) = group
            .members
            .iter()
            .position(|m| m.told && m.head.state == State::Open)
        else {
            return;
        };
        let change = group.members[i].head.change(ChangeKind::Repeat, self.now);
        if let Some((fate, by)) = self.muted(&group.members[i].head) {
            // Asked again after another interval.
            group.told_at = Some(self.now);
            self.fates(route, &change, fate, &by);
        } else {
            let digested = self.send(route, &route.sinks, group, NotificationKind::Repeat);
            for sink in sinks_of(route) {
                let fate = if digested.contains(&sink) {
                    Fate::Digested
                } else {
                    Fate::Queued
                };
                self.push_fate(&change, sink, fate, "");
            }
        }
        self.out.changes.push(change);
    }

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
        group.above = true;
        let lead = group.lead_name();
        self.send(route, &e.sinks, group, NotificationKind::Escalated);
        for (i, change) in changes.into_iter().enumerate() {
            let (fate, by) = match i {
                0 => (Fate::Queued, ""),
                _ => (Fate::Grouped, lead.as_str()),
            };
            for sink in &e.sinks {
                self.push_fate(&change, sink.clone(), fate, by);
            }
            self.out.changes.push(change);
        }
    }
}
