//! A running poll thread, as others hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How the poll thread ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// It cannot go on.
    Failed(String),
}

/// A running poll thread.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Ended>,
}

impl Handle {
    pub(in crate::ingest) fn new(
        stop: Arc<AtomicBool>,
        thread: std::thread::JoinHandle<Ended>,
    ) -> Self {
        Self { stop, thread }
    }
    /// Asks the thread to drain and leave the group.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
    /// Waits for the end.
    pub fn join(self) -> Ended {
        self.thread
            .join()
            .unwrap_or_else(|_| Ended::Failed("the poll thread panicked".into()))
    }
}
