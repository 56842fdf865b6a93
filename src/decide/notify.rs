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
//! [`asleep`] says who need not be in memory, [`place`] which group answers for which sink, [`tell`] what a change brings, [`later`] what
//! time brings, [`storm`] what is too much, [`message`] what a row says.

mod asleep;
mod group;
mod later;
mod message;
mod place;
mod storm;
mod tell;

use std::collections::{BTreeMap, BTreeSet};

pub use asleep::AWAKE;
use group::Waiting;
pub use group::{Group, Member};
use serde::{Deserialize, Serialize};
pub use storm::Storm;

use super::route::DEFAULT_REPEAT_MS;
use super::{Change, ChangeKind, Head, Route, Routes, Silence, State, Titles};
use crate::event::{Hash16, Severity, SmolStr, Stage, Time};

/// Other incidents of a group that a message names; the rest is counted.
pub const MEMBERS: usize = 10;

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
    /// Other incidents told with this one, one line each; at most [`MEMBERS`].
    pub members: Vec<String>,
    /// How many more are open than are named.
    #[serde(default)]
    pub more: u32,
    /// How many of the group are over and were left out.
    #[serde(default)]
    pub over: u32,
    /// The severity that this receiver was told last, where it was another.
    #[serde(default)]
    pub was: Option<Severity>,
    /// Until when the receiver may take it as going on unless told otherwise, milliseconds since the
    /// epoch; none once it is over.
    #[serde(default)]
    pub until_ms: Option<i64>,
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

/// An incident: key and number.
type Id = (Hash16, i32);

/// The notifier's state: rows in production, memory in replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// By group key, those in memory.
    pub groups: BTreeMap<Hash16, Group>,
    /// The others, and when each must be looked at again.
    asleep: BTreeMap<Hash16, Option<Time>>,
    /// By sink.
    pub storms: BTreeMap<SmolStr, Storm>,
    /// The groups that hold an incident: a change must reach them all, whatever the routes say now.
    holders: BTreeSet<(Id, Hash16)>,
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
    /// The state that was stored.
    pub fn new(groups: BTreeMap<Hash16, Group>, storms: BTreeMap<SmolStr, Storm>) -> Self {
        let mut board = Self {
            storms,
            ..Self::default()
        };
        for (key, group) in groups {
            board.wake(key, group);
        }
        board
    }

    /// When the last waiting group is told.
    pub fn waiting_until(&self) -> Option<Time> {
        self.groups.values().filter_map(|g| g.due).max()
    }

    /// When [`notify`] must be called next even if nothing changes.
    pub fn next_due(&self, routes: &Routes) -> Option<Time> {
        let groups = self.groups.values().flat_map(|g| {
            let route = routes.get(&g.route);
            let repeat = g.repeat_due(repeat_interval(route));
            let escalate = route.and_then(|r| g.escalate_due(r));
            [g.due, repeat, escalate].into_iter().flatten()
        });
        let storms = self.storms.values().filter_map(|s| s.due(routes));
        let asleep = self.asleep.values().filter_map(|due| *due);
        groups.chain(storms).chain(asleep).min()
    }

    fn release(&mut self, id: Id, group: Hash16) {
        self.holders.remove(&(id, group));
    }
}

/// How often a group is told again; those whose route is gone, as often as where nothing is said.
fn repeat_interval(route: Option<&Route>) -> i64 {
    route.map_or(DEFAULT_REPEAT_MS, |r| r.repeat_interval_ms)
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
/// were. Those that [`Board::wanted`] names must be in memory.
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
    n.rehouse(board);
    for (change, head) in changes {
        n.place(board, head, Some(change));
    }
    n.open = open_heads(routes, board);
    // Most groups have been told and wait for nothing: they are left where they are.
    let keys: Vec<Hash16> = board
        .groups
        .iter()
        .filter(|(_, g)| !g.sleeps(routes, now))
        .map(|(key, _)| *key)
        .collect();
    // Of a route that is no longer configured: what was told is told to be over, and nothing else.
    let gone = Route::catch_all("", Vec::new());
    for key in keys {
        n.remember(board, key);
        let Some(mut group) = board.groups.remove(&key) else {
            continue;
        };
        let route = routes.get(&group.route).unwrap_or(&gone);
        n.unmute(route, &mut group);
        n.flush(route, &mut group);
        n.escalate(route, &mut group);
        n.repeat(route, &mut group);
        for id in group.tidy() {
            board.release(id, key);
        }
        if group.is_over() {
            for m in &group.members {
                board.release(m.id(), key);
            }
        } else {
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

#[cfg(test)]
mod tests;
