//! Time as the core sees it: milliseconds since 1970-01-01T00:00:00Z, always an argument.
//!
//! The core has no clock. Parsing and printing RFC 3339 stand here because every stage needs them;
//! calendars and time zones (budget periods) are `account`'s business and use jiff.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

/// The last moment of the year 9999: RFC 3339 has four digits for the year.
const LAST: Time = Time(253_402_300_799_999);

impl Time {
    /// Later by `ms`, saturating.
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
    /// Earlier by `ms`, saturating.
    pub fn minus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_sub(ms))
    }
    /// Later by a finite, non-negative number of milliseconds; anything else is ignored.
    pub fn plus_ms_f64(self, ms: f64) -> Self {
        if ms.is_finite() && ms > 0.0 {
            // A duration above 10^15 ms (31,000 years) is nonsense; the clamp keeps the cast exact.
            #[expect(clippy::cast_possible_truncation, reason = "bounded by min")]
            self.plus_ms(ms.min(1e15) as i64)
        } else {
            self
        }
    }
    /// The minute this falls into, as minutes since the epoch.
    pub fn minute(self) -> i64 {
        self.0.div_euclid(60_000)
    }
    /// Start of a minute counted since the epoch.
    pub fn from_minute(minute: i64) -> Self {
        Self(minute.saturating_mul(60_000))
    }
    /// Milliseconds from `earlier` to `self`, negative if it is later.
    pub fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
    /// Parses RFC 3339 (`2026-11-21T07:00:00.123Z` or with an offset). `None` if it is not, or
    /// lies outside the years 0–9999.
    pub fn parse_rfc3339(s: &str) -> Option<Self> {
        // The common form is parsed by hand: it is on the hot path of every event.
        if let Some(t) = parse_utc(s.as_bytes()) {
            return Some(t);
        }
        s.parse::<jiff::Timestamp>()
            .ok()
            .map(|t| Self(t.as_millisecond()))
    }
}

/// `YYYY-MM-DDTHH:MM:SS[.f{1,9}]Z` only; everything else is left to jiff.
fn parse_utc(b: &[u8]) -> Option<Time> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        b.get(from..to)?.iter().try_fold(0i64, |n, c| {
            c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0'))
        })
    };
    if b.len() < 20
        || b[4] != b'-'
        || b[7] != b'-'
        || b[10] != b'T'
        || b[13] != b':'
        || b[16] != b':'
        || b[b.len() - 1] != b'Z'
    {
        return None;
    }
    let (y, mo, d) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (h, mi, s) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if !(1..=12).contains(&mo) || d < 1 || d > days_in_month(y, mo) || h > 23 || mi > 59 || s > 59 {
        return None;
    }
    let mut ms = 0;
    if b.len() > 20 {
        let frac = &b[20..b.len() - 1];
        if b[19] != b'.'
            || frac.is_empty()
            || frac.len() > 9
            || !frac.iter().all(u8::is_ascii_digit)
        {
            return None;
        }
        for i in 0..3 {
            ms = ms * 10 + frac.get(i).map_or(0, |c| i64::from(c - b'0'));
        }
    }
    let days = days_from_civil(y, mo, d);
    Some(Time(((days * 24 + h) * 60 + mi) * 60_000 + s * 1000 + ms))
}

fn days_in_month(y: i64, m: i64) -> i64 {
    match m {
        4 | 6 | 9 | 11 => 30,
        2 if y % 4 == 0 && (y % 100 != 0 || y % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + d - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

impl fmt::Display for Time {
    /// RFC 3339, UTC, milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) if self.0 < 0 => write!(f, "{:.3}", jiff::Timestamp::MIN),
            // The last 26 hours of the year 9999, which not every zone's clock could show; what is added to
            // them stays at their end.
            Err(_) => {
                let left = LAST.0 - self.0.min(LAST.0);
                let (day, ms) = (left / 86_400_000, 86_399_999 - left % 86_400_000);
                let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
                let (day, ms) = (31 - day, ms % 1_000);
                write!(f, "9999-12-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_path_equals_jiff() {
        for s in [
            "2026-11-21T07:00:00.123Z",
            "1970-01-01T00:00:00Z",
            "2024-02-29T23:59:59.999999999Z",
            "1999-12-31T23:59:59.5Z",
            "0001-01-01T00:00:00Z",
        ] {
            let ours = parse_utc(s.as_bytes()).expect(s);
            let theirs: jiff::Timestamp = s.parse().expect(s);
            assert_eq!(ours.0, theirs.as_millisecond(), "{s}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for s in [
            "",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "yesterday",
            "2026-11-21",
        ] {
            assert_eq!(Time::parse_rfc3339(s), None, "{s}");
        }
        assert_eq!(
            Time::parse_rfc3339("2026-11-21T08:00:00+01:00"),
            Time::parse_rfc3339("2026-11-21T07:00:00Z")
        );
    }

    #[test]
    fn prints_rfc3339() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
        // To the end of the calendar, also where jiff's clock ends before it.
        for at in [
            "9999-12-30T21:59:59.999Z",
            "9999-12-30T22:00:00.999Z",
            "9999-12-30T22:00:01.000Z",
            "9999-12-30T23:59:59.999Z",
            "9999-12-31T00:00:00.000Z",
            "9999-12-31T12:34:56.789Z",
            "9999-12-31T23:59:59.999Z",
        ] {
            assert_eq!(Time::parse_rfc3339(at).expect(at).to_string(), at);
        }
        let last = Time::parse_rfc3339("9999-12-31T23:59:59.999Z").expect("a time");
        assert_eq!(last, LAST);
        assert_eq!(Time(i64::MAX).to_string(), last.to_string());
    }
}
