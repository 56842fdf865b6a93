//! Every metric of the program, in one table.
//!
//! Name, kind, labels, one line of help. Nothing else in the program names a metric; a test checks
//! the names' form. Durations are in seconds, sizes in bytes.

use std::fmt::Write as _;
use std::sync::OnceLock;

use super::series::{Counter, Desc, Expose, Gauge, Histogram};

macro_rules! table {
    ($($field:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        /// The metrics, each a field.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $kind,)+
        }

        impl Metrics {
            fn new() -> Self {
                Self {
                    $($field: $kind::new(Desc { name: $name, labels: &[$($label),*], help: $help }),)+
                }
            }
            fn all(&self) -> Vec<&dyn Expose> {
                vec![$(&self.$field),+]
            }
        }

        /// Names of all metrics, in the order of the table.
        pub const NAMES: &[&str] = &[$($name),+];
        #[cfg(test)]
        const FIELDS: &[&str] = &[$(stringify!($field)),+];
    };
}

table! {
    records: Counter "veilwatch_records_total" ["topic"] "records taken from Kafka and applied";
    record_bytes: Counter "veilwatch_record_bytes_total" ["topic"] "bytes of keys and values of applied records";
    events: Counter "veilwatch_events_total" ["topic"] "events decoded and observed";
    duplicates: Counter "veilwatch_duplicates_total" ["topic"] "events dropped as duplicates by sequence or id";
    conflicts: Counter "veilwatch_conflicting_events_total" ["topic"] "events whose place in a sequence another event has; both count";
    late: Counter "veilwatch_late_events_total" ["topic"] "events appended more than 10 s after their minute's end";
    clamped: Counter "veilwatch_clamped_times_total" ["topic"] "events whose end time was clamped to the append time's surroundings";
    learning_copies: Counter "veilwatch_learning_copies_total" ["topic"] "users seen on a partition other than their newest: the topic is not keyed by user";
    dead_letters: Counter "veilwatch_dead_letters_total" ["topic", "reason"] "records that could not be decoded";
    gaps: Counter "veilwatch_gap_records_total" ["topic", "reason"] "offsets lost before they could be read";
    findings: Counter "veilwatch_findings_total" ["fate"] "findings by fate: new, folded, shadow, excepted";
    incidents: Counter "veilwatch_incident_changes_total" [] "incident changes written";
    crossings: Counter "veilwatch_budget_crossings_total" ["scope"] "budget thresholds crossed, by usage, by a limit that changed or by a raise that lapsed";
    replayed: Counter "veilwatch_replayed_records_total" ["topic"] "records replayed from a checkpoint with effects suppressed";
    panics: Counter "veilwatch_detector_panics_total" ["topic"] "records that made a detector panic; each became a dead letter";

    batches: Counter "veilwatch_batches_total" ["outcome"] "batch transactions by outcome: committed, fenced, retried, failed";
    commit_seconds: Histogram "veilwatch_commit_seconds" [] "duration of a batch transaction";
    batch_age_seconds: Histogram "veilwatch_append_to_commit_seconds" [] "from the append of a batch's newest record to its commit";
    claims: Counter "veilwatch_claims_total" ["outcome"] "partition claims by outcome: claimed, retried, failed";
    lag: Gauge "veilwatch_partition_lag_records" ["topic", "partition"] "high watermark minus the next offset in Postgres";
    halted: Gauge "veilwatch_partition_halted" ["topic", "partition", "reason"] "1 while a partition is halted and needs an operator";
    paused: Gauge "veilwatch_partitions_paused" [] "partitions paused for back-pressure";
    buffered_bytes: Gauge "veilwatch_buffered_bytes" [] "bytes of records held between Kafka and Postgres";
    assigned: Gauge "veilwatch_partitions_assigned" [] "partitions this process owns";
    rebalances: Counter "veilwatch_rebalances_total" ["kind"] "rebalance callbacks by kind: assign, revoke, lost";
    kafka_errors: Counter "veilwatch_kafka_errors_total" ["class"] "errors of the Kafka client by class: exit, halt, retry, ignore";
    kafka_up: Gauge "veilwatch_kafka_up" [] "1 while a broker answers";
    postgres_up: Gauge "veilwatch_postgres_up" [] "1 while Postgres answers";
    watchdog: Counter "veilwatch_watchdog_reclaims_total" ["topic"] "partitions claimed anew because they made no progress";
    hint_commit_errors: Counter "veilwatch_hint_commit_errors_total" [] "Kafka offset commits (hints for lag tools) that failed";

    rule_reloads: Counter "veilwatch_rule_reloads_total" ["outcome"] "rule sets read while running by outcome: taken, refused";

    checkpoints: Counter "veilwatch_checkpoints_total" [] "partition checkpoints written";
    user_rows: Counter "veilwatch_user_rows_total" ["direction"] "per-user state rows loaded and written";

    leader: Gauge "veilwatch_leader" [] "1 in the process that merges closed minutes";
    notifier_failures: Counter "veilwatch_notifier_failures_total" [] "ticks of the notifier that failed and were tried again";
    notifier: Gauge "veilwatch_notifier" [] "1 in the process that writes the outbox";
    leader_resets: Counter "veilwatch_leader_resets_total" [] "states of the leader that could not be read, so that its baselines learn anew";
    leader_failures: Counter "veilwatch_leader_failures_total" [] "ticks of the leader that failed and were tried again";
    merged_through: Gauge "veilwatch_merged_through_timestamp_seconds" [] "start of the newest merged minute; in the leader's process only, and standing still there while its merges fail";
    missing_events: Gauge "veilwatch_missing_events" ["gateway", "kind"] "events of a gateway that were missing, by what became of them: late, declared, restart, unexplained; the 256 gateways that miss most, and `other`; in the leader's process only";
    partial_merges: Counter "veilwatch_partial_merges_total" [] "minutes merged without a partition that was too far behind";
    store: Counter "veilwatch_store_total" ["what"] "what happened in Postgres: commits, retries, deadlocks, unknown commits, repeated findings, expired rows, dropped partitions";
    default_rows: Gauge "veilwatch_default_partition_rows" [] "rows without a partition of their day; 0 in a healthy database; in the leader's process only, once it has looked";
    house_failures: Counter "veilwatch_house_failures_total" ["task"] "parts of housekeeping that failed and are tried again: partitions, retention, expiry, budgets";
    outbox: Gauge "veilwatch_outbox_rows" ["sink", "state"] "notifications that wait, are being sent or are parked, by state";
    outbox_age: Gauge "veilwatch_outbox_oldest_seconds" ["sink"] "age of the oldest notification that waits";
    sends: Counter "veilwatch_sends_total" ["sink", "outcome"] "deliveries by outcome: sent, retried, parked, repeated, expired; missed: receivers of a sink that did not get one";
    send_seconds: Histogram "veilwatch_send_seconds" ["sink"] "duration of one send";
    fates: Counter "veilwatch_notification_fates_total" ["sink", "fate"] "fates of (incident change, sink) candidates";
    unreadable: Counter "veilwatch_unreadable_rows_total" ["what"] "rows the notifier could not read and left alone: change, incident, group, silence";

    published: Counter "veilwatch_published_total" ["outcome"] "events handed to the publisher that have ended: delivered, dropped";
    seal_records: Counter "veilwatch_seal_records_total" ["outcome"] "records of the seal job by outcome, counted with their transaction: published, duplicate, dead_letter";
    seal_in_flight: Gauge "veilwatch_seal_in_flight_records" [] "records in the seal job's open transaction";
    seal_transactions: Counter "veilwatch_seal_transactions_total" ["outcome"] "transactions of the seal job by outcome: committed, aborted";
    log_drops: Counter "veilwatch_dropped_total" ["what"] "anything else that was discarded, by what it was: evidence (unmerged minute part, unjudged value, minute part, minute part entry, sequence interval, part of a text, value, candidate of a value, unreadable row of a value, user state), names beyond a bound (campaign, spender, subject of its own, subject of a budget, name of an unknown model), what is left out on purpose (informational hit, echoed value, older pseudonym, dead letter at a known place)";
}

/// The one set of metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::new)
}

impl Metrics {
    /// The whole table in Prometheus' text format, with the process's own CPU and memory.
    pub fn exposition(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        for m in self.all() {
            m.expose(&mut out);
        }
        let p = super::health::process();
        let _ = write!(
            out,
            "# HELP process_cpu_seconds_total user and system CPU time\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {}\n\
             # HELP process_resident_memory_bytes resident memory\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}\n",
            p.cpu.as_secs_f64(),
            p.resident_bytes
        );
        out
    }

    /// Registers every metric with a meter.
    pub(super) fn attach(&'static self, meter: &opentelemetry::metrics::Meter) {
        for m in self.all_static() {
            m.attach(meter);
        }
        let _ = meter
            .f64_observable_counter("process_cpu_seconds_total")
            .with_unit("s")
            .with_description("user and system CPU time")
            .with_callback(|o| o.observe(super::health::process().cpu.as_secs_f64(), &[]))
            .build();
        let _ = meter
            .u64_observable_gauge("process_resident_memory_bytes")
            .with_unit("By")
            .with_description("resident memory")
            .with_callback(|o| o.observe(super::health::process().resident_bytes, &[]))
            .build();
    }

    fn all_static(&'static self) -> Vec<&'static dyn Expose> {
        self.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_moved_somewhere() {
        fn sources(dir: &std::path::Path, out: &mut String) {
            for entry in std::fs::read_dir(dir).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    sources(&path, out);
                } else if !path.ends_with("telemetry/metrics.rs") {
                    out.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
                }
            }
        }
        let mut all = String::new();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        sources(&root.join("src"), &mut all);
        let all: String = all.split_whitespace().collect();
        for field in FIELDS {
            let used = ["metrics().", "m."].iter().any(|by| {
                let moved = format!("{by}{field}.");
                all.contains(&moved)
            });
            assert!(used, "{field} stands in the table and nothing moves it");
        }
    }

    #[test]
    fn names_say_their_unit() {
        for n in NAMES {
            assert!(n.starts_with("veilwatch_"), "{n}");
            assert!(
                n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{n}"
            );
        }
    }

    #[test]
    fn exposition_parses_line_by_line() {
        metrics().records.add(&["t"], 3);
        let text = metrics().exposition();
        for line in text.lines() {
            assert!(
                line.starts_with('#')
                    || line
                        .rsplit_once(' ')
                        .is_some_and(|(_, v)| v.parse::<f64>().is_ok()),
                "{line}"
            );
        }
        assert!(text.contains("veilwatch_records_total{topic=\"t\"}"));
    }
}
