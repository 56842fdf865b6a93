//! Which quiet is usual for a gateway, by the hour of the week (UTC).
//!
//! Each of the 168 hours keeps the longest quiet that touched it and the mean rate. A quiet touches all hours
//! it lies in, so a night or a weekend without traffic is known in each of its hours, and the busy ones know
//! short pauses only. A quiet counts in full until its hour has come again, then half of it each week:
//! what happened once is forgotten, what happens weekly is not.

use std::collections::BTreeMap;

/// Hours of a week.
const HOURS: i64 = 7 * 24;
/// Weeks that the mean rate of an hour remembers.
const WEEKS: u8 = 4;
/// Until a gateway has been watched this long, hours of other days stand for hours not seen, minutes.
const DAY: i64 = 24 * 60;
/// From here on each hour of the week is known, and its neighbours, minutes.
pub(super) const WEEK: i64 = 8 * DAY;

/// One hour of the week.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Longest quiet since the hour began last, minutes.
    pub(super) gap: u32,
    /// Longest quiet of the weeks before, halved with each, minutes.
    pub(super) before: u32,
    /// Mean of the last weeks, events a minute in thousandths.
    pub(super) rate_milli: u64,
    /// Weeks in the mean, at most [`WEEKS`].
    pub(super) weeks: u8,
}

impl Slot {
    fn usual(&self) -> i64 {
        i64::from(self.gap.max(self.before))
    }
}

/// Habits of one gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Habit {
    /// Hours of the week that something is known of: 0 is Thursday 00:00, as the epoch has it.
    pub(super) slots: BTreeMap<u8, Slot>,
    /// Minute from which they are learnt.
    pub(super) since: Option<i64>,
    /// Hour under way, counted from the epoch.
    pub(super) hour: i64,
    /// Events in it.
    pub(super) events: u64,
    /// Minutes of it that were whole.
    pub(super) minutes: u64,
}

fn slot(hour: i64) -> u8 {
    // The remainder is below 168.
    u8::try_from(hour.rem_euclid(HOURS)).unwrap_or(0)
}

impl Habit {
    /// Moves to a minute: the hours begun on the way begin their week.
    pub(super) fn move_to(&mut self, minute: i64) {
        let hour = minute.div_euclid(60);
        if self.since.is_none() {
            self.since = Some(minute);
            self.hour = hour;
        }
        if hour <= self.hour {
            return;
        }
        if let Some(mean) = self.events.saturating_mul(1_000).checked_div(self.minutes) {
            let s = self.slots.entry(slot(self.hour)).or_default();
            s.weeks = (s.weeks + 1).min(WEEKS);
            let (mean, rate) = (i128::from(mean), i128::from(s.rate_milli));
            let rate = rate + (mean - rate) / i128::from(s.weeks);
            s.rate_milli = u64::try_from(rate).unwrap_or(u64::MAX);
        }
        for h in self.hour.max(hour - HOURS) + 1..=hour {
            if let Some(s) = self.slots.get_mut(&slot(h)) {
                s.before = s.gap.max(s.before / 2);
                s.gap = 0;
            }
        }
        self.hour = hour;
        (self.events, self.minutes) = (0, 0);
    }

    /// Learns a whole minute of the hour under way.
    pub(super) fn learn(&mut self, events: u64) {
        self.events = self.events.saturating_add(events);
        self.minutes += 1;
    }

    /// Learns that nothing came between the minutes `last` and `now`. A quiet that was `told` may have been an
    /// outage and is learnt to a little more than twice what was usual: habits that change are learnt in time.
    pub(super) fn quiet(&mut self, last: i64, now: i64, told: bool) {
        let (from, to) = ((last + 1).div_euclid(60), (now - 1).div_euclid(60));
        let gap = now - last - 1;
        if gap <= 0 {
            return;
        }
        for h in from.max(to - HOURS + 1)..=to {
            let s = self.slots.entry(slot(h)).or_default();
            let learnt = if told {
                gap.min(2 * s.usual() + 1)
            } else {
                gap
            };
            s.gap = s.gap.max(u32::try_from(learnt).unwrap_or(u32::MAX));
        }
    }

    /// The longest quiet that is usual at a minute, in minutes: what touched the hour or its neighbours (the
    /// clocks change twice a year, and people come late). In the first day any quiet that was seen, in the
    /// first week those of the same hour of other days.
    pub(super) fn usual(&self, minute: i64) -> i64 {
        let (age, hour) = (self.age(minute), minute.div_euclid(60));
        let near = |slot: i64, period: i64| {
            let apart = (slot - hour).rem_euclid(period);
            apart <= 1 || apart == period - 1
        };
        self.slots
            .iter()
            .filter(|(slot, _)| match age {
                ..DAY => true,
                DAY..WEEK => near(i64::from(**slot), 24),
                _ => near(i64::from(**slot), HOURS),
            })
            .map(|(_, s)| s.usual())
            .max()
            .unwrap_or(0)
    }

    /// Whether every hour of the week has been seen.
    pub(super) fn is_known(&self, minute: i64) -> bool {
        self.age(minute) >= WEEK
    }

    /// Events a minute that are usual at a minute: the least of its hour and the neighbours.
    pub(super) fn rate(&self, minute: i64) -> f64 {
        let hour = minute.div_euclid(60);
        let least = (hour - 1..=hour + 1)
            .map(|h| self.slots.get(&slot(h)).map_or(0, |s| s.rate_milli))
            .min();
        least.unwrap_or(0) as f64 / 1_000.0
    }

    fn age(&self, minute: i64) -> i64 {
        self.since.map_or(0, |since| minute - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three weeks of office hours: a call a minute from 8 to 18 on the first five days of seven.
    fn office() -> Habit {
        let mut h = Habit::default();
        let mut last = 0;
        for minute in 0..21 * DAY {
            h.move_to(minute);
            let (day, hour) = (minute / DAY % 7, minute / 60 % 24);
            let works = day < 5 && (8..18).contains(&hour);
            if works {
                h.quiet(last, minute, false);
                last = minute;
            }
            h.learn(u64::from(works));
        }
        h
    }

    #[test]
    fn nights_and_weekends_are_usual_and_mornings_are_not() {
        let mut h = office();
        let at = |day: i64, hour: i64| (21 + day) * DAY + hour * 60;
        h.move_to(at(0, 0));
        // A night in its hours and those beside them, a weekend in its own.
        assert_eq!(h.usual(at(1, 3)), 14 * 60);
        assert_eq!(h.usual(at(1, 8)), 14 * 60);
        assert_eq!(h.usual(at(1, 12)), 0);
        assert_eq!(h.usual(at(5, 12)), 62 * 60);
        assert!((h.rate(at(1, 12)) - 1.0).abs() < 1e-9);
        assert!(h.rate(at(1, 18)).abs() < 1e-9);
    }

    #[test]
    fn what_happened_once_is_forgotten_and_what_was_told_is_learnt_slowly() {
        let mut h = office();
        let noon = |week: i64| (week * 7 + 1) * DAY + 12 * 60;
        h.move_to(noon(3));
        h.quiet(noon(3), noon(3) + 31, false);
        let mut usual = Vec::new();
        for week in 4..9 {
            h.move_to(noon(week));
            usual.push(h.usual(noon(week)));
        }
        assert_eq!(usual, [30, 15, 7, 3, 1]);
        for _ in 0..3 {
            h.quiet(noon(8), noon(8) + 50, true);
        }
        assert_eq!(h.usual(noon(8)), 15, "of 1: 3, 7, 15");
    }
}
