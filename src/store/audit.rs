//! Verifying the audit chain as it stands in Postgres.
//!
//! Rows are walked in the order in which they were written (`seq`, drawn under the partition's lock):
//! offsets fall where a topic is made anew. Two chains are checked. `h` chains the records' leaves; batches must
//! follow each other without a hole, each beginning with the head that the one before it left. What an operator
//! skips stands in `stream_gap`; a row without records whose gap stands there may go back. `seal` chains the rows themselves,
//! so that a row changed, removed or swapped shows without the records. What neither shows is a tail
//! cut off together with the partition's row, nor a beginning cut off: the first row that is left is
//! where trust begins, whether retention or somebody else dropped what was before it. For both a head must
//! have been exported (`audit heads`) to a place that the administrator of the database cannot write.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use super::{Store, StoreError, batch, claim};
use crate::event::{SmolStr, Time, TopicPartition};

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
    /// The day (YYYY-MM-DD) under which its batch stands, by which retention drops it; `None`: no batch stood there,
    /// or it was exported by a version that did not say.
    #[serde(default)]
    pub day: Option<SmolStr>,
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
    /// First offset checked: earlier batches are beyond retention, or were deleted.
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

/// What is recorded as lost or skipped: (from, to, by an operator).
#[derive(Debug)]
struct Gaps(Vec<(i64, i64, bool)>);

impl Gaps {
    /// Whether what operators skipped leads from one offset to another; one skip may follow another.
    fn lead(&self, from: i64, to: i64) -> bool {
        let mut seen = BTreeSet::from([from]);
        let mut todo = vec![from];
        while let Some(at) = todo.pop() {
            for (_, hi, _) in self.0.iter().filter(|(lo, _, by)| *by && *lo == at) {
                if *hi == to {
                    return true;
                }
                if seen.insert(*hi) {
                    todo.push(*hi);
                }
            }
        }
        false
    }

    /// Whether this gap is recorded.
    fn stands(&self, from: i64, to: i64) -> bool {
        self.0.iter().any(|(lo, hi, _)| (*lo, *hi) == (from, to))
    }
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

impl Row {
    /// Whether the row is what came after an exported head.
    fn continues(&self, head: &Head) -> bool {
        head.head == hex(&self.prev)
            && unhex(&head.seal).is_some_and(|seal| {
                batch::seal(&seal, self.lo, self.hi, self.n, &self.prev, &self.h) == self.seal
            })
    }
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

    fn step(&mut self, r: &Row, genesis: &[u8; 32], gaps: &Gaps) {
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
        if r.lo != next && !gaps.lead(next, r.lo) {
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
        } else if i64::from(r.n) > r.hi - r.lo && !(r.n == 0 && gaps.stands(r.lo, r.hi)) {
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
            "SELECT topic, part, next_offset, encode(chain, 'hex'), encode(audit_seal, 'hex'), clock_timestamp(),
                    (SELECT b.day FROM vw.audit_batch b WHERE b.topic = p.topic AND b.part = p.part
                      ORDER BY b.day DESC, b.seq DESC, b.lo DESC LIMIT 1)
               FROM vw.stream_partition p ORDER BY topic, part",
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
                day: r
                    .get::<Option<chrono::NaiveDate>, _>(6)
                    .map(|d| smol_str::format_smolstr!("{d}")),
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
        let gaps = sqlx::query(
            "SELECT lo, hi, reason = 'skipped' FROM vw.stream_gap WHERE topic = $1 AND part = $2 ORDER BY lo, id",
        )
        .bind(tp.topic.as_str())
        .bind(tp.partition)
        .fetch_all(self.pool())
        .await
        .map_err(StoreError::statement(what))?;
        let gaps = Gaps(
            gaps.iter()
                .map(|r| (r.get(0), r.get(1), r.get(2)))
                .collect(),
        );
        let mut walk = Walk {
            at: None,
            out: Verified {
                topic: tp.topic.to_string(),
                partition: tp.partition,
                batches: 0,
                records: 0,
                from: 0,
                to: 0,
                gaps: gaps.0.iter().map(|(lo, hi, _)| super::count(hi - lo)).sum(),
                heads: 0,
                broken: None,
            },
        };
        // Heads that must stand in the chain, by the offset after them. Two batches may end at one.
        let mut wanted: BTreeMap<i64, Vec<Wanted<'_>>> = BTreeMap::new();
        for &head in heads {
            wanted
                .entry(head.next_offset)
                .or_default()
                .push(Wanted { head, other: None });
        }
        let mut after: Option<(chrono::NaiveDate, i64, i64)> = None;
        loop {
            let rows = sqlx::query(
                "SELECT day, seq, lo, hi, n, prev, h, seal FROM vw.audit_batch
                  WHERE topic = $1 AND part = $2
                    AND (day, seq, lo) > (coalesce($3::date, '-infinity'), coalesce($4::bigint, -1), coalesce($5::bigint, -1))
                  ORDER BY day, seq, lo LIMIT $6",
            )
            .bind(tp.topic.as_str())
            .bind(tp.partition)
            .bind(after.map(|a| a.0))
            .bind(after.map(|a| a.1))
            .bind(after.map(|a| a.2))
            .bind(PAGE)
            .fetch_all(self.pool())
            .await
            .map_err(StoreError::statement(what))?;
            for r in &rows {
                let row = Row {
                    lo: r.get(2),
                    hi: r.get(3),
                    n: u32::try_from(r.get::<i32, _>(4)).unwrap_or(u32::MAX),
                    prev: r.get(5),
                    h: r.get(6),
                    seal: r.get(7),
                };
                after = Some((r.get(0), r.get(1), row.lo));
                walk.step(&row, &genesis, &gaps);
                // One that stands before this row, whose own row is gone or ended at a skip.
                if let Some(heads) = wanted.get_mut(&row.lo) {
                    let before = heads.len();
                    heads.retain(|w| !row.continues(w.head));
                    walk.out.heads += (before - heads.len()) as u64;
                }
                if let Some(heads) = wanted.get_mut(&row.hi) {
                    let before = heads.len();
                    heads.retain(|w| w.head.head != hex(&row.h) || w.head.seal != hex(&row.seal));
                    walk.out.heads += (before - heads.len()) as u64;
                    for w in heads {
                        w.other = Some(row.lo);
                    }
                }
            }
            if i64::try_from(rows.len()).unwrap_or(0) < PAGE {
                break;
            }
        }
        // What stood under a day before the oldest that is kept went with it. By the clock, not by the
        // rows: those are what is in doubt.
        let now = self.now().await?;
        let kept = i64::from(self.config().keep.audit);
        let oldest = super::day(now.minus_ms(kept * 86_400_000)).to_string();
        let exported = now.minus_ms((kept + 1) * 86_400_000);
        for w in wanted.values_mut() {
            w.retain(|w| match &w.head.day {
                // In the order of days, as ISO 8601 writes them.
                Some(day) => *day >= oldest,
                None => Time::parse_rfc3339(&w.head.at).is_none_or(|at| at >= exported),
            });
        }
        finish(&mut walk, end.as_ref(), &wanted, &genesis, &gaps);
        Ok(walk.out)
    }
}

/// An exported head that was not found yet.
struct Wanted<'a> {
    head: &'a Head,
    /// A batch that ends there with another one.
    other: Option<i64>,
}

/// The end of the chain must be where the partition's row and the exported heads say.
fn finish(
    walk: &mut Walk,
    end: Option<&End>,
    wanted: &BTreeMap<i64, Vec<Wanted<'_>>>,
    genesis: &[u8; 32],
    gaps: &Gaps,
) {
    let last = walk.at.take();
    match (end, &last) {
        (None, _) => walk.break_at(walk.out.to, "the partition's row is missing"),
        (Some((next, chain, seal)), Some((to, h, s))) => {
            if next != to && !gaps.lead(*to, *next) {
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
        for Wanted { head: h, other } in heads {
            // The genesis has no batch.
            if h.head == hex(genesis) {
                continue;
            }
            match other {
                Some(lo) => walk.break_at(*lo, format!("the head exported at {} differs", h.at)),
                None => walk.break_at(
                    *offset,
                    format!(
                        "the head exported at {} is not in the chain: batches were removed",
                        h.at
                    ),
                ),
            }
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

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}
