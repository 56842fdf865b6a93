//! Canonical forms of identities before they are keyed, so that one identity has one pseudonym.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use zeroize::Zeroizing;

use super::key::Domain;

/// The canonical form of an identity: NFC and trimmed, e-mails lower-cased; networks as RFC 5952 with
/// IPv6 cut to /64; arguments as RFC 8785.
pub fn identity(domain: Domain, value: &str) -> Zeroizing<String> {
    Zeroizing::new(match domain {
        Domain::Net => net(value),
        Domain::Args => json(value).unwrap_or_else(|| plain(value).into_owned()),
        Domain::User | Domain::Key | Domain::Session => {
            let v = plain(value);
            if is_email(&v) {
                v.to_lowercase()
            } else {
                v.into_owned()
            }
        }
        Domain::Source | Domain::Name | Domain::Value => plain(value).into_owned(),
    })
}

fn plain(value: &str) -> Cow<'_, str> {
    let v = value.trim();
    if is_nfc_quick(v.chars()) == IsNormalized::Yes {
        Cow::Borrowed(v)
    } else {
        Cow::Owned(v.nfc().collect())
    }
}

/// `local@domain` without spaces: enough to decide on the case of an identity.
fn is_email(v: &str) -> bool {
    v.split_once('@')
        .is_some_and(|(l, d)| !l.is_empty() && d.contains('.') && !v.contains(char::is_whitespace))
}

fn net(value: &str) -> String {
    let v = value.trim().trim_start_matches('[');
    let v = v.split(['%', ']']).next().unwrap_or(v);
    match v.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => a.to_string(),
        Ok(IpAddr::V6(a)) => match a.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None => {
                let [a, b, c, d, ..] = a.segments();
                std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
            }
        },
        Err(_) => plain(value).into_owned(),
    }
}

/// RFC 8785 of a JSON text, or `None` if it is not JSON.
pub fn json(text: &str) -> Option<String> {
    let v: serde_json::Value = serde_json::from_str(text).ok()?;
    let mut out = String::with_capacity(text.len());
    write_json(&v, &mut out);
    Some(out)
}

fn write_json(v: &serde_json::Value, out: &mut String) {
    use serde_json::Value;
    match v {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&number(n.as_f64().unwrap_or_default())),
        Value::String(s) => string(s, out),
        Value::Array(a) => {
            out.push('[');
            for (i, v) in a.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json(v, out);
            }
            out.push(']');
        }
        Value::Object(m) => {
            // Keys sort by UTF-16 units, which differs from bytes beyond the basic plane.
            let mut keys: Vec<_> = m.iter().collect();
            keys.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
            out.push('{');
            for (i, (k, v)) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                string(k, out);
                out.push(':');
                write_json(v, out);
            }
            out.push('}');
        }
    }
}

fn string(s: &str, out: &mut String) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number as ECMAScript prints it (RFC 8785 §3.2.2.3): the shortest digits, an exponent from 10²¹
/// and below 10⁻⁶.
fn number(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let s = format!("{x:e}");
    let (mantissa, exp) = s.split_once('e').unwrap_or((&s, "0"));
    let exp: i32 = exp.parse().unwrap_or_default();
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |m| ("-", m));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let k = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let n = exp + 1;
    let at = |i: i32| usize::try_from(i).unwrap_or_default();
    let body = if (k..=21).contains(&n) {
        digits.clone() + &"0".repeat(at(n - k))
    } else if (1..=21).contains(&n) {
        format!("{}.{}", &digits[..at(n)], &digits[at(n)..])
    } else if (-5..=0).contains(&n) {
        format!("0.{}{digits}", "0".repeat(at(-n)))
    } else {
        let e = n - 1;
        let e = if e > 0 {
            format!("+{e}")
        } else {
            e.to_string()
        };
        if k == 1 {
            format!("{digits}e{e}")
        } else {
            format!("{}.{}e{e}", &digits[..1], &digits[1..])
        }
    };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_8785_numbers() {
        for (x, s) in [
            (0.0, "0"),
            (-0.0, "0"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (9007199254740992.0, "9007199254740992"),
            (1e21, "1e+21"),
            (1e20, "100000000000000000000"),
            (333333333.3333333, "333333333.3333333"),
            (0.000001, "0.000001"),
            (0.0000001, "1e-7"),
            (-1.5, "-1.5"),
            (4.5, "4.5"),
            (2e-3, "0.002"),
        ] {
            assert_eq!(number(x), s);
        }
    }

    #[test]
    fn rfc_8785_objects() {
        let input = r#"{ "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false] }"#;
        let expected = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(json(input).as_deref(), Some(expected));
        let sorted = "{\"\u{1f600}\":2,\"\u{fb33}\":1}";
        assert_eq!(
            json("{\"\\ufb33\":1,\"\\ud83d\\ude00\":2}").as_deref(),
            Some(sorted)
        );
    }

    #[test]
    fn networks() {
        for (a, b) in [
            ("192.168.1.7", "192.168.1.7"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("[2001:db8:1:2:3::4]", "2001:db8:1:2::"),
            ("fe80::1%eth0", "fe80::"),
            (" host-7 ", "host-7"),
        ] {
            assert_eq!(*identity(Domain::Net, a), b);
        }
    }
}
