//! One slip of the pen: whether it parts two words, and whether it leaves the word readable.

use super::MIN_REPAIR;

/// From this length on one wrong letter inside a word is repaired too.
const MIN_SUBSTITUTE: usize = 7;

/// Whether one insertion, deletion, substitution or swap of neighbours parts two different words.
fn one_edit(a: &str, b: &str) -> bool {
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let (mut left, mut right) = (a.chars().skip(same), b.chars().skip(same));
    let rest = |skip_a: usize, skip_b: usize| {
        a.chars()
            .skip(same + skip_a)
            .eq(b.chars().skip(same + skip_b))
    };
    match (left.next(), right.next()) {
        (None, None) => false,
        (None, Some(_)) => right.next().is_none(),
        (Some(_), None) => left.next().is_none(),
        (Some(x), Some(y)) => {
            let swapped = left.next() == Some(y) && right.next() == Some(x) && rest(2, 2);
            swapped || rest(1, 1) || rest(1, 0) || rest(0, 1)
        }
    }
}

/// Whether `word` is `known` with one slip that keeps it readable.
pub(super) fn slipped(word: &str, known: &str) -> bool {
    if known.len() < MIN_REPAIR || !one_edit(word, known) {
        return false;
    }
    let (w, k) = (word.as_bytes(), known.as_bytes());
    let first = w.first() == k.first();
    let last = w.last() == k.last();
    match w.len().cmp(&k.len()) {
        // Swapped neighbours anywhere; a wrong letter only inside a long word.
        std::cmp::Ordering::Equal => {
            let mut wrong = w.iter().zip(k).filter(|(a, b)| a != b);
            wrong.next();
            wrong.next().is_some() || (first && last && k.len() >= MIN_SUBSTITUTE)
        }
        // A letter is missing: never the ending (`forge` is not `forget`).
        std::cmp::Ordering::Less => first && last && k.len() > MIN_REPAIR,
        // A letter too many: inside, or the last one twice.
        std::cmp::Ordering::Greater => {
            first
                && (last && k.len() > MIN_REPAIR
                    || w.len() >= 2 && w[w.len() - 1] == w[w.len() - 2])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_edit_agrees_with_the_distance() {
        let words = [
            "ab", "ba", "abc", "acb", "bc", "abd", "xabc", "a", "abcd", "aabc", "",
        ];
        for a in words {
            for b in words {
                assert_eq!(
                    one_edit(a, b),
                    crate::rule::suggest::distance(a, b) == 1,
                    "{a} {b}"
                );
            }
        }
    }
}
