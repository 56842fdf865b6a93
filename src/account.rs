//! Prices usage and adds it to every ledger it belongs to. Integers only.
//!
//! [`Batch::apply`] is one event's way through the pure core: price, detect (which also says whether
//! it is a duplicate), tally. [`Batch::finish`] gives the [`Effects`] and the ledger rows of the
//! batch. Thresholds are tested by `store` on the rows that come back from the upsert
//! (or, in memory, by [`budget::Budgets`]): the same rule in both, `limit × percent ÷ 100 ≤ new`.
//!
//! Invariant: the sum of the ledger rows of a scope and period is the sum of the accepted events.

pub mod budget;
pub mod ledger;
pub mod period;
pub mod price;

pub use budget::{Budget, Budgets, Crossing, Limit, Unit};
pub use ledger::{LedgerDelta, LedgerKey, LedgerRows, Scope, Subject, Tally, tenant_of};
pub use period::{Grain, Period, PeriodKind, Zone};
pub use price::{Priced, Prices, dollars_per_million};

use std::collections::BTreeSet;

use crate::decode::Origin;
use crate::detect::{Effects, PartitionState, Seen};
use crate::event::{Event, Position, SmolStr, Time};

/// What accounting needs to know: prices, and which (scope, period) ledgers are kept.
#[derive(Debug, Clone)]
pub struct Books {
    /// The price table.
    pub prices: Prices,
    /// Ledgers that every event goes to.
    pub grains: Vec<(Scope, Grain)>,
    /// Models with a limit of their own.
    limited: BTreeSet<SmolStr>,
}

/// Subject of the ledger of all models that nobody is known to have. No name has brackets.
pub const OTHER_MODELS: &str = "(other)";
/// From this status on a request was refused or failed.
const FAILED: u16 = 400;

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
        let limited = budgets.iter().filter(|b| b.scope == Scope::Model);
        let limited = limited.filter_map(|b| b.subject.clone()).collect();
        Self {
            prices,
            grains,
            limited,
        }
    }

    /// The same ledgers with another price table.
    #[must_use]
    pub fn with_prices(&self, prices: Prices) -> Self {
        Self {
            prices,
            ..self.clone()
        }
    }

    /// The subject of the event's model, `None` for [`OTHER_MODELS`]. A caller may ask for any name, and a
    /// ledger for each would be rows without bound: a name counts by itself once somebody answered to it,
    /// or where it has a price or a limit. The event alone decides, so that a replay decides the same.
    fn model<'e>(&self, event: &'e Event) -> Option<&'e SmolStr> {
        let name = event.model();
        let known = event.model_served.is_some()
            || event.status < FAILED
            || self.prices.names(name)
            || self.limited.contains(name);
        known.then_some(name)
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
    /// Usage by ledger.
    pub ledger: LedgerRows,
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
        let priced = books.prices.price(event, event.end(position.append).0);
        let seen = state.observe(position, event, priced.pico(), &mut self.effects)?;
        self.effects.counters.unknown_models += u64::from(books.model(event).is_none());
        self.tally.add(books, event, &seen, priced);
        Some((seen, priced))
    }

    /// Takes the number of a record that was refused: it is not missing.
    pub fn refused(&mut self, append: Time, origin: &Origin) {
        self.effects.refused(append, origin);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, RawRecord};

    #[test]
    fn names_that_nobody_answered_to_share_a_ledger() {
        let limited = Budget {
            id: "b".into(),
            scope: Scope::Model,
            subject: Some("house-model".into()),
            grain: Grain::utc(PeriodKind::Day),
            limit: Limit {
                unit: Unit::Tokens,
                amount: 1,
            },
            thresholds: vec![100],
        };
        let books = Books::new(Prices::shipped(), &[limited]);
        let mut decoder = Decoder::sealed();
        let mut model = |asked: &str, served: &str, status: u16| {
            let served = match served {
                "" => String::new(),
                name => format!(r#","served":"{name}""#),
            };
            let text = format!(
                r#"{{"v":1,"id":"e","gateway":"g","at":"2026-09-01T00:00:00Z","operation":"chat","status":{status},"model":{{"requested":"{asked}"{served}}}}}"#
            );
            let raw = RawRecord {
                topic: "t",
                partition: 0,
                offset: 0,
                append: Time(0),
                key: None,
                value: Some(text.as_bytes()),
                headers: &[],
            };
            let event = decoder.decode(&raw).expect("an event");
            books.model(&event).cloned()
        };
        assert_eq!(model("made-up-1", "", 404), None);
        assert_eq!(model("made-up-2", "", 500), None);
        for known in [
            model("mine", "", 200),
            model("mine", "mine", 500),
            model("gpt-4o", "", 429),
            model("house-model", "", 404),
        ] {
            assert!(known.is_some());
        }
        // A date behind a name has a price, but there are as many as days.
        assert_eq!(model("gpt-4o-2031-01-01", "", 404), None);
    }
}
