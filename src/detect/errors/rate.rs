//! What share of the requests of one place usually fails, and the tests against it.

use super::What;
use crate::detect::config;
use crate::detect::wire::{Damaged, Reader, Writer};

/// Kinds of failures.
pub(super) const KINDS: usize = 4;
/// Kinds that the checkpoints before this format knew.
const OLD_KINDS: usize = 2;
/// Minutes of the longest window.
const RING: usize = 5;
/// Windows judged, minutes.
const WINDOWS: [usize; 4] = [1, 2, 3, 5];
/// Memory of the baseline: it forgets by 1/e in this many minutes.
const MEMORY_MINUTES: f64 = 1_440.0;
/// The baseline is never believed to fail less often than this.
const LEAST_SHARE: f64 = 0.001;
/// Failures that are believed to have been before any were.
const PRIOR: f64 = 2.0;
/// Failures needed, for a ticket and for a page.
const LEAST_FAILURES: u64 = 3;
const PAGE_FAILURES: u64 = 5;
/// What is a caller's habit more often than a fault must be this much as surprising.
const HABIT: f64 = 2.0;
/// Share of failures that fires whatever the baseline, and requests it needs.
const CEILING: f64 = 0.5;
const CEILING_REQUESTS: u64 = 20;
/// The same for rejections and blocks: nearly all of the requests.
const NEARLY_ALL: f64 = 0.9;
/// Rejections page when fewer than this part of the usual requests still succeeds: many more bad requests
/// beside the usual good ones are somebody's loop, and no outage.
const STILL_GOOD: f64 = 0.5;

/// One minute of a place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Minute {
    pub(super) requests: u64,
    pub(super) failures: [u64; KINDS],
    pub(super) timeouts: u64,
    /// Rejections by 401, 403 or 404.
    pub(super) denied: u64,
}

impl Minute {
    fn good(&self) -> u64 {
        let bad: u64 = self.failures.iter().sum();
        self.requests.saturating_sub(bad)
    }

    fn add(&mut self, o: &Self) {
        self.requests += o.requests;
        for (a, b) in self.failures.iter_mut().zip(o.failures) {
            *a += b;
        }
        self.timeouts += o.timeouts;
        self.denied += o.denied;
    }
}

/// The baseline and the last minutes of one place.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rate {
    born: i64,
    pub(super) last: i64,
    /// Decayed requests and failures.
    requests: f64,
    failures: [f64; KINDS],
    /// Requests ever, saturating: for learning.
    seen: u64,
    /// Decayed squares of the failures of a minute less those expected.
    squares: [f64; KINDS],
    /// Newest first.
    ring: [Minute; RING],
}

/// Too many failures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Excess {
    pub(super) failures: u64,
    pub(super) window: Minute,
    pub(super) minutes: usize,
    pub(super) usual: f64,
    pub(super) page: bool,
    /// So bad that it must never become usual.
    hold: bool,
}

impl Excess {
    pub(super) fn share(&self) -> f64 {
        self.failures as f64 / self.window.requests.max(1) as f64
    }
}

impl What {
    /// Share that fires whatever the baseline.
    fn ceiling(self) -> f64 {
        match self {
            Self::Errors | Self::Throttled => CEILING,
            Self::Rejected | Self::Blocked => NEARLY_ALL,
        }
    }

    /// Share below which it is nobody's outage, however surprising.
    fn least_share(self) -> f64 {
        match self {
            Self::Errors | Self::Throttled => 0.0,
            Self::Rejected => 0.5,
            Self::Blocked => 0.1,
        }
    }

    /// Minutes that a ticket needs: a client that is started with a wrong key is corrected within the first.
    fn ticket_minutes(self) -> usize {
        match self {
            Self::Errors | Self::Throttled => 1,
            Self::Rejected | Self::Blocked => 2,
        }
    }
}

impl Rate {
    pub(super) fn new(minute: i64) -> Self {
        Self {
            born: minute,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, minute: i64, now: Minute) {
        if now.requests > 0 {
            self.last = minute;
        }
        self.ring.rotate_right(1);
        self.ring[0] = now;
    }

    pub(super) fn judge(&self, what: What, config: &config::Errors, minute: i64) -> Option<Excess> {
        let learning =
            self.seen < config.learn_requests || minute - self.born < config.learn_minutes;
        let i = what as usize;
        let usual = if self.requests > 0.0 {
            self.failures[i] / self.requests
        } else {
            0.0
        };
        let believed = ((self.failures[i] + PRIOR) / (self.requests + 1.0)).max(LEAST_SHARE);
        // A surprise counts in clusters, not in failures.
        let cluster = ((self.squares[i] + PRIOR) / (self.failures[i] + PRIOR)).max(1.0);
        let least = match what {
            What::Errors => config.surprise,
            What::Throttled | What::Rejected | What::Blocked => HABIT * config.surprise,
        };
        let needed = least * cluster;
        WINDOWS.iter().find_map(|minutes| {
            let mut window = Minute::default();
            for m in &self.ring[..*minutes] {
                window.add(m);
            }
            let failures = window.failures[i];
            let mut excess = Excess {
                failures,
                window,
                minutes: *minutes,
                usual,
                page: false,
                hold: false,
            };
            let share = excess.share();
            let over_ceiling = share >= what.ceiling() && window.requests >= CEILING_REQUESTS;
            // While it learns, what it has seen so far may be the outage itself.
            let beyond = over_ceiling && (learning || share >= 2.0 * usual);
            let unusual = !learning
                && failures >= LEAST_FAILURES
                && share >= what.least_share()
                && share >= 2.0 * usual
                && surprise(failures, believed * window.requests as f64) >= needed;
            if !beyond && !unusual {
                return None;
            }
            excess.hold = share >= what.ceiling()
                && failures >= PAGE_FAILURES
                && (learning || what != What::Throttled);
            excess.page = failures >= PAGE_FAILURES
                && match what {
                    What::Errors => share >= config.page_share,
                    What::Throttled => false,
                    What::Rejected => {
                        let denied = window.denied as f64 / window.requests as f64;
                        !learning && denied >= NEARLY_ALL && self.is_down(&window, *minutes)
                    }
                    What::Blocked => {
                        !learning && share >= NEARLY_ALL && self.is_down(&window, *minutes)
                    }
                };
            (excess.page || *minutes >= what.ticket_minutes()).then_some(excess)
        })
    }

    /// Whether far fewer requests succeed than usual.
    fn is_down(&self, window: &Minute, minutes: usize) -> bool {
        let keep = (-1.0 / MEMORY_MINUTES).exp();
        let age = (self.last - self.born).max(1) as f64;
        let remembered = (1.0 - keep.powf(age)) / (1.0 - keep);
        let bad: f64 = self.failures.iter().sum();
        let usual = (self.requests - bad).max(0.0) / remembered;
        (window.good() as f64) < STILL_GOOD * usual * minutes as f64
    }

    /// Learns the newest minute. Abnormal minutes are learnt a tenth as fast, so that a new normal becomes
    /// normal within days; an outage never does.
    pub(super) fn learn(&mut self, verdicts: &[Option<Excess>; KINDS]) {
        let now = self.ring[0];
        let mut rate = 1.0;
        for v in verdicts.iter().flatten() {
            rate = if v.hold { 0.0 } else { f64::min(rate, 0.1) };
            if v.hold {
                break;
            }
        }
        let keep = (-1.0 / MEMORY_MINUTES).exp();
        let before = self.requests.max(1.0);
        self.requests = self.requests * keep + rate * now.requests as f64;
        for i in 0..KINDS {
            let usual = self.failures[i] / before;
            let off = now.failures[i] as f64 - usual * now.requests as f64;
            self.squares[i] = self.squares[i] * keep + rate * off * off;
            self.failures[i] = self.failures[i] * keep + rate * now.failures[i] as f64;
        }
        if rate > 0.0 {
            self.seen = self.seen.saturating_add(now.requests);
        }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.i64(self.born);
        w.i64(self.last);
        w.f64(self.requests);
        w.u64(self.seen);
        for i in 0..KINDS {
            w.f64(self.failures[i]);
            w.f64(self.squares[i]);
        }
        for m in &self.ring {
            for n in [m.requests, m.timeouts, m.denied] {
                w.u64(n);
            }
            for n in m.failures {
                w.u64(n);
            }
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut k = Self {
            born: r.i64()?,
            last: r.i64()?,
            requests: r.f64()?,
            seen: r.u64()?,
            ..Self::default()
        };
        for i in 0..KINDS {
            k.failures[i] = r.f64()?;
            k.squares[i] = r.f64()?;
        }
        for m in &mut k.ring {
            m.requests = r.u64()?;
            m.timeouts = r.u64()?;
            m.denied = r.u64()?;
            for n in &mut m.failures {
                *n = r.u64()?;
            }
        }
        Ok(k)
    }

    /// Reads a format before this one. `clusters`: it knew of them.
    pub(super) fn decode_old(r: &mut Reader<'_>, clusters: bool) -> Result<Self, Damaged> {
        let mut k = Self {
            born: r.i64()?,
            last: r.i64()?,
            requests: r.f64()?,
            ..Self::default()
        };
        for n in &mut k.failures[..OLD_KINDS] {
            *n = r.f64()?;
        }
        k.seen = r.u64()?;
        for m in &mut k.ring {
            m.requests = r.u64()?;
            for n in &mut m.failures[..OLD_KINDS] {
                *n = r.u64()?;
            }
            m.timeouts = r.u64()?;
        }
        for _ in 0..OLD_KINDS {
            let _told = r.option(Reader::i64)?;
        }
        if clusters {
            for n in &mut k.squares[..OLD_KINDS] {
                *n = r.f64()?;
                let _paged = r.bool()?;
            }
        }
        Ok(k)
    }
}

/// −log₁₀ of a bound on the chance of `count` or more where `expected` are usual (Chernoff, Poisson).
pub(in crate::detect) fn surprise(count: u64, expected: f64) -> f64 {
    let k = count as f64;
    if k <= expected || expected <= 0.0 {
        return 0.0;
    }
    (k * (k / expected).ln() - (k - expected)) / std::f64::consts::LN_10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_grows_with_the_excess() {
        assert!(surprise(1, 1.0) < 1e-9);
        assert!(surprise(10, 1.0) > 5.0);
        assert!(surprise(100, 90.0) < 1.0);
        assert!(surprise(0, 0.0) < 1e-9);
    }

    #[test]
    fn the_format_before_keeps_what_it_knew() {
        let mut w = Writer::default();
        w.i64(3);
        w.i64(9);
        for x in [100.0, 7.0, 2.0] {
            w.f64(x);
        }
        w.u64(600);
        for _ in 0..RING {
            for n in [60, 5, 1, 2] {
                w.u64(n);
            }
        }
        w.option(Some(8), Writer::i64);
        w.option(None, Writer::i64);
        for _ in 0..OLD_KINDS {
            w.f64(0.5);
            w.bool(true);
        }
        let mut r = Reader::new(&w.0);
        let k = Rate::decode_old(&mut r, true).expect("old");
        assert!(r.is_at_end());
        assert_eq!(
            k.failures.map(f64::to_bits),
            [7.0, 2.0, 0.0, 0.0].map(f64::to_bits)
        );
        assert_eq!(k.ring[4].failures, [5, 1, 0, 0]);
        assert_eq!((k.ring[0].timeouts, k.seen), (2, 600));
    }
}
