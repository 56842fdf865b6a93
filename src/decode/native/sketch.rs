//! Sketches and context parts of the native event; in trusted sources their text ends here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::MAX_LONG;
use super::super::reason::Reason;
use super::super::wire::{self, Obj, Str};
use super::{Bad, Path, Reader, Sealing};
use crate::event::{
    Features, Hit, Kid, MAX_HITS, MAX_PARTS, MAX_PRINTS, MAX_RESPONSE_PRINTS, MAX_VALUES, Part,
    Pseudonym, Role, Side, Sketch,
};

impl Reader<'_, '_> {
    pub(super) fn context(
        &self,
        parts: Option<Vec<Obj<wire::Sketch<'_>>>>,
        sources: usize,
    ) -> Result<Vec<Part>, Bad> {
        let parts = parts.unwrap_or_default();
        if parts.len() > MAX_PARTS && self.keys.is_none() {
            return self.bad(Reason::OutOfRange, format_args!("context"), None);
        }
        parts
            .iter()
            .enumerate()
            .map(|(i, Obj(p))| {
                let Some(role) = &p.role else {
                    return self.bad(
                        Reason::MissingField,
                        format_args!("context[{i}].role"),
                        None,
                    );
                };
                let role = match &*role.0 {
                    "system" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    "tool" => Role::Tool,
                    "document" => Role::Document,
                    _ => self.bad(
                        Reason::UnknownValue,
                        format_args!("context[{i}].role"),
                        Some(role),
                    )?,
                };
                let source = match p.source {
                    None => None,
                    some => {
                        let n = self.u32(format_args!("context[{i}].source"), some)?;
                        if usize::try_from(n).is_ok_and(|n| n < sources) {
                            Some(n)
                        } else {
                            self.bad(
                                Reason::OutOfRange,
                                format_args!("context[{i}].source"),
                                None,
                            )?
                        }
                    }
                };
                let sketch = self.sketch(format_args!("context[{i}]"), p, role, Side::Request)?;
                let digest = sketch.digest;
                let alone = digest.is_some() && is_digest_alone(p);
                Ok(Part {
                    role,
                    source,
                    digest,
                    sketch: (!alone).then_some(sketch),
                })
            })
            .collect()
    }

    pub(super) fn sketch(
        &self,
        at: Path<'_>,
        s: &wire::Sketch<'_>,
        role: Role,
        side: Side,
    ) -> Result<Sketch, Bad> {
        if let (Some(raw), Some(sealing)) = (s.text, &self.sealing) {
            let text = self.content(format_args!("{at}.text"), raw.get())?;
            let Sealing {
                sealer, scratch, ..
            } = &mut *sealing.borrow_mut();
            return Ok(sealer.sketch(text.expose(), role, side, scratch));
        }
        for (field, present) in [
            ("text", s.text.is_some()),
            ("content", s.content.is_some()),
            ("messages", s.messages.is_some()),
        ] {
            if present && self.keys.is_some() {
                self.left_out("messages");
            } else if present {
                return self.bad(Reason::TextInSealed, format_args!("{at}.{field}"), None);
            }
        }
        let kid = match &s.kid {
            None => None,
            Some(k) => match Kid::parse(&k.0) {
                Some(kid) => Some(kid),
                None => self.bad(Reason::BadName, format_args!("{at}.kid"), Some(k))?,
            },
        };
        if s.prints.is_some() && kid.is_none() {
            return self.bad(Reason::MissingField, format_args!("{at}.kid"), None);
        }
        let digest = match &s.digest {
            None => None,
            Some(d) => match d.0.parse::<Pseudonym>() {
                Ok(p) => Some(p),
                Err(_) => self.bad(
                    Reason::UnsealedIdentity,
                    format_args!("{at}.digest"),
                    Some(d),
                )?,
            },
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "0 to 1: only precision is lost"
        )]
        let injection = self
            .float(
                format_args!("{at}.score.injection"),
                s.score.as_ref().and_then(|s| s.0.injection),
                1.0,
            )?
            .map(|x| x as f32);
        Ok(Sketch {
            kid: kid.or(digest.map(|d| d.kid)).unwrap_or_default(),
            digest,
            bytes: self.int(format_args!("{at}.bytes"), s.bytes, MAX_LONG)?,
            chars: self.int(format_args!("{at}.chars"), s.chars, MAX_LONG)?,
            words: self.int(format_args!("{at}.words"), s.words, MAX_LONG)?,
            ruleset: self.maybe_name(format_args!("{at}.ruleset"), s.ruleset.as_ref())?,
            hits: self.hits(at, s.hits.as_deref().unwrap_or_default())?,
            injection,
            prints: match &s.prints {
                None => Vec::new(),
                Some(p) => self.prints(format_args!("{at}.prints"), p, side)?,
            },
            features: match &s.features {
                None => Features::default(),
                Some(Obj(f)) => self.features(at, f)?,
            },
        })
    }

    fn hits(&self, at: Path<'_>, hits: &[Obj<wire::Hit<'_>>]) -> Result<Vec<Hit>, Bad> {
        if hits.len() > MAX_HITS {
            return self.bad(Reason::OutOfRange, format_args!("{at}.hits"), None);
        }
        hits.iter()
            .enumerate()
            .map(|(i, Obj(h))| {
                let values = h.values.as_deref().unwrap_or_default();
                if values.len() > MAX_VALUES {
                    return self.bad(
                        Reason::OutOfRange,
                        format_args!("{at}.hits[{i}].values"),
                        None,
                    );
                }
                Ok(Hit {
                    rule: self.name(format_args!("{at}.hits[{i}].rule"), &h.rule)?,
                    n: match h.n {
                        None => 1,
                        n => self.u32(format_args!("{at}.hits[{i}].n"), n)?,
                    },
                    values: values
                        .iter()
                        .enumerate()
                        .map(|(j, v)| {
                            v.0.parse().or_else(|_| {
                                self.bad(
                                    Reason::UnsealedIdentity,
                                    format_args!("{at}.hits[{i}].values[{j}]"),
                                    Some(v),
                                )
                            })
                        })
                        .collect::<Result<_, _>>()?,
                })
            })
            .collect()
    }

    fn prints(&self, path: Path<'_>, p: &Str<'_>, side: Side) -> Result<Vec<u64>, Bad> {
        let max = match side {
            Side::Request => MAX_PRINTS,
            Side::Response => MAX_RESPONSE_PRINTS,
        };
        let mut buf = [0u8; MAX_RESPONSE_PRINTS * 8 + 3];
        // The longest base64 of `max` prints; what is longer is out of range before it is decoded.
        if p.0.len() > (max * 8).div_ceil(3) * 4 {
            return self.bad(Reason::OutOfRange, path, Some(p));
        }
        let Ok(n) = STANDARD.decode_slice(p.0.as_bytes(), &mut buf) else {
            return self.bad(Reason::BadBase64, path, Some(p));
        };
        let (prints, rest) = buf[..n].as_chunks::<8>();
        if !rest.is_empty() {
            return self.bad(Reason::BadBase64, path, Some(p));
        }
        Ok(prints.iter().map(|b| u64::from_le_bytes(*b)).collect())
    }

    fn features(&self, at: Path<'_>, f: &wire::Features<'_>) -> Result<Features, Bad> {
        /// Bits per byte cannot be more.
        const MAX_ENTROPY: f64 = 8.0;
        let entropy = self.float(
            format_args!("{at}.features.entropy"),
            f.entropy,
            MAX_ENTROPY,
        )?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "0 to 8: only precision is lost"
        )]
        let entropy = entropy.unwrap_or_default() as f32;
        Ok(Features {
            control: self.u32(format_args!("{at}.features.control"), f.control)?,
            invisible: self.u32(format_args!("{at}.features.invisible"), f.invisible)?,
            mixed_script: f.mixed_script.unwrap_or(false),
            encoded: self.u32(format_args!("{at}.features.encoded"), f.encoded)?,
            skipped: self.u32(format_args!("{at}.features.skipped"), f.skipped)?,
            entropy,
            lang: f
                .lang
                .as_ref()
                .map(|l| self.lang(format_args!("{at}.features.lang"), l))
                .transpose()?,
        })
    }
}

/// Whether a part holds nothing but its digest: it was sent before in its session.
fn is_digest_alone(p: &wire::Sketch<'_>) -> bool {
    p.kid.is_none()
        && p.bytes.is_none()
        && p.chars.is_none()
        && p.words.is_none()
        && p.ruleset.is_none()
        && p.hits.is_none()
        && p.score.is_none()
        && p.prints.is_none()
        && p.features.is_none()
        && p.text.is_none()
}
