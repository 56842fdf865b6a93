//! Lines of a file or of standard input, each of bounded length: `scan`, `seal`, `series` and `replay` read
//! with it, and report what they cannot use in one form ([`Refused`]).
//!
//! A line beyond [`MAX_LINE`] is passed over without being held in memory, and reported by number.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::Context as _;
use zeroize::Zeroize as _;

/// Longest line, in bytes: eight times the largest trusted record.
pub const MAX_LINE: usize = 8 * 1024 * 1024;

/// Why a line cannot be used. Quotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// Longer than the bound.
    #[error("line is longer than {}; split it", size(*.0))]
    TooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}; convert the file, such as with `iconv -f LATIN1 -t UTF-8`")]
    NotUtf8(usize),
    /// The whole file has two bytes a character, as some systems write it.
    #[error("UTF-16; convert the file with `iconv -f UTF-16 -t UTF-8`")]
    Utf16,
}

fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib => format!("{mib} MiB"),
    }
}

/// A line that could not be used: `{"line": n, "error": "…"}` in every verb.
#[derive(Debug, serde::Serialize)]
pub struct Refused<'a> {
    /// Its number, from 1.
    pub line: u64,
    /// Why; quotes nothing of it.
    pub error: &'a str,
}

impl Refused<'_> {
    /// Writes it with its line end.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write(&self, to: &mut impl io::Write, json: bool) -> io::Result<()> {
        if json {
            serde_json::to_writer(&mut *to, self)?;
            to.write_all(b"\n")
        } else {
            writeln!(to, "line {}: {}", self.line, self.error)
        }
    }
}

/// A reader of lines.
pub struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    number: u64,
    max: usize,
    utf16: bool,
}

/// Opens a file, or standard input for `-`.
pub fn open(path: &Path) -> anyhow::Result<Lines<Box<dyn BufRead>>> {
    const READ: usize = 256 * 1024;
    let from: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::with_capacity(READ, io::stdin().lock()))
    } else {
        let file = File::open(path).with_context(|| {
            format!(
                "cannot read {}; name a readable file or `-`",
                path.display()
            )
        })?;
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            anyhow::bail!("{} is a directory; name a file or `-`", path.display());
        }
        Box::new(BufReader::with_capacity(READ, file))
    };
    Ok(Lines::new(from))
}

impl<R: BufRead> Lines<R> {
    /// Reads lines from `from`.
    pub fn new(from: R) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            number: 0,
            max: MAX_LINE,
            utf16: false,
        }
    }

    /// With another bound on the length of a line, in bytes.
    #[must_use]
    pub fn bounded(mut self, max: usize) -> Self {
        self.max = max;
        self
    }

    /// The next line that is not blank: its number from 1 and its text without the line end.
    /// `Ok(None)` at the end.
    ///
    /// # Errors
    /// The input cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<(u64, Result<&str, BadLine>)>> {
        loop {
            let Some(too_long) = self.fill()? else {
                return Ok(None);
            };
            self.number += 1;
            if too_long {
                return Ok(Some((self.number, Err(BadLine::TooLong(self.max)))));
            }
            if self.number == 1 {
                self.utf16 = is_utf16(&self.buffer);
                if self.buffer.starts_with(b"\xef\xbb\xbf") {
                    self.buffer.drain(..3);
                }
            }
            if self.utf16 {
                // Half a line end is no line.
                if self.buffer.iter().all(|b| matches!(b, 0 | b'\n' | b'\r')) {
                    continue;
                }
                return Ok(Some((self.number, Err(BadLine::Utf16))));
            }
            while self
                .buffer
                .last()
                .is_some_and(|b| matches!(b, b'\n' | b'\r'))
            {
                self.buffer.pop();
            }
            if self.buffer.iter().any(|b| !b.is_ascii_whitespace()) {
                break;
            }
        }
        let line = std::str::from_utf8(&self.buffer).map_err(|e| BadLine::NotUtf8(e.valid_up_to()));
        Ok(Some((self.number, line)))
    }

    /// Reads up to and including the next newline. `None` at the end, else whether it was too long.
    fn fill(&mut self) -> io::Result<Option<bool>> {
        self.buffer.clear();
        // One long line must not keep its memory for the rest of the file.
        self.buffer.shrink_to(self.max / 8);
        let (mut any, mut too_long) = (false, false);
        loop {
            let chunk = match self.from.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if chunk.is_empty() {
                return Ok(any.then_some(too_long));
            }
            any = true;
            let end = memchr::memchr(b'\n', chunk);
            let take = end.map_or(chunk.len(), |i| i + 1);
            // The line end itself does not count.
            if self.buffer.len() + take - usize::from(end.is_some()) > self.max {
                too_long = true;
                self.buffer.clear();
            }
            if !too_long {
                self.buffer.extend_from_slice(&chunk[..take]);
            }
            self.from.consume(take);
            if end.is_some() {
                return Ok(Some(too_long));
            }
        }
    }
}

/// Whether a file that begins so has two bytes a character: a mark says it, or ASCII with a zero beside
/// each letter, which no text in UTF-8 has.
fn is_utf16(start: &[u8]) -> bool {
    const LOOK_AT: usize = 64;
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return true;
    }
    let (pairs, _) = start[..start.len().min(LOOK_AT)].as_chunks::<2>();
    let zeros = pairs.iter().filter(|[a, b]| (*a == 0) != (*b == 0)).count();
    pairs.len() >= 2 && zeros * 4 >= pairs.len() * 3
}

impl<R> Drop for Lines<R> {
    fn drop(&mut self) {
        // The last line may be a prompt.
        self.buffer.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<(u64, Result<String, BadLine>)> {
        let mut lines = Lines::new(BufReader::with_capacity(7, bytes));
        let mut out = Vec::new();
        while let Some((n, line)) = lines.next_line().expect("reads") {
            out.push((n, line.map(str::to_owned)));
        }
        out
    }

    #[test]
    fn lines_ends_and_blanks() {
        let ok = |n, s: &str| (n, Ok(s.to_owned()));
        assert_eq!(
            all(b"\xef\xbb\xbfa\r\n\n  \nb\nlast"),
            [ok(1, "a"), ok(4, "b"), ok(5, "last")]
        );
        assert_eq!(all(b""), []);
        assert_eq!(
            all(b"ok\n\xff\n"),
            [ok(1, "ok"), (2, Err(BadLine::NotUtf8(0)))]
        );
    }

    #[test]
    fn utf_16_is_named_once_a_line() {
        let text = "{\"text\":\"a\"}\r\n{\"text\":\"b\"}\n";
        let utf16 = |to: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(to).collect::<Vec<u8>>();
        for bytes in [
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
            [b"\xff\xfe".to_vec(), utf16(u16::to_le_bytes)].concat(),
            [b"\xfe\xff".to_vec(), utf16(u16::to_be_bytes)].concat(),
        ] {
            let wrong = |n| (n, Err(BadLine::Utf16));
            assert_eq!(all(&bytes), [wrong(1), wrong(2)], "{bytes:?}");
        }
        assert!(BadLine::Utf16.to_string().contains("iconv"));
        assert_eq!(all(b"\0").len(), 1, "a zero alone is a line");
    }

    #[test]
    fn a_long_line_is_passed_over_without_being_held() {
        struct Endless(usize);
        impl io::Read for Endless {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let n = buf.len().min(self.0);
                buf[..n].fill(b'x');
                self.0 -= n;
                Ok(n)
            }
        }
        let long = io::Read::chain(Endless(100 * 1024 * 1024), &b"\nshort\n"[..]);
        let mut lines = Lines::new(BufReader::with_capacity(64 * 1024, long));
        assert_eq!(
            lines.next_line().expect("reads"),
            Some((1, Err(BadLine::TooLong(MAX_LINE))))
        );
        assert!(lines.buffer.capacity() <= 2 * MAX_LINE);
        assert_eq!(lines.next_line().expect("reads"), Some((2, Ok("short"))));
    }

    #[test]
    fn the_bound_is_exact() {
        let mut bytes = vec![b'x'; MAX_LINE];
        bytes.extend_from_slice(b"\ny\n");
        let mut lines = Lines::new(&bytes[..]);
        assert!(matches!(lines.next_line(), Ok(Some((1, Ok(l)))) if l.len() == MAX_LINE));
        drop(lines);
        bytes.insert(0, b'x');
        let mut lines = Lines::new(&bytes[..]);
        assert!(matches!(
            lines.next_line(),
            Ok(Some((1, Err(BadLine::TooLong(_)))))
        ));
        assert!(matches!(lines.next_line(), Ok(Some((2, Ok("y"))))));
    }
}
