//! Makes an event that was sealed here fit the contract: at most 32 context parts, at most 64 KiB.
//!
//! Beyond 32 parts `system` and the newest stay; what the dropped ones hit and scored merges into one
//! part per role, and `unscanned.parts` counts them. Then prints of the oldest parts go, then values,
//! then whole parts, until the canonical JSON fits. Nothing is discarded without a count.

use super::encode::to_json;
use crate::event::{
    Event, Features, Hit, MAX_HITS, MAX_PARTS, MAX_SEALED_BYTES, MAX_VALUES, Part, Role, Sketch,
    SmolStr,
};

/// Most tools, sources and policy rules of a sealed event; a call has a handful, and 256 of each with
/// the longest names still leave room for the sketches.
const MAX_LISTED: usize = 256;

/// Fits `e`. Events that fit are untouched.
pub fn fit(e: &mut Event) {
    lists(e);
    if e.context.len() > MAX_PARTS {
        let roles = ROLES.len();
        drop_oldest(e, MAX_PARTS - roles);
    }
    let mut size = to_json(e).len();
    if size <= MAX_SEALED_BYTES {
        return;
    }
    // Sizes are re-measured only when enough was taken away to matter: each step is worth what it
    // removes from the text.
    let mut at = 0;
    while size > MAX_SEALED_BYTES && at < e.context.len() {
        if let Some(s) = &mut e.context[at].sketch {
            size -= (s.prints.len() * 32).div_ceil(3).min(size);
            s.prints = Vec::new();
        }
        at += 1;
    }
    size = to_json(e).len();
    at = 0;
    while size > MAX_SEALED_BYTES && at < e.context.len() {
        if let Some(s) = &mut e.context[at].sketch {
            for h in &mut s.hits {
                h.values = Vec::new();
            }
            size = to_json(e).len();
        }
        at += 1;
    }
    let mut keep = e.context.len();
    while size > MAX_SEALED_BYTES && keep > 0 {
        keep /= 2;
        drop_oldest(e, keep);
        size = to_json(e).len();
    }
    if size > MAX_SEALED_BYTES {
        for s in [&mut e.request, &mut e.response].into_iter().flatten() {
            s.prints = Vec::new();
        }
    }
    if to_json(e).len() > MAX_SEALED_BYTES {
        // Only lists of the longest possible names are left to be this large.
        for (list, kind) in [(e.tools.len(), "tools"), (e.sources.len(), "sources")] {
            count(e, kind, list);
        }
        e.tools.clear();
        e.sources.clear();
        for p in &mut e.context {
            p.source = None;
        }
    }
}

/// Adds to `unscanned`.
pub fn count(e: &mut Event, kind: &'static str, n: usize) {
    if n == 0 {
        return;
    }
    let n = n as u64;
    match e.unscanned.iter_mut().find(|(k, _)| k == kind) {
        Some((_, have)) => *have = have.saturating_add(n),
        None => e.unscanned.push((SmolStr::new_static(kind), n)),
    }
}

fn lists(e: &mut Event) {
    let (tools, sources) = (
        e.tools.len().saturating_sub(MAX_LISTED),
        e.sources.len().saturating_sub(MAX_LISTED),
    );
    count(e, "tools", tools);
    count(e, "sources", sources);
    e.tools.truncate(MAX_LISTED);
    e.sources.truncate(MAX_LISTED);
    let known = e.sources.len();
    for p in &mut e.context {
        p.source = p
            .source
            .filter(|n| usize::try_from(*n).is_ok_and(|n| n < known));
    }
    if let Some(p) = &mut e.policy {
        p.rules.truncate(MAX_LISTED);
    }
}

const ROLES: [Role; 5] = [
    Role::System,
    Role::User,
    Role::Assistant,
    Role::Tool,
    Role::Document,
];

/// Keeps `system` parts and the newest others, `keep` in all; the rest merge into one part per role,
/// before the kept ones.
fn drop_oldest(e: &mut Event, keep: usize) {
    let parts = std::mem::take(&mut e.context);
    let mut kept = vec![false; parts.len()];
    let newest_first = || (0..parts.len()).rev();
    let system = newest_first().filter(|i| parts[*i].role == Role::System);
    let others = newest_first().filter(|i| parts[*i].role != Role::System);
    for i in system.chain(others).take(keep) {
        kept[i] = true;
    }
    let mut dropped: [Vec<Part>; 5] = Default::default();
    let mut stay = Vec::with_capacity(MAX_PARTS);
    let mut n = 0;
    for (part, kept) in parts.into_iter().zip(kept) {
        if kept {
            stay.push(part);
        } else {
            n += 1;
            let role = ROLES
                .iter()
                .position(|r| *r == part.role)
                .unwrap_or_default();
            dropped[role].push(part);
        }
    }
    count(e, "parts", n);
    let merged = ROLES
        .into_iter()
        .zip(dropped)
        .filter_map(|(role, parts)| merge(role, &parts));
    e.context = merged.chain(stay).collect();
}

/// One part that carries what several hit and scored. `None` where nothing was looked at.
fn merge(role: Role, parts: &[Part]) -> Option<Part> {
    let sketches: Vec<&Sketch> = parts.iter().filter_map(|p| p.sketch.as_ref()).collect();
    let first = sketches.first()?;
    let mut out = Sketch {
        kid: first.kid,
        ruleset: first.ruleset.clone(),
        ..Sketch::default()
    };
    for s in &sketches {
        out.bytes = out.bytes.saturating_add(s.bytes);
        out.chars = out.chars.saturating_add(s.chars);
        out.words = out.words.saturating_add(s.words);
        out.injection = match (out.injection, s.injection) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        if out.ruleset != s.ruleset {
            // Coverage is that of the least known ruleset: unknown.
            out.ruleset = None;
        }
        add_features(&mut out.features, &s.features);
    }
    // Each sketch lists its most severe hit first, so ranks interleave.
    let ranks = sketches
        .iter()
        .map(|s| s.hits.len())
        .max()
        .unwrap_or_default();
    for rank in 0..ranks {
        for h in sketches.iter().filter_map(|s| s.hits.get(rank)) {
            add_hit(&mut out.hits, h);
        }
    }
    out.hits.truncate(MAX_HITS);
    Some(Part {
        role,
        source: None,
        digest: None,
        sketch: Some(out),
    })
}

fn add_features(to: &mut Features, f: &Features) {
    to.control = to.control.saturating_add(f.control);
    to.invisible = to.invisible.saturating_add(f.invisible);
    to.encoded = to.encoded.saturating_add(f.encoded);
    to.skipped = to.skipped.saturating_add(f.skipped);
    to.mixed_script |= f.mixed_script;
    to.entropy = to.entropy.max(f.entropy);
}

fn add_hit(to: &mut Vec<Hit>, h: &Hit) {
    let Some(have) = to.iter_mut().find(|x| x.rule == h.rule) else {
        to.push(h.clone());
        return;
    };
    have.n = have.n.saturating_add(h.n);
    for v in &h.values {
        if have.values.len() < MAX_VALUES && !have.values.contains(v) {
            have.values.push(*v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoder, RawRecord};
    use crate::event::Time;

    fn event() -> Event {
        let text = br#"{"v":1,"id":"e","gateway":"g","at":"2026-11-21T07:00:00Z","operation":"chat","model":{"requested":"m"},"status":200}"#;
        let r = RawRecord {
            topic: "t",
            partition: 0,
            offset: 0,
            append: Time(0),
            key: None,
            value: Some(text),
            headers: &[],
        };
        *Decoder::sealed().decode(&r).expect("decodes")
    }

    fn part(role: Role, n: usize, prints: usize, hits: usize) -> Part {
        let kid = crate::event::Kid::parse("k1").expect("kid");
        let value = crate::event::Pseudonym { kid, mac: [7; 16] };
        Part {
            role,
            source: None,
            digest: None,
            sketch: Some(Sketch {
                kid,
                bytes: n as u64,
                injection: Some(0.5),
                prints: vec![n as u64; prints],
                hits: (0..hits)
                    .map(|i| Hit {
                        rule: format!("rule-{i}").into(),
                        n: 1,
                        values: vec![value; MAX_VALUES],
                    })
                    .collect(),
                ..Sketch::default()
            }),
        }
    }

    #[test]
    fn an_event_that_fits_is_untouched() {
        let mut e = event();
        e.context = (0..MAX_PARTS).map(|n| part(Role::User, n, 64, 1)).collect();
        let before = e.clone();
        fit(&mut e);
        assert_eq!(e, before);
    }

    #[test]
    fn system_and_the_newest_stay_and_the_rest_is_counted() {
        let mut e = event();
        e.context.push(part(Role::System, 1000, 0, 0));
        e.context.extend(
            (0..100).map(|n| part(if n % 2 == 0 { Role::User } else { Role::Tool }, n, 0, 1)),
        );
        fit(&mut e);
        assert!(e.context.len() <= MAX_PARTS);
        assert_eq!(e.unscanned, [("parts".into(), 101 - 27)]);
        let merged = &e.context[..2];
        assert_eq!(merged[0].role, Role::User);
        let hits: u32 = e
            .context
            .iter()
            .filter_map(|p| p.sketch.as_ref())
            .flat_map(|s| &s.hits)
            .map(|h| h.n)
            .sum();
        assert_eq!(hits, 100);
        assert!(e.context.iter().any(|p| p.role == Role::System));
        assert_eq!(
            e.context
                .last()
                .and_then(|p| p.sketch.as_ref())
                .map(|s| s.bytes),
            Some(99)
        );
    }

    #[test]
    fn the_largest_event_fits() {
        let mut e = event();
        e.context = (0..200)
            .map(|n| part(Role::User, n, 64, MAX_HITS))
            .collect();
        e.request = part(Role::User, 0, 64, MAX_HITS).sketch;
        e.response = part(Role::User, 0, 256, MAX_HITS).sketch;
        e.tools = vec![
            crate::event::Tool {
                name: "x".repeat(64).into(),
                args: None
            };
            5000
        ];
        fit(&mut e);
        assert!(
            to_json(&e).len() <= MAX_SEALED_BYTES,
            "{}",
            to_json(&e).len()
        );
        assert!(e.unscanned.iter().any(|(k, n)| k == "tools" && *n == 4744));
        assert_eq!(e.response.map(|s| s.prints.len()), Some(256));
    }
}
