//! Personal data and credentials through the whole rule set: generated numbers of every entity with a check
//! digit are found next to a word that names them, the same numbers with a wrong check digit are not, and
//! everyday numbers are nobody's.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use veilwatch::event::{Role, Side};
use veilwatch::rule::Area;
use veilwatch::seal::engine::{Engine, Scratch};
use veilwatch::seal::value;

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::built_in);

/// Numbers generated for each entity.
const SAMPLES: usize = 40;
/// Tries to complete one number before the mask is taken for wrong.
const TRIES: usize = 400;

/// Entity, validator, mask and a sentence. In the mask `9` is a digit, `8` a digit from 1, `A` a letter, `#` a digit
/// and `@` a letter or digit that make the check hold; everything else stands for itself.
const CHECKED: &[(&str, &str, &str, &str)] = &[
    (
        "ABA_ROUTING_NUMBER",
        "aba-routing",
        "02999999#",
        "The routing number is {}.",
    ),
    (
        "AU_ABN",
        "au-abn",
        "## 999 999 999",
        "Our ABN is {} as on the invoice",
    ),
    ("AU_ACN", "au-acn", "999 999 99#", "registered under ACN {}"),
    (
        "AU_MEDICARE",
        "au-medicare",
        "29999999#1",
        "her medicare card {} expired",
    ),
    (
        "AU_TFN",
        "au-tfn",
        "899 999 99#",
        "my tax file number is {}",
    ),
    (
        "CA_SIN",
        "ca-sin",
        "199-999-99#",
        "Social insurance number: {}",
    ),
    (
        "CREDIT_CARD",
        "luhn",
        "453999999999999#",
        "charge {} please",
    ),
    (
        "CREDIT_CARD",
        "luhn",
        "5399 9999 9999 999#",
        "my card is {}",
    ),
    (
        "CREDIT_CARD",
        "luhn",
        "37999999999999#",
        "amex {} exp 12/29",
    ),
    (
        "DE_HEALTH_INSURANCE",
        "de-kvnr",
        "A99999999#",
        "Versichertennummer {} der AOK",
    ),
    (
        "DE_ID_CARD",
        "de-id-card",
        "L9999999#",
        "Meine Personalausweisnummer ist {}",
    ),
    (
        "DE_LANR",
        "de-lanr",
        "899999#01",
        "Die Arztnummer lautet {}",
    ),
    (
        "DE_PASSPORT",
        "de-passport",
        "C9999999#",
        "Reisepassnummer {}",
    ),
    (
        "DE_SOCIAL_SECURITY",
        "de-rvnr",
        "65170839J99#",
        "Rentenversicherungsnummer {}",
    ),
    (
        "DE_TAX_ID",
        "de-tax-id",
        "8999999999#",
        "Meine Steuer-ID ist {}",
    ),
    ("DE_VAT_ID", "de-vat", "DE89999999#", "USt-IdNr. {}"),
    ("ES_NIE", "es-nie", "X9999999@", "mi NIE es {}"),
    ("ES_NIF", "es-nif", "89999999@", "mi DNI es {}"),
    (
        "FI_PERSONAL_IDENTITY_CODE",
        "fi-hetu",
        "131052-299@",
        "henkilötunnus {}",
    ),
    (
        "IBAN_CODE",
        "iban",
        "DE##370400440532899999",
        "transfer it to {}",
    ),
    (
        "IBAN_CODE",
        "iban",
        "GB## NWBK 6016 1331 9999 99",
        "IBAN: {}",
    ),
    ("IBAN_CODE", "iban", "FR##20041010050500013M02699", "RIB {}"),
    (
        "IN_AADHAAR",
        "in-aadhaar",
        "3999 9999 999#",
        "My Aadhaar is {}",
    ),
    ("IN_GSTIN", "in-gstin", "27AAPFU9999F1Z@", "GSTIN {}"),
    (
        "IT_FISCAL_CODE",
        "it-fiscal-code",
        "RSSMRA85T10A999@",
        "codice fiscale {}",
    ),
    ("IT_VAT_CODE", "it-vat", "0899999032#", "partita IVA {}"),
    ("KR_BRN", "kr-brn", "199-81-9999#", "사업자등록번호 {}"),
    ("KR_FRN", "kr-frn", "960121-599999#", "외국인등록번호 {}"),
    ("KR_RRN", "kr-rrn", "960121-199999#", "주민등록번호 {}"),
    ("MEDICAL_LICENSE", "us-dea", "BB999999#", "DEA number {}"),
    ("NG_NIN", "ng-nin", "8999999999#", "my NIN is {}"),
    ("PH_TIN", "ph-tin", "899-999-99#", "TIN {} of the BIR"),
    ("PL_PESEL", "pl-pesel", "850312999##", "numer PESEL {}"),
    (
        "SE_ORGANISATIONSNUMMER",
        "se-organisationsnummer",
        "556999-999#",
        "organisationsnummer {}",
    ),
    (
        "SE_PERSONNUMMER",
        "se-personnummer",
        "811218-999#",
        "personnummer {}",
    ),
    ("SG_NRIC_FIN", "sg-nric", "S8999999@", "NRIC {}"),
    ("SG_UEN", "sg-uen", "89999999@", "our UEN is {}"),
    ("TH_TNIN", "th-tnin", "199999999999#", "Thai national ID {}"),
    (
        "TR_NATIONAL_ID",
        "tr-national-id",
        "899999999##",
        "TC kimlik no {}",
    ),
    ("UK_NHS", "uk-nhs", "499 999 999#", "NHS number {}"),
    ("US_NPI", "npi", "199999999#", "provider NPI {}"),
    ("ZA_ID_NUMBER", "za-id", "850312999908#", "ID number {}"),
];

/// A repeatable stream of choices (SplitMix64).
struct Stream(u64);

impl Stream {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn of(&mut self, choices: &str) -> char {
        char::from(choices.as_bytes()[self.below(choices.len())])
    }
}

/// A number of the mask whose check holds, and one that differs from it in the check alone and fails.
fn pair(mask: &str, valid: fn(&str) -> bool, stream: &mut Stream) -> (String, String) {
    const DIGITS: &str = "0123456789";
    const BOTH: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let fill = |text: &str, stream: &mut Stream| -> String {
        text.chars()
            .map(|c| match c {
                '#' => stream.of(DIGITS),
                '@' => stream.of(BOTH),
                c => c,
            })
            .collect()
    };
    for _ in 0..TRIES {
        let body: String = mask
            .chars()
            .enumerate()
            .map(|(at, c)| match c {
                '9' => stream.of(DIGITS),
                '8' if at == 0 || !mask.starts_with("65170839") => stream.of("123456789"),
                // A letter in front only: inside it is part of the form.
                'A' if at == 0 && mask.len() == 10 => stream.of("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
                c => c,
            })
            .collect();
        let good = (0..TRIES)
            .map(|_| fill(&body, stream))
            .find(|text| valid(text));
        let bad = (0..TRIES)
            .map(|_| fill(&body, stream))
            .find(|text| !valid(text));
        if let (Some(good), Some(bad)) = (good, bad) {
            return (good, bad);
        }
    }
    panic!("no number of the mask {mask} can be completed");
}

fn entities(text: &str) -> BTreeSet<String> {
    let mut scratch = Scratch::default();
    let scan = ENGINE.scan(text, Role::User, Side::Request, &mut scratch);
    scan.values
        .iter()
        .map(|found| found.entity.to_string())
        .collect()
}

#[test]
fn generated_numbers_are_found_and_near_misses_are_not() {
    let mut wrong = Vec::new();
    for (entity, name, mask, sentence) in CHECKED {
        let valid = value::validator(name).expect("a known validator");
        let mut stream = Stream(0x5eed);
        let mut found = 0;
        for _ in 0..SAMPLES {
            let (good, bad) = pair(mask, valid, &mut stream);
            found += usize::from(entities(&sentence.replace("{}", &good)).contains(*entity));
            if entities(&sentence.replace("{}", &bad)).contains(*entity) {
                wrong.push(format!("{entity}: hit on the near miss {bad}"));
            }
        }
        if found * 100 < SAMPLES * 95 {
            wrong.push(format!("{entity} ({mask}): {found} of {SAMPLES} found"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn everyday_numbers_are_nobodys() {
    for text in [
        "The meeting is on 2024-03-12 at 10:30:45, room 4711.",
        "Version 10.0.19041.1 fixed it, v12.4.33.7 broke it.",
        "Order 20240312-0001 shipped with tracking 00340434161094.",
        "It cost 1,234,567.89 euro in 1998 and 2.345.678 in 2005.",
        "The population grew from 45678901 to 51234567 people.",
        "ISBN 978-3-16-148410-0 and ISSN 2049-3630.",
        "pi is 3.14159265358979323846 and e is 2.71828182845904",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 on 1712345678901",
        "Boeing 737-800, RAL 9010, DIN 18040-2, IEC 60529",
        "[PSYoungGen: 25027062K->3360979K(24336896K)] 3.7886199 secs",
        "aspect 16:9, range 100-200, score 3:2, ratio 1/3",
        "std::vector<int> a; foo::bar(); x = y ? 0x7fff : 0;",
    ] {
        assert_eq!(entities(text), BTreeSet::new(), "{text}");
    }
}

#[test]
fn placeholders_are_no_secrets() {
    for text in [
        "export OPENAI_API_KEY=sk-your-key-here",
        "password = \"changeme\"",
        "Authorization: Bearer <token>",
        "token: ${{ secrets.GITHUB_TOKEN }}",
        "api_key = os.environ['API_KEY']",
        "curl -u username:password https://example.com",
        "postgres://user:password@localhost:5432/db",
        "aws_access_key_id = AKIAXXXXXXXXXXXXXXXX",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "The secret is to keep practising every day, token by token.",
        "secret_name = \"prod-database-credentials-2024\"",
        "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        // Keys that everybody has: of emulators, standards and guides.
        concat!(
            "AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6",
            "IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
        ),
        concat!(
            "AccountEndpoint=https://localhost:8081/;AccountKey=C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM",
            "+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="
        ),
        "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        "Authorization: Bearer mF_9.B5f-4.1JqM",
        "stripe.api_key = \"sk_test_BQokikJOvBiI2HlWgH4olfQ2\"",
    ] {
        let mut scratch = Scratch::default();
        let scan = ENGINE.scan(text, Role::User, Side::Request, &mut scratch);
        let secrets: Vec<_> = scan
            .values
            .iter()
            .filter(|found| {
                ENGINE
                    .rules()
                    .any(|rule| rule.id == found.rule && rule.area == Area::Secret)
            })
            .collect();
        assert!(secrets.is_empty(), "{text}: {secrets:?}");
    }
}

#[test]
fn the_rules_cover_what_they_promise() {
    let kinds = |area: Area, typed: bool| -> BTreeSet<String> {
        ENGINE
            .rules()
            .filter(|rule| rule.area == area && (rule.typed == typed || area == Area::Pii))
            .map(|rule| rule.kind.to_string())
            .collect()
    };
    assert!(
        kinds(Area::Secret, true).len() >= 250,
        "kinds of secrets whose provider is known"
    );
    assert!(kinds(Area::Secret, false).len() >= 8, "generic kinds");
    assert!(kinds(Area::Pii, true).len() >= 90, "entities");
    for entity in kinds(Area::Pii, true) {
        assert!(
            entity
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'),
            "{entity} is not written like Presidio's entities"
        );
    }
}
