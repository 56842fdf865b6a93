//! Words of the injection rules, for the attack lexicon.

use super::Node;

/// Shortest word taken, in characters: shorter ones say nothing alone.
const MIN_WORD: usize = 4;

/// Words of a condition's keywords and regexes, those under `not` left out.
pub(super) fn collect(node: &Node, words: &mut Vec<String>) {
    for keyword in &node.keywords {
        split(&keyword.text, words);
    }
    if let Some(regex) = &node.regex {
        of_regex(&regex.source, words);
    }
    for child in node.any.iter().chain(&node.all) {
        collect(child, words);
    }
}

fn split(text: &str, words: &mut Vec<String>) {
    words.extend(
        text.split(|c: char| !c.is_alphabetic())
            .filter(|w| w.chars().count() >= MIN_WORD)
            .map(str::to_owned),
    );
}

/// Runs of letters in a regex's source; `instructions?` gives both forms.
fn of_regex(source: &str, words: &mut Vec<String>) {
    let mut word = String::new();
    let mut chars = source.chars().peekable();
    let mut class = false;
    let mut add = |word: &mut String, optional: bool| {
        if word.chars().count() >= MIN_WORD {
            words.push(word.clone());
        }
        if optional {
            word.pop();
            if word.chars().count() >= MIN_WORD {
                words.push(word.clone());
            }
        }
        word.clear();
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                add(&mut word, false);
                // The escaped sign, and the name of a class.
                let escaped = chars.next();
                if matches!(escaped, Some('p' | 'P' | 'x' | 'u')) && chars.peek() == Some(&'{') {
                    while chars.next().is_some_and(|c| c != '}') {}
                }
            }
            '[' => {
                add(&mut word, false);
                class = true;
            }
            ']' => class = false,
            '(' => {
                add(&mut word, false);
                // Flags and names of groups are no words.
                if chars.peek() == Some(&'?') {
                    while chars.next_if(|c| !matches!(c, ':' | '>' | ')')).is_some() {}
                }
            }
            '?' | '*' => add(&mut word, true),
            '{' => {
                add(&mut word, false);
                while chars.next_if(|c| *c != '}').is_some() {}
            }
            c if c.is_alphabetic() && !class => word.push(c),
            _ => add(&mut word, false),
        }
    }
    add(&mut word, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_out_of_regexes() {
        let mut words = Vec::new();
        of_regex(
            r"\b(?:ignore|disregard)\s+(?P<what>previous) instructions?[a-z]+\p{Greek}",
            &mut words,
        );
        assert_eq!(
            words,
            [
                "ignore",
                "disregard",
                "previous",
                "instructions",
                "instruction"
            ]
        );
    }
}
