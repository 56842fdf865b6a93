//! The ledger of sequences: what was seen of each lane, and what became of its holes.

use std::collections::BTreeMap;

use super::{Audit, Finding, MAX_INTERVALS, Missing, Place, Problem};
use crate::detect::part::{MinutePart, unite};
use crate::detect::room;
use crate::event::{Severity, SmolStr, Stage};

/// Lanes kept; beyond it the longest silent is forgotten. A boot makes lanes of its own.
const MAX_LANES: usize = 8_192;
/// Boots and lanes of one gateway in a minute from which they are too many: a large gateway has a lane for
/// each of its partitions and a boot for each of its workers.
const MANY_LANES: usize = 1_024;
/// Intervals of all lanes together: 24 B each and twice that for the hole beside it.
const MAX_ALL: usize = 4 * MAX_INTERVALS;
/// A lane without events for this many minutes is forgotten: its boot is over.
const LANE_MINUTES: i64 = 24 * 60;

/// Unexplained holes of one gateway in one minute.
struct Bad {
    events: u64,
    lanes: u64,
    /// Lane, from, to.
    first: (u32, u64, u64),
}

impl Audit {
    /// Adds a part's sequences. `now`: the minute that is merged, from which the grace of new holes runs, also
    /// where the part is of an earlier one.
    pub(super) fn sequences(&mut self, part: &MinutePart, now: i64) {
        let lanes = &self.lanes;
        let new = part.lanes.keys().filter(|k| !lanes.contains_key(k)).count();
        self.forgotten += room::make(
            &mut self.lanes,
            new,
            MAX_LANES,
            |k| part.lanes.contains_key(k),
            |l| l.last_minute,
        );
        let mut late: BTreeMap<SmolStr, u64> = BTreeMap::new();
        for (key, seen) in &part.lanes {
            // Written by a version that audited them: two starts cannot be told apart.
            if key.boot.is_empty() {
                continue;
            }
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
            lane.declare(now, seen.declared);
            let before = lane.missing();
            lane.seen.extend_from_slice(&seen.seen);
            unite(&mut lane.seen);
            lane.rebuild_holes(now);
            let filled = lane.holes_filled(before);
            if filled > 0 {
                let sum = late.entry(key.gateway.clone()).or_default();
                *sum = sum.saturating_add(filled);
            }
            self.forgotten += lane.cut(MAX_INTERVALS);
        }
        self.bound_intervals();
        for (gateway, late) in late {
            let missing = Missing {
                late,
                ..Missing::default()
            };
            self.miss(&gateway, &missing);
        }
        self.lanes
            .retain(|_, l| part.minute - l.last_minute < LANE_MINUTES);
    }

    /// One gateway's lanes have [`MAX_INTERVALS`] together, all lanes [`MAX_ALL`]: beyond it each lane keeps
    /// its share, so that what one gateway leaves out costs the memory of the leader, and the checkpoint that
    /// is written with each merge, no more than that.
    fn bound_intervals(&mut self) {
        let mut used: BTreeMap<SmolStr, (usize, usize)> = BTreeMap::new();
        for (key, lane) in &self.lanes {
            let (lanes, intervals) = used.entry(key.gateway.clone()).or_default();
            (*lanes, *intervals) = (*lanes + 1, *intervals + lane.seen.len());
        }
        used.retain(|_, (_, intervals)| *intervals > MAX_INTERVALS);
        let mut all = 0;
        for (key, lane) in &mut self.lanes {
            if let Some((lanes, _)) = used.get(&key.gateway) {
                self.forgotten += lane.cut((MAX_INTERVALS / lanes).max(1));
            }
            all += lane.seen.len();
        }
        if all > MAX_ALL {
            let share = (MAX_ALL / self.lanes.len()).max(1);
            for lane in self.lanes.values_mut() {
                self.forgotten += lane.cut(share);
            }
        }
    }

    /// Judges holes whose grace is over. `complete`: no partition was left out; else it may hold the missing
    /// ones, and everything waits another minute.
    pub(super) fn judge_holes(&mut self, p: &Place<'_>, complete: bool, out: &mut Vec<Finding>) {
        if !complete {
            self.lanes.values_mut().for_each(super::Lane::wait);
            return;
        }
        let grace = p.config.audit.grace_minutes;
        let mut found: BTreeMap<SmolStr, (Missing, Option<Bad>)> = BTreeMap::new();
        for (key, lane) in &mut self.lanes {
            let mut missing = Missing::default();
            let mut first = None;
            for (from, to) in lane.due(p.minute - grace) {
                lane.holes.remove(&(from, to));
                let rest = lane.explain((to - from).saturating_add(1));
                if rest == 0 {
                    continue;
                }
                if from == 0 && lane.restart {
                    missing.restart = missing.restart.saturating_add(rest);
                } else {
                    missing.unexplained = missing.unexplained.saturating_add(rest);
                    first.get_or_insert((key.lane, from, to));
                }
            }
            lane.forget_declared(p.minute - grace - 1);
            // Everything below the earliest open hole is judged: one interval stands for it.
            lane.compact();
            if missing == Missing::default() {
                continue;
            }
            let (sum, bad) = found.entry(key.gateway.clone()).or_default();
            sum.add(&missing);
            if let Some(first) = first {
                let bad = bad.get_or_insert(Bad {
                    events: 0,
                    lanes: 0,
                    first,
                });
                bad.events = bad.events.saturating_add(missing.unexplained);
                bad.lanes += 1;
            }
        }
        for (gateway, (missing, bad)) in found {
            self.miss(&gateway, &missing);
            let Some(Bad {
                events,
                lanes,
                first: (lane, from, to),
            }) = bad
            else {
                continue;
            };
            let reason = format!(
                "{events} event{} of gateway {gateway} missing in {lanes} lane{}: first gap in lane {lane}, sequence {from} to {to}; neither late nor declared by the publisher",
                if events == 1 { "" } else { "s" },
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
    pub(super) fn boots(&mut self, p: &Place<'_>, part: &MinutePart, out: &mut Vec<Finding>) {
        let mut lanes: BTreeMap<&SmolStr, usize> = BTreeMap::new();
        for key in part.lanes.keys() {
            *lanes.entry(&key.gateway).or_default() += 1;
        }
        for (name, n) in lanes.into_iter().filter(|(_, n)| *n > MANY_LANES) {
            let reason = format!(
                "gateway {name} used {n} boots and lanes in one minute: `boot` must be one value from a start to the next, or missing events cannot be seen"
            );
            let problem = Problem::gateway("audit-many-boots", name, Severity::Medium, reason);
            self.again(p, problem, out);
        }
    }
}
