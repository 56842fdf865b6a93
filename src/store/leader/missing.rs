//! What became of missing events, by hour and gateway, written with the merge that noticed it.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::super::{StoreError, stamp};
use crate::detect::audit::Missing;
use crate::event::{SmolStr, Time};

/// Gateways that are named in the metric, those that miss most first; all others are one.
const NAMED: usize = 256;
/// The name of all others.
const OTHERS: &str = "other";

/// Counts by (minute that is merged, gateway).
pub(super) type Noted = BTreeMap<(i64, SmolStr), Missing>;

/// Adds what was noted to its hours.
pub(super) async fn write(conn: &mut PgConnection, noted: Noted) -> Result<(), StoreError> {
    let mut hours: BTreeMap<(i64, SmolStr), Missing> = BTreeMap::new();
    for ((minute, gateway), missing) in noted {
        let hour = minute.div_euclid(60) * 60;
        hours.entry((hour, gateway)).or_default().add(&missing);
    }
    if hours.is_empty() {
        return Ok(());
    }
    let numbers = |of: fn(&Missing) -> u64| -> Vec<String> {
        hours.values().map(|m| of(m).to_string()).collect()
    };
    let stamps = hours
        .keys()
        .map(|(minute, _)| stamp(Time::from_minute(*minute)));
    sqlx::query(
        "INSERT INTO vw.missing_hour AS m (hour, gateway, late, declared, restart, unexplained)
         SELECT u.hour, u.gateway, u.late::numeric, u.declared::numeric, u.restart::numeric, u.unexplained::numeric
           FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
             AS u (hour, gateway, late, declared, restart, unexplained)
         ON CONFLICT (hour, gateway) DO UPDATE SET late = m.late + excluded.late,
           declared = m.declared + excluded.declared, restart = m.restart + excluded.restart,
           unexplained = m.unexplained + excluded.unexplained",
    )
    .bind(stamps.collect::<Vec<_>>())
    .bind(hours.keys().map(|(_, g)| g.as_str()).collect::<Vec<_>>())
    .bind(numbers(|m| m.late))
    .bind(numbers(|m| m.declared))
    .bind(numbers(|m| m.restart))
    .bind(numbers(|m| m.unexplained))
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not write what is missing"))?;
    Ok(())
}

/// The totals of a bounded number of gateways, by name; those without a loss are left out.
pub(super) fn shown<'a>(
    all: impl Iterator<Item = (&'a SmolStr, Missing)>,
) -> BTreeMap<SmolStr, Missing> {
    let size = |m: &Missing| m.kinds().iter().fold(0, |n: u64, k| n.saturating_add(k.1));
    let mut all: Vec<_> = all.filter(|(_, m)| size(m) > 0).collect();
    // The name decides between equals.
    all.sort_by(|a, b| (size(&b.1), a.0).cmp(&(size(&a.1), b.0)));
    let mut out: BTreeMap<SmolStr, Missing> = BTreeMap::new();
    for (i, (name, missing)) in all.into_iter().enumerate() {
        let name = if i < NAMED {
            name.clone()
        } else {
            SmolStr::new_static(OTHERS)
        };
        out.entry(name).or_default().add(&missing);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_losses_are_named_and_all_are_counted() {
        let late = |late| Missing {
            late,
            ..Missing::default()
        };
        let names: Vec<SmolStr> = (0..400)
            .map(|n| smol_str::format_smolstr!("g{n}"))
            .collect();
        let all = names.iter().zip(0u64..).map(|(name, n)| (name, late(n)));
        let shown = shown(all);
        assert_eq!(shown.len(), NAMED + 1);
        assert_eq!(shown.get("g399"), Some(&late(399)));
        assert_eq!(shown.get("g1"), None);
        assert_eq!(shown.get(OTHERS), Some(&late((0..144).sum())));
    }
}
