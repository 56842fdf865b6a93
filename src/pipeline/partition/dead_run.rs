//! Dead letters without an event between them: a gateway was deployed that speaks another language.

/// So many in a row are told of, and again for each so many more. The partition goes on: whoever may write to
/// it could else end the watch on everybody in it.
const TELL_AT: u64 = 1_000;

/// How many there were since the last event.
#[derive(Debug, Default)]
pub(super) struct DeadRun(u64);

impl DeadRun {
    /// Takes a batch's offsets, both rising, and returns those at which the run was a thousand, or some
    /// thousands: the same ones however batches were cut.
    pub(super) fn take(
        &mut self,
        events: impl Iterator<Item = i64>,
        dead: impl Iterator<Item = i64>,
    ) -> Vec<i64> {
        let mut told = Vec::new();
        let mut events = events.peekable();
        for dead in dead {
            while events.next_if(|e| *e < dead).is_some() {
                self.0 = 0;
            }
            self.0 += 1;
            if self.0.is_multiple_of(TELL_AT) {
                told.push(dead);
            }
        }
        if events.next().is_some() {
            self.0 = 0;
        }
        told
    }
}
