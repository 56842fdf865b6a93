//! Verifying the audit chain as it stands in Postgres.
//!
//! Two chains are checked. `h` chains the records' leaves; batches must follow each other without a
//! hole, each beginning with the head that the one before it left. `seal` chains the rows themselves,
//! so that a row changed, removed or swapped shows without the records. What neither shows is a tail
//! cut off together with the partition's row: for that a head must have been exported
//! (`audit heads`) to a place that the administrator of the database cannot write.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::{Store, StoreError, batch, claim};
use crate::event::{SmolStr, TopicPartition};

/// Rows read at a time.
const PAGE: i64 = 10_000;

/// An exported head: the state of a partition's chain at some moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// Topic.
    pub topic: SmolStr,
    /// Partition.
    pub partition: i32,
    /// First offset after the head.
    pub next_offset: i64,
    /// Head of the records' chain, hex.
    pub head: String,
    /// Head of the rows' chain, hex.
    pub seal: String,
    /// When it was exported, RFC 3339.
    pub at: String,
}

/// What is wrong with a partition's chain, at the first place where it shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Break {
    /// Offset of the first bad batch.
    pub offset: i64,
    /// In words.
    pub problem: String,
}

/// The verdict on one partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Batches checked.
    pub batches: u64,
    /// Records they cover.
    pub records: u64,
    /// First offset checked: earlier batches are beyond retention.
    pub from: i64,
    /// First offset after the last batch.
    pub to: i64,
    /// Offsets recorded as lost or skipped within.
    pub gaps: u64,
    /// Exported heads that were found in the chain.
    pub heads: u64,
    /// The first thing wrong; `None`: the chain holds.
    pub broken: Option<Break>,
}

#[derive(Debug)]
struct Row {
    lo: i64,
    hi: i64,
    n: u32,
    prev: Vec<u8>,
    h: Vec<u8>,
    seal: Vec<u8>,
}

/// (next offset, head, seal): where a chain stands.
type End = (i64, Vec<u8>, Vec<u8>);

/// The state of walking one chain.
struct Walk {
    /// (next offset, head, seal) that the next row must continue; `None` before the first.
    at: Option<End>,
    out: Verified,
}

impl Walk {
    fn break_at(&mut self, offset: i64, problem: impl Into<String>) {
        if self.out.broken.is_none() {
            self.out.broken = Some(Break {
                offset,
                problem: problem.into(),
            });
        }
    }

    fn step(&mut self, r: &Row, genesis: &[u8; 32], gaps: &[(i64, i64)]) {
        let (next, head, seal) = match self.at.take() {
            Some(at) => at,
            None if r.prev == genesis => (r.lo, r.prev.clone(), genesis.to_vec()),
            // Earlier rows are beyond retention: this row is where trust begins.
            None => {
                self.out.from = r.lo;
                self.count(r);
                self.at = Some((r.hi, r.h.clone(), r.seal.clone()));
                return;
            }
        };
        if self.out.batches == 0 {
            self.out.from = r.lo;
        }
        let skipped = gaps.iter().any(|(lo, hi)| *lo == next && *hi == r.lo);
        if r.lo != next && !skipped {
            self.break_at(
                r.lo.min(next),
                format!(
                    "batches do not follow each other: {next} was next, {} is",
                    r.lo
                ),
            );
        } else if r.prev != head {
            self.break_at(
                r.lo,
                "the head before the batch is not what the batch before it left",
            );
        } else if batch::seal(&seal, r.lo, r.hi, r.n, &r.prev, &r.h) != r.seal {
            self.break_at(r.lo, "the row's seal does not fit its contents");
        } else if r.hi < r.lo || i64::from(r.n) > r.hi - r.lo {
            self.break_at(r.lo, "more records than offsets");
        }
        self.count(r);
        self.at = Some((r.hi, r.h.clone(), r.seal.clone()));
    }

    fn count(&mut self, r: &Row) {
        self.out.batches += 1;
        self.out.records += u64::from(r.n);
        self.out.to = r.hi;
    }
}

impl Store {
    /// The heads of all partitions, to be kept outside this database.
    pub async fn audit_heads(&self) -> Result<Vec<Head>, StoreError> {
        let rows = sqlx::query(
            "SELECT topic, part, next_offset, encode(chain, 'hex'), encode(audit_seal, 'hex'), clock_timestamp()
               FROM vw.stream_partition ORDER BY topic, part",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement("could not read the audit heads"))?;
        Ok(rows
            .iter()
            .map(|r| Head {
                topic: SmolStr::new(r.get::<&str, _>(0)),
                partition: r.get(1),
                next_offset: r.get(2),
                head: r.get(3),
                seal: r.get(4),
                at: super::time(r.get(5)).to_string(),
            })
            .collect())
    }

    /// Walks every partition's chain. `heads` are exported ones that must stand in it.
    pub async fn audit_verify(&self, heads: &[Head]) -> Result<Vec<Verified>, StoreError> {
        let what = "could not read the partitions";
        let rows = sqlx::query(
            "SELECT topic, part, next_offset, chain, audit_seal FROM vw.stream_partition
              UNION SELECT DISTINCT b.topic, b.part, NULL::bigint, NULL::bytea, NULL::bytea FROM vw.audit_batch b
              WHERE NOT EXISTS (SELECT 1 FROM vw.stream_partition p WHERE p.topic = b.topic AND p.part = b.part)
              ORDER BY 1, 2",
        )
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement(what))?;
        let mut partitions: BTreeMap<TopicPartition, Option<End>> = BTreeMap::new();
        for r in &rows {
            let tp = TopicPartition {
                topic: SmolStr::new(r.get::<&str, _>(0)),
                partition: r.get(1),
            };
            let next: Option<i64> = r.get(2);
            partitions.insert(tp, next.map(|next| (next, r.get(3), r.get(4))));
        }
        for h in heads {
            let tp = TopicPartition {
                topic: h.topic.clone(),
                partition: h.partition,
            };
            partitions.entry(tp).or_insert(None);
        }
        let mut out = Vec::new();
        for (tp, end) in partitions {
            let heads: Vec<&Head> = heads
                .iter()
                .filter(|h| h.topic == tp.topic && h.partition == tp.partition)
                .collect();
            out.push(self.verify_partition(&tp, end, &heads).await?);
        }
        Ok(out)
    }

    async fn verify_partition(
        &self,
        tp: &TopicPartition,
        end: Option<End>,
        heads: &[&Head],
    ) -> Result<Verified, StoreError> {
        let what = "could not read the audit chain";
        let genesis = claim::genesis(tp);
        let gaps: Vec<(i64, i64)> = sqlx::query(
            "SELECT lo, hi FROM vw.stream_gap WHERE topic = $1 AND part = $2 ORDER BY lo",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement(what))?
        .iter()
        .map(|r| (r.get(0), r.get(1)))
        .collect();
        let mut walk = Walk {
            at: None,
            out: Verified {
                topic: tp.topic.to_string(),
                partition: tp.partition,
                batches: 0,
                records: 0,
                from: 0,
                to: 0,
                gaps: gaps.iter().map(|(lo, hi)| super::count(hi - lo)).sum(),
                heads: 0,
                broken: None,
            },
        };
        // Boundaries at which an exported head must fit.
        let mut wanted: BTreeMap<i64, Vec<&Head>> = BTreeMap::new();
        for h in heads {
            wanted.entry(h.next_offset).or_default().push(h);
        }
        let mut after: (chrono::NaiveDate, i64) = (chrono::NaiveDate::MIN, i64::MIN);
        let mut first_day = true;
        loop {
            let rows = sqlx::query(
                "SELECT day, lo, hi, n, prev, h, seal FROM vw.audit_batch
                  WHERE topic = $1 AND part = $2 AND ($5 OR (day, lo) > ($3, $4)) ORDER BY day, lo LIMIT $6",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(if first_day { chrono::NaiveDate::default() } else { after.0 })
            .bind(after.1)
            .bind(first_day)
            .bind(PAGE)
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement(what))?;
            for r in &rows {
                let row = Row {
                    lo: r.get(1),
                    hi: r.get(2),
                    n: u32::try_from(r.get::<i32, _>(3)).unwrap_or(u32::MAX),
                    prev: r.get(4),
                    h: r.get(5),
                    seal: r.get(6),
                };
                after = (r.get(0), row.lo);
                first_day = false;
                walk.step(&row, &genesis, &gaps);
                for h in wanted.remove(&row.hi).unwrap_or_default() {
                    if h.head == hex(&row.h) && h.seal == hex(&row.seal) {
                        walk.out.heads += 1;
                    } else {
                        walk.break_at(row.lo, format!("the head exported at {} differs", h.at));
                    }
                }
            }
            if i64::try_from(rows.len()).unwrap_or(0) < PAGE {
                break;
            }
        }
        finish(&mut walk, end.as_ref(), &wanted, &genesis, &gaps);
        Ok(walk.out)
    }
}

/// The end of the chain must be where the partition's row and the exported heads say.
fn finish(
    walk: &mut Walk,
    end: Option<&End>,
    wanted: &BTreeMap<i64, Vec<&Head>>,
    genesis: &[u8; 32],
    gaps: &[(i64, i64)],
) {
    let last = walk.at.take();
    match (end, &last) {
        (None, _) => walk.break_at(walk.out.to, "the partition's row is missing"),
        (Some((next, chain, seal)), Some((to, h, s))) => {
            let skipped = gaps.iter().any(|(lo, hi)| lo == to && hi == next);
            if next != to && !skipped {
                walk.break_at(
                    *to,
                    format!("the chain ends at {to}, the partition stands at {next}"),
                );
            } else if chain != h || seal != s {
                walk.break_at(*to, "the last batch's head is not the partition's");
            }
        }
        (Some((_, chain, _)), None) => {
            if chain.as_slice() != genesis.as_slice() {
                walk.break_at(0, "the partition has a head and no batches");
            }
        }
    }
    for (offset, heads) in wanted {
        // A head from before the first batch kept is beyond retention; the genesis has no batch.
        if *offset <= walk.out.from && walk.out.batches > 0 {
            continue;
        }
        for h in heads {
            if h.head == hex(genesis) && walk.out.batches == 0 {
                continue;
            }
            walk.break_at(
                *offset,
                format!(
                    "the head exported at {} is not in the chain: batches were removed",
                    h.at
                ),
            );
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}
