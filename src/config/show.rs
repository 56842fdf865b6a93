//! `config show`: a checked configuration as TOML that can be fed back, defaults included.
//!
//! Secrets are not shown. One that stands in a file is named by its file, so that nothing is lost; one from
//! the environment or in the configuration itself is a comment that says where it is.

mod page;

use std::collections::BTreeMap;
use std::time::Duration;

use super::budgets::Limit;
use super::delivery::{SinkKind, SinkSetting};
use super::routing::{InhibitSetting, RouteSetting};
use super::{Config, KeepEvents, Source};
use crate::ingest::{Assignment, Protocol, TopicMode};
use page::{Page, absolute, dollars, quoted, without_password};

/// The configuration as TOML. `written` is what it was read from: it tells where secrets stand.
pub fn show(config: &Config, written: &Source<'_>) -> String {
    let table: toml::Table = written.text.parse().unwrap_or_default();
    let mut p = Page {
        out: String::from("# As it is understood, defaults included. Secrets are not shown.\n"),
        source: written,
    };
    ingest(&mut p, config, section(&table, "ingest"));
    store(&mut p, config, section(&table, "store"));
    p.section("http");
    p.text("listen", &config.http.to_string());
    if config.seal_key.is_some() {
        p.section("seal");
        p.written_path(section(&table, "seal"), "key_file");
    }
    p.section("rules");
    let rules = section(&table, "rules");
    p.written_path(rules, "dir");
    let overrides = config.rules.override_paths.iter().map(|o| absolute(o));
    p.strings("overrides", overrides);
    p.written_path(rules, "prices");
    detect(&mut p, config);
    p.section("pipeline");
    p.value("workers", config.pipeline.workers);
    p.value("checkpoint_records", config.pipeline.checkpoint_records);
    p.duration("checkpoint_every", config.pipeline.checkpoint_every);
    p.duration("shutdown", config.pipeline.shutdown);
    deliver(&mut p, config, section(&table, "deliver"));
    for b in &config.budgets {
        p.list("budget");
        p.text("scope", &b.scope);
        p.text("subject", &b.subject);
        p.text("period", &b.period);
        p.maybe("zone", b.zone.as_deref());
        match b.limit {
            Limit::Tokens(n) => p.value("tokens", n),
            Limit::Pico(n) => p.text("usd", &dollars(n)),
        }
        p.value("thresholds", format_args!("{:?}", b.thresholds));
    }
    p.section("telemetry");
    p.text("log", &config.telemetry.log);
    let format = section(&table, "telemetry").and_then(|t| t.get("format"));
    p.text(
        "format",
        format.and_then(toml::Value::as_str).unwrap_or("auto"),
    );
    p.maybe("otlp_endpoint", config.telemetry.otlp_endpoint.as_deref());
    let interval = Duration::from_secs(config.telemetry.otlp_interval_s);
    p.duration("otlp_interval", interval);
    p.out
}

fn section<'t>(table: &'t toml::Table, name: &str) -> Option<&'t toml::Table> {
    table.get(name)?.as_table()
}

fn ingest(p: &mut Page<'_>, config: &Config, written: Option<&toml::Table>) {
    let c = &config.ingest;
    p.section("ingest");
    p.strings("brokers", c.brokers.split(','));
    p.text("group", &c.group);
    let topics: Vec<String> = c
        .topics
        .iter()
        .map(|t| {
            let mode = match t.mode {
                TopicMode::Sealed => "sealed",
                TopicMode::Trusted => "trusted",
            };
            format!("{{ name = {}, mode = \"{mode}\" }}", quoted(&t.name))
        })
        .collect();
    p.value("topics", format_args!("[{}]", topics.join(", ")));
    let s = &c.security;
    p.text("security", s.protocol.as_str());
    p.allowed(written);
    p.maybe("username", s.username.as_deref());
    p.secret(
        written,
        "password",
        "VEILWATCH_INGEST_PASSWORD",
        s.password.as_ref(),
    );
    if matches!(s.protocol, Protocol::SaslPlaintext | Protocol::SaslSsl) {
        p.text("mechanism", &s.mechanism);
    }
    for key in ["ca_file", "cert_file", "key_file"] {
        p.written_path(written, key);
    }
    let assignment = match c.assignment {
        Assignment::Range => "range",
        Assignment::CooperativeSticky => "cooperative-sticky",
    };
    p.text("assignment", assignment);
    p.duration("session_timeout", c.session_timeout);
    p.duration("heartbeat_interval", c.heartbeat_interval);
    p.duration("max_poll_interval", c.max_poll_interval);
    p.value("buffer_mb", c.buffer_bytes >> 20);
    p.value("batch_records", c.batch_records);
    p.duration("batch_age", c.batch_age);
    p.duration("progress_timeout", c.progress_timeout);
    p.value("accept_truncation", c.accept_truncation);
    let keys = config.signatures.keys.as_ref();
    p.secret(
        written,
        "gateway_keys",
        "VEILWATCH_INGEST_GATEWAY_KEYS",
        keys,
    );
    p.value("require_signature", config.signatures.required);
}

fn store(p: &mut Page<'_>, config: &Config, written: Option<&toml::Table>) {
    let s = &config.store;
    p.section("store");
    let inline = written.is_some_and(|t| t.contains_key("url"))
        && !p.source.env.contains_key("VEILWATCH_STORE_URL");
    match without_password(s.url.reveal()) {
        Some(url) if inline => {
            if url != s.url.reveal() {
                p.note(
                    "the password is not shown; url_file or VEILWATCH_STORE_URL keeps it elsewhere",
                );
            }
            p.text("url", &url);
        }
        _ => p.secret(written, "url", "VEILWATCH_STORE_URL", Some(&s.url)),
    }
    p.allowed(written);
    p.value("max_connections", s.max_connections);
    let events = match s.events {
        KeepEvents::Flagged => "flagged".to_owned(),
        KeepEvents::Sample(n) => format!("sample:1/{n}"),
        KeepEvents::All => "all".to_owned(),
    };
    p.text("events", &events);
    p.value("migrate", s.migrate);
    p.section("store.retention");
    p.value("events_days", s.retention.events);
    p.value("findings_days", s.retention.findings);
    p.value("minutes_days", s.retention.minutes);
}

fn detect(p: &mut Page<'_>, config: &Config) {
    let d = &config.detect;
    p.section("detect");
    match d.hold {
        Some(hold) => p.duration("hold", hold),
        None => p.text("hold", "unlimited"),
    }
    if let Some(n) = d.audit_grace_minutes {
        p.value("audit_grace_minutes", n);
    }
    p.strings("allowed_tools", &d.allowed_tools);
    p.strings("allowed_models", &d.allowed_models);
    if let Some(n) = d.campaign_senders {
        p.value("campaign_senders", n);
    }
    let stages = d.stages.iter();
    let stages: BTreeMap<String, String> = stages
        .map(|(d, s)| (d.as_str().to_owned(), s.as_str().to_owned()))
        .collect();
    p.table("stages", &stages);
}

fn deliver(p: &mut Page<'_>, config: &Config, written: Option<&toml::Table>) {
    let r = &config.routing;
    p.section("deliver");
    if let Some(n) = r.storm_limit {
        p.value("storm_limit", n);
    }
    p.maybe_duration("storm_window", r.storm_window);
    p.maybe("runbooks", r.runbooks.as_deref());
    let sinks = written
        .and_then(|t| t.get("sink"))
        .and_then(toml::Value::as_array);
    for (i, s) in config.sinks.iter().enumerate() {
        let written = sinks.and_then(|l| l.get(i)).and_then(toml::Value::as_table);
        sink(p, s, written);
    }
    for r in &r.routes {
        route(p, r);
    }
    for i in &r.inhibit {
        inhibit(p, i);
    }
}

fn sink(p: &mut Page<'_>, s: &SinkSetting, written: Option<&toml::Table>) {
    let kind = match s.kind {
        SinkKind::Webhook => "webhook",
        SinkKind::Email => "email",
        SinkKind::PagerDuty => "pagerduty",
        SinkKind::Slack => "slack",
        SinkKind::Alertmanager => "alertmanager",
        SinkKind::Stdout => "stdout",
    };
    p.list("deliver.sink");
    p.text("name", &s.name);
    p.text("kind", kind);
    let variable = s.variable();
    p.secret(
        written,
        "url",
        &variable.replace("_SECRET", "_URL"),
        s.url.as_ref(),
    );
    p.maybe("smtp", s.smtp.as_deref());
    p.strings("to", &s.to);
    p.maybe("from", s.from.as_deref());
    p.maybe("username", s.username.as_deref());
    p.secret(written, "secret", &variable, s.secret.as_ref());
    p.value("allow_private", s.allow_private);
    p.written_path(written, "ca_file");
    p.value("concurrency", s.limits.concurrency);
    p.value("per_minute", s.limits.per_minute);
}

fn route(p: &mut Page<'_>, r: &RouteSetting) {
    p.list("deliver.route");
    p.maybe("name", r.name.as_deref());
    p.table("match", &r.matchers);
    p.strings("sinks", &r.sinks);
    p.strings("group_by", &r.group_by);
    p.maybe_duration("group_wait", r.group_wait);
    p.duration("group_interval", r.group_interval);
    p.duration("repeat_interval", r.repeat_interval);
    p.text("min_severity", r.min_severity.as_str());
    p.text("min_stage", r.min_stage.as_str());
    p.value("continue", r.proceed);
    if let Some((after, sinks)) = &r.escalate {
        p.duration("escalate_after", *after);
        p.strings("escalate_to", sinks);
    }
}

fn inhibit(p: &mut Page<'_>, i: &InhibitSetting) {
    p.list("deliver.inhibit");
    p.table("source", &i.source);
    p.table("target", &i.target);
    p.strings("equal", &i.equal);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{EXAMPLE, no_env};
    use crate::telemetry::Secret;

    fn parse(text: &str, dir: &Path, env: &BTreeMap<String, String>) -> (Config, String) {
        let source = Source { text, dir, env };
        let config = match Config::parse(&source) {
            Ok(c) => c,
            Err(problems) => {
                let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
                panic!("{}\n{text}", said.join("\n"));
            }
        };
        let shown = show(&config, &source);
        (config, shown)
    }

    #[track_caller]
    fn same(a: &Config, b: &Config) {
        assert_eq!(format!("{a:#?}"), format!("{b:#?}"));
        assert_eq!((&a.sinks, &a.store), (&b.sinks, &b.store));
        assert_eq!((&a.seal_key, &a.signatures), (&b.seal_key, &b.signatures));
        assert_eq!(a.ingest, b.ingest);
    }

    #[test]
    fn what_is_shown_can_be_fed_back() {
        let (config, shown) = parse(EXAMPLE, Path::new("."), &no_env());
        // From another folder, too.
        let (again, twice) = parse(&shown, Path::new("/nowhere"), &no_env());
        same(&config, &again);
        assert_eq!(shown, twice);
    }

    const FULL: &str = r#"
[ingest]
brokers = ["kafka-1:9093", "kafka-2:9093"]
topics = [{ name = "a", mode = "sealed" }, { name = "b \"b\"", mode = "trusted" }]
security = "sasl_ssl"
username = "veil"
password_file = "kafka.password"
accept_truncation = true
gateway_keys_file = "gateways.keys"
[store]
url = "postgres://veil:squirrel@db.example.com:5432/veil?sslmode=verify-full&password=squirrel"
events = "sample:1/7"
migrate = false
[seal]
key_file = "seal.key"
[rules]
prices = "prices.json"
[detect]
hold = "unlimited"
audit_grace_minutes = 0
allowed_tools = ["search"]
stages = { drift = "shadow" }
[deliver]
storm_limit = 5
storm_window = "1m"
runbooks = "https://wiki.example.com/v/"
[[deliver.sink]]
name = "hook"
kind = "webhook"
url_file = "hook.url"
secret_file = "hook.secret"
per_minute = 7
[[deliver.sink]]
name = "chat"
kind = "slack"
url = "https://hooks.slack.com/services/squirrel"
[[deliver.sink]]
name = "pager"
kind = "pagerduty"
[[deliver.route]]
name = "on-call"
match = { stage = "page", rule = "inj-*" }
sinks = ["pager"]
group_by = ["tenant"]
group_wait = "10s"
escalate_after = "15m"
escalate_to = ["chat", "hook"]
[[deliver.inhibit]]
source = { detector = "errors" }
target = { detector = "latency" }
equal = ["model"]
[[budget]]
scope = "user"
subject = "k7:K9gGyX8OAK8aH8Myj6djqQ"
period = "week"
zone = "Europe/Berlin"
usd = 0.000001
thresholds = [10, 90]
[telemetry]
otlp_endpoint = "http://127.0.0.1:4317"
"#;

    #[test]
    fn secrets_are_named_by_their_place_and_never_shown() {
        let dir = tempfile::tempdir().expect("folder");
        let key = format!("k1 * {}", "c3F1aXJyZWwgc3F1aXJyZWwgc3F1aXJyZWwgc3F1aXI=");
        for (name, text) in [
            ("kafka.password", "squirrel"),
            ("gateways.keys", &key),
            ("seal.key", "squirrel"),
            ("prices.json", include_str!("../../rules/prices.json")),
            ("hook.url", "https://hooks.example.com/squirrel"),
            ("hook.secret", "squirrel-squirrel-squirrel"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("write");
            let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, own).expect("chmod");
        }
        let mut env = no_env();
        env.insert("VEILWATCH_SINK_PAGER_SECRET".into(), "squirrel".into());
        let (config, shown) = parse(FULL, dir.path(), &env);
        assert!(!shown.contains("squirrel"), "{shown}");
        assert!(!format!("{config:?}").contains("squirrel"), "{config:?}");
        assert!(
            shown.contains("# secret: from VEILWATCH_SINK_PAGER_SECRET"),
            "{shown}"
        );
        assert!(
            shown
                .contains("url = \"postgres://veil@db.example.com:5432/veil?sslmode=verify-full\""),
            "{shown}"
        );
        // What stood in the file itself comes back by the environment; the rest is as it was.
        let url = |of: Option<&Secret>| of.expect("url").reveal().to_owned();
        env.insert(
            "VEILWATCH_SINK_CHAT_URL".into(),
            url(config.sinks[1].url.as_ref()),
        );
        env.insert("VEILWATCH_STORE_URL".into(), url(Some(&config.store.url)));
        let (again, _) = parse(&shown, Path::new("/nowhere"), &env);
        same(&config, &again);
    }
}
