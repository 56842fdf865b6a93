//! Turns the configuration into the parts of the pipeline: rules, prices, keys, budgets, routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::live::{Live, Settings};
use crate::account::{Books, Budget, Prices};
use crate::config::rules::RuleFiles;
use crate::config::{Config, SignatureSetting, core};
use crate::decide::{Routes, Titles};
use crate::decode::signature::Signatures;
use crate::deliver::Named;
use crate::detect::prompt_leak::{Watched, WatchedText};
use crate::detect::{DetectConfig, Facts, Stages};
use crate::event::{Kid, Pseudonym, SmolStr};
use crate::rule::{self, Known, RuleSet};
use crate::seal::Sealer;
use crate::seal::engine::{Engine, known_validators};
use crate::seal::key::Keys;
use crate::seal::model::Model;
use crate::store::{Store, StoreConfig, StoreError, schema};

/// Why the parts cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Rules have errors.
    #[error("the rules in {place} have errors, see `veilwatch rules check`: {first}")]
    Rules {
        /// Where.
        place: String,
        /// The first of them.
        first: String,
    },
    /// The key file is wrong. Says nothing of its content.
    #[error("seal.key_file: {0}")]
    Keys(String),
    /// A setting that only the part itself can judge.
    #[error("{key}: {what}")]
    Setting {
        /// Which key.
        key: String,
        /// What is wrong and what to do.
        what: String,
    },
}

/// Pause between two looks at registered texts and limits: how long `watch add` and `budget set` take to
/// be in force.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);

/// What the stages are configured with, built once and shared by all workers.
pub struct Parts {
    /// Rules, detectors' settings, registered texts, prices and ledgers: what may change while it runs.
    pub live: Arc<Live>,
    /// Limits as configured.
    pub budgets: Vec<Budget>,
    /// Routing tree.
    pub routes: Routes,
    /// Where notifications go.
    pub sinks: Vec<Named>,
}

impl Parts {
    /// Checks what only the parts themselves can judge.
    ///
    /// # Errors
    /// The key or file and what is wrong with it.
    pub fn build(config: &Config) -> Result<Self, BuildError> {
        let rules = rules(&config.rules)?;
        let budgets = core::budgets(&config.budgets);
        let sinks = config.sinks.iter().map(|s| {
            s.build().map_err(|(key, what)| BuildError::Setting {
                key: format!("deliver.sink {}: {key}", s.name),
                what,
            })
        });
        let sealer = config.seal_key.as_ref().map(|text| {
            let keys = Keys::parse(text.reveal()).map_err(|e| BuildError::Keys(e.to_string()))?;
            let engine = Engine::new(&rules, Model::shipped().ok());
            Ok(Arc::new(Sealer::new(keys, Arc::new(engine))))
        });
        Ok(Self {
            live: Arc::new(Live::new(Settings {
                detect: Arc::new(DetectConfig {
                    keep: core::keep(config.store.events),
                    ..core::detect(&config.detect, Facts::from_rules(&rules))
                }),
                sealer: sealer.transpose()?,
                signatures: Arc::new(signatures(&config.signatures)?),
                books: Arc::new(Books::new(prices(&config.rules), &budgets)),
                titles: Titles::of_rules(&rules),
            })),
            routes: core::routes(&config.routing, &config.sinks, Titles::of_rules(&rules)),
            sinks: sinks.collect::<Result<_, _>>()?,
            budgets,
        })
    }

    /// Makes the configured limits hold, and keeps the ledgers that limits set by hand need too.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn take_limits(&self, store: &Store) -> Result<(), StoreError> {
        store.sync_budgets(&self.budgets).await?;
        self.keep_ledgers(store).await
    }

    /// Keeps the ledgers of limits that are set or removed while the program runs, within [`LOOK`].
    pub(super) async fn follow_budgets(
        self: Arc<Self>,
        store: Store,
        mut stopped: tokio::sync::watch::Receiver<bool>,
    ) {
        let mut taken = None;
        loop {
            let stamp = store.budgets_stamp().await.ok();
            // The stamp was read first: what changes after it is found by the next look.
            if stamp.is_some() && stamp != taken && self.keep_ledgers(&store).await.is_ok() {
                if taken.is_some() {
                    let ledgers = self.live.load().books.grains.len();
                    tracing::info!(ledgers, "budgets taken");
                }
                taken = stamp;
            }
            tokio::select! {
                _ = stopped.wait_for(|s| *s) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Takes the ledgers that the limits in force need. Between two batches each worker has them.
    pub(super) async fn keep_ledgers(&self, store: &Store) -> Result<(), StoreError> {
        let budgets = store.enabled_budgets().await?;
        self.live.change(|settings| {
            let prices = settings.books.prices.clone();
            settings.books = Arc::new(Books::new(prices, &budgets));
        });
        Ok(())
    }

    /// Takes texts that are registered or forgotten while the program runs, within [`LOOK`].
    pub(super) async fn follow_watched(
        self: Arc<Self>,
        store: Store,
        mut stopped: tokio::sync::watch::Receiver<bool>,
    ) {
        let mut taken = None;
        loop {
            self.take_own_names(&store).await;
            let stamp = store.watched_stamp().await.ok();
            // A database that does not answer is shown elsewhere; the texts in force stay.
            if stamp.is_some() && stamp != taken && self.watch_for(&store).await.is_ok() {
                if taken.is_some() {
                    let texts = self.live.load().detect.watched.len();
                    tracing::info!(texts, "registered texts taken");
                }
                taken = stamp;
            }
            tokio::select! {
                _ = stopped.wait_for(|s| *s) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Takes the names that were undone, where they changed. A database that does not answer is shown
    /// elsewhere; those in force stay.
    async fn take_own_names(&self, store: &Store) {
        let Ok(names) = store.own_names().await else {
            return;
        };
        let names: BTreeSet<Pseudonym> = names.into_iter().collect();
        if *self.live.load().detect.own_names == names {
            return;
        }
        tracing::info!(names = names.len(), "undone names taken");
        let names = Arc::new(names);
        self.live.change(|settings| {
            let mut detect = DetectConfig::clone(&settings.detect);
            detect.own_names = names.clone();
            settings.detect = Arc::new(detect);
        });
    }

    /// Takes the registered texts from the store into the detectors' settings.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn watch_for(&self, store: &Store) -> Result<(), StoreError> {
        let texts = store.watched().await?.into_iter().filter_map(|row| {
            Some(WatchedText {
                name: SmolStr::new(&row.name),
                canary: row.kind == "canary",
                kid: Kid::parse(&row.kid)?,
                prints: row.prints,
            })
        });
        let watched = Watched::new(texts.collect());
        self.live.change(|settings| {
            let mut detect = DetectConfig::clone(&settings.detect);
            detect.watched = watched.clone();
            settings.detect = Arc::new(detect);
        });
        Ok(())
    }
}

/// The keys of gateways that sign.
fn signatures(s: &SignatureSetting) -> Result<Signatures, BuildError> {
    let keys = s.keys.as_ref().map_or("", |k| k.reveal());
    Signatures::parse(keys, s.required).map_err(|what| BuildError::Setting {
        key: "ingest.gateway_keys_file".into(),
        what,
    })
}

/// Connects to Postgres and creates or upgrades the tables where allowed.
///
/// # Errors
/// Unreachable, refused, too old, not migrated: each with its remedy.
pub(super) async fn connect(config: &Config) -> Result<Store, StoreError> {
    let s = store_config(config);
    if config.store.migrate {
        schema::migrate(&s).await?;
        schema::keep(&s).await?;
    }
    Store::connect(s).await
}

/// The store's configuration.
pub fn store_config(config: &Config) -> StoreConfig {
    let mut s = StoreConfig::new(config.store.url.reveal());
    s.allow_plaintext = config.store.allow_plaintext;
    s.max_connections = config.store.max_connections;
    // One commits while the other reads users' rows for the next group.
    s.writers = u32::try_from(2 * config.pipeline.workers).unwrap_or(u32::MAX);
    s.owner = format!(
        "{}/{}",
        rustix::system::uname().nodename().to_string_lossy(),
        std::process::id()
    );
    s.hold = config.detect.hold;
    s.stages = Stages(config.detect.stages.clone());
    let topics = config.ingest.topics.iter();
    s.topics = topics.map(|t| SmolStr::new(&t.name)).collect();
    let days = |d: u32| u16::try_from(d).unwrap_or(u16::MAX);
    s.keep.events = days(config.store.retention.events);
    s.keep.dead_letters = days(config.store.retention.events);
    s.keep.findings = days(config.store.retention.findings);
    s.keep.minutes = days(config.store.retention.minutes);
    s
}

/// The price table in force.
pub fn prices(files: &RuleFiles) -> Prices {
    files.prices.clone().unwrap_or_else(Prices::shipped)
}

/// The rules that these files make.
///
/// # Errors
/// The first mistake, with its place.
pub fn rules(files: &RuleFiles) -> Result<RuleSet, BuildError> {
    let names = known_validators();
    let known = Known {
        validators: Some(&names),
        compiled_in: files.dir.is_none(),
        ..Known::default()
    };
    let (place, loaded) = match &files.dir {
        Some(dir) => (
            dir.display().to_string(),
            rule::load(&files.files, &files.overrides, &known),
        ),
        None if files.overrides.is_empty() => return Ok(RuleSet::built_in(&known)),
        None => (
            "rules.overrides".to_owned(),
            rule::load(&rule::pack::sources(), &files.overrides, &known),
        ),
    };
    match loaded {
        Ok((set, _)) => Ok(set),
        Err(problems) => Err(BuildError::Rules {
            place,
            first: problems
                .first()
                .map_or_else(String::new, rule::diagnostic::Diagnostic::line),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, no_env};

    #[test]
    fn the_store_knows_which_topics_count() {
        let text = r#"
[ingest]
brokers = "127.0.0.1:9092"
topics = [{ name = "one" }, { name = "two" }]
[store]
url = "postgres://u@127.0.0.1/x"
"#;
        let dir = std::path::Path::new(".");
        let config = Config::parse(&Source {
            text,
            dir,
            env: &no_env(),
        })
        .expect("a configuration");
        assert_eq!(store_config(&config).topics, ["one", "two"]);
    }

    /// What a `[store]` becomes: how the connection is made, or why not.
    fn connection(store: &str) -> Result<String, String> {
        let text = format!(
            "[ingest]\nbrokers = \"127.0.0.1:9092\"\ntopics = [{{ name = \"t\" }}]\n[store]\n{store}"
        );
        let dir = std::path::Path::new(".");
        let config = Config::parse(&Source {
            text: &text,
            dir,
            env: &no_env(),
        })
        .map_err(|p| p.into_iter().map(|p| p.what).collect::<String>())?;
        let options = crate::store::connect_options(&store_config(&config)).expect("options");
        Ok(format!("{:?}", options.get_ssl_mode()))
    }

    #[test]
    fn postgres_is_reached_as_the_configuration_was_judged() {
        let plain = "asks for a Postgres on the network without verified TLS".to_owned();
        for hidden in [
            "postgres://u@localhost/db?host=10.1.2.3&sslmode=disable",
            "postgres://u@10.1.2.3/db?sslmode=disable&application_name=sslmode=verify-full",
            "postgres://u@db.example.com/db",
            "postgres://u@db.example.com/db?sslmode=require",
        ] {
            assert_eq!(
                connection(&format!("url = \"{hidden}\"")),
                Err(plain.clone())
            );
        }
        let verified = "url = \"postgres://u@db.example.com/db?sslmode=verify-full\"";
        assert_eq!(connection(verified), Ok("VerifyFull".into()));
        assert_eq!(
            connection("url = \"postgres://u@127.0.0.1/db\""),
            Ok("Prefer".into())
        );
        assert_eq!(
            connection("url = \"postgres://u@[::1]/db\""),
            Ok("Prefer".into())
        );
        // The compose file's: the network is its own, the image speaks no TLS.
        let compose = include_str!("../../deploy/config.compose.toml");
        let (_, store) = compose.split_once("[store]").expect("a store");
        let (store, _) = store.split_once("\n[").expect("an end");
        let store = store.replace(
            "url_file = \"/run/secrets/store_url\"",
            "url = \"postgres://veilwatch:x@postgres/veilwatch\"",
        );
        assert_eq!(connection(&store), Ok("Prefer".into()));
    }
}
