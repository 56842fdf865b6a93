//! What the console shows: the state of the show in the words of its reader, as JSON.
//!
//! Filled by [`super::live`] from the documented views of the database, the mailbox and the receiver.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::closing::{Outcome, about};
use super::script::Label;
use crate::decide::{Titles, silence_command};
use crate::event::Time;
use crate::store::report::{SeenBudget, SeenDeadLetter, SeenIncident, SeenPartition};

/// Lines of the commentary that are kept.
const KEPT: usize = 300;

/// Where the demo stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Things are being started.
    #[default]
    Starting,
    /// Traffic flows.
    Live,
    /// The traffic has ended; what was put in is still judged.
    Settling,
    /// The account is closed.
    Ended,
}

/// Counts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Events handed to the broker.
    pub published: u64,
    /// Records put in that are no events.
    pub garbage: u64,
    /// Events counted by the monitor.
    pub events: i64,
    /// Tokens in the ledger.
    pub tokens: i64,
    /// Their cost.
    pub micro_usd: i64,
    /// Dead letters.
    pub dead_letters: i64,
}

/// One thing that is put in.
#[derive(Debug, Clone, Serialize)]
pub struct Story {
    name: &'static str,
    caption: &'static str,
    must: bool,
    began_ms: Option<i64>,
    incident: Option<String>,
    delay_ms: Option<i64>,
    judged_ms: Option<i64>,
}

/// One incident.
#[derive(Debug, Clone, Serialize)]
pub struct Incident {
    id: String,
    number: i32,
    title: String,
    severity: String,
    stage: String,
    state: String,
    detector: String,
    rule: String,
    tenant: String,
    subject: String,
    user: Option<String>,
    model: Option<String>,
    gateway: Option<String>,
    reason: String,
    opened_ms: i64,
    last_ms: i64,
    findings: i64,
    about: String,
    runbook: String,
    silence: String,
}

impl Incident {
    /// An incident, what it is called, and what it is about.
    pub fn new(i: &SeenIncident, titles: &Titles, labels: &[Label]) -> Self {
        let i = i.clone();
        Self {
            title: titles.get(&i.rule).unwrap_or(&i.rule).to_owned(),
            about: about(labels, &i),
            runbook: format!("deploy/runbooks/{}.md", i.detector),
            silence: silence_command(&i.detector, &i.rule, &i.subject),
            opened_ms: i.opened.0,
            last_ms: i.last.0,
            id: i.id,
            number: i.number,
            severity: i.severity,
            stage: i.stage,
            state: i.state,
            detector: i.detector,
            rule: i.rule,
            tenant: i.tenant,
            subject: i.subject,
            user: i.user,
            model: i.model,
            gateway: i.gateway,
            reason: i.reason,
            findings: i.findings,
        }
    }
}

/// A baseline and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Learning {
    /// Of what.
    pub name: &'static str,
    /// How many have learnt, how many still do.
    pub state: String,
    /// What it needs.
    pub note: &'static str,
    /// Whether some still learn.
    pub learning: bool,
}

/// A mail as it arrived.
#[derive(Debug, Clone, Serialize)]
pub struct Mail {
    /// Receivers.
    pub to: String,
    /// Subject.
    pub subject: String,
    /// Body.
    pub body: String,
}

/// A webhook call as it arrived.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// `incident.opened` and so on.
    pub kind: String,
    /// The incident's title.
    pub title: String,
    /// Whether the signature was right.
    pub genuine: bool,
    /// What was answered.
    pub status: u16,
    /// The body, indented.
    pub body: String,
}

/// What the page shows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Board {
    /// The time of this answer.
    pub now_ms: i64,
    /// Where the demo stands.
    pub phase: Phase,
    /// When the traffic began.
    pub began_ms: i64,
    /// When the traffic ends.
    pub ends_ms: i64,
    /// Counts.
    pub totals: Counts,
    /// What is put in, in order.
    pub story: Vec<Story>,
    /// Incidents.
    pub incidents: Vec<Incident>,
    /// Budgets of the current periods.
    pub budgets: Vec<SeenBudget>,
    /// Partitions.
    pub partitions: Vec<SeenPartition>,
    /// Dead letters, newest first.
    pub dead_letters: Vec<SeenDeadLetter>,
    /// Baselines.
    pub learning: Vec<Learning>,
    /// Mails, oldest first.
    pub mails: Vec<Mail>,
    /// Webhook calls, oldest first.
    pub calls: Vec<Call>,
    /// For `psql`.
    pub database: String,
    /// Question and statement.
    pub queries: Vec<(&'static str, &'static str)>,
    /// The commentary, oldest first.
    pub lines: Vec<String>,
}

impl Board {
    /// Puts what was put in beside what became of it.
    pub fn tell(&mut self, labels: &[Label], outcomes: Vec<Outcome>) {
        self.story = labels
            .iter()
            .zip(outcomes)
            .map(|(l, o)| Story {
                name: l.name,
                caption: l.caption,
                must: l.must,
                began_ms: l.began.map(|t| t.0),
                incident: o.incident,
                delay_ms: o.delay_ms,
                judged_ms: l
                    .began
                    .filter(|_| l.by_minute)
                    .map(|t| super::closing::judged_at(t).0),
            })
            .collect();
    }
}

/// The board, shared between the show and the console.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Board>>);

impl Shared {
    /// Changes the board.
    pub fn update(&self, f: impl FnOnce(&mut Board)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
    /// Adds a line of the commentary.
    pub fn line(&self, text: &str) {
        self.update(|b| {
            if b.lines.len() == KEPT {
                b.lines.remove(0);
            }
            b.lines.push(text.to_owned());
        });
    }
    /// The board as it is.
    pub fn copy(&self, now: Time) -> Board {
        let mut board = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        board.now_ms = now.0;
        board
    }
}
