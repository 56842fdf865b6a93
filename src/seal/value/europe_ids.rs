//! More national identifiers of Europe, each with its own check digits: those that common lists of
//! recognisers leave out, though their holders write them as often.

use super::date::{exists, exists_short, two};
use super::digits::{alphanumeric, exactly, iso7064_mod_11_10, luhn, number, uniform, weighted};

/// French NIR: 13 places and a key of two, 97 minus the rest by 97; Corsica writes 2A and 2B.
pub(super) fn fr_nir(text: &str) -> bool {
    let Some(mut code) = alphanumeric::<15>(text) else {
        return false;
    };
    let minus = match code[6] {
        b'A' => 1_000_000,
        b'B' => 2_000_000,
        _ => 0,
    };
    if minus > 0 {
        if code[5] != b'2' {
            return false;
        }
        code[6] = b'0';
    }
    if !code.iter().all(u8::is_ascii_digit) || !matches!(code[0], b'1' | b'2' | b'7' | b'8') {
        return false;
    }
    let digits = code.map(|c| c - b'0');
    let month = two(&digits[3..5]);
    if !matches!(month, 1..=12 | 20..=42 | 50..=99) {
        return false;
    }
    97 - (number(&digits[..13]) - minus) % 97 == number(&digits[13..])
}

/// Dutch BSN: weights 9 to 2, then minus the last, by 11.
pub(super) fn nl_bsn(text: &str) -> bool {
    exactly::<9>(text).is_some_and(|d| {
        let sum = weighted(&d[..8], &[9, 8, 7, 6, 5, 4, 3, 2]);
        !uniform(&d) && sum >= u32::from(d[8]) && (sum - u32::from(d[8])).is_multiple_of(11)
    })
}

/// Belgian national number: a birth date, a serial, and 97 minus the rest by 97; from 2000 on a 2
/// stands before it.
pub(super) fn be_national(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        let (body, key) = (number(&d[..9]), number(&d[9..]));
        let month = two(&d[2..4]) % 20;
        (month == 0 || two(&d[4..6]) == 0 || exists_short(two(&d), month, two(&d[4..6])))
            && !uniform(&d)
            && (97 - body % 97 == key || 97 - (2_000_000_000 + body) % 97 == key)
    })
}

/// Swiss AHV number: 756 and the check digit of an article number.
pub(super) fn ch_ahv(text: &str) -> bool {
    exactly::<13>(text).is_some_and(|d| {
        d[..3] == [7, 5, 6]
            && weighted(&d, &[1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]).is_multiple_of(10)
    })
}

/// Danish CPR: a day and a serial; since 2007 without a check digit.
pub(super) fn dk_cpr(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| exists_short(two(&d[4..]), two(&d[2..]), two(&d)))
}

/// Norwegian birth number (and D-number, its day 40 higher): two check digits by 11.
pub(super) fn no_fodselsnummer(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        let (day, month) = (two(&d) % 40, two(&d[2..]) % 40);
        exists_short(two(&d[4..]), month, day)
            && weighted(&d, &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1]).is_multiple_of(11)
            && weighted(&d, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11)
    })
}

/// Portuguese NIF: weights 9 to 2 by 11.
pub(super) fn pt_nif(text: &str) -> bool {
    exactly::<9>(text).is_some_and(|d| {
        let check = 11 - weighted(&d[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        !matches!(d[0], 0 | 4)
            && !uniform(&d)
            && (if check > 9 { 0 } else { check }) == u32::from(d[8])
    })
}

/// Romanian CNP: sex and century, a birth date, a county, and a check digit by 11.
pub(super) fn ro_cnp(text: &str) -> bool {
    exactly::<13>(text).is_some_and(|d| {
        let check = weighted(&d[..12], &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
        d[0] != 0
            && exists_short(two(&d[1..]), two(&d[3..]), two(&d[5..]))
            && (if check == 10 { 1 } else { check }) == u32::from(d[12])
    })
}

/// Czech and Slovak birth number: months of women 50 higher, 20 or 70 in years without room; by 11.
pub(super) fn cz_birth_number(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| {
        let month = match two(&d[2..]) {
            m @ 1..=12 => m,
            m @ 21..=32 => m - 20,
            m @ 51..=62 => m - 50,
            m @ 71..=82 => m - 70,
            _ => return false,
        };
        let rest = number(&d[..9]) % 11 % 10;
        exists_short(two(&d), month, two(&d[4..])) && rest == u64::from(d[9])
    })
}

/// Bulgarian EGN: months 20 higher before 1900, 40 from 2000 on; by 11.
pub(super) fn bg_egn(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| {
        let (year, month) = match two(&d[2..]) {
            m @ 1..=12 => (1900, m),
            m @ 21..=32 => (1800, m - 20),
            m @ 41..=52 => (2000, m - 40),
            _ => return false,
        };
        exists(year + two(&d), month, two(&d[4..]))
            && weighted(&d[..9], &[2, 4, 8, 5, 10, 9, 7, 3, 6]) % 11 % 10 == u32::from(d[9])
    })
}

/// Croatian OIB: ISO 7064 MOD 11,10.
pub(super) fn hr_oib(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| !uniform(&d) && iso7064_mod_11_10(&d))
}

/// Estonian and Lithuanian personal code: century and sex, a birth date, a check digit by 11 in two rounds.
pub(super) fn baltic_code(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        let first = weighted(&d[..10], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]) % 11;
        let second = weighted(&d[..10], &[3, 4, 5, 6, 7, 8, 9, 1, 2, 3]) % 11 % 10;
        let check = if first < 10 { first } else { second };
        (1..=8).contains(&d[0])
            && exists_short(two(&d[1..]), two(&d[3..]), two(&d[5..]))
            && check == u32::from(d[10])
    })
}

/// Latvian personal code: a birth date with a check digit by 11, or the new kind that begins with 32 to 39.
pub(super) fn lv_code(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        if (32..=39).contains(&two(&d)) {
            return !uniform(&d[2..]);
        }
        let sum = weighted(&d[..10], &[10, 5, 8, 4, 2, 1, 6, 3, 7, 9]);
        exists_short(two(&d[4..]), two(&d[2..]), two(&d)) && (1 + sum) % 11 % 10 == u32::from(d[10])
    })
}

/// Greek AMKA: a birth date and the Luhn digit.
pub(super) fn gr_amka(text: &str) -> bool {
    exactly::<11>(text)
        .is_some_and(|d| exists_short(two(&d[4..]), two(&d[2..]), two(&d)) && luhn(&d))
}

/// JMBG and EMŠO of the states of former Yugoslavia: a birth date and a check digit by 11.
pub(super) fn jmbg(text: &str) -> bool {
    exactly::<13>(text).is_some_and(|d| {
        let sum = weighted(&d[..12], &[7, 6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]);
        let year = number(&d[4..7]);
        let millennium = if year < 800 { 2000 } else { 1000 };
        u32::try_from(millennium + year).is_ok_and(|y| exists(y, two(&d[2..]), two(&d)))
            && (11 - sum % 11) % 11 == u32::from(d[12])
    })
}

/// Austrian social security number: a serial with its check digit by 11, then the day of birth.
pub(super) fn at_svnr(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| {
        d[0] != 0
            && (1..=15).contains(&two(&d[6..]))
            && weighted(&d, &[3, 7, 9, 0, 5, 8, 4, 2, 1, 6]) % 11 == u32::from(d[3])
    })
}

/// Irish PPS number: seven digits, a check letter by 23, and since 2013 a second letter that counts nine.
pub(super) fn ie_pps(text: &str) -> bool {
    let letters = text
        .chars()
        .rev()
        .take_while(char::is_ascii_alphabetic)
        .count();
    let Some(digits) = text
        .len()
        .checked_sub(letters)
        .and_then(|at| text.get(..at))
    else {
        return false;
    };
    let tail = text.as_bytes()[digits.len()..].to_ascii_uppercase();
    let Some(d) = exactly::<7>(digits) else {
        return false;
    };
    let extra = match tail.as_slice() {
        [_] | [_, b'W'] => 0,
        [_, second] => u32::from(second - b'A' + 1) * 9,
        _ => return false,
    };
    let rest = (weighted(&d, &[8, 7, 6, 5, 4, 3, 2]) + extra) % 23;
    let want = if rest == 0 { 22 } else { rest - 1 };
    !uniform(&d) && u32::from(tail[0] - b'A') == want
}

/// Hungarian TAJ number: weights 3 and 7 by 10.
pub(super) fn hu_taj(text: &str) -> bool {
    exactly::<9>(text).is_some_and(|d| {
        !uniform(&d) && weighted(&d[..8], &[3, 7, 3, 7, 3, 7, 3, 7]) % 10 == u32::from(d[8])
    })
}

/// Russian SNILS: nine digits and their weighted sum by 101.
pub(super) fn ru_snils(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        let sum = weighted(&d[..9], &[9, 8, 7, 6, 5, 4, 3, 2, 1]) % 101 % 100;
        !uniform(&d) && sum == two(&d[9..])
    })
}

/// Russian INN of a person: twelve digits, two check digits by 11.
pub(super) fn ru_inn(text: &str) -> bool {
    exactly::<12>(text).is_some_and(|d| {
        !uniform(&d)
            && weighted(&d[..10], &[7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10 == u32::from(d[10])
            && weighted(&d[..11], &[3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8]) % 11 % 10 == u32::from(d[11])
    })
}

/// Ukrainian tax number of a person: weights with a negative first one, by 11.
pub(super) fn ua_rnokpp(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| {
        // −1 is 10 modulo 11.
        let sum = weighted(&d[..9], &[10, 5, 7, 9, 4, 6, 10, 5, 7]);
        !uniform(&d) && sum % 11 % 10 == u32::from(d[9])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (fn(&str) -> bool, &'static [&'static str]);

    /// Valid numbers made for this test; changing the last place must break each.
    const CASES: &[Case] = &[
        (fr_nir, &["295071111203111", "140122668058665"]),
        (nl_bsn, &["524205541", "243960098"]),
        (be_national, &["56121223286", "54070316159"]),
        (ch_ahv, &["7567851336502", "7565314420126"]),
        (no_fodselsnummer, &["12044547722", "26125941868"]),
        (pt_nif, &["223135836", "294916326"]),
        (ro_cnp, &["1451005125474", "1580617128130"]),
        (cz_birth_number, &["7108146496", "9512038492"]),
        (bg_egn, &["8701142571", "7007182830"]),
        (hr_oib, &["33936374175", "95627987108"]),
        (baltic_code, &["34109201703", "45902198869"]),
        (gr_amka, &["18058137581", "25076280822"]),
        (jmbg, &["0507956505086", "2011946501815"]),
        (at_svnr, &["4236130969", "1789041081"]),
        (ie_pps, &["0475412C"]),
        (hu_taj, &["534628662", "393463149"]),
        (ru_snils, &["25939529430", "93414370394"]),
        (ru_inn, &["242850502779", "883275885483"]),
        (ua_rnokpp, &["0348924086", "5868901944"]),
    ];

    #[test]
    fn made_numbers_pass_and_their_neighbours_do_not() {
        for (check, numbers) in CASES {
            for good in *numbers {
                assert!(check(good), "{good}");
                let (head, last) = good.split_at(good.len() - 1);
                let other = match last.as_bytes()[0] {
                    b'Z' => 'A',
                    c if c.is_ascii_alphabetic() => char::from(c + 1),
                    c => char::from(b'0' + (c - b'0' + 1) % 10),
                };
                assert!(!check(&format!("{head}{other}")), "{head}{other}");
            }
        }
    }

    #[test]
    fn impossible_days_are_refused() {
        assert!(!dk_cpr("320199-1234"));
        assert!(dk_cpr("290296-1234"));
        assert!(!lv_code("310299-12345"));
        assert!(lv_code("327654-12345"));
    }
}
