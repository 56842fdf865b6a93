//! Records of a gateway that are refused: no budget pays for them and no detector sees them.
//!
//! A deployment that breaks a part of what a gateway sends is a ticket within minutes, whatever the reason; one
//! that breaks nearly all of it, where it was read before, makes the monitor blind and is a page. One that was
//! never read is a ticket: somebody is setting it up. Single broken records, and a burst of them within a
//! minute or two, are in `dead_letters` and told to nobody.

use super::Problem;
use crate::detect::wire::{Damaged, Reader, Writer};
use crate::event::{Severity, SmolStr, Stage};

/// Memory of what came and of what was refused, minutes.
const MEMORY: f64 = 10.0;
/// Share of refused records in memory from which it is told. A deployment that breaks two in a hundred is told
/// after three minutes, one that breaks one in a hundred after seven.
const TOLD: f64 = 0.005;
/// Least number of them in memory: one a minute, for a while.
const LEAST: f64 = 10.0;
/// Minutes with refused records, in memory: three in a row are 2.7. A burst is over by then.
const MINUTES: f64 = 2.5;
/// Share from which nothing of the gateway is watched any more.
const BLIND: f64 = 0.9;
/// Least number of them for a page.
const LEAST_BLIND: f64 = 30.0;
/// Events a minute that were read of it before, from which that is a page.
const READ_BEFORE: f64 = 1.0;

/// What was refused of a gateway lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Refusals {
    /// Records, fading.
    all: f64,
    /// Those of them that were refused.
    refused: f64,
    /// Minutes with some, fading.
    minutes: f64,
}

impl Refusals {
    /// Takes a minute in. `before`: how many events a minute were read of this gateway, if it is known for long
    /// enough.
    pub(super) fn judge(
        &mut self,
        name: &SmolStr,
        events: u64,
        refused: u64,
        before: Option<f64>,
    ) -> Option<Problem> {
        let keep = 1.0 - 1.0 / MEMORY;
        self.all = self.all * keep + events as f64 + refused as f64;
        self.refused = self.refused * keep + refused as f64;
        self.minutes = self.minutes * keep + if refused > 0 { 1.0 } else { 0.0 };
        // Nothing is told in a minute without any.
        let share = self.refused / self.all.max(1.0);
        if refused == 0 || self.minutes < MINUTES || self.refused < LEAST || share < TOLD {
            return None;
        }
        // What came before the break is in memory, too: of the minute itself nearly all is refused.
        let now = refused as f64 / (events as f64 + refused as f64);
        let blind = now >= BLIND && self.refused >= LEAST_BLIND;
        let page = blind && before.is_some_and(|rate| rate >= READ_BEFORE);
        let (stage, severity) = match (page, blind) {
            (true, _) => (Stage::Page, Severity::High),
            (false, true) => (Stage::Ticket, Severity::High),
            _ => (Stage::Ticket, Severity::Medium),
        };
        let reason = format!(
            "{refused} of {} records of gateway {name} in a minute were refused, {:.1} % of those of the last minutes: no budget pays for them and no detector sees them",
            events.saturating_add(refused),
            share * 100.0,
        );
        Some(Problem {
            stage,
            ..Problem::gateway("audit-refused", name, severity, reason)
        })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.f64(self.all);
        w.f64(self.refused);
        w.f64(self.minutes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            all: r.f64()?,
            refused: r.f64()?,
            minutes: r.f64()?,
        })
    }
}
