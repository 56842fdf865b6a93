//! National identifiers of Europe (Germany has its own file): check digits, dates, reserved prefixes.

use super::date::{exists, exists_short, two};
use super::digits::{alphanumeric, exactly, luhn, number, uniform, weighted};

const NIF_LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";

/// Spanish NIF (DNI): 7 or 8 digits and the letter modulo 23.
pub(super) fn es_nif(text: &str) -> bool {
    let Some((digits, letter)) = split_last_letter(text) else {
        return false;
    };
    let long = exactly::<8>(digits);
    let short = exactly::<7>(digits);
    let n = match (long, short) {
        (Some(d), _) if !uniform(&d) || d[0] != 0 => number(&d),
        (_, Some(d)) => number(&d),
        _ => return false,
    };
    n != 0 && nif_letter(n) == letter
}

/// Spanish NIE: X, Y or Z stands for 0, 1 or 2 before 7 digits; the same letter.
pub(super) fn es_nie(text: &str) -> bool {
    let Some((body, letter)) = split_last_letter(text) else {
        return false;
    };
    let mut chars = body.chars();
    let prefix = match chars.next().map(|c| c.to_ascii_uppercase()) {
        Some('X') => 0,
        Some('Y') => 10_000_000,
        Some('Z') => 20_000_000,
        _ => return false,
    };
    exactly::<7>(chars.as_str()).is_some_and(|d| nif_letter(prefix + number(&d)) == letter)
}

fn nif_letter(n: u64) -> u8 {
    usize::try_from(n % 23).map_or(0, |at| NIF_LETTERS[at])
}

fn split_last_letter(text: &str) -> Option<(&str, u8)> {
    let letter = *text.as_bytes().last()?;
    letter
        .is_ascii_alphabetic()
        .then(|| (&text[..text.len() - 1], letter.to_ascii_uppercase()))
}

/// Italian fiscal code: 16 places, omocodia letters allowed, month letter, day, and the check letter.
pub(super) fn it_fiscal_code(text: &str) -> bool {
    const ODD: [u8; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    let Some(code) = alphanumeric::<16>(text) else {
        return false;
    };
    // Omocodia: digits may be replaced by LMNPQRSTUV.
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        _ => b"LMNPQRSTUV"
            .iter()
            .position(|&known| known == c)
            .and_then(|at| u8::try_from(at).ok()),
    };
    let place = |at: usize| digit(code[at]).map(u32::from);
    let letters = [0, 1, 2, 3, 4, 5, 8, 11, 15]
        .iter()
        .all(|&at| code[at].is_ascii_uppercase());
    let (Some(d1), Some(d2)) = (place(9), place(10)) else {
        return false;
    };
    let rest = [6, 7, 12, 13, 14].iter().all(|&at| place(at).is_some());
    let day = d1 * 10 + d2;
    if !letters || !rest || !b"ABCDEHLMPRST".contains(&code[8]) || !matches!(day, 1..=31 | 41..=71)
    {
        return false;
    }
    let index = |c: u8| {
        if c.is_ascii_digit() {
            c - b'0'
        } else {
            c - b'A'
        }
    };
    let sum: u32 = code[..15]
        .iter()
        .enumerate()
        .map(|(at, &c)| {
            u32::from(if at % 2 == 0 {
                ODD[usize::from(index(c))]
            } else {
                index(c)
            })
        })
        .sum();
    sum % 26 == u32::from(code[15] - b'A')
}

/// Italian VAT number (partita IVA): Luhn over 11 digits, not all one digit.
pub(super) fn it_vat(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| {
        // The office code in places 8 to 10 is not tested: its list grows, and a word must stand near anyway.
        !uniform(&d) && luhn(&d)
    })
}

/// Finnish personal identity code: existing date, century sign, individual number from 2, check modulo 31.
pub(super) fn fi_hetu(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() != 11 || !bytes.is_ascii() {
        return false;
    }
    let century = match bytes[6].to_ascii_uppercase() {
        b'+' => 1800,
        b'-' | b'U'..=b'Y' => 1900,
        b'A'..=b'F' => 2000,
        _ => return false,
    };
    let (Some(date), Some(individual)) = (exactly::<6>(&text[..6]), exactly::<3>(&text[7..10]))
    else {
        return false;
    };
    let n = number(&date) * 1000 + number(&individual);
    let check = usize::try_from(n % 31).map_or(0, |at| b"0123456789ABCDEFHJKLMNPRSTUVWXY"[at]);
    exists(century + two(&date[4..]), two(&date[2..4]), two(&date[..2]))
        && number(&individual) >= 2
        && check == bytes[10].to_ascii_uppercase()
}

/// Polish PESEL: weights 1-3-7-9, and a date whose month carries the century.
pub(super) fn pl_pesel(text: &str) -> bool {
    let Some(d) = exactly::<11>(text) else {
        return false;
    };
    let month = two(&d[2..4]);
    // The month carries the century. Its length is not tested: numbers with a day that does not exist were issued.
    let month = match month {
        1..=12 | 21..=32 | 41..=52 | 61..=72 | 81..=92 => month % 20,
        _ => return false,
    };
    (1..=12).contains(&month)
        && (1..=31).contains(&two(&d[4..6]))
        && weighted(&d, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)
}

/// Swedish personal number (or coordination number, day + 60): existing date and Luhn over ten digits.
pub(super) fn se_personnummer(text: &str) -> bool {
    let text = text.replace('+', "-");
    let ten = match exactly::<12>(&text) {
        Some(d) if matches!(two(&d), 18..=20) => {
            let mut ten = [0; 10];
            ten.copy_from_slice(&d[2..]);
            ten
        }
        Some(_) => return false,
        None => match exactly::<10>(&text) {
            Some(d) => d,
            None => return false,
        },
    };
    let day = two(&ten[4..6]);
    exists_short(
        two(&ten),
        two(&ten[2..4]),
        if day > 60 { day - 60 } else { day },
    ) && luhn(&ten)
}

/// Swedish organisation number: third digit at least 2 (so that it is no date), Luhn.
pub(super) fn se_organisationsnummer(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| d[2] >= 2 && !uniform(&d) && luhn(&d))
}

/// UK NHS number: modulo 11 over ten digits.
pub(super) fn uk_nhs(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| {
        !uniform(&d) && weighted(&d, &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]).is_multiple_of(11)
    })
}

/// UK National Insurance number: prefixes that HMRC does not use are refused; suffix A to D.
pub(super) fn uk_nino(text: &str) -> bool {
    let Some(code) = alphanumeric::<9>(text) else {
        return false;
    };
    let prefix = [code[0], code[1]];
    let allowed = !b"DFIQUV".contains(&code[0])
        && !b"DFIOQUV".contains(&code[1])
        && code[0].is_ascii_uppercase()
        && code[1].is_ascii_uppercase();
    allowed
        && ![*b"BG", *b"GB", *b"NK", *b"KN", *b"TN", *b"NT", *b"ZZ"].contains(&prefix)
        && code[2..8].iter().all(u8::is_ascii_digit)
        && matches!(code[8], b'A'..=b'D')
}

/// UK driving licence (GB, 16 characters): surname padded with 9, birth month (+50 for women) and day.
pub(super) fn uk_driving_licence(text: &str) -> bool {
    let Some(code) = alphanumeric::<16>(text) else {
        return false;
    };
    let letters = code[..5]
        .iter()
        .take_while(|c| c.is_ascii_uppercase())
        .count();
    let padded = letters > 0 && code[letters..5].iter().all(|&c| c == b'9');
    let Some(date) = std::str::from_utf8(&code[5..11])
        .ok()
        .and_then(exactly::<6>)
    else {
        return false;
    };
    let month = two(&date[1..3]);
    let month = if month > 50 { month - 50 } else { month };
    let initials = (code[11].is_ascii_uppercase() || code[11] == b'9')
        && (code[12].is_ascii_uppercase() || code[12] == b'9');
    padded
        && (1..=12).contains(&month)
        && (1..=31).contains(&two(&date[3..5]))
        && initials
        && code[14..].iter().all(u8::is_ascii_uppercase)
}

/// UK vehicle registration: the age identifier of the current series; older series pass by shape.
pub(super) fn uk_vehicle(text: &str) -> bool {
    let Some(code) = alphanumeric::<7>(text) else {
        return text.len() >= 4;
    };
    if !(code[0].is_ascii_uppercase()
        && code[1].is_ascii_uppercase()
        && code[2].is_ascii_digit()
        && code[3].is_ascii_digit())
    {
        return true;
    }
    matches!((code[2] - b'0') * 10 + code[3] - b'0', 2..=29 | 51..=79)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spain() {
        assert!(
            es_nif("55555555K")
                && es_nif("1111111-G")
                && es_nif("01111111G")
                && es_nif("12345678Z")
        );
        assert!(!es_nif("401-31-8800") && !es_nif("12345678A") && !es_nif("1234567Z"));
        assert!(
            es_nie("Z8078221M")
                && es_nie("X9613851N")
                && es_nie("Y8063915Z")
                && es_nie("Y8063915-Z")
        );
        assert!(!es_nie("Y8063915Q") && !es_nie("W8063915Z"));
    }

    #[test]
    fn italy() {
        assert!(it_fiscal_code("RSSMRA85T10A562S"));
        assert!(
            !it_fiscal_code("RSSMRA85T10A562T")
                && !it_fiscal_code("RSSMRA85F10A562S")
                && !it_fiscal_code("RSSMRA85T39A562S")
        );
        assert!(it_vat("01333550323") && it_vat("00743110157"));
        assert!(!it_vat("01333550324") && !it_vat("00000000000") && !it_vat("12345678901"));
    }

    #[test]
    fn nordic() {
        assert!(fi_hetu("131052-308T") && fi_hetu("010594Y9032") && fi_hetu("131052A308T"));
        assert!(!fi_hetu("131052-308U") && !fi_hetu("311152-308T") && !fi_hetu("131052G308T"));
        assert!(
            se_personnummer("811218-9876")
                && se_personnummer("198112189876")
                && se_personnummer("670919-9530")
        );
        assert!(
            !se_personnummer("811218-9875")
                && !se_personnummer("811318-9876")
                && !se_personnummer("218112189876")
        );
        assert!(
            se_organisationsnummer("556703-7485")
                && !se_organisationsnummer("556703-7486")
                && !se_organisationsnummer("811218-9876")
        );
    }

    #[test]
    fn poland_and_britain() {
        assert!(pl_pesel("44051401359") && pl_pesel("02070803628"));
        assert!(!pl_pesel("44051401358") && !pl_pesel("44131401359") && !pl_pesel("44053401359"));
        assert!(uk_nhs("401-023-2137") && uk_nhs("221 395 1837") && uk_nhs("0032698674"));
        assert!(!uk_nhs("401-023-2138") && !uk_nhs("1111111111"));
        assert!(
            uk_nino("AA 12 34 56 B")
                && uk_nino("hh014451d")
                && !uk_nino("GB123456C")
                && !uk_nino("QQ123456C")
                && !uk_nino("AA123456E")
        );
        assert!(
            uk_driving_licence("MORGA657054SM9IJ")
                && !uk_driving_licence("MORGA613054SM9IJ")
                && !uk_driving_licence("99999657054SM9IJ")
        );
        assert!(
            uk_vehicle("AB51 ABC")
                && !uk_vehicle("AB01 ABC")
                && !uk_vehicle("AB45ABC")
                && uk_vehicle("A123 BCD")
        );
    }
}
