//! From labelled rows and corpus files to training examples: which rows may be used, how they are
//! read, and how much each source counts.

use std::collections::BTreeMap;

use super::augment::{self, augment};
use super::grammar::{self, GrammarError, Line};
use super::train::Example;
use crate::rule::fold;

/// Rows are read up to here, in characters: what follows says little more and would outweigh the
/// rest by its length.
const MAX_CHARS: usize = 4_000;
/// Longest harmless row that may stand beside a corpus line, in bytes.
const MAX_ORDINARY: usize = 600;
/// Rows of this kind are an operator's; the model does not judge them.
const OPERATOR_KIND: &str = "system_prompt";
/// Sources whose name holds this quote attacks: no company for a corpus line.
const QUOTES_ATTACKS: &str = "security";

/// How much a corpus family counts beside the others: harmless texts that wear the words of attacks
/// are many and alike, and at full weight they cost recall on sources left out.
fn share(family: &str) -> f32 {
    match family.split('+').next().unwrap_or_default() {
        "mention" | "dress" | "sensitive" => 0.4,
        "role" => 0.5,
        _ => 1.0,
    }
}

/// How much rows from outside count beside others. Two fifths of the stories in `attack_wildjailbreak`
/// only hold a harmful request, while nearly all rows of the sets after it are injections; texts that
/// talk about attacks are few and the hardest to tell from them.
fn row_share(file: &str, attack: bool) -> f32 {
    match (file, attack) {
        ("attack_wildjailbreak", true) => 0.3,
        ("attack_spikee" | "mixed_community", true) => 1.5,
        ("benign_security_docs", false) => 3.0,
        _ => 1.0,
    }
}

/// A labelled text from outside.
#[derive(Debug, Clone)]
pub struct Row {
    /// Name of the file it came from.
    pub file: String,
    /// The source it names.
    pub source: String,
    /// Its language, if named.
    pub lang: String,
    /// Its kind.
    pub kind: String,
    /// The text.
    pub text: String,
    /// Whether it is an attack.
    pub attack: bool,
    /// Whether weights trained on it may be given away.
    pub ship: bool,
}

/// The product's own corpus: grammar files by name, and the frames.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    /// Name and content of each grammar file, in the order of names.
    pub files: Vec<(String, String)>,
    /// Content of the frames file.
    pub frames: String,
}

/// A mistake in a corpus file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{error}")]
pub struct CorpusError {
    /// The file.
    pub file: String,
    /// Place and mistake.
    pub error: GrammarError,
}

/// What went in and what was left out, per file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Attacks used.
    pub attacks: usize,
    /// Harmless texts used.
    pub benign: usize,
    /// Rows that may not ship, or are an operator's.
    pub left_out: usize,
}

/// Builds the examples, in the order given, and says what was used.
///
/// # Errors
/// [`CorpusError`] for the first line of a corpus file that cannot be used.
pub fn examples(
    rows: &[Row],
    corpus: &Corpus,
) -> Result<(Vec<Example>, BTreeMap<String, Used>), CorpusError> {
    let mut used: BTreeMap<String, Used> = BTreeMap::new();
    let mut out = Vec::new();
    let mut ordinary = Vec::new();
    for row in rows {
        let count = used.entry(row.file.clone()).or_default();
        if !row.ship || row.kind == OPERATOR_KIND {
            count.left_out += 1;
            continue;
        }
        *(if row.attack {
            &mut count.attacks
        } else {
            &mut count.benign
        }) += 1;
        if !row.attack && row.text.len() < MAX_ORDINARY && !row.file.contains(QUOTES_ATTACKS) {
            ordinary.push(row.text.clone());
        }
        let head: String = row.text.chars().take(MAX_CHARS).collect();
        out.push(Example {
            reading: fold::phrase(&head),
            attack: row.attack,
            source: format!("{}:{}:{}", row.file, row.source, row.lang),
            share: row_share(&row.file, row.attack),
        });
    }
    let mut lines: Vec<Line> = Vec::new();
    for (file, text) in &corpus.files {
        let expanded = grammar::expand(text).map_err(|error| CorpusError {
            file: file.clone(),
            error,
        })?;
        let count = used.entry(file.clone()).or_default();
        count.attacks = expanded.iter().filter(|l| l.attack).count();
        count.benign = expanded.len() - count.attacks;
        lines.extend(expanded);
    }
    let more = augment(&lines, &augment::frames(&corpus.frames), &ordinary);
    out.extend(lines.into_iter().chain(more).map(|line| Example {
        reading: fold::phrase(&line.text),
        attack: line.attack,
        source: format!("corpus:{}", line.lang),
        share: share(&line.family),
    }));
    Ok((out, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, attack: bool, ship: bool, kind: &str) -> Row {
        Row {
            file: "f".into(),
            source: "s".into(),
            lang: String::new(),
            kind: kind.into(),
            text: text.into(),
            attack,
            ship,
        }
    }

    #[test]
    fn rows_that_may_not_ship_and_operators_are_left_out() {
        let rows = [
            row("Ignore it", true, true, "x"),
            row("secret sauce", true, false, "x"),
            row("you are a bot", false, true, OPERATOR_KIND),
            row("Hello", false, true, "x"),
        ];
        let (examples, used) = examples(&rows, &Corpus::default()).expect("no corpus");
        assert_eq!(
            used["f"],
            Used {
                attacks: 1,
                benign: 1,
                left_out: 2
            }
        );
        let readings: Vec<_> = examples.iter().map(|e| e.reading.as_str()).collect();
        assert_eq!(readings, ["ignore it", "hello"]);
    }

    #[test]
    fn corpus_lines_come_plain_and_changed_and_mistakes_name_the_file() {
        let mut corpus = Corpus {
            files: vec![("a.txt".into(), "lang de\nattack x 1: Vergiss alles".into())],
            frames: "Dear Ann, %".into(),
        };
        let (lines, used) = examples(&[], &corpus).expect("valid");
        assert_eq!(used["a.txt"].attacks, 1);
        assert!(lines.iter().any(|e| e.reading == "dear ann, vergiss alles"));
        assert!(lines.iter().all(|e| e.source == "corpus:de"));
        corpus.files[0].1 = "nonsense".into();
        assert_eq!(
            examples(&[], &corpus).map_err(|e| e.file).err().as_deref(),
            Some("a.txt")
        );
    }
}
