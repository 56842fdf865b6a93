//! Completeness and honesty of the evidence. Home: merged minute.
//!
//! The sequence ledger unites the intervals of all partitions. A hole is judged after the grace time:
//! *late* if events filled it meanwhile, *declared* if the publisher said around that time that it discarded
//! that many, *restart* if it is the beginning of a new boot, else *unexplained*; only unexplained pages. A
//! sequence without a boot proves nothing and is not audited. Also: gateways that fall silent, clocks that are
//! behind or outside the allowed range, losses that are declared, records that are refused, models without
//! a price, and reported cost unlike computed cost.

mod coding;
mod cost;
mod gateway;
mod habit;
mod hole;
mod lane;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cost::Cost;
use gateway::{Gateway, Late};
use lane::Lane;

use super::part::{LaneKey, MinutePart};
use super::{DetectConfig, DetectorId, Finding, finding_id};
use crate::event::{Severity, SmolStr, Stage, Time};

/// Intervals kept per lane, and of all lanes of a gateway; beyond it the oldest are closed and counted.
pub const MAX_INTERVALS: usize = 65_536;
/// A condition that lasts is reported once in this many minutes.
const AGAIN_MINUTES: i64 = 60;
/// Subjects that a rule tells of by name in that time; the rest is one more.
const MAX_NAMED: usize = 256;
/// Evidence problems are over when none has been seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 2 * 3_600_000;

/// What became of missing events, in totals per gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    /// Came after the hole was noticed.
    pub late: u64,
    /// The publisher said that it discarded them, whether or not they had a number.
    pub declared: u64,
    /// Before the first event of a new boot.
    pub restart: u64,
    /// Nothing explains it.
    pub unexplained: u64,
}

impl Missing {
    /// Adds another's counts. A forged number may be as large as a count can be.
    pub fn add(&mut self, o: &Self) {
        self.late = self.late.saturating_add(o.late);
        self.declared = self.declared.saturating_add(o.declared);
        self.restart = self.restart.saturating_add(o.restart);
        self.unexplained = self.unexplained.saturating_add(o.unexplained);
    }

    /// The counts with their names.
    pub fn kinds(&self) -> [(&'static str, u64); 4] {
        [
            ("late", self.late),
            ("declared", self.declared),
            ("restart", self.restart),
            ("unexplained", self.unexplained),
        ]
    }
}

/// The audit's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Audit {
    lanes: BTreeMap<LaneKey, Lane>,
    gateways: BTreeMap<SmolStr, Gateway>,
    costs: BTreeMap<SmolStr, Cost>,
    /// (rule, subject) → minute of the last finding.
    told: BTreeMap<(SmolStr, SmolStr), i64>,
    /// Lanes and intervals that had to be forgotten.
    pub forgotten: u64,
    /// What a minute and the late events since the last one say of clocks. Used up within one merge, as is
    /// `noted`, so no checkpoint holds it.
    late: BTreeMap<SmolStr, Late>,
    /// What is missing, since it was last taken.
    noted: BTreeMap<SmolStr, Missing>,
}

struct Place<'a> {
    config: &'a DetectConfig,
    minute: i64,
    at: Time,
}

/// What is wrong with a gateway or a model.
struct Problem {
    rule: &'static str,
    /// A ticket, if nothing else is said.
    stage: Stage,
    gateway: Option<SmolStr>,
    model: Option<SmolStr>,
    severity: Severity,
    reason: String,
}

impl Problem {
    fn gateway(rule: &'static str, name: &SmolStr, severity: Severity, reason: String) -> Self {
        Self {
            rule,
            stage: Stage::Ticket,
            gateway: Some(name.clone()),
            model: None,
            severity,
            reason,
        }
    }

    fn model(rule: &'static str, name: &SmolStr, severity: Severity, reason: String) -> Self {
        Self {
            rule,
            stage: Stage::Ticket,
            gateway: None,
            model: Some(name.clone()),
            severity,
            reason,
        }
    }
}

impl Audit {
    /// A closed minute, all partitions united. `complete`: no partition was left out.
    pub(super) fn minute(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        at: Time,
        complete: bool,
        out: &mut Vec<Finding>,
    ) {
        let place = Place {
            config,
            minute: part.minute,
            at,
        };
        self.begin_hour(&place, part.minute.div_euclid(60), out);
        self.sequences(part, part.minute);
        self.signs(&place, part);
        self.judge_holes(&place, complete, out);
        self.boots(&place, part, out);
        self.gateways(&place, part, complete, out);
        self.costs(&place, part, out);
        self.told
            .retain(|_, minute| part.minute - *minute < AGAIN_MINUTES);
    }

    /// Events that came after their minute closed, or whose partition was left out of it, at the merge of
    /// minute `now`: they fill holes, they are a sign of life, and their clocks are looked at.
    pub(super) fn late(
        &mut self,
        config: &DetectConfig,
        part: &MinutePart,
        now: i64,
        at: Time,
        out: &mut Vec<Finding>,
    ) {
        let place = Place {
            config,
            minute: now,
            at,
        };
        self.begin_hour(&place, now.div_euclid(60), out);
        self.sequences(part, now);
        self.signs(&place, part);
    }

    /// Judges every open hole at a minute by which its grace is over, and the hour under way.
    pub(super) fn finish(
        &mut self,
        config: &DetectConfig,
        minute: i64,
        at: Time,
        out: &mut Vec<Finding>,
    ) {
        let place = Place { config, minute, at };
        self.judge_holes(&place, true, out);
        self.begin_hour(&place, i64::MAX, out);
    }

    /// What became of missing events so far, by gateway.
    pub fn missing(&self) -> impl Iterator<Item = (&SmolStr, Missing)> {
        self.gateways.iter().map(|(name, g)| (name, g.missing))
    }

    /// What became of missing events since this was last asked, by gateway.
    pub fn take_noted(&mut self) -> BTreeMap<SmolStr, Missing> {
        std::mem::take(&mut self.noted)
    }

    /// A problem, at most once in [`AGAIN_MINUTES`] per rule, stage and subject, of at most [`MAX_NAMED`] subjects
    /// and one for all others.
    fn again(&mut self, p: &Place<'_>, mut problem: Problem, out: &mut Vec<Finding>) {
        let (what, name) = match (&problem.gateway, &problem.model) {
            (Some(name), _) => ("gateway", name.as_str()),
            (None, name) => ("model", name.as_deref().unwrap_or_default()),
        };
        let rule = SmolStr::new_static(problem.rule);
        let mut subject = smol_str::format_smolstr!("{what}:{name}");
        let of_rule = (rule.clone(), SmolStr::default())..;
        let told = self
            .told
            .range(of_rule)
            .take_while(|((r, _), _)| *r == rule);
        // A page is told though a ticket was.
        let staged = |subject: &SmolStr| match problem.stage {
            Stage::Page => smol_str::format_smolstr!("page {subject}"),
            _ => subject.clone(),
        };
        let known = self.told.contains_key(&(rule.clone(), staged(&subject)));
        if !known && told.count() >= MAX_NAMED {
            // Names are a publisher's to invent.
            subject = smol_str::format_smolstr!("{what}:(others)");
            problem.reason = format!(
                "more than {MAX_NAMED} {what}s within {AGAIN_MINUTES} min; one of the others: {}",
                problem.reason
            );
        }
        let key = (rule, staged(&subject));
        if self.told.contains_key(&key) {
            return;
        }
        self.told.insert(key, p.minute);
        out.push(p.finding(
            problem.rule,
            &subject,
            problem.severity,
            problem.stage,
            problem.reason,
            problem.gateway,
            problem.model,
        ));
    }
}

impl Place<'_> {
    #[expect(clippy::too_many_arguments, reason = "the fields of a finding")]
    fn finding(
        &self,
        rule: &'static str,
        subject: &SmolStr,
        severity: Severity,
        stage: Stage,
        reason: String,
        gateway: Option<SmolStr>,
        model: Option<SmolStr>,
    ) -> Finding {
        Finding {
            id: finding_id(
                DetectorId::Audit,
                rule,
                1,
                subject,
                &self.minute.to_le_bytes(),
            ),
            detector: DetectorId::Audit,
            rule: SmolStr::new_static(rule),
            version: 1,
            severity,
            stage: self.config.stage(DetectorId::Audit, stage),
            tenant: SmolStr::default(),
            subject: subject.clone(),
            at: self.at,
            start: Time::from_minute(self.minute),
            end: Time::from_minute(self.minute + 1),
            user: None,
            model,
            gateway,
            event: None,
            reason,
            resolve_after_ms: RESOLVE_AFTER_MS,
        }
    }
}
