//! The configuration of `veilwatch run`: TOML as written, checked into values that are right.
//!
//! All problems are reported at once, each with its key, line and remedy. Secrets come from files
//! (`*_file`) or from `VEILWATCH_*`, and never print. Sections: [`sections`] reads the parts of the
//! pipeline, [`rules`] rule files, [`delivery`] sinks, [`routing`] routes, [`budgets`] limits; [`core`]
//! turns them into what the pure core is configured with.

pub mod budgets;
pub mod core;
pub mod delivery;
pub mod duration;
mod init;
pub mod keyfile;
pub mod reader;
pub mod routing;
pub mod rules;
mod secret_places;
mod sections;
mod show;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use budgets::BudgetSetting;
pub use delivery::{SinkKind, SinkSetting};
pub use init::EXAMPLE;
pub use reader::{Problem, Reader, Source};
pub use routing::{InhibitSetting, RouteSetting, Routing};
pub use secret_places::{SecretPlace, secret_places};
pub use sections::is_loopback;
pub use show::show;

use crate::detect::DetectorId;
use crate::event::Stage;
use crate::ingest::IngestConfig;
use crate::telemetry::{Secret, TelemetryConfig};

/// Everything `run` needs, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Kafka.
    pub ingest: IngestConfig,
    /// Postgres.
    pub store: StoreSetting,
    /// Where `/livez /readyz /metrics` are served. Loopback by default.
    pub http: SocketAddr,
    /// The key ring of trusted sources, as its file says.
    pub seal_key: Option<Secret>,
    /// Who signs records with `vw-sig`.
    pub signatures: SignatureSetting,
    /// Rules that replace the compiled-in ones.
    pub rules: rules::RuleFiles,
    /// Detectors.
    pub detect: DetectSetting,
    /// Work between Kafka and Postgres.
    pub pipeline: PipelineSetting,
    /// Where notifications go.
    pub sinks: Vec<SinkSetting>,
    /// Which go where, and what mutes what.
    pub routing: Routing,
    /// Limits.
    pub budgets: Vec<BudgetSetting>,
    /// Logs, metrics, traces.
    pub telemetry: TelemetryConfig,
}

/// Of `[ingest]`: the keys that gateways sign with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureSetting {
    /// The text of the key file.
    pub keys: Option<Secret>,
    /// Whether an unsigned record is refused.
    pub required: bool,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSetting {
    /// `postgres://user:password@host/database`.
    pub url: Secret,
    /// Whether a server on the network may be reached without verified TLS.
    pub allow_plaintext: bool,
    /// Most connections of the process.
    pub max_connections: u32,
    /// Which events are kept as sketches.
    pub events: KeepEvents,
    /// Whether `run` may create and upgrade the tables itself.
    pub migrate: bool,
    /// Days to keep events and dead letters, findings, minute parts.
    pub retention: Retention,
}

/// Days to keep the growing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events and dead letters.
    pub events: u32,
    /// Findings and closed incidents.
    pub findings: u32,
    /// Minute parts.
    pub minutes: u32,
}

/// Which events are kept as sketches, for hunting and explaining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepEvents {
    /// Those with a finding.
    Flagged,
    /// Those and one in so many others.
    Sample(u32),
    /// All.
    All,
}

/// `[detect]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectSetting {
    /// How long a partition that is behind holds a minute. None: without limit.
    pub hold: Option<Duration>,
    /// Closed minutes to wait for late evidence before a hole is judged. None: the usual two.
    pub audit_grace_minutes: Option<i64>,
    /// Tools on the allow-list; empty: no list.
    pub allowed_tools: Vec<String>,
    /// Models on the allow-list; empty: no list.
    pub allowed_models: Vec<String>,
    /// Senders of one attack from which it is a campaign. None: the usual three.
    pub campaign_senders: Option<i64>,
    /// The furthest that a detector may go, by its name.
    pub stages: BTreeMap<DetectorId, Stage>,
}

/// `[pipeline]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineSetting {
    /// Threads that decode and detect.
    pub workers: usize,
    /// A checkpoint of one partition is written after so many records of the process …
    pub checkpoint_records: u64,
    /// … or after this time, whichever is first.
    pub checkpoint_every: Duration,
    /// Shutdown gives up after this time; what is not committed is read again.
    pub shutdown: Duration,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path} ({})", unreadable(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Mistakes, all of them.
    #[error("{path} has {} mistake{}:\n{}", .problems.len(), if .problems.len() == 1 { "" } else { "s" }, list(.problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Each mistake.
        problems: Vec<Problem>,
    },
}

fn unreadable(e: &std::io::Error) -> &'static str {
    match e.kind() {
        std::io::ErrorKind::NotFound => "`veilwatch config init` prints one to start from",
        std::io::ErrorKind::InvalidData => "write it in UTF-8",
        std::io::ErrorKind::IsADirectory => "name a file",
        _ => "make it readable for this account",
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|p| format!("  {p}")).collect();
    lines.join("\n")
}

impl Config {
    /// Reads and checks a configuration file with the process's environment.
    ///
    /// # Errors
    /// The file cannot be read, or has mistakes; all are listed.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, |config, _| config)
    }

    /// [`Config::load`], and what `and` makes of it and of what it was read from.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with<T>(
        path: &Path,
        and: impl FnOnce(Self, &Source<'_>) -> T,
    ) -> Result<T, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let env = std::env::vars()
            .filter(|(k, _)| k.starts_with("VEILWATCH_"))
            .collect();
        let source = Source {
            text: &text,
            dir: path.parent().unwrap_or(Path::new(".")),
            env: &env,
        };
        match Self::parse(&source) {
            Ok(config) => Ok(and(config, &source)),
            Err(problems) => Err(ConfigError::Wrong {
                path: path.to_owned(),
                problems,
            }),
        }
    }

    /// Checks a configuration text.
    ///
    /// # Errors
    /// All mistakes, in the order of the file.
    pub fn parse(source: &Source<'_>) -> Result<Self, Vec<Problem>> {
        let reader = Reader::new(source);
        let (table, errors) = toml::de::DeTable::parse_recoverable(source.text);
        for e in &errors {
            let line = e.span().map_or(0, |s| reader.line(s.start));
            reader.problem(
                line,
                "toml",
                e.message().replace('\n', ", "),
                "correct the syntax",
            );
        }
        if !errors.is_empty() {
            // What follows a syntax error cannot be trusted: its keys may hang in another table.
            return Err(reader.into_problems());
        }
        let root = reader.root(table.get_ref());
        let ingest = sections::ingest(root.section("ingest"));
        let store = sections::store(root.section("store"));
        let http = sections::http(root.section("http"));
        let seal_key = sections::seal(root.section("seal"));
        let rules = rules::read(root.section("rules"));
        let detect = sections::detect(root.section("detect"));
        let pipeline = sections::pipeline(root.section("pipeline"));
        let (sinks, routing) = delivery::read(root.section("deliver"));
        let budgets = budgets::read(root.sections("budget"));
        let telemetry = sections::telemetry(root.section("telemetry"));
        root.finish();

        let trusted = ingest.as_ref().is_some_and(|(i, _)| {
            i.topics
                .iter()
                .any(|t| t.mode == crate::ingest::TopicMode::Trusted)
        });
        if let (Some(_), true, None) = (&ingest, trusted, &seal_key)
            && !reader.has_problem("seal.key_file")
        {
            reader.problem(
                0,
                "seal.key_file",
                "is missing though a topic is trusted",
                "create one with `veilwatch key new` and name it",
            );
        }
        if let (Some(_), false, Some(_)) = (&ingest, trusted, &seal_key) {
            reader.problem(0, "seal.key_file", "is given though every topic is sealed: who reads sealed data must not hold the key", "remove it");
        }
        let problems = reader.into_problems();
        match (ingest, store, http) {
            (Some((ingest, signatures)), Some(store), Some(http)) if problems.is_empty() => {
                Ok(Self {
                    ingest,
                    store,
                    http,
                    seal_key,
                    signatures,
                    rules,
                    detect,
                    pipeline,
                    sinks,
                    routing,
                    budgets,
                    telemetry,
                })
            }
            _ => Err(problems),
        }
    }
}

/// The environment of a test or a generated configuration: none.
pub fn no_env() -> BTreeMap<String, String> {
    BTreeMap::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse(&Source {
            text,
            dir: Path::new("."),
            env: &no_env(),
        })
        .map_err(|p| p.iter().map(ToString::to_string).collect())
    }

    const SMALLEST: &str = r#"
[ingest]
brokers = "127.0.0.1:9092"
topics = [{ name = "e", mode = "sealed" }]
[store]
url = "postgres://u:hunter2@127.0.0.1/v"
"#;

    #[test]
    fn the_example_is_right() {
        let c = parse(EXAMPLE).expect("example");
        assert_eq!(c.sinks.len(), 1);
        assert_eq!(
            c.budgets[0].limit,
            budgets::Limit::Pico(1_000_000_000_000_000)
        );
    }

    #[test]
    fn the_smallest_is_enough_and_prints_no_secret() {
        let c = parse(SMALLEST).expect("smallest");
        assert_eq!(c.ingest.group, "veilwatch");
        assert!(!format!("{c:?}").contains("hunter2"));
    }

    #[test]
    fn all_problems_at_once_with_line_and_remedy() {
        let problems = parse(
            r#"[ingest]
broker = "127.0.0.1:9092"
topics = [{ name = "e", mode = "seald" }]
session_timeout = "30 s"
[store]
url = "mysql://x"
[[deliver.sink]]
name = "a"
kind = "webhook"
[[budget]]
scope = "tenant"
period = "fortnight"
tokens = -5
[extra]
"#,
        )
        .expect_err("wrong");
        let text = problems.join("\n");
        for expected in [
            "line 2: ingest.broker: is not a known key; did you mean brokers?",
            "ingest.brokers: is missing; name the Kafka brokers",
            "line 3: ingest.topics[0].mode: \"seald\" is not known; did you mean \"sealed\"?",
            "line 6: store.url: is not a Postgres address; write postgres://",
            "deliver.sink[0].url: is missing; write https://HOST/PATH",
            "line 12: budget[0].period: \"fortnight\" is not known; write one of hour",
            "line 13: budget[0].tokens: is out of range",
            "line 14: extra: is not a known key",
        ] {
            assert!(text.contains(expected), "{expected}\nin\n{text}");
        }
    }

    #[test]
    fn plaintext_to_the_network_is_refused_unless_allowed() {
        let remote = SMALLEST.replace("127.0.0.1:9092", "kafka.example.com:9092");
        let p = parse(&remote).expect_err("remote").join("\n");
        assert!(p.contains("allow_plaintext = true"), "{p}");
        let allowed = remote.replace("[store]", "allow_plaintext = true\n[store]");
        parse(&allowed).expect("allowed");
        let db = SMALLEST.replace("@127.0.0.1/", "@db.example.com:5432/");
        let p = parse(&db).expect_err("remote").join("\n");
        assert!(
            p.contains("sslmode=verify-full") && !p.contains("hunter2"),
            "{p}"
        );
        parse(&db.replace("/v\"", "/v?sslmode=verify-full\"")).expect("verified");
    }

    #[test]
    fn stages_name_detectors_and_how_far_they_may_go() {
        let with = |detect: &str| parse(&format!("{SMALLEST}\n[detect]\n{detect}\n"));
        let c = with("stages = { drift = \"ticket\", campaign = \"page\" }\noff = [\"latency\"]");
        let stages = c.expect("known").detect.stages;
        let expected = [
            (DetectorId::Drift, Stage::Ticket),
            (DetectorId::Campaign, Stage::Page),
            (DetectorId::Latency, Stage::Shadow),
        ];
        assert_eq!(stages, expected.into());
        for (wrong, said) in [
            ("off = [\"latncy\"]", "did you mean \"latency\"?"),
            ("stages = { drift = \"pager\" }", "did you mean \"page\"?"),
            (
                "stages = { nobody = \"page\" }",
                "\"nobody\" is no detector",
            ),
            ("campaign_senders = 1", "from 2 to 64"),
        ] {
            let p = with(wrong).expect_err(wrong).join("\n");
            assert!(p.contains(said), "{p}");
        }
    }

    #[test]
    fn a_budget_names_users_by_their_pseudonyms() {
        let with = |subject: &str| {
            parse(&format!(
                "{SMALLEST}\n[[budget]]\nscope = \"user\"\nperiod = \"day\"\ntokens = 5\nsubject = \"{subject}\"\n"
            ))
        };
        with("*").expect("each");
        with("k7:K9gGyX8OAK8aH8Myj6djqQ").expect("a pseudonym");
        let p = with("alice@example.com").expect_err("plain").join("\n");
        assert!(
            p.contains("is not a user's pseudonym") && !p.contains("alice"),
            "{p}"
        );
    }

    #[test]
    fn an_amount_below_zero_is_called_that() {
        for amount in ["-5", "-5.5", "\"-5.5\""] {
            let p = parse(&format!(
                "{SMALLEST}\n[[budget]]\nscope = \"tenant\"\nperiod = \"day\"\nusd = {amount}\n"
            ));
            let p = p.expect_err(amount).join("\n");
            assert!(p.contains("is below 0; write an amount from 0 up"), "{p}");
        }
    }

    #[test]
    fn the_key_goes_with_trusted_topics_only() {
        let trusted = SMALLEST.replace("sealed", "trusted");
        let p = parse(&trusted).expect_err("no key").join("\n");
        assert!(p.contains("veilwatch key new"), "{p}");
    }

    #[test]
    fn secrets_come_from_the_environment() {
        let mut env = no_env();
        env.insert(
            "VEILWATCH_STORE_URL".into(),
            "postgres://e@127.0.0.1/v".into(),
        );
        let text = SMALLEST.replace("url = \"postgres://u:hunter2@127.0.0.1/v\"", "");
        let c = Config::parse(&Source {
            text: &text,
            dir: Path::new("."),
            env: &env,
        })
        .expect("env");
        assert_eq!(c.store.url.reveal(), "postgres://e@127.0.0.1/v");
    }

    #[test]
    fn a_syntax_error_has_its_line() {
        let p = parse("[ingest]\nbrokers = \n")
            .expect_err("syntax")
            .join("\n");
        assert!(p.starts_with("line 2: toml: "), "{p}");
    }
}
