//! Values found in text: is this run of characters really a card, an id, an address, a token?
//!
//! Every function here is pure and judges one candidate that a rule's regex has cut out. Rules name
//! validators in YAML ([`validator`]); a candidate counts only if all of them say yes. [`canonical`]
//! gives the one spelling of a value that is keyed and sealed, so that `4111 1111 …` and `4111-1111-…`
//! are seen as the same card.

mod americas;
mod asia;
mod bank;
mod card;
mod crypto;
mod date;
mod digits;
mod europe;
mod europe_ids;
mod germany;
mod net;
mod oceania_africa;
mod phone;
mod plan;
mod tld;
mod token;
mod world_ids;

/// A check of one candidate value; `true` means it may be what the rule says it is.
pub type Validator = fn(&str) -> bool;

/// Every validator a rule may name, sorted by name, so that `rules check` can suggest the nearest one.
pub const VALIDATORS: &[(&str, Validator)] = &[
    ("aba-routing", bank::aba_routing),
    ("ae-eid", world_ids::ae_eid),
    ("ar-cuit", world_ids::ar_cuit),
    ("at-svnr", europe_ids::at_svnr),
    ("au-abn", oceania_africa::au_abn),
    ("au-acn", oceania_africa::au_acn),
    ("au-medicare", oceania_africa::au_medicare),
    ("au-tfn", oceania_africa::au_tfn),
    ("aws-key-id", token::aws_key_id),
    ("baltic-code", europe_ids::baltic_code),
    ("base58check", crypto::base58check),
    ("be-national", europe_ids::be_national),
    ("bech32", crypto::bech32),
    ("bg-egn", europe_ids::bg_egn),
    ("br-cnpj", world_ids::br_cnpj),
    ("br-cpf", world_ids::br_cpf),
    ("ca-sin", americas::ca_sin),
    ("card-iin", card::issuer),
    ("ch-ahv", europe_ids::ch_ahv),
    ("cl-rut", world_ids::cl_rut),
    ("cn-resident", world_ids::cn_resident),
    ("crypto-address", crypto::address),
    ("cz-birth-number", europe_ids::cz_birth_number),
    ("date", date::written_date),
    ("de-id-card", germany::id_card),
    ("de-kvnr", germany::health_insurance),
    ("de-lanr", germany::doctor_number),
    ("de-passport", germany::passport),
    ("de-rvnr", germany::pension_insurance),
    ("de-tax-id", germany::tax_id),
    ("de-tax-number", germany::tax_number),
    ("de-vat", germany::vat_id),
    ("dk-cpr", europe_ids::dk_cpr),
    ("email", net::email),
    ("es-nie", europe::es_nie),
    ("es-nif", europe::es_nif),
    ("fi-hetu", europe::fi_hetu),
    ("fr-nir", europe_ids::fr_nir),
    ("github-checksum", token::github_checksum),
    ("gr-amka", europe_ids::gr_amka),
    ("header-value", token::header_value),
    ("hk-id", world_ids::hk_id),
    ("hr-oib", europe_ids::hr_oib),
    ("hu-taj", europe_ids::hu_taj),
    ("iban", bank::iban),
    ("id-nik", world_ids::id_nik),
    ("ie-pps", europe_ids::ie_pps),
    ("il-id", world_ids::il_id),
    ("in-aadhaar", asia::in_aadhaar),
    ("in-gstin", asia::in_gstin),
    ("in-pan", asia::in_pan),
    ("in-vehicle", asia::in_vehicle),
    ("ip", net::ip),
    ("it-fiscal-code", europe::it_fiscal_code),
    ("it-vat", europe::it_vat),
    ("jmbg", europe_ids::jmbg),
    ("jp-my-number", world_ids::jp_my_number),
    ("jwt", token::jwt),
    ("kr-brn", asia::kr_brn),
    ("kr-driver-license", asia::kr_driver_license),
    ("kr-frn", asia::kr_frn),
    ("kr-rrn", asia::kr_rrn),
    ("letters-digits", token::letters_and_digits),
    ("luhn", card::luhn),
    ("lv-code", europe_ids::lv_code),
    ("mac", net::mac),
    ("mixed-case", token::mixed_case),
    ("mx-curp", world_ids::mx_curp),
    ("mx-rfc", world_ids::mx_rfc),
    ("my-nric", world_ids::my_nric),
    ("ng-nin", oceania_africa::ng_nin),
    ("nl-bsn", europe_ids::nl_bsn),
    ("no-fodselsnummer", europe_ids::no_fodselsnummer),
    ("not-placeholder", token::not_placeholder),
    ("npi", americas::us_npi),
    ("password-like", token::password_like),
    ("ph-tin", asia::ph_tin),
    ("phone", phone::any_plan),
    ("phone-international", phone::international),
    ("phone-za-mobile", phone::south_african_mobile),
    ("phone-za-telephone", phone::south_african_telephone),
    ("pl-pesel", europe::pl_pesel),
    ("pt-nif", europe_ids::pt_nif),
    ("random-token", token::random_looking),
    ("ro-cnp", europe_ids::ro_cnp),
    ("ru-inn", europe_ids::ru_inn),
    ("ru-snils", europe_ids::ru_snils),
    ("sa-id", world_ids::sa_id),
    ("se-organisationsnummer", europe::se_organisationsnummer),
    ("se-personnummer", europe::se_personnummer),
    ("sg-nric", asia::sg_nric),
    ("sg-uen", asia::sg_uen),
    ("th-tnin", asia::th_tnin),
    ("tr-national-id", asia::tr_national_id),
    ("tw-id", world_ids::tw_id),
    ("ua-rnokpp", europe_ids::ua_rnokpp),
    ("uk-driving-licence", europe::uk_driving_licence),
    ("uk-nhs", europe::uk_nhs),
    ("uk-nino", europe::uk_nino),
    ("uk-vehicle", europe::uk_vehicle),
    ("url", net::url),
    ("us-bank-number", americas::us_bank_number),
    ("us-dea", americas::us_dea),
    ("us-ein", americas::us_ein),
    ("us-itin", americas::us_itin),
    ("us-mbi", americas::us_mbi),
    ("us-ssn", americas::us_ssn),
    ("uuid", net::uuid),
    ("za-company", oceania_africa::za_company),
    ("za-id", oceania_africa::za_id),
    ("za-traffic-register", oceania_africa::za_traffic_register),
];

/// The validator of that name, or `None` if there is none.
pub fn validator(name: &str) -> Option<Validator> {
    VALIDATORS
        .binary_search_by_key(&name, |(known, _)| known)
        .ok()
        .map(|at| VALIDATORS[at].1)
}

/// The one spelling of a value of the PII or secret type `kind`: separators removed, case folded where the
/// type ignores case. Secrets stay as they are, since their case and punctuation carry meaning.
pub fn canonical(kind: &str, value: &str) -> String {
    match kind {
        "EMAIL_ADDRESS" => value.trim().to_lowercase(),
        "URL" | "DOMAIN_NAME" => net::canonical_url(value),
        "IP_ADDRESS" => net::canonical_ip(value),
        "PHONE_NUMBER" | "ZA_MOBILE_NUMBER" | "ZA_TELEPHONE_NUMBER" => phone::canonical(value),
        "CRYPTO" => crypto::canonical(value),
        // Dates and licence plates differ by their separators alone only in writing.
        _ if is_entity(kind) => value
            .chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_uppercase)
            .collect(),
        _ => value.to_owned(),
    }
}

/// Presidio's entity names are upper case with underscores; kinds of secrets are lower case with hyphens.
fn is_entity(kind: &str) -> bool {
    !kind.is_empty()
        && kind
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// Shannon entropy of the bytes of `text`, in bits a byte: 0 for one repeated byte, at most 8.
pub fn shannon_entropy(text: &str) -> f64 {
    let mut counts = [0u32; 256];
    for byte in text.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let total = text.len() as f64;
    counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = f64::from(count) / total;
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(
            VALIDATORS.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "binary search needs sorted names"
        );
        assert!(validator("luhn").is_some());
        assert!(validator("lunh").is_none());
    }

    #[test]
    fn no_validator_panics_on_odd_input() {
        let odd = [
            "",
            " ",
            "-",
            "+",
            "0",
            "é",
            "１２３４",
            "٣٤٥",
            "\u{0}",
            "a@",
            "@b",
            "1-",
            "::",
            "…………",
            "DE",
            "DE é",
            "1é2é3é4é5é6é7é8é9é",
            "ÄÖÜ-ÄÖ-1234",
            "99999999999999999999999999999999999999999999",
            "----------------",
            "A\u{301}bcdefgh1",
        ];
        for (name, check) in VALIDATORS {
            for text in odd {
                // Only termination without a panic is asked; most say no.
                let _ = check(text);
                let long = text.repeat(40);
                let _ = (check(&long), name);
            }
        }
    }

    #[test]
    fn canonical_spelling_joins_variants() {
        assert_eq!(
            canonical("CREDIT_CARD", "4111 1111-1111 1111"),
            "4111111111111111"
        );
        assert_eq!(
            canonical("IBAN_CODE", "gb29 nwbk 6016 1331 9268 19"),
            "GB29NWBK60161331926819"
        );
        assert_eq!(
            canonical("EMAIL_ADDRESS", "Jane.Doe@Example.COM"),
            "jane.doe@example.com"
        );
        assert_eq!(
            canonical("IP_ADDRESS", "2001:DB8:0:0:0:0:0:1"),
            "2001:db8::1"
        );
        assert_eq!(
            canonical("PHONE_NUMBER", "+1 (212) 555-0100"),
            canonical("PHONE_NUMBER", "001 212 555 0100")
        );
        assert_eq!(canonical("github-pat", "ghp_aB-C"), "ghp_aB-C");
    }

    #[test]
    fn entropy_in_bits_a_byte() {
        assert!(shannon_entropy("").abs() < 1e-9);
        assert!(shannon_entropy("aaaa").abs() < 1e-9);
        assert!((shannon_entropy("abab") - 1.0).abs() < 1e-9);
        assert!((shannon_entropy("0123456789abcdef") - 4.0).abs() < 1e-9);
    }
}
