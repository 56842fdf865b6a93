//! A straight line through decayed sums: what a value usually is, given another.

use crate::detect::wire::{Damaged, Reader, Writer};

/// Weight a slope needs.
const SLOPE_FROM: f64 = 50.0;

/// Decayed sums of x (prompt tokens, or requests a minute) and y.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    /// How much has been added, less what was forgotten.
    pub(super) fn weight(&self) -> f64 {
        self.n
    }

    /// What y usually is at x; 0 before the first value.
    pub(super) fn predict(&self, x: f64) -> f64 {
        if self.n < 1.0 {
            return 0.0;
        }
        let (mx, my) = (self.x / self.n, self.y / self.n);
        let var = self.xx / self.n - mx * mx;
        let cov = self.xy / self.n - mx * my;
        // A slope needs values that differ; it is never negative.
        let slope = if var > 1.0 && self.n >= SLOPE_FROM {
            (cov / var).max(0.0)
        } else {
            0.0
        };
        (my + slope * (x - mx)).max(0.1 * my).max(1e-3)
    }

    /// What y usually is at x, as a multiple of its mean.
    pub(super) fn relative(&self, x: f64) -> f64 {
        self.predict(x) / (self.y / self.n).max(1e-3)
    }

    pub(super) fn add(&mut self, x: f64, y: f64, n: f64) {
        self.n += n;
        self.x += n * x;
        self.y += n * y;
        self.xx += n * x * x;
        self.xy += n * x * y;
    }

    pub(super) fn fade(&mut self, keep: f64) {
        for v in [
            &mut self.n,
            &mut self.x,
            &mut self.y,
            &mut self.xx,
            &mut self.xy,
        ] {
            *v *= keep;
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        for v in [self.n, self.x, self.y, self.xx, self.xy] {
            w.f64(v);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            n: r.f64()?,
            x: r.f64()?,
            y: r.f64()?,
            xx: r.f64()?,
            xy: r.f64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_found_carried_beyond_what_was_seen_and_never_negative() {
        let (mut up, mut down) = (Line::default(), Line::default());
        for i in 0..200 {
            let x = f64::from(i % 20);
            up.add(x, 10.0 + 2.0 * x, 1.0);
            down.add(x, 100.0 - x, 1.0);
        }
        assert!((up.predict(40.0) - 90.0).abs() < 1e-6);
        assert!((up.relative(9.5) - 1.0).abs() < 1e-6);
        assert!((down.predict(40.0) - 90.5).abs() < 1e-6);
        up.fade(0.01);
        assert!(
            (up.predict(40.0) - 29.0).abs() < 1e-6,
            "too little is left for a slope"
        );
    }
}
