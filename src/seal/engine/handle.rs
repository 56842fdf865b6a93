//! The engine in use, exchangeable while it is used: hot reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::Engine;
use crate::rule::Diagnostic;

/// A shared engine. Readers never wait; whoever holds one keeps it until they let go.
#[derive(Debug)]
pub struct Handle {
    current: ArcSwap<Engine>,
    reloads: AtomicU64,
    refused: AtomicU64,
}

impl Handle {
    /// Starts with an engine.
    pub fn new(engine: Engine) -> Self {
        Self {
            current: ArcSwap::from_pointee(engine),
            reloads: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// The engine now in use.
    pub fn load(&self) -> Arc<Engine> {
        self.current.load_full()
    }

    /// Takes a new engine, or keeps the old one if the rules were refused. Both are counted.
    ///
    /// # Errors
    /// The diagnostics, unchanged.
    pub fn replace(&self, new: Result<Engine, Vec<Diagnostic>>) -> Result<(), Vec<Diagnostic>> {
        match new {
            Ok(engine) => {
                self.current.store(Arc::new(engine));
                self.reloads.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(problems) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(problems)
            }
        }
    }

    /// Sets taken since the start.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Sets refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
