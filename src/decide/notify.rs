//! The notifier's pure half: routes, groups, inhibits, silences, repeats, escalates, digests.
//!
//! In: changes of incidents with their heads, the [`Board`] (groups and storm windows, kept in rows),
//! and the time. Out: outbox rows, and one fate for each (change, sink). Called by the one lease
//! holder in the fleet, and by `replay`.
//!
//! Invariants: an open incident that no silence, inhibition or severity bound covers is told, alone,
//! within a group, or in a digest; nothing critical waits for anything milder; what was told is also
//! told to be over.
//!
//! [`tell`] says what a change brings, [`later`] what time brings.

mod later;
mod tell;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Change, ChangeKind, Head, Route, Routes, Silence, State, Titles};
use crate::event::{Hash16, Severity, SmolStr, Stage, Time};

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
