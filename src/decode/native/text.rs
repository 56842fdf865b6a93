//! Text of trusted sources: a string, or the list of parts that chat APIs use. It lives here and in
//! the sealer, wiped when dropped, and nowhere else.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::super::reason::Reason;
use super::super::wire::{Obj, Str};
use super::{Bad, Path, Reader, offset_in};
use crate::seal::text::Text;

/// One part of a message: `{"type": "text", "text": "…"}`; other kinds hold no text.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Str<'a>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
}

/// A JSON string. Half of a surrogate pair, which JSON's grammar allows (RFC 8259 §8.2) and every
/// gateway that cuts a stream inside an emoji writes, is read as U+FFFD: a caller must not be able to
/// take a whole event out of the ledgers with one escape.
pub(in super::super) fn string(raw: &str) -> Option<Text> {
    if let Ok(text) = serde_json::from_str::<Text>(raw) {
        return Some(text);
    }
    let Lossy(mut bytes) = serde_json::from_str(raw).ok()?;
    let mut at = 0;
    // serde_json writes a lone surrogate as the three bytes that UTF-8 would have for it, as long as those
    // of the replacement character.
    while let Some(n) = memchr::memchr(0xED, bytes.get(at..)?) {
        at += n;
        if let Some([_, 0xA0..=0xBF, _]) = bytes.get(at..at + 3) {
            bytes[at..at + 3].copy_from_slice("\u{fffd}".as_bytes());
        }
        at += 1;
    }
    // What is not UTF-8 even so is wiped with the error.
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Some(Text::from(text)),
        Err(e) => {
            drop(Zeroizing::new(e.into_bytes()));
            None
        }
    }
}

/// The bytes of a string, surrogates of their own among them.
struct Lossy(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Lossy;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Lossy, E> {
                Ok(Lossy(Zeroizing::new(bytes.to_vec())))
            }
        }
        d.deserialize_bytes(Bytes)
    }
}

impl Reader<'_, '_> {
    /// The text of a `text` field. Parts without text are counted in `unscanned` by their kind.
    pub(super) fn content(&self, path: Path<'_>, raw: &str) -> Result<Text, Bad> {
        let wrong = || Bad {
            reason: Reason::WrongType,
            path: Some(smol_str::format_smolstr!("{path}")),
            byte: offset_in(self.text, raw),
        };
        if raw.starts_with('"') {
            return string(raw).ok_or_else(wrong);
        }
        let pieces: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| wrong())?;
        let mut all = String::with_capacity(raw.len());
        for piece in pieces {
            let piece = piece.get();
            if piece.starts_with('"') {
                push(&mut all, string(piece).ok_or_else(wrong)?.expose());
                continue;
            }
            let Obj(p) = serde_json::from_str::<Obj<Piece<'_>>>(piece).map_err(|_| wrong())?;
            match p.text {
                Some(t) => push(&mut all, string(t.get()).ok_or_else(wrong)?.expose()),
                None => self.left_out(kind(p.kind.as_ref().map_or("", |k| &k.0))),
            }
        }
        Ok(Text::from(all))
    }
}

fn push(all: &mut String, piece: &str) {
    if !all.is_empty() {
        all.push('\n');
    }
    all.push_str(piece);
}

/// The provider's word for a part, as one of few kinds.
fn kind(word: &str) -> &'static str {
    for kind in ["image", "audio", "video", "file", "document"] {
        if word.contains(kind) {
            return kind;
        }
    }
    "other"
}
