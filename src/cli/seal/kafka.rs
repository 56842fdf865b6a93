//! `veilwatch seal --kafka`: the sealing job between a raw and a sealed topic.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use zeroize::Zeroizing;

use crate::cli::rules;
use crate::cli::service::{Run, Service};
use crate::config::keyfile;
use crate::decode::signature::Signatures;
use crate::event::Kid;
use crate::ingest::relay::RelayConfig;
use crate::ingest::{Ended, IngestConfig, Protocol, Security, TopicConfig, TopicMode};
use crate::pipeline::build::BuildError;
use crate::pipeline::reseal::{self, Job, Running, Seal};
use crate::rule::diagnostic::Diagnostic;
use crate::seal::engine::Engine;
use crate::seal::model::Model;
use crate::seal::{Keys, Sealer};
use crate::telemetry::{Secret, TelemetryConfig};

/// Where SASL's password may stand instead of a file.
const PASSWORD: &str = "VEILWATCH_INGEST_PASSWORD";
/// Beyond the drain: leaving the group and closing the clients.
const GRACE: Duration = Duration::from_secs(5);

/// Arguments of the job.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Kafka to Kafka")]
#[group(skip)]
pub struct Args {
    /// Read a raw topic, seal each record, write it to a sealed topic, until SIGTERM. Needs
    /// --key-file.
    #[arg(long, requires_all = ["brokers", "from_topic", "to_topic", "key_file"])]
    pub kafka: bool,
    /// Brokers, HOST:PORT, comma-separated.
    #[arg(long, value_name = "LIST", requires = "kafka")]
    brokers: Option<String>,
    /// Topic with raw events.
    #[arg(long, value_name = "TOPIC", requires = "kafka")]
    from_topic: Option<String>,
    /// Topic for sealed events, keyed by user.
    #[arg(long, value_name = "TOPIC", requires = "kafka")]
    to_topic: Option<String>,
    /// Topic for what cannot be sealed: place and reason, never bytes [default: TO_TOPIC.dead]
    #[arg(long, value_name = "TOPIC", requires = "kafka")]
    dead_letter_topic: Option<String>,
    /// Consumer group, which holds the offsets.
    #[arg(long, value_name = "NAME", default_value = "veilwatch-seal")]
    group: String,
    /// Where /livez /readyz /metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8687")]
    listen: SocketAddr,
    /// Records in one transaction at most; it is committed after a tenth of a second in any case.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_in_flight: u32,
    /// Seconds that SIGTERM tries to commit what was read.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    shutdown: u64,
    /// Seconds after which a silent member has left the group.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(3..=3600))]
    session_timeout: u64,
    /// Rule files instead of the compiled-in ones; `run` must have the same.
    #[arg(long, value_name = "DIR", requires = "kafka")]
    rules: Option<PathBuf>,
    /// Keys of the gateways that sign raw records (`KID GATEWAY BASE64` a line, * for any): header vw-sig is
    /// checked, and a gateway with a key is not heard without it.
    #[arg(long, value_name = "FILE", requires = "kafka")]
    gateway_keys_file: Option<PathBuf>,
    /// Refuse raw records that nobody signed.
    #[arg(long, requires = "gateway_keys_file")]
    require_signature: bool,
    /// Sign what is published: a file with one line `KID * BASE64`. `run` needs that line in its
    /// gateway_keys_file.
    #[arg(long, value_name = "FILE", requires = "kafka")]
    signing_key_file: Option<PathBuf>,
    /// The source holds sealed events that only need other keys and partitions: identities that are
    /// pseudonyms are taken as such. Never for a topic in which callers choose what `user` says.
    #[arg(long, requires = "kafka")]
    from_sealed: bool,
    /// Protection of the connection.
    #[arg(long, value_name = "HOW", default_value = "plaintext", value_parser = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"])]
    security: String,
    /// Allow records with text to cross a network without TLS.
    #[arg(long)]
    allow_plaintext: bool,
    /// SASL mechanism.
    #[arg(long, value_name = "NAME", default_value = "SCRAM-SHA-512", value_parser = ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])]
    mechanism: String,
    /// SASL user; the password stands in --password-file or VEILWATCH_INGEST_PASSWORD.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// File with the SASL password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Certificate authorities (PEM) [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Client certificate (PEM) for mutual TLS.
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    cert_file: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    client_key_file: Option<PathBuf>,
}

/// Runs the job until it is told to stop.
pub fn run(args: &Args, key_file: &std::path::Path) -> anyhow::Result<ExitCode> {
    let keys = keyfile::read(key_file).map_err(anyhow::Error::msg)?;
    let job = args.job()?;
    let sealer = Arc::new(sealer(args, keys)?);
    let seal = Seal {
        sealer: sealer.clone(),
        signatures: Arc::new(args.signatures()?),
        signs: args.signing_key()?,
        from_sealed: args.from_sealed,
    };
    let run = Run {
        threads: 1,
        telemetry: &TelemetryConfig::default(),
        limit: job.relay.drain + GRACE,
        until_eof: false,
    };
    let kid = sealer.keys().active_content().kid().to_string();
    run.serve(async |health| {
        let running = reseal::start(job, seal, health).await?;
        tracing::info!(http = %running.http, kid, "sealing");
        anyhow::Ok(running)
    })
}

impl Service for Running {
    async fn failed(&self) -> String {
        self.failed().await;
        "the job ended".to_owned()
    }
    async fn stop(self) -> Ended {
        self.stop().await
    }
}

/// Reads a file of gateways' keys.
fn gateway_keys(path: &std::path::Path, required: bool) -> anyhow::Result<Signatures> {
    let text =
        keyfile::read_secret(path).map_err(|(what, remedy)| anyhow::anyhow!("{what}; {remedy}"))?;
    Signatures::parse(&text, required).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

fn sealer(args: &Args, keys: Keys) -> anyhow::Result<Sealer> {
    let Some(dir) = &args.rules else {
        return Ok(Sealer::built_in(keys));
    };
    match rules::load(Some(dir), &[])? {
        Ok((set, _)) => Ok(Sealer::new(
            keys,
            Arc::new(Engine::new(&set, Model::shipped().ok())),
        )),
        Err(problems) => Err(BuildError::Rules {
            place: dir.display().to_string(),
            first: problems.first().map_or_else(String::new, Diagnostic::line),
        }
        .into()),
    }
}

impl Args {
    fn signatures(&self) -> anyhow::Result<Signatures> {
        match &self.gateway_keys_file {
            Some(path) => gateway_keys(path, self.require_signature),
            None => Ok(Signatures::default()),
        }
    }

    fn signing_key(&self) -> anyhow::Result<Option<(Kid, Zeroizing<Vec<u8>>)>> {
        let Some(path) = &self.signing_key_file else {
            return Ok(None);
        };
        match gateway_keys(path, false)?.into_signing_key() {
            None => bail!(
                "--signing-key-file {} must hold one line `KID * BASE64`: the job speaks for all gateways",
                path.display()
            ),
            key => Ok(key),
        }
    }

    fn job(&self) -> anyhow::Result<Job> {
        // clap has seen to it that they are there.
        let brokers = self.brokers.clone().unwrap_or_default();
        let from = self.from_topic.clone().unwrap_or_default();
        let to = self.to_topic.clone().unwrap_or_default();
        let dead = self
            .dead_letter_topic
            .clone()
            .unwrap_or_else(|| format!("{to}.dead"));
        if from == to || from == dead || to == dead {
            bail!(
                "--from-topic, --to-topic and --dead-letter-topic must be three different topics"
            );
        }
        let topic = TopicConfig {
            name: from,
            mode: TopicMode::Trusted,
        };
        let mut ingest = IngestConfig::new(brokers, self.group.clone(), vec![topic]);
        ingest.session_timeout = Duration::from_secs(self.session_timeout);
        ingest.heartbeat_interval = ingest.heartbeat_interval.min(ingest.session_timeout / 3);
        ingest.max_poll_interval = ingest.max_poll_interval.max(ingest.session_timeout);
        ingest.security = self.security(&ingest.brokers)?;
        Ok(Job {
            relay: RelayConfig {
                from: ingest,
                to,
                dead,
                max_in_flight: usize::try_from(self.max_in_flight)?,
                drain: Duration::from_secs(self.shutdown),
            },
            listen: self.listen,
        })
    }

    fn security(&self, brokers: &str) -> anyhow::Result<Security> {
        let protocol = match self.security.as_str() {
            "ssl" => Protocol::Ssl,
            "sasl_plaintext" => Protocol::SaslPlaintext,
            "sasl_ssl" => Protocol::SaslSsl,
            _ => Protocol::Plaintext,
        };
        if !protocol.is_encrypted()
            && !self.allow_plaintext
            && !brokers.split(',').all(crate::config::is_loopback)
        {
            bail!(
                "--security is {} towards brokers on the network, and raw records hold text; use ssl or sasl_ssl, or --allow-plaintext if the network is protected otherwise",
                protocol.as_str()
            );
        }
        let password = match &self.password_file {
            Some(path) => Some(
                keyfile::read_secret(path)
                    .map_err(|(what, remedy)| anyhow::anyhow!("--password-file: {what}; {remedy}"))?
                    .trim_end_matches(['\r', '\n'])
                    .to_owned(),
            ),
            None => std::env::var(PASSWORD).ok(),
        };
        let sasl = matches!(protocol, Protocol::SaslPlaintext | Protocol::SaslSsl);
        if sasl && (self.username.is_none() || password.is_none()) {
            bail!(
                "--security {} needs --username, and --password-file or {PASSWORD}",
                protocol.as_str()
            );
        }
        if !sasl && self.username.is_some() {
            bail!("--username has no effect without SASL; use --security sasl_ssl");
        }
        for file in [&self.ca_file, &self.cert_file, &self.client_key_file]
            .into_iter()
            .flatten()
        {
            if !file.is_file() {
                bail!("{} is not a file; check the path", file.display());
            }
        }
        Ok(Security {
            protocol,
            mechanism: self.mechanism.clone(),
            username: self.username.clone().filter(|_| sasl),
            password: password.filter(|_| sasl).map(Secret::new),
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.client_key_file.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        seal: crate::cli::seal::Args,
    }

    fn job(more: &[&str]) -> Result<super::Job, String> {
        let base = [
            "seal",
            "--kafka",
            "--brokers",
            "127.0.0.1:9092",
            "--key-file",
            "k",
        ];
        let line = Line::try_parse_from(base.iter().chain(more)).map_err(|e| e.to_string())?;
        line.seal.kafka.job().map_err(|e| e.to_string())
    }

    #[test]
    fn the_jobs_arguments_are_checked_before_anything_starts() {
        let j = job(&["--from-topic", "raw", "--to-topic", "sealed"]).expect("good");
        assert_eq!(
            (j.relay.to.as_str(), j.relay.dead.as_str()),
            ("sealed", "sealed.dead")
        );
        for (args, said) in [
            (
                &["--from-topic", "a", "--to-topic", "a"][..],
                "three different topics",
            ),
            (&["--from-topic", "a"], "--to-topic"),
            (
                &[
                    "--from-topic",
                    "a",
                    "--to-topic",
                    "b",
                    "--brokers",
                    "kafka:9092",
                ],
                "cannot be used multiple times",
            ),
            (
                &[
                    "--from-topic",
                    "a",
                    "--to-topic",
                    "b",
                    "--security",
                    "sasl_ssl",
                ],
                "needs --username",
            ),
            (
                &[
                    "--from-topic",
                    "a",
                    "--to-topic",
                    "b",
                    "--ca-file",
                    "/nowhere",
                ],
                "is not a file",
            ),
            (
                &["file", "--from-topic", "a", "--to-topic", "b"],
                "cannot be used with",
            ),
        ] {
            let e = job(args).expect_err("refused");
            assert!(e.contains(said), "{args:?}: {e}");
        }
        let far = Line::try_parse_from([
            "seal",
            "--kafka",
            "--brokers",
            "kafka:9092",
            "--key-file",
            "k",
            "--from-topic",
            "a",
            "--to-topic",
            "b",
        ]);
        let e = far.expect("parsed").seal.kafka.job().expect_err("refused");
        assert!(e.to_string().contains("raw records hold text"), "{e}");
    }
}
