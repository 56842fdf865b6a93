//! Where a regex is run, and what it finds there: around its literals, its context or digits, where
//! the checks around anchors let it through.

use std::ops::Range;

use regex_automata::{Anchored, Input};

use super::check::{Around, short_runs};
use super::compile::{Condition, GroupId};
use super::evaluate::{LIST_GAP, MAX_MATCHES, Page, Span, Stop, whole};
use super::regex::{Letters, Regex, ceil, floor};
use crate::rule::pattern::{Value, Width};

/// Piece of text that an unplaced regex is run on at once, bytes; pieces overlap by its reach.
/// Bounds the time of a search that fails late.
const PIECE: usize = 16 << 10;

/// Where a regex is run: places that can hold a match, sorted and merged.
fn windows(
    regex: &Regex,
    node: &Condition,
    page: &Page<'_>,
    near: Option<(GroupId, u32)>,
) -> Option<Vec<(usize, usize)>> {
    let around = |group: GroupId, extra: usize| {
        (!page.hits.dense(group)).then(|| {
            let hits = page.hits.of(group).iter();
            merged(regex, page, hits.map(|h| page.place(*h)).collect(), extra)
        })
    };
    if !regex.places.is_empty() {
        return anchored(regex, page);
    }
    if let (Some(group), Some(within)) = (node.keywords, node.within) {
        return around(group, page.bytes(within));
    }
    if let Some((group, within)) = near
        && !page.hits.dense(group)
    {
        return around(group, page.bytes(within));
    }
    let number = regex.number()?;
    match page.digits {
        Some(digits) => digits.stretches(&number, page.text.len()),
        None => Some(Vec::new()),
    }
}

/// The stretches that a match may cover which reaches `extra` bytes around one of these places.
fn merged(
    regex: &Regex,
    page: &Page<'_>,
    places: Vec<(usize, usize)>,
    extra: usize,
) -> Vec<(usize, usize)> {
    let reach = regex.reach() + extra;
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in places {
        let from = start.saturating_sub(reach);
        let to = (end + reach).min(page.text.len());
        match merged.last_mut() {
            Some(last) if from <= last.1 => {
                last.0 = last.0.min(from);
                last.1 = last.1.max(to);
            }
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// Steps of the checks around anchors that one regex may take in a reading, for each of its bytes;
/// beyond it the regex itself looks. Keeps many anchors close together linear.
const STEPS: usize = 4;
/// Steps that it may take even in a short reading.
const LEAST_STEPS: usize = 4_096;

/// Where a regex is run around its anchors: only where what stands around them fits. `None` is
/// everywhere.
fn anchored(regex: &Regex, page: &Page<'_>) -> Option<Vec<(usize, usize)>> {
    let mut left = STEPS * page.text.len() + LEAST_STEPS;
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut caches = page.caches.borrow_mut();
    let around = Around {
        text: page.text,
        ordinary: page.ascii && *page.short.get_or_init(|| short_runs(page.text)),
    };
    for place in &regex.places {
        if page.hits.dense(place.group) {
            return None;
        }
        for hit in page.hits.of(place.group) {
            let (start, end) = page.place(*hit);
            if place
                .check
                .as_ref()
                .is_none_or(|c| c.holds(around, start, &mut caches, &mut left))
            {
                places.push((start, end));
            }
        }
    }
    places.sort_unstable();
    Some(merged(regex, page, places, 0))
}

/// All matches of a regex, looked for where they can be.
pub(super) fn matches(
    regex: &Regex,
    node: &Condition,
    page: &Page<'_>,
    near: Option<(GroupId, u32)>,
) -> Result<Vec<Span>, Stop> {
    if !regex.places.is_empty() && !regex.places.iter().any(|p| page.hits.seen(p.group)) {
        return Err(Stop::Regex);
    }
    let text = page.text;
    let windows = windows(regex, node, page, near).unwrap_or_else(|| vec![(0, text.len())]);
    if windows.is_empty() {
        return Err(Stop::Regex);
    }
    let by_context = near.is_some() || node.within.is_some();
    let mut found = Vec::new();
    for (from, to) in windows {
        let (mut at, mut to) = (floor(text, from), ceil(text, to));
        // What follows a value may be what the next one must begin with: a blank, a comma.
        at = at.max(found.last().map_or(0, |s: &Span| s.to));
        page.caches.borrow_mut().followed += to.saturating_sub(at);
        // What was looked at last, and which letters stand in it.
        let (mut looked, mut letters) = ((0, 0), Letters::Ascii);
        while at < to && found.len() < MAX_MATCHES {
            let stop = ceil(text, (at + PIECE).min(to));
            if !page.ascii && !(looked.0 <= at && stop <= looked.1) {
                // Twice as far as it is searched, or each match would look at a whole piece again.
                looked = (at, ceil(text, (at + 2 * PIECE).min(to)));
                letters = Letters::of(text, looked.0, looked.1);
            }
            let input = Input::new(text).range(at..stop);
            let value = regex.pattern.study().value;
            let found_here = regex.get(letters).and_then(|re| one(re, &input, value));
            let Some(span) = found_here else {
                if stop == to {
                    break;
                }
                at = floor(text, stop - regex.reach().min(PIECE / 2));
                continue;
            };
            at = span.to.max(at + 1);
            while !text.is_char_boundary(at) {
                at += 1;
            }
            if by_context {
                // A list goes on behind the reach of its heading.
                let reach = page.bytes(LIST_GAP) + regex.reach();
                to = to.max(ceil(text, (span.to + reach).min(text.len())));
            }
            found.push(span);
        }
    }
    if found.is_empty() {
        Err(Stop::Regex)
    } else {
        Ok(found)
    }
}

/// The next match. Groups are asked for only where there is one, since most searches end without, and only
/// where the value's place does not follow from the match's.
fn one(re: &regex_automata::meta::Regex, input: &Input<'_>, value: Value) -> Option<Span> {
    let m = re.search(input)?;
    let told = match value {
        Value::Whole => Some((m.start(), m.end())),
        Value::Between { before, after } => between(input.haystack(), m.range(), before, after),
        Value::Group => None,
    };
    let (from, to) = told.unwrap_or_else(|| {
        let mut captures = re.create_captures();
        let there = input.clone().range(m.range()).anchored(Anchored::Yes);
        re.search_captures(&there, &mut captures);
        let value = captures.get_group_by_name("value");
        value.map_or((m.start(), m.end()), |v| (v.start, v.end))
    });
    Some(Span {
        from,
        to,
        ..whole(m.start(), m.end())
    })
}

/// Where a value stands between what is before and behind it in a match, if that can be told.
fn between(text: &[u8], m: Range<usize>, before: Width, after: Width) -> Option<(usize, usize)> {
    if before.or_edge && m.start == 0 || after.or_edge && m.end == text.len() {
        return None;
    }
    let text = std::str::from_utf8(text.get(m.clone())?).ok()?;
    let from = match before.chars {
        0 => 0,
        n => text.char_indices().nth(n)?.0,
    };
    let to = match after.chars {
        0 => text.len(),
        n => text.char_indices().nth_back(n - 1)?.0,
    };
    (from <= to).then_some((m.start + from, m.start + to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::engine::regex::tests::shipped;

    fn places(regex: &Regex, text: &str, value: Value) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at <= text.len() {
            let input = Input::new(text).range(at..);
            let re = regex.get(Letters::Any).expect("compiles");
            let Some(span) = one(re, &input, value) else {
                break;
            };
            found.push((span.from, span.to));
            at = ceil(text, span.to.max(at + 1));
        }
        found
    }

    #[test]
    fn values_of_every_shipped_regex_stand_where_their_group_does() {
        let (mut told, mut asked, mut found) = (0, 0, 0);
        for (regexes, texts) in shipped() {
            for regex in &regexes {
                let value = regex.pattern.study().value;
                match value {
                    Value::Between { .. } => told += 1,
                    Value::Group => asked += 1,
                    Value::Whole => continue,
                }
                for text in &texts {
                    // Behind and before something, too: at the text's ends the group is asked.
                    for text in [text.clone(), format!("\u{e9} {text} \u{e9}")] {
                        let there = places(regex, &text, Value::Group);
                        assert_eq!(places(regex, &text, value), there, "{text:?}");
                        found += there.len();
                    }
                }
            }
        }
        assert!(
            told > 300 && asked > 300 && found > 5_000,
            "{told} {asked} {found}"
        );
    }
}
