//! What may change while the program runs: rules and their titles, the detectors' settings, registered texts,
//! prices, ledgers.
//!
//! [`Settings`] are exchanged as a whole, so that nobody sees half of a change: a worker takes the new
//! ones between two batches, the leader between two ticks. A set of rules with a mistake changes
//! nothing; it is logged with its place, counted, and shown on `/readyz` until a good one comes.
//! Files are looked at every [`LOOK`], and at once on SIGHUP.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::build::{BuildError, prices, rules};
use crate::account::Books;
use crate::config::rules::{RuleFiles, Stamp};
use crate::decide::Titles;
use crate::decode::Decoder;
use crate::decode::signature::Signatures;
use crate::detect::{DetectConfig, Facts};
use crate::event::SmolStr;
use crate::ingest::TopicMode;
use crate::seal::Sealer;
use crate::seal::engine::Engine;
use crate::seal::model::Model;
use crate::telemetry::{Health, metrics};

/// Pause between two looks at the rule files. A change is taken once it has stood still for one such
/// pause, so that a set that is being copied is not read by halves.
const LOOK: Duration = Duration::from_secs(2);
/// Name of the component on `/readyz`.
const COMPONENT: &str = "rules";

/// One consistent state of everything that may change.
#[derive(Clone)]
pub struct Settings {
    /// Of the detectors, with what the rules behind sealed hits mean.
    pub detect: Arc<DetectConfig>,
    /// Seals texts of trusted sources.
    pub sealer: Option<Arc<Sealer>>,
    /// Keys of gateways that sign their records.
    pub signatures: Arc<Signatures>,
    /// Prices, and the ledgers that budgets need.
    pub books: Arc<Books>,
    /// What incidents are called on a page.
    pub titles: Titles,
}

impl Settings {
    /// A decoder for a source, and the id of the key of its audit leaves.
    pub(super) fn decoder(&self, mode: TopicMode) -> (Decoder, SmolStr) {
        let (decoder, kid) = match (&self.sealer, mode) {
            (Some(sealer), TopicMode::Trusted) => {
                let kid = SmolStr::new(sealer.keys().active_content().kid().as_str());
                (Decoder::trusted(sealer.clone()), kid)
            }
            _ => (Decoder::sealed(), SmolStr::default()),
        };
        (decoder.with_signatures(self.signatures.clone()), kid)
    }

    /// The same with other rules and prices.
    fn with_rules(&self, files: &RuleFiles) -> Result<Self, BuildError> {
        let rules = rules(files)?;
        let mut detect = DetectConfig::clone(&self.detect);
        detect.facts = Facts::from_rules(&rules);
        let sealer = self.sealer.as_ref().map(|s| {
            let engine = Engine::new(&rules, Model::shipped().ok());
            Arc::new(s.with_engine(Arc::new(engine)))
        });
        Ok(Self {
            detect: Arc::new(detect),
            sealer,
            signatures: self.signatures.clone(),
            books: Arc::new(self.books.with_prices(prices(files))),
            titles: Titles::of_rules(&rules),
        })
    }
}

/// The settings in force. Readers never wait.
pub struct Live(ArcSwap<Settings>);

impl Live {
    /// Starts with these.
    pub fn new(settings: Settings) -> Self {
        Self(ArcSwap::from_pointee(settings))
    }

    /// Those in force.
    pub fn load(&self) -> Arc<Settings> {
        self.0.load_full()
    }

    /// Changes them. May run twice where two change at a time; neither change is lost.
    pub(super) fn change(&self, mut how: impl FnMut(&mut Settings)) {
        self.0.rcu(|now| {
            let mut new = Settings::clone(now);
            how(&mut new);
            new
        });
    }

    /// Takes the rules and prices of these files, all or none.
    fn take(&self, files: &RuleFiles) -> Result<(), BuildError> {
        let new = self.load().with_rules(files)?;
        self.change(|s| {
            let now = Arc::make_mut(&mut s.detect);
            let watched = std::mem::take(&mut now.watched);
            let own_names = std::mem::take(&mut now.own_names);
            s.detect = Arc::new(DetectConfig {
                watched,
                own_names,
                ..DetectConfig::clone(&new.detect)
            });
            s.sealer.clone_from(&new.sealer);
            s.books = Arc::new(s.books.with_prices(new.books.prices.clone()));
            s.titles = new.titles.clone();
        });
        Ok(())
    }
}

/// Follows the rule files until the end.
pub(super) async fn follow(
    live: Arc<Live>,
    mut files: RuleFiles,
    asked: Arc<tokio::sync::Notify>,
    health: Health,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    let mut taken = Some(files.stamp.clone());
    let mut before = taken.clone();
    loop {
        let at_once = tokio::select! {
            _ = stopped.wait_for(|s| *s) => return,
            () = tokio::time::sleep(LOOK) => false,
            () = asked.notified() => true,
        };
        // Also where nothing is on disk: once a reload was asked for, the component must go on reporting.
        health.beat(COMPONENT);
        if !at_once && !files.on_disk() {
            continue;
        }
        let now: Option<Stamp> = files.stamp_now().ok();
        let settled = now == before;
        before.clone_from(&now);
        if !at_once && (!settled || now == taken) {
            continue;
        }
        taken = now;
        let (shared, places) = (Arc::clone(&live), files.clone());
        // Compiling takes a good part of a second: not on a thread that others wait for.
        let done = tokio::task::spawn_blocking(move || {
            let files = places.again().map_err(|e| e.to_string())?;
            shared.take(&files).map_err(|e| e.to_string())?;
            Ok::<_, String>(files)
        });
        match done.await.map_err(|e| e.to_string()).flatten() {
            Ok(new) => {
                files = new;
                metrics().rule_reloads.inc(&["taken"]);
                tracing::info!(rules = ?files, "rules taken");
                health.set(COMPONENT, true, "taken while running");
            }
            Err(why) => {
                metrics().rule_reloads.inc(&["refused"]);
                tracing::error!(%why, "new rules refused, the old ones stay");
                // Still ready: the old rules work.
                health.set(COMPONENT, true, format!("the old ones stay: {why}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn compiled_in_rules_go_on_reporting_after_a_reload() {
        let live = Arc::new(Live::new(Settings {
            detect: Arc::new(DetectConfig::default()),
            sealer: None,
            signatures: Arc::default(),
            books: Arc::new(Books::new(crate::account::Prices::shipped(), &[])),
            titles: Titles::default(),
        }));
        let (asked, health) = (Arc::new(tokio::sync::Notify::new()), Health::default());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(follow(
            live,
            RuleFiles::default(),
            asked.clone(),
            health.clone(),
            stopped,
        ));
        asked.notify_one();
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while health.age(COMPONENT).is_none() {
            assert!(std::time::Instant::now() < until, "never reloaded");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Its heartbeat comes again without another reload.
        let mut oldest = Duration::ZERO;
        loop {
            let age = health.age(COMPONENT).expect("known");
            if age < oldest {
                break;
            }
            oldest = age;
            assert!(
                age < Duration::from_secs(30),
                "no heartbeat after the reload"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.send(true).expect("stopped");
        task.await.expect("ended");
    }
}
