//! What is known of a gateway: whether it lives, how it usually sends, what it lost.
//!
//! A quiet is judged by the gateway's own habits. Sudden silence of one that sent steadily and fast is a page
//! within minutes, also on its first day. All others, and one that does not come back when it usually does,
//! are a ticket, and only once each hour of a week is known: a gateway of an office, of a job or of a few calls
//! a day is quiet most of the time. Events that come late are a sign of life, whatever their own time says.

use super::habit::Habit;
use super::refusal::Refusals;
use super::{Audit, Missing, Place, Problem};
use crate::detect::part::{GatewaySeen, MinutePart};
use crate::detect::room;
use crate::event::{Severity, SmolStr, Stage, Time};

/// Gateways kept; beyond it names that were hardly seen are forgotten, then those quiet for longest.
const MAX_GATEWAYS: usize = 4_096;
/// Memory of the rate and of the share of minutes with events, minutes.
const RATE_MINUTES: f64 = 30.0;
/// Memory of the rate just before a quiet, minutes: who fades out did not stop at once.
const FAST_MINUTES: f64 = 5.0;
/// A gateway is judged after so many minutes from its first event to its last.
const LEARN_MINUTES: i64 = 30;
/// Events a minute from which sudden silence pages.
const PAGE_RATE: f64 = 10.0;
/// Share of minutes with events from which a gateway sends steadily.
const STEADY: f64 = 0.8;
/// A quiet up to here is one that began suddenly, minutes; beyond it the question is when the gateway
/// usually comes back.
const SUDDEN_MINUTES: i64 = 60;
/// Expected events during the unusual part of a silence, from which it is one.
const SILENT_EVENTS: f64 = 30.0;
/// Minutes in which most events of a gateway were late, from which its clock is told.
const LATE_MINUTES: u32 = 5;
/// Percent of an hour's events, declared as dropped or lost at a restart, from which it is told.
const LOST_PERCENT: u64 = 5;
/// Least number of them: one of ten events is no trend.
const LOST_EVENTS: u64 = 20;

/// What a minute's late events say of a gateway. Used up within one merge, so no checkpoint holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Late {
    /// Events after the close of their minute.
    pub(super) events: u64,
    /// Events of partitions that were left out: in time, merged later.
    pub(super) left_out: u64,
    pub(super) clamped: u64,
    pub(super) no_boot: u64,
    /// Records that were refused, of this minute and of partitions that were left out.
    pub(super) refused: u64,
}

/// Losses of an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hour {
    pub(super) hour: i64,
    pub(super) events: u64,
    pub(super) declared: u64,
    pub(super) restart: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Gateway {
    pub(super) born: i64,
    /// Minute of the last sign of life.
    pub(super) last: i64,
    /// Events a minute, over all whole minutes.
    pub(super) rate: f64,
    /// The same with a short memory.
    pub(super) fast: f64,
    /// Share of minutes with events.
    pub(super) steady: f64,
    /// The lower of both rates, and the share, as they were at the last minute with events.
    pub(super) sent: (f64, f64),
    /// Minutes in a row in which the quiet was longer than usual.
    pub(super) odd: i64,
    pub(super) silent_told: bool,
    /// Minutes in a row in which most events were late.
    pub(super) late_minutes: u32,
    pub(super) missing: Missing,
    pub(super) hour: Hour,
    pub(super) habit: Habit,
    pub(super) refusals: Refusals,
}

impl Gateway {
    /// When it was last of use: a name that was hardly seen goes first, so that a publisher with a new name
    /// per event does not push out the habits of others.
    fn worth(&self) -> i64 {
        if self.last - self.born < LEARN_MINUTES {
            self.last - (1 << 40)
        } else {
            self.last
        }
    }

    /// Notes a sign of life at a minute.
    fn lives(&mut self, minute: i64) {
        if minute > self.last {
            self.habit.quiet(self.last, minute, self.silent_told);
            self.last = minute;
            self.silent_told = false;
            self.odd = 0;
        }
    }

    fn learn(&mut self, minute: i64, events: u64) {
        let n = events as f64;
        let age = (minute - self.born + 1).max(1) as f64;
        let active = if events > 0 { 1.0 } else { 0.0 };
        self.rate += (n - self.rate) / RATE_MINUTES.min(age);
        self.fast += (n - self.fast) / FAST_MINUTES.min(age);
        self.steady += (active - self.steady) / RATE_MINUTES.min(age);
        self.habit.learn(events);
        if events > 0 {
            self.sent = (self.rate.min(self.fast), self.steady);
        }
    }

    /// Judges a whole minute without a sign of life: how far the silence goes, and the rate that it breaks.
    fn silence(&mut self, minute: i64, silent_minutes: i64) -> Option<(Stage, f64)> {
        let quiet = minute - self.last;
        let usual = self.habit.usual(minute);
        if quiet <= usual {
            self.odd = 0;
            return None;
        }
        self.odd += 1;
        let (sent, steady) = self.sent;
        // Beyond what is usual: the longest pause that was seen of one that comes and goes says less.
        let more = if steady >= STEADY { 2 } else { 4 };
        let waits = self.silent_told
            || self.last - self.born < LEARN_MINUTES
            || self.odd < silent_minutes.max(more * usual);
        if waits {
            return None;
        }
        let sudden = quiet <= SUDDEN_MINUTES;
        let (stage, rate) = if sudden && sent >= PAGE_RATE && steady >= STEADY {
            (Stage::Page, sent)
        } else if !self.habit.is_known(minute) {
            return None;
        } else if sudden {
            (Stage::Ticket, sent.min(self.habit.rate(minute)))
        } else {
            (Stage::Ticket, self.habit.rate(minute))
        };
        (rate * self.odd as f64 >= SILENT_EVENTS).then_some((stage, rate))
    }

    /// Ends an hour, or a file: its losses if they are a finding.
    fn end_hour(&mut self, hour: i64) -> Option<Hour> {
        if self.hour.hour == hour {
            return None;
        }
        let done = std::mem::replace(
            &mut self.hour,
            Hour {
                hour,
                ..Hour::default()
            },
        );
        let lost = done.declared.saturating_add(done.restart);
        let all = lost.saturating_add(done.events);
        let many = u128::from(lost) * 100 > u128::from(all) * u128::from(LOST_PERCENT);
        (lost >= LOST_EVENTS && many).then_some(done)
    }
}

impl Audit {
    /// Gateways of a minute or of late events: they live, and what they declare is counted. `now`: the minute
    /// that is merged.
    pub(super) fn signs(&mut self, p: &Place<'_>, part: &MinutePart) {
        let gateways = &self.gateways;
        let new = part.gateways.keys();
        let new = new.filter(|k| !gateways.contains_key(*k)).count();
        self.forgotten += room::make(
            &mut self.gateways,
            new,
            MAX_GATEWAYS,
            |k| part.gateways.contains_key(k),
            Gateway::worth,
        );
        let in_time = part.minute == p.minute && !part.late;
        for (name, seen) in &part.gateways {
            let minute = if in_time {
                part.minute
            } else {
                seen.appended.max(part.minute)
            };
            let fresh = !self.gateways.contains_key(name);
            let Some(g) = room::entry(&mut self.gateways, name, MAX_GATEWAYS, &mut self.forgotten)
            else {
                continue;
            };
            if fresh {
                (g.born, g.last) = (minute, minute);
                g.hour.hour = p.minute.div_euclid(60);
            }
            g.lives(minute);
            self.note_late(name, part, seen, in_time);
            let declared = Missing {
                declared: seen.declared,
                ..Missing::default()
            };
            self.miss(name, &declared);
        }
    }

    fn note_late(&mut self, name: &SmolStr, part: &MinutePart, seen: &GatewaySeen, in_time: bool) {
        let late = self.late.entry(name.clone()).or_default();
        late.clamped = late.clamped.saturating_add(seen.clamped);
        late.no_boot = late.no_boot.saturating_add(seen.no_boot);
        late.refused = late.refused.saturating_add(seen.refused);
        if part.late {
            late.events = late.events.saturating_add(seen.events);
        } else if !in_time {
            late.left_out = late.left_out.saturating_add(seen.events);
        }
    }

    /// Counts what is missing of a gateway, in all, by the hour and for the store.
    pub(super) fn miss(&mut self, gateway: &SmolStr, missing: &Missing) {
        if *missing == Missing::default() {
            return;
        }
        let Some(g) = self.gateways.get_mut(gateway) else {
            return;
        };
        g.missing.add(missing);
        g.hour.declared = g.hour.declared.saturating_add(missing.declared);
        g.hour.restart = g.hour.restart.saturating_add(missing.restart);
        self.noted.entry(gateway.clone()).or_default().add(missing);
    }

    /// Judges each gateway at the end of a minute.
    pub(super) fn gateways(
        &mut self,
        p: &Place<'_>,
        part: &MinutePart,
        complete: bool,
        out: &mut Vec<super::Finding>,
    ) {
        let late = std::mem::take(&mut self.late);
        let mut problems = Vec::new();
        let mut silent = Vec::new();
        for (name, g) in &mut self.gateways {
            let on_time = part.gateways.get(name).map_or(0, |s| s.events);
            let late = late.get(name).copied().unwrap_or_default();
            clocks(name, &late, &mut problems);
            if late.events > on_time {
                g.late_minutes = g.late_minutes.saturating_add(1);
            } else if on_time > 0 {
                g.late_minutes = 0;
            }
            if g.late_minutes >= LATE_MINUTES && late.events > 0 {
                problems.push(Problem::gateway(
                    "audit-late-clock",
                    name,
                    Severity::Medium,
                    format!(
                        "{} of {} events of gateway {name} in a minute, and most of them in {} such minutes, arrived more than 10 s after the minute in which they say they ended: its clock is behind or it publishes late; budgets and rules count them, latency, errors and drift do not see them",
                        late.events,
                        late.events.saturating_add(on_time),
                        g.late_minutes,
                    ),
                ));
            }
            let events = on_time.saturating_add(late.events);
            let all = events.saturating_add(late.left_out);
            g.hour.events = g.hour.events.saturating_add(all);
            let before = (p.minute - g.born >= LEARN_MINUTES).then_some(g.rate);
            problems.extend(g.refusals.judge(name, all, late.refused, before));
            g.habit.move_to(p.minute);
            // Without a partition nobody knows what a gateway sent.
            if !complete {
                continue;
            }
            // What is learnt stays as it was before a silence.
            if !g.silent_told {
                g.learn(p.minute, events);
            }
            if p.minute > g.last
                && let Some((stage, rate)) = g.silence(p.minute, p.config.audit.silent_minutes)
            {
                g.silent_told = true;
                let quiet = p.minute - g.last;
                let before = if quiet <= SUDDEN_MINUTES {
                    "it sent"
                } else {
                    "at this hour of the week it usually sends"
                };
                let reason = format!(
                    "gateway {name} has sent nothing for {quiet} min, longer than is usual for it at this hour; {before} {rate:.0} events a minute"
                );
                silent.push((name.clone(), stage, reason));
            }
        }
        for (name, stage, reason) in silent {
            out.push(p.finding(
                "audit-silent-gateway",
                &smol_str::format_smolstr!("gateway:{name}"),
                Severity::High,
                stage,
                reason,
                Some(name),
                None,
            ));
        }
        for problem in problems {
            self.again(p, problem, out);
        }
    }

    /// Begins an hour (`i64::MAX`: the end of a file), and judges what the last one lost.
    pub(super) fn begin_hour(&mut self, p: &Place<'_>, hour: i64, out: &mut Vec<super::Finding>) {
        let mut problems = Vec::new();
        for (name, g) in &mut self.gateways {
            if let Some(hour) = g.end_hour(hour) {
                problems.push(lost(name, &hour));
            }
        }
        for problem in problems {
            self.again(p, problem, out);
        }
    }
}

fn clocks(name: &SmolStr, late: &Late, problems: &mut Vec<Problem>) {
    if late.clamped > 0 {
        let reason = format!(
            "{} event{} of gateway {name} in a minute end more than 24 h before or 5 min after the broker received them: its clock is wrong or forged",
            late.clamped,
            if late.clamped == 1 { "" } else { "s" }
        );
        problems.push(Problem::gateway(
            "audit-forged-time",
            name,
            Severity::Medium,
            reason,
        ));
    }
    if late.no_boot > 0 {
        let reason = format!(
            "{} event{} of gateway {name} in a minute have `seq` without `boot`: duplicates are told by `id` alone and missing events cannot be seen; `boot` must be a new value at each start",
            late.no_boot,
            if late.no_boot == 1 { "" } else { "s" }
        );
        problems.push(Problem::gateway(
            "audit-no-boot",
            name,
            Severity::Low,
            reason,
        ));
    }
}

fn lost(name: &SmolStr, hour: &Hour) -> Problem {
    let lost = hour.declared.saturating_add(hour.restart);
    let all = lost.saturating_add(hour.events);
    let percent = u128::from(lost) * 100 / u128::from(all.max(1));
    let reason = format!(
        "{lost} of {all} events of gateway {name} in the hour from {} never came, {percent} %: {} that it says it discarded, {} before the first of a new start; its queue is too small or it is killed with a full one",
        Time::from_minute(hour.hour.saturating_mul(60)),
        hour.declared,
        hour.restart,
    );
    let severity = if percent >= 50 {
        Severity::High
    } else {
        Severity::Medium
    };
    Problem::gateway("audit-declared-loss", name, severity, reason)
}
