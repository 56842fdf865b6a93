//! Addresses of machines and people: IP, MAC, e-mail, URL, UUID.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::tld::is_top_level;

/// Longest domain name (RFC 1035) and its longest label.
const DOMAIN_LONGEST: usize = 253;
const LABEL_LONGEST: usize = 63;
/// Longest local part of an address (RFC 5321).
const LOCAL_LONGEST: usize = 64;

/// IPv4 or IPv6. Dotted quads that read like version numbers (all parts below 10, or 0 first) are refused, and so
/// are IPv6 shapes that times and `::` in code produce.
pub(super) fn ip(text: &str) -> bool {
    if text.contains(':') {
        let text = text.split(['%', '/']).next().unwrap_or(text);
        // An embedded dotted quad counts as two groups; `::` alone or `a::b` in code has too few digits.
        let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
        let numeric = text.bytes().any(|b| b.is_ascii_digit());
        return text.parse::<Ipv6Addr>().is_ok()
            && (text == "::1"
                || (digits >= 4
                    && numeric
                    && text.matches(':').count() >= 2
                    && !reads_like_code(text)));
    }
    let Ok(address) = text.parse::<Ipv4Addr>() else {
        return false;
    };
    let parts = address.octets();
    let version_like = parts.iter().all(|&part| part < 10)
        && !(parts[0] == parts[1] && parts[1] == parts[2] && parts[2] == parts[3]);
    // Loopback and network masks stand in every manual and identify nobody.
    let nobody = address.is_loopback() || parts[0] == 255;
    parts[0] != 0
        && !nobody
        && !version_like
        && !(parts[1] == 0 && parts[2] == 0 && parts[3] == 0 && parts[0] < 10)
}

/// `std::abc`-like paths of hex letters, or a time such as `12::30`.
fn reads_like_code(text: &str) -> bool {
    text.contains("::")
        && text.matches(':').count() == 2
        && text.split("::").all(|side| side.len() <= 3)
}

/// Six octets with one kind of separator, not all equal.
pub(super) fn mac(text: &str) -> bool {
    let mut digits = [0u8; 12];
    let mut len = 0;
    let mut separator = None;
    for byte in text.bytes() {
        if byte.is_ascii_hexdigit() {
            if len == digits.len() {
                return false;
            }
            digits[len] = byte.to_ascii_lowercase();
            len += 1;
        } else if !matches!(byte, b':' | b'-' | b'.')
            || separator.is_some_and(|known| known != byte)
        {
            return false;
        } else {
            separator = Some(byte);
        }
    }
    len == digits.len() && !digits.windows(2).all(|pair| pair[0] == pair[1])
}

/// A UUID in its hyphenated form, neither nil nor one digit repeated.
pub(super) fn uuid(text: &str) -> bool {
    let mut groups = text.split('-').map(str::len);
    let shape = [8, 4, 4, 4, 12]
        .iter()
        .all(|&len| groups.next() == Some(len))
        && groups.next().is_none();
    let mut digits = text.bytes().filter(|&b| b != b'-');
    let first = digits.next();
    shape
        && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
        && digits.any(|digit| Some(digit) != first)
}

/// An address with a local part that RFC 5321 allows unquoted and a domain under a delegated top level.
pub(super) fn email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let local_ok = !local.is_empty()
        && local.len() <= LOCAL_LONGEST
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && !local.contains('@');
    local_ok && domain_name(domain)
}

/// A domain name of at least two labels whose last one is delegated; international labels are accepted as written.
fn domain_name(domain: &str) -> bool {
    let Some((head, top)) = domain.rsplit_once('.') else {
        return false;
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_LONGEST
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    domain.len() <= DOMAIN_LONGEST
        && head.split('.').all(label)
        && (is_top_level(top) || (!top.is_ascii() && label(top)))
}

/// A URL with a scheme (host, address or `localhost`), or a bare name that begins with `www.` or ends in a path.
pub(super) fn url(text: &str) -> bool {
    let (scheme, rest) = text
        .split_once("://")
        .map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    domain_name(host) || (scheme.is_some() && host.parse::<Ipv4Addr>().is_ok())
}

/// Host in lower case, without scheme, `www.` and a lone trailing slash: one spelling for one site.
pub(super) fn canonical_url(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(split);
    let host = host.to_lowercase();
    let host = host.strip_prefix("www.").unwrap_or(&host);
    format!("{host}{}", if path == "/" { "" } else { path })
}

/// The form that the standard library prints; unparsable text is lower-cased.
pub(super) fn canonical_ip(text: &str) -> String {
    let bare = text.split(['%', '/']).next().unwrap_or(text);
    bare.parse::<IpAddr>()
        .map_or_else(|_| bare.to_ascii_lowercase(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_versions() {
        for yes in [
            "192.168.0.1",
            "8.8.8.8",
            "106.31.73.20",
            "2001:db8::1",
            "6e40:4041:c617:e898:c11:40d2:c669:2eb4",
            "fe80::1ff:fe23:4567:890a%eth2",
            "::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(ip(yes), "{yes}");
        }
        for no in [
            "256.1.1.1",
            "127.0.0.1",
            "255.255.255.0",
            "1.2.3.4",
            "4.0.0.0",
            "0.1.2.3",
            "192.168.0",
            "1.2.3.4.5",
            "192.168.01.1",
            "::",
            "12:30:45",
            "ab::cd",
            "2001:db8::1::2",
            "gggg::1",
        ] {
            assert!(!ip(no), "{no}");
        }
    }

    #[test]
    fn mail_and_urls() {
        for yes in [
            "jane@example.com",
            "o'neil+tag@mail.example.co.uk",
            "J.D@ex-ample.museum",
            "info@münchen.de",
        ] {
            assert!(email(yes), "{yes}");
        }
        for no in [
            "jane@example",
            "jane@example.c0m",
            "@example.com",
            "jane@-example.com",
            ".jane@example.com",
            "ja..ne@example.com",
            "jane@example.method",
            "a@b@c.com",
        ] {
            assert!(!email(no), "{no}");
        }
        for yes in [
            "https://www.example.com/",
            "http://Example.com.br",
            "www.example.org/path?q=1",
            "https://10.1.2.3:8080/x",
            "https://user@example.com/",
        ] {
            assert!(url(yes), "{yes}");
        }
        for no in [
            "http://localhost",
            "https://",
            "www.file.txt",
            "http://a..com",
            "foo.method",
        ] {
            assert!(!url(no), "{no}");
        }
        assert_eq!(
            canonical_url("https://www.Example.com/"),
            canonical_url("http://example.com")
        );
    }

    #[test]
    fn hardware_and_uuids() {
        assert!(mac("00:1B:44:11:3A:B7") && mac("00-1b-44-11-3a-b7") && mac("001b.4411.3ab7"));
        assert!(
            !mac("00:1B:44:11:3A")
                && !mac("00:1B-44:11:3A:B7")
                && !mac("00:00:00:00:00:00")
                && !mac("00:1B:44:11:3A:G7")
        );
        assert!(uuid("123e4567-e89b-12d3-a456-426614174000"));
        assert!(
            !uuid("00000000-0000-0000-0000-000000000000")
                && !uuid("123e4567-e89b-12d3-a456-42661417400")
        );
    }
}
