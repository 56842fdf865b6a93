//! Filler: the same token again and again, or single marks, that drown what a text says.

/// Fewest filler tokens that make a padded text.
const MIN_FILLER: u32 = 60;
/// Longest token, in bytes, that can be filler by shape.
const FILLER_BYTES: usize = 2;

/// Whether most of a text is filler: the same token again and again, or single marks and letters,
/// as optimisers and password-game players put before an attack. Texts of 60 such tokens and more
/// than half of all tokens are; prose, code and tables of numbers are not.
pub fn padded(text: &str) -> bool {
    let bytes = text.as_bytes();
    if !may_be_padded(bytes) {
        return false;
    }
    // Tokens as places in the text; an empty one at first.
    let (mut filler, mut all, mut last, mut before) = (0_u32, 0_u32, (0, 0), (0, 0));
    let same = |a: (usize, usize), b: (usize, usize)| bytes[a.0..a.1] == bytes[b.0..b.1];
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        let start = at;
        while at < bytes.len() && bytes[at] != b' ' {
            at += 1;
        }
        let token = (start, at);
        let shape = &bytes[start..at];
        if shape.len() <= FILLER_BYTES
            && !shape.iter().all(u8::is_ascii_digit)
            && (!shape[0].is_ascii_alphanumeric() || same(token, last) || same(token, before))
        {
            filler += 1;
        }
        all += 1;
        (before, last) = (last, token);
    }
    filler >= MIN_FILLER && filler * 2 > all
}

/// A first look, many bytes at a time: false if there cannot be that much filler.
fn may_be_padded(bytes: &[u8]) -> bool {
    let blank = |b: u8| b == b' ';
    let rest = |from: usize| bytes.get(from..).unwrap_or_default();
    let (mut short, mut tokens) = (0_u32, 0_u32);
    for (((a, b), c), d) in bytes.iter().zip(rest(1)).zip(rest(2)).zip(rest(3)) {
        short += u32::from(blank(*a) & (blank(*c) | blank(*d)));
        tokens += u32::from(blank(*a) & !blank(*b));
    }
    // The first token and those at the end are not among the counted.
    let short = short.saturating_add(3);
    short >= MIN_FILLER && short.saturating_mul(2) > tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filler_is_seen_and_prose_is_not() {
        assert!(padded(&"ö ".repeat(80)));
        assert!(padded(&") ] } ".repeat(40)));
        assert!(!padded(&"a b c d ".repeat(40)));
        assert!(!padded(&"1 2 3 4 ".repeat(40)));
        assert!(!padded(&"the cat sat on it ".repeat(40)));
    }

    proptest! {
        #[test]
        fn the_first_look_for_filler_misses_none(text in "([a-c]{1,3}|[.;]| ){1,400}") {
            prop_assert!(!fully(&text) || padded(&text));
        }
    }

    /// Without the first look.
    fn fully(text: &str) -> bool {
        let tokens: Vec<&str> = text.split(' ').filter(|t| !t.is_empty()).collect();
        let filler = (0..tokens.len())
            .filter(|&i| {
                let t = tokens[i];
                let again = i > 0 && tokens[i - 1] == t || i > 1 && tokens[i - 2] == t;
                t.len() <= FILLER_BYTES
                    && !t.bytes().all(|b| b.is_ascii_digit())
                    && (!t.as_bytes()[0].is_ascii_alphanumeric() || again)
            })
            .count();
        filler >= 60 && filler * 2 > tokens.len()
    }
}
