//! `veilwatch seal`: Turn texts into sealed events: of a file, or of a raw topic (`kafka`).

mod kafka;

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::format::FailOn;
use super::lines::{self, BadLine, Refused};
use crate::config::keyfile;
use crate::decode::{Decoder, RawRecord, bare, to_json};
use crate::event::{Event, Time};
use crate::seal::engine::Engine;
use crate::seal::verdict::Judge;
use crate::seal::{Keys, Scratch, Sealer};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Lines with text (`{"text": "…", "role": "user", "side": "request"}`) or full events with `text`
    /// in `request`, `context` or `response`, bare or as CloudEvents; `-` for standard input. An identity
    /// that is a pseudonym already (`kid:` and 22 characters) stays as it is, here and in `replay`.
    #[arg(required_unless_present = "kafka", conflicts_with = "kafka")]
    file: Option<PathBuf>,
    /// Keys to seal with (`veilwatch key new`); without it a random key that nobody keeps.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Output format; sealed events are JSON lines in any case.
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    format: Format,
    /// Status 1 if something was found.
    #[arg(long, value_name = "WHAT", value_enum)]
    fail_on: Option<FailOn>,
    #[command(flatten)]
    kafka: kafka::Args,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// One sealed event a line.
    Json,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Format::Json = args.format;
    let path = match (&args.file, &args.key_file) {
        (None, Some(key_file)) if args.kafka.kafka => return kafka::run(&args.kafka, key_file),
        (Some(path), _) => path,
        (None, _) => anyhow::bail!("name a file, or - for standard input"),
    };
    let keys = match &args.key_file {
        Some(path) => keyfile::read(path).map_err(anyhow::Error::msg)?,
        None => Keys::single(super::key::random_secret()?),
    };
    let engine = Arc::new(Engine::built_in());
    let judge = args.fail_on.map(|FailOn::Finding| Judge::new(&engine));
    let sealer = Arc::new(Sealer::new(keys, engine));
    let mut file = File {
        // As `replay` does, so that `seal F | replay -` and `replay F` are about the same users.
        decoder: Decoder::trusted(Arc::clone(&sealer))
            .taking_pseudonyms()
            .with_max_bytes(lines::MAX_LINE),
        sealer,
        scratch: Scratch::default(),
    };
    let mut input = lines::open(path)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut bad = 0u64;
    let mut found = false;
    while let Some((number, line)) = input
        .next_line()
        .with_context(|| format!("cannot read {}", path.display()))?
    {
        match line
            .map_err(|e: BadLine| e.to_string())
            .and_then(|line| file.seal(number, line))
        {
            Ok(event) => {
                if let Some(judge) = &judge {
                    found |= event.sketches().any(|(_, _, s)| judge.judge(s).found());
                }
                writeln!(out, "{}", to_json(&event))?;
            }
            Err(error) => {
                bad += 1;
                Refused {
                    line: number,
                    error: &error,
                }
                .write(&mut out, true)?;
            }
        }
    }
    out.flush()?;
    if bad > 0 {
        eprintln!(
            "veilwatch: {bad} line{} could not be sealed; each stands in the output with its number and reason",
            if bad == 1 { "" } else { "s" }
        );
    }
    if bad > 0 || found {
        return Ok(ExitCode::from(super::EXIT_FINDINGS));
    }
    Ok(ExitCode::SUCCESS)
}

struct File {
    sealer: Arc<Sealer>,
    decoder: Decoder,
    scratch: Scratch,
}

impl File {
    /// The sealed event of one line, or why there is none.
    fn seal(&mut self, number: u64, line: &str) -> Result<Box<Event>, String> {
        if let Some(b) = bare::parse(line).map_err(|d| d.to_string())? {
            let sketch = self
                .sealer
                .sketch(b.text.expose(), b.role, b.side, &mut self.scratch);
            return Ok(Box::new(bare::event(number, b.role, b.side, sketch)));
        }
        let record = RawRecord {
            topic: "file",
            partition: 0,
            offset: i64::try_from(number).unwrap_or(i64::MAX),
            append: Time(0),
            key: None,
            value: Some(line.as_bytes()),
            headers: &[],
        };
        self.decoder.decode(&record).map_err(|d| d.to_string())
    }
}
