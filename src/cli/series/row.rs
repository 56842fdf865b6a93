//! One line of a series' CSV. Each line is a record of its own: a stray quote costs its line and no other.

use std::borrow::Cow;

use crate::event::{SmolStr, Time};

/// Longest line in bytes: a time, a key and a number take a hundredth of it, and a thousand are buffered.
pub(super) const MAX_LINE: usize = 64 * 1024;
/// Longest key in bytes; a million of them are kept.
const MAX_KEY: usize = 1_024;
/// Largest value either way: sums of squares of it still are finite.
const MAX_VALUE: f64 = 1e30;
/// The key of the lines that speak of all keys.
pub(super) const ALL: &str = "*";

/// A data line, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Number in the file, from 1.
    pub(super) line: u64,
    /// As it stands there.
    pub(super) timestamp: String,
    /// What it means.
    pub(super) time: Time,
    /// Empty where the series has none.
    pub(super) key: SmolStr,
    /// Finite.
    pub(super) value: f64,
}

/// The columns that a file must have.
pub(super) fn columns(keyed: bool) -> &'static [&'static str] {
    if keyed {
        &["timestamp", "key", "value"]
    } else {
        &["timestamp", "value"]
    }
}

/// Whether a line is the header.
pub(super) fn is_header(line: &str, keyed: bool) -> bool {
    fields(line).is_some_and(|f| f == columns(keyed))
}

/// Reads a data line. The error quotes nothing of it.
pub(super) fn parse(number: u64, line: &str, keyed: bool) -> Result<Row, &'static str> {
    let fields = fields(line).ok_or("a quote is not closed; double it or remove it")?;
    let (timestamp, key, value) = match (keyed, fields.as_slice()) {
        (false, [timestamp, value]) => (timestamp, "", value),
        (true, [timestamp, key, value]) => (timestamp, &**key, value),
        (false, _) => return Err("two fields are expected: timestamp,value"),
        (true, _) => return Err("three fields are expected: timestamp,key,value"),
    };
    if key == ALL {
        return Err("the key * stands for all keys together; rename it");
    }
    if key.len() > MAX_KEY {
        return Err("key is longer than 1,024 bytes; shorten it");
    }
    let time = time_of(timestamp)
        .ok_or("timestamp is not RFC 3339, `YYYY-MM-DD HH:MM:SS`, `YYYY-MM-DD` or integer seconds; write one of these")?;
    let number_of = |s: &str| s.parse::<f64>().ok().filter(|v| v.is_finite());
    let value = number_of(value)
        .ok_or("value is not a finite number; write one such as 12.5, or leave the row out")?;
    if value.abs() > MAX_VALUE {
        return Err("value is beyond 1e30; write it in a larger unit");
    }
    Ok(Row {
        line: number,
        timestamp: timestamp.to_string(),
        time,
        key: SmolStr::new(key),
        value,
    })
}

/// The fields of a line without the blanks around them; None if a quote is not closed.
fn fields(line: &str) -> Option<Vec<Cow<'_, str>>> {
    let mut out = Vec::with_capacity(3);
    let mut rest = line;
    loop {
        let (field, after) = match rest.trim_start().strip_prefix('"') {
            Some(inner) => {
                let (field, after) = unquote(inner)?;
                let after = after.trim_start();
                // What follows a closing quote other than a comma makes the quote a stray one.
                if !after.is_empty() && !after.starts_with(',') {
                    return None;
                }
                (field, after.strip_prefix(','))
            }
            None => match rest.split_once(',') {
                Some((field, after)) => (Cow::Borrowed(field.trim()), Some(after)),
                None => (Cow::Borrowed(rest.trim()), None),
            },
        };
        out.push(field);
        match after {
            Some(after) => rest = after,
            None => return Some(out),
        }
    }
}

/// What stands before the closing quote, and what after it.
fn unquote(inner: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut from = 0;
    loop {
        let at = from + inner[from..].find('"')?;
        if inner[at + 1..].starts_with('"') {
            from = at + 2;
            continue;
        }
        let text = inner[..at].trim();
        let text = if text.contains('"') {
            Cow::Owned(text.replace("\"\"", "\""))
        } else {
            Cow::Borrowed(text)
        };
        return Some((text, &inner[at + 1..]));
    }
}

fn time_of(s: &str) -> Option<Time> {
    if let Ok(seconds) = s.parse::<i64>() {
        return seconds.checked_mul(1_000).map(Time);
    }
    // As spreadsheets and Python write it: a blank for the `T`, no zone (UTC is meant), no clock.
    Time::parse_rfc3339(s).or_else(|| {
        let (day, clock) = s.split_once([' ', 'T']).unwrap_or((s, "00:00:00"));
        Time::parse_rfc3339(&format!("{day}T{clock}Z"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_as_csv() {
        let split = |s| fields(s).map(|f| f.iter().map(ToString::to_string).collect::<Vec<_>>());
        let list = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(split("a, b ,c"), list(&["a", "b", "c"]));
        assert_eq!(split(r#" "a,b" , "c ""d""""#), list(&["a,b", "c \"d\""]));
        assert_eq!(split(""), list(&[""]));
        assert_eq!(split("a,"), list(&["a", ""]));
        assert_eq!(split(r#"a"b,c"#), list(&["a\"b", "c"]));
        for stray in [r#""a,b"#, r#"1,"2"3,4"#, r#"1,""#] {
            assert_eq!(split(stray), None, "{stray}");
        }
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let wrong = |line: &str| parse(2, line, true).expect_err("wrong");
        assert!(wrong("1,*,3").contains("all keys"));
        assert!(wrong(r#"1,"*",3"#).contains("all keys"));
        assert!(wrong("1,k").contains("three fields"));
        assert!(wrong("1,k,NaN").contains("finite"));
        assert!(wrong("1,k,1e31").contains("1e30"));
        assert!(wrong("soon,k,1").contains("timestamp"));
        assert!(wrong(&format!("1,{},1", "k".repeat(1_025))).contains("1,024"));
        let row = parse(7, " 1700000000 , \"a,b\", 2.5", true).expect("row");
        assert_eq!((row.line, &*row.key, row.value), (7, "a,b", 2.5));
    }
}
