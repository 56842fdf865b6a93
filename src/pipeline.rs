//! Joins the stages: one batch from Kafka to a committed transaction.
