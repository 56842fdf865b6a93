//! Minute parts: what one batch of one partition knows about one minute. Home: merged minute.
//!
//! [`Builders`] collects on the hot path with as few look-ups as possible; [`MinutePart`] is the
//! mergeable form. Everything in it is a count, an integer sum, a set or a minimum, so that merging
//! is commutative and associative and no float sum can depend on how batches were cut. The leader
//! unites the parts of a closed minute from all partitions.

use std::collections::BTreeMap;

pub(super) use build::{Builders, Context};
use interval::append;
pub use interval::unite;

use super::campaign::{self, Sightings};
use super::room;
use super::wire::{Damaged, Reader, Writer};
use crate::event::{Pseudonym, SmolStr, Time};

mod build;
mod interval;

/// Format of an encoded part. Older ones are still read, since a minute may be merged after an
/// upgrade: format 1 knew nothing of attacks, and up to format 2 co-elevation was of another kind (it
/// is left out); up to format 3 a gateway had no signs of life.
const FORMAT: u8 = 4;
const FORMAT_BEFORE_ATTACKS: u8 = 1;
const FORMAT_OF_ELEVATION: u8 = 3;
const FORMAT_OF_SIGNS: u8 = 4;
/// Most entries in one table of a part; beyond it entries are left out and counted. Larger costs the
/// leader memory (16 partitions × tables), smaller blinds it to busy fleets.
pub const MAX_ENTRIES: usize = 4_096;
/// Most entries in one table of a whole minute, all partitions united; beyond it entries are left out and
/// counted. A fleet has far fewer; a publisher with a new name per event has any number.
pub const MAX_MERGED: usize = 4 * MAX_ENTRIES;

/// A publisher's sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// The publisher.
    pub gateway: SmolStr,
    /// Its start. Never empty: a sequence without one is not audited.
    pub boot: SmolStr,
    /// Its choice.
    pub lane: u32,
}

/// What was seen of one lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneSeen {
    /// Sequence numbers seen, as disjoint inclusive intervals in order.
    pub seen: Vec<(u64, u64)>,
    /// Events the publisher says it discarded.
    pub declared: u64,
}

/// What was seen of one gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewaySeen {
    /// Events.
    pub events: u64,
    /// Events whose clock lies outside the allowed range.
    pub clamped: u64,
    /// Events with content that nothing looked at.
    pub unscanned: u64,
    /// Events that the publisher says it discarded, whether or not they had a number.
    pub declared: u64,
    /// Events with a sequence number and no boot.
    pub no_boot: u64,
    /// Minute in which the latest of them was appended: a sign of life, whatever their own time says. 0 in
    /// parts of an older format.
    pub appended: i64,
}

/// A model version on a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelKey {
    /// Served version, else the model asked for.
    pub model: SmolStr,
    /// Route, empty where none is given.
    pub route: SmolStr,
}

/// Requests of one model version on one route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSeen {
    /// All requests.
    pub requests: u64,
    /// Status 5xx, or an error class of a server or network failure.
    pub errors: u64,
    /// Status 408 or 504, or error class `timeout`.
    pub timeouts: u64,
    /// Status 429.
    pub throttled: u64,
    /// Blocked by the gateway's policy.
    pub blocked: u64,
    /// Samples: code of [`super::latency::code`] → count.
    pub samples: BTreeMap<u32, u64>,
}

/// A version that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedSeen {
    /// How often.
    pub events: u64,
    /// The earliest (end, event id), so that the finding names one event whatever the order.
    pub first: (Time, SmolStr),
}

/// Costs of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CostSeen {
    /// Events with tokens and no price.
    pub unpriced: u64,
    /// Events with both a computed and a reported cost.
    pub compared: u64,
    /// Sum of what we computed, over the compared.
    pub computed: i128,
    /// Sum of what the gateways reported, over the compared.
    pub reported: i128,
}

/// Whose spending a sum is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spender {
    /// An API key of a tenant.
    Key(SmolStr, Pseudonym),
    /// A tenant.
    Tenant(SmolStr),
    /// A model version.
    Model(SmolStr),
}

/// Steady users whose bin closed in this minute, per tenant (see `spend::Raise`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elevation {
    /// How many.
    pub users: u64,
    /// Sum of their raises times their weights, in thousandths.
    pub raise_milli: i64,
    /// Sum of their weights, in thousandths.
    pub weight_milli: i64,
    /// Users well above their usual.
    pub raised: u64,
}

impl Elevation {
    /// Adds another's sums.
    pub fn add(&mut self, o: &Self) {
        self.users = self.users.saturating_add(o.users);
        self.raise_milli = self.raise_milli.saturating_add(o.raise_milli);
        self.weight_milli = self.weight_milli.saturating_add(o.weight_milli);
        self.raised = self.raised.saturating_add(o.raised);
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.users);
        w.i64(self.raise_milli);
        w.i64(self.weight_milli);
        w.u64(self.raised);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            users: r.u64()?,
            raise_milli: r.i64()?,
            weight_milli: r.i64()?,
            raised: r.u64()?,
        })
    }
}

/// One minute, mergeable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MinutePart {
    /// Which minute.
    pub minute: i64,
    /// Whether these events came after it closed.
    pub late: bool,
    /// Events.
    pub events: u64,
    /// Sequences.
    pub lanes: BTreeMap<LaneKey, LaneSeen>,
    /// Gateways.
    pub gateways: BTreeMap<SmolStr, GatewaySeen>,
    /// Latency and errors.
    pub models: BTreeMap<ModelKey, ModelSeen>,
    /// (asked for, served).
    pub served: BTreeMap<(SmolStr, SmolStr), ServedSeen>,
    /// Costs by model version.
    pub costs: BTreeMap<SmolStr, CostSeen>,
    /// Weight of the spending (see [`super::spend::weight`]).
    pub spend: BTreeMap<Spender, i128>,
    /// Co-elevation by tenant.
    pub elevation: BTreeMap<SmolStr, Elevation>,
    /// Attacks by what they are recognised by.
    pub attacks: Sightings,
    /// Entries left out for want of room.
    pub overflow: u64,
}

impl MinutePart {
    /// Unites two parts of one minute.
    pub fn merge(&mut self, o: &Self) {
        self.events += o.events;
        self.overflow += o.overflow;
        for (k, v) in &o.lanes {
            let Some(lane) = room::entry(&mut self.lanes, k, MAX_MERGED, &mut self.overflow) else {
                continue;
            };
            lane.declared = lane.declared.saturating_add(v.declared);
            // Not all anew: a lane full of gaps comes in thousands of parts.
            append(&mut lane.seen, &v.seen);
        }
        for (k, v) in &o.gateways {
            let Some(g) = room::entry(&mut self.gateways, k, MAX_MERGED, &mut self.overflow) else {
                continue;
            };
            g.events += v.events;
            g.clamped += v.clamped;
            g.unscanned += v.unscanned;
            g.declared = g.declared.saturating_add(v.declared);
            g.no_boot += v.no_boot;
            g.appended = g.appended.max(v.appended);
        }
        for (k, v) in &o.models {
            let Some(m) = room::entry(&mut self.models, k, MAX_MERGED, &mut self.overflow) else {
                continue;
            };
            m.requests += v.requests;
            m.errors += v.errors;
            m.timeouts += v.timeouts;
            m.throttled += v.throttled;
            m.blocked += v.blocked;
            for (code, n) in &v.samples {
                *m.samples.entry(*code).or_default() += n;
            }
        }
        for (k, v) in &o.served {
            let full = self.served.len() >= MAX_MERGED;
            match self.served.get_mut(k) {
                Some(s) => {
                    s.events += v.events;
                    if v.first < s.first {
                        s.first = v.first.clone();
                    }
                }
                None if full => self.overflow += 1,
                None => {
                    self.served.insert(k.clone(), v.clone());
                }
            }
        }
        for (k, v) in &o.costs {
            let Some(c) = room::entry(&mut self.costs, k, MAX_MERGED, &mut self.overflow) else {
                continue;
            };
            c.unpriced += v.unpriced;
            c.compared += v.compared;
            c.computed += v.computed;
            c.reported += v.reported;
        }
        for (k, v) in &o.spend {
            if let Some(sum) = room::entry(&mut self.spend, k, MAX_MERGED, &mut self.overflow) {
                *sum += v;
            }
        }
        for (k, v) in &o.elevation {
            if let Some(e) = room::entry(&mut self.elevation, k, MAX_MERGED, &mut self.overflow) {
                e.add(v);
            }
        }
        campaign::merge(
            &mut self.attacks,
            &o.attacks,
            MAX_MERGED,
            &mut self.overflow,
        );
    }

    /// The part's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(FORMAT);
        w.i64(self.minute);
        w.bool(self.late);
        w.u64(self.events);
        w.u64(self.overflow);
        w.len(self.lanes.len());
        for (k, v) in &self.lanes {
            w.str(&k.gateway);
            w.str(&k.boot);
            w.u64(u64::from(k.lane));
            w.u64(v.declared);
            w.len(v.seen.len());
            let mut last = 0;
            for (from, to) in &v.seen {
                w.u64(from.wrapping_sub(last));
                w.u64(to - from);
                last = *to;
            }
        }
        w.len(self.gateways.len());
        for (k, v) in &self.gateways {
            w.str(k);
            w.u64(v.events);
            w.u64(v.clamped);
            w.u64(v.unscanned);
            w.u64(v.declared);
            w.u64(v.no_boot);
            w.i64(v.appended.wrapping_sub(self.minute));
        }
        w.len(self.models.len());
        for (k, v) in &self.models {
            w.str(&k.model);
            w.str(&k.route);
            for n in [v.requests, v.errors, v.timeouts, v.throttled, v.blocked] {
                w.u64(n);
            }
            w.len(v.samples.len());
            let mut last = 0;
            for (code, n) in &v.samples {
                w.u64(u64::from(code - last));
                w.u64(*n);
                last = *code;
            }
        }
        w.len(self.served.len());
        for ((requested, served), v) in &self.served {
            w.str(requested);
            w.str(served);
            w.u64(v.events);
            w.i64(v.first.0.0);
            w.str(&v.first.1);
        }
        w.len(self.costs.len());
        for (k, v) in &self.costs {
            w.str(k);
            w.u64(v.unpriced);
            w.u64(v.compared);
            w.i128(v.computed);
            w.i128(v.reported);
        }
        w.len(self.spend.len());
        for (k, v) in &self.spend {
            k.encode(&mut w);
            w.i128(*v);
        }
        w.len(self.elevation.len());
        for (k, v) in &self.elevation {
            w.str(k);
            v.encode(&mut w);
        }
        campaign::encode_sightings(&self.attacks, &mut w);
        w.0
    }

    /// Reads a part back.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes);
        let format = r.u8()?;
        if !(FORMAT_BEFORE_ATTACKS..=FORMAT).contains(&format) {
            return Err(r.damaged());
        }
        let mut p = Self {
            minute: r.i64()?,
            late: r.bool()?,
            events: r.u64()?,
            overflow: r.u64()?,
            ..Self::default()
        };
        for _ in 0..r.len()? {
            let key = LaneKey {
                gateway: r.str()?,
                boot: r.str()?,
                lane: r.small()?,
            };
            let mut lane = LaneSeen {
                declared: r.u64()?,
                ..LaneSeen::default()
            };
            let mut last = 0u64;
            for _ in 0..r.len()? {
                let from = last.wrapping_add(r.u64()?);
                let to = from.checked_add(r.u64()?).ok_or(r.damaged())?;
                lane.seen.push((from, to));
                last = to;
            }
            p.lanes.insert(key, lane);
        }
        for _ in 0..r.len()? {
            let key = r.str()?;
            let mut seen = GatewaySeen {
                events: r.u64()?,
                clamped: r.u64()?,
                unscanned: r.u64()?,
                ..GatewaySeen::default()
            };
            if format < FORMAT_OF_SIGNS {
                let lanes = p.lanes.iter().filter(|(k, _)| k.gateway == key);
                seen.declared = lanes.fold(0, |n, (_, l)| n.saturating_add(l.declared));
            } else {
                seen.declared = r.u64()?;
                seen.no_boot = r.u64()?;
                seen.appended = r.i64()?.wrapping_add(p.minute);
            }
            p.gateways.insert(key, seen);
        }
        for _ in 0..r.len()? {
            let key = ModelKey {
                model: r.str()?,
                route: r.str()?,
            };
            let mut seen = ModelSeen {
                requests: r.u64()?,
                errors: r.u64()?,
                timeouts: r.u64()?,
                throttled: r.u64()?,
                blocked: r.u64()?,
                ..ModelSeen::default()
            };
            let mut last = 0u32;
            for _ in 0..r.len()? {
                let step: u32 = r.small()?;
                last = last.checked_add(step).ok_or(r.damaged())?;
                let n = r.u64()?;
                seen.samples.insert(last, n);
            }
            p.models.insert(key, seen);
        }
        for _ in 0..r.len()? {
            let key = (r.str()?, r.str()?);
            let seen = ServedSeen {
                events: r.u64()?,
                first: (Time(r.i64()?), r.str()?),
            };
            p.served.insert(key, seen);
        }
        for _ in 0..r.len()? {
            let key = r.str()?;
            let seen = CostSeen {
                unpriced: r.u64()?,
                compared: r.u64()?,
                computed: r.i128()?,
                reported: r.i128()?,
            };
            p.costs.insert(key, seen);
        }
        for _ in 0..r.len()? {
            let key = Spender::decode(&mut r)?;
            let sum = r.i128()?;
            p.spend.insert(key, sum);
        }
        for _ in 0..r.len()? {
            let key = r.str()?;
            if format >= FORMAT_OF_ELEVATION {
                p.elevation.insert(key, Elevation::decode(&mut r)?);
            } else {
                let _other_kind = (r.u64()?, r.i64()?, r.u64()?);
            }
        }
        if format != FORMAT_BEFORE_ATTACKS {
            p.attacks = campaign::decode_sightings(&mut r)?;
        }
        if r.is_at_end() {
            Ok(p)
        } else {
            Err(r.damaged())
        }
    }
}

impl Spender {
    pub(super) fn encode(&self, w: &mut Writer) {
        match self {
            Self::Key(tenant, key) => {
                w.u8(0);
                w.str(tenant);
                w.pseudonym(key);
            }
            Self::Tenant(tenant) => {
                w.u8(1);
                w.str(tenant);
            }
            Self::Model(model) => {
                w.u8(2);
                w.str(model);
            }
        }
    }
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(match r.u8()? {
            0 => Self::Key(r.str()?, r.pseudonym()?),
            1 => Self::Tenant(r.str()?),
            2 => Self::Model(r.str()?),
            _ => return Err(r.damaged()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(ops: &[(u8, u64, u64)]) -> MinutePart {
        let mut p = MinutePart {
            minute: 7,
            ..MinutePart::default()
        };
        for (who, a, b) in ops {
            let name = SmolStr::new(format!("g{who}"));
            p.events += 1;
            let lane = p
                .lanes
                .entry(LaneKey {
                    gateway: name.clone(),
                    boot: SmolStr::new("b"),
                    lane: 0,
                })
                .or_default();
            lane.seen.push((*a, a + b % 5));
            unite(&mut lane.seen);
            lane.declared += b;
            let m = p
                .models
                .entry(ModelKey {
                    model: name.clone(),
                    route: SmolStr::default(),
                })
                .or_default();
            m.requests += 1;
            *m.samples.entry(u32::try_from(*a).unwrap_or(0)).or_default() += b;
            *p.spend.entry(Spender::Tenant(name)).or_default() += i128::from(*b) - 3;
        }
        p
    }

    proptest! {
        #[test]
        fn merge_is_commutative_and_survives_encoding(
            a in prop::collection::vec((0u8..3, 0u64..50, 0u64..50), 0..12),
            b in prop::collection::vec((0u8..3, 0u64..50, 0u64..50), 0..12),
        ) {
            let (pa, pb) = (part(&a), part(&b));
            let mut ab = pa.clone(); ab.merge(&pb);
            let mut ba = pb.clone(); ba.merge(&pa);
            prop_assert_eq!(&ab, &ba);
            let both: Vec<_> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(&ab, &part(&both));
            prop_assert_eq!(MinutePart::decode(&ab.encode()), Ok(ab));
        }

        #[test]
        fn damaged_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = MinutePart::decode(&bytes);
        }
    }
}
