//! Prices usage and adds it to every ledger it belongs to. Integers only.
//!
//! [`Batch::apply`] is one event's way through the pure core: price, detect (which also says whether
//! it is a duplicate), tally. [`Batch::finish`] gives the [`Effects`] and the ledger rows of the
//! batch, in lock order. Thresholds are tested by `store` on the rows that come back from the upsert
//! (or, in memory, by [`budget::Budgets`]): the same rule in both, `limit × percent ÷ 100 ≤ new`.
//!
//! Invariant: the sum of the ledger rows of a scope and period is the sum of the accepted events.

pub mod budget;
pub mod ledger;
pub mod period;
pub mod price;

pub use budget::{Budget, Budgets, Crossing, Limit, Unit};
pub use ledger::{LedgerDelta, LedgerKey, Scope, Tally, tenant_of};
pub use period::{Grain, Period, PeriodKind, Zone};
pub use price::{Priced, Prices, dollars_per_million};

use std::collections::BTreeMap;

use crate::detect::{Effects, PartitionState, Seen};
use crate::event::{Event, Position};

/// What accounting needs to know: prices, and which (scope, period) ledgers are kept.
#[derive(Debug, Clone)]
pub struct Books {
    /// The price table.
    pub prices: Prices,
    /// Ledgers that every event goes to.
    pub grains: Vec<(Scope, Grain)>,
}

impl Books {
    /// The default ledgers (user: day; key, team, tenant, model, everyone: hour and day; UTC) and
    /// those that the budgets need.
    pub fn new(prices: Prices, budgets: &[Budget]) -> Self {
        let mut grains = vec![(Scope::User, Grain::utc(PeriodKind::Day))];
        for scope in [
            Scope::Key,
            Scope::Team,
            Scope::Tenant,
            Scope::Model,
            Scope::Everyone,
        ] {
            grains.push((scope, Grain::utc(PeriodKind::Hour)));
            grains.push((scope, Grain::utc(PeriodKind::Day)));
        }
        for b in budgets {
            let grain = (b.scope, b.grain.clone());
            if !grains.contains(&grain) {
                grains.push(grain);
            }
        }
        Self { prices, grains }
    }
}

/// One batch of one partition, on its way through detect and account.
#[derive(Debug, Default)]
pub struct Batch {
    /// What detect wants written.
    pub effects: Effects,
    tally: Tally,
}

/// What a batch wants written.
#[derive(Debug)]
pub struct Applied {
    /// Findings, minute parts, values, user rows.
    pub effects: Effects,
    /// Usage by ledger, in lock order: (width, subject, period).
    pub ledger: BTreeMap<LedgerKey, LedgerDelta>,
}

impl Batch {
    /// Takes one event through price, detect and tally. `None` for a duplicate, which has no effect
    /// but its counter.
    pub fn apply(
        &mut self,
        state: &mut PartitionState,
        books: &Books,
        position: Position,
        event: &Event,
    ) -> Option<(Seen, Priced)> {
        let priced = books.prices.price(event);
        let seen = state.observe(position, event, priced.pico(), &mut self.effects)?;
        self.tally.add(books, event, &seen, priced);
        Some((seen, priced))
    }

    /// Ends the batch. `state` is the one the events were applied to.
    pub fn finish(mut self, state: &mut PartitionState) -> Applied {
        state.end_batch(&mut self.effects);
        self.effects.close();
        Applied {
            effects: self.effects,
            ledger: self.tally.finish(),
        }
    }
}
