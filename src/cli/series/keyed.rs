//! `--keyed`: rows of many keys through the spend detector, bin by bin.
//!
//! The bin is the smallest step between two timestamps of the first thousand rows (of the first two
//! timestamps, where a thousand rows have but one); one `*` line closes each. The detector judges no bins
//! below ten minutes: finer ones are added up inside it, each row judged as the sum stands, as in `run`.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use super::row::{ALL, Row};
use super::{Line, Out, Rows};
use crate::detect::part::Elevation;
use crate::detect::spend::{BIN_MS, Baseline, CoElevation, Pace};
use crate::event::{SmolStr, Time};

/// Rows from which the bin is taken.
const BUFFERED: usize = 1_000;
/// Bins between two alarms of one key: six hours of ten minutes.
const AGAIN: i64 = 36;
/// Keys kept; beyond it a new key is scored zero and counted on stderr.
const MAX_KEYS: usize = 1_000_000;

/// Everything about the keyed series.
struct Keyed {
    /// Length of a bin of the file; None until two timestamps are known.
    step_ms: Option<i64>,
    pace: Pace,
    keys: BTreeMap<SmolStr, Baseline>,
    /// What the keys spent at the first timestamp, while it is the only one.
    opening: BTreeMap<SmolStr, f32>,
    fleet: CoElevation,
    now: Option<(Time, String)>,
    /// Score of the detector's latest whole bin, for bins finer than it.
    fleet_score: f64,
    overflow: u64,
}

/// Scores all rows.
///
/// # Errors
/// The input cannot be read, or the output cannot be written.
pub(super) fn score(mut rows: Rows<impl BufRead>, out: &mut Out<impl Write>) -> anyhow::Result<()> {
    let mut first = Vec::with_capacity(BUFFERED);
    while first.len() < BUFFERED {
        match rows.next_row()? {
            Some(row) => first.push(row),
            None => break,
        }
    }
    let mut keyed = Keyed::new(smallest_step(&first));
    let mut first = first.into_iter();
    loop {
        let row = match first.next() {
            Some(row) => row,
            None => match rows.next_row()? {
                Some(row) => row,
                None => break,
            },
        };
        match row {
            Ok(row) => keyed.row(&row, out)?,
            Err((line, error)) => out.bad(line, &error)?,
        }
    }
    keyed.close_bin(None, out)?;
    if keyed.overflow > 0 {
        eprintln!(
            "veilwatch: warning: {} rows of keys beyond the first {MAX_KEYS} were not scored",
            keyed.overflow
        );
    }
    Ok(())
}

fn smallest_step<E>(rows: &[Result<Row, E>]) -> Option<i64> {
    let mut times: Vec<i64> = rows.iter().flatten().map(|r| r.time.0).collect();
    times.sort_unstable();
    times.dedup();
    times.windows(2).map(|w| w[1].saturating_sub(w[0])).min()
}

/// The detector's bin: the file's, or the fewest of them that last ten minutes.
fn detector_bin(step_ms: i64) -> i64 {
    let step = step_ms.max(1);
    if step >= BIN_MS {
        return step;
    }
    (BIN_MS + step - 1) / step * step
}

impl Keyed {
    fn new(step_ms: Option<i64>) -> Self {
        Self {
            step_ms,
            pace: Pace {
                bin_ms: step_ms.map_or(BIN_MS, detector_bin),
                floor: 0.0,
                threshold: 1.0,
                again: AGAIN,
            },
            keys: BTreeMap::new(),
            opening: BTreeMap::new(),
            fleet: CoElevation::default(),
            now: None,
            fleet_score: 0.0,
            overflow: 0,
        }
    }

    fn row(&mut self, row: &Row, out: &mut Out<impl Write>) -> anyhow::Result<()> {
        match self.now.as_ref().map(|(now, _)| *now) {
            Some(now) if row.time < now => {
                return out.bad(row.line, "out of time order; sort the file by timestamp");
            }
            Some(now) if row.time > now => {
                if self.step_ms.is_none() {
                    self.open(now, row.time.0.saturating_sub(now.0));
                }
                if self.bin_of(row.time) > self.bin_of(now) {
                    self.close_bin(Some(row.time), out)?;
                }
            }
            _ => {}
        }
        self.now = Some((row.time, row.timestamp.clone()));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a baseline needs seven digits"
        )]
        let value = row.value.max(0.0) as f32;
        let (score, alarm) = self.judge(row, value);
        out.row(&Line {
            timestamp: &row.timestamp,
            key: Some(&row.key),
            score,
            alarm,
        })
    }

    fn judge(&mut self, row: &Row, value: f32) -> (f64, bool) {
        let known = self.keys.contains_key(&row.key) || self.opening.contains_key(&row.key);
        if !known && self.keys.len().max(self.opening.len()) >= MAX_KEYS {
            self.overflow += 1;
            return (0.0, false);
        }
        if self.step_ms.is_none() {
            // Nothing to compare with yet, whatever the bin will be.
            *self.opening.entry(row.key.clone()).or_default() += value;
            return (0.0, false);
        }
        let baseline = self.keys.entry(row.key.clone()).or_default();
        let step = baseline.add_at(row.time, value, &self.pace);
        // The alarm raised the yardstick: its own score is the one it alarmed by.
        let score = match &step.alarm {
            Some(alarm) => alarm.score,
            None => baseline.score(&self.pace),
        };
        (squash(f64::from(score)), step.alarm.is_some())
    }

    /// The second timestamp is known, and with it the bin.
    fn open(&mut self, first: Time, step_ms: i64) {
        self.step_ms = Some(step_ms);
        self.pace.bin_ms = detector_bin(step_ms);
        for (key, value) in std::mem::take(&mut self.opening) {
            let baseline = self.keys.entry(key).or_default();
            baseline.add_at(first, value, &self.pace);
        }
    }

    fn bin_of(&self, time: Time) -> i64 {
        self.step_ms.map_or(0, |step| time.0.div_euclid(step))
    }

    /// After the last row of a bin. Where that ends a bin of the detector, every key's closes (absent ones
    /// spent nothing) and the crowd is judged; finer bins repeat the latest score.
    fn close_bin(&mut self, next: Option<Time>, out: &mut Out<impl Write>) -> anyhow::Result<()> {
        let Some((now, timestamp)) = self.now.take() else {
            return Ok(());
        };
        let bin = now.0.div_euclid(self.pace.bin_ms);
        let mut alarm = false;
        if next.is_none_or(|n| n.0.div_euclid(self.pace.bin_ms) > bin) {
            let mut sums = Elevation::default();
            for k in self.keys.values_mut() {
                if let Some(raise) = k.advance(bin + 1, &self.pace) {
                    raise.add_to(&mut sums);
                }
            }
            let crowd = self.fleet.bin(bin, sums, AGAIN);
            (self.fleet_score, alarm) = (crowd.score, crowd.alarm);
        }
        out.row(&Line {
            timestamp: &timestamp,
            key: Some(ALL),
            score: squash(self.fleet_score),
            alarm,
        })
    }
}

/// From 0 to 1, with the threshold at one half.
fn squash(score: f64) -> f64 {
    let s = score.max(0.0);
    if s.is_finite() { s / (s + 1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detectors_bin_is_whole_bins_of_the_file() {
        const MIN: i64 = 60_000;
        for (step, bin) in [
            (MIN, 10 * MIN),
            (7 * MIN, 14 * MIN),
            (10 * MIN, 10 * MIN),
            (60 * MIN, 60 * MIN),
            (11 * MIN, 11 * MIN),
            (1, 10 * MIN),
        ] {
            assert_eq!(detector_bin(step), bin, "{step}");
        }
    }
}
