//! The test of a fat tail: how many samples of the last minutes lie beyond an edge that a usual day
//! hardly ever passes.
//!
//! Several edges are tried, from a third above the usual 99th percentile upwards: few slow requests far
//! out say as much as many just outside. What is usual beyond an edge is counted a little inside of it,
//! since the whole of a distribution moves with its level, and is never believed to be nothing. The
//! slow ones must lie in two minutes or be most of the requests: a hiccup of a moment is no tail.

use super::usual::{BUCKETS, STEP, bucket};
use crate::detect::errors::surprise;

/// Windows judged, minutes.
pub(super) const WINDOWS: [usize; 9] = [1, 2, 3, 4, 6, 8, 12, 20, 30];
/// The first edge, as a multiple of the usual 99th percentile; and how many buckets lie between edges.
const FIRST: f64 = 1.3;
const BETWEEN: usize = 4;
const EDGES: usize = 10;
/// Deviations of the level by which the usual share is counted inside of an edge.
const INSIDE: f64 = 2.0;
/// Samples that are believed to have lain beyond every edge before any did.
const PRIOR: f64 = 2.0;
/// Samples beyond an edge that are needed, and the minutes they must lie in.
const LEAST: u64 = 3;
const SPREAD: usize = 2;
/// −log₁₀ of the chance from which it fires.
const SURPRISE: f64 = 5.0;

/// What a fat tail is told by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tail {
    /// The edge, as a multiple of the usual 99th percentile.
    pub(super) edge: f64,
    pub(super) beyond: u64,
    pub(super) expected: f64,
    pub(super) samples: u64,
    pub(super) minutes: usize,
    surprise: f64,
}

/// A usual day, prepared for a minute's windows.
pub(super) struct Test {
    first: usize,
    inside: usize,
    usual: Vec<f64>,
    /// Highest bucket of each minute, newest first.
    highest: Vec<usize>,
    best: Option<Tail>,
}

impl Test {
    /// `usual`: how much of a day lies from each bucket on; `p99` its 99th percentile; `deviation` how
    /// far the level wanders (logarithm).
    pub(super) fn new(usual: Vec<f64>, p99: f64, deviation: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number of buckets; a float's cast saturates"
        )]
        let inside = (INSIDE * deviation / STEP)
            .ceil()
            .clamp(0.0, BUCKETS as f64) as usize;
        Self {
            first: bucket(p99 * FIRST),
            inside,
            usual,
            highest: Vec::new(),
            best: None,
        }
    }

    /// The next older minute has come into the window.
    pub(super) fn minute(&mut self, ratios: &[(u8, u32)]) {
        self.highest
            .push(ratios.last().map_or(0, |r| usize::from(r.0)));
    }

    /// Judges the window of all minutes so far: its counts from each bucket on.
    pub(super) fn window(&mut self, counts: &[u64], samples: u64) {
        let mut beyond: u64 = counts.iter().skip(self.first).sum();
        let mut from = self.first;
        for n in 0..EDGES {
            let edge = self.first + n * BETWEEN;
            if edge >= BUCKETS {
                return;
            }
            beyond -= counts[from..edge].iter().sum::<u64>();
            from = edge;
            if beyond < LEAST {
                return;
            }
            let minutes = self.highest.iter().filter(|h| **h >= edge).count();
            if minutes < SPREAD && beyond * 2 <= samples {
                continue;
            }
            let share = (self.usual[edge.saturating_sub(self.inside)] + PRIOR)
                / (self.usual[0] + 2.0 * PRIOR);
            let expected = share * samples as f64;
            let surprise = surprise(beyond, expected);
            if surprise >= SURPRISE && self.best.as_ref().is_none_or(|b| surprise > b.surprise) {
                self.best = Some(Tail {
                    edge: FIRST * (STEP * (n * BETWEEN) as f64).exp(),
                    beyond,
                    expected,
                    samples,
                    minutes: self.highest.len(),
                    surprise,
                });
            }
        }
    }

    /// The least likely of all windows and edges.
    pub(super) fn best(self) -> Option<Tail> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of 10,000 ratios around 1, one in a hundred at 2.
    fn usual() -> Vec<f64> {
        let mut out = vec![0.0; BUCKETS + 1];
        for (b, v) in out.iter_mut().enumerate() {
            *v = if b <= bucket(1.0) {
                10_000.0
            } else if b <= bucket(2.0) {
                100.0
            } else {
                0.0
            };
        }
        out
    }

    /// Minutes of 30 requests of which some have the ratio.
    fn judge(slow: &[u32], ratio: f64) -> Option<Tail> {
        let mut test = Test::new(usual(), 2.0, 0.1);
        let mut counts = vec![0; BUCKETS];
        for (i, n) in slow.iter().enumerate() {
            let far = u8::try_from(bucket(ratio)).expect("bucket");
            let one = u8::try_from(bucket(1.0)).expect("bucket");
            let mut minute = vec![(one, 30 - n)];
            if *n > 0 {
                minute.push((far, *n));
            }
            for (b, n) in &minute {
                counts[usize::from(*b)] += u64::from(*n);
            }
            test.minute(&minute);
            if WINDOWS.contains(&(i + 1)) {
                test.window(&counts, 30 * (i as u64 + 1));
            }
        }
        test.best()
    }

    #[test]
    fn a_few_far_out_in_two_minutes_are_a_tail_and_a_moment_is_none() {
        let t = judge(&[1, 1, 1, 0], 5.0).expect("tail");
        assert_eq!((t.beyond, t.minutes, t.samples), (3, 3, 90));
        assert!(t.expected < 0.1 && t.edge > 1.2);
        assert_eq!(judge(&[5, 0, 0, 0], 5.0), None, "one minute");
        assert!(judge(&[20], 5.0).is_some(), "unless it is most of them");
        assert_eq!(judge(&[1, 0, 0, 1], 5.0), None, "two");
        assert_eq!(judge(&[1; 12], 2.0), None, "within what is usual");
    }
}
