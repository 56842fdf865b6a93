//! `--format`: one JSON object a line, or text for people.

use std::io::{self, IsTerminal as _, Write};

use crate::deliver::render::inert;
use crate::event::Time;

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

/// A time on the command line.
///
/// # Errors
/// What to write instead.
pub fn time(s: &str) -> Result<Time, String> {
    Time::parse_rfc3339(s).ok_or_else(|| "write a time such as 2026-11-21T07:00:00Z".to_owned())
}

/// `--fail-on`: what makes status 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FailOn {
    /// Anything was found; what is only in shadow does not count.
    Finding,
}

/// Text for a terminal: what a stranger chose (names, reasons) moves no cursor, turns no direction and hides
/// nothing. JSON needs it not, since it escapes.
pub struct Shown<W>(pub W);

/// Longest line, in characters as one sees them.
const MAX_LINE: usize = 4_000;

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (i, line) in String::from_utf8_lossy(bytes).split('\n').enumerate() {
            if i > 0 {
                self.0.write_all(b"\n")?;
            }
            self.0.write_all(inert(line, MAX_LINE).as_bytes())?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_moves_no_cursor() {
        let mut out = Shown(Vec::new());
        let name = "\u{1b}[2J\u{202e}evil";
        writeln!(out, "user {name}\nnext").expect("writes");
        let text = String::from_utf8(out.0).expect("utf-8");
        assert!(
            !text.contains('\u{1b}') && !text.contains('\u{202e}'),
            "{text:?}"
        );
        assert!(
            text.starts_with("user ") && text.ends_with("\nnext\n"),
            "{text:?}"
        );
    }
}
