//! Payment cards: the Luhn digit and the issuer ranges with the lengths each issuer uses.

use super::digits::{at_most, luhn as luhn_digits, uniform};

/// Longest card number of ISO/IEC 7812.
const LONGEST: usize = 19;

/// Luhn over 2 to 19 digits; separators are skipped.
pub(super) fn luhn(text: &str) -> bool {
    at_most::<LONGEST>(text).is_some_and(|(digits, len)| len >= 2 && luhn_digits(&digits[..len]))
}

/// Whether number and length belong to a range that an issuer of consumer cards uses.
pub(super) fn issuer(text: &str) -> bool {
    let Some((digits, len)) = at_most::<LONGEST>(text) else {
        return false;
    };
    if len < 12 || uniform(&digits[..len]) || !grouping(text) {
        return false;
    }
    let head = |n: usize| {
        digits[..n]
            .iter()
            .fold(0u32, |value, &d| value * 10 + u32::from(d))
    };
    let (two, three, four, six) = (head(2), head(3), head(4), head(6));
    match digits[0] {
        // American Express, Diners Club, JCB
        3 => {
            (matches!(two, 34 | 37) && len == 15)
                || ((matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39))
                    && (14..=19).contains(&len))
                || (two == 35 && (16..=19).contains(&len))
        }
        // An old Maestro range
        0 => four == 604 && len == 12,
        // JCB's oldest ranges
        1 => four == 1800 && len == 15,
        // JCB, Mastercard's second range, Mir
        2 => {
            (four == 2131 && len == 15)
                || ((222_100..=272_099).contains(&six) && len == 16)
                || ((2200..=2204).contains(&four) && (16..=19).contains(&len))
        }
        4 => matches!(len, 13 | 16 | 19),
        // Mastercard; Maestro
        5 => {
            ((51..=55).contains(&two) && len == 16)
                || (matches!(two, 50 | 56..=58) && (12..=19).contains(&len))
        }
        // Discover, UnionPay, Maestro, InstaPayment, RuPay, Troy is 9792
        6 => {
            (matches!(four, 6011) && (16..=19).contains(&len))
                || ((644..=649).contains(&three) || two == 65) && (16..=19).contains(&len)
                || (two == 62 && (16..=19).contains(&len))
                || ((637..=639).contains(&three) && len == 16)
                || (matches!(two, 60 | 63 | 67 | 69 | 61 | 66 | 68) && (12..=19).contains(&len))
                || (matches!(two, 64) && (16..=19).contains(&len))
                || (matches!(two, 81 | 82) && len == 16)
        }
        8 => matches!(two, 81 | 82) && len == 16,
        9 => four == 9792 && len == 16,
        _ => false,
    }
}

/// Cards are written in one run, or in groups of 3 to 7 digits with one kind of separator; blanks may
/// be three.
fn grouping(text: &str) -> bool {
    let mut separator = None;
    let (mut run, mut gap) = (0, 0);
    for c in text.chars() {
        if c.is_ascii_digit() {
            run += 1;
            gap = 0;
        } else if c == ' ' && (1..3).contains(&gap) {
            gap += 1;
        } else {
            gap = 1;
            if run < 3 || separator.is_some_and(|known| known != c) {
                return false;
            }
            separator = Some(c);
            run = 0;
        }
    }
    separator.is_none() || run >= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test numbers that the networks publish for sandboxes.
    const PUBLISHED: &[&str] = &[
        "4111111111111111",
        "4012888888881881",
        "4222222222222",
        "5555555555554444",
        "5105105105105100",
        "2223003122003222",
        "378282246310005",
        "371449635398431",
        "30569309025904",
        "38520000023237",
        "6011111111111117",
        "6011000990139424",
        "3530111333300000",
        "3566002020360505",
        "6200000000000005",
        "6304000000000000",
        "5019717010103742",
    ];

    #[test]
    fn networks_test_numbers_pass() {
        for card in PUBLISHED {
            assert!(luhn(card) && issuer(card), "{card}");
        }
        assert!(issuer("4111 1111 1111 1111") && issuer("4111-1111-1111-1111"));
        assert!(issuer("3782 822463 10005"));
    }

    #[test]
    fn every_single_digit_error_fails_luhn() {
        for card in PUBLISHED {
            for at in 0..card.len() {
                let mut digits = card.as_bytes().to_vec();
                digits[at] = b'0' + (digits[at] - b'0' + 1) % 10;
                let wrong: String = digits.iter().map(|&b| char::from(b)).collect();
                assert!(!luhn(&wrong), "{wrong}");
            }
        }
    }

    #[test]
    fn lengths_and_ranges_are_the_issuers() {
        for no in [
            "411111111111",
            "34343434343434",
            "0000000000000000",
            "7111111111111111",
            "1234567812345670",
            "41 11 11 11 11 11 11 11",
        ] {
            assert!(!issuer(no), "{no}");
        }
        assert!(!issuer("4111-1111 1111-1111"), "mixed separators");
    }
}
