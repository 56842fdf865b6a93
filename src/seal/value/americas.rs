//! Identifiers of the United States and Canada: area rules, reserved blocks, check digits.

use super::digits::{alphanumeric, at_most, exactly, luhn, number, uniform};

/// US Social Security number: no area 000, 666 or 9xx, no group 00, no serial 0000, and none of the
/// numbers that were printed in advertisements or on sample cards. One kind of separator only.
pub(super) fn us_ssn(text: &str) -> bool {
    let Some(digits) = exactly::<9>(text) else {
        return false;
    };
    let (area, group, serial) = (
        number(&digits[..3]),
        number(&digits[3..5]),
        number(&digits[5..]),
    );
    let mut separators = text.chars().filter(|c| !c.is_ascii_digit());
    let first = separators.next();
    !(area == 0 || area == 666 || area >= 900 || group == 0 || serial == 0)
        && !uniform(&digits)
        && !matches!(
            number(&digits),
            123_456_789 | 78_051_120 | 219_099_999 | 457_555_462
        )
        && separators.all(|c| Some(c) == first)
}

/// US Individual Taxpayer Identification Number: 9xx with a group of 50–65, 70–88, 90–92 or 94–99.
pub(super) fn us_itin(text: &str) -> bool {
    let Some(digits) = exactly::<9>(text) else {
        return false;
    };
    let group = number(&digits[3..5]);
    digits[0] == 9
        && matches!(group, 50..=65 | 70..=88 | 90..=92 | 94..=99)
        && !uniform(&digits[5..])
}

/// US employer identification number: campus prefixes that the IRS has assigned.
pub(super) fn us_ein(text: &str) -> bool {
    let Some(digits) = exactly::<9>(text) else {
        return false;
    };
    let prefix = number(&digits[..2]);
    matches!(prefix, 1..=6 | 10..=16 | 20..=27 | 30..=48 | 50..=68 | 71..=77 | 80..=88 | 90..=95 | 98 | 99)
        && !uniform(&digits[2..])
}

/// US National Provider Identifier: Luhn over the number with the prefix 80840.
pub(super) fn us_npi(text: &str) -> bool {
    let Some(digits) = exactly::<10>(text) else {
        return false;
    };
    let mut full = [8, 0, 8, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    full[5..].copy_from_slice(&digits);
    matches!(digits[0], 1 | 2) && !uniform(&digits[..9]) && luhn(&full)
}

/// US Medicare Beneficiary Identifier: CMS fixes the class of each of the 11 places.
pub(super) fn us_mbi(text: &str) -> bool {
    let Some(code) = alphanumeric::<11>(text) else {
        return false;
    };
    let letter = |c: u8| c.is_ascii_uppercase() && !b"SLOIBZ".contains(&c);
    let digit = |c: u8| c.is_ascii_digit();
    code.iter().enumerate().all(|(at, &c)| match at {
        1 | 4 | 7 | 8 => letter(c),
        2 | 5 => letter(c) || digit(c),
        _ => digit(c),
    })
}

/// US DEA registration number: registrant letter, second letter or 9, and the check of seven digits.
pub(super) fn us_dea(text: &str) -> bool {
    let Some(code) = alphanumeric::<9>(text) else {
        return false;
    };
    if !b"ABCDEFGHJKLMPRSTUX".contains(&code[0])
        || !(code[1].is_ascii_uppercase() || code[1] == b'9')
        || !code[2..].iter().all(u8::is_ascii_digit)
    {
        return false;
    }
    let d: [u32; 7] = std::array::from_fn(|at| u32::from(code[2 + at] - b'0'));
    !code[2..].windows(2).all(|pair| pair[0] == pair[1])
        && (d[0] + d[2] + d[4] + 2 * (d[1] + d[3] + d[5])) % 10 == d[6]
}

/// US bank account number: 8 to 17 digits that are neither one digit repeated nor a run 0123….
pub(super) fn us_bank_number(text: &str) -> bool {
    let Some((digits, len)) = at_most::<17>(text) else {
        return false;
    };
    let digits = &digits[..len];
    len >= 8 && !uniform(digits) && !digits.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

/// Canadian Social Insurance Number: Luhn; 0 and 8 are not issued to persons.
pub(super) fn ca_sin(text: &str) -> bool {
    exactly::<9>(text)
        .is_some_and(|digits| !matches!(digits[0], 0 | 8) && !uniform(&digits) && luhn(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn social_security_area_rules() {
        for yes in ["856-45-6789", "001-01-0001", "899 99 9999", "536228726"] {
            assert!(us_ssn(yes), "{yes}");
        }
        for no in [
            "000-45-6789",
            "666-45-6789",
            "900-45-6789",
            "856-00-6789",
            "856-45-0000",
            "078-05-1120",
            "123-45-6789",
            "856-45 6789",
            "111-11-1111",
            "85-645-678",
        ] {
            assert!(!us_ssn(no), "{no}");
        }
    }

    #[test]
    fn taxpayer_groups() {
        for yes in ["911-70-1234", "911701234", "999-99-1234", "987-65-4321"] {
            assert!(us_itin(yes), "{yes}");
        }
        for no in [
            "911-89-1234",
            "911-93-1234",
            "911-66-1234",
            "911-49-1234",
            "811-70-1234",
        ] {
            assert!(!us_itin(no), "{no}");
        }
        assert!(us_ein("12-3456789") && !us_ein("07-3456789") && !us_ein("79-3456789"));
    }

    #[test]
    fn health_numbers() {
        assert!(us_npi("1234567893") && us_npi("1245 319 599"));
        assert!(!us_npi("1234567894") && !us_npi("3234567893") && !us_npi("1111111112"));
        assert!(us_mbi("1EG4-TE5-MK73") && us_mbi("1EG4TE5MK72"));
        assert!(!us_mbi("1SG4TE5MK73") && !us_mbi("1EG4TE5M773"));
        assert!(us_dea("BB1388568") && us_dea("AB1234563"));
        assert!(!us_dea("BB1388569") && !us_dea("NB1388568"));
    }

    #[test]
    fn canada_and_bank() {
        assert!(ca_sin("130 692 544"));
        assert!(!ca_sin("046 454 286") && !ca_sin("130 692 545") && !ca_sin("830 692 544"));
        assert!(
            us_bank_number("945456787654")
                && !us_bank_number("12345678")
                && !us_bank_number("00000000")
                && !us_bank_number("1234567")
        );
    }
}
