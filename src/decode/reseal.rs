//! The pure part of the Kafka→Kafka seal job: a raw record in, sealed bytes and their key out.
//!
//! The key is the user, so that one user's events share a partition. Sequence fields are kept as they
//! came. A record delivered again gives the same id, and within the window below nothing at all; what
//! slips past it is a duplicate that the monitor recognises by the same id and sequence.

use std::collections::{BTreeSet, VecDeque};

use super::{DeadLetter, Decoder, RawRecord, encode};
use crate::event::{Event, Hash16, hash16};

/// Ids remembered per partition: those of the last minutes, as many as the monitor remembers.
pub const MAX_SEEN: usize = 65_536;

/// A sealed record, ready to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Kafka key: the user, else the API key, else the gateway.
    pub key: String,
    /// Kafka value: canonical JSON, at most 64 KiB.
    pub value: String,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// To be published.
    Publish(Sealed),
    /// The same event was published a moment ago.
    Duplicate,
    /// Cannot be sealed.
    Refused(DeadLetter),
}

/// Seals the records of one partition.
pub struct Resealer {
    decoder: Decoder,
    order: VecDeque<Hash16>,
    seen: BTreeSet<Hash16>,
}

impl Resealer {
    /// With the decoder of a trusted source.
    pub fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            order: VecDeque::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Seals one record.
    pub fn seal(&mut self, r: &RawRecord<'_>) -> Outcome {
        let event = match self.decoder.decode(r) {
            Ok(e) => e,
            Err(d) => return Outcome::Refused(d),
        };
        // With its number where it has one, as the monitor tells events apart: an id may be the caller's.
        let place = event.place().map(|(boot, seq)| (boot.as_bytes(), seq));
        let (boot, seq) = place.unwrap_or_default();
        let id = hash16(
            "reseal",
            &[
                event.gateway.as_bytes(),
                event.id.as_bytes(),
                boot,
                &event.lane.to_le_bytes(),
                &seq.to_le_bytes(),
            ],
        );
        if !self.seen.insert(id) {
            return Outcome::Duplicate;
        }
        self.order.push_back(id);
        if self.order.len() > MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        Outcome::Publish(Sealed {
            key: partition_key(&event),
            value: encode::to_json(&event),
        })
    }
}

/// The Kafka key of an event.
pub fn partition_key(e: &Event) -> String {
    match (&e.user, &e.api_key) {
        (Some(user), _) => user.to_string(),
        (None, Some(k)) => k.id.to_string(),
        (None, None) => e.gateway.to_string(),
    }
}
