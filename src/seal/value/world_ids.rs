//! More national identifiers of the Americas and Asia, each with its own check digits or birth date.

use super::date::{exists, exists_short, two};
use super::digits::{alphanumeric, exactly, luhn, number, uniform, weighted};

/// Brazilian CPF: two check digits by 11.
pub(super) fn br_cpf(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        let digit = |n: usize| {
            let first = u8::try_from(n + 1).unwrap_or(u8::MAX);
            let weights: [u8; 10] =
                std::array::from_fn(|i| first.saturating_sub(u8::try_from(i).unwrap_or(u8::MAX)));
            weighted(&d[..n], &weights) * 10 % 11 % 10
        };
        !uniform(&d) && digit(9) == u32::from(d[9]) && digit(10) == u32::from(d[10])
    })
}

/// Brazilian CNPJ, also the kind with letters: two check digits by 11.
pub(super) fn br_cnpj(text: &str) -> bool {
    const WEIGHTS: [u8; 13] = [6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2];
    alphanumeric::<14>(text).is_some_and(|code| {
        let values = code.map(|c| c - b'0');
        let digit = |n: usize| match weighted(&values[..n], &WEIGHTS[13 - n..]) % 11 {
            0 | 1 => 0,
            rest => 11 - rest,
        };
        code[12..].iter().all(u8::is_ascii_digit)
            && !uniform(&values)
            && digit(12) == u32::from(values[12])
            && digit(13) == u32::from(values[13])
    })
}

/// Mexican CURP: letters of the name, a birth date, sex, state, consonants, and a check digit by 10.
pub(super) fn mx_curp(text: &str) -> bool {
    alphanumeric::<18>(text).is_some_and(|c| {
        let value = |c: u8| match c {
            b'0'..=b'9' => c - b'0',
            // The alphabet of the CURP has Ñ after N.
            b'A'..=b'N' => c - b'A' + 10,
            _ => c - b'A' + 11,
        };
        let digits = |at: usize| [c[at].wrapping_sub(b'0'), c[at + 1].wrapping_sub(b'0')];
        let sum: u32 = (2..=18u32)
            .rev()
            .zip(c)
            .map(|(w, c)| w * u32::from(value(c)))
            .sum();
        c[4..10].iter().all(u8::is_ascii_digit)
            && exists_short(two(&digits(4)), two(&digits(6)), two(&digits(8)))
            && matches!(c[10], b'H' | b'M' | b'X')
            && c[11..16].iter().all(u8::is_ascii_uppercase)
            && u32::from(c[17].wrapping_sub(b'0')) == (10 - sum % 10) % 10
    })
}

/// Mexican RFC of a person: four letters, a date, three places whose check few systems keep.
pub(super) fn mx_rfc(text: &str) -> bool {
    alphanumeric::<13>(text).is_some_and(|c| {
        c[..4].iter().all(u8::is_ascii_uppercase) && c[4..10].iter().all(u8::is_ascii_digit) && {
            let d: [u8; 6] = std::array::from_fn(|i| c[4 + i] - b'0');
            exists_short(two(&d), two(&d[2..]), two(&d[4..]))
        }
    })
}

/// Argentine CUIT and CUIL: a prefix of the kind of holder and a check digit by 11.
pub(super) fn ar_cuit(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        let check = (11 - weighted(&d[..10], &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11) % 11;
        matches!(two(&d), 20 | 23 | 24 | 27 | 30 | 33 | 34) && check == u32::from(d[10])
    })
}

/// Chilean RUT: seven or eight digits, a check digit by 11 where K is ten.
pub(super) fn cl_rut(text: &str) -> bool {
    let Some((at, last)) = text.char_indices().next_back() else {
        return false;
    };
    let mut body = [0u8; 8];
    let digits = match (exactly::<8>(&text[..at]), exactly::<7>(&text[..at])) {
        (Some(d), _) => d,
        (_, Some(d)) => {
            body[1..].copy_from_slice(&d);
            body
        }
        _ => return false,
    };
    let want = match 11 - weighted(&digits, &[3, 2, 7, 6, 5, 4, 3, 2]) % 11 {
        11 => '0',
        10 => 'K',
        n => char::from_digit(n, 10).unwrap_or('?'),
    };
    !uniform(&digits) && last.to_ascii_uppercase() == want
}

/// Chinese resident id: a birth date and a check digit by 11 where X is ten.
pub(super) fn cn_resident(text: &str) -> bool {
    const WEIGHTS: [u8; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    alphanumeric::<18>(text).is_some_and(|c| {
        if !c[..17].iter().all(u8::is_ascii_digit) {
            return false;
        }
        let d: [u8; 17] = std::array::from_fn(|i| c[i] - b'0');
        let check = b"10X98765432"[usize::try_from(weighted(&d, &WEIGHTS) % 11).unwrap_or(0)];
        let year = u32::try_from(number(&d[6..10])).unwrap_or(0);
        (1..=8).contains(&d[0])
            && (1900..2100).contains(&year)
            && exists(year, two(&d[10..]), two(&d[12..]))
            && c[17] == check
    })
}

/// Taiwanese national id: a letter that stands for two digits, sex or residence, a check digit by 10.
pub(super) fn tw_id(text: &str) -> bool {
    const LETTERS: &[u8; 26] = b"ABCDEFGHJKLMNPQRSTUVXYWZIO";
    alphanumeric::<10>(text).is_some_and(|c| {
        let Some(at) = LETTERS.iter().position(|l| *l == c[0]) else {
            return false;
        };
        if !c[1..].iter().all(u8::is_ascii_digit) || !matches!(c[1], b'1' | b'2' | b'8' | b'9') {
            return false;
        }
        let code = u32::try_from(at).unwrap_or(0) + 10;
        let d: [u8; 9] = std::array::from_fn(|i| c[i + 1] - b'0');
        let sum = code / 10 + code % 10 * 9 + weighted(&d, &[8, 7, 6, 5, 4, 3, 2, 1, 1]);
        sum.is_multiple_of(10)
    })
}

/// Hong Kong identity card: one or two letters, six digits, a check digit by 11 where A is ten.
pub(super) fn hk_id(text: &str) -> bool {
    let mut code = [36u32; 9];
    let mut len = 0;
    for c in text.chars().filter(char::is_ascii_alphanumeric) {
        let Some(slot) = code.get_mut(len) else {
            return false;
        };
        *slot = c.to_digit(36).unwrap_or(36);
        len += 1;
    }
    if len == 8 {
        code.rotate_right(1);
        code[0] = 36;
    } else if len != 9 {
        return false;
    }
    code[8] <= 10
        && (code[0] > 9 && (10..36).contains(&code[1]))
        && code[2..8].iter().all(|d| *d < 10)
        && (1..=9u32)
            .rev()
            .zip(code)
            .map(|(w, d)| w * d)
            .sum::<u32>()
            .is_multiple_of(11)
}

/// Israeli identity number: nine digits with the Luhn digit.
pub(super) fn il_id(text: &str) -> bool {
    exactly::<9>(text).is_some_and(|d| !uniform(&d) && luhn(&d))
}

/// Japanese individual number: twelve digits, a check digit by 11.
pub(super) fn jp_my_number(text: &str) -> bool {
    exactly::<12>(text).is_some_and(|d| {
        let rest = weighted(&d[..11], &[6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11;
        !uniform(&d) && (if rest <= 1 { 0 } else { 11 - rest }) == u32::from(d[11])
    })
}

/// Malaysian identity card: a birth date and a code of the place of birth.
pub(super) fn my_nric(text: &str) -> bool {
    exactly::<12>(text).is_some_and(|d| {
        exists_short(two(&d), two(&d[2..]), two(&d[4..]))
            && matches!(two(&d[6..]), 1..=16 | 21..=59 | 60..=68 | 71..=72 | 74..=79 | 82..=93 | 98..=99)
    })
}

/// Indonesian NIK: a region, a birth date (women's day 40 higher) and a serial.
pub(super) fn id_nik(text: &str) -> bool {
    exactly::<16>(text).is_some_and(|d| {
        let day = two(&d[6..]);
        (11..=96).contains(&two(&d))
            && exists_short(
                two(&d[10..]),
                two(&d[8..]),
                if day > 40 { day - 40 } else { day },
            )
            && number(&d[12..]) != 0
    })
}

/// Emirates ID: 784, a year of birth, and the Luhn digit.
pub(super) fn ae_eid(text: &str) -> bool {
    exactly::<15>(text).is_some_and(|d| {
        d[..3] == [7, 8, 4] && (1900..2100).contains(&number(&d[3..7])) && luhn(&d)
    })
}

/// Saudi national or resident id: 1 or 2, and the Luhn digit.
pub(super) fn sa_id(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| matches!(d[0], 1 | 2) && !uniform(&d[1..]) && luhn(&d))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (fn(&str) -> bool, &'static [&'static str]);

    /// Valid numbers made for this test; changing the last place must break each.
    const CASES: &[Case] = &[
        (br_cpf, &["45807939514", "63886135519"]),
        (br_cnpj, &["96136010000128", "39330247000101"]),
        (mx_curp, &["GAVE750114HDFRRL08", "GAVE740508MDFRRL01"]),
        (ar_cuit, &["20904269450", "20356415354"]),
        (cl_rut, &["136307320", "14251463K"]),
        (cn_resident, &["11010519670208414X", "110105197609142960"]),
        (tw_id, &["A169454914", "A149670216"]),
        (hk_id, &["A6748867", "A2363782"]),
        (il_id, &["345419220", "962289179"]),
        (jp_my_number, &["288545901220", "399967176079"]),
        (ae_eid, &["784198530612195", "784198533424481"]),
        (sa_id, &["1393369481", "1779130689"]),
    ];

    #[test]
    fn made_numbers_pass_and_their_neighbours_do_not() {
        for (check, numbers) in CASES {
            for good in *numbers {
                assert!(check(good), "{good}");
                let (head, last) = good.split_at(good.len() - 1);
                let other = match last.as_bytes()[0] {
                    c if c.is_ascii_alphabetic() => '1',
                    c => char::from(b'0' + (c - b'0' + 1) % 10),
                };
                assert!(!check(&format!("{head}{other}")), "{head}{other}");
            }
        }
    }

    #[test]
    fn dates_and_places_are_checked_where_there_is_no_digit() {
        assert!(my_nric("900229-14-5678") == exists_short(90, 2, 29));
        assert!(my_nric("920229-14-5678"));
        assert!(!my_nric("920229-97-5678"));
        assert!(id_nik("3201014502920001"));
        assert!(!id_nik("3201017502920001"));
        assert!(mx_rfc("GODE561231GR8"));
        assert!(!mx_rfc("GODE561331GR8"));
    }
}
