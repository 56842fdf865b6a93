//! Merging closed minutes: what is read, the work on it without a transaction, and what is marked after.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, Row as _};

use super::{Held, Mark};
use crate::detect::{Finding, Part};
use crate::event::{SmolStr, TopicPartition};
use crate::store::{StoreError, Uuid};

/// How long minutes are merged before they are written: the lease must still be ours then.
const MERGE_FOR: Duration = Duration::from_secs(4);

/// Closed minutes with everything that merging them needs.
pub(super) struct Work {
    pub(super) minutes: Vec<i64>,
    pub(super) marks: Vec<Mark>,
    pub(super) parts: Vec<StoredPart>,
    pub(super) partial_after: Duration,
}

/// A part and its row.
pub(super) struct StoredPart {
    pub(super) minute: i64,
    late: bool,
    lo: i64,
    day: chrono::NaiveDate,
    claim_id: Uuid,
    part: Part,
}

/// What merging gave.
pub(super) struct Merged {
    pub(super) minutes: Vec<MergedMinute>,
    /// Those that were used.
    pub(super) parts: Vec<StoredPart>,
    /// Damaged parts and forgotten campaigns.
    pub(super) discarded: (u64, u64),
    /// Sequences that had to be forgotten.
    pub(super) forgotten_sequences: u64,
    /// Minutes are left for the next time.
    pub(super) more: bool,
}

pub(super) struct MergedMinute {
    pub(super) minute: i64,
    pub(super) left_out: Vec<TopicPartition>,
    pub(super) findings: Vec<Finding>,
}

impl Work {
    /// Merges minute by minute, in order.
    pub(super) fn merge(self, mut held: Held) -> (Held, Merged) {
        let begun = Instant::now();
        let before = held.leader.discarded();
        let sequences = held.leader.audit().forgotten;
        let mut merged = Merged {
            minutes: Vec::new(),
            parts: Vec::new(),
            discarded: (0, 0),
            forgotten_sequences: 0,
            more: false,
        };
        let mut rest = self.parts;
        for minute in self.minutes {
            if !merged.minutes.is_empty() && begun.elapsed() >= MERGE_FOR {
                merged.more = true;
                break;
            }
            let marks: Vec<&Mark> = self.marks.iter().filter(|m| m.minute() < minute).collect();
            // Late and left-out parts of earlier minutes come with the first call.
            let (now, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(|p| p.minute <= minute);
            rest = later;
            let mut findings = held.note_left_out(minute, &marks, self.partial_after);
            let parts: Vec<Part> = now.iter().map(|p| p.part.clone()).collect();
            findings.extend(held.leader.merge_minute(minute, &parts, !marks.is_empty()));
            merged.minutes.push(MergedMinute {
                minute,
                left_out: marks.iter().map(|m| m.tp.clone()).collect(),
                findings,
            });
            merged.parts.extend(now);
        }
        let after = held.leader.discarded();
        merged.discarded = (after.0 - before.0, after.1 - before.1);
        merged.forgotten_sequences = held.leader.audit().forgotten.saturating_sub(sequences);
        (held, merged)
    }
}

/// Reads the parts through a minute; parts of a partition that has not passed their minute stay for later.
pub(super) async fn read_parts(
    conn: &mut PgConnection,
    marks: &[Mark],
    through: i64,
) -> Result<Vec<StoredPart>, StoreError> {
    let rows = sqlx::query(
        "SELECT p.minute, p.topic, p.part, p.late, p.lo, p.blob, p.day, p.claim_id FROM vw.minute_part p
          WHERE NOT p.merged AND p.minute <= $1
            AND NOT EXISTS (SELECT 1 FROM unnest($2::text[], $3::int[], $4::bigint[]) AS u (topic, part, through)
                             WHERE u.topic = p.topic AND u.part = p.part AND u.through < p.minute)",
    )
    .bind(through)
    .bind(marks.iter().map(|m| m.tp.topic.as_str()).collect::<Vec<_>>())
    .bind(marks.iter().map(|m| m.tp.partition).collect::<Vec<_>>())
    .bind(marks.iter().map(Mark::minute).collect::<Vec<_>>())
    .fetch_all(conn)
    .await
    .map_err(StoreError::statement("could not read minute parts"))?;
    let mut parts: Vec<StoredPart> = rows
        .iter()
        .map(|r| StoredPart {
            minute: r.get(0),
            late: r.get(3),
            lo: r.get(4),
            day: r.get(6),
            claim_id: r.get(7),
            part: Part {
                from: TopicPartition {
                    topic: SmolStr::new(r.get::<&str, _>(1)),
                    partition: r.get(2),
                },
                bytes: r.get(5),
            },
        })
        .collect();
    // The order of rows is the plan's; merging must not depend on it.
    parts.sort_by(|a, b| {
        let other = (b.minute, b.late, &b.part.from, b.lo);
        (a.minute, a.late, &a.part.from, a.lo).cmp(&other)
    });
    Ok(parts)
}

/// Marks the parts that were merged, each once.
pub(super) async fn mark_merged(
    conn: &mut PgConnection,
    parts: &[StoredPart],
) -> Result<(), StoreError> {
    if parts.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(
        "UPDATE vw.minute_part p SET merged = true
           FROM unnest($1::date[], $2::bigint[], $3::text[], $4::int[], $5::bigint[], $6::bool[], $7::uuid[])
             AS u (day, minute, topic, part, lo, late, claim_id)
          WHERE p.day = u.day AND p.minute = u.minute AND p.topic = u.topic COLLATE \"C\" AND p.part = u.part
            AND p.lo = u.lo AND p.late = u.late AND p.claim_id = u.claim_id AND NOT p.merged",
    )
    .bind(parts.iter().map(|p| p.day).collect::<Vec<_>>())
    .bind(parts.iter().map(|p| p.minute).collect::<Vec<_>>())
    .bind(parts.iter().map(|p| p.part.from.topic.as_str()).collect::<Vec<_>>())
    .bind(parts.iter().map(|p| p.part.from.partition).collect::<Vec<_>>())
    .bind(parts.iter().map(|p| p.lo).collect::<Vec<_>>())
    .bind(parts.iter().map(|p| p.late).collect::<Vec<_>>())
    .bind(parts.iter().map(|p| p.claim_id).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not mark minute parts"))?;
    if done.rows_affected() == parts.len() as u64 {
        return Ok(());
    }
    // Only the leader changes them, and its lease is locked: the merge would not be what is stored.
    Err(StoreError::Refusal(
        "minute parts changed while they were merged: they are merged again".to_owned(),
    ))
}
