//! The ratios of a day: a histogram with buckets of 5 % that forgets.

use crate::detect::wire::{Damaged, Reader, Writer};

/// Buckets of the ratio, 5 % each, from [`LOWEST`].
pub(super) const BUCKETS: usize = 200;
/// Lowest ratio told apart.
const LOWEST: f64 = 0.02;
/// Logarithm of the bucket width.
pub(super) const STEP: f64 = 0.048_790_164_169_432;

/// The bucket of a ratio.
pub(super) fn bucket(ratio: f64) -> usize {
    let b = ((ratio / LOWEST).max(1.0).ln() / STEP).min(BUCKETS as f64 - 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and BUCKETS"
    )]
    let b = b as usize;
    b
}

/// A quantile of counted ratios, interpolated within its bucket (5 % would be too coarse).
pub(super) fn interpolate(counts: impl Iterator<Item = f64> + Clone, q: f64) -> f64 {
    let at = q * counts.clone().sum::<f64>();
    let mut below = 0.0;
    for (b, n) in counts.enumerate() {
        if n > 0.0 && below + n >= at {
            let part = (at - below) / n;
            return LOWEST * ((b as f64 + part) * STEP).exp();
        }
        below += n;
    }
    1.0
}

/// Decayed counts by ratio bucket; empty before the first sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Usual(Vec<f32>);

impl Usual {
    pub(super) fn quantile(&self, q: f64) -> f64 {
        interpolate(self.0.iter().map(|c| f64::from(*c)), q)
    }

    /// How much there is from each bucket on; one more entry than buckets.
    pub(super) fn beyond_each(&self) -> Vec<f64> {
        let mut out = vec![0.0; BUCKETS + 1];
        for (b, n) in self.0.iter().enumerate().rev() {
            out[b] = out[b + 1] + f64::from(*n);
        }
        out
    }

    /// Keeps so much of what there is and adds a minute.
    pub(super) fn learn(&mut self, keep: f64, minute: &[(u8, u32)]) {
        self.0.resize(BUCKETS, 0.0);
        #[expect(clippy::cast_possible_truncation, reason = "a factor near one")]
        let keep = keep as f32;
        for c in &mut self.0 {
            *c *= keep;
        }
        for (b, n) in minute {
            #[expect(clippy::cast_precision_loss, reason = "a count of one minute")]
            let n = *n as f32;
            self.0[usize::from(*b)] += n;
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.bool(!self.0.is_empty());
        let mut i = 0;
        // Runs of zeros are most of it.
        while i < self.0.len() {
            let zeros = self.0[i..].iter().take_while(|c| **c == 0.0).count();
            w.len(zeros);
            i += zeros;
            let full = self.0[i..].iter().take_while(|c| **c != 0.0).count();
            w.len(full);
            for c in &self.0[i..i + full] {
                w.f32(*c);
            }
            i += full;
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut counts: Vec<f32> = Vec::new();
        if r.bool()? {
            while counts.len() < BUCKETS {
                let zeros: usize = r.small()?;
                if zeros > BUCKETS - counts.len() {
                    return Err(r.damaged());
                }
                counts.resize(counts.len() + zeros, 0.0);
                let full: usize = r.small()?;
                if full > BUCKETS - counts.len() || zeros + full == 0 {
                    return Err(r.damaged());
                }
                for _ in 0..full {
                    counts.push(r.f32()?);
                }
            }
        }
        Ok(Self(counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_a_bucket_and_survive_their_bytes() {
        let mut u = Usual::default();
        for i in 1..=1_000 {
            let b = u8::try_from(bucket(f64::from(i) / 500.0)).expect("bucket");
            u.learn(1.0, &[(b, 1)]);
        }
        for q in [0.1, 0.5, 0.9, 0.99] {
            let found = u.quantile(q) / (2.0 * q);
            assert!((0.95..1.05).contains(&found), "{q}: {found}");
        }
        let above = u.beyond_each();
        assert!((above[0] - 1_000.0).abs() < 1e-6);
        assert!((above[bucket(1.0)] - 500.0).abs() < 30.0);
        let mut w = Writer::default();
        u.encode(&mut w);
        assert_eq!(Usual::decode(&mut Reader::new(&w.0)), Ok(u));
    }
}
