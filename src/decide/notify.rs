//! The notifier's pure half: routes, groups, inhibits, silences, repeats, escalates, digests.
//!
//! In: changes of incidents with their heads, the [`Board`] (groups and storm windows, kept in rows),
//! and the time. Out: outbox rows, and one fate for each (change, sink). Called by the one lease
//! holder in the fleet, and by `replay`.
//!
//! Invariants: an open incident that no silence, inhibition or severity bound covers is told, alone,
//! within a group, or in a digest; nothing critical waits for anything milder; what was told is also
//! told to be over.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Change, ChangeKind, Head, Route, Routes, Silence, State, Titles};
use crate::event::{Hash16, Severity, SmolStr, Stage, Time, hash16};

/// What an outbox row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationKind {
    /// Something is wrong.
    Firing,
    /// It still is.
    Repeat,
    /// It is worse, or nobody reacted.
    Escalated,
    /// Somebody is on it.
    Acknowledged,
    /// It is over.
    Resolved,
    /// Many at once.
    Digest,
}

impl NotificationKind {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Repeat => "repeat",
            Self::Escalated => "escalated",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
            Self::Digest => "digest",
        }
    }
}

/// What a sink renders. Names, numbers and pseudonyms only; no text could be in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// What outside systems deduplicate by, 32 hex.
    pub dedup_key: String,
    /// Incident key, 32 hex.
    pub key: String,
    /// Incident number.
    pub number: i32,
    /// What is said.
    pub kind: NotificationKind,
    /// How bad.
    pub severity: Severity,
    /// Page or ticket.
    pub stage: Stage,
    /// Who saw it; `digest` for a digest.
    pub detector: SmolStr,
    /// By which rule.
    pub rule: SmolStr,
    /// One line.
    pub title: String,
    /// Tenant, empty where none is given.
    pub tenant: SmolStr,
    /// About what.
    pub subject: SmolStr,
    /// Pseudonym of the user.
    pub user: Option<SmolStr>,
    /// Model.
    pub model: Option<SmolStr>,
    /// Gateway.
    pub gateway: Option<SmolStr>,
    /// Event.
    pub event: Option<SmolStr>,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// As of when, milliseconds since the epoch.
    pub at_ms: i64,
    /// How many findings so far.
    pub findings: i64,
    /// What was seen.
    pub reason: String,
    /// What to do.
    pub runbook: String,
    /// Ready to paste.
    pub silence_command: String,
    /// Other incidents told with this one, one line each.
    pub members: Vec<String>,
}

/// A row for one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Incident key of the group's lead, or of the digest.
    pub key: Hash16,
    /// Its number.
    pub number: i32,
    /// Where it goes.
    pub sink: SmolStr,
    /// Rises per (incident, sink).
    pub seq: i64,
    /// What it says.
    pub kind: NotificationKind,
    /// How bad: the claim order.
    pub severity: Severity,
    /// hash(key, number).
    pub dedup_key: Hash16,
    /// When it was decided.
    pub at: Time,
    /// What to render.
    pub payload: Notification,
}

/// What became of one (change, sink).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Carried by an outbox row; the row says whether it was sent, parked or expired.
    Queued,
    /// Told by the group lead's row.
    Grouped,
    /// The receiver's view would not change.
    Deduplicated,
    /// Covered by a silence.
    Silenced,
    /// Covered by another incident.
    Inhibited,
    /// Covered by a deploy lease.
    Leased,
    /// Outside the route's hours.
    TimeMuted,
    /// Milder than the route asks for.
    BelowSeverity,
    /// Counted in a digest.
    Digested,
}

impl Fate {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Grouped => "grouped",
            Self::Deduplicated => "deduplicated",
            Self::Silenced => "silenced",
            Self::Inhibited => "inhibited",
            Self::Leased => "leased",
            Self::TimeMuted => "time_muted",
            Self::BelowSeverity => "below_severity",
            Self::Digested => "digested",
        }
    }
}

/// The fate of one (change, sink).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FateRow {
    /// Incident key of the change.
    pub key: Hash16,
    /// Its number.
    pub number: i32,
    /// Head version of the change.
    pub version: i64,
    /// What changed.
    pub kind: ChangeKind,
    /// The sink, or the route's name where the route has no sink.
    pub sink: SmolStr,
    /// What became of it.
    pub fate: Fate,
    /// The silence's id, the inhibiting rule, the lead's key.
    pub detail: SmolStr,
}

/// One incident in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// As of its last change.
    pub head: Head,
    /// Whether receivers know that it is open.
    pub told: bool,
    /// The severity they know.
    pub told_severity: Option<Severity>,
    /// Since when, for escalation; none while receivers do not know it.
    #[serde(default, with = "super::millis_option")]
    pub told_since: Option<Time>,
    /// Whether the route's escalation has happened.
    pub escalated: bool,
}

/// A change that waits for its group's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    #[serde(with = "super::hex")]
    key: Hash16,
    number: i32,
    version: i64,
    kind: ChangeKind,
}

/// Incidents told together: one per (route, group key).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The route's name.
    pub route: SmolStr,
    /// In the order they joined; the first is the lead.
    pub members: Vec<Member>,
    waiting: Vec<Waiting>,
    #[serde(with = "super::millis_option")]
    due: Option<Time>,
    #[serde(with = "super::millis_option")]
    told_at: Option<Time>,
    /// The escalation's sinks were told, so they must be told the end too.
    #[serde(default)]
    above: bool,
    seq: i64,
}

/// A sink's storm window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    #[serde(with = "super::millis")]
    start: Time,
    /// By severity: a flood of mild ones uses up nothing of what worse ones may send.
    #[serde(default)]
    sent: BTreeMap<Severity, u32>,
    digested: u32,
    groups: BTreeSet<String>,
    worst: Option<Severity>,
}

/// The notifier's state: rows in production, memory in replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// By group key.
    pub groups: BTreeMap<Hash16, Group>,
    /// By sink.
    pub storms: BTreeMap<SmolStr, Storm>,
}

/// What one call decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notified {
    /// To be queued.
    pub outbox: Vec<OutboxRow>,
    /// One per (change, sink) that is decided now; waiting changes get theirs later.
    pub fates: Vec<FateRow>,
    /// Changes the notifier itself made (repeat, escalated): rows too, with the head's version.
    pub changes: Vec<Change>,
}

impl Board {
    /// When the last waiting group is told.
    pub fn waiting_until(&self) -> Option<Time> {
        self.groups.values().filter_map(|g| g.due).max()
    }

    /// When [`notify`] must be called next even if nothing changes.
    pub fn next_due(&self, routes: &Routes) -> Option<Time> {
        let groups = self.groups.values().flat_map(|g| {
            let route = routes.get(&g.route);
            let repeat = route.and_then(|r| g.repeat_due(r));
            let escalate = route.and_then(|r| g.escalate_due(r));
            [g.due, repeat, escalate].into_iter().flatten()
        });
        let storms = self
            .storms
            .values()
            .filter(|s| s.digested > 0)
            .map(|s| s.start.plus_ms(routes.storm_window_ms));
        groups.chain(storms).min()
    }
}

impl Member {
    /// When an unacknowledged page escalates.
    fn escalate_due(&self, after_ms: i64) -> Option<Time> {
        let waits = self.told
            && !self.escalated
            && self.head.state == State::Open
            && self.head.stage == Stage::Page;
        self.told_since
            .filter(|_| waits)
            .map(|t| t.plus_ms(after_ms))
    }
}

impl Group {
    fn repeat_due(&self, route: &Route) -> Option<Time> {
        let open = |m: &Member| m.told && m.head.state == State::Open;
        let told_at = self.told_at?;
        self.members
            .iter()
            .any(open)
            .then(|| told_at.plus_ms(route.repeat_interval_ms.max(1)))
    }
    fn escalate_due(&self, route: &Route) -> Option<Time> {
        let e = route.escalate.as_ref()?;
        let due = |m: &Member| m.escalate_due(e.after_ms);
        self.members.iter().filter_map(due).min()
    }
    /// Whether looking at the group now would change nothing: nothing waits, every open member was
    /// told, and neither a repeat nor an escalation is due.
    fn sleeps(&self, routes: &Routes, now: Time) -> bool {
        let Some(route) = routes.get(&self.route) else {
            return false;
        };
        let later = |due: Option<Time>| due.is_none_or(|due| due > now);
        self.waiting.is_empty()
            && self.due.is_none()
            && self
                .members
                .iter()
                .all(|m| m.told || m.head.state != State::Open)
            && later(self.repeat_due(route))
            && later(self.escalate_due(route))
            && !self.is_over()
    }
    fn is_over(&self) -> bool {
        self.waiting.is_empty()
            && self
                .members
                .iter()
                .all(|m| m.head.state == State::Resolved && !m.told)
    }
}

/// Groups as they were before they were looked at; none where there was no group.
pub type Before = BTreeMap<Hash16, Option<Group>>;

/// Takes changes (each with its head as of the change) and the time; see the module's header.
pub fn notify(
    routes: &Routes,
    silences: &[Silence],
    board: &mut Board,
    changes: &[(Change, Head)],
    now: Time,
) -> Notified {
    notify_and_tell(routes, silences, board, changes, now).0
}

/// [`notify`], which also tells how the groups stood that it may have changed. All others are as they
/// were.
pub fn notify_and_tell(
    routes: &Routes,
    silences: &[Silence],
    board: &mut Board,
    changes: &[(Change, Head)],
    now: Time,
) -> (Notified, Before) {
    let mut n = Notifier {
        routes,
        titles: &routes.titles,
        silences,
        now,
        out: Notified::default(),
        storms: std::mem::take(&mut board.storms),
        open: Vec::new(),
        before: Before::new(),
    };
    for (change, head) in changes {
        n.take(board, change, head);
    }
    n.open = open_heads(routes, board);
    // Most groups have been told and wait for nothing: they are left where they are.
    let keys: Vec<Hash16> = board
        .groups
        .iter()
        .filter(|(_, g)| !g.sleeps(routes, now))
        .map(|(key, _)| *key)
        .collect();
    for key in keys {
        n.remember(board, key);
        let Some(mut group) = board.groups.remove(&key) else {
            continue;
        };
        let Some(route) = routes.get(&group.route) else {
            // The route was removed from the config: its groups end with it, and the incidents'
            // next change finds its new route.
            n.drop_waiting(&group);
            continue;
        };
        n.unmute(route, &mut group);
        n.flush(route, &mut group);
        n.escalate(route, &mut group);
        n.repeat(route, &mut group);
        if !group.is_over() {
            board.groups.insert(key, group);
        }
    }
    n.digests();
    board.storms = n.storms;
    (n.out, n.before)
}

/// Every open incident that could inhibit others, once.
fn open_heads(routes: &Routes, board: &Board) -> Vec<Head> {
    let mut open: BTreeMap<Hash16, &Head> = BTreeMap::new();
    if routes.inhibit.is_empty() {
        return Vec::new();
    }
    let inhibits = |h: &Head| {
        let mut rules = routes.inhibit.iter();
        rules.any(|r| r.source.iter().all(|m| m.matches(h)))
    };
    for m in board.groups.values().flat_map(|g| &g.members) {
        if m.head.state != State::Resolved && inhibits(&m.head) {
            open.insert(m.head.key, &m.head);
        }
    }
    open.into_values().cloned().collect()
}

struct Notifier<'a> {
    routes: &'a Routes,
    titles: &'a Titles,
    silences: &'a [Silence],
    now: Time,
    out: Notified,
    storms: BTreeMap<SmolStr, Storm>,
    open: Vec<Head>,
    before: Before,
}

impl Notifier<'_> {
    /// Keeps the group as it is now, unless it was kept already.
    fn remember(&mut self, board: &Board, key: Hash16) {
        let group = || board.groups.get(&key).cloned();
        self.before.entry(key).or_insert_with(group);
    }

    /// Puts a change into the groups of its routes.
    fn take(&mut self, board: &mut Board, change: &Change, head: &Head) {
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
    fn flush(&mut self, route: &Route, group: &mut Group) {
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
    fn send(
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

    /// Counts a notification against the sink's storm window.
    fn admit(&mut self, sink: &SmolStr, route: &str, group: &Group, severity: Severity) -> bool {
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
    fn digests(&mut self) {
        let mut rows = Vec::new();
        for (sink, storm) in &mut self.storms {
            if storm.digested == 0 || self.now.since_ms(storm.start) < self.routes.storm_window_ms {
                continue;
            }
            let key = hash16("digest", &[sink.as_bytes(), &storm.start.0.to_le_bytes()]);
            let severity = storm.worst.unwrap_or(Severity::Low);
            let dedup = super::dedup_key(key, 1);
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
    fn unmute(&mut self, route: &Route, group: &mut Group) {
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

    fn repeat(&mut self, route: &Route, group: &mut Group) {
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

    fn escalate(&mut self, route: &Route, group: &mut Group) {
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

    fn drop_waiting(&mut self, group: &Group) {
        for w in &group.waiting {
            self.fate(w, group.route.clone(), Fate::Deduplicated, "route removed");
        }
    }

    fn muted(&self, head: &Head) -> Option<(Fate, SmolStr)> {
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

    fn fates(&mut self, route: &Route, change: &Change, fate: Fate, detail: &str) {
        for sink in sinks_of(route) {
            self.push_fate(change, sink, fate, detail);
        }
    }
    fn waiting_fate(&mut self, route: &Route, w: &Waiting, fate: Fate, detail: &str) {
        for sink in sinks_of(route) {
            self.fate(w, sink, fate, detail);
        }
    }
    fn fate(&mut self, w: &Waiting, sink: SmolStr, fate: Fate, detail: &str) {
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
    fn push_fate(&mut self, c: &Change, sink: SmolStr, fate: Fate, detail: &str) {
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

    fn render(&self, group: &Group, kind: NotificationKind, severity: Severity) -> Notification {
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

impl Group {
    fn has(&self, head: &Head) -> bool {
        self.position(head.key, head.number).is_some()
    }
    fn position(&self, key: Hash16, number: i32) -> Option<usize> {
        self.members
            .iter()
            .position(|m| (m.head.key, m.head.number) == (key, number))
    }
    /// Members whose end was told leave once all others have; the lead stays the lead until then.
    fn update(&mut self, head: &Head) {
        match self.position(head.key, head.number) {
            Some(i) => self.members[i].head = head.clone(),
            None => self.members.push(Member {
                head: head.clone(),
                told: false,
                told_severity: None,
                told_since: None,
                escalated: false,
            }),
        }
    }
    /// The first that was told and is the receivers' name for the group; before anything was told,
    /// the first that is open.
    fn lead(&self) -> &Member {
        self.members
            .iter()
            .find(|m| m.told_severity.is_some())
            .or_else(|| self.members.iter().find(|m| m.head.state == State::Open))
            .unwrap_or(&self.members[0])
    }
    fn lead_name(&self) -> String {
        self.lead().head.key.to_string()
    }
}

/// The sinks of a route; a route without sinks still accounts for its candidates, by its own name.
fn sinks_of(route: &Route) -> Vec<SmolStr> {
    if route.sinks.is_empty() {
        vec![route.name.clone()]
    } else {
        route.sinks.clone()
    }
}

#[cfg(test)]
mod tests;
