//! Where in a record something went wrong, found without quoting the record.
//!
//! serde's messages quote values, so they are never passed on. This file turns a parser's line and
//! column into a byte, and a byte into a field path made of the contract's own names. It runs only
//! for refused records.

use crate::event::SmolStr;

/// Every field name of the contract. A key outside this list is printed as `*`: it may be text.
const KNOWN: &[&str] = &[
    "api_key",
    "app",
    "args",
    "at",
    "boot",
    "bytes",
    "cache_read",
    "cache_write",
    "chars",
    "choices",
    "class",
    "client",
    "completion",
    "content",
    "context",
    "control",
    "cost_usd",
    "created",
    "data",
    "data_base64",
    "datacontenttype",
    "decision",
    "digest",
    "dropped",
    "encoded",
    "entropy",
    "error",
    "features",
    "gateway",
    "hits",
    "id",
    "injection",
    "input",
    "invisible",
    "kid",
    "label",
    "lane",
    "lang",
    "latency",
    "messages",
    "mixed_script",
    "model",
    "n",
    "name",
    "net",
    "operation",
    "output",
    "policy",
    "prev",
    "prints",
    "prompt",
    "provider",
    "reasoning",
    "request",
    "requested",
    "response",
    "role",
    "route",
    "rule",
    "rules",
    "ruleset",
    "score",
    "seq",
    "served",
    "session",
    "skipped",
    "source",
    "sources",
    "specversion",
    "state",
    "status",
    "stream",
    "team",
    "tenant",
    "text",
    "tools",
    "total_ms",
    "ttft_ms",
    "type",
    "unscanned",
    "usage",
    "user",
    "v",
    "values",
    "words",
];

/// The contract's own copy of a field name, if it is one.
pub fn known(name: &str) -> Option<&'static str> {
    KNOWN.binary_search(&name).ok().map(|i| KNOWN[i])
}

/// Byte of a 1-based line and column, as `serde_json` counts them (columns are bytes).
pub fn byte_of(text: &str, line: usize, column: usize) -> usize {
    let start = if line <= 1 {
        0
    } else {
        memchr::memchr_iter(b'\n', text.as_bytes())
            .nth(line - 2)
            .map_or(text.len(), |i| i + 1)
    };
    (start + column).min(text.len())
}

enum Frame {
    Object(&'static str),
    Array(usize),
}

/// The path of the value that stands at, or ends at, `byte`. `None` at the top.
pub fn path_at(text: &str, byte: usize) -> Option<SmolStr> {
    /// Deeper paths are cut: the contract has five levels.
    const MAX_FRAMES: usize = 8;
    let b = text.as_bytes();
    let end = byte.min(b.len());
    let mut stack: Vec<Frame> = Vec::new();
    let mut deeper = 0usize;
    let mut expect_key = false;
    let mut i = 0;
    while i < end {
        match b[i] {
            b'"' => {
                let start = i + 1;
                i = string_end(b, start);
                if expect_key {
                    // A key that the error stands in is not complete: it has no name.
                    let name = (i < end)
                        .then(|| text.get(start..i))
                        .flatten()
                        .and_then(known)
                        .unwrap_or("*");
                    if deeper == 0
                        && let Some(Frame::Object(key)) = stack.last_mut()
                    {
                        *key = name;
                    }
                    expect_key = false;
                }
            }
            c @ (b'{' | b'[') => {
                if stack.len() < MAX_FRAMES {
                    stack.push(if c == b'{' {
                        Frame::Object("")
                    } else {
                        Frame::Array(0)
                    });
                } else {
                    deeper += 1;
                }
                expect_key = c == b'{';
            }
            b'}' | b']' => {
                // An error raised when an object ends (a missing field) belongs to that object.
                if i + 1 >= end {
                    break;
                }
                if deeper > 0 {
                    deeper -= 1;
                } else {
                    stack.pop();
                }
                expect_key = false;
            }
            b',' if deeper == 0 => match stack.last_mut() {
                // An error raised at the comma belongs to the value before it.
                _ if i + 1 >= end => break,
                Some(Frame::Array(n)) => *n += 1,
                Some(Frame::Object(_)) => expect_key = true,
                None => {}
            },
            _ => {}
        }
        i += 1;
    }
    render(&stack)
}

/// Index of the closing quote of a string that starts at `i`, or the end.
fn string_end(b: &[u8], mut i: usize) -> usize {
    while i < b.len() {
        match b[i] {
            b'"' => return i,
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    b.len()
}

fn render(stack: &[Frame]) -> Option<SmolStr> {
    use std::fmt::Write as _;
    let mut out = String::new();
    for f in stack {
        match f {
            Frame::Object("") => {}
            Frame::Object(k) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(k);
            }
            Frame::Array(n) => {
                let _ = write!(out, "[{n}]");
            }
        }
    }
    (!out.is_empty()).then(|| out.into())
}

/// Byte at which nesting exceeds `max`, if it does. Brackets inside strings do not count.
pub fn too_deep(text: &str, max: usize) -> Option<usize> {
    let b = text.as_bytes();
    // Counting vectorises and settles every honest record: no more than `max` brackets, no more depth.
    if openers(b) <= max {
        return None;
    }
    let (mut depth, mut i) = (0usize, 0);
    while i < b.len() {
        match b[i] {
            b'"' => i = string_end(b, i + 1),
            b'{' | b'[' => {
                depth += 1;
                if depth > max {
                    return Some(i);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    None
}

/// How many `{` and `[` there are. Byte-wide sums, which the compiler turns into vectors.
fn openers(b: &[u8]) -> usize {
    b.chunks(usize::from(u8::MAX))
        .map(|chunk| {
            let n = chunk.iter().fold(0u8, |n, c| {
                n + (u8::from(*c == b'{') | u8::from(*c == b'['))
            });
            usize::from(n)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, marker: &str, expected: &str) {
        let at = json.find(marker).expect("marker") + marker.len();
        assert_eq!(path_at(json, at).as_deref(), Some(expected), "{json}");
    }

    #[test]
    fn names_are_sorted() {
        assert!(KNOWN.is_sorted());
    }

    #[test]
    fn paths() {
        let j =
            r#"{"v":1,"request":{"hits":[{"rule":"a","n":1},{"rule":"b","n":"XX"}]},"at":"YY"}"#;
        check(j, "\"XX\"", "request.hits[1].n");
        check(j, "\"YY\"", "at");
        check(r#"{"free text as a key":{"a":7"#, ":7", "*.*");
        check(r#"{"a\"b":[1,2,"Z""#, "\"Z\"", "*[2]");
    }

    #[test]
    fn bytes_of_lines() {
        let t = "{\n \"v\": x}";
        assert_eq!(byte_of(t, 2, 7), 9);
        assert_eq!(byte_of(t, 9, 9), t.len());
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let deep = "[".repeat(10_000);
        assert_eq!(too_deep(&deep, 64), Some(64));
        let quoted = format!("{{\"a\":\"{deep}\"}}");
        assert_eq!(too_deep(&quoted, 64), None);
        let wide = format!("[{}]", "[],".repeat(1000));
        assert_eq!(too_deep(&wide, 64), None);
    }
}
