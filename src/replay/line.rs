//! The lines of a replay's output.

use crate::decide::{Change, ChangeKind, Head, OutboxRow};
use crate::detect::Finding;
use crate::event::{SmolStr, Time};

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// `finding`, `incident` or `notification`.
    pub kind: &'static str,
    /// When, RFC 3339.
    pub at: String,
    /// Who saw it.
    pub detector: Option<SmolStr>,
    /// By which rule.
    pub rule: Option<SmolStr>,
    /// How bad.
    pub severity: Option<&'static str>,
    /// Shadow, ticket or page.
    pub stage: Option<&'static str>,
    /// Incident key.
    pub key: String,
    /// Pseudonym of the user.
    pub user: Option<SmolStr>,
    /// Model.
    pub model: Option<SmolStr>,
    /// Event.
    pub event: Option<SmolStr>,
    /// Why.
    pub reason: Option<String>,
    /// What an incident or notification says; absent for findings.
    pub state: Option<&'static str>,
    #[serde(skip)]
    when: Time,
}

impl Line {
    pub(super) fn order(&self) -> impl Ord + '_ {
        (
            self.when,
            self.kind,
            &self.key,
            &self.detector,
            &self.rule,
            &self.user,
            &self.event,
            self.state,
            &self.reason,
        )
    }
}

/// The last line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Accepted events.
    pub events: u64,
    /// Lines that are no event.
    pub refused: u64,
    /// Events seen before.
    pub duplicates: u64,
    /// Findings, shadow ones too.
    pub findings: u64,
    /// Incident numbers opened.
    pub incidents: u64,
    /// Notifications sent.
    pub notifications: u64,
    /// Input plus output tokens.
    pub tokens: u64,
    /// Cost in pico-dollars.
    pub cost_pico: i128,
}

impl Line {
    pub(super) fn finding(f: &Finding) -> Self {
        Self {
            kind: "finding",
            at: f.at.to_string(),
            detector: Some(SmolStr::new_static(f.detector.as_str())),
            rule: Some(f.rule.clone()),
            severity: Some(f.severity.as_str()),
            stage: Some(f.stage.as_str()),
            key: f.key().to_string(),
            user: f.user.map(|u| smol_str::format_smolstr!("{u}")),
            model: f.model.clone(),
            event: f.event.clone(),
            reason: Some(f.reason.clone()),
            state: None,
            when: f.at,
        }
    }

    /// Acknowledgements and repeats are the notifier's, not the incident's.
    pub(super) fn incident(change: &Change, head: &Head) -> Option<Self> {
        let state = match change.kind {
            ChangeKind::Opened => "open",
            ChangeKind::Reopened => "reopened",
            ChangeKind::Resolved => "resolved",
            ChangeKind::Escalated => "escalated",
            ChangeKind::Acknowledged | ChangeKind::Repeat => return None,
        };
        Some(Self {
            kind: "incident",
            at: change.at.to_string(),
            detector: Some(SmolStr::new_static(head.detector.as_str())),
            rule: Some(head.rule.clone()),
            severity: Some(change.severity.as_str()),
            stage: Some(change.stage.as_str()),
            key: change.key.to_string(),
            user: head.user.clone(),
            model: head.model.clone(),
            event: head.event.clone(),
            reason: Some(change.reason.clone()),
            state: Some(state),
            when: change.at,
        })
    }

    pub(super) fn notification(row: &OutboxRow) -> Self {
        let n = &row.payload;
        Self {
            kind: "notification",
            at: row.at.to_string(),
            detector: Some(n.detector.clone()),
            rule: Some(n.rule.clone()),
            severity: Some(row.severity.as_str()),
            stage: Some(n.stage.as_str()),
            key: row.key.to_string(),
            user: n.user.clone(),
            model: n.model.clone(),
            event: n.event.clone(),
            reason: Some(n.reason.clone()),
            state: Some(row.kind.as_str()),
            when: row.at,
        }
    }
}
