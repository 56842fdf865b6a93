//! Ordinary requests in the words of attacks, and attacks in the words of ordinary requests: how many of
//! each are flagged. The lists were written before rules and corpus were mended for such texts and are
//! in no training data; a change that makes either figure worse must say so here.

use veilwatch::event::{Role, Side};
use veilwatch::seal::engine::{Engine, Scratch};

/// Most of the harmless texts that may be flagged.
const MOST_FLAGGED: usize = 14;
/// Fewest of the attacks that must be.
const LEAST_FOUND: usize = 103;

/// The same of the list about logins: one of 94.
const MOST_LOGINS: usize = 1;
/// And of its attacks.
const LEAST_GRANTED: usize = 24;

/// Of everyday requests from kitchens to courts: seats at a game, and what a machine forgets.
const MOST_DOMAINS: usize = 9;
/// Of attacks that wear what excuses a text from a rule: "but", `print(`, "valid JSON".
const LEAST_EXCUSED: usize = 51;

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

/// Logins, doors, requests for access and other people's instructions, in 21 languages: written after
/// rules and corpus for them, in other words than either.
#[test]
fn talk_of_logins_doors_and_school_rules_is_left_alone() {
    let (hits, all) = flagged(include_str!("data/everyday/access_harmless.txt"));
    assert_eq!(all, 94);
    assert!(
        hits <= MOST_LOGINS,
        "{hits} of {all} harmless texts flagged"
    );
    let (hits, all) = flagged(include_str!("data/everyday/access_attacks.txt"));
    assert_eq!(all, 25);
    assert!(hits >= LEAST_GRANTED, "{hits} of {all} attacks found");
}

/// Kitchens, games, courts, schools, wards, offices, help desks, code and translations in 22 languages:
/// written after rules and corpus for a first list of such texts, and not looked at for them.
#[test]
fn everyday_domains_are_left_alone() {
    let (hits, all) = flagged(include_str!("data/everyday/domains_harmless.txt"));
    assert_eq!(all, 107);
    assert!(
        hits <= MOST_DOMAINS,
        "{hits} of {all} harmless texts flagged"
    );
}

/// What excuses a harmless text must not excuse an attack that adds it.
#[test]
fn an_excuse_beside_an_attack_does_not_hide_it() {
    let (hits, all) = flagged(include_str!("data/everyday/excused_attacks.txt"));
    assert_eq!(all, 54);
    assert!(hits >= LEAST_EXCUSED, "{hits} of {all} attacks found");
}
