//! All readings of a text: bounded, and every offset leads back into the input.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use veilwatch::rule::{Known, RuleSet};
use veilwatch::seal::reading::lexicon::Lexicon;
use veilwatch::seal::reading::{budget, read};
use veilwatch_fuzz::Bound;

const BOUND: Bound = Bound {
    loads: 12_000,
    loads_floor: 2_000_000,
    memory: 400,
    memory_floor: 2 << 20,
};

fn lexicon() -> &'static Lexicon {
    static LEXICON: OnceLock<Lexicon> = OnceLock::new();
    LEXICON.get_or_init(|| {
        let set = RuleSet::built_in(&Known::default());
        let (words, keep) = (set.lexicon_words(), set.keep_words());
        Lexicon::new(words.iter().map(String::as_str), keep.iter().map(String::as_str))
    })
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let lexicon = lexicon();
    let all = BOUND.hold(text.len(), || read(&text, lexicon));
    let further: usize = all.views.iter().skip(1).map(|v| v.text.len()).sum();
    // Folding what was decoded may lengthen it: a ligature becomes its letters.
    assert!(further <= budget(text.len()) * 4, "{further} bytes of further readings");
    for view in &all.views {
        for (at, _) in view.text.char_indices() {
            let (start, end) = (view.map.start(at), view.map.end(at));
            assert!(start <= text.len() && end <= text.len(), "{:?}: offset {at}", view.kind);
        }
    }
});
