//! Kafka: the consumer, the publisher and the embedded broker. The only user of rdkafka.

pub mod broker;
