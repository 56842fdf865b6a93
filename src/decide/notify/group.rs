//! Groups: incidents that are told together, and what each sink's receivers know of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Id, repeat_interval};
use crate::decide::{ChangeKind, Head, Route, Routes, State};
use crate::event::{Hash16, Severity, SmolStr, Stage, Time};

/// Most incidents of one group; the next ones form another. A group is one row, written whole when it
/// changes, and half a megabyte is what a tick can afford.
pub(super) const MOST: usize = 500;

/// What a sink's receivers know of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Knows {
    /// How bad it was when they were told.
    pub(super) severity: Severity,
    /// Start of the storm window whose digest counted it. They were told of a number, not of this
    /// incident, and need not be told that this one is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<i64>,
}

/// One incident in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// As of its last change.
    pub head: Head,
    /// What is known of it, by sink.
    pub(super) told: BTreeMap<SmolStr, Knows>,
    /// The sinks for which this group answers by the present routes.
    pub(super) sinks: Vec<SmolStr>,
    /// Whether the present routes lead here. If not, the group only tells how it ends.
    pub(super) home: bool,
    /// Since when, for escalation; none while receivers do not know it.
    #[serde(default, with = "crate::decide::millis_option")]
    pub(super) told_since: Option<Time>,
    /// Whether the route's escalation has happened.
    pub(super) escalated: bool,
    /// The group goes by its name outside.
    pub(super) lead: bool,
}

/// A change that waits for its group's turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    #[serde(with = "crate::decide::hex")]
    pub(super) key: Hash16,
    pub(super) number: i32,
    pub(super) version: i64,
    pub(super) kind: ChangeKind,
    /// For which sinks this group decides its fate: each sink is one group's.
    pub(super) sinks: Vec<SmolStr>,
}

/// Incidents told together: one per (route, group key).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The route's name.
    pub route: SmolStr,
    /// In the order they joined.
    pub members: Vec<Member>,
    pub(super) waiting: Vec<Waiting>,
    #[serde(with = "crate::decide::millis_option")]
    pub(super) due: Option<Time>,
    #[serde(with = "crate::decide::millis_option")]
    pub(super) told_at: Option<Time>,
    pub(super) seq: i64,
    /// The severity of the last row, by sink.
    #[serde(default)]
    pub(super) shown: BTreeMap<SmolStr, Severity>,
    /// Start of the last storm window that held something back, by sink.
    #[serde(default)]
    pub(super) held: BTreeMap<SmolStr, i64>,
    /// Members that were over and left.
    #[serde(default)]
    pub(super) past: u32,
}

impl Waiting {
    pub(super) fn id(&self) -> Id {
        (self.key, self.number)
    }
    /// It tells that somebody is on it, or that it is over.
    pub(super) fn ends(&self) -> bool {
        matches!(self.kind, ChangeKind::Resolved | ChangeKind::Acknowledged)
    }
}

impl Member {
    /// Nobody knows of it yet.
    pub(super) fn new(head: &Head) -> Self {
        Self {
            head: head.clone(),
            told: BTreeMap::new(),
            sinks: Vec::new(),
            home: false,
            told_since: None,
            escalated: false,
            lead: false,
        }
    }
    /// Key and number.
    pub(super) fn id(&self) -> Id {
        (self.head.key, self.head.number)
    }
    /// Whether the sink's receivers were told of it by name.
    pub(super) fn named_at(&self, sink: &SmolStr) -> bool {
        self.told.get(sink).is_some_and(|k| k.digest.is_none())
    }
    /// Whether it is repeated at some sink.
    pub(super) fn repeats(&self) -> bool {
        self.head.state == State::Open && self.sinks.iter().any(|s| self.told.contains_key(s))
    }
    /// When an unacknowledged page escalates.
    pub(super) fn escalate_due(&self, after_ms: i64) -> Option<Time> {
        let waits = self.home
            && !self.escalated
            && self.head.state == State::Open
            && self.head.stage == Stage::Page;
        self.told_since
            .filter(|_| waits)
            .map(|t| t.plus_ms(after_ms))
    }
    /// Sinks that should know of it and do not.
    pub(super) fn unaware(&self) -> impl Iterator<Item = &SmolStr> {
        let open = self.head.state == State::Open;
        self.sinks
            .iter()
            .filter(move |s| open && !self.told.contains_key(*s))
    }
    /// Nothing is left to be said about it here.
    fn is_over(&self) -> bool {
        (self.head.state == State::Resolved || !self.home) && self.told.is_empty()
    }
}

impl Group {
    /// Of a route; holds nothing yet.
    pub(super) fn new(route: SmolStr) -> Self {
        Self {
            route,
            // Most groups are of one incident, and tens of thousands may be open: no room for more.
            members: Vec::with_capacity(1),
            waiting: Vec::new(),
            due: None,
            told_at: None,
            seq: 0,
            shown: BTreeMap::new(),
            held: BTreeMap::new(),
            past: 0,
        }
    }

    pub(super) fn position(&self, id: Id) -> Option<usize> {
        self.members.iter().position(|m| m.id() == id)
    }

    pub(super) fn member(&self, id: Id) -> Option<&Member> {
        self.members.iter().find(|m| m.id() == id)
    }

    /// The member's present head; a new one joins.
    pub(super) fn update(&mut self, head: &Head) -> &mut Member {
        let i = match self.position((head.key, head.number)) {
            Some(i) => i,
            None => {
                self.members.push(Member::new(head));
                self.members.len() - 1
            }
        };
        self.members[i].head.clone_from(head);
        &mut self.members[i]
    }

    /// The receivers' name for the group; before anything was told, the first that is open.
    pub(super) fn lead(&self) -> &Member {
        let open = |m: &&Member| m.head.state == State::Open;
        self.members
            .iter()
            .find(|m| m.lead)
            .or_else(|| self.members.iter().find(open))
            .unwrap_or(&self.members[0])
    }

    /// The worst of what is going on; once all is over, of what it was.
    pub(super) fn severity(&self) -> Severity {
        let open = |m: &&Member| m.head.state != State::Resolved;
        let worst = |all: &mut dyn Iterator<Item = &Member>| all.map(|m| m.head.severity).max();
        worst(&mut self.members.iter().filter(open))
            .or_else(|| worst(&mut self.members.iter()))
            .unwrap_or(Severity::Low)
    }

    /// The first of the worst that is going on; once all is over, the lead.
    pub(super) fn worst(&self) -> &Head {
        let severity = self.severity();
        let worst = |m: &&Member| m.head.state != State::Resolved && m.head.severity == severity;
        &self.members.iter().find(worst).unwrap_or(self.lead()).head
    }

    pub(super) fn repeat_due(&self, interval_ms: i64) -> Option<Time> {
        let told_at = self.told_at?;
        self.members
            .iter()
            .any(Member::repeats)
            .then(|| told_at.plus_ms(interval_ms.max(1)))
    }

    pub(super) fn escalate_due(&self, route: &Route) -> Option<Time> {
        let e = route.escalate.as_ref()?;
        let due = |m: &Member| m.escalate_due(e.after_ms);
        self.members.iter().filter_map(due).min()
    }

    /// Whether looking at the group now would change nothing: nothing waits, every sink knows what it
    /// should, neither a repeat nor an escalation is due, and nobody is to leave.
    pub(super) fn sleeps(&self, routes: &Routes, now: Time) -> bool {
        let route = routes.get(&self.route);
        let later = |due: Option<Time>| due.is_none_or(|due| due > now);
        self.waiting.is_empty()
            && self.due.is_none()
            && self.members.iter().all(|m| m.unaware().next().is_none())
            && later(self.repeat_due(repeat_interval(route)))
            && later(route.and_then(|r| self.escalate_due(r)))
            && !self.members.iter().any(|m| m.is_over() && !m.lead)
            && !self.is_over()
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.members.iter().all(Member::is_over)
    }

    /// Lets go of members that are over; the lead stays, since the group goes by its name, until no
    /// receiver knows of any. Returns who left.
    pub(super) fn tidy(&mut self) -> Vec<Id> {
        if self.members.iter().all(|m| m.told.is_empty()) {
            for m in &mut self.members {
                m.lead = false;
            }
            self.shown.clear();
            self.past = 0;
        }
        let waits: Vec<Id> = self.waiting.iter().map(Waiting::id).collect();
        let mut left = Vec::new();
        self.members.retain(|m| {
            let leaves = m.is_over() && !m.lead && !waits.contains(&m.id());
            if leaves {
                left.push(m.id());
            }
            !leaves
        });
        let left_now = u32::try_from(left.len()).unwrap_or(u32::MAX);
        self.past = self.past.saturating_add(left_now);
        left
    }
}
