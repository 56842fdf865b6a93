//! German identifiers: tax, pension, health, doctor's number, identity card, passport.

use super::digits::{alphanumeric, exactly, iso7064_mod_11_10, number, uniform, weighted};

/// Steuer-Identifikationsnummer: no leading zero, one digit of the first ten repeated two or three times, MOD 11,10.
pub(super) fn tax_id(text: &str) -> bool {
    let Some(d) = exactly::<11>(text) else {
        return false;
    };
    let mut counts = [0u8; 10];
    for &digit in &d[..10] {
        counts[usize::from(digit)] += 1;
    }
    // Issued numbers repeat exactly one digit, twice or (since 2016) three times.
    let most = counts.iter().copied().max().unwrap_or(0);
    d[0] != 0 && (2..=3).contains(&most) && iso7064_mod_11_10(&d)
}

/// Steuernummer: the 13-digit national form begins with a state's code; the written form has three groups.
pub(super) fn tax_number(text: &str) -> bool {
    if text.contains('/') {
        return true;
    }
    exactly::<13>(text).is_some_and(|d| matches!(number(&d[..2]), 10 | 11 | 21..=24 | 26..=28 | 30..=32 | 40 | 41 | 50..=59 | 90..=93 | 1..=9 | 12..=16) && !uniform(&d))
}

/// Umsatzsteuer-Identifikationsnummer: DE and nine digits, MOD 11,10.
pub(super) fn vat_id(text: &str) -> bool {
    text.get(..2)
        .is_some_and(|head| head.eq_ignore_ascii_case("DE"))
        && exactly::<9>(&text[2..]).is_some_and(|d| d[0] != 0 && iso7064_mod_11_10(&d))
}

/// Krankenversichertennummer: a letter counts as two digits, weights 1-2, cross sums.
pub(super) fn health_insurance(text: &str) -> bool {
    let Some(code) = alphanumeric::<10>(text) else {
        return false;
    };
    if !code[0].is_ascii_uppercase() || !code[1..].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let letter = code[0] - b'A' + 1;
    let digits: [u8; 10] = std::array::from_fn(|at| match at {
        0 => letter / 10,
        1 => letter % 10,
        _ => code[at - 1] - b'0',
    });
    cross_sum(&digits, &[1, 2, 1, 2, 1, 2, 1, 2, 1, 2]) % 10 == u32::from(code[9] - b'0')
}

/// Rentenversicherungsnummer: area, birth date (day may carry +50), letter as two digits, check.
pub(super) fn pension_insurance(text: &str) -> bool {
    let Some(code) = alphanumeric::<12>(text) else {
        return false;
    };
    let places_fit = code.iter().enumerate().all(|(at, c)| {
        if at == 8 {
            c.is_ascii_uppercase()
        } else {
            c.is_ascii_digit()
        }
    });
    if !places_fit {
        return false;
    }
    let value = |at: usize| code[at] - b'0';
    let letter = code[8] - b'A' + 1;
    let digits: [u8; 12] = std::array::from_fn(|at| match at {
        0..=7 => value(at),
        8 => letter / 10,
        9 => letter % 10,
        _ => value(at - 1),
    });
    let (day, month) = (value(2) * 10 + value(3), value(4) * 10 + value(5));
    matches!(day, 1..=31 | 51..=81)
        && (1..=12).contains(&month)
        && cross_sum(&digits, &[2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1]) % 10 == u32::from(value(11))
}

fn cross_sum(digits: &[u8], weights: &[u8]) -> u32 {
    digits
        .iter()
        .zip(weights)
        .map(|(&d, &w)| u32::from(d * w / 10 + d * w % 10))
        .sum()
}

/// Lebenslange Arztnummer: weights 4-9 over six digits, then the check digit and two for the speciality.
pub(super) fn doctor_number(text: &str) -> bool {
    exactly::<9>(text).is_some_and(|d| {
        !uniform(&d[..7])
            && (10 - weighted(&d[..6], &[4, 9, 4, 9, 4, 9]) % 10) % 10 == u32::from(d[6])
    })
}

/// Personalausweis: ICAO 7-3-1 over eight places of the new series; the old series (T and 8 digits) has no public check.
pub(super) fn id_card(text: &str) -> bool {
    alphanumeric::<9>(text)
        .is_some_and(|code| code[0] == b'T' && code[1..].iter().all(u8::is_ascii_digit))
        || passport(text)
}

/// Reisepass: consonants and digits only, ICAO 7-3-1 check digit in the last place; nine places with the check
/// digit among them, or nine and the check digit of the machine-readable zone.
pub(super) fn passport(text: &str) -> bool {
    alphanumeric::<9>(text).is_some_and(|code| icao(&code))
        || alphanumeric::<10>(text).is_some_and(|code| icao(&code))
}

fn icao(code: &[u8]) -> bool {
    let Some((&check, body)) = code.split_last() else {
        return false;
    };
    if !body[0].is_ascii_uppercase()
        || !check.is_ascii_digit()
        || body.iter().any(|c| b"ABDEIOQSU".contains(c))
    {
        return false;
    }
    let sum: u32 = body
        .iter()
        .zip([7, 3, 1].iter().cycle())
        .map(|(&c, weight)| {
            weight
                * u32::from(if c.is_ascii_digit() {
                    c - b'0'
                } else {
                    c - b'A' + 10
                })
        })
        .sum();
    sum % 10 == u32::from(check - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taxes() {
        assert!(tax_id("86095742719") && tax_id("47036892816") && tax_id("65929970489"));
        assert!(!tax_id("86095742718") && !tax_id("01234567890") && !tax_id("11111111111"));
        assert!(
            vat_id("DE136695976")
                && vat_id("DE 136 695 976")
                && !vat_id("DE136695977")
                && !vat_id("FR136695976")
        );
        assert!(
            tax_number("181/815/08155")
                && tax_number("2893081508152")
                && !tax_number("9993081508152")
        );
    }

    #[test]
    fn health_and_pension() {
        assert!(
            health_insurance("A123456780")
                && !health_insurance("A123456781")
                && !health_insurance("1123456780")
        );
        assert!(
            pension_insurance("15070649C103")
                && pension_insurance("65170839J003")
                && !pension_insurance("15070649C104")
                && !pension_insurance("15071349C103")
        );
        assert!(doctor_number("123456601") && !doctor_number("123456501"));
    }

    #[test]
    fn documents() {
        assert!(
            passport("C01X00T478")
                && passport("C01X00T41")
                && !passport("C01X00T479")
                && !passport("C01X00T42")
                && !passport("A01X00T41")
        );
        assert!(id_card("L01X00T471") && id_card("T22000129") && !id_card("L01X00T472"));
    }
}
