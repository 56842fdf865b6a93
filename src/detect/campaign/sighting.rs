//! What one batch knows of the attacks of one minute: each by its mark, with its senders. Mergeable.

use std::collections::{BTreeMap, BTreeSet};

use super::MAX_SENDERS;
use crate::detect::wire::{Damaged, Reader, Writer};
use crate::event::{Event, Kid, Pseudonym, Sketch, SmolStr, Time, hash16};

/// Prints of a mark. Eight tell a resemblance of a half from one of a tenth nine times in ten.
pub const PRINTS: usize = 8;
/// Marks in one part. More differing attacks in a minute of a partition are counted, not compared.
pub const MAX_MARKS: usize = 1_024;

/// The senders of one mark. Sets of the smallest, so that they merge in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The smallest prints of the text, ascending.
    pub prints: Vec<u64>,
    /// Users who sent it.
    pub users: BTreeSet<Pseudonym>,
    /// Keys it came with, of events without a user.
    pub keys: BTreeSet<Pseudonym>,
    /// Gateways it came through, of events without a user and a key.
    pub gateways: BTreeSet<SmolStr>,
    /// Tenants of the senders.
    pub tenants: BTreeSet<SmolStr>,
    /// Attacks.
    pub events: u64,
    /// The earliest (end, event id).
    pub first: (Time, SmolStr),
    /// The latest end.
    pub last: Time,
}

/// The attacks of one minute by their marks.
pub type Sightings = BTreeMap<Pseudonym, Sighting>;

/// Whose event it is, under the oldest known key id.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub user: Option<Pseudonym>,
    pub api_key: Option<Pseudonym>,
}

/// Notes an attack. `false` if there was no room for it.
pub fn note(
    all: &mut Sightings,
    event: &Event,
    sketch: &Sketch,
    end: Time,
    sender: Sender,
) -> bool {
    let Some(mark) = mark(sketch) else {
        // Nothing to recognise it by: sealed without a content key.
        return true;
    };
    if all.len() >= MAX_MARKS && !all.contains_key(&mark) {
        return false;
    }
    let mut seen = Sighting {
        prints: sketch.prints.iter().copied().take(PRINTS).collect(),
        users: sender.user.into_iter().collect(),
        keys: match sender.user {
            Some(_) => BTreeSet::new(),
            None => sender.api_key.into_iter().collect(),
        },
        gateways: BTreeSet::new(),
        tenants: [event.tenant_or_empty()].into(),
        events: 1,
        first: (end, event.id.clone()),
        last: end,
    };
    if sender.user.is_none() && sender.api_key.is_none() {
        seen.gateways.insert(event.gateway.clone());
    }
    merge_one(all, mark, &seen);
    true
}

/// What a text is known by: its digest, else a hash of its prints.
fn mark(sketch: &Sketch) -> Option<Pseudonym> {
    if sketch.kid == Kid::default() {
        return None;
    }
    sketch.digest.or_else(|| {
        let bytes: Vec<u8> = sketch.prints.iter().flat_map(|p| p.to_le_bytes()).collect();
        (!bytes.is_empty()).then(|| Pseudonym {
            kid: sketch.kid,
            mac: hash16("attack", &[&bytes]).0,
        })
    })
}

/// Unites the sightings of two parts. The `max` smallest marks stay, the same ones in whatever order parts
/// are united; the rest is counted.
pub fn merge(into: &mut Sightings, other: &Sightings, max: usize, left_out: &mut u64) {
    for (mark, seen) in other {
        merge_one(into, *mark, seen);
    }
    while into.len() > max {
        into.pop_last();
        *left_out += 1;
    }
}

fn merge_one(into: &mut Sightings, mark: Pseudonym, seen: &Sighting) {
    let Some(have) = into.get_mut(&mark) else {
        into.insert(mark, seen.clone());
        return;
    };
    extend(&mut have.users, &seen.users);
    extend(&mut have.keys, &seen.keys);
    extend(&mut have.gateways, &seen.gateways);
    extend(&mut have.tenants, &seen.tenants);
    have.events += seen.events;
    have.last = have.last.max(seen.last);
    if seen.first < have.first {
        have.first = seen.first.clone();
    }
}

/// Keeps the smallest [`MAX_SENDERS`]: the same set in whatever order parts are united.
fn extend<T: Ord + Clone>(into: &mut BTreeSet<T>, other: &BTreeSet<T>) {
    into.extend(other.iter().cloned());
    while into.len() > MAX_SENDERS {
        into.pop_last();
    }
}

pub fn encode_sightings(all: &Sightings, w: &mut Writer) {
    w.len(all.len());
    for (mark, s) in all {
        w.pseudonym(mark);
        w.len(s.prints.len());
        for p in &s.prints {
            w.u64(*p);
        }
        for set in [&s.users, &s.keys] {
            w.len(set.len());
            for p in set {
                w.pseudonym(p);
            }
        }
        for set in [&s.gateways, &s.tenants] {
            w.len(set.len());
            for name in set {
                w.str(name);
            }
        }
        w.u64(s.events);
        w.i64(s.first.0.0);
        w.str(&s.first.1);
        w.i64(s.last.0);
    }
}

pub fn decode_sightings(r: &mut Reader<'_>) -> Result<Sightings, Damaged> {
    let mut all = Sightings::new();
    for _ in 0..r.len()? {
        let mark = r.pseudonym()?;
        let seen = Sighting {
            prints: many(r, Reader::u64)?,
            users: many(r, Reader::pseudonym)?,
            keys: many(r, Reader::pseudonym)?,
            gateways: many(r, Reader::str)?,
            tenants: many(r, Reader::str)?,
            events: r.u64()?,
            first: (Time(r.i64()?), r.str()?),
            last: Time(r.i64()?),
        };
        all.insert(mark, seen);
    }
    Ok(all)
}

/// Reads a count and that many.
pub fn many<'a, T, C: FromIterator<T>>(
    r: &mut Reader<'a>,
    read: impl Fn(&mut Reader<'a>) -> Result<T, Damaged>,
) -> Result<C, Damaged> {
    (0..r.len()?).map(|_| read(r)).collect()
}
