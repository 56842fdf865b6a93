//! Bank identifiers: IBAN (ISO 13616, every registered country's length) and ABA routing numbers.

use super::digits::{exactly, uniform, weighted};

/// Length of an IBAN per country, from the SWIFT registry, sorted by country.
const LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// Country known, length the country's, and the number modulo 97 is 1.
pub(super) fn iban(text: &str) -> bool {
    // The country code and the check digits are written together.
    let Some(head) = text.get(..4) else {
        return false;
    };
    let head = head.as_bytes();
    let country = [head[0].to_ascii_uppercase(), head[1].to_ascii_uppercase()];
    let Ok(at) = LENGTHS.binary_search_by_key(&&country, |(known, _)| known) else {
        return false;
    };
    if !head[2].is_ascii_digit() || !head[3].is_ascii_digit() {
        return false;
    }
    let expected = LENGTHS[at].1;
    let mut body = [0u8; 34];
    let mut len = 0;
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(b' ' | b'-' | b'.') => continue,
            Ok(byte) if byte.is_ascii_alphanumeric() && len < body.len() => {
                body[len] = byte.to_ascii_uppercase();
            }
            _ => return false,
        }
        len += 1;
    }
    if len != expected {
        return false;
    }
    // The four leading characters move behind the rest; letters count as 10 to 35.
    body[4..len]
        .iter()
        .chain(&body[..4])
        .fold(0u32, |rest, &byte| match byte {
            b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
            _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
        })
        == 1
}

/// ABA routing transit number: a first digit that is in use and the 3-7-1 check.
pub(super) fn aba_routing(text: &str) -> bool {
    let Some(digits) = exactly::<9>(text) else {
        return false;
    };
    matches!(digits[0], 0..=3 | 6..=8)
        && !uniform(&digits)
        && weighted(&digits, &[3, 7, 1, 3, 7, 1, 3, 7, 1]).is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_examples_pass() {
        for yes in [
            "GB29 NWBK 6016 1331 9268 19",
            "DE89370400440532013000",
            "FR1420041010050500013M02606",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "LC55HEMM000100010012001200023015",
            "CH9300762011623852957",
            "gb82west12345698765432",
            "SA0380000000608010167519",
            "BR1800360305000010009795493C1",
            "ES91 2100 0418 4502 0005 1332",
            "NL91ABNA0417164300",
            "PL61109010140000071219812874",
            "TR330006100519786457841326",
        ] {
            assert!(iban(yes), "{yes}");
        }
    }

    #[test]
    fn iban_near_misses_fail() {
        for no in [
            "GB29NWBK60161331926818",
            "GB92NWBK60161331926819",
            "DE8937040044053201300",
            "DE893704004405320130000",
            "XX89370400440532013000",
            "US64SVBKUS6S3300958879",
            "GBNW29BK60161331926819",
            "G é",
        ] {
            assert!(!iban(no), "{no}");
        }
    }

    #[test]
    fn routing_numbers() {
        for yes in ["021000021", "011401533", "091000019", "1210-0035-8"] {
            assert!(aba_routing(yes), "{yes}");
        }
        for no in [
            "021000022",
            "121000359",
            "991000019",
            "000000000",
            "421000021",
        ] {
            assert!(!aba_routing(no), "{no}");
        }
    }
}
