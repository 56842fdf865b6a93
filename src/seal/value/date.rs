//! Calendar checks without a clock: ids carry birth dates, and impossible ones give near misses away.

/// Whether the day exists; `year` in full (leap years count), `month` and `day` from 1.
pub(super) fn exists(year: u32, month: u32, day: u32) -> bool {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=last).contains(&day)
}

/// Two-digit year: whether the day exists in either century, since the id does not say which.
pub(super) fn exists_short(year: u32, month: u32, day: u32) -> bool {
    exists(1900 + year, month, day) || exists(2000 + year, month, day)
}

/// The number of two digits.
pub(super) fn two(digits: &[u8]) -> u32 {
    u32::from(digits[0]) * 10 + u32::from(digits[1])
}

/// A written date in any order of numbers or with an English month name; rejects impossible days.
pub(super) fn written_date(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let mut numbers = [0u32; 3];
    let mut count = 0;
    for part in lower
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .take(3)
    {
        let Ok(n) = part.parse::<u32>() else {
            return false;
        };
        numbers[count] = n;
        count += 1;
    }
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    if let Some(month) = (1u32..)
        .zip(MONTHS)
        .find(|(_, name)| lower.contains(name))
        .map(|(month, _)| month)
    {
        let (day, year) = if numbers[0] > 31 {
            (numbers[1], numbers[0])
        } else {
            (numbers[0], numbers[1])
        };
        return count >= 2 && exists(if year < 100 { 2000 + year } else { year }, month, day);
    }
    if count < 3 {
        return false;
    }
    let [a, b, c] = numbers;
    let long = |year: u32| if year < 100 { 2000 + year } else { year };
    if a > 31 {
        return (1000..3000).contains(&a) && exists(a, b, c);
    }
    let year_ok = c < 100 || (1000..3000).contains(&c);
    year_ok && (exists(long(c), a, b) || exists(long(c), b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar() {
        assert!(exists(2000, 2, 29));
        assert!(!exists(1900, 2, 29));
        assert!(!exists(2023, 4, 31));
        assert!(exists_short(0, 2, 29));
    }

    #[test]
    fn written_forms() {
        for yes in [
            "1/14/1961",
            "14/1/1961",
            "1970-09-29",
            "29.02.2024",
            "Jan 5, 1990",
            "5 March 1990",
            "12/31/99",
        ] {
            assert!(written_date(yes), "{yes}");
        }
        for no in ["13/13/1961", "2023-02-30", "1/2", "0/1/1990", "99/99/9999"] {
            assert!(!written_date(no), "{no}");
        }
    }
}
