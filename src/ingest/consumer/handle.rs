//! A running poll thread, as others hold it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long closing a client is waited for.
const CLOSE: Duration = Duration::from_secs(3);

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

/// Closes clients. Dropping one can hang, so a thread of its own does it and the process may end before that.
pub(in crate::ingest) fn close_aside(close: impl FnOnce() + Send + 'static) {
    let (done, waiting) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("close".into())
        .spawn(move || {
            close();
            let _ = done.send(());
        });
    if spawned.is_ok() && waiting.recv_timeout(CLOSE).is_err() {
        tracing::warn!("the kafka client did not close in time");
    }
}
