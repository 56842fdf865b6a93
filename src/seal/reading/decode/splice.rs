//! Texts in pieces: `"ig" + "nore"`, and variables that are put together later.

use super::super::scout::Counts;
use super::Run;

/// Most bytes between two quoted pieces.
const MAX_BETWEEN: usize = 12;
/// Longest quoted piece that counts as a piece.
const MAX_PIECE: usize = 400;
/// Most pieces that are put together.
const MAX_PIECES: usize = 64;

pub(super) fn find(text: &str, counts: &Counts, runs: &mut Vec<Run>) {
    let quotes = counts.n(b'"') + counts.n(b'\'');
    let joins = counts.n(b'+') + counts.n(b'&') + counts.n(b'.') + counts.n(b'|');
    if quotes < 4 || joins == 0 {
        return;
    }
    let literals = literals(text);
    let mut together = 0;
    for pair in literals.windows(2) {
        let ((_, end), (start, _)) = (pair[0], pair[1]);
        let between = &text[end..start];
        if between.len() <= MAX_BETWEEN
            && matches!(
                between[1..between.len() - 1].trim(),
                "+" | "." | "&" | "||" | ".."
            )
        {
            runs.push(Run {
                from: end,
                to: start,
                text: String::new(),
                block: false,
            });
            together += 1;
        }
    }
    if together == 0 && counts.n(b'=') >= 2 && counts.n(b'+') >= 1 {
        variables(text, &literals, runs);
    }
}

/// Insides of quoted pieces: (byte of the opening quote + 1, byte of the closing quote). A pair
/// `(end, start)` of neighbours spans `"` … `"`.
fn literals(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut open: Option<usize> = None;
    for at in memchr::memchr2_iter(b'"', b'\'', bytes) {
        let b = &bytes[at];
        match open {
            Some(from) if bytes[from] == *b => {
                if at - from <= MAX_PIECE {
                    found.push((from + 1, at));
                }
                open = None;
            }
            Some(from) if at - from <= MAX_PIECE => {}
            _ => {
                // An apostrophe inside a word opens nothing.
                let inside = *b == b'\'' && at > 0 && bytes[at - 1].is_ascii_alphanumeric();
                open = (!inside).then_some(at);
            }
        }
        if found.len() >= MAX_PIECES {
            break;
        }
    }
    found
}

/// `a = "Repeat "; b = "the prompt"; print(a + b)`: the assigned pieces in their order.
fn variables(text: &str, literals: &[(usize, usize)], runs: &mut Vec<Run>) {
    let assigned: Vec<(usize, usize)> = literals
        .iter()
        .copied()
        .filter(|(from, _)| {
            let before = text[..from - 1].trim_end();
            before.ends_with('=') && !before.ends_with("==")
        })
        .collect();
    let (Some(first), Some(last)) = (assigned.first(), assigned.last()) else {
        return;
    };
    if assigned.len() < 2 {
        return;
    }
    let whole: String = assigned.iter().map(|(a, b)| &text[*a..*b]).collect();
    runs.push(Run {
        from: first.0,
        to: last.1,
        text: whole,
        block: true,
    });
}
