//! The bytes of a minute part, of this format and of those before.

use super::{
    CostSeen, Elevation, GatewaySeen, LaneKey, LaneSeen, MinutePart, ModelKey, ModelSeen,
    ServedSeen, Spender,
};
use crate::detect::campaign;
use crate::detect::wire::{Damaged, Reader, Writer};
use crate::event::Time;

/// Format of an encoded part. Older ones are still read, since a minute may be merged after an
/// upgrade: format 1 knew nothing of attacks, and up to format 2 co-elevation was of another kind (it
/// is left out); up to format 3 a gateway had no signs of life; up to format 4 rejections were not counted,
/// nor anything by the model asked for and by tenant; up to format 5 records that were refused were not counted.
const FORMAT: u8 = 6;
const FORMAT_BEFORE_ATTACKS: u8 = 1;
const FORMAT_OF_ELEVATION: u8 = 3;
const FORMAT_OF_SIGNS: u8 = 4;
const FORMAT_OF_REJECTIONS: u8 = 5;
const FORMAT_OF_REFUSALS: u8 = 6;

impl MinutePart {
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
            w.u64(v.refused);
        }
        w.len(self.models.len());
        for (k, v) in &self.models {
            w.str(&k.model);
            w.str(&k.route);
            v.encode(&mut w);
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
        w.len(self.asked.len());
        for (k, v) in &self.asked {
            w.str(&k.model);
            w.str(&k.route);
            v.encode(&mut w);
        }
        w.len(self.tenants.len());
        for (k, v) in &self.tenants {
            w.str(k);
            v.encode(&mut w);
        }
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
            if format >= FORMAT_OF_REFUSALS {
                seen.refused = r.u64()?;
            }
            p.gateways.insert(key, seen);
        }
        for _ in 0..r.len()? {
            let key = ModelKey {
                model: r.str()?,
                route: r.str()?,
            };
            let seen = ModelSeen::decode(&mut r, format)?;
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
        if format >= FORMAT_OF_REJECTIONS {
            for _ in 0..r.len()? {
                let key = ModelKey {
                    model: r.str()?,
                    route: r.str()?,
                };
                p.asked.insert(key, ModelSeen::decode(&mut r, format)?);
            }
            for _ in 0..r.len()? {
                let key = r.str()?;
                p.tenants.insert(key, ModelSeen::decode(&mut r, format)?);
            }
        }
        if r.is_at_end() {
            Ok(p)
        } else {
            Err(r.damaged())
        }
    }
}

impl ModelSeen {
    fn encode(&self, w: &mut Writer) {
        for n in [
            self.requests,
            self.errors,
            self.timeouts,
            self.throttled,
            self.blocked,
            self.rejected,
            self.denied,
        ] {
            w.u64(n);
        }
        w.len(self.samples.len());
        let mut last = 0;
        for (code, n) in &self.samples {
            w.u64(u64::from(code - last));
            w.u64(*n);
            last = *code;
        }
    }

    fn decode(r: &mut Reader<'_>, format: u8) -> Result<Self, Damaged> {
        let mut seen = Self {
            requests: r.u64()?,
            errors: r.u64()?,
            timeouts: r.u64()?,
            throttled: r.u64()?,
            blocked: r.u64()?,
            ..Self::default()
        };
        if format >= FORMAT_OF_REJECTIONS {
            seen.rejected = r.u64()?;
            seen.denied = r.u64()?;
        }
        let mut last = 0u32;
        for _ in 0..r.len()? {
            let step: u32 = r.small()?;
            last = last.checked_add(step).ok_or(r.damaged())?;
            let n = r.u64()?;
            seen.samples.insert(last, n);
        }
        Ok(seen)
    }
}

impl Spender {
    pub(in crate::detect) fn encode(&self, w: &mut Writer) {
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
    pub(in crate::detect) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(match r.u8()? {
            0 => Self::Key(r.str()?, r.pseudonym()?),
            1 => Self::Tenant(r.str()?),
            2 => Self::Model(r.str()?),
            _ => return Err(r.damaged()),
        })
    }
}

impl Elevation {
    pub(in crate::detect) fn encode(&self, w: &mut Writer) {
        w.u64(self.users);
        w.i64(self.raise_milli);
        w.i64(self.weight_milli);
        w.u64(self.raised);
    }

    pub(in crate::detect) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            users: r.u64()?,
            raise_milli: r.i64()?,
            weight_milli: r.i64()?,
            raised: r.u64()?,
        })
    }
}
