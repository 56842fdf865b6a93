//! National identifiers of Asia: India, Korea, the Philippines, Singapore, Thailand, Turkey.

use super::date::{exists, two};
use super::digits::{alphanumeric, exactly, number, uniform, verhoeff, weighted};

/// Indian Aadhaar: first digit 2–9, Verhoeff, no palindrome.
pub(super) fn in_aadhaar(text: &str) -> bool {
    exactly::<12>(text).is_some_and(|d| d[0] >= 2 && !d.iter().eq(d.iter().rev()) && verhoeff(&d))
}

/// Indian PAN: five letters of which the fourth names the holder's kind, four digits, a letter.
pub(super) fn in_pan(text: &str) -> bool {
    alphanumeric::<10>(text).is_some_and(|c| pan(&c))
}

fn pan(c: &[u8]) -> bool {
    c[..5].iter().all(u8::is_ascii_uppercase)
        && b"ABCFGHJLPT".contains(&c[3])
        && c[5..9].iter().all(u8::is_ascii_digit)
        && c[5..9] != *b"0000"
        && c[9].is_ascii_uppercase()
}

/// Indian GSTIN: state code, PAN, entity, Z, and the check character in base 36.
pub(super) fn in_gstin(text: &str) -> bool {
    let Some(code) = alphanumeric::<15>(text) else {
        return false;
    };
    if !code[0].is_ascii_digit() || !code[1].is_ascii_digit() || code[13] != b'Z' {
        return false;
    }
    let state = (code[0] - b'0') * 10 + code[1] - b'0';
    let value = |c: u8| {
        u32::from(if c.is_ascii_digit() {
            c - b'0'
        } else {
            c - b'A' + 10
        })
    };
    let sum: u32 = code[..14]
        .iter()
        .enumerate()
        .map(|(at, &c)| {
            let product = value(c) * if at % 2 == 0 { 1 } else { 2 };
            product / 36 + product % 36
        })
        .sum();
    matches!(state, 1..=38 | 97 | 99)
        && pan(&code[2..12])
        && code[12] != b'0'
        && (36 - sum % 36) % 36 == value(code[14])
}

/// Indian vehicle registration: a state's code, a district, a number that is not 0000; BH series and diplomatic plates.
pub(super) fn in_vehicle(text: &str) -> bool {
    const STATES: [&[u8; 2]; 43] = [
        b"AN", b"AP", b"AR", b"AS", b"BR", b"CG", b"CH", b"CT", b"DD", b"DH", b"DL", b"DN", b"GA",
        b"GJ", b"HP", b"HR", b"JH", b"JK", b"KA", b"KL", b"LA", b"LD", b"MH", b"ML", b"MN", b"MP",
        b"MZ", b"NL", b"OD", b"OR", b"PB", b"PY", b"RJ", b"SK", b"TG", b"TN", b"TR", b"TS", b"UA",
        b"UK", b"UP", b"UT", b"WB",
    ];
    let mut code = [0u8; 12];
    let mut len = 0;
    for byte in text.bytes().filter(|b| !matches!(b, b' ' | b'-')) {
        if len == code.len() || !byte.is_ascii_alphanumeric() {
            return false;
        }
        code[len] = byte.to_ascii_uppercase();
        len += 1;
    }
    let code = &code[..len];
    if len < 5 {
        return false;
    }
    // 22 BH 1234 AA, and 23 CD 456
    if code[0].is_ascii_digit() {
        let digits = code.iter().take_while(|c| c.is_ascii_digit()).count();
        return code[digits..].starts_with(b"BH")
            || [b"CD", b"CC", b"UN"]
                .iter()
                .any(|mark| code[digits..].starts_with(*mark))
            || (digits == 2 && len == 10);
    }
    let number = &code[len - 4..];
    STATES.iter().any(|state| code.starts_with(*state))
        && number.iter().all(u8::is_ascii_digit)
        && number != b"0000"
        && code[2].is_ascii_digit()
        && code[2..4] != *b"00"
}

/// Korean resident registration number: birth date, century and sex 1–4, weights 2–9,2–5. Numbers issued since
/// October 2020 carry no check digit, so a failing one is accepted for births from then on only.
pub(super) fn kr_rrn(text: &str) -> bool {
    korean(text, 1..=4, 11)
}

/// Korean foreigner registration number: the same with 5–8.
pub(super) fn kr_frn(text: &str) -> bool {
    korean(text, 5..=8, 13)
}

fn korean(text: &str, marks: std::ops::RangeInclusive<u8>, base: u32) -> bool {
    let Some(d) = exactly::<13>(text) else {
        return false;
    };
    if !marks.contains(&d[6]) {
        return false;
    }
    let century = if matches!(d[6], 1 | 2 | 5 | 6) {
        1900
    } else {
        2000
    };
    let (year, month, day) = (century + two(&d), two(&d[2..4]), two(&d[4..6]));
    let check = (base - weighted(&d[..12], &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]) % 11) % 10;
    exists(year, month, day) && (check == u32::from(d[12]) || (year, month) >= (2020, 10))
}

/// Korean business registration number: weights 1-3-7 and the doubled ninth digit.
pub(super) fn kr_brn(text: &str) -> bool {
    let Some(d) = exactly::<10>(text) else {
        return false;
    };
    let ninth = u32::from(d[8]) * 5;
    let sum = weighted(&d[..8], &[1, 3, 7, 1, 3, 7, 1, 3]) + ninth + ninth / 10;
    !uniform(&d) && (10 - sum % 10) % 10 == u32::from(d[9])
}

/// Korean driver licence: a licensing region's code, 12 digits.
pub(super) fn kr_driver_license(text: &str) -> bool {
    exactly::<12>(text).is_some_and(|d| matches!(two(&d), 11..=26 | 28) && !uniform(&d[2..]))
}

/// Philippine TIN: nine digits with a modulo 11 check, and optionally a three-digit branch.
pub(super) fn ph_tin(text: &str) -> bool {
    let nine: [u8; 9] = match (exactly::<9>(text), exactly::<12>(text)) {
        (Some(d), _) => d,
        (_, Some(d)) => std::array::from_fn(|at| d[at]),
        _ => return false,
    };
    !uniform(&nine) && weighted(&nine[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) % 11 == u32::from(nine[8])
}

/// Singapore NRIC or FIN: weights 2-7-6-5-4-3-2, an offset by series, the series' letter table.
pub(super) fn sg_nric(text: &str) -> bool {
    let Some(code) = alphanumeric::<9>(text) else {
        return false;
    };
    let Some(d) = std::str::from_utf8(&code[1..8]).ok().and_then(exactly::<7>) else {
        return false;
    };
    let sum = weighted(&d, &[2, 7, 6, 5, 4, 3, 2]);
    let (offset, table): (u32, &[u8; 11]) = match code[0] {
        b'S' => (0, b"JZIHGFEDCBA"),
        b'T' => (4, b"JZIHGFEDCBA"),
        b'F' => (0, b"XWUTRQPNMLK"),
        b'G' => (4, b"XWUTRQPNMLK"),
        // The M series (2022) reads its table from the other end.
        b'M' => (3, b"XWUTRQPNJLK"),
        _ => return false,
    };
    let at = usize::try_from((sum + offset) % 11).unwrap_or(0);
    code[8] == table[at]
}

/// Singapore unique entity number: businesses (8 digits), local companies (year and 5 digits), other entities.
pub(super) fn sg_uen(text: &str) -> bool {
    if let Some(code) = alphanumeric::<9>(text) {
        let Some(d) = std::str::from_utf8(&code[..8]).ok().and_then(exactly::<8>) else {
            return false;
        };
        return letter(weighted(&d, &[10, 4, 9, 3, 8, 2, 7, 1]), b"XMKECAWLJDB") == code[8];
    }
    let Some(code) = alphanumeric::<10>(text) else {
        return false;
    };
    if let Some(d) = std::str::from_utf8(&code[..9]).ok().and_then(exactly::<9>) {
        let year = number(&d[..4]);
        return year < 2100
            && letter(weighted(&d, &[10, 8, 6, 4, 9, 7, 5, 3, 1]), b"ZKCMDNERGWH") == code[9];
    }
    const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWX0123456789";
    const ENTITIES: [&[u8; 2]; 39] = [
        b"LP", b"LL", b"FC", b"PF", b"RF", b"MQ", b"MM", b"NB", b"CC", b"CS", b"MB", b"FM", b"GS",
        b"DP", b"CP", b"NR", b"CM", b"CD", b"MD", b"HS", b"VH", b"CH", b"MH", b"CL", b"XL", b"CX",
        b"HC", b"RP", b"TU", b"TC", b"FB", b"FN", b"PA", b"PB", b"SS", b"MC", b"SM", b"GA", b"GB",
    ];
    if !b"RST".contains(&code[0]) || !ENTITIES.iter().any(|known| code[3..5] == **known) {
        return false;
    }
    let mut sum = 0;
    for (&c, weight) in code[..9].iter().zip([4, 3, 5, 3, 10, 2, 2, 5, 7]) {
        let Some(at) = ALPHABET
            .iter()
            .position(|&known| known == c)
            .and_then(|at| u32::try_from(at).ok())
        else {
            return false;
        };
        sum += at * weight;
    }
    // The offset of −5 is added as 6 modulo 11, so that the sum cannot go below zero.
    usize::try_from((sum + 6) % 11).is_ok_and(|at| ALPHABET[at] == code[9])
}

fn letter(sum: u32, table: &[u8; 11]) -> u8 {
    usize::try_from(sum % 11).map_or(0, |at| table[at])
}

/// Thai national id: weights 13 to 2, modulo 11; the first digit names the person's class.
pub(super) fn th_tnin(text: &str) -> bool {
    exactly::<13>(text).is_some_and(|d| {
        let rest = weighted(&d[..12], &[13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        d[0] != 0 && !uniform(&d) && (11 - rest) % 10 == u32::from(d[12])
    })
}

/// Turkish identity number: two check digits.
pub(super) fn tr_national_id(text: &str) -> bool {
    let Some(d) = exactly::<11>(text) else {
        return false;
    };
    let d = d.map(u32::from);
    let odd = d[0] + d[2] + d[4] + d[6] + d[8];
    let even = d[1] + d[3] + d[5] + d[7];
    // + 40 keeps the difference above zero: the even sum is at most 36.
    d[0] != 0 && (odd * 7 + 40 - even) % 10 == d[9] && d[..10].iter().sum::<u32>() % 10 == d[10]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn india() {
        assert!(in_aadhaar("312345678909") && in_aadhaar("4001 2345 6787"));
        assert!(
            !in_aadhaar("3999 9999 9999")
                && !in_aadhaar("312345678908")
                && !in_aadhaar("123456789012")
        );
        assert!(
            in_pan("ABCPD1234Z")
                && in_pan("abccd1234z")
                && !in_pan("AAASA1111R")
                && !in_pan("ABCDD1234Z")
                && !in_pan("ABCPD0000Z")
        );
        assert!(
            in_gstin("27AAPFU0939F1ZV")
                && in_gstin("29AAGCB7383J1Z4")
                && !in_gstin("27AAPFU0939F1ZW")
                && !in_gstin("40AAPFU0939F1ZV")
        );
        assert!(
            in_vehicle("KA53ME3456")
                && in_vehicle("DL 3 CJI 0001")
                && in_vehicle("22BH0001AA")
                && in_vehicle("1CC11")
        );
        assert!(!in_vehicle("XX53ME3456") && !in_vehicle("KA53ME0000"));
    }

    #[test]
    fn korea() {
        assert!(kr_rrn("960121-1234560") || kr_rrn("960121-1234561"));
        let passing = (0..10)
            .filter(|check| kr_rrn(&format!("960121-123456{check}")))
            .count();
        assert_eq!(passing, 1, "one check digit of ten");
        assert!(!kr_rrn("961321-1234560") && !kr_rrn("960121-5234560"));
        assert_eq!(
            (0..10)
                .filter(|check| kr_frn(&format!("960121-523456{check}")))
                .count(),
            1
        );
        assert!(kr_brn("124-81-00998") && !kr_brn("124-81-00999"));
        assert!(kr_driver_license("11-22-333333-44") && !kr_driver_license("27-22-333333-44"));
    }

    #[test]
    fn south_east_asia() {
        assert!(
            sg_nric("S1234567D")
                && sg_nric("T1234567J")
                && sg_nric("F1234567N")
                && sg_nric("G1234567X")
                && sg_nric("g1234567x")
        );
        assert!(!sg_nric("S1234567E") && !sg_nric("A1234567D"));
        assert!(
            sg_uen("53125226D")
                && sg_uen("196800306E")
                && sg_uen("T08GB0046G")
                && !sg_uen("53125226E")
                && !sg_uen("T08XX0046G")
        );
        assert!(th_tnin("1234567890121") && !th_tnin("1234567890122"));
        assert_eq!(
            (0..10)
                .filter(|check| ph_tin(&format!("123-456-78{check}")))
                .count(),
            1
        );
    }

    #[test]
    fn turkey() {
        assert!(tr_national_id("10000000146") && tr_national_id("12345678950"));
        assert!(
            !tr_national_id("10000000147")
                && !tr_national_id("12345678951")
                && !tr_national_id("02345678950")
        );
    }
}
