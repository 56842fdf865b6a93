//! `veilwatch rules new`: a rule file that already checks, with places to fill in.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::rule::{Area, ID_BYTES};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the rule, with its prefix: inj-…, pii-… or sec-….
    id: String,
    /// Folder that holds `injection/`, `pii/` and `secret/`.
    #[arg(default_value = "rules")]
    dir: PathBuf,
}

/// Runs the verb.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let id = &args.id;
    let area = Area::ALL
        .into_iter()
        .find(|a| id.starts_with(a.prefix()))
        .context("an id begins with `inj-`, `pii-` or `sec-`")?;
    anyhow::ensure!(
        ID_BYTES.contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
        "an id is 5 to 64 of a-z, 0-9 and `-`"
    );
    let folder = args.dir.join(area.as_str());
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{id}.yml"));
    let mut file = std::fs::File::create_new(&path)
        .with_context(|| format!("cannot make {}; choose an id that is free", path.display()))?;
    file.write_all(template(id, area).as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(std::io::stdout(), "{}", path.display())?;
    eprintln!(
        "fill it in, then: veilwatch rules test {}",
        args.dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn template(id: &str, area: Area) -> String {
    let (kind, extra, body, yes, no) = match area {
        Area::Injection => (
            "override",
            "weight: 0.6                 # evidence of the rule alone, 0 to 1\n",
            "  regex: '\\bexample (?:phrase|wording)\\b'   # folded text: lower case, no accents",
            "an example phrase",
            "an example of something else",
        ),
        Area::Pii => (
            "EXAMPLE_ID",
            "context: {words: [example id], within: 60, required: true}\n",
            "  regex: '\\bEX[0-9]{8}\\b'",
            "example id EX12345678",
            "EX1234",
        ),
        Area::Secret => (
            "example-token",
            "min_entropy: 3.0\n",
            "  keywords: [extok_]\n  regex: '\\bextok_[A-Za-z0-9]{24}\\b'",
            "extok_aB3dE5gH7jK9mN1pQ3sT5vX7",
            "extok_short",
        ),
    };
    format!(
        "id: {id}
title: One line that will head a page
description: |
  What it finds, and why it matters.
status: experimental        # then test, then stable
level: medium               # informational|low|medium|high|critical
stage: shadow               # then ticket, then page
type: {kind}
{extra}match:
{body}
falsepositives: []
tests:
  - {{text: \"{yes}\", match: true}}
  - {{text: \"{no}\", match: false}}
"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rule::{Known, Source, load};
    use crate::seal::engine::{Engine, trial};

    #[test]
    fn a_new_rule_checks_and_its_tests_pass() {
        for area in Area::ALL {
            let id = format!("{}example-rule", area.prefix());
            let source = Source {
                path: format!("rules/{}/{id}.yml", area.as_str()),
                text: template(&id, area),
            };
            let (set, warnings) = load(&[Arc::new(source)], &[], &Known::default()).expect("loads");
            assert_eq!(warnings, []);
            let report = trial::run(&Engine::new(&set, None), &|_| true);
            assert_eq!((report.outcomes.len(), report.failures()), (2, 0));
            assert!(report.uncovered.is_empty());
        }
    }
}
