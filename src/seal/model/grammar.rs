//! The product's own training corpus: seed texts and grammars that expand the same way every time.
//!
//! A file of `rules/corpus/` is lines of
//! ```text
//! # a comment
//! lang de
//! @verb = ignoriere | vergiss | missachte
//! attack override 30: {verb} {alle|sämtliche} {what} und {task}
//! benign usage: Wie kann ich {what} im Editor rückgängig machen?
//! ```
//! `{name}` takes one of a slot's alternatives (which may hold slots in turn), `{a|b}` one of those
//! written in place, `{{` and `}}` are braces. The number is how many texts a template gives at
//! most. Errors name line and column, so that a corpus is checked like a rule file.

use std::collections::BTreeMap;

/// Texts a template gives unless its line says otherwise.
const DEFAULT_DRAWS: usize = 12;
/// Most texts of one template: a corpus is variety, not copies.
const MAX_DRAWS: usize = 400;
/// How deep slots may hold slots. Deeper is a cycle.
const MAX_DEPTH: usize = 8;
/// Tries for a text not yet drawn, per text asked for.
const TRIES: usize = 4;

/// A line of a corpus file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct GrammarError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub what: String,
}

/// One text of the expanded corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Whether it is an attack.
    pub attack: bool,
    /// Its family (`override`, `usage`, …).
    pub family: String,
    /// Language code of the file's part it stands in.
    pub lang: String,
    /// The text.
    pub text: String,
}

/// A small deterministic generator (SplitMix64): the same seed gives the same corpus anywhere.
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for `n` = 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n64 = u64::try_from(n).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next_u64() % n64).unwrap_or(0)
    }
}

/// FNV-1a: a seed per template, so that a new line leaves the others' texts as they are.
pub fn seed_of(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3)
    })
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Slot(String),
    Choice(Vec<Vec<Piece>>),
}

struct Template {
    attack: bool,
    family: String,
    draws: usize,
    lang: String,
    seed: u64,
    pieces: Vec<Piece>,
}

/// Expands one corpus file.
///
/// # Errors
/// The first [`GrammarError`]: an unknown line, slot or brace.
pub fn expand(source: &str) -> Result<Vec<Line>, GrammarError> {
    let mut slots: BTreeMap<String, Vec<Vec<Piece>>> = BTreeMap::new();
    let mut templates = Vec::new();
    let mut lang = String::from("en");
    for (index, raw) in source.lines().enumerate() {
        let line = index + 1;
        let text = raw.trim();
        let fail = |column: usize, what: String| GrammarError { line, column, what };
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(code) = text.strip_prefix("lang ") {
            code.trim().clone_into(&mut lang);
            slots.clear();
        } else if let Some(rest) = text.strip_prefix('@') {
            let (name, alternatives) = rest
                .split_once('=')
                .ok_or_else(|| fail(1, "a slot is `@name = one | two`".into()))?;
            let parsed = choices(alternatives, line)?;
            for piece in parsed.iter().flatten() {
                known(piece, &slots, line)?;
            }
            slots
                .entry(name.trim().to_owned())
                .or_default()
                .extend(parsed);
        } else {
            let (head, body) = text
                .split_once(':')
                .ok_or_else(|| fail(1, "a template is `attack|benign FAMILY [N]: TEXT`".into()))?;
            let mut words = head.split_whitespace();
            let attack = match words.next() {
                Some("attack") => true,
                Some("benign") => false,
                _ => {
                    return Err(fail(
                        1,
                        "a line begins with `attack`, `benign`, `@`, `lang` or `#`".into(),
                    ));
                }
            };
            let family = words
                .next()
                .ok_or_else(|| fail(1, "the family is missing".into()))?;
            let draws = match words.next() {
                None => DEFAULT_DRAWS,
                Some(n) => match n.parse() {
                    Ok(n) if (1..=MAX_DRAWS).contains(&n) => n,
                    _ => return Err(fail(1, format!("the number of texts is 1 to {MAX_DRAWS}"))),
                },
            };
            let pieces = parse(body.trim(), line)?;
            for piece in &pieces {
                known(piece, &slots, line)?;
            }
            templates.push((
                Template {
                    attack,
                    family: family.to_owned(),
                    draws,
                    lang: lang.clone(),
                    seed: seed_of(text),
                    pieces,
                },
                slots.clone(),
            ));
        }
    }
    let mut out = Vec::new();
    for (template, slots) in &templates {
        draw(template, slots, &mut out);
    }
    Ok(out)
}

fn draw(template: &Template, slots: &BTreeMap<String, Vec<Vec<Piece>>>, out: &mut Vec<Line>) {
    let mut draws = Draws::new(template.seed);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..template.draws * TRIES {
        if seen.len() == template.draws {
            return;
        }
        let mut text = String::new();
        write(&template.pieces, slots, &mut draws, 0, &mut text);
        let text = text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace("\\n", "\n");
        if seen.insert(text.clone()) {
            out.push(Line {
                attack: template.attack,
                family: template.family.clone(),
                lang: template.lang.clone(),
                text,
            });
        }
    }
}

fn write(
    pieces: &[Piece],
    slots: &BTreeMap<String, Vec<Vec<Piece>>>,
    draws: &mut Draws,
    depth: usize,
    out: &mut String,
) {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Slot(name) => {
                if let Some(of) = slots
                    .get(name)
                    .filter(|of| !of.is_empty() && depth < MAX_DEPTH)
                {
                    let at = draws.below(of.len());
                    write(&of[at], slots, draws, depth + 1, out);
                }
            }
            Piece::Choice(of) => {
                let at = draws.below(of.len());
                if depth < MAX_DEPTH {
                    write(&of[at], slots, draws, depth + 1, out);
                }
            }
        }
    }
}

fn known(
    piece: &Piece,
    slots: &BTreeMap<String, Vec<Vec<Piece>>>,
    line: usize,
) -> Result<(), GrammarError> {
    match piece {
        Piece::Text(_) => Ok(()),
        Piece::Slot(name) if slots.contains_key(name) => Ok(()),
        Piece::Slot(name) => Err(GrammarError {
            line,
            column: 1,
            what: format!("no slot `{name}` above; define it with `@{name} = …`"),
        }),
        Piece::Choice(of) => of.iter().flatten().try_for_each(|p| known(p, slots, line)),
    }
}

/// Splits at `|` outside braces.
fn choices(text: &str, line: usize) -> Result<Vec<Vec<Piece>>, GrammarError> {
    let (mut depth, mut part, mut out) = (0_usize, String::new(), Vec::new());
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                out.push(parse(part.trim(), line)?);
                part.clear();
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    out.push(parse(part.trim(), line)?);
    Ok(out)
}

fn parse(text: &str, line: usize) -> Result<Vec<Piece>, GrammarError> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut plain, mut out) = (0, String::new(), Vec::new());
    while at < chars.len() {
        let doubled = chars.get(at + 1) == Some(&chars[at]);
        match chars[at] {
            c @ ('{' | '}') if doubled => {
                plain.push(c);
                at += 2;
            }
            '{' => {
                let close = closing(&chars, at).ok_or_else(|| GrammarError {
                    line,
                    column: at + 1,
                    what: "this brace is not closed; a plain brace is `{{`".into(),
                })?;
                if !plain.is_empty() {
                    out.push(Piece::Text(std::mem::take(&mut plain)));
                }
                let inner: String = chars[at + 1..close].iter().collect();
                if inner.contains('|') {
                    out.push(Piece::Choice(choices(&inner, line)?));
                } else {
                    out.push(Piece::Slot(inner.trim().to_owned()));
                }
                at = close + 1;
            }
            '}' => {
                return Err(GrammarError {
                    line,
                    column: at + 1,
                    what: "this brace closes nothing; a plain brace is `}}`".into(),
                });
            }
            c => {
                plain.push(c);
                at += 1;
            }
        }
    }
    if !plain.is_empty() {
        out.push(Piece::Text(plain));
    }
    Ok(out)
}

fn closing(chars: &[char], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in chars.iter().enumerate().skip(open) {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: &str = "lang de\n@verb = ignoriere | vergiss\n\
        attack override 4: {verb} {alle|die {neuen|alten}} Regeln\nbenign usage 1: Regeln {{x}}\n";

    #[test]
    fn a_grammar_expands_without_repeats_and_always_the_same() {
        let lines = expand(SMALL).expect("valid");
        assert_eq!(lines, expand(SMALL).expect("valid"));
        let attacks: std::collections::BTreeSet<_> = lines
            .iter()
            .filter(|l| l.attack)
            .map(|l| l.text.as_str())
            .collect();
        assert_eq!(attacks.len(), 4);
        assert!(
            attacks
                .iter()
                .all(|t| t.ends_with("Regeln") && !t.contains('{'))
        );
        assert_eq!(lines.last().map(|l| l.text.as_str()), Some("Regeln {x}"));
        assert!(lines.iter().all(|l| l.lang == "de"));
    }

    #[test]
    fn mistakes_name_line_and_column() {
        for (source, line, column) in [
            ("nonsense", 1, 1),
            ("lang en\nattack x: {missing}", 2, 1),
            ("attack x: open {a|b", 1, 6),
            ("attack x: close }", 1, 7),
            ("attack x 0: none", 1, 1),
            ("@slot one", 1, 1),
        ] {
            let error = expand(source).expect_err(source);
            assert_eq!(
                (error.line, error.column),
                (line, column),
                "{source}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_source_expands_or_is_refused(source in "(attack|benign|@a|lang)? ?[a-z{}|:= ]{0,60}") {
            let _ = expand(&source);
        }
    }
}
