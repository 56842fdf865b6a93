//! What the poll thread, the callbacks and the watching thread of the relay share.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::RelayConfig;
use super::place::Part;
use super::writer::Writer;
use crate::ingest::ask::Asker;
use crate::telemetry::Health;

/// What the poll thread, the callbacks and the watching thread share.
pub(super) struct Shared {
    pub(super) config: RelayConfig,
    pub(super) health: Health,
    pub(super) asker: Asker,
    pub(super) state: Mutex<State>,
    /// The poll thread's, and that of the callbacks, which run on it.
    pub(super) writer: Mutex<Option<Writer>>,
    pub(super) fatal: Mutex<Option<String>>,
    pub(super) oversize: AtomicBool,
    pub(super) look: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) parts: Vec<Part>,
    /// Partitions whose reading began anew since the maker was told.
    pub(super) begun: Vec<i32>,
    /// When to begin anew where the group stands; until then nothing is taken.
    pub(super) anew: Option<Instant>,
    /// Since when no transaction was committed though one should have been.
    pub(super) troubled: Option<Instant>,
    /// Records read whose sealed form the topic does not take, by partition and offset, and its size.
    pub(super) too_large: BTreeMap<(i32, i64), usize>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl State {
    pub(super) fn part(&mut self, partition: i32) -> Option<&mut Part> {
        self.parts.iter_mut().find(|p| p.tp.partition == partition)
    }
}
