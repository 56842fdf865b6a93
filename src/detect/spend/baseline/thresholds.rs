//! From where the tests of [`super`] fire. Chosen together on the real users of a public trace, on both
//! of its weeks, at one false alarm per user-month (`docs/DETECTION.md`).

use crate::detect::spend::daily::Prior;

/// Logarithm of the least of two and of four bins over the record.
pub(super) const RECORDS: [f32; 2] = [1.2, 0.48];
/// A record is no less than this many times the mean of a bin.
pub(super) const MATERIAL: [f32; 2] = [8.0, 9.0];
/// Deviations of the least of two bins above the usual day's peak, and times the mean.
pub(super) const PEAK: f32 = 4.3;
pub(super) const PEAK_MATERIAL: f32 = 8.5;
/// Bins that spending must hold, logarithm of the least of them over the days before, and times the mean
/// (a mean that grows is no excess).
pub(super) const HOLD_BINS: usize = 20;
pub(super) const HOLD: f32 = 0.33;
pub(super) const HOLD_MATERIAL: f32 = 0.35;
/// Deviations of the four hours' ratio above the usual day's.
pub(super) const UNLIKE: f32 = 6.0;
/// Bins after an alarm (a day) in which only what is worse alarms again, and by how much.
pub(super) const TOLD_BINS: i64 = 144;
pub(super) const WORSE: f32 = 1.25;
/// Per bin, what is left of the highest score of a record: half in 24 days.
pub(super) const HIGHEST_DECAY: f32 = 0.999_8;

/// What is believed of a peak's spread before it is known: half a power of e for three days.
pub(super) const PEAK_PRIOR: Prior = Prior {
    deviation: 0.5,
    days: 3.0,
};
/// The same for the four hours' ratio.
pub(super) const UNLIKE_PRIOR: Prior = Prior {
    deviation: 0.3,
    days: 4.0,
};
/// Parts of the mean that are added before a logarithm, so that a change of little is little: to a peak,
/// to what holds (who usually pauses has a highest of nothing), and to the four hours.
pub(super) const PEAK_FLOOR: f32 = 0.5;
pub(super) const HOLD_FLOOR: f32 = 1.0;
pub(super) const UNLIKE_FLOOR: f32 = 0.15;
