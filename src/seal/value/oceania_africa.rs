//! National identifiers of Australia, Nigeria and South Africa.

use super::date::{exists_short, two};
use super::digits::{exactly, luhn, number, uniform, verhoeff, weighted};

/// Australian business number: the first digit less one, weights, modulo 89.
pub(super) fn au_abn(text: &str) -> bool {
    let Some(mut d) = exactly::<11>(text) else {
        return false;
    };
    if d[0] == 0 {
        return false;
    }
    d[0] -= 1;
    weighted(&d, &[10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]).is_multiple_of(89)
}

/// Australian company number: weights 8 to 1, complement of 10.
pub(super) fn au_acn(text: &str) -> bool {
    exactly::<9>(text).is_some_and(|d| {
        !uniform(&d)
            && (10 - weighted(&d[..8], &[8, 7, 6, 5, 4, 3, 2, 1]) % 10) % 10 == u32::from(d[8])
    })
}

/// Australian tax file number: weighted sum modulo 11.
pub(super) fn au_tfn(text: &str) -> bool {
    exactly::<9>(text).is_some_and(|d| {
        !uniform(&d) && weighted(&d, &[1, 4, 3, 7, 5, 8, 6, 9, 10]).is_multiple_of(11)
    })
}

/// Australian Medicare card: first digit 2–6, check in the ninth place, an issue number that is not 0.
pub(super) fn au_medicare(text: &str) -> bool {
    exactly::<10>(text).is_some_and(|d| {
        (2..=6).contains(&d[0])
            && weighted(&d[..8], &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 == u32::from(d[8])
    })
}

/// Nigerian national identification number: Verhoeff over 11 digits.
pub(super) fn ng_nin(text: &str) -> bool {
    exactly::<11>(text).is_some_and(|d| !uniform(&d) && verhoeff(&d))
}

/// South African id: birth date, citizenship 0–2, the former race digit 8 or 9, Luhn.
pub(super) fn za_id(text: &str) -> bool {
    exactly::<13>(text).is_some_and(|d| {
        exists_short(two(&d), two(&d[2..4]), two(&d[4..6]))
            && d[10] <= 2
            && matches!(d[11], 8 | 9)
            && luhn(&d)
    })
}

/// South African traffic register number: 13 digits that are no identity number.
pub(super) fn za_traffic_register(text: &str) -> bool {
    exactly::<13>(text).is_some_and(|d| !uniform(&d)) && !za_id(text)
}

/// South African company registration: a plausible year, a sequence, and in the modern form two digits for the class.
pub(super) fn za_company(text: &str) -> bool {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let mut parts = digits.split('/');
    let (Some(year), Some(sequence)) = (
        parts.next().and_then(exactly::<4>),
        parts.next().and_then(exactly::<6>),
    ) else {
        return false;
    };
    let class = parts.next();
    (1800..=2099).contains(&number(&year))
        && !uniform(&sequence)
        && class.is_none_or(|class| exactly::<2>(class).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn australia() {
        assert!(au_abn("51 824 753 556") && au_abn("51824753556") && !au_abn("51 824 753 557"));
        assert!(
            au_acn("000 000 019")
                && au_acn("005 499 981")
                && au_acn("006249976")
                && !au_acn("005 499 982")
        );
        assert!(au_tfn("876 543 210") && au_tfn("459599230") && !au_tfn("876 543 211"));
        assert!(
            au_medicare("2123 45670 1")
                && !au_medicare("2123 45671 1")
                && !au_medicare("7123 45670 1")
        );
    }

    #[test]
    fn africa() {
        assert!(
            za_id("8001015009087")
                && !za_id("8001015009088")
                && !za_id("8013015009087")
                && !za_id("8001015009387")
        );
        assert!(za_traffic_register("1234567890123") && !za_traffic_register("8001015009087"));
        assert!(
            za_company("2010/123456/07")
                && za_company("CK1998/123456")
                && !za_company("1710/123456/07")
                && !za_company("2010/123456/9")
        );
        assert_eq!(
            (0..10)
                .filter(|check| ng_nin(&format!("1234567890{check}")))
                .count(),
            1
        );
    }
}
