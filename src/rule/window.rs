//! Rules that count: the n-th hit of one user, session or key within a time.
//!
//! The engine reports single hits; whoever knows time and identity (the injection detector, the
//! test runner) keeps a [`Counter`] per (rule, subject).

use std::collections::VecDeque;

/// How many hits, in how much time, of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Hits needed.
    pub count: u32,
    /// Milliseconds.
    pub within_ms: i64,
    /// Whose hits are counted together.
    pub by: Subject,
}

/// Whose hits are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One user.
    User,
    /// One session.
    Session,
    /// One API key.
    Key,
}

/// Most hits that a window may ask for: a counter keeps that many times.
pub const MAX_COUNT: u32 = 100;
/// Longest window, in milliseconds: a day.
pub const MAX_WITHIN_MS: i64 = 86_400_000;

/// The times of the newest hits of one subject.
#[derive(Debug, Clone, Default)]
pub struct Counter {
    times: VecDeque<i64>,
}

impl Counter {
    /// Adds a hit at `at_ms` (times may come in any order); true if the window is full with it.
    pub fn hit(&mut self, window: &Window, at_ms: i64) -> bool {
        let place = self.times.partition_point(|t| *t <= at_ms);
        self.times.insert(place, at_ms);
        let newest = self.times.back().copied().unwrap_or(at_ms);
        while self
            .times
            .front()
            .is_some_and(|t| newest - t > window.within_ms)
        {
            self.times.pop_front();
        }
        let full = self.times.len() >= window.count as usize;
        while self.times.len() > window.count as usize {
            self.times.pop_front();
        }
        full
    }
}

/// Reads `90s`, `10m`, `2h`, `1d` or `250ms` as milliseconds.
pub fn duration_ms(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: i64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_hit_within_the_time_counts() {
        let window = Window {
            count: 3,
            within_ms: 1_000,
            by: Subject::User,
        };
        let mut counter = Counter::default();
        assert!(!counter.hit(&window, 0));
        assert!(!counter.hit(&window, 900));
        assert!(
            !counter.hit(&window, 1_500),
            "the first has left the window"
        );
        assert!(counter.hit(&window, 1_600));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration_ms("10m"), Some(600_000));
        assert_eq!(duration_ms("10"), None);
        assert_eq!(duration_ms("m"), None);
        assert_eq!(duration_ms("99999999999999999d"), None);
    }
}
