//! Completeness and honesty of the evidence. Home: merged minute.
//!
//! The sequence ledger unites the intervals of all partitions. A hole is judged after the grace time:
//! *late* if events filled it meanwhile, *declared* if the publisher said it discarded that many,
//! *restart* if it is the beginning of a new boot, else *unexplained*; only unexplained pages. Also:
//! gateways that fall silent, clocks outside the allowed range, models without a price, and reported
//! cost unlike computed cost.

mod coding;
mod lane;

use std::collections::BTreeMap;

use lane::Lane;

use super::part::{LaneKey, MinutePart, unite};
use super::{DetectConfig, DetectorId, Finding, finding_id, room};
use crate::event::{Severity, SmolStr, Stage, Time};

/// Intervals kept per lane; beyond it the oldest are closed and their holes counted.
pub const MAX_INTERVALS: usize = 65_536;
/// Lanes kept; beyond it the longest silent is forgotten. A boot makes lanes of its own.
const MAX_LANES: usize = 8_192;
/// Boots and lanes of one gateway in a minute from which they are too many: a large gateway has a lane for
/// each of its partitions and a boot for each of its workers.
const MANY_LANES: usize = 1_024;
/// A lane without events for this many minutes is forgotten: its boot is over.
const LANE_MINUTES: i64 = 24 * 60;
/// Gateways kept.
const MAX_GATEWAYS: usize = 4_096;
/// Memory of a gateway's rate, minutes.
const RATE_MINUTES: f64 = 30.0;
/// A gateway has learnt after this many minutes with events.
const LEARN_MINUTES: i64 = 30;
/// Events per minute from which silence pages; slower gateways may just be idle.
const PAGE_RATE: f64 = 10.0;
/// Expected events during the silence, from which it is one.
const SILENT_EVENTS: f64 = 30.0;
/// A condition that lasts is reported once in this many minutes.
const AGAIN_MINUTES: i64 = 60;
/// Relative difference between reported and computed cost that is a mismatch.
const MISMATCH_PERCENT: i128 = 5;
/// Least difference worth a finding: ten cents in an hour.
const MISMATCH_PICO: i128 = 100_000_000_000;
/// Compared events an hour needs.
const MISMATCH_EVENTS: u64 = 20;
/// Evidence problems are over when none has been seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 2 * 3_600_000;

/// What became of missing events, in totals per gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    /// Came after the hole was noticed.
    pub late: u64,
    /// The publisher said so.
    pub declared: u64,
    /// Before the first event of a new boot.
    pub restart: u64,
    /// Nothing explains it.
    pub unexplained: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Gateway {
    born: i64,
    last: i64,
    rate: f64,
    silent_told: bool,
    missing: Missing,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cost {
    hour: i64,
    events: u64,
    computed: i128,
    reported: i128,
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
    /// Forged times of late events since the last minute: an event dated back is always late. Used
    /// up within one merge, so no checkpoint holds it.
    forged: BTreeMap<SmolStr, u64>,
}

struct Place<'a> {
    config: &'a DetectConfig,
    minute: i64,
    at: Time,
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
        self.sequences(part);
        self.judge_holes(&place, complete, out);
        self.boots(&place, part, out);
        self.gateways(&place, part, complete, out);
        self.costs(&place, part, out);
        self.told
            .retain(|_, minute| part.minute - *minute < AGAIN_MINUTES);
    }

    /// Events that came after their minute closed: they fill holes, and their clocks are looked at.
    pub(super) fn late(&mut self, part: &MinutePart) {
        self.sequences(part);
        for (name, seen) in &part.gateways {
            if seen.clamped > 0 {
                *self.forged.entry(name.clone()).or_default() += seen.clamped;
            }
        }
    }

    /// Judges every open hole at a minute by which its grace is over.
    pub(super) fn finish(
        &mut self,
        config: &DetectConfig,
        minute: i64,
        at: Time,
        out: &mut Vec<Finding>,
    ) {
        let place = Place { config, minute, at };
        self.judge_holes(&place, true, out);
    }

    /// What became of missing events so far, by gateway.
    pub fn missing(&self) -> impl Iterator<Item = (&SmolStr, Missing)> {
        self.gateways.iter().map(|(name, g)| (name, g.missing))
    }

    fn sequences(&mut self, part: &MinutePart) {
        let lanes = &self.lanes;
        let new = part.lanes.keys().filter(|k| !lanes.contains_key(k)).count();
        self.forgotten += room::make(
            &mut self.lanes,
            new,
            MAX_LANES,
            |k| part.lanes.contains_key(k),
            |l| l.last_minute,
        );
        for (key, seen) in &part.lanes {
            let known = self.gateways.contains_key(&key.gateway);
            let fresh = !self.lanes.contains_key(key);
            let Some(lane) = room::entry(&mut self.lanes, key, MAX_LANES, &mut self.forgotten)
            else {
                continue;
            };
            if fresh {
                lane.restart = known;
                lane.floor = if known {
                    0
                } else {
                    seen.seen.first().map_or(0, |i| i.0)
                };
            }
            lane.last_minute = lane.last_minute.max(part.minute);
            lane.declared = lane.declared.saturating_add(seen.declared);
            let before: u64 = lane.holes.keys().map(|(a, b)| b - a + 1).sum();
            lane.seen.extend_from_slice(&seen.seen);
            unite(&mut lane.seen);
            lane.rebuild_holes(part.minute);
            let filled = lane.holes_filled(before);
            if let Some(g) = self.gateways.get_mut(&key.gateway) {
                g.missing.late += filled;
            }
            if lane.seen.len() > MAX_INTERVALS {
                let cut = lane.seen.len() - MAX_INTERVALS;
                lane.floor = lane.seen[cut].0;
                lane.seen.drain(..cut);
                lane.holes.retain(|(from, _), _| *from >= lane.floor);
                self.forgotten += cut as u64;
            }
        }
        self.lanes
            .retain(|_, l| part.minute - l.last_minute < LANE_MINUTES);
    }

    fn judge_holes(&mut self, p: &Place<'_>, complete: bool, out: &mut Vec<Finding>) {
        // (count, lanes, first hole, restart) per gateway.
        let mut bad: BTreeMap<SmolStr, (u64, u64, (u32, u64, u64))> = BTreeMap::new();
        for (key, lane) in &mut self.lanes {
            if !complete {
                // A left-out partition may hold the missing ones: everything waits another minute.
                for noticed in lane.holes.values_mut() {
                    *noticed += 1;
                }
                continue;
            }
            let due: Vec<(u64, u64)> = lane
                .holes
                .iter()
                .filter(|(_, noticed)| p.minute - **noticed >= p.config.audit.grace_minutes)
                .map(|(hole, _)| *hole)
                .collect();
            let mut missing = Missing::default();
            let mut first = None;
            for (from, to) in due {
                lane.holes.remove(&(from, to));
                let n = to - from + 1;
                let declared = n.min(lane.declared);
                lane.declared -= declared;
                missing.declared += declared;
                let rest = n - declared;
                if rest == 0 {
                    continue;
                }
                if from == 0 && lane.restart {
                    missing.restart += rest;
                } else {
                    missing.unexplained += rest;
                    first.get_or_insert((key.lane, from, to));
                }
            }
            // Everything below the earliest open hole is judged: one interval stands for it.
            lane.compact();
            if let Some(g) = self.gateways.get_mut(&key.gateway) {
                g.missing.declared += missing.declared;
                g.missing.restart += missing.restart;
                g.missing.unexplained += missing.unexplained;
            }
            if let Some(first) = first {
                let b = bad.entry(key.gateway.clone()).or_insert((0, 0, first));
                b.0 += missing.unexplained;
                b.1 += 1;
            }
        }
        for (gateway, (n, lanes, (lane, from, to))) in bad {
            let reason = format!(
                "{n} event{} of gateway {gateway} missing in {lanes} lane{}: first gap in lane {lane}, sequence {from} to {to}; neither late nor declared by the publisher",
                if n == 1 { "" } else { "s" },
                if lanes == 1 { "" } else { "s" },
            );
            out.push(p.finding(
                "audit-missing-events",
                &smol_str::format_smolstr!("gateway:{gateway}"),
                Severity::High,
                Stage::Page,
                reason,
                Some(gateway),
                None,
            ));
        }
    }

    /// A gateway that numbers each event in a sequence of its own: what is missing cannot be seen, and the
    /// lanes of all others are pushed out of memory.
    fn boots(&mut self, p: &Place<'_>, part: &MinutePart, out: &mut Vec<Finding>) {
        let mut lanes: BTreeMap<&SmolStr, usize> = BTreeMap::new();
        for key in part.lanes.keys() {
            *lanes.entry(&key.gateway).or_default() += 1;
        }
        for (name, n) in lanes.into_iter().filter(|(_, n)| *n > MANY_LANES) {
            let reason = format!(
                "gateway {name} used {n} boots and lanes in one minute: `boot` must be one value from a start to the next, or missing events cannot be seen"
            );
            self.again(p, "audit-many-boots", name, Severity::Medium, reason, out);
        }
    }

    fn gateways(
        &mut self,
        p: &Place<'_>,
        part: &MinutePart,
        complete: bool,
        out: &mut Vec<Finding>,
    ) {
        for (name, seen) in &part.gateways {
            if !self.gateways.contains_key(name) && self.gateways.len() >= MAX_GATEWAYS {
                self.forgotten += 1;
                continue;
            }
            let g = self
                .gateways
                .entry(name.clone())
                .or_insert_with(|| Gateway {
                    born: p.minute,
                    ..Gateway::default()
                });
            g.last = p.minute;
            g.silent_told = false;
            if seen.clamped > 0 {
                *self.forged.entry(name.clone()).or_default() += seen.clamped;
            }
        }
        for (name, n) in std::mem::take(&mut self.forged) {
            let reason = format!(
                "{n} event{} of gateway {name} in a minute end more than 24 h before or 5 min after the broker received them: its clock is wrong or forged",
                if n == 1 { "" } else { "s" }
            );
            self.again(p, "audit-forged-time", &name, Severity::Medium, reason, out);
        }
        for (name, g) in &mut self.gateways {
            let events = part.gateways.get(name).map_or(0, |s| s.events) as f64;
            let age = (p.minute - g.born + 1) as f64;
            let quiet = p.minute - g.last;
            let silent = complete
                && !g.silent_told
                && g.last - g.born >= LEARN_MINUTES
                && quiet >= p.config.audit.silent_minutes
                && g.rate * quiet as f64 >= SILENT_EVENTS;
            if silent {
                g.silent_told = true;
                let stage = if g.rate >= PAGE_RATE {
                    Stage::Page
                } else {
                    Stage::Ticket
                };
                let reason = format!(
                    "gateway {name} has sent nothing for {quiet} min; it sent {:.0} events a minute before",
                    g.rate
                );
                out.push(p.finding(
                    "audit-silent-gateway",
                    &smol_str::format_smolstr!("gateway:{name}"),
                    Severity::High,
                    stage,
                    reason,
                    Some(name.clone()),
                    None,
                ));
            }
            // The rate is frozen while it is silent, so that a long silence is still one.
            if quiet == 0 || g.rate < 1.0 || g.silent_told {
                if !g.silent_told {
                    g.rate += (events - g.rate) / RATE_MINUTES.min(age);
                }
            } else if quiet > LANE_MINUTES {
                g.rate = 0.0;
            }
        }
    }

    fn costs(&mut self, p: &Place<'_>, part: &MinutePart, out: &mut Vec<Finding>) {
        for (model, seen) in &part.costs {
            if seen.unpriced > 0 {
                let reason = format!(
                    "{} event{} of model {model} in a minute used tokens and have no price of that day: their cost is unknown, not zero; add one to the price table",
                    seen.unpriced,
                    if seen.unpriced == 1 { "" } else { "s" },
                );
                self.again(
                    p,
                    "audit-unpriced-model",
                    model,
                    Severity::Medium,
                    reason,
                    out,
                );
            }
            if seen.compared > 0 {
                let hour = p.minute.div_euclid(60);
                if self.costs.len() >= MAX_GATEWAYS && !self.costs.contains_key(model) {
                    self.forgotten += 1;
                    continue;
                }
                let c = self.costs.entry(model.clone()).or_default();
                if c.hour != hour {
                    *c = Cost {
                        hour,
                        ..Cost::default()
                    };
                }
                c.events += seen.compared;
                c.computed += seen.computed;
                c.reported += seen.reported;
                let off = (c.reported - c.computed).abs();
                if c.events >= MISMATCH_EVENTS
                    && off >= MISMATCH_PICO
                    && off * 100 > c.computed.max(c.reported) * MISMATCH_PERCENT
                {
                    let reason = format!(
                        "gateways reported ${:.2} for {} events of model {model} this hour, the price table says ${:.2}",
                        c.reported as f64 / 1e12,
                        c.events,
                        c.computed as f64 / 1e12,
                    );
                    self.again(
                        p,
                        "audit-cost-mismatch",
                        model,
                        Severity::Medium,
                        reason,
                        out,
                    );
                }
            }
        }
        let hour = p.minute.div_euclid(60);
        self.costs.retain(|_, c| hour - c.hour <= 1);
    }

    /// A ticket, at most once in [`AGAIN_MINUTES`] per subject.
    fn again(
        &mut self,
        p: &Place<'_>,
        rule: &'static str,
        name: &SmolStr,
        severity: Severity,
        reason: String,
        out: &mut Vec<Finding>,
    ) {
        let gateway = matches!(rule, "audit-forged-time" | "audit-many-boots");
        let subject = if gateway {
            smol_str::format_smolstr!("gateway:{name}")
        } else {
            smol_str::format_smolstr!("model:{name}")
        };
        let key = (SmolStr::new_static(rule), subject.clone());
        if self.told.contains_key(&key) {
            return;
        }
        self.told.insert(key, p.minute);
        let (g, m) = if gateway {
            (Some(name.clone()), None)
        } else {
            (None, Some(name.clone()))
        };
        out.push(p.finding(rule, &subject, severity, Stage::Ticket, reason, g, m));
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
