//! Cost by the price table against what gateways report.

use super::{Audit, Finding, Place, Problem};
use crate::detect::part::MinutePart;
use crate::event::Severity;

/// Models whose costs are compared in an hour.
const MAX_MODELS: usize = 4_096;
/// Relative difference between reported and computed cost that is a mismatch.
const MISMATCH_PERCENT: i128 = 5;
/// Least difference worth a finding: ten cents in an hour.
const MISMATCH_PICO: i128 = 100_000_000_000;
/// Compared events an hour needs.
const MISMATCH_EVENTS: u64 = 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) hour: i64,
    pub(super) events: u64,
    pub(super) computed: i128,
    pub(super) reported: i128,
}

impl Audit {
    pub(super) fn costs(&mut self, p: &Place<'_>, part: &MinutePart, out: &mut Vec<Finding>) {
        for (model, seen) in &part.costs {
            if seen.unpriced > 0 {
                let reason = format!(
                    "{} event{} of model {model} in a minute used tokens and have no price of that day: their cost is unknown, not zero; add one to the price table",
                    seen.unpriced,
                    if seen.unpriced == 1 { "" } else { "s" },
                );
                let problem =
                    Problem::model("audit-unpriced-model", model, Severity::Medium, reason);
                self.again(p, problem, out);
            }
            if seen.compared > 0 {
                let hour = p.minute.div_euclid(60);
                if self.costs.len() >= MAX_MODELS && !self.costs.contains_key(model) {
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
                    let problem =
                        Problem::model("audit-cost-mismatch", model, Severity::Medium, reason);
                    self.again(p, problem, out);
                }
            }
        }
        let hour = p.minute.div_euclid(60);
        self.costs.retain(|_, c| hour - c.hour <= 1);
    }
}
