//! Records on their way from Kafka to the pipeline: copied once, into one arena a batch.
//!
//! A record borrowed from librdkafka would keep its whole fetch alive and block the client's end,
//! so key, value and the few headers that matter are copied out, one after the other, into one
//! buffer. A batch is of one partition and carries the claim it was read under.

use uuid::Uuid;

use super::settings::TopicMode;
use crate::event::{Time, TopicPartition};

/// Most headers of a record that are kept.
const MAX_HEADERS: usize = 16;
/// Most bytes of headers of a record that are kept.
const MAX_HEADER_BYTES: usize = 4 * 1024;

/// Where a partition stood: tells a truncated or recreated topic from the one we read.
///
/// Made of what surrounds a record, never of its content: a hash of content could confirm a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Kafka's timestamp of the record, in milliseconds.
    pub ts_ms: i64,
    /// CRC over its offset and the lengths of key and value.
    pub crc: i32,
}

impl Fingerprint {
    fn of(offset: i64, ts_ms: i64, lengths: [u64; 2]) -> Self {
        let mut crc = flate2::Crc::new();
        crc.update(&offset.to_le_bytes());
        for len in lengths {
            crc.update(&len.to_le_bytes());
        }
        Self {
            ts_ms,
            crc: i32::from_le_bytes(crc.sum().to_le_bytes()),
        }
    }
}

/// One record as the consumer hands it over; borrowed from librdkafka.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// Offset in the partition.
    pub offset: i64,
    /// Kafka's timestamp, milliseconds; 0 where there is none.
    pub ts_ms: i64,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

impl Fetched<'_> {
    /// The record's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.offset, self.ts_ms, self.lengths())
    }

    fn lengths(&self) -> [u64; 2] {
        [self.key, self.value].map(|b| b.map_or(u64::MAX, |b| b.len() as u64))
    }
}

#[derive(Debug, Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    ts_ms: i64,
    key: Option<Span>,
    value: Option<Span>,
    headers: u32,
    headers_end: u32,
}

/// Records of one partition, in offset order.
#[derive(Debug)]
pub struct Batch {
    /// The partition.
    pub tp: TopicPartition,
    /// The claim under which it was read.
    pub claim: Uuid,
    /// What the topic may carry.
    pub mode: TopicMode,
    /// The offset that was expected first. Records may begin later: transaction markers and
    /// compaction leave holes.
    pub lo: i64,
    /// One past the last record.
    pub hi: i64,
    /// Whether everything in it is applied already: it only rebuilds detector state.
    pub replay: bool,
    /// Whether its timestamps are the producers' (`CreateTime`) and not the broker's.
    pub create_time: bool,
    entries: Vec<Entry>,
    headers: Vec<(Span, Span)>,
    arena: Vec<u8>,
    /// What surrounds the last record: offset, timestamp, lengths of key and value.
    last: Option<(i64, i64, [u64; 2])>,
    opened: std::time::Instant,
}

/// One record of a batch.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Offset.
    pub offset: i64,
    /// Kafka's timestamp.
    pub ts: Time,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Headers that matter.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl Batch {
    /// An empty batch that expects `lo` first.
    pub fn new(tp: TopicPartition, claim: Uuid, mode: TopicMode, lo: i64, replay: bool) -> Self {
        Self {
            tp,
            claim,
            mode,
            lo,
            hi: lo,
            replay,
            create_time: false,
            entries: Vec::new(),
            headers: Vec::new(),
            arena: Vec::new(),
            last: None,
            opened: std::time::Instant::now(),
        }
    }

    /// Makes room for as much as another batch holds: growing by doubling would copy all again.
    pub fn expect_like(&mut self, other: &Self) {
        self.entries.reserve(other.entries.len());
        self.arena.reserve(other.arena.len());
    }

    /// Copies a record in.
    pub fn push<'h>(
        &mut self,
        r: &Fetched<'_>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) {
        let first = self.headers.len();
        let mut kept = 0;
        for (k, v) in headers.filter(|(k, _)| matters(k)).take(MAX_HEADERS) {
            let v = v.unwrap_or_default();
            kept += k.len() + v.len();
            if kept > MAX_HEADER_BYTES {
                break;
            }
            let pair = (self.copy(k.as_bytes()), self.copy(v));
            self.headers.push(pair);
        }
        let entry = Entry {
            offset: r.offset,
            ts_ms: r.ts_ms,
            key: r.key.map(|k| self.copy(k)),
            value: r.value.map(|v| self.copy(v)),
            headers: u32::try_from(first).unwrap_or(u32::MAX),
            headers_end: u32::try_from(self.headers.len()).unwrap_or(u32::MAX),
        };
        self.entries.push(entry);
        self.hi = r.offset.saturating_add(1);
        self.last = Some((r.offset, r.ts_ms, r.lengths()));
    }

    fn copy(&mut self, b: &[u8]) -> Span {
        // A batch is closed far below 4 GiB (`IngestConfig::buffer_bytes` and one record of at
        // most 16 MiB), so the positions fit.
        let at = u32::try_from(self.arena.len()).unwrap_or(u32::MAX);
        self.arena.extend_from_slice(b);
        Span {
            at,
            len: u32::try_from(b.len()).unwrap_or(u32::MAX),
        }
    }

    fn get(&self, s: Span) -> &[u8] {
        let at = s.at as usize;
        self.arena.get(at..at + s.len as usize).unwrap_or_default()
    }

    /// The same records in batches of at most `most`.
    pub fn split(self, most: usize) -> Vec<Self> {
        if self.len() <= most {
            return vec![self];
        }
        let new = |lo| {
            let mut b = Self::new(self.tp.clone(), self.claim, self.mode, lo, self.replay);
            b.create_time = self.create_time;
            b
        };
        let mut out = Vec::new();
        let mut open = new(self.lo);
        for r in self.records() {
            if open.len() >= most.max(1) {
                let next = new(open.hi);
                out.push(std::mem::replace(&mut open, next));
            }
            let fetched = Fetched {
                offset: r.offset,
                ts_ms: r.ts.0,
                key: r.key,
                value: r.value,
            };
            open.push(&fetched, r.headers.iter().map(|(k, v)| (*k, Some(*v))));
        }
        out.push(open);
        out
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Bytes of keys, values and headers.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }
    /// How long ago the batch was begun.
    pub fn age(&self) -> std::time::Duration {
        self.opened.elapsed()
    }
    /// Fingerprint of the last record.
    pub fn last(&self) -> Option<Fingerprint> {
        self.last
            .map(|(offset, ts_ms, lengths)| Fingerprint::of(offset, ts_ms, lengths))
    }

    /// The records, in offset order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.entries.iter().map(|e| Record {
            offset: e.offset,
            ts: Time(e.ts_ms),
            key: e.key.map(|s| self.get(s)),
            value: e.value.map(|s| self.get(s)),
            headers: self
                .headers
                .get(e.headers as usize..e.headers_end as usize)
                .unwrap_or_default()
                .iter()
                .map(|(k, v)| {
                    (
                        std::str::from_utf8(self.get(*k)).unwrap_or_default(),
                        self.get(*v),
                    )
                })
                .collect(),
        })
    }
}

/// Headers that any decoder reads: CloudEvents' binary mode, the content type, trace context and
/// the gateway's signature.
fn matters(name: &str) -> bool {
    let b = name.as_bytes();
    let starts = |p: &[u8]| b.len() >= p.len() && b[..p.len()].eq_ignore_ascii_case(p);
    starts(b"ce_") || starts(b"ce-") || starts(b"vw-") || name.eq_ignore_ascii_case("content-type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_batches_are_the_same_records_end_to_end() {
        let tp = TopicPartition {
            topic: "t".into(),
            partition: 0,
        };
        let mut b = Batch::new(tp, Uuid::nil(), TopicMode::Sealed, 5, false);
        for offset in [6, 7, 9, 12, 13] {
            let r = Fetched {
                offset,
                ts_ms: offset,
                key: Some(b"k"),
                value: None,
            };
            b.push(&r, [("vw-sig", Some(&b"s"[..]))].into_iter());
        }
        let last = b.last();
        let parts = b.split(2);
        let ends: Vec<_> = parts.iter().map(|p| (p.lo, p.hi, p.len())).collect();
        assert_eq!(ends, [(5, 8, 2), (8, 13, 2), (13, 14, 1)]);
        assert_eq!(parts[2].last(), last);
        assert!(
            parts
                .iter()
                .flat_map(|p| p.records().map(|r| r.headers.len()).collect::<Vec<_>>())
                .all(|n| n == 1)
        );
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let tp = TopicPartition {
            topic: "t".into(),
            partition: 1,
        };
        let mut b = Batch::new(tp, Uuid::nil(), TopicMode::Sealed, 5, false);
        let value = vec![7u8; 300];
        let r = Fetched {
            offset: 7,
            ts_ms: 1_000,
            key: Some(b"k"),
            value: Some(&value),
        };
        let headers = [
            ("ce_id", Some(b"1".as_slice())),
            ("x-noise", Some(b"2".as_slice())),
        ];
        b.push(&r, headers.into_iter());
        b.push(
            &Fetched {
                offset: 8,
                value: None,
                key: None,
                ..r
            },
            std::iter::empty(),
        );
        assert_eq!((b.lo, b.hi, b.len()), (5, 9, 2));
        let all: Vec<_> = b.records().collect();
        assert_eq!(all[0].value, Some(value.as_slice()));
        assert_eq!(all[0].headers, vec![("ce_id", b"1".as_slice())]);
        assert_eq!((all[1].value, all[1].key), (None, None));
        assert_ne!(b.last(), Some(r.fingerprint()));
    }

    #[test]
    fn the_fingerprint_tells_nothing_about_content() {
        let f = |v: &[u8]| Fingerprint::of(3, 4, [u64::MAX, v.len() as u64]);
        assert_eq!(f(b"abc"), f(b"xyz"));
        assert_ne!(f(b"abc"), f(b"abcd"));
    }
}
