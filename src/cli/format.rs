//! `--format`: one JSON object a line, or text for people.

use std::io::IsTerminal as _;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    #[value(alias = "pretty")]
    Text,
}

impl Format {
    /// What was asked for, else text on a terminal and JSON lines elsewhere.
    pub fn or_default(given: Option<Self>) -> Self {
        given.unwrap_or(if std::io::stdout().is_terminal() {
            Self::Text
        } else {
            Self::Json
        })
    }
}

/// Whether results are JSON lines: as asked for, else by whether anybody reads along.
pub fn is_json(given: Option<Format>) -> bool {
    Format::or_default(given) == Format::Json
}
