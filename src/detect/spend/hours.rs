//! Twenty-four logarithms by the hour of the day, two bytes each.

use crate::detect::wire::{Damaged, Reader, Writer};

/// Steps of a logarithm: 0.1 %, up to ±36, which holds everything from 10⁻¹⁵ to 10¹⁵.
const STEPS: f32 = 900.0;

/// What each hour of the day usually is, as logarithms; rounded at once, so that what is stored is
/// what was computed with.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Hours {
    logs: [i16; 24],
    /// How often each was learnt, saturating.
    seen: [u8; 24],
}

impl Hours {
    /// The logarithm of an hour, if it was ever learnt.
    pub(super) fn log(&self, hour: usize) -> Option<f32> {
        (self.seen[hour] > 0).then(|| f32::from(self.logs[hour]) / STEPS)
    }

    /// How often an hour was learnt.
    pub(super) fn seen(&self, hour: usize) -> u8 {
        self.seen[hour]
    }

    /// Replaces an hour's logarithm; one more was seen.
    pub(super) fn set(&mut self, hour: usize, log: f32) {
        #[expect(clippy::cast_possible_truncation, reason = "clamped; NaN becomes 0")]
        let steps = (log * STEPS)
            .round()
            .clamp(f32::from(i16::MIN), f32::from(i16::MAX)) as i16;
        self.logs[hour] = steps;
        self.seen[hour] = self.seen[hour].saturating_add(1);
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        for (log, seen) in self.logs.iter().zip(self.seen) {
            w.u8(seen);
            if seen > 0 {
                w.0.extend_from_slice(&log.to_le_bytes());
            }
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut h = Self::default();
        for i in 0..24 {
            h.seen[i] = r.u8()?;
            if h.seen[i] > 0 {
                h.logs[i] = i16::from_le_bytes([r.u8()?, r.u8()?]);
            }
        }
        Ok(h)
    }
}
