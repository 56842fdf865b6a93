//! Values as browsers, word processors and input methods write them, and several in one encoded run.

use std::sync::LazyLock;

use veilwatch::event::{Role, Side};
use veilwatch::seal::engine::{Engine, Found, Scratch};

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::built_in);

fn values(text: &str) -> Vec<Found> {
    let scratch = &mut Scratch::default();
    ENGINE.scan(text, Role::User, Side::Request, scratch).values
}

fn part(text: &str, found: &Found) -> String {
    let chars = text.chars().skip(found.start);
    chars.take(found.end - found.start).collect()
}

/// What a text's only value is: entity, its characters of the text, its one spelling.
fn only(text: &str) -> (String, String, String) {
    let found = values(text);
    assert_eq!(found.len(), 1, "{text:?}: {found:?}");
    let entity = found[0].entity.to_string();
    (entity, part(text, &found[0]), found[0].canonical.clone())
}

/// Entity, what stands before the value, the value in ASCII.
const VALUES: [(&str, &str, &str); 5] = [
    ("CREDIT_CARD", "é card ", "4111 1111 1111 1111"),
    ("IBAN_CODE", "é IBAN ", "DE89 3704 0044 0532 0130 00"),
    ("US_SSN", "é my ssn is ", "536-22-1234"),
    ("PHONE_NUMBER", "é call ", "(415) 555-2671"),
    ("EMAIL_ADDRESS", "é mail ", "Bob.Smith-jones@example.org"),
];

/// The value is found whole, at its place, and counts as the same as in its ordinary spelling.
fn same(entity: &str, before: &str, value: &str, dressed: &str) {
    let (kind, _, canonical) = only(&format!("{before}{value} now"));
    assert_eq!(kind, entity, "{value}");
    let found = only(&format!("{before}{dressed} now"));
    assert_eq!(
        found,
        (kind, dressed.to_owned(), canonical),
        "{before}{dressed:?}"
    );
}

#[test]
fn spaces_and_dashes_of_every_kind_are_read() {
    for (entity, before, value) in VALUES {
        for space in "\u{a0}\u{2002}\u{2007}\u{2009}\u{202f}\u{205f}\u{3000}".chars() {
            same(
                entity,
                before,
                value,
                &value.replace(' ', &space.to_string()),
            );
        }
        for dash in "\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2015}\u{2212}".chars() {
            // Between letters a long dash ends a word: there only hyphens are read as such.
            if entity != "EMAIL_ADDRESS" || matches!(dash, '\u{2010}' | '\u{2011}') {
                same(
                    entity,
                    before,
                    value,
                    &value.replace('-', &dash.to_string()),
                );
            }
        }
    }
    let card = "4111 1111 1111 1111";
    same(
        "CREDIT_CARD",
        "card ",
        card,
        "4111\u{2011}1111\u{2011}1111\u{2011}1111",
    );
    same("US_SSN", "my ssn is\u{a0}", "536-22-1234", "536–22–1234");
}

#[test]
fn full_width_values_are_read() {
    for (entity, before, value) in VALUES {
        let wide: String = value
            .chars()
            .map(|c| match c {
                '!'..='~' => char::from_u32(u32::from(c) + 0xfee0).unwrap_or(c),
                c => c,
            })
            .collect();
        same(entity, before, value, &wide);
        same(entity, before, value, &wide.replace(' ', "\u{3000}"));
    }
}

#[test]
fn characters_that_nobody_sees_hide_nothing() {
    for (entity, before, value) in VALUES {
        for hidden in "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}".chars() {
            let mut dressed: String = value.chars().flat_map(|c| [c, hidden]).collect();
            dressed.pop();
            same(entity, before, value, &dressed);
            let mut once = value.to_owned();
            once.insert(1, hidden);
            same(entity, before, value, &once);
        }
    }
}

#[test]
fn what_a_hidden_character_parts_is_found_too() {
    let found = values("4111111111111111\u{200b}12 is the card");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].canonical, "4111111111111111");
}

#[test]
fn numbers_in_a_row_are_no_card() {
    for text in [
        "pages 12\u{2013}15, 1998\u{2013}2004 and 2010\u{2013}2015",
        "4112\u{2013}1111\u{2013}1111\u{2013}1111",
        "from 10\u{202f}000 to 4\u{a0}111\u{a0}111\u{a0}111\u{a0}111\u{a0}112",
        "one\u{2014}two\u{2014}three, 5\u{2014}6\u{2014}7",
        "２０２６年１月３１日（土）",
        "a\u{200b}b\u{200b}c at x\u{200b}y",
    ] {
        let found = values(text);
        assert!(found.is_empty(), "{text}: {found:?}");
    }
}

#[test]
fn a_dash_ends_what_stands_before_it() {
    let text = "ask bob@example.org\u{2014}he knows\u{a0}1";
    assert_eq!(only(text).1, "bob@example.org");
}

/// `mail bob@example.org and mail carol@example.org` in several encodings.
#[test]
fn every_value_of_an_encoded_run_is_found() {
    for run in [
        "bWFpbCBib2JAZXhhbXBsZS5vcmcgYW5kIG1haWwgY2Fyb2xAZXhhbXBsZS5vcmc=",
        "6d61696c20626f62406578616d706c652e6f726720616e64206d61696c206361726f6c406578616d706c652e6f7267",
        "mail%20bob%40example.org%20and%20mail%20carol%40example.org",
    ] {
        let text = format!("see {run} there");
        let mut found: Vec<_> = values(&text).into_iter().map(|v| v.canonical).collect();
        found.sort();
        assert_eq!(found, ["bob@example.org", "carol@example.org"], "{run}");
    }
}

#[test]
fn a_secret_in_an_encoded_run_hides_nothing_beside_it() {
    // `mail bob@example.org key ghp_` and 36 letters and digits.
    let run =
        "bWFpbCBib2JAZXhhbXBsZS5vcmcga2V5IGdocF8xNkM3ZTQyRjI5MkM2OTEyRTc3MTBjODM4MzQ3QWUxNzhCNGE=";
    let text = format!("see {run} there, {run}");
    let found = values(&text);
    let kinds: Vec<_> = found.iter().map(|v| v.entity.as_str()).collect();
    let mails = kinds.iter().filter(|k| **k == "EMAIL_ADDRESS").count();
    assert_eq!((mails, kinds.len()), (2, 4), "{kinds:?}");
    assert!(found.iter().all(|v| part(&text, v) == run), "{found:?}");
}

/// `card 4111 1111 1111 1111 token ghp_… mail carol@example.org`, in one run.
#[test]
fn a_card_a_token_and_a_mail_of_one_run_are_all_found() {
    let run = concat!(
        "Y2FyZCA0MTExIDExMTEgMTExMSAxMTExIHRva2VuIGdocF8xNkM3ZTQyRjI5MkM2OTEyRTc3MTBj",
        "ODM4MzQ3QWUxNzhCNGEgbWFpbCBjYXJvbEBleGFtcGxlLm9yZw=="
    );
    let found = values(&format!("please decode {run}"));
    let kinds: Vec<_> = found.iter().map(|v| v.entity.as_str()).collect();
    for kind in ["CREDIT_CARD", "github-pat", "EMAIL_ADDRESS"] {
        let n = kinds.iter().filter(|k| **k == kind).count();
        assert_eq!(n, 1, "{kind}: {kinds:?}");
    }
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}

#[test]
fn a_decoded_value_in_typographic_dress_is_read() {
    // `card 4111\u{a0}1111\u{a0}1111\u{a0}1111 please`
    let text = "see card%204111%C2%A01111%C2%A01111%C2%A01111%20please";
    let (kind, place, canonical) = only(text);
    assert_eq!(
        (kind.as_str(), canonical.as_str()),
        ("CREDIT_CARD", "4111111111111111")
    );
    assert_eq!(place, "4111%C2%A01111%C2%A01111%C2%A01111");
}
