//! What the poll thread, the callbacks and the watching thread of the relay share.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::RelayConfig;
use super::place::Part;
use crate::ingest::ask::Asker;
use crate::telemetry::{Health, metrics};

/// What the poll thread, the callbacks and the watching thread share.
pub(super) struct Shared {
    pub(super) config: RelayConfig,
    pub(super) health: Health,
    pub(super) asker: Asker,
    pub(super) state: Mutex<State>,
    pub(super) fatal: Mutex<Option<String>>,
    pub(super) oversize: AtomicBool,
    pub(super) look: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) parts: Vec<Part>,
    /// Counts assignments: a report from before the last one counts for nothing.
    pub(super) epoch: u64,
    /// Partitions assigned since the maker was told.
    pub(super) begun: Vec<i32>,
    pub(super) in_flight: usize,
    pub(super) bytes: usize,
    /// Made records that the topic does not take: (epoch, partition, offset, bytes).
    pub(super) refused: Vec<Place>,
    /// When a report came last, or nothing was waited for.
    pub(super) reported: Option<Instant>,
}

/// What a delivery report is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) epoch: u64,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) bytes: usize,
    pub(super) dead: bool,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, why: String) {
        let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.get_or_insert(why);
    }

    pub(super) fn failure(&self) -> Option<String> {
        let fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.clone()
    }

    pub(super) fn topic(&self) -> &str {
        self.config
            .from
            .topics
            .first()
            .map_or("", |t| t.name.as_str())
    }

    /// A delivery report.
    pub(super) fn report(&self, place: Place, result: Result<(), &KafkaError>) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        state.bytes = state.bytes.saturating_sub(place.bytes);
        state.reported = Some(Instant::now());
        match result {
            Ok(()) => {
                if !place.dead {
                    metrics().seal_records.inc(&["published"]);
                }
                state.done(place);
            }
            Err(e) => match e.rdkafka_error_code() {
                // We are stopping: it is read again.
                Some(Code::PurgeQueue | Code::PurgeInflight) => {}
                Some(Code::MessageSizeTooLarge) if !place.dead => state.refused.push(place),
                _ => {
                    let topic = if place.dead {
                        &self.config.dead
                    } else {
                        &self.config.to
                    };
                    self.fail(format!("kafka does not take a record for topic {topic}: {e}; check the topic and the right to write to it"));
                }
            },
        }
    }
}

impl State {
    pub(super) fn part(&mut self, partition: i32) -> Option<&mut Part> {
        self.parts.iter_mut().find(|p| p.tp.partition == partition)
    }

    pub(super) fn done(&mut self, place: Place) {
        if place.epoch == self.epoch
            && let Some(p) = self.part(place.partition)
        {
            p.done(place.offset);
        }
    }
}
