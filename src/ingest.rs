//! Reads Kafka in batches, in order per partition (the only owner of rdkafka besides `publish`).
