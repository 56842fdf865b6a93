//! The example configuration: every key with its default, which `config init` prints.

/// A whole configuration to start from. A test checks that it is right.
pub const EXAMPLE: &str = r#"# Veilwatch. Secrets: in files (`*_file`) or in the environment (`VEILWATCH_*`), not here.

[ingest]
brokers = ["127.0.0.1:9092"]         # a list, or "a:9092,b:9092"
group = "veilwatch"                  # replicas of one monitor share it
topics = [{ name = "llm.events.v1", mode = "sealed" }]   # "trusted": text is sealed on the way in; needs [seal]
security = "plaintext"               # plaintext (loopback only, or allow_plaintext) | ssl | sasl_plaintext | sasl_ssl
# allow_plaintext = false
# username = "veilwatch"
# password_file = "kafka.password"   # or VEILWATCH_INGEST_PASSWORD
# mechanism = "SCRAM-SHA-512"
# ca_file = "ca.pem"
# cert_file = "client.pem"
# key_file = "client.key"
assignment = "range"                 # or "cooperative-sticky", the same in all replicas
session_timeout = "30s"              # a killed replica is replaced after this
heartbeat_interval = "3s"
max_poll_interval = "2m"
buffer_mb = 16                       # records held between Kafka and Postgres
batch_records = 4000
batch_age = "100ms"
progress_timeout = "30s"             # a partition without progress is claimed anew
# accept_truncation = false          # go on after a topic was cut (behind its new end) or made anew (from its beginning)
# gateway_keys_file = "gateways.keys" # `KID GATEWAY BASE64` a line, * for any gateway: header vw-sig is checked against them
# require_signature = false          # true: records without a valid vw-sig become dead letters

[store]
url = "postgres://veilwatch@127.0.0.1/veilwatch"      # or url_file, or VEILWATCH_STORE_URL
# allow_plaintext = false            # a Postgres on the network needs ?sslmode=verify-full
max_connections = 12
events = "flagged"                   # or "sample:1/100", "all"
migrate = true                       # false: `veilwatch db migrate` is run by hand
[store.retention]
events_days = 30
findings_days = 400
minutes_days = 3

[http]
listen = "127.0.0.1:8686"            # /livez /readyz /metrics

# [seal]
# key_file = "seal.key"              # for trusted topics only: `veilwatch key new`

[rules]                              # read again when they change, and on SIGHUP
# dir = "rules"                      # replaces the compiled-in rules
# overrides = ["overrides.yml"]      # tunes rules by id
# prices = "prices.json"             # replaces the shipped table; default: prices.json in dir, if it is there

[detect]
hold = "2m"                          # how long a partition that is behind holds a minute, or "unlimited"
# audit_grace_minutes = 2            # wait for late evidence before a hole in a sequence is judged
# allowed_tools = ["search"]
# allowed_models = ["gpt-4o-mini"]
# campaign_senders = 3               # senders of one attack within an hour that make a campaign; ten page
# off = ["drift"]                    # the same as stages = { drift = "shadow" }
# stages = { drift = "shadow", campaign = "ticket" }  # the furthest a detector may go: shadow, ticket, page

[pipeline]
# workers = 1                        # threads that decode and detect; default: half of the cores
checkpoint_records = 250000
checkpoint_every = "30s"
shutdown = "10s"

[[deliver.sink]]
name = "log"
kind = "stdout"

# [[deliver.sink]]
# name = "oncall"
# kind = "webhook"
# url = "https://hooks.example.com/veilwatch"
# secret_file = "webhook.secret"     # or VEILWATCH_SINK_ONCALL_SECRET
# allow_private = false              # true for a receiver on a private network

# [[deliver.sink]]
# name = "mail"
# kind = "email"
# smtp = "mail.example.com:587"
# from = "veilwatch@example.com"
# to = ["oncall@example.com"]
# username = "veilwatch"
# secret_file = "smtp.password"
# ca_file = "mail-ca.pem"
# per_minute = 60                    # of any sink: more wait their turn
# concurrency = 4                    # of any sink: messages under way at once; 1 for Slack

# [[deliver.sink]]
# name = "pager"
# kind = "pagerduty"                 # Events v2
# secret_file = "routing.key"        # the integration's routing key

# [[deliver.sink]]
# name = "channel"
# kind = "slack"                     # an incoming webhook; its address is a secret
# url_file = "slack.url"             # or VEILWATCH_SINK_CHANNEL_URL

# [[deliver.sink]]
# name = "alerts"
# kind = "alertmanager"              # v2
# url = "https://alertmanager.example.com"

[[deliver.route]]
match = { stage = "page" }
sinks = ["log"]
group_by = ["detector", "tenant"]
# group_wait = "30s"                 # default: 0 for critical incidents, 30 s for others
group_interval = "5m"
repeat_interval = "4h"
min_severity = "low"
# min_stage = "ticket"               # or "page"
continue = false
# escalate_after = "15m"             # a page that nobody acknowledged for so long …
# escalate_to = ["mail"]             # … is told to these too, and how it goes on

[[deliver.route]]
sinks = ["log"]

# [[deliver.inhibit]]                # while a source is open, targets that agree with it in `equal` are not told
# source = { detector = "errors" }
# target = { detector = "latency" }
# equal = ["model"]

# [deliver]
# storm_limit = 20                   # notifications per sink, severity and window (critical ones: per gateway and rule too); more become a digest
# storm_window = "5m"
# runbooks = "https://wiki.example.com/veilwatch/"    # DETECTOR.md is appended

[[budget]]
scope = "tenant"                     # user key team tenant model everyone
subject = "*"                        # one of them, or * for each
period = "month"                     # hour day week month total
usd = 1000.00                        # or tokens = 1_000_000
thresholds = [50, 80, 100]
# zone = "Europe/Berlin"

[telemetry]
log = "info"
format = "auto"                      # json in a pipe, pretty on a terminal
# otlp_endpoint = "http://127.0.0.1:4317"
# otlp_interval = "10s"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key that a section is asked for, as the sources ask: `s.str("name")`.
    #[test]
    fn every_key_that_is_read_is_explained() {
        let sources = [
            include_str!("budgets.rs"),
            include_str!("delivery.rs"),
            include_str!("routing.rs"),
            include_str!("sections.rs"),
        ];
        let asked = regex::Regex::new(
            r#"\.(?:str|word|bool|integers?|decimal|duration|strings|string_table|paths?|file|key_file|secret|sections?)\(\s*"([a-z_]+)""#,
        )
        .expect("a pattern");
        let keys: std::collections::BTreeSet<&str> = sources
            .iter()
            .flat_map(|s| asked.captures_iter(s))
            .filter_map(|c| c.get(1).map(|m| m.as_str()))
            .collect();
        assert!(keys.len() > 60, "the pattern finds them: {keys:?}");
        let missing: Vec<&&str> = keys
            .iter()
            .filter(|k| {
                let written = regex::Regex::new(&format!(r"\b{k}(_file)?\b")).expect("a pattern");
                !written.is_match(EXAMPLE)
            })
            .collect();
        assert!(missing.is_empty(), "not in `config init`: {missing:?}");
    }
}
