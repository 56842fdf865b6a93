//! Collects one batch's minute parts, event by event.

use std::collections::BTreeMap;

use foldhash::HashMap;

use super::{
    CostSeen, Elevation, GatewaySeen, LaneKey, LaneSeen, MAX_ENTRIES, MinutePart, ModelKey,
    ModelSeen, ServedSeen, Spender, unite,
};
use crate::detect::campaign::{self, Sightings};
use crate::detect::errors::Outcome;
use crate::detect::spend::Raise;
use crate::detect::{Counters, Seen, latency};
use crate::event::{Event, Pico, Pseudonym, Sketch, SmolStr, Time, UsageState};

/// Collects one batch's minutes.
#[derive(Debug, Default)]
pub(in crate::detect) struct Builders(BTreeMap<(i64, bool), Builder>);

#[derive(Debug, Default)]
struct Builder {
    events: u64,
    lanes: HashMap<LaneKey, LaneSeen>,
    gateways: HashMap<SmolStr, GatewaySeen>,
    /// By (asked for, served, route): one look-up gives latency, errors, drift and cost.
    models: HashMap<(SmolStr, Option<SmolStr>, Option<SmolStr>), ModelAll>,
    payers: HashMap<(Option<SmolStr>, Option<Pseudonym>), Payer>,
    /// Those of tenants whose keys found no room among the payers.
    crowded: HashMap<Option<SmolStr>, Payer>,
    elevation: BTreeMap<SmolStr, Elevation>,
    attacks: Sightings,
    overflow: u64,
}

/// One key of a tenant: what it spent and how its calls ended.
#[derive(Debug, Default)]
struct Payer {
    spend: i128,
    seen: ModelSeen,
}

#[derive(Debug)]
struct ModelAll {
    seen: ModelSeen,
    samples: Vec<u32>,
    first: (Time, SmolStr),
    cost: CostSeen,
    spend: i128,
}

/// What the partition knows about the event besides the event.
#[derive(Debug, Clone, Copy)]
pub(in crate::detect) struct Context {
    pub(in crate::detect) end: Time,
    pub(in crate::detect) late: bool,
    pub(in crate::detect) clamped: bool,
    pub(in crate::detect) append: Time,
    pub(in crate::detect) api_key: Option<Pseudonym>,
    pub(in crate::detect) cost: Option<Pico>,
    pub(in crate::detect) weight: i64,
}

impl Builders {
    pub(in crate::detect) fn elevation(
        &mut self,
        minute: i64,
        late: bool,
        tenant: &SmolStr,
        raise: Raise,
    ) {
        let builder = self.0.entry((minute, late)).or_default();
        raise.add_to(builder.elevation.entry(tenant.clone()).or_default());
    }

    /// Notes an attack that `sketch` of the event is.
    pub(in crate::detect) fn attack(
        &mut self,
        event: &Event,
        sketch: &Sketch,
        seen: &Seen,
        counters: &mut Counters,
    ) {
        let b = self.0.entry((seen.end.minute(), seen.late)).or_default();
        let sender = campaign::Sender {
            user: seen.user,
            api_key: seen.api_key,
        };
        if !campaign::note(&mut b.attacks, event, sketch, seen.end, sender) {
            b.overflow += 1;
            counters.part_overflow += 1;
        }
    }

    pub(in crate::detect) fn add(&mut self, event: &Event, c: &Context, counters: &mut Counters) {
        let b = self.0.entry((c.end.minute(), c.late)).or_default();
        b.events += 1;
        let before = b.overflow;
        b.publisher(event, c);
        let outcome = Outcome::of(event);
        b.model(event, c, outcome);
        b.payer(event, c, outcome);
        counters.part_overflow += b.overflow - before;
    }

    /// A record that was refused, and its number: seen, if nothing else is known of it.
    pub(in crate::detect) fn refused(
        &mut self,
        append: Time,
        gateway: &SmolStr,
        place: Option<(&LaneKey, u64)>,
        counters: &mut Counters,
    ) {
        let b = self.0.entry((append.minute(), false)).or_default();
        let before = b.overflow;
        if let Some((key, seq)) = place {
            b.number(key, 0, seq);
        }
        if let Some(g) = entry(&mut b.gateways, gateway, &mut b.overflow) {
            // Whoever sends what cannot be read is not silent.
            g.appended = g.appended.max(append.minute());
            g.refused += 1;
        }
        counters.part_overflow += b.overflow - before;
    }

    pub(in crate::detect) fn finish(&mut self, out: &mut BTreeMap<(i64, bool), Vec<u8>>) {
        for ((minute, late), b) in std::mem::take(&mut self.0) {
            out.insert((minute, late), b.into_part(minute, late).encode());
        }
    }
}

impl Builder {
    fn publisher(&mut self, event: &Event, c: &Context) {
        if let Some(g) = entry(&mut self.gateways, &event.gateway, &mut self.overflow) {
            g.events += 1;
            g.clamped += u64::from(c.clamped);
            g.unscanned += u64::from(!event.unscanned.is_empty());
            g.declared = g.declared.saturating_add(event.dropped);
            g.no_boot += u64::from(event.seq.is_some() && event.place().is_none());
            g.appended = g.appended.max(c.append.minute());
        }
        let Some((boot, seq)) = event.place() else {
            return;
        };
        let key = LaneKey {
            gateway: event.gateway.clone(),
            boot: boot.clone(),
            lane: event.lane,
        };
        self.number(&key, event.dropped, seq);
    }

    fn number(&mut self, key: &LaneKey, declared: u64, seq: u64) {
        if let Some(lane) = entry(&mut self.lanes, key, &mut self.overflow) {
            lane.declared = lane.declared.saturating_add(declared);
            match lane.seen.last_mut() {
                Some(last) if last.1.checked_add(1) == Some(seq) => last.1 = seq,
                _ => lane.seen.push((seq, seq)),
            }
        }
    }

    fn model(&mut self, event: &Event, c: &Context, outcome: Outcome) {
        let key = (
            event.model_requested.clone(),
            event.model_served.clone(),
            event.route.clone(),
        );
        if !self.models.contains_key(&key) && self.models.len() >= MAX_ENTRIES {
            self.overflow += 1;
            return;
        }
        let m = self.models.entry(key).or_insert_with(|| ModelAll {
            seen: ModelSeen::default(),
            samples: Vec::new(),
            first: (c.end, event.id.clone()),
            cost: CostSeen::default(),
            spend: 0,
        });
        let first = (c.end, &event.id);
        if first < (m.first.0, &m.first.1) {
            m.first = (c.end, event.id.clone());
        }
        count(&mut m.seen, outcome);
        if !outcome.error && !outcome.throttled && !outcome.client {
            latency::samples(event, &mut m.samples);
        }
        m.spend += i128::from(c.weight);
        if event.usage.state != UsageState::Missing && event.usage.tokens() > 0 {
            match (c.cost, event.reported_cost) {
                (None, _) => m.cost.unpriced += 1,
                (Some(computed), Some(reported)) => {
                    m.cost.compared += 1;
                    m.cost.computed += i128::from(computed);
                    m.cost.reported += i128::from(reported);
                }
                (Some(_), None) => {}
            }
        }
    }

    fn payer(&mut self, event: &Event, c: &Context, outcome: Outcome) {
        let key = (event.tenant.clone(), c.api_key);
        let payer = match entry(&mut self.payers, &key, &mut self.overflow) {
            Some(payer) => payer,
            // The key is left out and counted; what it spends is its tenant's none the less.
            None => match entry(&mut self.crowded, &key.0, &mut self.overflow) {
                Some(payer) => payer,
                None => return,
            },
        };
        payer.spend += i128::from(c.weight);
        count(&mut payer.seen, outcome);
    }

    fn into_part(self, minute: i64, late: bool) -> MinutePart {
        let mut p = MinutePart {
            minute,
            late,
            events: self.events,
            overflow: self.overflow,
            gateways: self.gateways.into_iter().collect(),
            elevation: self.elevation,
            attacks: self.attacks,
            ..MinutePart::default()
        };
        for (key, mut lane) in self.lanes {
            unite(&mut lane.seen);
            p.lanes.insert(key, lane);
        }
        for ((requested, served, route), all) in self.models {
            let asked = requested.clone();
            let model = served.clone().unwrap_or_else(|| requested.clone());
            let cost = p.costs.entry(model.clone()).or_default();
            cost.unpriced += all.cost.unpriced;
            cost.compared += all.cost.compared;
            cost.computed += all.cost.computed;
            cost.reported += all.cost.reported;
            *p.spend.entry(Spender::Model(model.clone())).or_default() += all.spend;
            if let Some(served) = served {
                let s = p
                    .served
                    .entry((requested, served))
                    .or_insert_with(|| ServedSeen {
                        events: 0,
                        first: all.first.clone(),
                    });
                s.events += all.seen.requests;
                if all.first < s.first {
                    s.first = all.first;
                }
            }
            let route = route.unwrap_or_default();
            let asked = ModelKey {
                model: asked,
                route: route.clone(),
            };
            p.asked.entry(asked).or_default().count(&all.seen);
            let m = p.models.entry(ModelKey { model, route }).or_default();
            m.count(&all.seen);
            for code in all.samples {
                *m.samples.entry(code).or_default() += 1;
            }
        }
        p.costs.retain(|_, c| c.unpriced > 0 || c.compared > 0);
        let crowded = self
            .crowded
            .into_iter()
            .map(|(t, payer)| ((t, None), payer));
        for ((tenant, key), payer) in self.payers.into_iter().chain(crowded) {
            let tenant = tenant.unwrap_or_default();
            if let Some(key) = key {
                *p.spend
                    .entry(Spender::Key(tenant.clone(), key))
                    .or_default() += payer.spend;
            }
            let seen = p.tenants.entry(tenant.clone()).or_default();
            seen.count(&payer.seen);
            *p.spend.entry(Spender::Tenant(tenant)).or_default() += payer.spend;
        }
        p.spend.retain(|_, sum| *sum != 0);
        p
    }
}

fn count(seen: &mut ModelSeen, outcome: Outcome) {
    let rejected = outcome.client && !outcome.blocked;
    seen.requests += 1;
    seen.errors += u64::from(outcome.error);
    seen.timeouts += u64::from(outcome.timeout);
    seen.throttled += u64::from(outcome.throttled);
    seen.blocked += u64::from(outcome.blocked);
    seen.rejected += u64::from(rejected);
    seen.denied += u64::from(rejected && outcome.denied);
}

/// The entry of `key`, unless the table is full. The key is cloned only when it is new.
fn entry<'m, K: std::hash::Hash + Eq + Clone, V: Default>(
    map: &'m mut HashMap<K, V>,
    key: &K,
    overflow: &mut u64,
) -> Option<&'m mut V> {
    if !map.contains_key(key) {
        if map.len() >= MAX_ENTRIES {
            *overflow += 1;
            return None;
        }
        map.insert(key.clone(), V::default());
    }
    map.get_mut(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::bare;
    use crate::event::{Role, Side};

    #[test]
    fn a_tenants_spending_is_whole_however_many_keys_it_has() {
        let mut event = bare::event(1, Role::User, Side::Request, Sketch::default());
        event.tenant = Some(SmolStr::new("acme"));
        event.status = 404;
        let (mut builders, mut counters) = (Builders::default(), Counters::default());
        let keys = MAX_ENTRIES + 100;
        for n in 0..keys {
            let text = format!("k7:{:0>22}", format!("{n}A"));
            let context = Context {
                end: Time(1_000),
                late: false,
                clamped: false,
                append: Time(1_000),
                api_key: Some(text.parse().expect("a pseudonym")),
                cost: None,
                weight: 7,
            };
            builders.add(&event, &context, &mut counters);
        }
        let mut out = BTreeMap::new();
        builders.finish(&mut out);
        let part = MinutePart::decode(&out[&(0, false)]).expect("a part");
        let acme = SmolStr::new("acme");
        let spent = part.spend[&Spender::Tenant(acme.clone())];
        assert_eq!(spent, 7 * i128::try_from(keys).expect("few"));
        assert_eq!(part.tenants[&acme].denied, keys as u64);
        assert_eq!((part.overflow, counters.part_overflow), (100, 100));
    }
}
