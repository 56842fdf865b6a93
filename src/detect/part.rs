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
use crate::event::{Pseudonym, SmolStr, Time};

mod build;
mod coding;
mod interval;

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
    /// Its records that were refused, in the minute of their append. They are no events.
    pub refused: u64,
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
    /// Other 4xx that no policy caused; and those of them that are 401, 403 or 404.
    pub rejected: u64,
    /// See `rejected`.
    pub denied: u64,
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
    /// Errors by the model that was asked for, over all of its versions: a failed request names none.
    /// Without samples.
    pub asked: BTreeMap<ModelKey, ModelSeen>,
    /// Errors by tenant, without samples.
    pub tenants: BTreeMap<SmolStr, ModelSeen>,
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
            g.refused = g.refused.saturating_add(v.refused);
        }
        for (k, v) in &o.models {
            let Some(m) = room::entry(&mut self.models, k, MAX_MERGED, &mut self.overflow) else {
                continue;
            };
            m.add(v);
        }
        for (k, v) in &o.asked {
            if let Some(m) = room::entry(&mut self.asked, k, MAX_MERGED, &mut self.overflow) {
                m.add(v);
            }
        }
        for (k, v) in &o.tenants {
            if let Some(m) = room::entry(&mut self.tenants, k, MAX_MERGED, &mut self.overflow) {
                m.add(v);
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
            // However many keys there are, tenants find room, and however many tenants, models.
            let max = MAX_MERGED * (1 + k.kind());
            if let Some(sum) = room::entry(&mut self.spend, k, max, &mut self.overflow) {
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
}

impl ModelSeen {
    /// Adds another's counts and samples.
    fn add(&mut self, o: &Self) {
        self.count(o);
        for (code, n) in &o.samples {
            *self.samples.entry(*code).or_default() += n;
        }
    }

    /// Adds another's counts.
    fn count(&mut self, o: &Self) {
        self.requests += o.requests;
        self.errors += o.errors;
        self.timeouts += o.timeouts;
        self.throttled += o.throttled;
        self.blocked += o.blocked;
        self.rejected += o.rejected;
        self.denied += o.denied;
    }
}

impl Spender {
    /// Which kind it is of three: key, tenant, model.
    pub(super) fn kind(&self) -> usize {
        match self {
            Self::Key(..) => 0,
            Self::Tenant(_) => 1,
            Self::Model(_) => 2,
        }
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
            m.denied += b;
            p.tenants.entry(name.clone()).or_default().rejected += b;
            p.asked
                .entry(ModelKey {
                    model: name.clone(),
                    route: name.clone(),
                })
                .or_default()
                .requests += a;
            p.gateways.entry(name.clone()).or_default().refused += a;
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
