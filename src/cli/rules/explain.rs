//! `veilwatch rules explain`: why a rule did or did not hit a text.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::RuleArgs;
use crate::cli::input;
use crate::event::{Role, Side};
use crate::seal::engine::evaluate::Stop;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file with the text; `-` for standard input.
    file: PathBuf,
    /// Who says it.
    #[arg(long, value_enum, default_value = "user")]
    role: RoleArg,
    /// Which way it travels.
    #[arg(long, value_enum, default_value = "request")]
    side: SideArg,
    /// Only rules whose id contains this; rules without a keyword in the text are shown too.
    #[arg(long, value_name = "TEXT")]
    rule: Option<String>,
    /// Show every rule, also those without a keyword in the text.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    rules: RuleArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RoleArg {
    System,
    User,
    Assistant,
    Tool,
    Document,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SideArg {
    Request,
    Response,
}

/// Largest text that is explained, in bytes: each reading of it is printed.
const MAX_TEXT: u64 = 8 << 20;

/// Runs the verb. The text and its readings go to the terminal of whoever gave the text, and
/// nowhere else.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let text = input::text(&args.file, "a file with one text, or `-`", MAX_TEXT)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let role = match args.role {
        RoleArg::System => Role::System,
        RoleArg::User => Role::User,
        RoleArg::Assistant => Role::Assistant,
        RoleArg::Tool => Role::Tool,
        RoleArg::Document => Role::Document,
    };
    let side = match args.side {
        SideArg::Request => Side::Request,
        SideArg::Response => Side::Response,
    };
    let engine = args.rules.engine()?;
    let explanation = engine.explain(text, role, side);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let scan = &explanation.scan;
    writeln!(
        out,
        "injection: {} {:.3}  ({})",
        if scan.injection.verdict { "yes" } else { "no" },
        scan.injection.score,
        engine.ruleset_id()
    )?;
    for value in &scan.values {
        writeln!(
            out,
            "value: {} {}..{} by {}",
            value.entity, value.start, value.end, value.rule
        )?;
    }
    for (number, (kind, text, logit)) in explanation.readings.iter().enumerate() {
        write!(out, "\nreading {number}: {}", kind.as_str())?;
        if let Some(logit) = logit {
            write!(out, ", model {logit:+.2}")?;
        }
        writeln!(out, "\n  {text}")?;
        for step in explanation.steps.iter().filter(|s| s.reading == number) {
            let chosen = args
                .rule
                .as_ref()
                .map_or(args.all || !untouched(&step.outcome), |r| {
                    step.rule.contains(r.as_str())
                });
            if !chosen {
                continue;
            }
            match &step.outcome {
                Ok(n) => writeln!(out, "  HIT   {} ({n})", step.rule)?,
                Err(stop) => writeln!(out, "  stop  {}: {}", step.rule, say(stop))?,
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Rules that ordinary output leaves out: nothing of theirs is in the text.
fn untouched(outcome: &Result<usize, Stop>) -> bool {
    matches!(
        outcome,
        Err(Stop::Keyword | Stop::Scope | Stop::Reading | Stop::Regex | Stop::Context)
    )
}

fn say(stop: &Stop) -> String {
    match stop {
        Stop::Scope => "not for this role or side".to_owned(),
        Stop::Reading => "does not look at this reading".to_owned(),
        Stop::Keyword => "no keyword occurs".to_owned(),
        Stop::Regex => "the regex matches nowhere".to_owned(),
        Stop::Part => "a part does not hold, or not near enough".to_owned(),
        Stop::Excluded => "something under `not` holds".to_owned(),
        Stop::Context => "no context word near the value".to_owned(),
        Stop::Validator(name) => format!("the value fails `{name}`"),
        Stop::Entropy => "the value's entropy is too low".to_owned(),
        Stop::Exception => "an exception covers it".to_owned(),
        Stop::Overlapped => "another rule names the value".to_owned(),
    }
}
