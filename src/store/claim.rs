//! Taking over a partition: from here on the previous owner's batches change nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{Store, StoreError, Uuid};
use crate::detect::{Checkpoint, Wanted};
use crate::event::{Pseudonym, SmolStr, Time, TopicPartition};

/// Domain of the genesis head of a chain, so that two partitions' heads differ from the start.
const GENESIS: &str = "veilwatch audit chain v1";

/// How far an idle watermark stays behind database time, milliseconds: what the clocks of brokers and
/// database may differ by.
const BEHIND_MS: i64 = 1_000;

/// What a new owner of a partition starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The fence: every batch carries it.
    pub claim_id: Uuid,
    /// How often the partition was claimed.
    pub epoch: i64,
    /// First offset that is not applied.
    pub next_offset: i64,
    /// Audit head after `next_offset - 1`.
    pub chain_head: [u8; 32],
    /// Append time of the last applied record.
    pub watermark: Time,
    /// Database time of the claim.
    pub now: Time,
    /// Timestamp of record `next_offset - 1`, 0 where none was applied.
    pub last_ts_ms: i64,
    /// Fingerprint of record `next_offset - 1`.
    pub last_crc: i32,
    /// Why the partition is halted, where it is.
    pub halted: Option<String>,
    /// Detector state to restore; then records up to `next_offset` are replayed without effects.
    pub checkpoint: Option<Checkpoint>,
    /// A checkpoint was there and its checksum is wrong: state is rebuilt by replaying.
    pub checkpoint_damaged: bool,
}

/// One user's stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUser {
    /// Whose.
    pub user: Pseudonym,
    /// Offset up to which it is applied, in the partition it was written for.
    pub as_of: i64,
    /// The state.
    pub state: Vec<u8>,
    /// It was written for another partition: a copy to go on learning from.
    pub copy: bool,
}

/// What is stored of the pseudonyms that a partition asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// (name, oldest known, when its use was last noted). Names that are missing here have no older one.
    pub names: Vec<(Pseudonym, Pseudonym, Time)>,
    /// Rows under the oldest names.
    pub users: Vec<StoredUser>,
}

/// The chain's head before the first record of a partition.
pub fn genesis(tp: &TopicPartition) -> [u8; 32] {
    let mut h = blake3::Hasher::new_derive_key(GENESIS);
    h.update(tp.topic.as_bytes());
    h.update(&tp.partition.to_le_bytes());
    *h.finalize().as_bytes()
}

/// Checksum of a checkpoint's bytes.
pub(crate) fn checksum(bytes: &[u8]) -> i32 {
    let hash = blake3::hash(bytes);
    let [a, b, c, d, ..] = *hash.as_bytes();
    i32::from_le_bytes([a, b, c, d])
}

impl Store {
    /// Takes a partition over. `earliest` is the first offset where nothing was ever applied. Waits
    /// for the old owner's open transaction: afterwards its last batch is either inside
    /// `next_offset` or can never commit.
    pub async fn claim(&self, tp: &TopicPartition, earliest: i64) -> Result<Claim, StoreError> {
        let (store, tp) = (self.clone(), tp.clone());
        self.unabortable(async move { store.claim_in(&tp, earliest).await })
            .await
    }

    async fn claim_in(&self, tp: &TopicPartition, earliest: i64) -> Result<Claim, StoreError> {
        let what = "could not claim a partition";
        let mut tx = self
            .pool()
            .begin()
            .await
            .map_err(StoreError::statement(what))?;
        // Claims are durable and may wait longer than a batch: the old owner's transaction is ended
        // by the server within its idle timeout.
        sqlx::query(
            "SELECT set_config('synchronous_commit', 'on', true), set_config('lock_timeout', '8s', true)",
        )
        .execute(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        let genesis = genesis(tp);
        let row = sqlx::query(
            "INSERT INTO vw.stream_partition AS s (topic, part, next_offset, claim_id, owner, chain, audit_seal)
             VALUES ($1, $2, $3, $4, $5, $6, $6)
             ON CONFLICT (topic, part) DO UPDATE
               SET claim_id = excluded.claim_id, epoch = s.epoch + 1, owner = excluded.owner, claimed_at = now()
             RETURNING claim_id, epoch, next_offset, chain, watermark, last_ts_ms, last_crc, halted,
                       (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(earliest)
        .bind(Uuid::new_v4())
        .bind(&self.config().owner)
        .bind(genesis.as_slice())
        .fetch_one(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        let checkpoint = sqlx::query(
            "SELECT as_of, fmt, crc, state FROM vw.detector_checkpoint WHERE topic = $1 AND part = $2",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .fetch_optional(&mut *tx)
        .await
        .map_err(StoreError::statement(what))?;
        tx.commit().await.map_err(StoreError::statement(what))?;
        let chain: Vec<u8> = row.get(3);
        let chain_head = chain.try_into().map_err(|c: Vec<u8>| StoreError::Corrupt {
            what: "the audit head",
            said: format!("{} bytes instead of 32", c.len()),
        })?;
        let next_offset: i64 = row.get(2);
        let mut checkpoint_damaged = false;
        let checkpoint = checkpoint.and_then(|c| {
            let (as_of, bytes): (i64, Vec<u8>) = (c.get(0), c.get(3));
            if c.get::<i32, _>(2) != checksum(&bytes) || as_of > next_offset {
                checkpoint_damaged = true;
                return None;
            }
            Some(Checkpoint {
                as_of,
                fmt: c.get(1),
                bytes,
            })
        });
        Ok(Claim {
            claim_id: row.get(0),
            epoch: row.get(1),
            next_offset,
            chain_head,
            watermark: Time(row.get(4)),
            now: Time(row.get(8)),
            last_ts_ms: row.get(5),
            last_crc: row.get(6),
            halted: row.get(7),
            checkpoint,
            checkpoint_damaged,
        })
    }

    /// What is stored of pseudonyms, for each partition: oldest names, and users' state: the partition's
    /// own row, else the newest of another partition. One query, however many partitions ask.
    pub async fn load_users(
        &self,
        wanted: &[(TopicPartition, Vec<(Pseudonym, Wanted)>)],
    ) -> Result<Vec<Loaded>, StoreError> {
        let what = "could not load users' state";
        let asked: BTreeSet<(Pseudonym, Wanted)> =
            wanted.iter().flat_map(|(_, w)| w).copied().collect();
        if asked.is_empty() {
            return Ok(vec![Loaded::default(); wanted.len()]);
        }
        let rows = sqlx::query(
            "SELECT w.id, w.kind, a.old_id, (extract(epoch FROM a.at) * 1000)::bigint,
                    s.topic, s.part, s.as_of, s.at_ms, s.state
               FROM unnest($1::text[], $2::smallint[]) AS w (id, kind)
               LEFT JOIN vw.alias a ON w.kind > 0 AND a.new_id = w.id COLLATE \"C\"
               LEFT JOIN vw.user_state s ON w.kind < 2 AND s.user_id = coalesce(a.old_id, w.id) COLLATE \"C\"",
        )
        .bind(asked.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>())
        .bind(
            asked
                .iter()
                .map(|(_, what)| match what {
                    Wanted::Row => 0_i16,
                    Wanted::NameAndRow => 1,
                    Wanted::Name => 2,
                })
                .collect::<Vec<_>>(),
        )
        .fetch_all(self.writers())
        .await
        .map_err(StoreError::statement(what))?;
        let name = |text: &str| {
            text.parse::<Pseudonym>().map_err(|e| StoreError::Corrupt {
                what: "a user's state",
                said: format!("{e}"),
            })
        };
        let mut names: HashMap<Pseudonym, (Pseudonym, Time)> = HashMap::new();
        let mut found: HashMap<Pseudonym, Vec<&PgRow>> = HashMap::with_capacity(rows.len());
        for r in &rows {
            let mut id = name(r.get(0))?;
            if let Some(old) = r.get::<Option<&str>, _>(2) {
                let old = name(old)?;
                names.insert(id, (old, Time(r.get(3))));
                id = old;
            }
            if r.get::<Option<&str>, _>(4).is_some() {
                found.entry(id).or_default().push(r);
            }
        }
        let stored = |tp: &TopicPartition, user: &Pseudonym| {
            let place = |r: &PgRow| (SmolStr::new(r.get::<&str, _>(4)), r.get::<i32, _>(5));
            let own = |r: &PgRow| {
                r.get::<&str, _>(4) == tp.topic.as_str() && r.get::<i32, _>(5) == tp.partition
            };
            let rows = found.get(user)?;
            let row = rows.iter().min_by(|a, b| {
                let newest = b.get::<i64, _>(7).cmp(&a.get::<i64, _>(7));
                let own = own(b).cmp(&own(a));
                own.then(newest).then_with(|| place(a).cmp(&place(b)))
            })?;
            Some(StoredUser {
                user: *user,
                as_of: row.get(6),
                state: row.get(8),
                copy: !own(row),
            })
        };
        Ok(wanted
            .iter()
            .map(|(tp, asked)| {
                let mut loaded = Loaded::default();
                let mut users = BTreeSet::new();
                for (id, what) in asked {
                    let known = (*what != Wanted::Row).then(|| names.get(id)).flatten();
                    if let Some((old, at)) = known {
                        loaded.names.push((*id, *old, *at));
                    }
                    let user = known.map_or(*id, |(old, _)| *old);
                    if *what != Wanted::Name && users.insert(user) {
                        loaded.users.extend(stored(tp, &user));
                    }
                }
                loaded
            })
            .collect())
    }

    /// The oldest known names of pseudonyms that have one, and when its use was last noted.
    pub async fn aliases(
        &self,
        names: &BTreeSet<Pseudonym>,
    ) -> Result<BTreeMap<Pseudonym, (Pseudonym, Time)>, StoreError> {
        let rows = sqlx::query(
            "SELECT new_id, old_id, (extract(epoch FROM at) * 1000)::bigint FROM vw.alias WHERE new_id = ANY ($1)",
        )
        .bind(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not load the aliases"))?;
        Ok(rows
            .iter()
            .filter_map(|r| {
                let oldest = r.get::<&str, _>(1).parse().ok()?;
                Some((r.get::<&str, _>(0).parse().ok()?, (oldest, Time(r.get(2)))))
            })
            .collect())
    }

    /// The owner of an idle partition that stood at its high watermark when Kafka was `asked` says so:
    /// the database time of that moment − 1 s, so that minutes close. What was appended while this waited
    /// for a connection or a lock is not passed. False: the partition has another owner, or moved.
    pub async fn idle_watermark(
        &self,
        tp: &TopicPartition,
        claim_id: Uuid,
        next_offset: i64,
        asked: Instant,
    ) -> Result<bool, StoreError> {
        let sql = StoreError::statement;
        let what = "could not advance an idle watermark";
        // The time is read at once, the row may be locked for long.
        let mut conn = self.pool().acquire().await.map_err(sql(what))?;
        let now: i64 =
            sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
                .fetch_one(&mut *conn)
                .await
                .map_err(sql(what))?;
        let elapsed = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
        let done = sqlx::query(
            "UPDATE vw.stream_partition
                SET watermark = greatest(watermark, $5),
                    applied_at = now()
              WHERE topic = $1 AND part = $2 AND claim_id = $3 AND next_offset = $4",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(claim_id)
        .bind(next_offset)
        .bind(now.saturating_sub(elapsed).saturating_sub(BEHIND_MS))
        .execute(&mut *conn)
        .await
        .map_err(sql(what))?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes whose timestamps a partition's records carry: producers' clocks make minutes less complete, and
    /// the view `completeness` says so.
    pub async fn note_timestamps(
        &self,
        tp: &TopicPartition,
        create_time: bool,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE vw.stream_partition SET create_time = $3
              WHERE topic = $1 AND part = $2 AND create_time IS DISTINCT FROM $3",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(create_time)
        .execute(self.pool())
        .await
        .map_err(StoreError::statement(
            "could not note the kind of timestamps",
        ))?;
        Ok(())
    }

    /// Marks a partition as halted (a record that cannot be fetched, a truncated topic), or not. Under
    /// its claim: a mark that comes after `offsets skip` would stop it anew. False: it has another.
    pub async fn set_halted(
        &self,
        tp: &TopicPartition,
        claim_id: Uuid,
        why: Option<&str>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE vw.stream_partition SET halted = $3 WHERE topic = $1 AND part = $2 AND claim_id = $4",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .bind(why)
        .bind(claim_id)
        .execute(self.pool())
        .await
        .map_err(StoreError::statement("could not mark a partition"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Moves a partition past records that cannot be read: one transaction writes the gap row, the
    /// audit mark, the action and the new offset, and fences the present owner. Returns false when the
    /// partition does not stand at `from`.
    pub async fn skip_offsets(
        &self,
        tp: &TopicPartition,
        from: i64,
        to: i64,
        reason: &str,
        author: &str,
    ) -> Result<bool, StoreError> {
        let (store, tp) = (self.clone(), tp.clone());
        let (reason, author) = (super::clean(reason), super::clean(author));
        self.unabortable(async move {
            let what = "could not skip offsets";
            let sql = StoreError::statement;
            let mut tx = store.pool().begin().await.map_err(sql(what))?;
            let moved = sqlx::query(
                "UPDATE vw.stream_partition
                    SET next_offset = $4, claim_id = $5, epoch = epoch + 1, halted = NULL, last_ts_ms = 0, last_crc = 0
                  WHERE topic = $1 AND part = $2 AND next_offset = $3",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(from)
            .bind(to)
            .bind(Uuid::new_v4())
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            if moved.rows_affected() != 1 {
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO vw.stream_gap (topic, part, lo, hi, reason, author) VALUES ($1, $2, $3, $4, 'skipped', $5)",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(from)
            .bind(to)
            .bind(&author)
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            let detail = serde_json::json!({
                "topic": tp.topic, "partition": tp.partition, "from": from, "to": to, "reason": reason,
            });
            sqlx::query("INSERT INTO vw.action_log (author, action, detail) VALUES ($1, 'offsets skip', $2)")
                .bind(&author)
                .bind(detail)
                .execute(&mut *tx)
                .await
                .map_err(sql(what))?;
            tx.commit().await.map_err(sql(what))?;
            Ok(true)
        })
        .await
    }

    /// Lets a halted partition go on where it stands; nothing is lost. Fences the present owner, so that
    /// a mark that is on its way does not stop it anew. `None`: it is not halted. Else where it stands and why
    /// it halted.
    pub async fn resume_partition(
        &self,
        tp: &TopicPartition,
        reason: &str,
        author: &str,
    ) -> Result<Option<(i64, String)>, StoreError> {
        let (store, tp) = (self.clone(), tp.clone());
        let (reason, author) = (super::clean(reason), super::clean(author));
        self.unabortable(async move {
            let what = "could not let a partition go on";
            let sql = StoreError::statement;
            let mut tx = store.pool().begin().await.map_err(sql(what))?;
            let stood: Option<(i64, String)> = sqlx::query_as(
                "SELECT next_offset, halted FROM vw.stream_partition
                  WHERE topic = $1 AND part = $2 AND halted IS NOT NULL FOR UPDATE",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .fetch_optional(&mut *tx)
            .await
            .map_err(sql(what))?;
            let Some((next, why)) = stood else {
                return Ok(None);
            };
            sqlx::query(
                "UPDATE vw.stream_partition SET claim_id = $3, epoch = epoch + 1, halted = NULL
                  WHERE topic = $1 AND part = $2",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(Uuid::new_v4())
            .execute(&mut *tx)
            .await
            .map_err(sql(what))?;
            let detail = serde_json::json!({
                "topic": tp.topic, "partition": tp.partition, "at": next, "halted": why, "reason": reason,
            });
            sqlx::query("INSERT INTO vw.action_log (author, action, detail) VALUES ($1, 'offsets resume', $2)")
                .bind(&author)
                .bind(detail)
                .execute(&mut *tx)
                .await
                .map_err(sql(what))?;
            tx.commit().await.map_err(sql(what))?;
            Ok(Some((next, why)))
        })
        .await
    }

    /// Where every partition stands.
    pub async fn partitions(&self) -> Result<Vec<PartitionRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT topic, part, next_offset, epoch, owner, watermark, halted, claimed_at,
                    (extract(epoch FROM clock_timestamp() - applied_at) * 1000)::bigint
               FROM vw.stream_partition ORDER BY topic, part",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not list the partitions"))?;
        Ok(rows
            .iter()
            .map(|r| PartitionRow {
                tp: TopicPartition {
                    topic: SmolStr::new(r.get::<&str, _>(0)),
                    partition: r.get(1),
                },
                next_offset: r.get(2),
                epoch: r.get(3),
                owner: r.get(4),
                watermark: Time(r.get(5)),
                halted: r.get(6),
                claimed_at: super::time(r.get(7)),
                idle_ms: r.get::<i64, _>(8).max(0),
            })
            .collect())
    }
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRow {
    /// Which.
    pub tp: TopicPartition,
    /// First offset not applied.
    pub next_offset: i64,
    /// How often it was claimed.
    pub epoch: i64,
    /// Who claimed it last.
    pub owner: String,
    /// Append time of the last applied record.
    pub watermark: Time,
    /// Why it is halted.
    pub halted: Option<String>,
    /// When it was claimed.
    pub claimed_at: Time,
    /// Milliseconds of database time since the row last moved.
    pub idle_ms: i64,
}

impl PartitionRow {
    /// Records between `next_offset` and a high watermark.
    pub fn lag(&self, high: i64) -> u64 {
        super::count(high.saturating_sub(self.next_offset))
    }
}
