//! Reads on past an unknown key: a parser stops at the first one, whoever mends a file wants every mistake.
//!
//! A key that is a slip of a known one is read as that one; any other is left out, with what stands
//! under it. Lines stay where they are; columns after a key that became longer or shorter are put back
//! ([`Shift`]), so that every mistake has its place in the file as it was written.

use serde_saphyr::Location;

/// Unknown keys of one file that are read past: each is one more pass over the file.
pub(super) const MAX_UNKNOWN: usize = 32;

/// By how much the columns after a renamed key differ from the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shift {
    line: u32,
    column: u32,
    by: i32,
}

impl Shift {
    /// The column of the file as it was written.
    pub(super) fn back(self, line: u32, column: u32) -> u32 {
        if line != self.line || column <= self.column {
            return column;
        }
        column.saturating_add_signed(-self.by).max(1)
    }
}

/// The byte at which a key stands, if it does stand there.
fn find(text: &str, place: Location, key: &str) -> Option<usize> {
    let line = usize::try_from(place.line()).ok()?.checked_sub(1)?;
    let column = usize::try_from(place.column()).ok()?.checked_sub(1)?;
    let mut start = 0;
    for _ in 0..line {
        start += text.get(start..)?.find('\n')? + 1;
    }
    let rest = text.get(start..)?;
    let at = start + rest.char_indices().nth(column)?.0;
    let here = text.get(at..)?;
    let bare = here.strip_prefix(['"', '\'']).unwrap_or(here);
    bare.starts_with(key)
        .then_some(at + here.len() - bare.len())
}

/// The text with a key under another name.
pub(super) fn renamed(text: &str, place: Location, key: &str, to: &str) -> Option<(String, Shift)> {
    let at = find(text, place, key)?;
    let shift = Shift {
        line: u32::try_from(place.line()).ok()?,
        column: u32::try_from(place.column()).ok()?,
        by: i32::try_from(to.chars().count()).ok()? - i32::try_from(key.chars().count()).ok()?,
    };
    let text = [&text[..at], to, &text[at + key.len()..]].concat();
    Some((text, shift))
}

/// The text without a key and what stands under it: blanks in their place.
pub(super) fn without(text: &str, place: Location, key: &str) -> Option<String> {
    let at = find(text, place, key)?;
    let at = at - usize::from(text[..at].ends_with(['"', '\'']));
    let begun = text[..at].rsplit('\n').next().unwrap_or("");
    let in_braces = begun.trim_end().ends_with(['{', ',']);
    let end = at
        + if in_braces {
            in_flow(&text[at..])
        } else {
            in_block(&text[at..], begun.chars().count())
        };
    let blank = |c: char| if matches!(c, '\n' | '\r') { c } else { ' ' };
    let gone: String = text[at..end].chars().map(blank).collect();
    Some([&text[..at], &gone, &text[end..]].concat())
}

/// Bytes up to the end of a pair in braces, its comma included.
fn in_flow(text: &str) -> usize {
    let (mut depth, mut quote) = (0usize, None::<char>);
    for (i, c) in text.char_indices() {
        if let Some(q) = quote {
            quote = (c != q).then_some(q);
            continue;
        }
        match c {
            '"' | '\'' => quote = Some(c),
            '{' | '[' => depth += 1,
            ',' if depth == 0 => return i + 1,
            '}' | ']' if depth == 0 => return i,
            '}' | ']' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Bytes up to the next line that does not belong to a key in this column.
fn in_block(text: &str, column: usize) -> usize {
    let mut end = 0;
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let body = line.trim_start_matches(' ');
        let indent = line.len() - body.len();
        let item = indent == column && (body.starts_with("- ") || body.trim_end() == "-");
        if n > 0 && !body.trim().is_empty() && indent <= column && !item {
            break;
        }
        end += line.len();
    }
    end
}

#[cfg(test)]
mod tests {
    use serde_saphyr::Spanned;

    use super::*;

    /// Where a parser says that a key stands.
    fn place(line: usize, column: usize) -> Location {
        let text = format!("{}{}x", "\n".repeat(line - 1), " ".repeat(column - 1));
        let found: Spanned<String> = serde_saphyr::from_str(&text).expect("a scalar");
        found.referenced
    }

    #[test]
    fn a_key_goes_with_what_stands_under_it() {
        for (text, at, key, rest) in [
            (
                "a: 1\nfoo: 2\nb: 3\n",
                (2, 1),
                "foo",
                "a: 1\n      \nb: 3\n",
            ),
            (
                "foo:\n  - 1\n\n  # c\n- 2\nb: 3\n",
                (1, 1),
                "foo",
                "    \n     \n\n     \n   \nb: 3\n",
            ),
            (
                "t:\n  - {a: 1, foo: [x, '}'], b: 2}\n",
                (2, 12),
                "foo",
                "t:\n  - {a: 1,                b: 2}\n",
            ),
            ("- {foo: \"é\"}\n", (1, 4), "foo", "- {        }\n"),
            (
                "- 'foo': 1\n  b: 2\n",
                (1, 3),
                "foo",
                "-         \n  b: 2\n",
            ),
        ] {
            let left = without(text, place(at.0, at.1), key);
            assert_eq!(left.as_deref(), Some(rest), "{text}");
        }
        assert_eq!(without("a: 1\n", place(1, 1), "foo"), None);
        assert_eq!(without("a: 1\n", place(7, 1), "foo"), None);
    }

    #[test]
    fn a_slip_is_read_as_what_was_meant_and_columns_stay() {
        let (text, shift) = renamed("levl: hgh\n", place(1, 1), "levl", "level").expect("there");
        assert_eq!(text, "level: hgh\n");
        assert_eq!(
            (shift.back(1, 8), shift.back(1, 1), shift.back(2, 8)),
            (7, 1, 8)
        );
    }
}
