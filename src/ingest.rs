//! Kafka: the consumer, the publisher and the embedded broker. The only user of rdkafka.

pub mod broker;
pub mod settings;

pub use settings::{Assignment, IngestConfig, Protocol, Security, TopicConfig, TopicMode};
