//! Budget periods: hour, day, week, month, total; UTC or a named zone.
//!
//! A period is a name (`d:2026-11-21`, `m:2026-11@Europe/Berlin`), so that rollover is an insert and
//! late usage lands in its own period. Calendars are jiff's, with its bundled zone database. Weeks
//! are ISO 8601: they start on Monday and carry the ISO year.

use std::fmt;

use jiff::tz::TimeZone;

use crate::event::{SmolStr, Time};

/// Offsets and transitions of every zone fall on multiples of this, so a period never changes inside
/// a slot and its name can be cached by slot.
pub const SLOT_MS: i64 = 15 * 60_000;

/// How long a period is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum PeriodKind {
    /// One hour.
    Hour,
    /// One calendar day.
    Day,
    /// Monday to Sunday.
    Week,
    /// One calendar month.
    Month,
    /// Everything, for ever.
    Total,
}

impl PeriodKind {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Total];
    /// The kind of that name.
    pub fn parse(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == s)
    }
}

/// A named zone whose rules are known.
#[derive(Clone)]
pub struct Zone {
    name: SmolStr,
    zone: TimeZone,
}

/// A zone that the bundled database does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("time zone `{0}` is unknown: use a name of the IANA database such as `Europe/Berlin`")]
pub struct UnknownZone(pub String);

impl Zone {
    /// Looks a zone up in the bundled database.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        let zone = TimeZone::get(name).map_err(|_| UnknownZone(name.to_owned()))?;
        Ok(Self {
            name: SmolStr::new(name),
            zone,
        })
    }
    /// Its name.
    pub fn name(&self) -> &SmolStr {
        &self.name
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
impl Eq for Zone {}
impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A kind of period in a zone (`None`: UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grain {
    /// How long.
    pub kind: PeriodKind,
    /// Where its days begin.
    pub zone: Option<Zone>,
}

impl Grain {
    /// In UTC.
    pub fn utc(kind: PeriodKind) -> Self {
        Self { kind, zone: None }
    }

    /// The period that `at` falls into.
    pub fn period(&self, at: Time) -> Period {
        use std::fmt::Write as _;
        let mut name = smol_str::SmolStrBuilder::new();
        let zone = self.zone.as_ref().map_or(TimeZone::UTC, |z| z.zone.clone());
        // Times outside jiff's years cannot leave decode; the saturated end stands in for them.
        let instant = jiff::Timestamp::from_millisecond(at.0).unwrap_or(if at.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        let t = zone.to_datetime(instant);
        let (y, m, d) = (t.year(), t.month(), t.day());
        // Writing into a string builder cannot fail.
        let _ = match self.kind {
            PeriodKind::Hour => {
                // A zoned hour carries its offset: when clocks go back, one name would be two hours.
                let offset = zone.to_offset(instant).seconds();
                if offset == 0 {
                    write!(name, "h:{y:04}-{m:02}-{d:02}T{:02}", t.hour())
                } else {
                    let sign = if offset < 0 { '-' } else { '+' };
                    let minutes = offset.unsigned_abs() / 60;
                    write!(
                        name,
                        "h:{y:04}-{m:02}-{d:02}T{:02}{sign}{:02}{:02}",
                        t.hour(),
                        minutes / 60,
                        minutes % 60
                    )
                }
            }
            PeriodKind::Day => write!(name, "d:{y:04}-{m:02}-{d:02}"),
            PeriodKind::Week => {
                let w = t.date().iso_week_date();
                write!(name, "w:{:04}-W{:02}", w.year(), w.week())
            }
            PeriodKind::Month => write!(name, "m:{y:04}-{m:02}"),
            PeriodKind::Total => write!(name, "t"),
        };
        if let (Some(zone), true) = (&self.zone, self.kind != PeriodKind::Total) {
            let _ = write!(name, "@{}", zone.name);
        }
        Period(name.finish())
    }
}

/// The name of one period, such as `h:2026-11-21T07`, `d:2026-11-21`, `w:2026-W47`, `m:2026-11`,
/// `t`; with `@Zone` where it is not UTC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(SmolStr);

impl Period {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// A period from its name, as read from a row. Not checked.
    pub fn from_name(name: &str) -> Self {
        Self(SmolStr::new(name))
    }
    /// The grain's kind, by the name's first letter.
    pub fn kind(&self) -> Option<PeriodKind> {
        match self.0.as_bytes().first()? {
            b'h' => Some(PeriodKind::Hour),
            b'd' => Some(PeriodKind::Day),
            b'w' => Some(PeriodKind::Week),
            b'm' => Some(PeriodKind::Month),
            b't' => Some(PeriodKind::Total),
            _ => None,
        }
    }
    /// The first moment after the period; `None` for `t` and for a name that is not a period.
    pub fn end(&self) -> Option<Time> {
        use jiff::{ToSpan as _, civil::Date};
        let kind = self.kind()?;
        let (name, zone) = match self.0.split_once('@') {
            Some((name, zone)) => (name, TimeZone::get(zone).ok()?),
            None => (self.0.as_str(), TimeZone::UTC),
        };
        let name = name.get(2..)?;
        let day = |s: &str| s.parse::<Date>().ok();
        let next = match kind {
            PeriodKind::Total => return None,
            PeriodKind::Hour => {
                // The offset in the name says which of two equal hours it is.
                let start = day(name.get(..10)?)?.at(name.get(11..13)?.parse().ok()?, 0, 0, 0);
                let offset = match name.get(13..) {
                    None | Some("") => 0,
                    Some(o) => {
                        let hours: i32 = o.get(1..3)?.parse().ok()?;
                        let minutes: i32 = o.get(3..5)?.parse().ok()?;
                        let seconds = (hours * 60 + minutes) * 60;
                        if o.starts_with('-') {
                            -seconds
                        } else {
                            seconds
                        }
                    }
                };
                let offset = jiff::tz::Offset::from_seconds(offset).ok()?;
                let start = offset.to_timestamp(start).ok()?;
                return Some(Time(start.as_millisecond()).plus_ms(3_600_000));
            }
            PeriodKind::Day => day(name)?.checked_add(1.day()).ok()?,
            PeriodKind::Week => {
                let (year, week) = name.split_once("-W")?;
                jiff::civil::ISOWeekDate::new(
                    year.parse().ok()?,
                    week.parse().ok()?,
                    jiff::civil::Weekday::Monday,
                )
                .ok()?
                .date()
                .checked_add(7.days())
                .ok()?
            }
            PeriodKind::Month => day(&format!("{name}-01"))?.checked_add(1.month()).ok()?,
        };
        let end = next.to_zoned(zone).ok()?;
        Some(Time(end.timestamp().as_millisecond()))
    }
    /// The zone's name, where it is not UTC.
    pub fn zone(&self) -> Option<&str> {
        self.0.split_once('@').map(|(_, zone)| zone)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: &str) -> Time {
        Time::parse_rfc3339(s).expect(s)
    }

    #[test]
    fn names() {
        let t = at("2026-11-21T07:59:59.999Z");
        let name = |k| Grain::utc(k).period(t).to_string();
        assert_eq!(name(PeriodKind::Hour), "h:2026-11-21T07");
        assert_eq!(name(PeriodKind::Day), "d:2026-11-21");
        assert_eq!(name(PeriodKind::Week), "w:2026-W47");
        assert_eq!(name(PeriodKind::Month), "m:2026-11");
        assert_eq!(name(PeriodKind::Total), "t");
    }

    #[test]
    fn a_period_ends_where_the_next_begins() {
        let zones = [None, Some(Zone::named("Europe/Berlin").expect("zone"))];
        for t in [
            "2026-11-21T07:59:59.999Z",
            "2026-10-25T00:30:00Z",
            "2026-12-31T23:59:00Z",
        ] {
            for zone in &zones {
                for kind in [
                    PeriodKind::Hour,
                    PeriodKind::Day,
                    PeriodKind::Week,
                    PeriodKind::Month,
                ] {
                    let grain = Grain {
                        kind,
                        zone: zone.clone(),
                    };
                    let period = grain.period(at(t));
                    let end = period.end().unwrap_or_else(|| panic!("{period}"));
                    assert!(end > at(t), "{period}");
                    assert_eq!(grain.period(end.minus_ms(1)), period);
                    assert_ne!(grain.period(end), period);
                }
            }
        }
        assert_eq!(Period::from_name("t").end(), None);
        assert_eq!(Period::from_name("d:nonsense").end(), None);
    }

    #[test]
    fn iso_weeks_cross_years() {
        let week = Grain::utc(PeriodKind::Week);
        assert_eq!(
            week.period(at("2027-01-01T00:00:00Z")).as_str(),
            "w:2026-W53"
        );
        assert_eq!(
            week.period(at("2024-12-30T00:00:00Z")).as_str(),
            "w:2025-W01"
        );
    }

    #[test]
    fn a_named_zone_has_its_own_days_and_two_hours_when_clocks_go_back() {
        let zone = Some(Zone::named("Europe/Berlin").expect("zone"));
        let day = Grain {
            kind: PeriodKind::Day,
            zone: zone.clone(),
        };
        assert_eq!(
            day.period(at("2026-11-20T23:30:00Z")).as_str(),
            "d:2026-11-21@Europe/Berlin"
        );
        let hour = Grain {
            kind: PeriodKind::Hour,
            zone,
        };
        // 2026-10-25: 02:30 happens twice.
        let first = hour.period(at("2026-10-25T00:30:00Z"));
        let second = hour.period(at("2026-10-25T01:30:00Z"));
        assert_ne!(first, second);
        assert_eq!(first.as_str(), "h:2026-10-25T02+0200@Europe/Berlin");
        assert_eq!(first.zone(), Some("Europe/Berlin"));
        assert!(Zone::named("Mars/Olympus").is_err());
    }
}
