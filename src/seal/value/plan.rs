//! Numbering plans of countries: which lengths and leading digits a telephone number may have.
//!
//! `plans.txt` holds what is asked for of libphonenumber's metadata, one plan a paragraph; a test
//! writes it anew from the `phonenumber` crate (`VEILWATCH_WRITE_PLANS=1`) and keeps it equal. The
//! crate itself compiles thousands of expressions before it answers the first question, and again
//! whenever a hundred others were asked for in between. Here an expression is parsed when its plan
//! is first asked, and followed digit by digit for all its ways at once: no automaton is built.

use std::sync::{LazyLock, OnceLock};

use regex_syntax::hir::{Class, Hir, HirKind};

/// The plans: `id code trunk-prefix lengths`, then a line a kind of number: `name lengths expression`.
const TEXT: &str = include_str!("plans.txt");
/// Most digits that are followed: one bit each, and one behind the last.
const MOST: usize = 24;

/// The plan of one country or network.
#[derive(Debug)]
pub(super) struct Plan {
    /// ISO 3166, `001` for networks of no country.
    pub id: &'static str,
    /// Country code.
    pub code: u16,
    /// What is dialled before national numbers.
    pub prefix: Option<&'static str>,
    /// Lengths of national numbers of any kind.
    lengths: u32,
    general: Shape,
    kinds: Vec<(&'static str, Shape)>,
}

/// How one kind of number looks.
#[derive(Debug)]
struct Shape {
    /// Bit n: n digits; none: any.
    lengths: u32,
    source: &'static str,
    parsed: OnceLock<Option<Hir>>,
}

static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| read(TEXT));

/// The plan of a country.
pub(super) fn of(id: &str) -> Option<&'static Plan> {
    PLANS.iter().find(|plan| plan.id == id)
}

/// All plans under a country code.
pub(super) fn under(code: u16) -> impl Iterator<Item = &'static Plan> {
    PLANS.iter().filter(move |plan| plan.code == code)
}

impl Plan {
    /// A number that the plan can hold: a known length, and the country's general shape.
    pub(super) fn possible(&self, national: &str) -> bool {
        bit(national.len()) & self.lengths != 0 && self.general.fits(national)
    }

    /// A number of a kind that the plan knows.
    pub(super) fn valid(&self, national: &str) -> bool {
        self.general.fits(national) && self.kinds.iter().any(|(_, shape)| shape.fits(national))
    }

    /// A number of the kind `mobile`.
    pub(super) fn mobile(&self, national: &str) -> bool {
        let mobile = self.kinds.iter().find(|(name, _)| *name == "mobile");
        mobile.is_some_and(|(_, shape)| shape.fits(national))
    }
}

impl Shape {
    fn fits(&self, national: &str) -> bool {
        if national.len() > MOST || self.lengths != 0 && bit(national.len()) & self.lengths == 0 {
            return false;
        }
        let parsed = self
            .parsed
            .get_or_init(|| regex_syntax::parse(self.source).ok());
        parsed
            .as_ref()
            .is_some_and(|hir| Digits::of(national).follow(hir, 1) != 0)
    }
}

fn bit(len: usize) -> u32 {
    u32::try_from(len)
        .ok()
        .and_then(|len| 1_u32.checked_shl(len))
        .unwrap_or(0)
}

/// A number: bit n of each digit's row says that it stands at place n.
struct Digits {
    at: [u32; 10],
}

impl Digits {
    fn of(national: &str) -> Self {
        let mut at = [0; 10];
        for (place, b) in national.bytes().enumerate() {
            if let Some(row) = at.get_mut(usize::from(b.wrapping_sub(b'0'))) {
                *row |= bit(place);
            }
        }
        Self { at }
    }

    fn one(&self, of: impl Fn(u8) -> bool, from: u32) -> u32 {
        let rows = (b'0'..).zip(&self.at).filter(|(digit, _)| of(*digit));
        (rows.fold(0, |all, (_, row)| all | row) & from) << 1
    }

    /// All places at which an expression that begins at one of `from` can end.
    fn follow(&self, hir: &Hir, from: u32) -> u32 {
        if from == 0 {
            return 0;
        }
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => from,
            HirKind::Literal(literal) => literal
                .0
                .iter()
                .fold(from, |from, b| self.one(|digit| digit == *b, from)),
            HirKind::Class(Class::Unicode(class)) => {
                let holds = |digit: u8| {
                    let c = char::from(digit);
                    class.iter().any(|r| r.start() <= c && c <= r.end())
                };
                self.one(holds, from)
            }
            HirKind::Class(Class::Bytes(class)) => {
                let holds = |digit| class.iter().any(|r| r.start() <= digit && digit <= r.end());
                self.one(holds, from)
            }
            HirKind::Repetition(repeat) => {
                let (mut all, mut from, mut rounds) = (0, from, 0);
                loop {
                    if rounds >= repeat.min {
                        // What was seen before leads nowhere new.
                        from &= !all;
                        all |= from;
                    }
                    if from == 0 || repeat.max.is_some_and(|max| rounds >= max) {
                        return all;
                    }
                    from = self.follow(&repeat.sub, from);
                    rounds += 1;
                }
            }
            HirKind::Capture(capture) => self.follow(&capture.sub, from),
            HirKind::Concat(parts) => parts.iter().fold(from, |from, p| self.follow(p, from)),
            HirKind::Alternation(ways) => {
                ways.iter().fold(0, |all, way| all | self.follow(way, from))
            }
        }
    }
}

fn read(text: &'static str) -> Vec<Plan> {
    let shape = |lengths: &str, source: &'static str| Shape {
        lengths: mask(lengths),
        source,
        parsed: OnceLock::new(),
    };
    let mut plans: Vec<Plan> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let mut fields = line.split(' ');
        let mut field = || fields.next().unwrap_or("");
        if let Some(plan) = plans.last_mut().filter(|_| line.starts_with(' ')) {
            let (_, name, lengths, source) = (field(), field(), field(), field());
            let shape = shape(lengths, source);
            if name == "general" {
                plan.general = shape;
            } else {
                plan.kinds.push((name, shape));
            }
            continue;
        }
        let (id, code, prefix, lengths) = (field(), field(), field(), field());
        plans.push(Plan {
            id,
            code: code.parse().unwrap_or(0),
            prefix: (prefix != "-").then_some(prefix),
            lengths: mask(lengths),
            general: shape("", ""),
            kinds: Vec::new(),
        });
    }
    plans
}

/// `7,9,10` as bits.
fn mask(lengths: &str) -> u32 {
    let each = lengths.split(',').filter_map(|n| n.parse().ok());
    each.fold(0, |all, n: usize| all | bit(n))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use phonenumber::metadata::{DATABASE, Descriptor};
    use phonenumber::{Metadata, Type};

    use super::super::phone::REGIONS;
    use super::*;

    const TYPES: [(&str, Type); 9] = [
        ("fixed", Type::FixedLine),
        ("mobile", Type::Mobile),
        ("toll-free", Type::TollFree),
        ("premium", Type::PremiumRate),
        ("shared-cost", Type::SharedCost),
        ("personal", Type::PersonalNumber),
        ("voip", Type::Voip),
        ("pager", Type::Pager),
        ("uan", Type::Uan),
    ];

    fn lengths(of: impl IntoIterator<Item = u16>) -> String {
        let all: BTreeSet<u16> = of.into_iter().collect();
        let all: Vec<String> = all.iter().map(u16::to_string).collect();
        if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(",")
        }
    }

    fn shape(out: &mut String, name: &str, of: &Descriptor) {
        let source: String = of
            .national_number()
            .as_str()
            .chars()
            .filter(|c| !c.is_whitespace())
            .collect();
        let lengths = lengths(of.possible_length().iter().copied());
        writeln!(out, " {name} {lengths} {source}").expect("a string");
    }

    /// The file as the library has it.
    fn written() -> String {
        let mut out = String::from(
            "# Numbering plans: written by the tests of plan.rs from the metadata of libphonenumber\n\
             # (the crate phonenumber), Apache-2.0. id code trunk-prefix lengths; kind lengths expression.\n",
        );
        for code in 1..1000 {
            let plans: Vec<&Metadata> = DATABASE.by_code(&code).unwrap_or_default();
            for plan in plans {
                let of = plan.descriptors();
                let kinds = TYPES
                    .iter()
                    .filter_map(|(name, kind)| Some((*name, of.get(*kind)?)));
                let all = kinds
                    .clone()
                    .flat_map(|(_, d)| d.possible_length().to_vec());
                let prefix = plan.national_prefix().unwrap_or("-");
                writeln!(out, "{} {code} {prefix} {}", plan.id(), lengths(all)).expect("a string");
                shape(&mut out, "general", of.general());
                if REGIONS.contains(&plan.id()) {
                    for (name, kind) in kinds {
                        shape(&mut out, name, kind);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn plans_are_those_of_the_library() {
        let written = written();
        if std::env::var_os("VEILWATCH_WRITE_PLANS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/seal/value/plans.txt");
            std::fs::write(path, &written).expect("a writable source folder");
        } else {
            assert!(
                written == TEXT,
                "plans.txt is not what the library has: run this test with VEILWATCH_WRITE_PLANS=1"
            );
        }
    }

    #[test]
    fn shapes_are_followed_as_the_library_matches_them() {
        // Numbers with any digits, near what plans know and far from it.
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for plan in PLANS
            .iter()
            .filter(|plan| REGIONS.contains(&plan.id))
            .step_by(5)
        {
            let theirs = DATABASE.by_id(plan.id).expect("a plan").descriptors();
            for _ in 0..40 {
                let len = 5 + next(8);
                let national: String = (0..len).map(|_| next(10).to_string()).collect();
                assert_eq!(
                    plan.general.fits(&national),
                    theirs.general().is_match(&national),
                    "{} {national}",
                    plan.id
                );
            }
            for (name, kind) in TYPES {
                let Some(theirs) = theirs.get(kind) else {
                    continue;
                };
                let ours = &plan
                    .kinds
                    .iter()
                    .find(|(n, _)| *n == name)
                    .expect("a kind")
                    .1;
                if let Some(example) = theirs.example() {
                    assert!(ours.fits(example), "{} {name} {example}", plan.id);
                    let other = example.replace(['1', '2'], "9");
                    assert_eq!(
                        ours.fits(&other),
                        theirs.is_match(&other),
                        "{} {name}",
                        plan.id
                    );
                }
            }
        }
    }
}
