//! What the Kafka client says by itself, for the group of `run` and that of the seal job alike: its log, its
//! errors, and whether any broker answers.

use std::sync::atomic::AtomicBool;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use super::ask::note_oversize;
use super::errors::{Class, classify};
use crate::telemetry::{Health, metrics};

/// A line of its log. Only its words tell of a response that is too large.
pub(super) fn log(oversize: &AtomicBool, level: RDKafkaLogLevel, fac: &str, message: &str) {
    note_oversize(oversize, message);
    match level {
        RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
            tracing::debug!(fac, message, "librdkafka");
        }
        _ => tracing::warn!(fac, message, "librdkafka"),
    }
}

/// An error: counted, told, and handed to `fail` where the process cannot go on.
pub(super) fn error(
    oversize: &AtomicBool,
    error: &KafkaError,
    reason: &str,
    fail: impl FnOnce(String),
) {
    note_oversize(oversize, reason);
    let class = classify(error);
    metrics().kafka_errors.inc(&[class.as_str()]);
    match class {
        Class::Exit => fail(format!("kafka: {error}: {reason}")),
        Class::Ignore => {}
        Class::Halt | Class::Retry => tracing::warn!(%error, reason, "kafka client"),
    }
}

/// After a round of questions about so many partitions: whether a broker answers, which is returned.
pub(super) fn answered(health: &Health, answers: usize, partitions: usize) -> bool {
    let answering = answers > 0 || partitions == 0;
    metrics().kafka_up.set(&[], f64::from(u8::from(answering)));
    if partitions > 0 {
        let detail = if answering {
            format!("{partitions} partitions")
        } else {
            "no broker answers".to_owned()
        };
        health.set("kafka", answering, detail);
    }
    answering
}
