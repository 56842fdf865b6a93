//! The audit's state as bytes.

use super::gateway::Hour;
use super::habit::{Habit, Slot};
use super::refusal::Refusals;
use super::{Audit, Cost, Gateway, Lane, Missing};
use crate::detect::part::LaneKey;
use crate::detect::wire::{Damaged, Reader, Writer};

impl Audit {
    pub(in crate::detect) fn encode(&self, w: &mut Writer) {
        w.u64(self.forgotten);
        w.len(self.lanes.len());
        for (k, l) in &self.lanes {
            w.str(&k.gateway);
            w.str(&k.boot);
            w.u64(u64::from(k.lane));
            w.len(l.seen.len());
            for (a, b) in &l.seen {
                w.u64(*a);
                w.u64(b - a);
            }
            w.u64(l.floor);
            w.len(l.declared.len());
            for (minute, n) in &l.declared {
                w.i64(*minute);
                w.u64(*n);
            }
            w.len(l.holes.len());
            for ((a, b), m) in &l.holes {
                w.u64(*a);
                w.u64(b - a);
                w.i64(*m);
            }
            w.bool(l.restart);
            w.i64(l.last_minute);
        }
        w.len(self.gateways.len());
        for (k, g) in &self.gateways {
            w.str(k);
            w.i64(g.born);
            w.i64(g.last);
            w.f64(g.rate);
            w.bool(g.silent_told);
            for n in [
                g.missing.late,
                g.missing.declared,
                g.missing.restart,
                g.missing.unexplained,
            ] {
                w.u64(n);
            }
            for v in [g.fast, g.steady, g.sent.0, g.sent.1] {
                w.f64(v);
            }
            w.i64(g.odd);
            w.u64(u64::from(g.late_minutes));
            w.i64(g.hour.hour);
            w.u64(g.hour.events);
            w.u64(g.hour.declared);
            w.u64(g.hour.restart);
            g.habit.encode(w);
            g.refusals.encode(w);
        }
        w.len(self.costs.len());
        for (k, c) in &self.costs {
            w.str(k);
            w.i64(c.hour);
            w.u64(c.events);
            w.i128(c.computed);
            w.i128(c.reported);
        }
        w.len(self.told.len());
        for ((rule, subject), m) in &self.told {
            w.str(rule);
            w.str(subject);
            w.i64(*m);
        }
    }

    /// Reads it back. `old`: before habits, when quiet was judged by the rate alone; they are learnt anew.
    /// `refusals`: whether it knows of records that were refused.
    pub(in crate::detect) fn decode(
        r: &mut Reader<'_>,
        old: bool,
        refusals: bool,
    ) -> Result<Self, Damaged> {
        let mut a = Self {
            forgotten: r.u64()?,
            ..Self::default()
        };
        for _ in 0..r.len()? {
            let key = LaneKey {
                gateway: r.str()?,
                boot: r.str()?,
                lane: r.small()?,
            };
            let mut l = Lane::default();
            for _ in 0..r.len()? {
                let from = r.u64()?;
                l.seen
                    .push((from, from.checked_add(r.u64()?).ok_or(r.damaged())?));
            }
            l.floor = r.u64()?;
            let declared = if old { r.u64()? } else { 0 };
            if !old {
                for _ in 0..r.len()? {
                    l.declared.push((r.i64()?, r.u64()?));
                }
            }
            for _ in 0..r.len()? {
                let from = r.u64()?;
                let to = from.checked_add(r.u64()?).ok_or(r.damaged())?;
                l.holes.insert((from, to), r.i64()?);
            }
            l.restart = r.bool()?;
            l.last_minute = r.i64()?;
            l.declare(l.last_minute, declared);
            a.lanes.insert(key, l);
        }
        for _ in 0..r.len()? {
            let key = r.str()?;
            let mut g = Gateway {
                born: r.i64()?,
                last: r.i64()?,
                rate: r.f64()?,
                silent_told: r.bool()?,
                missing: Missing {
                    late: r.u64()?,
                    declared: r.u64()?,
                    restart: r.u64()?,
                    unexplained: r.u64()?,
                },
                ..Gateway::default()
            };
            if !old {
                (g.fast, g.steady) = (r.f64()?, r.f64()?);
                g.sent = (r.f64()?, r.f64()?);
                g.odd = r.i64()?;
                g.late_minutes = r.small()?;
                g.hour = Hour {
                    hour: r.i64()?,
                    events: r.u64()?,
                    declared: r.u64()?,
                    restart: r.u64()?,
                };
                g.habit = Habit::decode(r)?;
            }
            if refusals {
                g.refusals = Refusals::decode(r)?;
            }
            a.gateways.insert(key, g);
        }
        for _ in 0..r.len()? {
            let key = r.str()?;
            let c = Cost {
                hour: r.i64()?,
                events: r.u64()?,
                computed: r.i128()?,
                reported: r.i128()?,
            };
            a.costs.insert(key, c);
        }
        for _ in 0..r.len()? {
            let key = (r.str()?, r.str()?);
            a.told.insert(key, r.i64()?);
        }
        Ok(a)
    }
}

impl Habit {
    fn encode(&self, w: &mut Writer) {
        w.option(self.since, Writer::i64);
        w.i64(self.hour);
        w.u64(self.events);
        w.u64(self.minutes);
        w.len(self.slots.len());
        for (slot, s) in &self.slots {
            w.u8(*slot);
            w.u64(u64::from(s.gap));
            w.u64(u64::from(s.before));
            w.u64(s.rate_milli);
            w.u8(s.weeks);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut h = Self {
            since: r.option(Reader::i64)?,
            hour: r.i64()?,
            events: r.u64()?,
            minutes: r.u64()?,
            ..Self::default()
        };
        for _ in 0..r.len()? {
            let slot = r.u8()?;
            let s = Slot {
                gap: r.small()?,
                before: r.small()?,
                rate_milli: r.u64()?,
                weeks: r.u8()?,
            };
            h.slots.insert(slot, s);
        }
        Ok(h)
    }
}
