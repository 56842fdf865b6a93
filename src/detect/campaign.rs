//! One attack from many: the same text, or nearly the same, sent by several users or keys, or
//! through several gateways. Home: merged minute.
//!
//! A batch notes for each attack (a live finding of [`super::injection`]) by what it can be
//! recognised, its *mark*: the digest of the sketch and the smallest of its prints, a bottom-k sample
//! of its runs of words (Broder: "On the resemblance and containment of documents", 1997). The leader
//! puts marks that share the digest, or half of their prints, into one campaign and counts the senders
//! of the last hour. Texts too short for two prints are recognised by their digest alone.
//!
//! Marks are compared under one content key only. What a deployment puts around every user's text
//! becomes part of the text: where that is most of it, unlike attacks look alike.

mod sighting;

use std::collections::{BTreeMap, BTreeSet};

use super::wire::{Damaged, Reader, Writer};
use super::{DetectConfig, DetectorId, Finding, finding_id};
use crate::event::{Kid, Pseudonym, Severity, SmolStr, Stage, Time};
use sighting::many;
pub use sighting::{MAX_MARKS, PRINTS, Sighting, Sightings};
pub(super) use sighting::{Sender, decode_sightings, encode_sightings, merge, note};

/// The only rule.
pub const RULE: &str = "campaign-injection";
const VERSION: u32 = 1;
/// Fewest shared prints that make two texts alike: one is a phrase that many know.
const SHARED: usize = 2;
/// Senders counted per mark and minute, and per campaign; beyond it "at least" is said. More says
/// nothing new to the one who reads the page.
const MAX_SENDERS: usize = 64;
/// Campaigns followed at once, attacks from a single sender included: about 4 MB. Beyond it the one
/// with the fewest senders, then the oldest, is forgotten and counted.
const MAX_CAMPAIGNS: usize = 4_096;
/// Most campaigns that may share a print for it to be compared by. A phrase that more of them have tells
/// none from another, and whoever puts it into ever new attacks would make each dear to place.
const MAX_ALIKE: usize = 64;
/// It is over when no attack of it was seen for this long, milliseconds.
pub const RESOLVE_AFTER_MS: i64 = 60 * 60_000;

/// An attack and who sent it, each with the minute of the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Campaign {
    prints: Vec<u64>,
    users: BTreeMap<Pseudonym, i64>,
    keys: BTreeMap<Pseudonym, i64>,
    gateways: BTreeMap<SmolStr, i64>,
    tenants: BTreeMap<SmolStr, i64>,
    first: (Time, SmolStr),
    last: Time,
}

impl Campaign {
    fn new(seen: &Sighting) -> Self {
        Self {
            prints: seen.prints.clone(),
            users: BTreeMap::new(),
            keys: BTreeMap::new(),
            gateways: BTreeMap::new(),
            tenants: BTreeMap::new(),
            first: seen.first.clone(),
            last: seen.last,
        }
    }

    fn add(&mut self, minute: i64, seen: &Sighting) {
        count(&mut self.users, minute, &seen.users);
        count(&mut self.keys, minute, &seen.keys);
        count(&mut self.gateways, minute, &seen.gateways);
        count(&mut self.tenants, minute, &seen.tenants);
        self.last = self.last.max(seen.last);
        if seen.first < self.first {
            self.first = seen.first.clone();
        }
    }

    /// Forgets who was last seen before `minute`; whether anybody is left.
    fn forget(&mut self, minute: i64) -> bool {
        self.users.retain(|_, m| *m >= minute);
        self.keys.retain(|_, m| *m >= minute);
        self.gateways.retain(|_, m| *m >= minute);
        self.tenants.retain(|_, m| *m >= minute);
        !self.tenants.is_empty()
    }

    /// How many different senders, and what they are. Keys are counted of events without a user,
    /// gateways of events without both: one user with several keys is one sender, and one event that
    /// names a user does not hide the keys of others.
    fn senders(&self) -> (usize, &'static str) {
        let kinds = [
            (self.users.len(), "users"),
            (self.keys.len(), "keys"),
            (self.gateways.len(), "gateways"),
        ];
        let all = kinds.iter().map(|k| k.0).sum();
        let mut there = kinds.iter().filter(|k| k.0 > 0);
        match (there.next(), there.next()) {
            (Some((_, what)), None) => (all, what),
            _ => (all, "users, keys and gateways"),
        }
    }

    /// Prints in common, if enough of them to be one attack.
    fn resembles(&self, prints: &[u64]) -> Option<usize> {
        let shared = prints
            .iter()
            .filter(|p| self.prints.binary_search(p).is_ok())
            .count();
        let fewer = prints.len().min(self.prints.len());
        (shared >= SHARED && shared * 2 >= fewer).then_some(shared)
    }
}

fn count<T: Ord + Clone>(all: &mut BTreeMap<T, i64>, minute: i64, seen: &BTreeSet<T>) {
    for s in seen {
        if let Some(m) = all.get_mut(s) {
            *m = minute.max(*m);
        } else if all.len() < MAX_SENDERS {
            all.insert(s.clone(), minute);
        }
    }
}

/// The attacks of the last hour. A campaign is named by the mark that began it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Campaigns {
    all: BTreeMap<Pseudonym, Campaign>,
    /// Marks that were found to be a campaign's, beside the one that names it.
    known: BTreeMap<Pseudonym, Pseudonym>,
    /// Campaigns by print.
    index: BTreeMap<(Kid, u64), BTreeSet<Pseudonym>>,
    /// Campaigns forgotten for want of room.
    forgotten: u64,
}

impl Campaigns {
    /// Attacks forgotten because more than [`MAX_CAMPAIGNS`] were followed.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Counts the attacks of late parts; they fire nothing.
    pub(super) fn late(&mut self, minute: i64, seen: &Sightings) {
        for (mark, s) in seen {
            self.add(minute, *mark, s);
        }
    }

    pub(super) fn minute(
        &mut self,
        config: &DetectConfig,
        minute: i64,
        seen: &Sightings,
        at: Time,
        out: &mut Vec<Finding>,
    ) {
        self.forget(minute - config.campaign.window_minutes);
        let mut touched: BTreeMap<Pseudonym, u64> = BTreeMap::new();
        for (mark, s) in seen {
            let name = self.add(minute, *mark, s);
            *touched.entry(name).or_default() += s.events;
        }
        for (name, events) in touched {
            if let Some(c) = self.all.get(&name) {
                out.extend(judge(config, minute, at, &name, c, events));
            }
        }
    }

    /// Puts a sighting to its campaign; the campaign's name.
    fn add(&mut self, minute: i64, mark: Pseudonym, seen: &Sighting) -> Pseudonym {
        let name = self.find(&mark, &seen.prints);
        let name = if let Some(name) = name {
            if name != mark {
                // Bounded as the campaigns are; a variant that is forgotten is compared again.
                if self.known.len() >= MAX_CAMPAIGNS {
                    self.known.clear();
                }
                self.known.insert(mark, name);
            }
            name
        } else {
            self.make_room();
            for p in &seen.prints {
                self.index.entry((mark.kid, *p)).or_default().insert(mark);
            }
            self.all.insert(mark, Campaign::new(seen));
            mark
        };
        if let Some(c) = self.all.get_mut(&name) {
            c.add(minute, seen);
        }
        name
    }

    fn find(&self, mark: &Pseudonym, prints: &[u64]) -> Option<Pseudonym> {
        if self.all.contains_key(mark) {
            return Some(*mark);
        }
        if let Some(name) = self.known.get(mark) {
            return Some(*name);
        }
        let near: BTreeSet<Pseudonym> = prints
            .iter()
            .filter_map(|p| self.index.get(&(mark.kid, *p)))
            .filter(|names| names.len() <= MAX_ALIKE)
            .flatten()
            .copied()
            .collect();
        near.into_iter()
            .filter_map(|name| Some((self.all.get(&name)?.resembles(prints)?, name)))
            // The most alike; of equals the smallest name, so that every run chooses the same.
            .max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)))
            .map(|(_, name)| name)
    }

    fn forget(&mut self, before: i64) {
        let gone: Vec<Pseudonym> = self
            .all
            .iter_mut()
            .filter_map(|(name, c)| (!c.forget(before)).then_some(*name))
            .collect();
        self.remove(&gone);
    }

    fn remove(&mut self, gone: &[Pseudonym]) {
        if gone.is_empty() {
            return;
        }
        for name in gone {
            let Some(c) = self.all.remove(name) else {
                continue;
            };
            for p in c.prints {
                if let Some(names) = self.index.get_mut(&(name.kid, p)) {
                    names.remove(name);
                    if names.is_empty() {
                        self.index.remove(&(name.kid, p));
                    }
                }
            }
        }
        self.known.retain(|_, name| self.all.contains_key(name));
    }

    fn make_room(&mut self) {
        if self.all.len() < MAX_CAMPAIGNS {
            return;
        }
        // An eighth at once: whoever sends ever new attacks makes this dear only now and then.
        let mut order: Vec<(usize, Time, Pseudonym)> = self
            .all
            .iter()
            .map(|(name, c)| (c.senders().0, c.last, *name))
            .collect();
        order.sort_unstable();
        let gone: Vec<Pseudonym> = order
            .iter()
            .take(MAX_CAMPAIGNS / 8)
            .map(|(_, _, name)| *name)
            .collect();
        self.forgotten += gone.len() as u64;
        self.remove(&gone);
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.forgotten);
        w.len(self.all.len());
        for (name, c) in &self.all {
            w.pseudonym(name);
            w.len(c.prints.len());
            for p in &c.prints {
                w.u64(*p);
            }
            for all in [&c.users, &c.keys] {
                w.len(all.len());
                for (p, minute) in all {
                    w.pseudonym(p);
                    w.i64(*minute);
                }
            }
            for all in [&c.gateways, &c.tenants] {
                w.len(all.len());
                for (name, minute) in all {
                    w.str(name);
                    w.i64(*minute);
                }
            }
            w.i64(c.first.0.0);
            w.str(&c.first.1);
            w.i64(c.last.0);
        }
        w.len(self.known.len());
        for (mark, name) in &self.known {
            w.pseudonym(mark);
            w.pseudonym(name);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut c = Self {
            forgotten: r.u64()?,
            ..Self::default()
        };
        for _ in 0..r.len()? {
            let name = r.pseudonym()?;
            let one = Campaign {
                prints: many(r, Reader::u64)?,
                users: many(r, |r| Ok((r.pseudonym()?, r.i64()?)))?,
                keys: many(r, |r| Ok((r.pseudonym()?, r.i64()?)))?,
                gateways: many(r, |r| Ok((r.str()?, r.i64()?)))?,
                tenants: many(r, |r| Ok((r.str()?, r.i64()?)))?,
                first: (Time(r.i64()?), r.str()?),
                last: Time(r.i64()?),
            };
            for p in &one.prints {
                c.index.entry((name.kid, *p)).or_default().insert(name);
            }
            c.all.insert(name, one);
        }
        c.known = many(r, |r| Ok((r.pseudonym()?, r.pseudonym()?)))?;
        c.known.retain(|_, name| c.all.contains_key(name));
        Ok(c)
    }
}

fn judge(
    config: &DetectConfig,
    minute: i64,
    at: Time,
    name: &Pseudonym,
    c: &Campaign,
    events: u64,
) -> Option<Finding> {
    let (senders, what) = c.senders();
    if senders < config.campaign.senders {
        return None;
    }
    let many = senders >= config.campaign.page_senders;
    let (severity, stage) = if many {
        (Severity::High, Stage::Page)
    } else {
        (Severity::Medium, Stage::Ticket)
    };
    let (halves, _) = name.mac.as_chunks::<8>();
    let subject = smol_str::format_smolstr!("attack:{:016x}", u64::from_be_bytes(halves[0]));
    let at_least = if senders >= MAX_SENDERS {
        "at least "
    } else {
        ""
    };
    let across = match (c.tenants.len(), c.tenants.keys().next()) {
        (1, Some(one)) if !one.is_empty() => format!(" of {one}"),
        (0 | 1, _) => String::new(),
        (n, _) => format!(" of {n} tenants"),
    };
    Some(Finding {
        id: finding_id(
            DetectorId::Campaign,
            RULE,
            VERSION,
            &subject,
            &minute.to_le_bytes(),
        ),
        detector: DetectorId::Campaign,
        rule: SmolStr::new_static(RULE),
        version: VERSION,
        severity,
        stage: config.stage(DetectorId::Campaign, stage),
        // Nobody's own, also while only one tenant is attacked: a second one makes it no other incident.
        tenant: SmolStr::default(),
        subject,
        at,
        start: c.first.0,
        end: Time::from_minute(minute + 1),
        user: None,
        model: None,
        gateway: None,
        event: Some(c.first.1.clone()),
        reason: format!(
            "{at_least}{senders} {what}{across} sent one attack, or near copies of it, within {} min; {events} in this minute",
            config.campaign.window_minutes
        ),
        resolve_after_ms: RESOLVE_AFTER_MS,
    })
}

#[cfg(test)]
mod tests;
