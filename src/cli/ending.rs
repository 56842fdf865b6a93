//! How a command that failed ends: with which status, and in which words.

use std::io::ErrorKind;
use std::process::ExitCode;

use super::rules::RulesRefused;
use super::{EXIT_RULES, EXIT_USAGE};
use crate::pipeline::StartError;
use crate::pipeline::build::BuildError;
use crate::pipeline::revive::ReviveError;

/// Says what went wrong on stderr, one line of causes, and gives the status.
pub(super) fn tell(e: &anyhow::Error) -> ExitCode {
    if io_kind(e) == Some(ErrorKind::BrokenPipe) {
        // Whoever reads along has seen enough: `veilwatch scan F | head -1`.
        return ExitCode::SUCCESS;
    }
    eprintln!("veilwatch: {}", words(e));
    ExitCode::from(if is_about_rules(e) {
        EXIT_RULES
    } else {
        EXIT_USAGE
    })
}

fn words(e: &anyhow::Error) -> String {
    let full = matches!(
        io_kind(e),
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    );
    if !full {
        return format!("{e:#}");
    }
    // An error that nobody gave a place is one of standard output: every file is named where it is written.
    let bare = e.chain().count() == 1;
    let what = if bare {
        "cannot write to standard output: "
    } else {
        ""
    };
    format!("{what}{e:#}; make room there, or write to another disk")
}

/// The kind of the operating system's error at the root.
fn io_kind(e: &anyhow::Error) -> Option<ErrorKind> {
    e.chain().find_map(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
            .or_else(|| cause.downcast_ref::<serde_json::Error>()?.io_error_kind())
    })
}

/// Whether a rule file is what is wrong: a status of its own, whatever command reads it.
fn is_about_rules(e: &anyhow::Error) -> bool {
    let build = e
        .downcast_ref::<BuildError>()
        .or_else(|| match e.downcast_ref()? {
            StartError::Build(b) => Some(b),
            _ => None,
        })
        .or_else(|| match e.downcast_ref()? {
            ReviveError::Build(b) => Some(b),
            _ => None,
        });
    matches!(build, Some(BuildError::Rules { .. })) || e.is::<RulesRefused>()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_full_disk_is_told_with_what_where_and_a_remedy() {
        let full = || std::io::Error::from(ErrorKind::StorageFull);
        let said = words(&full().into());
        assert!(
            said.starts_with("cannot write to standard output: ") && said.ends_with("another disk"),
            "{said}"
        );
        let said = words(&serde_json::Error::io(full()).into());
        assert!(
            said.starts_with("cannot write to standard output: "),
            "{said}"
        );
        let named = Err::<(), _>(full()).context("cannot write weights.bin");
        let said = words(&named.expect_err("full"));
        assert!(said.starts_with("cannot write weights.bin: "), "{said}");
        let other = anyhow::anyhow!("no such thing");
        assert_eq!(words(&other), "no such thing");
    }

    #[test]
    fn a_wrong_rule_has_its_status_through_every_layer() {
        let wrong = || BuildError::Rules {
            place: "rules".into(),
            first: "a.yml:1:1".into(),
        };
        assert!(is_about_rules(&wrong().into()));
        assert!(is_about_rules(&StartError::from(wrong()).into()));
        assert!(is_about_rules(&ReviveError::from(wrong()).into()));
        let refused = RulesRefused("a.yml:1:1".into());
        assert!(is_about_rules(
            &anyhow::Error::from(refused).context("scan")
        ));
        assert!(!is_about_rules(&BuildError::Keys("short".into()).into()));
    }
}
