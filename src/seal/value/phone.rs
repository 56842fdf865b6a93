//! Telephone numbers by numbering plan, after cheap checks of the shape.

use super::plan::{self, Plan};

/// E.164 allows 15 digits; three more for `00`, `011` and the bracketed trunk zero, five for an extension.
const DIGITS_MOST: usize = 18;
/// Shortest subscriber number that is worth reporting (local numbers of seven digits, some plans have six).
const DIGITS_LEAST: usize = 7;

/// Regions whose national forms are tried, most speakers first; the order does not change the answer.
pub(super) const REGIONS: [&str; 44] = [
    "US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "MX", "CA", "AU", "NL", "BE", "CH", "AT", "SE",
    "NO", "DK", "FI", "PL", "PT", "IE", "CZ", "HU", "RO", "GR", "TR", "RU", "UA", "IL", "ZA", "NG",
    "KE", "EG", "SA", "AE", "JP", "KR", "CN", "TW", "SG", "PH", "NZ", "CY",
];

struct Written {
    digits: [u8; DIGITS_MOST],
    len: usize,
    /// A country code is written: `+`, `00` or `011` stood in front, and was removed from `digits`.
    international: bool,
}

impl Written {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.digits[..self.len]).unwrap_or("")
    }
}

/// Digits of the number as written, without extension, international prefix and bracketed trunk zero.
fn read(text: &str) -> Option<Written> {
    let text = without_extension(text.trim());
    let (international, body) = match text.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => match ["00", "011"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
        {
            Some(rest) if text.bytes().filter(u8::is_ascii_digit).count() > 10 => (true, rest),
            _ => (false, text),
        },
    };
    let mut written = Written {
        digits: [0; DIGITS_MOST],
        len: 0,
        international,
    };
    let body = body.trim_start_matches(['-', ' ', '.']);
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        // `+44 (0)20 …`: the zero is dialled inside the country only.
        if international && rest.starts_with("(0)") {
            rest = &rest[3..];
            continue;
        }
        match c {
            '0'..='9' => {
                *written.digits.get_mut(written.len)? = u8::try_from(c).ok()?;
                written.len += 1;
            }
            ' ' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{2011}' | '\u{2013}' => {}
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(written)
}

/// `x123`, `ext. 123`, `#123` at the end.
fn without_extension(text: &str) -> &str {
    let cut = text
        .find(['x', 'X', '#'])
        .or_else(|| text.find("ext"))
        .unwrap_or(text.len());
    text[..cut].trim_end_matches([' ', ',', ';', 'e', 'E'])
}

/// Nobody has a number of one repeated digit, or one that is a plain run.
fn trivial(digits: &str) -> bool {
    let bytes = digits.as_bytes();
    bytes.windows(2).all(|pair| pair[0] == pair[1])
        || (bytes.len() > 8 && bytes.windows(2).all(|pair| pair[1] == pair[0] + 1))
}

/// A number with a written country code that the country's plan can hold: known code, possible length.
pub(super) fn international(text: &str) -> bool {
    read(text).is_some_and(|written| written.international && possible_abroad(&written))
}

fn possible_abroad(written: &Written) -> bool {
    let digits = written.text();
    if digits.len() < DIGITS_LEAST || trivial(digits) {
        return false;
    }
    (1..=3).any(|split| {
        let Some((code, national)) = digits.split_at_checked(split) else {
            return false;
        };
        let Ok(code) = code.parse::<u16>() else {
            return false;
        };
        code != 0 && plan::under(code).any(|plan| plan.possible(national))
    })
}

/// A national number of any of the common plans, or an international one. Meant for numbers that context words
/// already call a phone number: a local number without area code counts if a plan has such a length.
pub(super) fn any_plan(text: &str) -> bool {
    let Some(written) = read(text) else {
        return false;
    };
    if written.international {
        return possible_abroad(&written);
    }
    let digits = written.text();
    if !(DIGITS_LEAST..=13).contains(&digits.len()) || trivial(digits) || looks_like_date(text) {
        return false;
    }
    // Seven digits are a subscriber number of the North American plan.
    if digits.len() == 7 && !digits.starts_with(['0', '1']) {
        return true;
    }
    REGIONS
        .iter()
        .filter_map(|region| plan::of(region))
        .any(|plan| {
            national_variants(plan, digits)
                .into_iter()
                .flatten()
                .any(|national| plan.valid(national))
        })
}

/// The digits as they are, and without the trunk prefix if one is there.
fn national_variants<'a>(plan: &Plan, digits: &'a str) -> [Option<&'a str>; 2] {
    [
        Some(digits),
        plan.prefix.and_then(|prefix| digits.strip_prefix(prefix)),
    ]
}

/// `2021-03-04`, `04.03.2021`, `2001-2005`, `1870-1930`.
fn looks_like_date(text: &str) -> bool {
    let mut parts = text
        .split(['-', '.', '/', ' '])
        .filter(|part| !part.is_empty());
    let (first, second, third) = (
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
        parts.next(),
    );
    let year = |part: &str| part.len() == 4 && (part.starts_with("19") || part.starts_with("20"));
    let small = |part: &str| part.len() <= 2;
    match third {
        Some(third) => {
            (year(first) && small(second) && small(third))
                || (small(first) && small(second) && year(third))
        }
        // `2001-2005`, and the same or a day without separators: `20012005`, `19990312`.
        None if second.is_empty() => {
            first.len() == 8
                && first.get(..4).is_some_and(year)
                && first
                    .get(4..)
                    .is_some_and(|rest| year(rest) || (rest < "1232" && rest > "0100"))
        }
        None => (year(first) && year(second)) || is_period(first, second),
    }
}

/// Two years of the last millennium or this one, the earlier first: `1870-1930`.
fn is_period(first: &str, second: &str) -> bool {
    let years = |part: &str| part.len() == 4 && ("1000"..="2099").contains(&part);
    years(first) && years(second) && first < second
}

/// A South African mobile number, national or with +27.
pub(super) fn south_african_mobile(text: &str) -> bool {
    south_african(text, true)
}

/// A South African fixed, toll-free or shared-cost number.
pub(super) fn south_african_telephone(text: &str) -> bool {
    south_african(text, false)
}

fn south_african(text: &str, mobile: bool) -> bool {
    let (Some(written), Some(plan)) = (read(text), plan::of("ZA")) else {
        return false;
    };
    let national = if written.international {
        written.text().strip_prefix("27")
    } else {
        written.text().strip_prefix('0')
    };
    national.is_some_and(|national| plan.valid(national) && plan.mobile(national) == mobile)
}

/// Digits only; a written country code is kept, the extension is not.
pub(super) fn canonical(text: &str) -> String {
    match read(text) {
        Some(written) if written.len > 0 => format!(
            "{}{}",
            if written.international { "+" } else { "" },
            written.text()
        ),
        _ => text.chars().filter(char::is_ascii_digit).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn country_codes() {
        for yes in [
            "+1 212-555-0100",
            "+44 20 7946 0958",
            "0044 20 7946 0958",
            "+41 (0)44 668 18 00",
            "+49 (0) 30 901820",
            "011 44 20 7946 0958",
            "+447700 921 916",
            "+1-604-696-5272x565",
        ] {
            assert!(international(yes), "{yes}");
        }
        for no in [
            "+1 212 555",
            "+999 123 4567",
            "+44 20 7946 0958 1234 55",
            "212-555-0100",
            "+00000000000",
            "+0 212 555 0100",
        ] {
            assert!(!international(no), "{no}");
        }
    }

    #[test]
    fn national_plans() {
        for yes in [
            "(212) 736-5000",
            "020 7946 0958",
            "030 901820",
            "01 42 68 53 00",
            "467 3395",
            "0489 25 37 29",
            "(08) 8747 6301",
            "98765 43210",
        ] {
            assert!(any_plan(yes), "{yes}");
        }
        for no in [
            "2021-03-04",
            "04.03.2021",
            "2001-2005",
            "1870-1930",
            "19992000",
            "19990312",
            "12345",
            "1111111111",
            "123456789",
            "0000000",
        ] {
            assert!(!any_plan(no), "{no}");
        }
    }

    #[test]
    fn south_africa() {
        assert!(south_african_mobile("082 490 1693") && south_african_mobile("+27 82 490 1693"));
        assert!(
            south_african_telephone("011 978 5313") && !south_african_telephone("082 490 1693")
        );
        assert!(!south_african_mobile("+44 7700 921 916"));
    }

    #[test]
    fn one_spelling() {
        assert_eq!(canonical("+41 (0)44 668 18 00"), "+41446681800");
        assert_eq!(canonical("(212) 736-5000 x12"), "2127365000");
    }
}
