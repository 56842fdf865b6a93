//! Sketches on the short way, and parts of the context.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::super::MAX_LONG;
use super::super::super::name::{self, BASE64, NAME};
use super::cursor::{Cursor, once};
use crate::event::{
    Features, Hit, Kid, MAX_HITS, MAX_PRINTS, MAX_VALUES, Part, Role, Sketch, SmolStr,
};

impl Cursor<'_> {
    pub(super) fn part(&mut self) -> Option<Part> {
        let (mut role, mut source) = (None, None);
        let (sketch, alone) = self.sketch(Some((&mut role, &mut source)))?;
        let digest = sketch.digest;
        Some(Part {
            role: role?,
            source,
            digest,
            sketch: (!alone).then_some(sketch),
        })
    }

    /// A sketch, and whether it holds nothing but its digest. Only a part of the context has a role
    /// and a source.
    pub(super) fn sketch(
        &mut self,
        mut of_part: Option<(&mut Option<Role>, &mut Option<u32>)>,
    ) -> Option<(Sketch, bool)> {
        let mut s = Sketch::default();
        let mut kid = None;
        let mut seen = 0u64;
        self.object(|c, key| {
            match key {
                b"digest" => {
                    once(&mut seen, 0)?;
                    s.digest = Some(c.pseudonym()?);
                }
                b"kid" => {
                    once(&mut seen, 3)?;
                    kid = Some(Kid::parse(c.string(NAME)?)?);
                }
                b"bytes" => {
                    once(&mut seen, 4)?;
                    s.bytes = c.int(MAX_LONG)?;
                }
                b"chars" => {
                    once(&mut seen, 5)?;
                    s.chars = c.int(MAX_LONG)?;
                }
                b"words" => {
                    once(&mut seen, 6)?;
                    s.words = c.int(MAX_LONG)?;
                }
                b"ruleset" => {
                    once(&mut seen, 7)?;
                    s.ruleset = Some(c.name()?);
                }
                b"hits" => {
                    once(&mut seen, 8)?;
                    s.hits = c.array(MAX_HITS, Self::hit)?;
                }
                b"score" => {
                    once(&mut seen, 9)?;
                    c.score(&mut s.injection)?;
                }
                b"prints" => {
                    once(&mut seen, 10)?;
                    s.prints = c.prints()?;
                }
                b"features" => {
                    once(&mut seen, 11)?;
                    s.features = c.features()?;
                }
                b"role" => {
                    once(&mut seen, 1)?;
                    *of_part.as_mut()?.0 = Some(match c.string(NAME)? {
                        "system" => Role::System,
                        "user" => Role::User,
                        "assistant" => Role::Assistant,
                        "tool" => Role::Tool,
                        "document" => Role::Document,
                        _ => return None,
                    });
                }
                b"source" => {
                    once(&mut seen, 2)?;
                    *of_part.as_mut()?.1 = Some(c.u32()?);
                }
                _ => return None,
            }
            Some(())
        })?;
        /// `prints` needs `kid`.
        const PRINTS: u64 = 1 << 10;
        if seen & PRINTS != 0 && kid.is_none() {
            return None;
        }
        s.kid = kid.or(s.digest.map(|d| d.kid)).unwrap_or_default();
        let alone = s.digest.is_some() && seen >> 3 == 0;
        Some((s, alone))
    }

    fn hit(&mut self) -> Option<Hit> {
        let (mut rule, mut n, mut values) = (None, 1, Vec::new());
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"rule" => {
                    once(&mut seen, 0)?;
                    rule = Some(c.name()?);
                }
                b"n" => {
                    once(&mut seen, 1)?;
                    n = c.u32()?;
                }
                b"values" => {
                    once(&mut seen, 2)?;
                    values = c.array(MAX_VALUES, Self::pseudonym)?;
                }
                _ => return None,
            }
            Some(())
        })?;
        Some(Hit {
            rule: rule?,
            n,
            values,
        })
    }

    fn score(&mut self, injection: &mut Option<f32>) -> Option<()> {
        let mut seen = 0;
        self.object(|c, key| {
            if key != b"injection" {
                return None;
            }
            once(&mut seen, 0)?;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "0 to 1: only precision is lost"
            )]
            let score = c.float(1.0)? as f32;
            *injection = Some(score);
            Some(())
        })
    }

    fn prints(&mut self) -> Option<Vec<u64>> {
        // As many as a request may have; longer ones of responses go the long way.
        let mut buf = [0u8; MAX_PRINTS * 8 + 3];
        let p = self.string(BASE64)?;
        if p.len() > (MAX_PRINTS * 8).div_ceil(3) * 4 {
            return None;
        }
        let n = STANDARD.decode_slice(p.as_bytes(), &mut buf).ok()?;
        let (prints, rest) = buf.get(..n)?.as_chunks::<8>();
        rest.is_empty()
            .then(|| prints.iter().map(|b| u64::from_le_bytes(*b)).collect())
    }

    fn features(&mut self) -> Option<Features> {
        let mut f = Features::default();
        let mut seen = 0;
        self.object(|c, key| {
            match key {
                b"control" => {
                    once(&mut seen, 0)?;
                    f.control = c.u32()?;
                }
                b"invisible" => {
                    once(&mut seen, 1)?;
                    f.invisible = c.u32()?;
                }
                b"mixed_script" => {
                    once(&mut seen, 2)?;
                    f.mixed_script = c.bool()?;
                }
                b"encoded" => {
                    once(&mut seen, 3)?;
                    f.encoded = c.u32()?;
                }
                b"entropy" => {
                    once(&mut seen, 4)?;
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "0 to 8: only precision is lost"
                    )]
                    {
                        f.entropy = c.float(8.0)? as f32;
                    }
                }
                b"lang" => {
                    once(&mut seen, 5)?;
                    let s = c.string(NAME)?;
                    f.lang = Some(name::is_lang(s).then(|| SmolStr::new(s))?);
                }
                _ => return None,
            }
            Some(())
        })?;
        Some(f)
    }
}
