//! The sections of the pipeline: ingest, store, http, seal, detect, pipeline, telemetry.
//!
//! Each function reads one section with its defaults and the reasons for them, and returns None
//! where a needed key is missing or wrong (then a problem says so).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::reader::Section;
use super::{
    DetectSetting, KeepEvents, PipelineSetting, Retention, SignatureSetting, StoreSetting,
};
use crate::decode::signature::Signatures;
use crate::detect::DetectorId;
use crate::event::Stage;
use crate::ingest::{Assignment, IngestConfig, Protocol, Security, TopicConfig, TopicMode};
use crate::rule::suggest::nearest;
use crate::telemetry::{Secret, TelemetryConfig};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Fewest connections that `run` works with: half are the batches', two listen for changes for good, one
/// renews the leader's lease beside its merge.
const MIN_CONNECTIONS: i64 = 8;

pub(super) fn ingest(s: Section<'_, '_>) -> Option<(IngestConfig, SignatureSetting)> {
    let brokers = s.strings("brokers").map(|b| b.join(","));
    if brokers.as_ref().is_none_or(String::is_empty) && !s.has("brokers") {
        s.missing("brokers", "name the Kafka brokers, such as \"kafka:9092\"");
    }
    let group = s.str("group").unwrap_or_else(|| "veilwatch".into());
    let mut topics: Vec<TopicConfig> = Vec::new();
    for t in s.sections("topics") {
        let mode = t.word(
            "mode",
            &[
                ("sealed", TopicMode::Sealed),
                ("trusted", TopicMode::Trusted),
            ],
        );
        match t.str("name") {
            None => t.missing("name", "name the topic"),
            Some(name) if topics.iter().any(|o| o.name == name) => {
                t.problem("name", "is listed twice", "keep one");
            }
            Some(name) => topics.push(TopicConfig {
                name,
                mode: mode.unwrap_or(TopicMode::Sealed),
            }),
        }
        t.finish();
    }
    if topics.is_empty() && !s.has("topics") {
        s.missing(
            "topics",
            "list them: topics = [{ name = \"llm.events.v1\", mode = \"sealed\" }]",
        );
    } else if topics.is_empty() {
        s.problem("topics", "is empty", "list at least one topic");
    }
    let security = security(&s, brokers.as_deref().unwrap_or_default());
    let mut c = IngestConfig::new(brokers.clone().unwrap_or_default(), group, topics);
    c.security = security;
    if let Some(a) = s.word(
        "assignment",
        &[
            ("range", Assignment::Range),
            ("cooperative-sticky", Assignment::CooperativeSticky),
        ],
    ) {
        c.assignment = a;
    }
    for (key, value, min, max) in [
        ("session_timeout", &mut c.session_timeout, SECOND, HOUR),
        (
            "heartbeat_interval",
            &mut c.heartbeat_interval,
            100 * MS,
            60 * SECOND,
        ),
        (
            "max_poll_interval",
            &mut c.max_poll_interval,
            5 * SECOND,
            HOUR,
        ),
        ("batch_age", &mut c.batch_age, MS, 10 * SECOND),
        ("progress_timeout", &mut c.progress_timeout, SECOND, HOUR),
    ] {
        if let Some(d) = s.duration(key, min, max) {
            *value = d;
        }
    }
    if c.heartbeat_interval * 3 > c.session_timeout {
        s.problem(
            "heartbeat_interval",
            "is more than a third of session_timeout",
            "lower it, or a single lost heartbeat costs the assignment",
        );
    }
    if c.max_poll_interval < c.session_timeout {
        s.problem(
            "max_poll_interval",
            "is below session_timeout",
            "raise it to at least session_timeout",
        );
    }
    if let Some(n) = s.integer("buffer_mb", 1, 4096) {
        c.buffer_bytes = usize::try_from(n).unwrap_or(16) * 1024 * 1024;
    }
    if let Some(n) = s.integer("batch_records", 1, 100_000) {
        c.batch_records = usize::try_from(n).unwrap_or(4_000);
    }
    c.accept_truncation = s.bool("accept_truncation").unwrap_or(false);
    let signatures = signatures(&s);
    s.finish();
    brokers.map(|_| (c, signatures))
}

/// Keys of gateways that sign, and whether every record must be signed.
fn signatures(s: &Section<'_, '_>) -> SignatureSetting {
    let keys = s.secret("gateway_keys", "VEILWATCH_INGEST_GATEWAY_KEYS");
    let required = s.bool("require_signature").unwrap_or(false);
    if let Some(keys) = &keys
        && let Err(why) = Signatures::parse(keys.reveal(), required)
    {
        s.problem(
            "gateway_keys_file",
            why,
            "write one `KID GATEWAY BASE64` per line, * for any gateway",
        );
    }
    if required && keys.is_none() {
        s.problem(
            "require_signature",
            "refuses every record while no key is known",
            "name the gateways' keys in gateway_keys_file",
        );
    }
    SignatureSetting { keys, required }
}

fn security(s: &Section<'_, '_>, brokers: &str) -> Security {
    let d = Security::default();
    let username = s.str("username");
    let password = s.secret("password", "VEILWATCH_INGEST_PASSWORD");
    let protocol = s
        .word(
            "security",
            &[
                ("plaintext", Protocol::Plaintext),
                ("ssl", Protocol::Ssl),
                ("sasl_plaintext", Protocol::SaslPlaintext),
                ("sasl_ssl", Protocol::SaslSsl),
            ],
        )
        .unwrap_or(d.protocol);
    let allow = s.bool("allow_plaintext").unwrap_or(false);
    if !protocol.is_encrypted()
        && !allow
        && !brokers.split(',').all(|b| b.is_empty() || is_loopback(b))
    {
        s.problem(
            "security",
            format!("is {} towards brokers on the network", protocol.as_str()),
            "set security = \"ssl\" or \"sasl_ssl\", or allow_plaintext = true if the network is protected otherwise",
        );
    }
    let sasl = matches!(protocol, Protocol::SaslPlaintext | Protocol::SaslSsl);
    if sasl && (username.is_none() || password.is_none()) {
        s.problem(
            "security",
            "needs username and password",
            "set username, and password_file or VEILWATCH_INGEST_PASSWORD",
        );
    }
    let written = if s.has("password") {
        "password"
    } else {
        "password_file"
    };
    for (key, given) in [
        ("username", username.is_some()),
        (written, password.is_some()),
    ] {
        if given && !sasl {
            s.problem(
                key,
                "has no effect without SASL",
                "set security = \"sasl_ssl\", or remove it",
            );
        }
    }
    if cfg!(not(any(feature = "tls", feature = "tls-vendored"))) && protocol != Protocol::Plaintext
    {
        s.problem(
            "security",
            "needs TLS, which this build lacks",
            "build with the feature `tls`",
        );
    }
    let mechanism = s
        .word(
            "mechanism",
            &[
                ("SCRAM-SHA-512", "SCRAM-SHA-512"),
                ("SCRAM-SHA-256", "SCRAM-SHA-256"),
                ("PLAIN", "PLAIN"),
            ],
        )
        .map_or(d.mechanism, ToOwned::to_owned);
    let existing = |key: &str| {
        let p = s.path(key)?;
        if p.is_file() {
            return Some(p);
        }
        s.problem(
            key,
            format!("{} is not a file", p.display()),
            "check the path",
        );
        None
    };
    Security {
        protocol,
        mechanism,
        username,
        password,
        ca_file: existing("ca_file"),
        cert_file: existing("cert_file"),
        key_file: existing("key_file"),
    }
}

/// Whether `host:port` can only be this machine.
pub fn is_loopback(address: &str) -> bool {
    let host = address.trim().rsplit_once(':').map_or(address, |(h, _)| h);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn store(s: Section<'_, '_>) -> Option<StoreSetting> {
    let url = s.secret("url", "VEILWATCH_STORE_URL");
    let allow_plaintext = s.bool("allow_plaintext").unwrap_or(false);
    match &url {
        None if !s.has("url") && !s.has("url_file") => s.missing(
            "url",
            "set it, url_file or VEILWATCH_STORE_URL to postgres://user:password@host/database",
        ),
        Some(u)
            if !u.reveal().starts_with("postgres://")
                && !u.reveal().starts_with("postgresql://") =>
        {
            s.problem(
                "url",
                "is not a Postgres address",
                "write postgres://user:password@host/database",
            );
        }
        Some(u) if !allow_plaintext && crate::store::asks_for_plaintext(u.reveal()) => {
            s.problem(
                "url",
                "asks for a Postgres on the network without verified TLS",
                "add ?sslmode=verify-full, or set allow_plaintext = true if the network is protected otherwise",
            );
        }
        _ => {}
    }
    let events = s.str("events").and_then(|e| match e.as_str() {
        "flagged" => Some(KeepEvents::Flagged),
        "all" => Some(KeepEvents::All),
        other => {
            let n = other.strip_prefix("sample:1/").and_then(|n| n.parse().ok());
            if n.is_none_or(|n: u32| n == 0) {
                s.problem(
                    "events",
                    "is not a choice",
                    "write \"flagged\", \"sample:1/100\" or \"all\"",
                );
                return None;
            }
            n.map(KeepEvents::Sample)
        }
    });
    let r = s.section("retention");
    let days = |key: &str, default: u32| {
        r.integer(key, 1, 3650)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(default)
    };
    let retention = Retention {
        events: days("events_days", 30),
        findings: days("findings_days", 400),
        minutes: days("minutes_days", 3),
    };
    r.finish();
    let max_connections = s.integer("max_connections", MIN_CONNECTIONS, 500);
    let migrate = s.bool("migrate").unwrap_or(true);
    s.finish();
    Some(StoreSetting {
        url: url?,
        allow_plaintext,
        // Two writers and two readers of batches, two listeners, the lowest number, and four to spare.
        max_connections: max_connections
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(12),
        events: events.unwrap_or(KeepEvents::Flagged),
        migrate,
        retention,
    })
}

pub(super) fn http(s: Section<'_, '_>) -> Option<SocketAddr> {
    let listen = s.str("listen").unwrap_or_else(|| "127.0.0.1:8686".into());
    let parsed = listen.parse();
    if parsed.is_err() {
        s.problem(
            "listen",
            format!("\"{listen}\" is not an address"),
            "write ADDRESS:PORT, such as \"127.0.0.1:8686\"",
        );
    }
    s.finish();
    parsed.ok()
}

pub(super) fn seal(s: Section<'_, '_>) -> Option<Secret> {
    let text = s.key_file("key_file");
    s.finish();
    text
}

pub(super) fn detect(s: Section<'_, '_>) -> DetectSetting {
    let hold = match s.str("hold").as_deref() {
        Some("unlimited") => None,
        Some(_) => s.duration("hold", SECOND, HOUR),
        None => Some(Duration::from_secs(120)),
    };
    let d = DetectSetting {
        hold,
        audit_grace_minutes: s.integer("audit_grace_minutes", 0, 60),
        allowed_tools: s.strings("allowed_tools").unwrap_or_default(),
        allowed_models: s.strings("allowed_models").unwrap_or_default(),
        campaign_senders: s.integer("campaign_senders", 2, 64),
        stages: stages(&s),
    };
    s.finish();
    d
}

/// `stages = { drift = "ticket" }`, and `off`, which is the stage `shadow`.
fn stages(s: &Section<'_, '_>) -> BTreeMap<DetectorId, Stage> {
    let words = [Stage::Shadow, Stage::Ticket, Stage::Page].map(|v| (v.as_str(), v));
    let mut stages = BTreeMap::new();
    let table = s.section("stages");
    for name in table.names() {
        let stage = table.word(&name, &words);
        if let (Some(d), Some(stage)) = (detector(&table, &name, &name), stage) {
            stages.insert(d, stage);
        }
    }
    table.finish();
    for name in s.strings("off").unwrap_or_default() {
        if let Some(d) = detector(s, "off", &name) {
            stages.insert(d, Stage::Shadow);
        }
    }
    stages
}

fn detector(s: &Section<'_, '_>, key: &str, name: &str) -> Option<DetectorId> {
    let found = DetectorId::parse(name);
    if found.is_none() {
        let known = DetectorId::ALL.map(DetectorId::as_str);
        s.problem(
            key,
            format!("\"{name}\" is no detector"),
            match nearest(name, known) {
                Some(n) => format!("did you mean \"{n}\"? one of {}", known.join(", ")),
                None => format!("write one of {}", known.join(", ")),
            },
        );
    }
    found
}

pub(super) fn pipeline(s: Section<'_, '_>) -> PipelineSetting {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let p = PipelineSetting {
        workers: s
            .integer("workers", 1, 256)
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or_else(|| (cores / 2).max(1)),
        checkpoint_records: s
            .integer("checkpoint_records", 100, 100_000_000)
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(250_000),
        checkpoint_every: s
            .duration("checkpoint_every", 100 * MS, HOUR)
            .unwrap_or(30 * SECOND),
        shutdown: s
            .duration("shutdown", SECOND, 600 * SECOND)
            .unwrap_or(10 * SECOND),
    };
    s.finish();
    p
}

pub(super) fn telemetry(s: Section<'_, '_>) -> TelemetryConfig {
    use std::io::IsTerminal as _;
    let d = TelemetryConfig::default();
    let json = s
        .word(
            "format",
            &[
                ("json", Some(true)),
                ("pretty", Some(false)),
                ("auto", None),
            ],
        )
        .flatten()
        .unwrap_or_else(|| !std::io::stderr().is_terminal());
    let endpoint = s.str("otlp_endpoint");
    if let Some(e) = &endpoint
        && !e.starts_with("http://")
        && !e.starts_with("https://")
    {
        s.problem(
            "otlp_endpoint",
            "is not an address",
            "write http://HOST:4317",
        );
    }
    if endpoint.as_ref().is_some_and(|e| e.contains('@')) {
        s.problem(
            "otlp_endpoint",
            "has a name or password, which is never sent",
            "write http://HOST:4317, and let the collector tell its senders by network or certificate",
        );
    }
    let log = s.str("log");
    if let Some(word) = log.as_deref().and_then(no_level) {
        s.problem(
            "log",
            format!("`{word}` is no level"),
            "write error, warn, info, debug or trace; of one part only: `info,veilwatch::ingest=debug`",
        );
    }
    let t = TelemetryConfig {
        log: log.unwrap_or(d.log),
        json,
        otlp_endpoint: endpoint,
        otlp_interval_s: s
            .duration("otlp_interval", SECOND, HOUR)
            .map_or(d.otlp_interval_s, |i| i.as_secs()),
    };
    s.finish();
    t
}

/// The first part of a log filter that is neither a level nor names a part of the program: the logger would
/// take it for the name of a crate, and be silent.
fn no_level(filter: &str) -> Option<&str> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let mut parts = filter.split(',').map(str::trim);
    parts.find(|part| {
        let (target, level) = part
            .rsplit_once('=')
            .map_or((None, *part), |(t, l)| (Some(t), l));
        let known = levels.iter().any(|l| level.eq_ignore_ascii_case(l));
        let named = target.is_none() && (level.contains("::") || level == "veilwatch");
        !known && !named
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_named() {
        for good in [
            "info",
            "INFO",
            "info,veilwatch::ingest=debug",
            "veilwatch=warn, off",
            "veilwatch::store",
        ] {
            assert_eq!(no_level(good), None, "{good}");
        }
        assert_eq!(no_level("loud"), Some("loud"));
        assert_eq!(no_level("info,veilwatch=inof"), Some("veilwatch=inof"));
    }
}
