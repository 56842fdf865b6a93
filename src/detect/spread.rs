//! One incident for a model whose versions and routes go wrong together: what is told, when, and under
//! which subject. Home: merged minute (a part of `latency` and `errors`).
//!
//! What goes wrong alone is told as itself, what goes wrong in several places under the model that was
//! asked for. An incident keeps the subject it began with, so that it never resolves in the middle
//! because one more route has joined.

use std::collections::BTreeMap;

use super::part::{MinutePart, ModelKey};
use super::wire::{Damaged, Reader, Writer};
use crate::event::SmolStr;

/// What lasts is told again after this many minutes.
const AGAIN_MINUTES: i64 = 10;

#[derive(Debug, Clone, PartialEq)]
struct Open {
    subject: SmolStr,
    /// Minute in which it was told last, how grave it was then, and whether in several places.
    told: i64,
    rank: u8,
    many: bool,
}

/// What one minute has to say of a family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) minute: i64,
    /// How grave: what is graver than before does not wait.
    pub(super) rank: u8,
    /// Whether it is wrong in several places.
    pub(super) many: bool,
    /// After this many minutes without being told the incident is over, and the next is another.
    pub(super) quiet: i64,
}

/// The incidents that are open, by family and kind. As many as there are families at most.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Spread(BTreeMap<(SmolStr, u8), Open>);

impl Spread {
    /// The subject under which to tell it; `None` if it was told lately.
    pub(super) fn tell(
        &mut self,
        family: &SmolStr,
        kind: u8,
        now: Now,
        subject: impl FnOnce() -> SmolStr,
    ) -> Option<SmolStr> {
        let key = (family.clone(), kind);
        let open = self
            .0
            .get(&key)
            .filter(|o| now.minute - o.told <= now.quiet);
        let subject = match open {
            None => subject(),
            Some(o) => {
                let news = now.rank > o.rank || now.many && !o.many;
                if !news && now.minute - o.told < AGAIN_MINUTES {
                    return None;
                }
                o.subject.clone()
            }
        };
        let told = Open {
            subject: subject.clone(),
            told: now.minute,
            rank: now.rank,
            many: now.many,
        };
        self.0.insert(key, told);
        Some(subject)
    }

    /// Forgets what is over.
    pub(super) fn forget(&mut self, minute: i64, quiet: i64) {
        self.0.retain(|_, o| minute - o.told <= quiet);
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.len(self.0.len());
        for ((family, kind), o) in &self.0 {
            w.str(family);
            w.u8(*kind);
            w.str(&o.subject);
            w.i64(o.told);
            w.u8(o.rank);
            w.bool(o.many);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut s = Self::default();
        for _ in 0..r.len()? {
            let key = (r.str()?, r.u8()?);
            let open = Open {
                subject: r.str()?,
                told: r.i64()?,
                rank: r.u8()?,
                many: r.bool()?,
            };
            s.0.insert(key, open);
        }
        Ok(s)
    }
}

/// The model that was asked for, by served version: the one of most answers, the first of equals.
pub(super) fn families(part: &MinutePart) -> BTreeMap<&SmolStr, &SmolStr> {
    let mut best: BTreeMap<&SmolStr, (u64, &SmolStr)> = BTreeMap::new();
    for ((requested, served), seen) in &part.served {
        let b = best.entry(served).or_insert((seen.events, requested));
        if seen.events > b.0 {
            *b = (seen.events, requested);
        }
    }
    best.into_iter().map(|(v, (_, m))| (v, m)).collect()
}

/// `model:NAME`, with the route where there is one.
pub(super) fn model_subject(name: &ModelKey) -> SmolStr {
    if name.route.is_empty() {
        smol_str::format_smolstr!("model:{}", name.model)
    } else {
        smol_str::format_smolstr!("model:{} route:{}", name.model, name.route)
    }
}

/// The end of a reason: in how many more places.
pub(super) fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => "; and so it is in one more of its versions and routes".to_owned(),
        n => format!("; and so it is in {n} more of its versions and routes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_keeps_its_subject_and_is_told_again_when_it_grows() {
        let mut s = Spread::default();
        let family = SmolStr::new("m");
        let mut told = Vec::new();
        for (minute, rank, many, subject) in [
            (0, 0, false, "r1"),
            (1, 0, false, "r2"),
            (2, 0, true, "m"),
            (3, 0, true, "m"),
            (4, 1, true, "m"),
            (14, 1, false, "r2"),
            (35, 0, false, "r2"),
        ] {
            let now = Now {
                minute,
                rank,
                many,
                quiet: 20,
            };
            let mut w = Writer::default();
            s.encode(&mut w);
            s = Spread::decode(&mut Reader::new(&w.0)).expect("decode");
            s.forget(minute, 20);
            if let Some(t) = s.tell(&family, 0, now, || SmolStr::new(subject)) {
                told.push((minute, t));
            }
        }
        let told: Vec<_> = told.iter().map(|(m, t)| (*m, t.as_str())).collect();
        // Over at minute 34: the one at 35 is another.
        assert_eq!(
            told,
            [(0, "r1"), (2, "r1"), (4, "r1"), (14, "r1"), (35, "r2")]
        );
    }
}
