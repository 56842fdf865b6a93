//! Turns records into sealed events, or into dead letters with a reason and a place, never bytes.
//!
//! A source is *sealed* (default: text and plain identities are refused) or *trusted* (they are
//! sealed here, in memory, and go no further). Native JSON is taken bare or as a CloudEvent. What
//! strangers control passes through `place` (depth) and serde into borrowed `wire` types, and
//! `native` checks every bound before an [`Event`] exists.

pub mod audit;
pub mod bare;
pub mod cloudevents;
pub mod encode;
pub mod fit;
pub mod money;
pub mod name;
mod native;
pub mod place;
pub mod reason;
pub mod reseal;
pub mod schema;
pub mod signature;
pub mod wire;

use std::borrow::Cow;
use std::sync::Arc;

pub use encode::to_json;
pub use reason::{DeadLetter, Origin, Reason};

use crate::event::{Event, MAX_SEALED_BYTES, MAX_TRUSTED_BYTES, SmolStr, Time};
use crate::seal::{Scratch, Sealer};
use cloudevents::Wrapping;
use signature::Signatures;

/// Major version of the contract that this program reads and writes.
pub const VERSION: u64 = 1;
/// Deepest nesting of a record. The contract has five levels, CloudEvents adds one; what fields the
/// contract does not know is skipped without recursion, but a bomb is told from an event here.
pub const MAX_DEPTH: usize = 64;
/// Largest integer: what a Postgres `bigint` holds.
pub const MAX_LONG: u64 = i64::MAX as u64;
/// Most tokens of one call in one direction. A thousand times the largest context window; times the
/// dearest price it still fits the i64 of one event's cost.
pub const MAX_TOKENS: u64 = 1_000_000_000;
/// Largest status.
pub const MAX_STATUS: u64 = 999;
/// Most kinds in `unscanned`.
pub const MAX_COUNTS: usize = 64;
/// Events kept to be used again, by all sources of a worker: some 5 MB, less than the batches that it
/// works on hold.
const MAX_SPARE: usize = 4_096;
/// Headers of a record that are looked at; the rest are ignored.
pub const MAX_HEADERS: usize = 64;

/// A record as Kafka, or a file, holds it.
#[derive(Clone, Copy)]
pub struct RawRecord<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Append time.
    pub append: Time,
    /// Key. Never trusted as an identity.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers; the first [`MAX_HEADERS`] are looked at.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// What a source may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Sealed events only: text and plain identities are refused.
    #[default]
    Sealed,
    /// Text and plain identities, sealed inside [`Decoder::decode`].
    Trusted,
}

/// Used events, to be made anew in place: above a kilobyte the allocator's way is long.
#[derive(Debug, Default)]
pub struct Spare(#[expect(clippy::vec_box, reason = "batches hold them so")] Vec<Box<Event>>);

impl Spare {
    /// Takes back events that are no longer needed, as many as are worth keeping.
    pub fn take_back(&mut self, events: impl Iterator<Item = Box<Event>>) {
        let room = MAX_SPARE.saturating_sub(self.0.len());
        self.0.extend(events.take(room));
    }
}

/// Decodes the records of one source.
pub struct Decoder {
    /// Of a trusted source.
    sealer: Option<Arc<Sealer>>,
    scratch: Scratch,
    signatures: Arc<Signatures>,
    /// Identities of a trusted source that are pseudonyms already are taken as such.
    pseudonyms: bool,
    leaf_key: Option<audit::Link>,
    max_bytes: usize,
    spare: Spare,
}

impl Decoder {
    /// For a sealed source.
    pub fn sealed() -> Self {
        Self {
            sealer: None,
            scratch: Scratch::default(),
            signatures: Arc::default(),
            pseudonyms: false,
            leaf_key: None,
            max_bytes: MAX_SEALED_BYTES,
            spare: Spare::default(),
        }
    }

    /// For a trusted source.
    pub fn trusted(sealer: Arc<Sealer>) -> Self {
        Self {
            leaf_key: Some(sealer.keys().active_content().audit_leaf_key()),
            sealer: Some(sealer),
            max_bytes: MAX_TRUSTED_BYTES,
            ..Self::sealed()
        }
    }

    /// Takes identities that are pseudonyms already as such: for files that may hold sealed events beside
    /// raw ones. Never for a topic, where a caller could pass somebody else's pseudonym on.
    #[must_use]
    pub fn taking_pseudonyms(mut self) -> Self {
        self.pseudonyms = true;
        self
    }

    /// Takes larger values: lines of files have a bound of their own.
    #[must_use]
    pub fn with_max_bytes(mut self, max: usize) -> Self {
        self.max_bytes = max;
        self
    }

    /// Checks `vw-sig` against these keys.
    #[must_use]
    pub fn with_signatures(mut self, signatures: Arc<Signatures>) -> Self {
        self.signatures = signatures;
        self
    }

    /// The source's mode.
    pub fn mode(&self) -> Mode {
        if self.sealer.is_some() {
            Mode::Trusted
        } else {
            Mode::Sealed
        }
    }

    /// Largest value that is decoded, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// The record's leaf in the audit chain. `refused` is the reason if it became a dead letter.
    pub fn audit_leaf(&self, r: &RawRecord<'_>, refused: Option<Reason>) -> audit::Link {
        audit::leaf_for(self.leaf_key.as_ref(), refused, r.offset, r.key, r.value)
    }

    /// Whether the record's leaf is the plain one, which [`audit::Lanes`] makes many of at once.
    pub fn has_plain_leaf(&self, refused: Option<Reason>) -> bool {
        self.leaf_key.is_none() && !refused.is_some_and(Reason::hides_bytes)
    }

    /// Changes the used events that new ones are made of for others. Whoever has many decoders lends
    /// all the same ones.
    pub fn swap_spare(&mut self, other: &mut Spare) {
        std::mem::swap(&mut self.spare, other);
    }

    /// Decodes one record.
    ///
    /// # Errors
    /// A [`DeadLetter`] with the reason and the place; never a byte of the record.
    pub fn decode(&mut self, r: &RawRecord<'_>) -> Result<Box<Event>, DeadLetter> {
        self.event(r).map_err(|mut dead| {
            dead.origin = self.origin(&dead, r);
            dead
        })
    }

    /// Who sent a refused record. Whoever did not sign does not speak for a gateway here either: a number
    /// that is named here is not missed.
    #[cold]
    fn origin(&self, dead: &DeadLetter, r: &RawRecord<'_>) -> Option<Origin> {
        if matches!(dead.reason, Reason::BadSignature | Reason::UnknownKey) {
            return None;
        }
        let value = r.value?;
        let keys = self.sealer.as_ref().map(|s| s.keys());
        if dead.reason == Reason::TooLarge {
            // Whether it is signed is not looked at either: all of it would have to be read.
            let origin = native::origin_of_head(value, keys)?;
            let heard = self.signatures.hears_unsigned(&origin.gateway);
            return heard.then_some(origin);
        }
        let signer = self.signatures.check(r.headers, value).ok()?;
        let origin = native::origin(value, keys)?;
        self.signatures
            .speaks_for(signer, &origin.gateway)
            .then_some(origin)
    }

    fn event(&mut self, r: &RawRecord<'_>) -> Result<Box<Event>, DeadLetter> {
        let Some(value) = r.value else {
            return Err(DeadLetter::whole(Reason::Tombstone, 0));
        };
        let whole = |reason| DeadLetter::whole(reason, value.len());
        if value.len() > self.max_bytes() {
            return Err(whole(Reason::TooLarge));
        }
        // A handle of its own: decoding borrows the rest.
        let signatures = Arc::clone(&self.signatures);
        let signer = signatures.check(r.headers, value).map_err(whole)?;
        let wrapping = if r.headers.is_empty() {
            Wrapping::Bare
        } else {
            cloudevents::wrapping(r.headers).map_err(whole)?
        };
        let place = |reason, path, byte: usize| DeadLetter {
            reason,
            path,
            byte: Some(byte as u64),
            bytes: value.len() as u64,
            origin: None,
        };
        let text = std::str::from_utf8(value)
            .map_err(|e| place(Reason::NotUtf8, None, e.valid_up_to()))?;
        if let Some(byte) = place::too_deep(text, MAX_DEPTH) {
            return Err(place(Reason::TooDeep, None, byte));
        }
        let event = match wrapping {
            Wrapping::Structured => self.structured(text),
            Wrapping::Binary => self.native(text),
            Wrapping::Bare => match self.native(text) {
                // A file, or a producer that sets no headers. Only what failed is looked at twice.
                Err(e)
                    if e.reason == Reason::MissingField && cloudevents::looks_structured(text) =>
                {
                    self.structured(text)
                }
                other => other,
            },
        }
        .map_err(|b| DeadLetter {
            reason: b.reason,
            path: b.path,
            byte: b.byte.map(|b| b as u64),
            bytes: value.len() as u64,
            origin: None,
        })?;
        if !signatures.speaks_for(signer, &event.gateway) {
            return Err(DeadLetter {
                path: Some(SmolStr::new_static("gateway")),
                ..whole(Reason::BadSignature)
            });
        }
        Ok(event)
    }

    fn native(&mut self, text: &str) -> Result<Box<Event>, native::Bad> {
        match &self.sealer {
            None => native::decode_sealed(text, &mut self.spare),
            Some(sealer) => native::decode_trusted(
                text,
                native::Sealing {
                    sealer,
                    pseudonyms: self.pseudonyms,
                    scratch: &mut self.scratch,
                },
            ),
        }
    }

    fn structured(&mut self, text: &str) -> Result<Box<Event>, native::Bad> {
        let data = cloudevents::unwrap(text).map_err(|(reason, path, error)| match error {
            Some(e) => native::parse_error(text, &e),
            None => native::Bad {
                reason,
                path: path.map(SmolStr::new_static),
                byte: None,
            },
        })?;
        self.native(&data).map_err(|mut b| {
            b.byte = match &data {
                // Where the data is a slice of the record, its bytes are the record's.
                Cow::Borrowed(d) => b
                    .byte
                    .map(|n| n + native::offset_in(text, d).unwrap_or_default()),
                Cow::Owned(_) => None,
            };
            b.path = Some(match b.path {
                Some(p) => format!("data.{p}").into(),
                None => SmolStr::new_static("data"),
            });
            b
        })
    }
}
