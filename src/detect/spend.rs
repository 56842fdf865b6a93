//! Spending far above one's own baseline: per user in the partition, per key, tenant and model in
//! the leader. Home: partition (users), merged minute (the others, and co-elevation).
//!
//! [`baseline`] has the tests of one spender, [`crowd`] that of many at once. Volume alone makes
//! tickets, never pages (measured: at one false alarm per user-month a page would be right one time
//! in twenty).

mod above;
mod baseline;
mod best;
mod crowd;
mod daily;
mod hours;

pub use above::Above;
pub use baseline::{Alarm, BIN_MS, Baseline, Pace, Step};
pub use crowd::{CoElevation, Crowd, Raise};

use super::partition::Subject;
use super::{DetectConfig, DetectorId, Finding, finding_id};
use crate::event::{Event, Pico, Severity, SmolStr, Stage, Time, UsageState};

/// Pico-dollars that a token of a model without a price weighs: a dollar per million tokens, so
/// that unpriced use is still seen.
const UNPRICED_PICO: i64 = 1_000_000;
/// Rule of the findings.
pub const RULE: &str = "spend-baseline";
/// Version of the rule.
const VERSION: u32 = 2;
/// An excess is over when none has been seen for this long, milliseconds.
const RESOLVE_AFTER_MS: i64 = 2 * 3_600_000;

/// What an event weighs in spending: its cost, or its tokens at a nominal price (output thrice).
pub fn weight(event: &Event, cost: Option<Pico>) -> i64 {
    if event.usage.state == UsageState::Missing {
        return 0;
    }
    if let Some(pico) = cost.filter(|p| *p > 0) {
        return pico;
    }
    let tokens = event
        .usage
        .input
        .saturating_add(event.usage.output.saturating_mul(3));
    i64::try_from(tokens)
        .unwrap_or(i64::MAX)
        .saturating_mul(UNPRICED_PICO)
}

/// A weight as dollars: cents, or three digits below a dollar.
fn dollars(weight: f32) -> String {
    let d = f64::from(weight) / 1e12;
    if d >= 1.0 {
        format!("${d:.2}")
    } else {
        format!("${d:.4}")
    }
}

/// The finding of a user's alarm.
pub(super) fn finding(
    config: &DetectConfig,
    event: &Event,
    end: Time,
    subject: &Subject<'_>,
    alarm: &Alarm,
) -> Finding {
    let name = subject.name();
    let (severity, stage) = grade(alarm);
    Finding {
        id: finding_id(
            DetectorId::Spend,
            RULE,
            VERSION,
            &name,
            &alarm.since.0.to_le_bytes(),
        ),
        detector: DetectorId::Spend,
        rule: SmolStr::new_static(RULE),
        version: VERSION,
        severity,
        stage: config.stage(DetectorId::Spend, stage),
        tenant: event.tenant_or_empty(),
        subject: name,
        at: end,
        start: alarm.since,
        end,
        user: subject.user(),
        model: Some(event.model().clone()),
        gateway: Some(event.gateway.clone()),
        event: Some(event.id.clone()),
        reason: alarm.reason(),
        resolve_after_ms: RESOLVE_AFTER_MS,
    }
}

/// Volume alone is a ticket; three times the threshold is a worse one.
fn grade(alarm: &Alarm) -> (Severity, Stage) {
    if alarm.score >= 3.0 {
        (Severity::High, Stage::Ticket)
    } else {
        (Severity::Medium, Stage::Ticket)
    }
}

impl Alarm {
    /// One sentence.
    pub fn reason(&self) -> String {
        format!(
            "spent {} within an hour, usually {}; score {:.1} times the threshold",
            dollars(self.hour),
            dollars(self.usual),
            self.score
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::config;
    use super::super::wire::{Reader, Writer};
    use super::*;

    /// A working day of an even user: most of it between eight and eighteen, with noise of a third.
    fn usual(bin: i64) -> f32 {
        let hour = bin / 6 % 24;
        let h = blake3::hash(&bin.to_le_bytes());
        let noise = 0.7 + 0.6 * f32::from(h.as_bytes()[0]) / 255.0;
        let level = if (8..18).contains(&hour) { 1.0 } else { 0.1 };
        level * noise * 1e11
    }

    /// The bins that alarm; the state goes through its bytes at every step.
    fn alarms(days: i64, extra: impl Fn(i64) -> f32) -> Vec<i64> {
        let config = config::Spend::default();
        let (mut b, mut out) = (Baseline::default(), Vec::new());
        for bin in 0..days * 144 {
            #[expect(clippy::cast_possible_truncation, reason = "far below the bound")]
            let weight = (usual(bin) + extra(bin)) as i64;
            if b.add(Time(bin * BIN_MS + 1), weight, &config)
                .alarm
                .is_some()
            {
                out.push(bin);
            }
            let mut w = Writer::default();
            b.encode(&mut w);
            assert!(w.0.len() <= 350, "{} bytes", w.0.len());
            let back = Baseline::decode(&mut Reader::new(&w.0)).expect("decode");
            let mut again = Writer::default();
            back.encode(&mut again);
            assert_eq!(again.0, w.0);
            b = back;
        }
        out
    }

    #[test]
    fn bursts_loops_theft_at_night_and_ramps_are_found_and_a_usual_fortnight_is_not() {
        assert_eq!(alarms(14, |_| 0.0), Vec::<i64>::new());
        let from = 10 * 144 + 60;
        let after = |found: &[i64], start: i64| found.first().map(|b| b - start);
        let burst = alarms(12, |b| {
            if (from..from + 6).contains(&b) {
                10e11
            } else {
                0.0
            }
        });
        assert!(
            after(&burst, from).is_some_and(|d| (1..3).contains(&d)),
            "{burst:?}"
        );
        let steady = alarms(12, |b| {
            if (from..from + 36).contains(&b) {
                2.5e11
            } else {
                0.0
            }
        });
        assert!(
            after(&steady, from).is_some_and(|d| (1..24).contains(&d)),
            "{steady:?}"
        );
        // Two in the morning: less than any working hour spends.
        let night = 10 * 144 + 12;
        let theft = alarms(12, |b| {
            if (night..night + 24).contains(&b) {
                0.9e11
            } else {
                0.0
            }
        });
        assert!(
            after(&theft, night).is_some_and(|d| (1..24).contains(&d)),
            "{theft:?}"
        );
        #[expect(clippy::cast_precision_loss, reason = "hundreds of bins")]
        let ramp = alarms(14, |b| ((b - from).max(0) as f32 / 288.0).min(1.0) * 4e11);
        assert!(
            after(&ramp, from).is_some_and(|d| (6..144).contains(&d)),
            "{ramp:?}"
        );
    }

    #[test]
    fn one_wild_bin_is_no_burst_and_a_lasting_rise_is_told_once() {
        let from = 10 * 144 + 60;
        let one = alarms(12, |b| if b == from { 10e11 } else { 0.0 });
        assert_eq!(one, Vec::<i64>::new());
        let level = alarms(14, |b| if b >= from { 6e11 } else { 0.0 });
        assert!((1..=3).contains(&level.len()), "{level:?}");
    }

    #[test]
    fn a_row_of_the_format_before_keeps_its_bins_and_learns_the_days_anew() {
        let mut w = Writer::default();
        w.option(Some(1_000), Writer::i64);
        w.f32(5.0);
        w.u64(0b101);
        w.f32(7.0);
        w.f32(8.0);
        w.u64(900);
        for x in [60.0, 0.0, 0.0, 0.0, 120.0, 0.0] {
            w.f32(x);
        }
        for _ in 0..24 {
            w.u8(0);
        }
        w.option(None, Writer::i64);
        let mut r = Reader::new(&w.0);
        let b = Baseline::decode_v1(&mut r).expect("old row");
        assert!(r.is_at_end());
        assert!(b.has_learnt());
        let mut w = Writer::default();
        b.encode(&mut w);
        assert!(Baseline::decode(&mut Reader::new(&w.0)).is_ok());
    }

    #[test]
    fn a_row_of_the_second_format_learns_what_holds_anew() {
        let (config, mut b) = (config::Spend::default(), Baseline::default());
        for bin in 0..1_000 {
            #[expect(clippy::cast_possible_truncation, reason = "far below the bound")]
            let weight = usual(bin) as i64;
            b.add(Time(bin * BIN_MS + 1), weight, &config);
        }
        let mut w = Writer::default();
        b.encode(&mut w);
        // What holds stands at the end: a byte and three numbers.
        w.0.truncate(w.0.len() - 13);
        let mut r = Reader::new(&w.0);
        let old = Baseline::decode_v2(&mut r).expect("old row");
        assert!(r.is_at_end() && old.has_learnt() && old != b);
        let mut again = Writer::default();
        old.encode(&mut again);
        assert_eq!(again.0[..w.0.len()], w.0, "all else is kept");
        assert_eq!(Baseline::decode(&mut Reader::new(&again.0)), Ok(old));
    }

    #[test]
    fn a_mean_that_grows_holds_nothing() {
        let config = config::Spend::default();
        let mut b = Baseline::default();
        // One bin in seven, half as much again each day: nothing is ever held.
        for bin in 0..8 * 144 {
            let today = (0..bin / 144).fold(1_000_000_000, |w, _| w * 3 / 2);
            let weight = if bin % 7 == 0 { today } else { 0 };
            let step = b.add(Time(bin * BIN_MS + 1), weight, &config);
            assert_eq!(step.alarm, None, "bin {bin}");
        }
    }

    #[test]
    fn a_crowd_is_told_when_half_of_it_rises_a_little_and_not_when_one_does_much() {
        let pace = Pace {
            bin_ms: BIN_MS,
            floor: 0.0,
            threshold: 1.0,
            again: 6,
        };
        let run = |rise: &dyn Fn(usize, i64) -> f32| {
            let mut users = vec![Baseline::default(); 40];
            let (mut fleet, mut out) = (CoElevation::default(), Vec::new());
            for bin in 0..8 * 144i64 {
                let mut sums = super::super::part::Elevation::default();
                for (i, u) in users.iter_mut().enumerate() {
                    let h = blake3::hash(&[bin.to_le_bytes(), i.to_le_bytes()].concat());
                    let noise = 0.7 + 0.6 * f32::from(h.as_bytes()[0]) / 255.0;
                    let x = 1e9 * noise * rise(i, bin);
                    u.add_at(Time(bin * BIN_MS + 1), x, &pace);
                    if let Some(raise) = u.advance(bin + 1, &pace) {
                        raise.add_to(&mut sums);
                    }
                }
                if fleet.bin(bin, sums, pace.again).alarm {
                    out.push(bin);
                }
            }
            out
        };
        let from = 7 * 144 + 70;
        let many = run(&|i, b| if i % 2 == 0 && b >= from { 1.4 } else { 1.0 });
        assert!(
            many.iter().any(|b| (from..from + 5).contains(b)),
            "{many:?}"
        );
        let before = many.iter().filter(|b| **b < from).count();
        assert!(before <= 3, "by chance, in a week: {many:?}");
        let one = run(&|i, b| if i == 0 && b >= from { 2.0 } else { 1.0 });
        assert!(!one.iter().any(|b| (from..from + 6).contains(b)), "{one:?}");
    }
}
