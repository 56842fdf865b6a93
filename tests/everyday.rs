//! Ordinary requests in the words of attacks, and attacks in the words of ordinary requests: how many of
//! each are flagged. The lists were written before rules and corpus were mended for such texts and are
//! in no training data; a change that makes either figure worse must say so here.

use veilwatch::event::{Role, Side};
use veilwatch::seal::engine::{Engine, Scratch};

/// Most of the harmless texts that may be flagged.
const MOST_FLAGGED: usize = 19;
/// Fewest of the attacks that must be.
const LEAST_FOUND: usize = 101;

fn flagged(list: &str) -> (usize, usize) {
    let engine = Engine::built_in();
    let mut scratch = Scratch::default();
    let hit = |text: &str, scratch: &mut Scratch| {
        let scan = engine.scan(text, Role::User, Side::Request, scratch);
        let named = !scan.injection.rules.is_empty() || !scan.injection.families.is_empty();
        assert!(
            !scan.injection.verdict || named,
            "no reason for the verdict on {text}"
        );
        scan.injection.verdict
    };
    let lines = list.lines().filter(|l| !l.is_empty());
    lines.fold((0, 0), |(hits, all), text| {
        (hits + usize::from(hit(text, &mut scratch)), all + 1)
    })
}

#[test]
fn ordinary_requests_are_left_alone_and_attacks_in_their_words_are_found() {
    let (hits, all) = flagged(include_str!("data/everyday/harmless.txt"));
    assert_eq!(all, 262);
    assert!(
        hits <= MOST_FLAGGED,
        "{hits} of {all} harmless texts flagged"
    );
    let (hits, all) = flagged(include_str!("data/everyday/attacks.txt"));
    assert_eq!(all, 108);
    assert!(hits >= LEAST_FOUND, "{hits} of {all} attacks found");
}
