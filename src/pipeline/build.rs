//! Turns the configuration into the parts of the pipeline: rules, prices, keys, budgets, routes.

use std::path::PathBuf;
use std::sync::Arc;

use crate::account::period::UnknownZone;
use crate::account::{Books, Budget, Grain, Limit, PeriodKind, Prices, Scope, Unit, Zone};
use crate::config::{BudgetSetting, Config, budgets};
use crate::decide::route::{Field, Matcher, Route, Routes};
use crate::decode::Decoder;
use crate::detect::fact::{Fact, FactKind};
use crate::detect::{DetectConfig, DetectorId, Facts};
use crate::event::{SmolStr, Stage};
use crate::ingest::TopicMode;
use crate::rule::{self, Area, Known, RuleSet};
use crate::seal::key::Keys;
use crate::store::{Store, StoreConfig, StoreError, budget::budget_name, schema};

/// Why the parts cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Rules have errors.
    #[error("the rules in {dir} have errors, see `veilwatch rules check {dir}`: {first}")]
    Rules {
        /// Where.
        dir: PathBuf,
        /// The first of them.
        first: String,
    },
    /// The key file is wrong. Says nothing of its content.
    #[error("seal.key_file: {0}")]
    Keys(String),
    /// A time zone is unknown.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
    /// A matcher, sink or detector name is wrong.
    #[error("{key}: {what}")]
    Setting {
        /// Which key.
        key: String,
        /// What is wrong and what to do.
        what: String,
    },
}

/// What the stages are configured with, built once and shared by all workers.
pub struct Parts {
    /// Prices and ledgers.
    pub books: Arc<Books>,
    /// Detectors.
    pub detect: Arc<DetectConfig>,
    /// Limits as configured.
    pub budgets: Vec<Budget>,
    /// Routing tree.
    pub routes: Arc<Routes>,
    /// Keys of trusted sources.
    keys: Option<Arc<Keys>>,
}

impl Parts {
    /// Reads files and checks what only their content can show.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn build(config: &Config) -> Result<Self, BuildError> {
        let rules = rules(config)?;
        let mut detect = DetectConfig {
            facts: facts(&rules),
            ..DetectConfig::default()
        };
        for name in &config.detect.off {
            let Some(d) = DetectorId::parse(name) else {
                let known: Vec<&str> = DetectorId::ALL.iter().map(|d| d.as_str()).collect();
                return Err(BuildError::Setting {
                    key: "detect.off".into(),
                    what: format!("\"{name}\" is not a detector; one of {}", known.join(", ")),
                });
            };
            detect.stages.insert(d, Stage::Shadow);
        }
        let budgets = config
            .budgets
            .iter()
            .map(budget)
            .collect::<Result<Vec<_>, _>>()?;
        let keys = match &config.seal_key {
            Some(text) => {
                let keys = Keys::parse(text.reveal());
                Some(Arc::new(keys.map_err(|e| BuildError::Keys(e.to_string()))?))
            }
            None => None,
        };
        Ok(Self {
            books: Arc::new(Books::new(Prices::shipped(), &budgets)),
            detect: Arc::new(detect),
            routes: Arc::new(routes(config)?),
            budgets,
            keys,
        })
    }

    /// A decoder for a source, and the id of the key of its audit leaves.
    pub(super) fn decoder(&self, mode: TopicMode) -> (Decoder, SmolStr) {
        match (&self.keys, mode) {
            (Some(keys), TopicMode::Trusted) => {
                let kid = SmolStr::new(keys.active_content().kid().as_str());
                (Decoder::trusted(keys.clone()), kid)
            }
            _ => (Decoder::sealed(), SmolStr::default()),
        }
    }

    /// Connects to Postgres, creates or upgrades the tables where allowed, and makes the configured
    /// limits hold.
    ///
    /// # Errors
    /// Unreachable, refused, too old, not migrated: each with its remedy.
    pub(super) async fn connect(&self, config: &Config) -> Result<Store, StoreError> {
        let s = store_config(config);
        if config.store.migrate {
            schema::migrate(&s).await?;
        }
        let store = Store::connect(s).await?;
        store.sync_budgets(&self.budgets).await?;
        Ok(store)
    }
}

/// The store's configuration.
pub fn store_config(config: &Config) -> StoreConfig {
    let mut s = StoreConfig::new(config.store.url.reveal());
    s.max_connections = config.store.max_connections;
    s.owner = format!(
        "{}/{}",
        rustix::system::uname().nodename().to_string_lossy(),
        std::process::id()
    );
    s.hold = config.detect.hold;
    let days = |d: u32| u16::try_from(d).unwrap_or(u16::MAX);
    s.keep.events = days(config.store.retention.events);
    s.keep.dead_letters = days(config.store.retention.events);
    s.keep.findings = days(config.store.retention.findings);
    s.keep.minutes = days(config.store.retention.minutes);
    s
}

fn rules(config: &Config) -> Result<RuleSet, BuildError> {
    let known = Known::default();
    let (dir, loaded) = match &config.rules {
        Some(r) => (
            r.dir.clone(),
            rule::load(&r.files, &config.overrides, &known),
        ),
        None if config.overrides.is_empty() => return Ok(RuleSet::built_in(&known)),
        None => (
            PathBuf::from("rules.overrides"),
            rule::load(&rule::pack::sources(), &config.overrides, &known),
        ),
    };
    match loaded {
        Ok((set, _)) => Ok(set),
        Err(problems) => Err(BuildError::Rules {
            dir,
            first: problems.first().map_or_else(String::new, |p| p.line()),
        }),
    }
}

/// What detect must know about the rules whose ids stand in sealed hits.
pub fn facts(rules: &RuleSet) -> Facts {
    Facts::new(rules.rules().iter().map(|r| {
        let kind = match r.area {
            Area::Injection => FactKind::Injection,
            Area::Pii => FactKind::Pii,
            Area::Secret => FactKind::Secret,
        };
        let fact = Fact {
            kind,
            severity: r.level,
            stage: r.stage,
            entity: r.kind.clone(),
            typed: r.typed,
            linkable: match kind {
                FactKind::Pii => !r.validators.is_empty(),
                FactKind::Secret => r.typed,
                _ => false,
            },
            version: r.version,
        };
        (r.id.clone(), fact)
    }))
}

fn budget(b: &BudgetSetting) -> Result<Budget, BuildError> {
    let wrong = |what: String| BuildError::Setting {
        key: "budget".into(),
        what,
    };
    let scope =
        Scope::parse(&b.scope).ok_or_else(|| wrong(format!("scope \"{}\" is unknown", b.scope)))?;
    let kind = PeriodKind::parse(&b.period)
        .ok_or_else(|| wrong(format!("period \"{}\" is unknown", b.period)))?;
    let zone = b.zone.as_deref().map(Zone::named).transpose()?;
    let limit = match b.limit {
        budgets::Limit::Tokens(n) => Limit {
            unit: Unit::Tokens,
            amount: i128::from(n),
        },
        budgets::Limit::Pico(n) => Limit {
            unit: Unit::Usd,
            amount: n,
        },
    };
    let subject = (b.subject != "*" || scope == Scope::Everyone).then(|| SmolStr::new(&b.subject));
    let name = match &zone {
        Some(z) => format!("{}@{}", b.period, z.name()),
        None => b.period.clone(),
    };
    Ok(Budget {
        id: budget_name(scope, subject.as_deref(), &name, limit.unit),
        scope,
        subject,
        grain: Grain { kind, zone },
        limit,
        thresholds: b
            .thresholds
            .iter()
            .filter_map(|t| u32::try_from(*t).ok())
            .collect(),
    })
}

fn routes(config: &Config) -> Result<Routes, BuildError> {
    let all: Vec<SmolStr> = config.sinks.iter().map(|s| SmolStr::new(&s.name)).collect();
    let mut routes = Routes::single(if config.routes.is_empty() {
        all
    } else {
        Vec::new()
    });
    routes.storm_limit = crate::decide::route::DEFAULT_STORM_LIMIT;
    for (i, r) in config.routes.iter().enumerate() {
        let setting = |what: String| BuildError::Setting {
            key: format!("deliver.route[{i}]"),
            what,
        };
        let mut matchers = Vec::new();
        let mut stage = None;
        for (field, value) in &r.matchers {
            if field == "stage" {
                stage = match value.as_str() {
                    "page" => Some(Stage::Page),
                    "ticket" => Some(Stage::Ticket),
                    _ => return Err(setting("match.stage: write \"page\" or \"ticket\"".into())),
                };
                continue;
            }
            let m = Matcher::parse(&format!("{field}={value}"))
                .map_err(|e| setting(format!("match.{field}: {e}")))?;
            matchers.push(m);
        }
        let group_by = if r.group_by.is_empty() {
            vec![Field::Key]
        } else {
            r.group_by
                .iter()
                .map(|f| {
                    Field::parse(f)
                        .ok_or_else(|| setting(format!("group_by: \"{f}\" is not a field")))
                })
                .collect::<Result<_, _>>()?
        };
        let ms = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        routes.root.children.push(Route {
            name: smol_str::format_smolstr!("root/{i}"),
            matchers,
            sinks: r.sinks.iter().map(SmolStr::new).collect(),
            group_by,
            group_wait_ms: r
                .group_wait
                .map_or(crate::decide::route::DEFAULT_GROUP_WAIT_MS, ms),
            group_interval_ms: ms(r.group_interval),
            repeat_interval_ms: ms(r.repeat_interval),
            min_severity: r.min_severity,
            stage,
            carry_on: r.proceed,
            escalate: None,
            children: Vec::new(),
        });
    }
    Ok(routes)
}
