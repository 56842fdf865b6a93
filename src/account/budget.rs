//! Budgets: limits on a ledger row and the thresholds they cross, each once per period.
//!
//! In production the limits live in Postgres and the statement that adds the usage tests them, so
//! that all replicas test the same. [`Budgets`] is that statement in memory: `replay`, the simulator
//! and the reference run use it.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{LedgerDelta, LedgerKey, LedgerRows, Scope};
use super::period::{Grain, Period};
use crate::event::{SmolStr, Time};

/// Thresholds of a budget that names none, percent of the limit.
pub const DEFAULT_THRESHOLDS: [u32; 3] = [50, 80, 100];

/// What a limit counts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Input plus output tokens.
    Tokens,
    /// Money, in pico-dollars.
    Usd,
}

impl Unit {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Usd => "usd",
        }
    }
}

/// A limit: tokens, or pico-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is counted.
    pub unit: Unit,
    /// How much: tokens or pico-dollars, positive.
    pub amount: i128,
}

/// A budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Stable name; the incident's rule carries it.
    pub id: SmolStr,
    /// Whose usage.
    pub scope: Scope,
    /// One subject, or `None` for each subject of the scope.
    pub subject: Option<SmolStr>,
    /// Which period.
    pub grain: Grain,
    /// How much.
    pub limit: Limit,
    /// Percent of the limit, ascending.
    pub thresholds: Vec<u32>,
}

/// A threshold that was crossed: the row of `budget_crossing` that could be inserted is the proof
/// that this is the first time in the period.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crossing {
    /// Which budget.
    pub budget_id: SmolStr,
    /// Whose usage.
    pub scope: Scope,
    /// Which subject.
    pub subject: SmolStr,
    /// Which period.
    pub period: Period,
    /// What is counted.
    pub unit: Unit,
    /// The limit, tokens or pico-dollars.
    pub limit: i128,
    /// Percent of the limit.
    pub threshold_pct: u32,
    /// Usage after the batch, tokens or pico-dollars.
    pub new_value: i128,
    /// When: the watermark of the batch.
    pub at: Time,
}

/// Ledgers and budgets in memory.
#[derive(Debug, Default)]
pub struct Budgets {
    budgets: Vec<Budget>,
    /// All rows.
    pub ledger: BTreeMap<LedgerKey, LedgerDelta>,
    crossed: BTreeSet<(SmolStr, SmolStr, Period, u32)>,
}

impl Budgets {
    /// No usage yet.
    pub fn new(budgets: Vec<Budget>) -> Self {
        Self {
            budgets,
            ..Self::default()
        }
    }

    /// Adds a batch's rows and returns the thresholds crossed for the first time, in the order
    /// of (scope, subject, period) as Postgres sorts them.
    pub fn add(&mut self, rows: &LedgerRows, at: Time) -> Vec<Crossing> {
        let mut crossings = Vec::new();
        for (key, delta) in rows {
            let row = self.ledger.entry(key.clone()).or_default();
            row.add(delta);
            let row = *row;
            let subject = key.subject.text();
            for b in &self.budgets {
                let named = b.subject.as_ref().is_none_or(|s| *s == subject);
                // A total has no beginning, so no zone either.
                let zone = b.grain.zone.as_ref().map(|z| z.name().as_str());
                let zone = zone.filter(|_| b.grain.kind != super::PeriodKind::Total);
                if b.scope != key.scope
                    || !named
                    || key.period.kind() != Some(b.grain.kind)
                    || key.period.zone() != zone
                {
                    continue;
                }
                let new_value = match b.limit.unit {
                    Unit::Tokens => i128::from(row.tokens()),
                    Unit::Usd => row.cost_pico,
                };
                for pct in &b.thresholds {
                    if !crosses(b.limit.amount, *pct, new_value) {
                        continue;
                    }
                    let once = (b.id.clone(), subject.clone(), key.period.clone(), *pct);
                    if self.crossed.insert(once) {
                        crossings.push(Crossing {
                            budget_id: b.id.clone(),
                            scope: key.scope,
                            subject: subject.clone(),
                            period: key.period.clone(),
                            unit: b.limit.unit,
                            limit: b.limit.amount,
                            threshold_pct: *pct,
                            new_value,
                            at,
                        });
                    }
                }
            }
        }
        crossings.sort_by(|a, b| {
            let key = |c: &Crossing| (c.scope, c.subject.clone(), c.period.clone());
            key(a).cmp(&key(b))
        });
        crossings
    }
}

/// `limit × percent ÷ 100 ≤ new`, in integers. A limit of zero is crossed by any usage row.
pub fn crosses(limit: i128, pct: u32, new_value: i128) -> bool {
    limit.saturating_mul(i128::from(pct)) <= new_value.saturating_mul(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{PeriodKind, Subject};

    fn row(tokens: u64) -> LedgerRows {
        LedgerRows::sum(vec![(
            LedgerKey {
                scope: Scope::Tenant,
                subject: Subject::Name(SmolStr::new("acme")),
                period: Grain::utc(PeriodKind::Day).period(Time(0)),
            },
            LedgerDelta {
                events: 1,
                tokens_input: tokens,
                ..LedgerDelta::default()
            },
        )])
    }

    #[test]
    fn each_threshold_fires_once_at_the_exact_token() {
        let mut b = Budgets::new(vec![Budget {
            id: SmolStr::new("acme-day"),
            scope: Scope::Tenant,
            subject: None,
            grain: Grain::utc(PeriodKind::Day),
            limit: Limit {
                unit: Unit::Tokens,
                amount: 100,
            },
            thresholds: DEFAULT_THRESHOLDS.to_vec(),
        }]);
        let pct = |c: Vec<Crossing>| c.iter().map(|c| c.threshold_pct).collect::<Vec<_>>();
        assert_eq!(pct(b.add(&row(49), Time(1))), Vec::<u32>::new());
        assert_eq!(pct(b.add(&row(1), Time(2))), vec![50]);
        assert_eq!(pct(b.add(&row(49), Time(3))), vec![80]);
        assert_eq!(pct(b.add(&row(1), Time(4))), vec![100]);
        assert_eq!(pct(b.add(&row(900), Time(5))), Vec::<u32>::new());
    }
}
