//! Text of trusted sources: a string, or the list of parts that chat APIs use. It lives here and in
//! the sealer, wiped when dropped, and nowhere else.

use serde::Deserialize;
use serde_json::value::RawValue;

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
    text: Option<Str<'a>>,
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
            return serde_json::from_str::<Text>(raw).map_err(|_| wrong());
        }
        let pieces: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| wrong())?;
        let mut all = String::with_capacity(raw.len());
        for piece in pieces {
            let piece = piece.get();
            if piece.starts_with('"') {
                let s: Str<'_> = serde_json::from_str(piece).map_err(|_| wrong())?;
                push(&mut all, &s.0);
                continue;
            }
            let Obj(p) = serde_json::from_str::<Obj<Piece<'_>>>(piece).map_err(|_| wrong())?;
            match p.text {
                Some(t) => push(&mut all, &t.0),
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
