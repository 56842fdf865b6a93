//! Settings of the detectors. Defaults are the measured ones; `config` overrides them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::access::Allowed;
use super::prompt_leak::Watched;
use super::{DetectorId, Facts};
use crate::event::{Pseudonym, Stage, hash16};

/// Everything detect is configured with.
#[derive(Debug, Clone, Default)]
pub struct DetectConfig {
    /// What the rules behind sealed hits mean.
    pub facts: Facts,
    /// Injection.
    pub injection: Injection,
    /// Attacks from many.
    pub campaign: Campaign,
    /// Spending.
    pub spend: Spend,
    /// Latency.
    pub latency: Latency,
    /// Error rates.
    pub errors: Errors,
    /// Evidence.
    pub audit: Audit,
    /// Model versions.
    pub drift: Drift,
    /// Allow-lists of tools and models.
    pub access: Allowed,
    /// Which events are kept beside those with a finding.
    pub keep: Keep,
    /// Registered texts.
    pub watched: Watched,
    /// Names that count as no other, whatever an event says of an older one: an operator undid it.
    pub own_names: Arc<BTreeSet<Pseudonym>>,
    /// How far each detector may go.
    pub stages: Stages,
}

impl DetectConfig {
    /// The stage, no further than the operator allows the detector.
    pub fn stage(&self, detector: DetectorId, stage: Stage) -> Stage {
        self.stages.cap(detector, stage)
    }
}

/// Furthest stage per detector: an operator rolls a detector out from shadow to page. Detectors that
/// are not named may go all the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stages(pub BTreeMap<DetectorId, Stage>);

impl Stages {
    /// The stage, no further than allowed.
    pub fn cap(&self, detector: DetectorId, stage: Stage) -> Stage {
        self.0.get(&detector).map_or(stage, |most| stage.min(*most))
    }
}

/// Which events are kept as sketches beside those with a finding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// None.
    #[default]
    Flagged,
    /// One in so many, drawn by the event's id: the same ones in every run.
    Sample(u32),
    /// All.
    All,
}

impl Keep {
    /// Whether an event without a finding is kept.
    pub fn takes(self, id: &str) -> bool {
        match self {
            Self::Flagged => false,
            Self::Sample(n) => {
                let [a, b, c, d, e, f, g, h, ..] = hash16("keep", &[id.as_bytes()]).0;
                let drawn = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                drawn.is_multiple_of(u64::from(n.max(1)))
            }
            Self::All => true,
        }
    }
}

/// Settings of `injection`.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// Score from which a text counts as an attack: the one threshold of `scan`.
    pub threshold: f32,
    /// Attempts by one user within `repeat_ms` that raise the severity. At most 4.
    pub repeats: usize,
    /// Window of the repeats, milliseconds.
    pub repeat_ms: i64,
    /// A leak this long after an allowed attempt is its success, milliseconds.
    pub follow_ms: i64,
}

impl Default for Injection {
    fn default() -> Self {
        Self {
            threshold: crate::seal::model::THRESHOLD,
            repeats: 3,
            repeat_ms: 10 * 60_000,
            follow_ms: 10 * 60_000,
        }
    }
}

/// Settings of `campaign`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    /// Senders of one attack from which it is a campaign.
    pub senders: usize,
    /// Senders from which it pages; below it is a ticket.
    pub page_senders: usize,
    /// Senders are counted over so many minutes.
    pub window_minutes: i64,
}

impl Default for Campaign {
    fn default() -> Self {
        Self {
            senders: 3,
            page_senders: 10,
            window_minutes: 60,
        }
    }
}

/// Settings of `spend`.
#[derive(Debug, Clone, PartialEq)]
pub struct Spend {
    /// A baseline is learning until it is this old, milliseconds.
    pub learn_ms: i64,
    /// Score from which it fires; 1.0 is the calibrated threshold.
    pub threshold: f32,
    /// Spending in an hour below this never fires, in weight (pico-dollars): a cent.
    pub floor: i64,
}

impl Default for Spend {
    fn default() -> Self {
        Self {
            learn_ms: 24 * 3_600_000,
            threshold: 1.0,
            floor: 10_000_000_000,
        }
    }
}

/// Settings of `latency`.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    /// Requests until a baseline has learnt.
    pub learn_requests: u64,
    /// Minutes until a baseline has learnt.
    pub learn_minutes: i64,
    /// P50 above the baseline by this factor fires.
    pub p50_ratio: f64,
    /// P99 above the baseline by this factor fires.
    pub p99_ratio: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            learn_requests: 500,
            learn_minutes: 30,
            p50_ratio: 1.4,
            p99_ratio: 3.0,
        }
    }
}

/// Settings of `errors`.
#[derive(Debug, Clone, PartialEq)]
pub struct Errors {
    /// Requests until a baseline has learnt.
    pub learn_requests: u64,
    /// Minutes until a baseline has learnt.
    pub learn_minutes: i64,
    /// −log₁₀ of the chance that the baseline makes this many errors, from which it fires.
    pub surprise: f64,
    /// Share of failed requests from which it pages; below it is a ticket.
    pub page_share: f64,
}

impl Default for Errors {
    fn default() -> Self {
        Self {
            learn_requests: 500,
            learn_minutes: 30,
            surprise: 4.0,
            page_share: 0.1,
        }
    }
}

/// Settings of `audit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// A hole is judged this many closed minutes after it was noticed.
    pub grace_minutes: i64,
    /// A gateway is silent after at least this many minutes without an event.
    pub silent_minutes: i64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            grace_minutes: 2,
            silent_minutes: 5,
        }
    }
}

/// Settings of `drift`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Versions first seen within this time after their model was are learnt, not reported.
    pub learn_minutes: i64,
}

impl Default for Drift {
    fn default() -> Self {
        Self { learn_minutes: 30 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_drawn_by_id_and_about_as_large_as_asked() {
        let taken = |k: Keep| (0..10_000).filter(|i| k.takes(&format!("e{i}"))).count();
        assert_eq!((taken(Keep::Flagged), taken(Keep::All)), (0, 10_000));
        let n = taken(Keep::Sample(10));
        assert!((900..1_100).contains(&n), "{n}");
        assert_eq!(n, taken(Keep::Sample(10)), "the same ones again");
    }
}
