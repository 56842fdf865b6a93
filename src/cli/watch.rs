//! `veilwatch watch`: Register canaries, system prompts and documents.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

use super::database::{Access, author, write_rows};
use super::format::Format;
use crate::config::keyfile;
use crate::seal::{Sealer, print, registered};
use crate::store::watched::WatchedRow;

/// Largest text that is registered or hunted, in bytes: that of a trusted record.
const MAX_BYTES: u64 = crate::event::MAX_TRUSTED_BYTES as u64;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print a new canary: a word to put into a system prompt or a document, then to register.
    Canary,
    /// Register a text by its keyed fingerprints; `run` reports when it reappears in a response. The
    /// text itself is not kept.
    Add {
        /// The text; `-` for standard input.
        file: PathBuf,
        /// A name for it, which stands in findings.
        #[arg(long)]
        name: String,
        /// What it is. Of a canary one word is proof; of others, about thirty words in common.
        #[arg(long, value_enum)]
        kind: Kind,
        /// The key file that the gateways seal with.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
        /// Who registers it.
        #[arg(long)]
        author: Option<String>,
    },
    /// List what is registered.
    List,
    /// Forget a text.
    Remove {
        /// Its name.
        name: String,
        /// Who removes it.
        #[arg(long)]
        author: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A word that no text holds by chance.
    Canary,
    /// The instructions of an application.
    SystemPrompt,
    /// A confidential document.
    Document,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::SystemPrompt => "system-prompt",
            Self::Document => "document",
        }
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Canary => {
            let word = registered::canary(&super::key::random_secret()?);
            // The word alone, so that `$(veilwatch watch canary)` is it; a JSON string where that is asked.
            let mut out = std::io::stdout().lock();
            match args.access.format {
                Some(Format::Json) => writeln!(out, "{}", serde_json::json!({ "canary": word }))?,
                _ => writeln!(out, "{word}")?,
            }
        }
        Verb::Add {
            file,
            name,
            kind,
            key_file,
            author: who,
        } => {
            if !crate::decode::name::is_name(&name) {
                bail!("a name has 1 to 64 characters of [A-Za-z0-9._:/-]");
            }
            let rows = rows(&file, &name, kind, &key_file, &author(who)?)?;
            args.access.database.with(|store| {
                let rows = rows.clone();
                async move {
                    for row in &rows {
                        store.watch_text(row).await?;
                    }
                    Ok(())
                }
            })?;
            show(&rows, args.access.format)?;
            eprintln!("a running `run` watches for it within seconds");
        }
        Verb::List => {
            let rows = args
                .access
                .database
                .with(|store| async move { Ok(store.watched().await?) })?;
            show(&rows, args.access.format)?;
        }
        Verb::Remove { name, author: who } => {
            let who = author(who)?;
            let text = name.clone();
            let gone = args
                .access
                .database
                .with(|store| async move { Ok(store.unwatch_text(&text, &who).await?) })?;
            if gone == 0 {
                bail!(
                    "no text of the name {name} is registered; `veilwatch watch list` prints them"
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows of a text: one for each content key.
fn rows(
    file: &Path,
    name: &str,
    kind: Kind,
    keys: &Path,
    author: &str,
) -> anyhow::Result<Vec<WatchedRow>> {
    let sealer = Sealer::built_in(keyfile::read(keys).map_err(anyhow::Error::msg)?);
    let text = read(file)?;
    let words = i32::try_from(print::count_words(&text)).unwrap_or(i32::MAX);
    registered::register(&sealer, &text)
        .into_iter()
        .map(|r| {
            let prints = if kind == Kind::Canary { r.tokens } else { [r.prints, r.tokens].concat() };
            if prints.is_empty() && kind == Kind::Canary {
                bail!("the text holds no word that is a canary (16 or more letters and digits); make one with `veilwatch watch canary`");
            }
            if prints.is_empty() {
                bail!("the text has no run of five words of its own: too short, or ordinary phrases only");
            }
            Ok(WatchedRow {
                name: name.to_owned(),
                kind: kind.as_str().to_owned(),
                kid: r.kid.to_string(),
                prints,
                words,
                author: author.to_owned(),
            })
        })
        .collect()
}

/// Reads a text of bounded size; it is wiped when dropped.
pub(super) fn read(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    use std::io::Read as _;
    let from: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let failed = || {
            format!(
                "cannot read {}; name a readable file or `-`",
                file.display()
            )
        };
        Box::new(std::fs::File::open(file).with_context(failed)?)
    };
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", file.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!(
            "{} is larger than 1 MiB; register its chapters one by one",
            file.display()
        );
    }
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        anyhow::anyhow!(
            "{} is not UTF-8 at byte {}",
            file.display(),
            e.valid_up_to()
        )
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn show(rows: &[WatchedRow], format: Option<Format>) -> anyhow::Result<()> {
    write_rows(
        rows,
        format,
        &[
            ("name", |r| r.name.clone()),
            ("kind", |r| r.kind.clone()),
            ("kid", |r| r.kid.clone()),
            ("words", |r| r.words.to_string()),
            ("prints", |r| r.prints.len().to_string()),
            ("author", |r| r.author.clone()),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_needs_a_word_and_a_text_needs_words() {
        let dir = tempfile::tempdir().expect("dir");
        let keys = dir.path().join("seal.key");
        let mut file = tempfile::NamedTempFile::new_in(&dir).expect("file");
        let key = crate::seal::Key::derived([1; 32], crate::seal::key::Purpose::All);
        std::io::Write::write_all(&mut file, key.line().as_bytes()).expect("writes");
        file.persist(&keys).expect("keeps");
        let text = dir.path().join("text");
        let with = |content: &str, kind| {
            std::fs::write(&text, content).expect("writes");
            rows(&text, "t", kind, &keys, "me").map_err(|e| e.to_string())
        };
        assert!(
            with("too short", Kind::Document)
                .expect_err("short")
                .contains("five words")
        );
        assert!(
            with("no long word in here at all", Kind::Canary)
                .expect_err("none")
                .contains("watch canary")
        );
        let canary = registered::canary(&[3; 32]);
        assert_eq!(
            with(&canary, Kind::Canary).expect("canary")[0].prints.len(),
            1
        );
        let e = with("x", Kind::Document).expect_err("short");
        assert!(!e.contains("\"x\""));
    }
}
