//! Tells that the process does not work: past the outbox, which is in Postgres and may be what is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::decide::NotificationKind;
use crate::deliver;
use crate::event::Time;
use crate::telemetry::Health;
use crate::telemetry::health::Component;

/// How long a part may fail before everybody is told: a failover or a broker's restart takes less.
const OUTAGE: Duration = Duration::from_mins(1);
/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// Without these nothing is seen, or nobody is told.
const PARTS: [&str; 5] = ["kafka", "postgres", "commits", "leader", "notifier"];

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    parts: String,
    since: Time,
    kind: NotificationKind,
    why: String,
}

/// An outage from its beginning to its end, as one.
#[derive(Debug, Default)]
struct Outage {
    began: Option<(Instant, Time)>,
    /// Which parts were told of.
    told: Option<String>,
}

impl Outage {
    /// Looks at the parts. Tells once that it lasts, and once that it is over.
    fn look(
        &mut self,
        components: &BTreeMap<String, Component>,
        at: Instant,
        wall: Time,
    ) -> Option<Word> {
        let failing = PARTS.iter().filter_map(|p| Some((*p, components.get(*p)?)));
        let failing: Vec<_> = failing.filter(|(_, c)| !c.ready).collect();
        if failing.is_empty() {
            let (_, since) = self.began.take()?;
            let parts = self.told.take()?;
            return Some(Word {
                parts,
                since,
                kind: NotificationKind::Resolved,
                why: "it works again".to_owned(),
            });
        }
        let (began, since) = *self.began.get_or_insert((at, wall));
        if self.told.is_some() || at.saturating_duration_since(began) < OUTAGE {
            return None;
        }
        let names: Vec<&str> = failing.iter().map(|(name, _)| *name).collect();
        let why: Vec<String> = failing
            .iter()
            .map(|(name, c)| format!("{name}: {}", c.detail))
            .collect();
        let parts = names.join(", ");
        self.told = Some(parts.clone());
        Some(Word {
            parts,
            since,
            kind: NotificationKind::Firing,
            why: why.join("; "),
        })
    }
}

/// Watches the parts until the end.
pub(super) async fn watch(
    health: Health,
    sinks: Arc<deliver::Health>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    let mut outage = Outage::default();
    loop {
        tokio::select! {
            _ = stopped.wait_for(|s| *s) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall = Time(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)));
        if let Some(word) = outage.look(&health.components(), Instant::now(), wall) {
            tracing::error!(
                parts = word.parts,
                state = word.kind.as_str(),
                why = word.why,
                "outage"
            );
            sinks.tell_of_outage(&word.parts, word.since, word.kind, &word.why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f09_f22_an_outage_is_told_after_a_minute_and_so_is_its_end() {
        let health = Health::default();
        let (start, mut outage) = (Instant::now(), Outage::default());
        let mut look = |health: &Health, seconds: u64| {
            let ms = i64::try_from(seconds * 1_000).expect("small");
            let at = start + Duration::from_secs(seconds);
            outage.look(&health.components(), at, Time(ms))
        };
        health.set("kafka", true, "3 partitions");
        health.set("rules", false, "the old ones stay");
        assert_eq!(look(&health, 0), None, "rules are no outage");
        // A failover.
        health.set("postgres", false, "refused");
        assert_eq!(look(&health, 10), None);
        health.set("postgres", true, "answering");
        assert_eq!(look(&health, 60), None);
        // An outage.
        health.set("postgres", false, "refused");
        assert_eq!(look(&health, 100), None);
        health.set("commits", false, "read-only");
        assert_eq!(look(&health, 159), None);
        let word = look(&health, 160).expect("told");
        assert_eq!(
            (word.parts.as_str(), word.since),
            ("postgres, commits", Time(100_000))
        );
        assert_eq!(word.why, "postgres: refused; commits: read-only");
        assert_eq!(word.kind, NotificationKind::Firing);
        assert_eq!(look(&health, 900), None, "once");
        health.set("postgres", true, "answering");
        assert_eq!(look(&health, 905), None, "not over yet");
        health.set("commits", true, "committing");
        let word = look(&health, 910).expect("told");
        assert_eq!(
            (word.parts.as_str(), word.since),
            ("postgres, commits", Time(100_000))
        );
        assert_eq!(word.kind, NotificationKind::Resolved);
        assert_eq!(look(&health, 1_000), None);
    }
}
