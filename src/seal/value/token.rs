//! Credentials: checksums where a provider publishes one, and the difference between a random token and a name.

use super::shannon_entropy;
use super::tld::is_top_level;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters of the checksum at the end of GitHub's and npm's tokens.
const CHECKSUM_LEN: usize = 6;
/// Bits a character below which a text of 16 characters or more is a word, a path or a padding.
const RANDOM_LEAST: f64 = 3.0;

/// GitHub (2021) and npm tokens: the last six characters are the base-62 CRC-32 of what stands between the prefix
/// and them. Fine-grained tokens (`github_pat_`) have no published checksum and pass.
pub(super) fn github_checksum(text: &str) -> bool {
    if text.starts_with("github_pat_") {
        return true;
    }
    let Some((_, body)) = text.split_once('_') else {
        return false;
    };
    let Some(split) = body
        .len()
        .checked_sub(CHECKSUM_LEN)
        .filter(|&at| body.is_char_boundary(at))
    else {
        return false;
    };
    let (random, check) = body.split_at(split);
    let mut sum = crc32(random.as_bytes());
    let mut expected = [b'0'; CHECKSUM_LEN];
    for place in expected.iter_mut().rev() {
        *place = usize::try_from(sum % 62).map_or(b'0', |at| BASE62[at]);
        sum /= 62;
    }
    expected == check.as_bytes()
}

/// CRC-32 (IEEE, reflected), bit by bit: candidates are short and rare.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            if sum & 1 == 1 {
                sum >> 1 ^ 0xedb8_8320
            } else {
                sum >> 1
            }
        })
    })
}

/// AWS access key ids are base 32 and carry an account number; documentation uses `…EXAMPLE`.
pub(super) fn aws_key_id(text: &str) -> bool {
    text.len() == 20
        && !text.ends_with("EXAMPLE")
        && not_placeholder(text)
        && text.bytes().skip(4).any(|b| b.is_ascii_digit())
}

/// Three Base64url parts of which the first is a JSON object that names an algorithm.
pub(super) fn jwt(text: &str) -> bool {
    use base64::Engine as _;
    let mut parts = text.split('.');
    let (Some(header), Some(payload), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let decode = |part: &str| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(part.trim_end_matches('='))
            .ok()
    };
    let Some(header) = decode(header) else {
        return false;
    };
    let header = String::from_utf8_lossy(&header);
    // An encrypted token has five parts and a payload that is no JSON.
    header.starts_with('{')
        && header.contains("\"alg\"")
        && (header.contains("\"enc\"")
            || decode(payload).is_some_and(|json| json.starts_with(b"{")))
}

/// At least one letter and one digit.
pub(super) fn letters_and_digits(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit()) && text.bytes().any(|b| b.is_ascii_alphabetic())
}

/// Upper- and lower-case letters both occur: identifiers of one case and plain hex do not pass.
pub(super) fn mixed_case(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase()) && text.bytes().any(|b| b.is_ascii_lowercase())
}

/// What a person or a generator would choose as a password: not the word "password" or its like, and letters mixed
/// with digits, symbols or (inside the word) capitals.
pub(super) fn password_like(text: &str) -> bool {
    const WORDS: [&str; 17] = [
        "password",
        "passwd",
        "passphrase",
        "pass",
        "pwd",
        "secret",
        "token",
        "apikey",
        "api_key",
        "api-key",
        "access_token",
        "credentials",
        "authtoken",
        "auth_token",
        "username",
        "yourpass",
        "mypassword",
    ];
    let lower = text.to_ascii_lowercase();
    let symbols = text
        .bytes()
        .any(|b| b.is_ascii_punctuation() && !matches!(b, b'_' | b'-' | b'.'));
    let inner_capitals = text
        .as_bytes()
        .windows(2)
        .filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
        .count();
    let mixed = letters_and_digits(text)
        || (symbols && text.bytes().any(|b| b.is_ascii_alphabetic()))
        || (inner_capitals >= 2 && !camel_words(text));
    mixed
        && !sequence(text)
        && !WORDS.contains(&lower.trim_matches(|c: char| !c.is_ascii_alphabetic()))
}

/// What stands in a header after the scheme: neither words joined by separators nor a host name.
pub(super) fn header_value(text: &str) -> bool {
    !(separated_words(text) || host_name(text) || sequence(text))
}

/// Not what documentation, templates and redaction put where a secret goes.
pub(super) fn not_placeholder(text: &str) -> bool {
    !(repeats(text) || template(text) || PUBLISHED.iter().any(|known| text.contains(known)) || {
        let lower = text.to_ascii_lowercase();
        PLACEHOLDERS.iter().any(|word| lower.contains(word))
    })
}

/// Five equal characters in a row, or more than half of the text is one character.
fn repeats(text: &str) -> bool {
    let bytes = text.as_bytes();
    let run = bytes
        .windows(5)
        .any(|five| five.iter().all(|&b| b == five[0]) && five[0] != b'=' && five[0] != b'A');
    let mut counts = [0usize; 256];
    for &b in bytes {
        counts[usize::from(b)] += 1;
    }
    run || counts
        .iter()
        .any(|&count| count * 2 > bytes.len() && bytes.len() > 4)
}

/// `${VAR}`, `$(command)`, `<value>`, `{{ value }}`, `%VAR%`, `[REDACTED]`, `$VAR`, `process.env.X`.
fn template(text: &str) -> bool {
    [
        "${",
        "$(",
        "{{",
        "}}",
        "<",
        ">",
        "...",
        "***",
        "…",
        "process.env",
        "os.environ",
        "getenv",
        "secrets.",
        "vault.",
        "[^",
        "a-z",
        "A-Z",
        "0-9]",
    ]
    .iter()
    .any(|mark| text.contains(mark))
        || (text.starts_with('$')
            && text[1..]
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && text.bytes().any(|b| b.is_ascii_alphabetic())
            && !text.bytes().any(|b| b.is_ascii_lowercase()))
        || (text.starts_with('%') && text.ends_with('%'))
        || (text.starts_with('[') && text.ends_with(']'))
}

/// Words that stand in for a secret; compared in lower case, as parts.
const PLACEHOLDERS: [&str; 34] = [
    "example",
    "xxxx",
    "placeholder",
    "changeme",
    "change_me",
    "change-me",
    "your_",
    "your-",
    "yourtoken",
    "yourkey",
    "yourpassword",
    "yoursecret",
    "yourapi",
    "my_secret",
    "my-secret",
    "mysecret",
    "insert_",
    "insert-",
    "redacted",
    "dummy",
    "sample",
    "fake_",
    "fake-",
    "foobar",
    "token_here",
    "key_here",
    "_here",
    "-here",
    "todo",
    "undefined",
    "notreal",
    "not-real",
    "tokenhere",
    "keyhere",
];

/// Runs of the keyboard and the alphabet. They give a value away only where no provider's exact shape speaks for
/// it: with the exact length and alphabet of a token, an invented value is told by its entropy.
const SEQUENCES: [&str; 4] = ["abcdefghij", "1234567890", "0123456789", "qwerty"];

/// Holds one of the runs.
fn sequence(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    SEQUENCES.iter().any(|run| lower.contains(run))
}

/// Beginnings of credentials that providers print in their own documentation or ship inside public programs.
const PUBLISHED: [&str; 35] = [
    "IOSFODNN7",
    "wJalrXUtnFEMI",
    "SyAnLA7NfeLqu",
    "SyCkEhVjf3pdu",
    "SyDMAScliyLx7",
    "SyD3asb-2pEZV",
    "SyAdOS2zB6NCs",
    "SyASWm6HmTMdY",
    "SyANUvH9H9Bsu",
    "SyANUvH9H9BsU",
    "SyA5_iVawFQ8A",
    "SyA4UrcGxgwQF",
    "SyDSb51JiIcB6",
    "SyBF2RrAIm4a0",
    "SyBcE-OOIbhjy",
    "SyB8qGxt4ec15",
    "SyA8vmApnrHNF",
    "4eC39HqLyjWDar",
    "6fe4476ee5a18",
    "TYooMQauvdEDq",
    "9Cnzj4p4WGeKL",
    "eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9l",
    // RFC 7519, RFC 6750, RFC 7617 in both spellings, `user:pass` and `username:password`.
    "eyJpc3MiOiJqb2UiLA0K",
    "mF_9.B5f-4.1JqM",
    "QWxhZGRpbjp",
    "dXNlcjpwYXNz",
    "dXNlcm5hbWU6cGFzc3dvcmQ",
    // The storage and database emulators of Azure have one key everywhere.
    "Eby8vdM02xNOcqFl",
    "C2y6yDjf5/R+ob0N",
    // AWS, Stripe, Slack, Telegram and SendGrid in their guides.
    "je7MtGbClwBF/2Zp",
    "BQokikJOvBiI2Hl",
    "17653672481-19874698323",
    "AAHdqTcvCH1vGWJxf",
    "ABC-DEF1234ghIkl",
    "ngeVfQFYQlKU0ufo8x5d1A",
];

/// Looks drawn at random: letters and digits mixed, high entropy, no placeholder, no words joined by separators.
pub(super) fn random_looking(text: &str) -> bool {
    letters_and_digits(text)
        && not_placeholder(text)
        && !sequence(text)
        && shannon_entropy(text) >= RANDOM_LEAST
        && !(separated_words(text) || camel_words(text) || hex_identifier(text) || host_name(text))
}

/// `some_long_name_v2`, `org.package.Class1`, `path/to/file3`: most pieces between separators are words or small numbers.
fn separated_words(text: &str) -> bool {
    let pieces = text
        .split(['_', '-', '.', '/', ':', ',', '(', ')', ' '])
        .filter(|piece| !piece.is_empty());
    let (mut plain, mut total) = (0usize, 0usize);
    for piece in pieces {
        total += piece.len();
        let letters = piece.bytes().filter(u8::is_ascii_alphabetic).count();
        let wordy = letters == piece.len() && one_case(piece) && pronounceable(piece);
        let numbered = letters > 2
            && piece.bytes().skip(letters).all(|b| b.is_ascii_digit())
            && piece.len() - letters <= 2
            && one_case(&piece[..letters])
            && pronounceable(piece);
        let number = letters == 0 && piece.len() <= 4;
        if wordy || numbered || number {
            plain += piece.len();
        }
    }
    plain * 10 > total * 6
}

/// `getUserAccessTokenV2`, `SalesResults1`: runs of letters that alternate vowels and consonants, few digits.
fn camel_words(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let symbols = text.bytes().filter(|b| !b.is_ascii_alphanumeric()).count();
    let switches = text
        .as_bytes()
        .windows(2)
        .filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
        .count();
    digits * 8 <= text.len()
        && symbols * 8 <= text.len()
        && switches * 5 <= text.len()
        && pronounceable(text)
}

/// Upper case only, lower case only, or one capital in front.
fn one_case(text: &str) -> bool {
    let rest = &text.as_bytes()[1..];
    !rest.iter().any(u8::is_ascii_uppercase) || !text.bytes().any(|b| b.is_ascii_lowercase())
}

/// Vowels make between an eighth and two thirds of the letters, and no five consonants follow each other.
fn pronounceable(text: &str) -> bool {
    let (mut letters, mut vowels, mut run, mut longest) = (0usize, 0usize, 0usize, 0usize);
    for b in text.bytes().map(|b| b.to_ascii_lowercase()) {
        if matches!(b, b'a' | b'e' | b'i' | b'o' | b'u' | b'y') {
            vowels += 1;
            letters += 1;
            run = 0;
        } else if b.is_ascii_alphabetic() {
            letters += 1;
            run += 1;
            longest = longest.max(run);
        } else {
            run = 0;
        }
    }
    letters > 0 && longest < 5 && vowels * 8 >= letters && vowels * 3 <= letters * 2
}

/// UUIDs name things; a credential that is a UUID needs its provider's rule.
fn hex_identifier(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| {
            if matches!(at, 8 | 13 | 18 | 23) {
                b == b'-'
            } else {
                b.is_ascii_hexdigit()
            }
        })
}

/// `db1.api.example.com`: the last label is a top-level domain.
fn host_name(text: &str) -> bool {
    text.rsplit_once('.').is_some_and(|(head, top)| {
        is_top_level(top)
            && head
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_github_tokens() {
        // The CRC-32 of the check string of the standard.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let random = "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ";
        let mut sum = crc32(random.as_bytes());
        let mut check = String::new();
        for _ in 0..CHECKSUM_LEN {
            check.insert(0, char::from(BASE62[usize::try_from(sum % 62).unwrap()]));
            sum /= 62;
        }
        let token = format!("{}{random}{check}", "ghp_");
        assert!(github_checksum(&token));
        let wrong = token.replacen('z', "y", 1);
        assert!(!github_checksum(&wrong));
        assert!(!github_checksum("ghp_short"));
    }

    #[test]
    fn random_or_named() {
        for yes in [
            "Zf3D0LXCM3EIMbgJpUNnkRtOfOueHznB",
            "9f86d081884c7d659a2feaa0c55ad015",
            "q8X2-vR7_kL0pZw3Tn5B",
            "yqDVtkqPECriaLRi7",
            "k3yA9fQ2mZ7xW1cR",
        ] {
            assert!(random_looking(yes), "{yes}");
        }
        for no in [
            "NEXUS-GPT4-API-KEY",
            "X25519.secret_length",
            "lb1.api.f4ke.com",
            "someVariableName2",
            "org.neo4j.graphdb-api",
            "your_token_1234",
            "29f63271-dc2f-4734-8221-5b31b5169bac",
            "aaaaaaaaaaaaaaaaaaaaaaa1",
            "${SECRET_KEY_1}",
            "password123example",
            "abcdefghijklmnop123",
            "sha256sum",
        ] {
            assert!(!random_looking(no), "{no}");
        }
    }

    #[test]
    fn tokens_with_structure() {
        assert!(jwt(concat!(
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
            ".eyJjb25maWRlbmNlIjowLjh9.",
            "kvRPfjAhLhtRTczoRgctVGp7KY1QVH3UBZM-gM0x8ec"
        )));
        assert!(!jwt("eyJhbGciOi.eyJj.x") && !jwt("abc.def.ghi"));
        assert!(!aws_key_id("AKIAIOSFODNN7EXAMPLE") && aws_key_id("AKIALALEMEL33243OLIB"));
        assert!(
            !not_placeholder("xoxb-xxxxxxxxx-xxxx")
                && !not_placeholder("<your token>")
                && not_placeholder("d2LkV78zLx!t")
        );
    }
}
