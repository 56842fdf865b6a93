//! What `doctor` asks the brokers: do the topics exist, how are they set up, do they answer.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use super::watch::{TopicError, check_topics};
use super::{IngestConfig, TopicConfig};

/// How long a broker may take to say how a topic is set up.
const ANSWER: Duration = Duration::from_secs(5);

/// A topic that exists and may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicReport {
    /// Partitions.
    pub partitions: usize,
    /// Whether records carry the broker's time. None: it does not say.
    pub log_append: Option<bool>,
    /// Whether old records of a key are removed. None: it does not say.
    pub compacted: Option<bool>,
    /// How long records are kept, milliseconds; -1 for ever. None: it does not say.
    pub retention_ms: Option<i64>,
}

/// Looks at one topic. Waits up to fifteen seconds for a first answer of the brokers.
///
/// # Errors
/// No broker answers, it refuses us, or the topic does not exist.
pub async fn topic(config: &IngestConfig, topic: &TopicConfig) -> Result<TopicReport, TopicError> {
    let mut one = config.clone();
    one.topics = vec![topic.clone()];
    let asked = tokio::task::spawn_blocking(move || check_topics(&one)).await;
    let found = match asked {
        Ok(found) => found?,
        // It never panics by intention; the words are for the log.
        Err(e) => {
            return Err(TopicError::Unreachable {
                brokers: config.brokers.clone(),
                said: e.to_string(),
            });
        }
    };
    let settings = settings(config, &topic.name).await;
    let setting = |key: &str| {
        let of = settings.iter().find(|(k, _)| k == key);
        of.map(|(_, value)| value.as_str())
    };
    Ok(TopicReport {
        partitions: found.first().map_or(0, |(_, n)| *n),
        log_append: setting("message.timestamp.type").map(|t| t == "LogAppendTime"),
        compacted: setting("cleanup.policy").map(|p| p.contains("compact")),
        retention_ms: setting("retention.ms").and_then(|ms| ms.parse().ok()),
    })
}

/// A topic's settings. Empty where the broker does not say or does not let us ask.
async fn settings(config: &IngestConfig, topic: &str) -> Vec<(String, String)> {
    let admin: Result<AdminClient<DefaultClientContext>, _> = config.client().create();
    let Ok(admin) = admin else { return Vec::new() };
    let options = AdminOptions::new().request_timeout(Some(ANSWER));
    let wanted = [ResourceSpecifier::Topic(topic)];
    let asked = tokio::time::timeout(2 * ANSWER, admin.describe_configs(&wanted, &options)).await;
    let answers = asked.ok().and_then(Result::ok).unwrap_or_default();
    let entries = answers
        .into_iter()
        .filter_map(Result::ok)
        .flat_map(|r| r.entries);
    let settings = entries.filter_map(|e| Some((e.name, e.value?))).collect();
    // Closing a client may wait for its thread, and nothing depends on it.
    std::thread::spawn(move || drop(admin));
    settings
}
