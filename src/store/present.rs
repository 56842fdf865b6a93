//! Which partitions count when minutes close and incidents resolve: those that the configured topics
//! have now.
//!
//! A row in `stream_partition` outlives its partition: a topic is renamed, or made anew with fewer
//! partitions. Its watermark would stand still for ever and hold every minute open.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use sqlx::{PgConnection, Row as _};

use super::{Store, StoreError};
use crate::event::{SmolStr, Time, TopicPartition};

/// Partitions by topic, as Kafka said last.
pub(super) type Present = BTreeMap<SmolStr, i32>;

/// How far a partition is.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) tp: TopicPartition,
    pub(super) watermark: Time,
    /// It waits for an operator.
    pub(super) halted: bool,
}

impl Store {
    /// Kafka says how many partitions a topic has. Those beyond no longer hold minutes open.
    pub fn partitions_are(&self, topic: &str, n: usize) {
        let mut present = self
            .inner
            .present
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        present.insert(SmolStr::new(topic), i32::try_from(n).unwrap_or(i32::MAX));
    }

    /// How far every partition that counts is. One that is applied still counts whoever configured
    /// it: another group on this database, or a partition added a moment ago.
    pub(super) async fn watermarks(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Vec<Mark>, StoreError> {
        let (topics, counts): (Vec<String>, Vec<i32>) = {
            let present = self
                .inner
                .present
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let of = |t: &SmolStr| present.get(t).copied().unwrap_or(i32::MAX);
            let all = self.config().topics.iter();
            all.map(|t| (t.to_string(), of(t))).unzip()
        };
        let rows = sqlx::query(
            "SELECT p.topic, p.part, p.watermark, p.halted IS NOT NULL FROM vw.stream_partition p
              WHERE cardinality($1::text[]) = 0
                 OR p.applied_at > clock_timestamp() - interval '2 minutes'
                 OR EXISTS (SELECT 1 FROM unnest($1::text[], $2::int[]) AS u (topic, n)
                             WHERE u.topic = p.topic AND p.part < u.n)
              ORDER BY p.topic, p.part",
        )
        .bind(topics)
        .bind(counts)
        .fetch_all(conn)
        .await
        .map_err(StoreError::statement("could not read the watermarks"))?;
        Ok(rows
            .iter()
            .map(|r| Mark {
                tp: TopicPartition {
                    topic: SmolStr::new(r.get::<&str, _>(0)),
                    partition: r.get(1),
                },
                watermark: Time(r.get(2)),
                halted: r.get(3),
            })
            .collect())
    }
}
