//! What is wrong with a rule file, and where: file, line, column, a caret, and what to do.

use std::fmt;

/// How grave a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// The set is refused.
    Error,
    /// The set is taken; someone should look.
    Warning,
}

impl Grade {
    /// The word that stands before the message.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How grave it is.
    pub grade: Grade,
    /// Short name of the kind of problem, stable.
    pub code: &'static str,
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters to underline.
    pub width: u32,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The line itself (rule files hold no user's text).
    pub excerpt: String,
}

/// Longest excerpt that is shown, in characters; longer lines are cut around the caret.
const EXCERPT: usize = 120;

impl Diagnostic {
    /// `file:line:column: error[code]: message`, one line.
    pub fn line(&self) -> String {
        format!(
            "{}:{}:{}: {}[{}]: {}",
            self.file,
            self.line,
            self.column,
            self.grade.as_str(),
            self.code,
            self.message
        )
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line())?;
        let column = usize::try_from(self.column).unwrap_or(1).max(1) - 1;
        let from = column.saturating_sub(EXCERPT / 2);
        let shown: String = self.excerpt.chars().skip(from).take(EXCERPT).collect();
        let number = self.line.to_string();
        let pad = " ".repeat(number.len());
        writeln!(f, " {pad} |")?;
        writeln!(f, " {number} | {shown}")?;
        let room = shown.chars().count().saturating_sub(column - from).max(1);
        let width = usize::try_from(self.width).unwrap_or(1).clamp(1, room);
        write!(
            f,
            " {pad} | {}{}",
            " ".repeat(column - from),
            "^".repeat(width)
        )?;
        if let Some(help) = &self.help {
            write!(f, "\n {pad} = help: {help}")?;
        }
        Ok(())
    }
}
