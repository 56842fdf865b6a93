//! Why a record was refused, and where: the whole of a dead letter. Never a byte of the record.

use std::fmt;

use crate::event::SmolStr;

/// Why a record was refused. Few values, so that it can label a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is null (a compacted topic's tombstone): there is nothing to judge.
    Tombstone,
    /// Larger than the source's bound.
    TooLarge,
    /// The value is not UTF-8.
    NotUtf8,
    /// The value is not one JSON object.
    NotJson,
    /// Nested deeper than [`crate::decode::MAX_DEPTH`].
    TooDeep,
    /// Holds U+0000, which Postgres refuses: it would fail the whole batch.
    Nul,
    /// A required field is absent.
    MissingField,
    /// A field stands twice: two readers could see two different events.
    DuplicateField,
    /// A field has another JSON type than the contract says.
    WrongType,
    /// A number, list or string is outside its bounds.
    OutOfRange,
    /// A field of fixed values has another one.
    UnknownValue,
    /// A name is too long, empty or outside its alphabet.
    BadName,
    /// A time or date that is not one.
    BadTime,
    /// Base64 that is not, or of the wrong length.
    BadBase64,
    /// A plain identity, or anything else that is not a pseudonym, in a sealed source.
    UnsealedIdentity,
    /// Text in a sealed source.
    TextInSealed,
    /// A major version of the contract, or of CloudEvents, that this program does not know.
    UnknownVersion,
    /// A CloudEvent whose data is not JSON.
    ContentType,
    /// A CloudEvent without one of its required attributes.
    Envelope,
    /// The signature is missing where it is required, or does not match.
    BadSignature,
    /// The signature names a key that is not configured, and signatures are required.
    UnknownKey,
}

impl Reason {
    /// All reasons, in the order of the enum.
    pub const ALL: [Self; 21] = [
        Self::Tombstone,
        Self::TooLarge,
        Self::NotUtf8,
        Self::NotJson,
        Self::TooDeep,
        Self::Nul,
        Self::MissingField,
        Self::DuplicateField,
        Self::WrongType,
        Self::OutOfRange,
        Self::UnknownValue,
        Self::BadName,
        Self::BadTime,
        Self::BadBase64,
        Self::UnsealedIdentity,
        Self::TextInSealed,
        Self::UnknownVersion,
        Self::ContentType,
        Self::Envelope,
        Self::BadSignature,
        Self::UnknownKey,
    ];

    /// The name in tables, metrics and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::TooDeep => "too_deep",
            Self::Nul => "nul",
            Self::MissingField => "missing_field",
            Self::DuplicateField => "duplicate_field",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::UnknownValue => "unknown_value",
            Self::BadName => "bad_name",
            Self::BadTime => "bad_time",
            Self::BadBase64 => "bad_base64",
            Self::UnsealedIdentity => "unsealed_identity",
            Self::TextInSealed => "text_in_sealed",
            Self::UnknownVersion => "unknown_version",
            Self::ContentType => "content_type",
            Self::Envelope => "envelope",
            Self::BadSignature => "bad_signature",
            Self::UnknownKey => "unknown_key",
        }
    }

    /// What the publisher should do about it, in one clause.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Tombstone => "publish events to a topic that is not compacted",
            Self::TooLarge => "seal before publishing, or send fewer context parts",
            Self::NotUtf8 | Self::NotJson => "publish one JSON object per record, in UTF-8",
            Self::TooDeep => "publish the flat event of event.v1.json",
            Self::Nul => "strip U+0000 before publishing",
            Self::MissingField => "send every required field of event.v1.json",
            Self::DuplicateField => "send each field once",
            Self::WrongType | Self::OutOfRange | Self::UnknownValue => {
                "keep to the types and bounds of event.v1.json"
            }
            Self::BadName => "use 1 to 64 characters of [A-Za-z0-9._:/-] for names",
            Self::BadTime => "send RFC 3339 times in UTC",
            Self::BadBase64 => "send prints as padded base64 of little-endian u64s",
            Self::UnsealedIdentity => {
                "send pseudonyms (`veilwatch seal`), or declare the source trusted"
            }
            Self::TextInSealed => "seal the text first, or declare the source trusted",
            Self::UnknownVersion => "publish version 1, or upgrade this program",
            Self::ContentType => "send CloudEvents data as application/json",
            Self::Envelope => "send specversion, id, source and type with each CloudEvent",
            Self::BadSignature => "sign the value with the gateway's key in header vw-sig",
            Self::UnknownKey => "add the gateway's key to ingest.gateway_keys_file",
        }
    }

    /// Whether a record of a sealed source refused for this may hold text or identities in clear: then
    /// not even a hash of it is kept (the audit chain takes its place and lengths only). What was refused
    /// was not read to its end, so all but an absent value and one too large to be guessed may.
    pub fn hides_bytes(self) -> bool {
        !matches!(self, Self::Tombstone | Self::TooLarge)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that was refused: why and where, never its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why.
    pub reason: Reason,
    /// Which field, in dots and brackets, from names of the contract only (`context[3].hits[0].rule`);
    /// a key that the contract does not know is printed as `*`.
    pub path: Option<SmolStr>,
    /// Byte of the value at or just after which the reason was seen.
    pub byte: Option<u64>,
    /// Size of the value in bytes.
    pub bytes: u64,
    /// Who sent it, where that can be read and, if signatures are asked for, is signed.
    pub origin: Option<Origin>,
}

/// Who sent a refused record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The gateway.
    pub gateway: SmolStr,
    /// Start of the publisher, lane and number: refused is not missing.
    pub place: Option<(SmolStr, u32, u64)>,
}

impl DeadLetter {
    /// A refusal of the record as a whole.
    pub fn whole(reason: Reason, bytes: usize) -> Self {
        Self {
            reason,
            path: None,
            byte: None,
            bytes: bytes as u64,
            origin: None,
        }
    }
}

impl DeadLetter {
    /// Why and where, and what to do about it: the one sentence that every verb prints.
    pub fn tell(&self, remedy: &str) -> String {
        use fmt::Write as _;
        let mut out = self.reason.as_str().to_owned();
        if let Some(p) = &self.path {
            let _ = write!(out, " at {p}");
        }
        if let Some(b) = self.byte {
            let _ = write!(out, ", byte {b}");
        }
        let _ = write!(out, ": {remedy}");
        out
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tell(self.reason.remedy()))
    }
}

impl std::error::Error for DeadLetter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        let mut d = DeadLetter::whole(Reason::MissingField, 13);
        d.path = Some("request.role".into());
        d.byte = Some(12);
        assert_eq!(
            d.to_string(),
            "missing_field at request.role, byte 12: send every required field of event.v1.json"
        );
    }

    #[test]
    fn names_are_distinct_and_low_cardinality() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.iter().all(|n| {
            n.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        }));
    }
}
