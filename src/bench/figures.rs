//! Figures: what was measured, beside its ceiling.

use std::time::Duration;

use hdrhistogram::Histogram;

/// One line of output.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figure {
    /// Its fixed name.
    pub figure: &'static str,
    /// What was measured; null where it was not.
    pub value: Option<f64>,
    /// Unit of the value.
    pub unit: &'static str,
    /// What it is held against, in the same unit: what was measured beside it where there is such a
    /// ceiling, else the bound that it must keep.
    pub ceiling: Option<f64>,
    /// Value to ceiling.
    pub ratio: Option<f64>,
    /// How it was measured, where that needs saying.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub note: String,
}

impl Figure {
    /// A figure without a ceiling.
    pub fn new(figure: &'static str, value: Option<f64>, unit: &'static str) -> Self {
        Self {
            figure,
            value: value.map(round),
            unit,
            ceiling: None,
            ratio: None,
            note: String::new(),
        }
    }
    /// Sets the ceiling and the ratio.
    #[must_use]
    pub fn against(mut self, ceiling: f64) -> Self {
        self.ceiling = Some(round(ceiling));
        self.ratio = self
            .value
            .filter(|_| ceiling > 0.0)
            .map(|v| round(v / ceiling));
        self
    }
    /// Adds how it was measured.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// Three significant decimals are more than any of this repeats.
fn round(v: f64) -> f64 {
    (v * 1_000.0).round() / 1_000.0
}

/// The middle of some measurements.
pub fn median(mut v: Vec<f64>) -> Option<f64> {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied()
}

/// The longest time that a tail is measured to, in microseconds: ten minutes. What took longer counts as
/// that.
const LONGEST_US: u64 = 600_000_000;

/// The value below which 99 of 100 lie, of milliseconds, to three digits.
pub fn p99(milliseconds: &[f64]) -> Option<f64> {
    let mut all = Histogram::<u64>::new_with_bounds(1, LONGEST_US, 3).ok()?;
    for ms in milliseconds {
        let took = Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or_default();
        all.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US));
    }
    let tail = Duration::from_micros(all.value_at_quantile(0.99));
    (!all.is_empty()).then_some(tail.as_secs_f64() * 1_000.0)
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Most resident memory so far, in bytes.
    pub peak_bytes: u64,
}

impl Usage {
    /// Of this process.
    pub fn mine() -> Self {
        let p = crate::telemetry::health::process();
        Self {
            cpu: p.cpu,
            peak_bytes: p.resident_bytes,
        }
    }

    /// Of another process, from `/proc`. None when it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces; what follows its bracket does not.
        let rest = stat.rsplit_once(')')?.1;
        let field = |n: usize| rest.split_whitespace().nth(n)?.parse::<u64>().ok();
        let ticks = field(11)?.checked_add(field(12)?)?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        let kb: u64 = peak.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            cpu: Duration::from_millis(ticks.saturating_mul(1_000) / per_second),
            peak_bytes: kb.saturating_mul(1024),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_tails() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let tail = p99(&hundred).expect("some");
        assert!((tail - 99.0).abs() < 0.1, "{tail}");
        assert_eq!(p99(&[]), None);
        assert!(
            p99(&[f64::MAX, -1.0]).is_some(),
            "what cannot be is no panic"
        );
    }

    #[test]
    fn another_process_is_seen() {
        assert!(Usage::of(std::process::id()).is_some_and(|u| u.peak_bytes > 0));
    }
}
