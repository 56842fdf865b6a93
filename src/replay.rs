//! Runs the whole pipeline over a file in virtual time, with memory instead of Kafka and Postgres.
