//! One assigned partition, as the poll thread sees it.

use std::time::Instant;

use uuid::Uuid;

use super::batch::{Batch, Fetched, Fingerprint};
use super::{Claimed, Delivery, Inbox, TopicMode};
use crate::event::TopicPartition;

/// Shares of the buffer that one busy partition may fill. With sixteen partitions and one user in eight
/// on the busiest (Zipf's law), four keep it from being cut sooner than the others.
const MAX_SHARES: usize = 4;
/// Least bytes of a batch, however many partitions share the buffer.
const MIN_BATCH_BYTES: usize = 64 * 1024;

/// Whether a batch of so many bytes goes now. One batch of each partition is open, one queued, one in
/// the worker. A busy partition may take more than its share as long as others leave it: keyed traffic
/// is uneven, and every batch it cuts is one more for all.
pub(super) fn is_full<C>(slots: &[Slot<C>], bytes: usize, buffer: usize) -> bool {
    let third = buffer / 3;
    let share = (third / slots.len().max(1)).max(MIN_BATCH_BYTES);
    let open = || slots.iter().map(|s| s.open.bytes()).sum::<usize>();
    bytes >= share && (bytes >= MAX_SHARES * share || open() >= third)
}

/// State of an assigned partition.
#[derive(Debug)]
pub(super) struct Slot<C> {
    pub(super) tp: TopicPartition,
    pub(super) mode: TopicMode,
    pub(super) claim: Uuid,
    /// Offset that the next record is expected at.
    pub(super) next: i64,
    /// First offset that was not applied when we claimed: below it records are replayed.
    pub(super) floor: i64,
    /// Records below are read only to compare the fingerprint.
    pub(super) deliver_from: i64,
    /// Kafka's timestamp of the last record that was applied or delivered; 0 where none is known.
    pub(super) last_ts: i64,
    /// The last applied record, until it was seen again.
    pub(super) verify: Option<Fingerprint>,
    /// The batch being filled.
    pub(super) open: Batch,
    pub(super) inbox: Inbox<C>,
    pub(super) paused: bool,
    pub(super) halted: Option<&'static str>,
    /// When it halted here; none where it was halted before it was claimed.
    pub(super) halted_at: Option<Instant>,
    /// First offset that is not committed, as the worker says.
    pub(super) applied: i64,
    /// When something was fetched or committed last.
    pub(super) progress: Instant,
    /// Something was fetched since the thread last looked around, which then counts as progress.
    pub(super) moved: bool,
    /// Claims in a row because nothing moved.
    pub(super) stalls: u32,
    /// What the hint for lag tools said last.
    pub(super) hinted: i64,
    /// Kafka's end of the partition, when asked last.
    pub(super) high: i64,
    /// Below this no record stands behind `next`: only markers of transactions, which no client delivers.
    pub(super) end: i64,
    /// Whether timestamps are the producers'.
    pub(super) create_time: bool,
    /// The watching thread wants the partition paused.
    pub(super) pause_wanted: bool,
    /// It wants a new start at `next`.
    pub(super) restart_wanted: bool,
    /// A client of its own could read the next record: if it does not arrive, ours is at fault.
    pub(super) readable: bool,
}

/// What a record means for its partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was copied, or only compared.
    Yes,
    /// It is from before a new start: not ours.
    Stale,
    /// The record at this place is not the one that was applied.
    Truncated,
}

impl<C> Slot<C> {
    pub(super) fn new(
        tp: TopicPartition,
        mode: TopicMode,
        claim: &Claimed<C>,
        from: i64,
        inbox: Inbox<C>,
    ) -> Self {
        let deliver_from = claim.start.max(from.min(claim.next_offset));
        let replay = deliver_from < claim.next_offset;
        Self {
            open: Batch::new(tp.clone(), claim.id, mode, deliver_from, replay),
            tp,
            mode,
            claim: claim.id,
            next: from,
            floor: claim.next_offset,
            deliver_from,
            last_ts: claim.last.map_or(0, |l| l.ts_ms),
            verify: claim.last.filter(|_| from < claim.next_offset),
            inbox,
            paused: false,
            halted: None,
            halted_at: None,
            applied: claim.next_offset,
            progress: Instant::now(),
            moved: false,
            stalls: 0,
            hinted: claim.next_offset,
            high: 0,
            end: 0,
            create_time: false,
            pause_wanted: false,
            restart_wanted: false,
            readable: false,
        }
    }

    /// Takes a record.
    pub(super) fn take<'h>(
        &mut self,
        r: &Fetched<'_>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Taken {
        // Until the new start is made, what comes is from where the partition stood before.
        if r.offset < self.next || self.restart_wanted {
            return Taken::Stale;
        }
        self.next = r.offset + 1;
        self.moved = true;
        self.stalls = 0;
        if r.offset < self.floor {
            if r.offset + 1 == self.floor
                && let Some(expected) = self.verify.take()
                && expected != r.fingerprint()
            {
                return Taken::Truncated;
            }
            if r.offset < self.deliver_from {
                return Taken::Yes;
            }
        } else if self.open.replay {
            // The replay ends here, also where a hole hides the exact offset.
            self.flush();
            self.open = Batch::new(self.tp.clone(), self.claim, self.mode, self.floor, false);
        }
        self.last_ts = r.ts_ms;
        self.open.create_time = self.create_time;
        self.open.push(r, headers);
        Taken::Yes
    }

    /// Hands the open batch over and begins the next.
    pub(super) fn flush(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let lo = self.open.hi;
        let replay = lo < self.floor;
        let mut next = Batch::new(self.tp.clone(), self.claim, self.mode, lo, replay);
        next.expect_like(&self.open);
        let full = std::mem::replace(&mut self.open, next);
        self.inbox.push(Delivery::Batch(full));
    }

    /// Offsets up to `hi` are gone: everything read so far goes first, then the gap.
    pub(super) fn skip_to(&mut self, hi: i64, reason: &'static str) {
        self.flush();
        self.next = hi;
        self.verify = None;
        if reason == "retention" && hi <= self.floor {
            // Only records that are applied already are gone: the replay starts later, nothing is
            // lost but a part of the detectors' memory.
            self.deliver_from = hi;
            self.open = Batch::new(self.tp.clone(), self.claim, self.mode, hi, hi < self.floor);
            return;
        }
        let lo = self.open.lo.max(self.floor);
        // A cut is told also where no offset is lost: records before it were exchanged.
        if lo != hi || reason == "truncated" {
            self.inbox.push(Delivery::Gap {
                tp: self.tp.clone(),
                claim: self.claim,
                gap: super::Gap { lo, hi, reason },
            });
        }
        self.floor = hi;
        self.deliver_from = hi;
        self.hinted = self.hinted.min(hi);
        self.open = Batch::new(self.tp.clone(), self.claim, self.mode, hi, false);
    }

    /// Stops the partition until an operator has looked, and says so.
    pub(super) fn halt(&mut self, reason: &'static str) {
        self.flush();
        self.halted = Some(reason);
        self.halted_at = Some(Instant::now());
        self.inbox.push(Delivery::Halted {
            tp: self.tp.clone(),
            claim: self.claim,
            offset: self.next.max(self.open.lo),
            reason,
        });
    }

    /// Whether every record up to Kafka's end was delivered.
    pub(super) fn is_at_end(&self) -> bool {
        self.next.max(self.end) >= self.high
    }

    /// Whether anything of the partition waits to be applied.
    pub(super) fn is_pending(&self) -> bool {
        !self.open.is_empty() || self.applied < self.next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn slot(next: i64, start: i64, from: i64, last: Option<Fingerprint>) -> Slot<()> {
        let tp = TopicPartition {
            topic: "t".into(),
            partition: 0,
        };
        let claim = Claimed {
            id: Uuid::nil(),
            next_offset: next,
            start,
            last,
            halted: None,
            state: (),
        };
        Slot::new(tp, TopicMode::Sealed, &claim, from, Inbox::default())
    }

    fn record(offset: i64) -> Fetched<'static> {
        Fetched {
            offset,
            ts_ms: offset * 10,
            key: None,
            value: Some(b"{}"),
        }
    }

    fn deliveries(s: &mut Slot<()>) -> Vec<(i64, i64, usize, bool)> {
        s.flush();
        let taken = s.inbox.take(Duration::ZERO).expect("open");
        taken
            .into_iter()
            .map(|d| match d {
                Delivery::Batch(b) => (b.lo, b.hi, b.len(), b.replay),
                Delivery::Gap { gap, .. } => (gap.lo, gap.hi, 0, false),
                _ => (0, 0, 0, false),
            })
            .collect()
    }

    #[test]
    fn replay_ends_at_the_applied_offset_also_over_a_hole() {
        let mut s = slot(10, 6, 6, None);
        for o in [6, 7, 8, 11, 12] {
            assert_eq!(s.take(&record(o), std::iter::empty()), Taken::Yes);
        }
        assert_eq!(
            deliveries(&mut s),
            vec![(6, 9, 3, true), (10, 13, 2, false)]
        );
    }

    #[test]
    fn the_last_applied_record_is_compared_and_not_delivered() {
        let good = Some(record(9).fingerprint());
        let mut s = slot(10, 10, 9, good);
        assert_eq!(s.take(&record(9), std::iter::empty()), Taken::Yes);
        assert_eq!(s.take(&record(10), std::iter::empty()), Taken::Yes);
        assert_eq!(deliveries(&mut s), vec![(10, 11, 1, false)]);

        let mut other = slot(10, 10, 9, Some(record(8).fingerprint()));
        assert_eq!(other.take(&record(9), std::iter::empty()), Taken::Truncated);
    }

    #[test]
    fn what_was_read_goes_before_the_gap() {
        let mut s = slot(10, 10, 10, None);
        s.take(&record(10), std::iter::empty());
        s.skip_to(50, "retention");
        assert_eq!(s.take(&record(20), std::iter::empty()), Taken::Stale);
        s.take(&record(50), std::iter::empty());
        assert_eq!(
            deliveries(&mut s),
            vec![(10, 11, 1, false), (11, 50, 0, false), (50, 51, 1, false)]
        );
    }

    #[test]
    fn markers_behind_the_last_record_are_the_end_until_a_record_comes() {
        let mut s = slot(10, 10, 10, None);
        s.take(&record(10), std::iter::empty());
        s.high = 12;
        assert!(!s.is_at_end(), "11 may be a record");
        s.end = 12;
        assert!(s.is_at_end());
        s.high = 14;
        assert!(!s.is_at_end(), "12 and 13 are not known");
        s.take(&record(13), std::iter::empty());
        assert!(s.is_at_end());
    }

    #[test]
    fn a_lost_replay_is_no_gap() {
        let mut s = slot(10, 2, 2, None);
        s.skip_to(6, "retention");
        for o in 6..11 {
            s.take(&record(o), std::iter::empty());
        }
        assert_eq!(
            deliveries(&mut s),
            vec![(6, 10, 4, true), (10, 11, 1, false)]
        );
    }
}
