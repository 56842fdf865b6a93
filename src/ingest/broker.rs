//! An embedded Kafka broker for demos and tests: librdkafka's mock cluster.
//!
//! It has consumer groups, commits and retention (the oldest batches go beyond 5 MiB a partition),
//! but no authentication and no admin requests, and it lives only as long as its process: run it
//! as one of its own (`veilwatch broker`), so that consumers can be killed and restarted around it.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// A running embedded broker. It ends when dropped.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

/// Why the embedded broker did not start.
#[derive(Debug, thiserror::Error)]
#[error("the embedded broker did not start: {0}")]
pub struct BrokerError(#[from] rdkafka::error::KafkaError);

impl EmbeddedBroker {
    /// Starts one broker on a free loopback port, with these topics and partition counts.
    ///
    /// # Errors
    /// No port or thread could be had, or a topic name is not one.
    pub fn start(topics: &[(String, i32)]) -> Result<Self, BrokerError> {
        let cluster = MockCluster::new(1)?;
        for (name, partitions) in topics {
            cluster.create_topic(name, *partitions, 1)?;
        }
        Ok(Self { cluster })
    }

    /// `host:port` of the broker.
    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// It exists, or the name is not one.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), BrokerError> {
        Ok(self.cluster.create_topic(name, partitions, 1)?)
    }

    /// Takes the broker down: connections drop and none is accepted.
    ///
    /// # Errors
    /// The broker is gone.
    pub fn down(&self) -> Result<(), BrokerError> {
        Ok(self.cluster.broker_down(1)?)
    }

    /// Takes it up again, with everything that it kept.
    ///
    /// # Errors
    /// The broker is gone.
    pub fn up(&self) -> Result<(), BrokerError> {
        Ok(self.cluster.broker_up(1)?)
    }
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmbeddedBroker({})", self.address())
    }
}
