//! The bytes of a baseline: part of a user's row and of the leader's checkpoint.

use super::{Baseline, HOUR, LEARN_BINS, RING};
use crate::detect::spend::best::Best;
use crate::detect::spend::crowd::Steady;
use crate::detect::spend::daily::Daily;
use crate::detect::spend::hours::Hours;
use crate::detect::wire::{Damaged, Reader, Writer};

impl Baseline {
    pub(in crate::detect) fn encode(&self, w: &mut Writer) {
        w.option(self.bin, Writer::i64);
        if self.bin.is_none() {
            return;
        }
        w.f32(self.open);
        // In order of age, so that the place in the ring need not be kept; pauses take a bit.
        let values = (1..=RING).map(|i| self.back(i));
        let mut mask = 0u64;
        for (i, x) in values.clone().enumerate() {
            mask |= u64::from(x != 0.0) << i;
        }
        w.u64(mask);
        for x in values.filter(|x| *x != 0.0) {
            w.f32(x);
        }
        w.u64(u64::from(self.closed));
        for x in [self.mean, self.hour_peak]
            .into_iter()
            .chain(self.records)
            .chain(self.highest)
        {
            w.f32(x);
        }
        self.peak.encode(w);
        self.unlike.encode(w);
        self.hours.encode(w);
        self.steady.encode(w);
        w.option(self.told, Writer::i64);
        self.hold.encode(w);
    }

    pub(in crate::detect) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut b = Self::decode_v2(r)?;
        if b.bin.is_some() {
            b.hold = Best::decode(r)?;
        }
        Ok(b)
    }

    /// Reads the format before this one, which knew nothing of what holds.
    pub(in crate::detect) fn decode_v2(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut b = Self {
            bin: r.option(Reader::i64)?,
            ..Self::default()
        };
        if b.bin.is_none() {
            return Ok(b);
        }
        b.open = r.f32()?;
        b.at = RING - 1;
        let mask = r.u64()?;
        for i in 0..RING {
            if mask >> i & 1 == 1 {
                b.ring[RING - 1 - i] = r.f32()?;
            }
        }
        b.closed = r.small()?;
        b.mean = r.f32()?;
        b.hour_peak = r.f32()?;
        b.records = [r.f32()?, r.f32()?];
        b.highest = [r.f32()?, r.f32()?];
        b.peak = Daily::decode(r)?;
        b.unlike = Daily::decode(r)?;
        b.hours = Hours::decode(r)?;
        b.steady = Steady::decode(r)?;
        b.told = r.option(Reader::i64)?;
        Ok(b)
    }

    /// Reads the format before that: the bins, the mean and the last alarm are kept, what is
    /// learnt by the day begins anew.
    pub(in crate::detect) fn decode_v1(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        const OLD_RING: usize = 36;
        let mut b = Self {
            bin: r.option(Reader::i64)?,
            ..Self::default()
        };
        if b.bin.is_none() {
            return Ok(b);
        }
        b.open = r.f32()?;
        b.at = RING - 1;
        let mask = r.u64()?;
        for i in 0..OLD_RING {
            if mask >> i & 1 == 1 {
                let x = r.f32()?;
                if i < RING {
                    b.ring[RING - 1 - i] = x;
                }
            }
        }
        let closed: u32 = r.small()?;
        // An hour's mean, then scale, level, deviation, the record of an hour, the highest score.
        let [hour, _, _, _, record, _] =
            [r.f32()?, r.f32()?, r.f32()?, r.f32()?, r.f32()?, r.f32()?];
        b.mean = hour / HOUR as f32;
        b.records = [record / HOUR as f32; 2];
        for _ in 0..24 {
            if r.u8()? > 0 {
                r.f32()?;
            }
        }
        b.told = r.option(Reader::i64)?;
        // The tests by the day and the profiles begin anew, the mean and the records stay.
        b.closed = closed.min(LEARN_BINS);
        Ok(b)
    }
}
