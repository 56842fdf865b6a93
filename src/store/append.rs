//! The rows that a batch only adds, and the state it replaces: one statement a table.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::batch::{Link, PartitionBatch};
use super::chaos::{self, Point};
use super::claim::checksum;
use super::{StoreError, big, clean, day, stamp};
use crate::decode;
use crate::detect::UserRow;
use crate::event::{Pseudonym, SmolStr, Time, TopicPartition};

/// Rows that are only added: counters of the hour, dead letters, gaps, audit, events, minute parts. Gives
/// the dead letters whose place had one already.
pub(super) async fn append(
    conn: &mut PgConnection,
    live: &[&PartitionBatch],
    links: &[Link],
) -> Result<u64, StoreError> {
    let topics: Vec<&str> = live.iter().map(|b| b.tp.topic.as_str()).collect();
    let parts: Vec<i32> = live.iter().map(|b| b.tp.partition).collect();
    let per = |f: fn(&PartitionBatch) -> u64| live.iter().map(|b| big(f(b))).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO vw.stream_hour AS h (topic, part, hour, records, events, duplicates, late, clamped, dead)
         SELECT u.topic, u.part, date_trunc('hour', u.at), u.records, u.events, u.dup, u.late, u.clamped, u.dead
           FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[],
                       $7::bigint[], $8::bigint[], $9::bigint[])
             AS u (topic, part, at, records, events, dup, late, clamped, dead)
          ORDER BY u.topic COLLATE \"C\", u.part
         ON CONFLICT (topic, part, hour) DO UPDATE SET
           records = h.records + excluded.records, events = h.events + excluded.events,
           duplicates = h.duplicates + excluded.duplicates, late = h.late + excluded.late,
           clamped = h.clamped + excluded.clamped, dead = h.dead + excluded.dead",
    )
    .bind(&topics)
    .bind(&parts)
    .bind(links.iter().map(|l| stamp(l.watermark)).collect::<Vec<_>>())
    .bind(per(|b| u64::from(b.records)))
    .bind(per(|b| b.effects.counters.events))
    .bind(per(|b| b.effects.counters.duplicates))
    .bind(per(|b| b.effects.counters.late))
    .bind(per(|b| b.effects.counters.clamped))
    .bind(per(|b| b.dead_letters.len() as u64))
    .execute(&mut *conn)
    .await
    .map_err(StoreError::statement("could not count a batch"))?;

    sqlx::query(
        "INSERT INTO vw.audit_batch (day, topic, part, lo, hi, n, claim_id, kid, prev, h, seal)
         SELECT * FROM unnest($1::date[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::int[], $7::uuid[],
                              $8::text[], $9::bytea[], $10::bytea[], $11::bytea[])",
    )
    .bind(links.iter().map(|l| day(l.watermark)).collect::<Vec<_>>())
    .bind(&topics)
    .bind(&parts)
    .bind(live.iter().map(|b| b.lo).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.hi).collect::<Vec<_>>())
    .bind(live.iter().map(|b| i32::try_from(b.records).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.claim_id).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.kid.as_str()).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.chain_prev.as_slice()).collect::<Vec<_>>())
    .bind(live.iter().map(|b| b.chain_head.as_slice()).collect::<Vec<_>>())
    .bind(links.iter().map(|l| l.seal.as_slice()).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await
    .map_err(StoreError::statement("could not write the audit chain"))?;

    let repeated = dead_letters(conn, live).await?;
    gaps(conn, live).await?;
    events(conn, live).await?;
    minute_parts(conn, live).await?;
    Ok(repeated)
}

/// Pairs each row of every batch with its batch.
fn rows<'a, T>(
    live: &'a [&'a PartitionBatch],
    of: impl Fn(&'a PartitionBatch) -> &'a [T],
) -> Vec<(&'a PartitionBatch, &'a T)> {
    live.iter()
        .flat_map(|b| of(b).iter().map(move |t| (*b, t)))
        .collect()
}

async fn dead_letters(
    conn: &mut PgConnection,
    live: &[&PartitionBatch],
) -> Result<u64, StoreError> {
    let rows = rows(live, |b| &b.dead_letters);
    if rows.is_empty() {
        return Ok(0);
    }
    chaos::reach(Point::MidDeadLetter);
    let done = sqlx::query(
        "INSERT INTO vw.dead_letter (day, topic, part, off, reason, path, byte_pos, bytes, gateway, at)
         SELECT * FROM unnest($1::date[], $2::text[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::bigint[],
                              $8::bigint[], $9::text[], $10::timestamptz[])
         ON CONFLICT DO NOTHING",
    )
    .bind(rows.iter().map(|(_, d)| day(d.append)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _)| b.tp.topic.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _)| b.tp.partition).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| d.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| d.reason.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| clean(&d.path)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| d.byte.map(big)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| big(d.bytes)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| d.gateway.as_ref().map(|g| clean(g))).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| stamp(d.append)).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not write dead letters"))?;
    Ok((rows.len() as u64).saturating_sub(done.rows_affected()))
}

async fn gaps(conn: &mut PgConnection, live: &[&PartitionBatch]) -> Result<(), StoreError> {
    let rows = rows(live, |b| &b.gaps);
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO vw.stream_gap (topic, part, lo, hi, reason)
         SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::text[])",
    )
    .bind(
        rows.iter()
            .map(|(b, _)| b.tp.topic.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(rows.iter().map(|(b, _)| b.tp.partition).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, g)| g.lo).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, g)| g.hi).collect::<Vec<_>>())
    .bind(
        rows.iter()
            .map(|(_, g)| g.reason.as_str())
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not write gaps"))?;
    Ok(())
}

pub(super) async fn events(
    conn: &mut PgConnection,
    live: &[&PartitionBatch],
) -> Result<(), StoreError> {
    let rows = rows(live, |b| &b.effects.flagged);
    if rows.is_empty() {
        return Ok(());
    }
    let name = |p: &Option<Pseudonym>| p.map(|p| p.to_string());
    sqlx::query(
        "INSERT INTO vw.event (day, topic, part, off, id, gateway, user_id, tenant, model, end_at, sealed)
         SELECT u.day, u.topic, u.part, u.off, u.id, u.gateway, u.user_id, u.tenant, u.model, u.end_at, u.sealed::jsonb
           FROM unnest($1::date[], $2::text[], $3::int[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
                       $9::text[], $10::timestamptz[], $11::text[])
             AS u (day, topic, part, off, id, gateway, user_id, tenant, model, end_at, sealed)
         ON CONFLICT DO NOTHING",
    )
    .bind(rows.iter().map(|(_, e)| day(e.position.append)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _)| b.tp.topic.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _)| b.tp.partition).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| e.position.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| e.event.id.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| e.event.gateway.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| name(&e.event.user)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| e.event.tenant.as_ref().map(SmolStr::as_str)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| e.event.model().as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| stamp(e.end)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, e)| decode::encode::to_json(&e.event)).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not store events"))?;
    Ok(())
}

async fn minute_parts(conn: &mut PgConnection, live: &[&PartitionBatch]) -> Result<(), StoreError> {
    let rows: Vec<_> = live
        .iter()
        .flat_map(|b| {
            b.effects
                .minute_parts
                .iter()
                .map(move |(k, blob)| (*b, k, blob))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO vw.minute_part (day, minute, topic, part, lo, late, claim_id, blob)
         SELECT * FROM unnest($1::date[], $2::bigint[], $3::text[], $4::int[], $5::bigint[], $6::bool[], $7::uuid[], $8::bytea[])",
    )
    .bind(rows.iter().map(|(_, k, _)| day(Time::from_minute(k.0))).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, k, _)| k.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _, _)| b.tp.topic.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _, _)| b.tp.partition).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _, _)| b.lo).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, k, _)| k.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|(b, _, _)| b.claim_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, _, blob)| blob.as_slice()).collect::<Vec<_>>())
    .execute(conn)
    .await
    .map_err(StoreError::statement("could not write minute parts"))?;
    Ok(())
}

/// Users' state, checkpoints, aliases.
pub(super) async fn state(
    conn: &mut PgConnection,
    live: &[&PartitionBatch],
) -> Result<(), StoreError> {
    // A user evicted twice in one batch stands there twice; the newest state counts, and one statement
    // cannot update a row twice.
    let mut newest: BTreeMap<(Pseudonym, &TopicPartition), (&PartitionBatch, &UserRow)> =
        BTreeMap::new();
    for (b, u) in rows(live, |b| &b.effects.user_rows) {
        let kept = newest.entry((u.user, &b.tp)).or_insert((b, u));
        if u.as_of >= kept.1.as_of {
            *kept = (b, u);
        }
    }
    let users: Vec<_> = newest.into_values().collect();
    if !users.is_empty() {
        sqlx::query(
            "INSERT INTO vw.user_state AS s (user_id, topic, part, as_of, at_ms, state)
             SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bytea[])
                        AS u (user_id, topic, part, as_of, at_ms, state)
              ORDER BY u.user_id COLLATE \"C\", u.topic COLLATE \"C\", u.part
             ON CONFLICT (user_id, topic, part) DO UPDATE
               SET as_of = excluded.as_of, at_ms = excluded.at_ms, state = excluded.state
             WHERE excluded.as_of >= s.as_of
                OR s.as_of > (SELECT p.next_offset FROM vw.stream_partition p
                               WHERE p.topic = s.topic AND p.part = s.part)",
        )
        .bind(users.iter().map(|(_, u)| u.user.to_string()).collect::<Vec<_>>())
        .bind(users.iter().map(|(b, _)| b.tp.topic.as_str()).collect::<Vec<_>>())
        .bind(users.iter().map(|(b, _)| b.tp.partition).collect::<Vec<_>>())
        .bind(users.iter().map(|(_, u)| u.as_of).collect::<Vec<_>>())
        .bind(users.iter().map(|(b, _)| b.watermark.0).collect::<Vec<_>>())
        .bind(users.iter().map(|(_, u)| &*u.state).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await
        .map_err(StoreError::statement("could not write users' state"))?;
    }
    let checkpoints: Vec<_> = live
        .iter()
        .filter_map(|b| b.checkpoint.as_ref().map(|c| (*b, c)))
        .collect();
    if !checkpoints.is_empty() {
        chaos::reach(Point::MidCheckpoint);
        sqlx::query(
            "INSERT INTO vw.detector_checkpoint (topic, part, as_of, fmt, crc, state)
             SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::int[], $5::int[], $6::bytea[])
             ON CONFLICT (topic, part) DO UPDATE
               SET as_of = excluded.as_of, fmt = excluded.fmt, crc = excluded.crc, state = excluded.state, at = now()",
        )
        .bind(checkpoints.iter().map(|(b, _)| b.tp.topic.as_str()).collect::<Vec<_>>())
        .bind(checkpoints.iter().map(|(b, _)| b.tp.partition).collect::<Vec<_>>())
        .bind(checkpoints.iter().map(|(_, c)| c.as_of).collect::<Vec<_>>())
        .bind(checkpoints.iter().map(|(_, c)| c.fmt).collect::<Vec<_>>())
        .bind(checkpoints.iter().map(|(_, c)| checksum(&c.bytes)).collect::<Vec<_>>())
        .bind(checkpoints.iter().map(|(_, c)| c.bytes.as_slice()).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await
        .map_err(StoreError::statement("could not write checkpoints"))?;
    }
    let mut aliases: Vec<(String, String)> = rows(live, |b| &b.effects.aliases)
        .iter()
        .map(|(_, (new, old))| (new.to_string(), old.to_string()))
        .collect();
    aliases.sort();
    aliases.dedup();
    if !aliases.is_empty() {
        sqlx::query(
            "INSERT INTO vw.alias (new_id, old_id)
             SELECT u.new_id, u.old_id FROM unnest($1::text[], $2::text[]) AS u (new_id, old_id)
              ORDER BY u.new_id COLLATE \"C\"
             ON CONFLICT (new_id) DO UPDATE SET at = now() WHERE alias.at < now() - interval '1 day'",
        )
        .bind(aliases.iter().map(|a| a.0.as_str()).collect::<Vec<_>>())
        .bind(aliases.iter().map(|a| a.1.as_str()).collect::<Vec<_>>())
        .execute(conn)
        .await
        .map_err(StoreError::statement("could not write aliases"))?;
    }
    Ok(())
}
