//! The storm guard: what is too much for a sink is counted in a digest, and the digest ends.
//!
//! Whatever the number of incidents, a window's row is small: it counts groups and names a few.
//!
//! What is critical has a lane of its own, which nothing milder can fill. Within it each gateway has an allowance
//! by rule: who floods it is counted in the digest, and the one critical of another gateway or rule is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::group::Knows;
use super::{Group, MEMBERS, Member, Notification, NotificationKind, Notifier, OutboxRow};
use crate::decide::{Routes, dedup_key};
use crate::event::{Severity, SmolStr, Stage, Time, hash16};

/// Digests of a sink that are open at a time; the oldest is taken as over beyond that. A day of
/// windows of five minutes is 288.
const OPEN_DIGESTS: usize = 300;
/// Gateways and rules with an allowance of their own for what is critical; the others share one, so that
/// invented names do not make room.
const LANES: usize = 64;

/// A sink's storm window, and the digests it was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    #[serde(with = "crate::decide::millis")]
    start: Time,
    /// By severity: a flood of mild ones uses up nothing of what worse ones may send.
    #[serde(default)]
    sent: BTreeMap<Severity, u32>,
    /// What was critical, by gateway and rule; the empty name is of all beyond [`LANES`].
    #[serde(default)]
    critical: BTreeMap<SmolStr, u32>,
    digested: u32,
    /// Groups held back.
    #[serde(default)]
    groups: u32,
    /// The first of them, by name.
    #[serde(default)]
    names: Vec<String>,
    worst: Option<Severity>,
    /// The furthest stage held back: a digest of pages is a page.
    #[serde(default)]
    stage: Option<Stage>,
    /// By start of their window.
    #[serde(default)]
    open: BTreeMap<i64, Digest>,
}

/// A digest whose incidents are not all over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Digest {
    /// Incidents of which the receivers know by this digest alone.
    left: u32,
    /// How bad the worst was, once the digest is queued.
    told: Option<Severity>,
    /// The furthest stage it counted.
    #[serde(default)]
    stage: Option<Stage>,
}

impl Storm {
    /// Start of the window, milliseconds since the epoch: the digest's name.
    pub(super) fn started(&self) -> i64 {
        self.start.0
    }
    /// Counts a critical notification against the allowance of its gateway and rule.
    fn admit_critical(&mut self, group: &Group, limit: u32) -> bool {
        let head = group.worst();
        let gateway = head.gateway.as_deref().unwrap_or_default();
        let mut lane = smol_str::format_smolstr!("{gateway} {}", head.rule);
        if self.critical.len() >= LANES && !self.critical.contains_key(&lane) {
            lane = SmolStr::default();
        }
        let sent = self.critical.entry(lane).or_default();
        let room = *sent < limit;
        *sent += u32::from(room);
        room
    }
    /// When its digest is due.
    pub(super) fn due(&self, routes: &Routes) -> Option<Time> {
        (self.digested > 0).then(|| self.start.plus_ms(routes.storm_window_ms))
    }
}

impl Notifier<'_> {
    /// Counts a notification against the sink's storm window; false: it is held back.
    pub(super) fn admit(&mut self, sink: &SmolStr, group: &mut Group, severity: Severity) -> bool {
        let storm = self.storms.entry(sink.clone()).or_default();
        if self.now.since_ms(storm.start) >= self.routes.storm_window_ms && storm.digested == 0 {
            *storm = Storm {
                start: self.now,
                open: std::mem::take(&mut storm.open),
                ..Storm::default()
            };
        }
        let limit = self.routes.storm_limit;
        if severity == Severity::Critical {
            if storm.admit_critical(group, limit) {
                return true;
            }
        } else if storm.sent.range(severity..).map(|(_, n)| n).sum::<u32>() < limit {
            *storm.sent.entry(severity).or_default() += 1;
            return true;
        }
        let start = storm.start.0;
        storm.digested = storm.digested.saturating_add(1);
        storm.worst = storm.worst.max(Some(severity));
        let stages = group.members.iter().map(|m| m.head.stage);
        storm.stage = storm.stage.max(stages.max());
        storm.open.entry(start).or_default();
        if group.held.insert(sink.clone(), start) != Some(start) {
            storm.groups = storm.groups.saturating_add(1);
            if storm.names.len() < MEMBERS {
                let line = self.titles.line(&group.lead().head);
                storm.names.push(format!("{}: {line}", group.route));
            }
        }
        false
    }

    /// Sets what a sink knows of an incident, and keeps count of what only a digest told.
    pub(super) fn knows(&mut self, m: &mut Member, sink: &SmolStr, knows: Option<Knows>) {
        let is = knows.and_then(|k| k.digest);
        let was = match knows {
            Some(k) => m.told.insert(sink.clone(), k),
            None => m.told.remove(sink),
        };
        let was = was.and_then(|k| k.digest);
        if was == is {
            return;
        }
        let Some(storm) = self.storms.get_mut(sink) else {
            return;
        };
        if let Some(d) = was.and_then(|start| storm.open.get_mut(&start)) {
            d.left = d.left.saturating_sub(1);
        }
        if let Some(d) = is.and_then(|start| storm.open.get_mut(&start)) {
            d.left = d.left.saturating_add(1);
        }
    }

    /// Closes storm windows that overflowed: one digest each, an incident of its own, which is over
    /// when all it counted is.
    pub(super) fn digests(&mut self) {
        let mut rows = Vec::new();
        for (sink, storm) in &mut self.storms {
            let due = storm.due(self.routes);
            if due.is_some_and(|due| due <= self.now) {
                let severity = storm.worst.unwrap_or(Severity::Low);
                rows.push(self.routes.digest(sink, storm, severity, self.now));
                let start = storm.start.0;
                let mut open = std::mem::take(&mut storm.open);
                let digest = open.entry(start).or_default();
                (digest.told, digest.stage) = (Some(severity), storm.stage);
                *storm = Storm {
                    start: self.now,
                    open,
                    ..Storm::default()
                };
            }
            let told = storm.open.values().filter(|d| d.told.is_some()).count();
            let mut beyond = told.saturating_sub(OPEN_DIGESTS);
            storm.open.retain(|start, d| {
                let Some(severity) = d.told.filter(|_| d.left == 0 || beyond > 0) else {
                    return true;
                };
                beyond = beyond.saturating_sub(usize::from(d.left > 0));
                let how = (severity, d.stage);
                let over = self.routes.digest_over(sink, Time(*start), how, self.now);
                rows.push(over);
                false
            });
        }
        self.out.outbox.extend(rows);
    }
}

/// The worst severity that a digest counts, and the furthest stage.
type HowBad = (Severity, Option<Stage>);

impl Routes {
    fn digest(&self, sink: &SmolStr, storm: &Storm, severity: Severity, now: Time) -> OutboxRow {
        let mut row = self.about_digest(sink, storm.start, (severity, storm.stage), now);
        let n = &mut row.payload;
        n.title = format!(
            "{} notifications of {} groups held back by the storm guard",
            storm.digested, storm.groups
        );
        n.findings = i64::from(storm.digested);
        n.reason = format!(
            "more than {} notifications in {} s; {} were held back, the worst of severity {}",
            self.storm_limit,
            self.storm_window_ms / 1_000,
            storm.digested,
            severity.as_str()
        );
        n.members.clone_from(&storm.names);
        let named = u32::try_from(storm.names.len()).unwrap_or(u32::MAX);
        n.more = storm.groups.saturating_sub(named);
        n.until_ms = Some(now.plus_ms(super::message::UNREPEATED_MS).0);
        row
    }

    fn digest_over(&self, sink: &SmolStr, start: Time, how: HowBad, now: Time) -> OutboxRow {
        let mut row = self.about_digest(sink, start, how, now);
        row.kind = NotificationKind::Resolved;
        row.seq = now.0.saturating_add(1);
        row.payload.kind = NotificationKind::Resolved;
        "what the storm guard held back is over".clone_into(&mut row.payload.title);
        "every incident that the digest counted is over or was told of by itself"
            .clone_into(&mut row.payload.reason);
        row
    }

    fn about_digest(
        &self,
        sink: &SmolStr,
        start: Time,
        (severity, stage): HowBad,
        now: Time,
    ) -> OutboxRow {
        let key = hash16("digest", &[sink.as_bytes(), &start.0.to_le_bytes()]);
        let dedup = dedup_key(key, 1);
        OutboxRow {
            key,
            number: 1,
            sink: sink.clone(),
            seq: now.0,
            kind: NotificationKind::Digest,
            severity,
            dedup_key: dedup,
            at: now,
            payload: Notification {
                dedup_key: dedup.to_string(),
                key: key.to_string(),
                number: 1,
                kind: NotificationKind::Digest,
                severity,
                stage: stage.unwrap_or(Stage::Ticket),
                detector: SmolStr::new_static("digest"),
                rule: SmolStr::new_static("digest"),
                title: String::new(),
                tenant: SmolStr::default(),
                subject: smol_str::format_smolstr!("sink:{sink}"),
                user: None,
                model: None,
                gateway: None,
                event: None,
                since_ms: start.0,
                at_ms: now.0,
                findings: 1,
                reason: String::new(),
                runbook: format!("{}digest.md", self.runbook_base),
                silence_command: String::new(),
                members: Vec::new(),
                more: 0,
                over: 0,
                was: None,
                until_ms: None,
            },
        }
    }
}
