//! The state of one user: spending baseline and recent injection attempts. Home: partition, in a row
//! of at most [`MAX_BYTES`].

use super::spend;
use super::wire::{Damaged, Reader, Writer};
use crate::event::Time;

/// Largest encoded state: a million users are 700 MB in Postgres.
pub const MAX_BYTES: usize = 700;
/// Format of a row. Older ones are read: 2 knew nothing of spending that holds; of 1 the bins and
/// attempts stay, what is learnt by the day begins anew.
const FORMAT: u8 = 3;
/// Attempts remembered.
pub const ATTEMPTS: usize = 4;

/// What is known about one user.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserState {
    /// Offset up to which (exclusive) this state is applied.
    pub as_of: i64,
    /// Whether it differs from the stored row.
    pub dirty: bool,
    /// Whether there was a row of it, here or of another partition. Not part of the row.
    pub stored: bool,
    /// End of the first event: a baseline learns from here.
    pub born: Option<Time>,
    /// Spending.
    pub spend: spend::Baseline,
    /// Ends of the latest injection attempts, newest first.
    pub attempts: [Option<Time>; ATTEMPTS],
    /// End of the latest attempt that the gateway allowed.
    pub allowed: Option<Time>,
}

impl UserState {
    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(FORMAT);
        w.option(self.born, |w, t| w.i64(t.0));
        w.option(self.allowed, |w, t| w.i64(t.0));
        let n = self.attempts.iter().flatten().count();
        w.len(n);
        for t in self.attempts.iter().flatten() {
            w.i64(t.0);
        }
        self.spend.encode(&mut w);
        w.0
    }

    /// Reads a row back.
    pub fn decode(as_of: i64, bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes);
        let format = r.u8()?;
        if !(1..=FORMAT).contains(&format) {
            return Err(r.damaged());
        }
        let mut s = Self {
            as_of,
            born: r.option(|r| r.i64().map(Time))?,
            allowed: r.option(|r| r.i64().map(Time))?,
            ..Self::default()
        };
        for i in 0..r.len()? {
            *s.attempts.get_mut(i).ok_or(r.damaged())? = Some(Time(r.i64()?));
        }
        s.spend = match format {
            1 => spend::Baseline::decode_v1(&mut r)?,
            2 => spend::Baseline::decode_v2(&mut r)?,
            _ => spend::Baseline::decode(&mut r)?,
        };
        Ok(s)
    }

    /// Whether the user was seen before: somebody who has a history.
    pub fn is_known(&self) -> bool {
        self.stored || self.born.is_some()
    }

    /// Remembers an attempt.
    pub fn attempt(&mut self, end: Time, allowed: bool) {
        self.attempts.rotate_right(1);
        self.attempts[0] = Some(end);
        if allowed {
            self.allowed = self.allowed.max(Some(end));
        }
    }

    /// Remembered attempts between `from` and `to`, both inclusive.
    pub fn attempts_between(&self, from: Time, to: Time) -> usize {
        self.attempts
            .iter()
            .flatten()
            .filter(|t| from <= **t && **t <= to)
            .count()
    }
}
