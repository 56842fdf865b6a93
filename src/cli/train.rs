//! `veilwatch train`: Train the injection model from labelled rows and the product's own corpus.
//!
//! Reads JSON lines (also gzip) with `text`, `label`, `source`, `kind`, `lang` and `ship`. Rows
//! without `"ship": true` are never used: their licence does not let the weights be given away.
//! The same input gives the same bytes, so `--check` proves where shipped weights came from.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::input;
use crate::cli::EXIT_FINDINGS;
use crate::seal::model::corpus::{self, Corpus, Row, Used};
use crate::seal::model::train::{self, Settings};

/// The frames stand beside the grammars under this name.
const FRAMES: &str = "frames.text";

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or directories of labelled rows (`.jsonl`, `.jsonl.gz`); none: the corpus alone.
    rows: Vec<PathBuf>,
    /// Directory of the corpus grammars.
    #[arg(long, default_value = "rules/corpus")]
    corpus: PathBuf,
    /// Where the weights go.
    #[arg(long, default_value = "rules/model.bin", value_name = "FILE")]
    out: PathBuf,
    /// Write nothing; end with 1 if the file differs from what training gives.
    #[arg(long)]
    check: bool,
    /// Tables of 2^BITS buckets each, for tests; without it those of the shipped weights.
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(8..=18))]
    bits: Option<u32>,
}

#[derive(Deserialize)]
struct Wire {
    text: String,
    label: Label,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    lang: Option<String>,
    #[serde(default)]
    ship: bool,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Label {
    Attack,
    Benign,
}

#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    attacks: usize,
    benign: usize,
    left_out: usize,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for path in files(&args.rows)? {
        read(&path, &mut rows)?;
    }
    let corpus = read_corpus(&args.corpus)?;
    let (examples, used) = corpus::examples(&rows, &corpus)?;
    drop(rows);
    let shipped = Settings::default();
    let settings = Settings {
        word_bits: args.bits.unwrap_or(shipped.word_bits),
        char_bits: args.bits.unwrap_or(shipped.char_bits),
        ..shipped
    };
    eprintln!("training on {} examples", examples.len());
    let bytes = train::train(&examples, settings)?.to_bytes();
    report(&used)?;
    if args.check {
        let shipped =
            fs::read(&args.out).with_context(|| format!("cannot read {}", args.out.display()))?;
        let same = shipped == bytes;
        eprintln!(
            "{} {}",
            args.out.display(),
            if same {
                "is what training gives"
            } else {
                "differs"
            }
        );
        return Ok(if same {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(EXIT_FINDINGS)
        });
    }
    fs::write(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;
    eprintln!("{}: {} bytes", args.out.display(), bytes.len());
    Ok(ExitCode::SUCCESS)
}

fn report(used: &BTreeMap<String, Used>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (file, n) in used {
        let line = Report {
            file,
            attacks: n.attacks,
            benign: n.benign,
            left_out: n.left_out,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// The files given, and those of the directories given, in the order of their paths.
pub(super) fn files(given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in given {
        if path.is_dir() {
            for path in input::folder(path, "a folder with labelled texts")? {
                let name = path.to_string_lossy();
                if name.ends_with(".jsonl") || name.ends_with(".jsonl.gz") {
                    out.push(path);
                }
            }
        } else {
            out.push(path.clone());
        }
    }
    out.sort();
    Ok(out)
}

/// The name of a data file without folders and endings.
pub(super) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Hands the lines of a file, unpacked, to `each`, with their numbers.
pub(super) fn each_line(
    path: &Path,
    mut each: impl FnMut(usize, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = input::open(
        path,
        "labelled texts (.jsonl or .jsonl.gz), or a folder of them",
    )?;
    let packed = path.extension().is_some_and(|e| e == "gz");
    let reader: Box<dyn Read> = if packed {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    for (at, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if !line.trim().is_empty() {
            each(at + 1, &line)?;
        }
    }
    Ok(())
}

fn read(path: &Path, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let file = stem(path);
    each_line(path, |number, line| {
        // Only the place is named: the line is data.
        let wire: Wire = serde_json::from_str(line).map_err(|e| {
            let (path, column) = (path.display(), e.column());
            anyhow::anyhow!("{path}:{number}:{column}: not a row with text and label")
        })?;
        rows.push(Row {
            file: file.clone(),
            source: wire.source.unwrap_or_default(),
            lang: wire.lang.unwrap_or_default(),
            kind: wire.kind.unwrap_or_default(),
            text: wire.text,
            attack: wire.label == Label::Attack,
            ship: wire.ship,
        });
        Ok(())
    })
}

/// The largest is a hundredth of it.
const MAX_CORPUS_FILE: u64 = 64 << 20;

fn read_corpus(dir: &Path) -> anyhow::Result<Corpus> {
    let text = |path: &Path| input::text(path, "a text of the corpus", MAX_CORPUS_FILE);
    let mut paths = input::folder(dir, "the folder of the corpus, rules/corpus")?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    let files = paths
        .iter()
        .map(|p| {
            Ok((
                p.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                text(p)?,
            ))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(Corpus {
        files,
        frames: text(&dir.join(FRAMES))?,
    })
}
