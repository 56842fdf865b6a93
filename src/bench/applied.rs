//! How far Postgres is with a topic.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::feed::Progress;
use super::stage::Stage;

/// Watches how far Postgres is with a topic: a thread that asks every 5 ms.
pub(super) struct Applied {
    pub(super) progress: Progress,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Findings on their way: partition, offset, when published.
    pub(super) pending: Arc<Mutex<Vec<(usize, i64, Instant)>>>,
    /// How long each took until it was committed, in milliseconds.
    pub(super) took: Arc<Mutex<Vec<f64>>>,
}

impl Applied {
    pub(super) fn watch(
        stage: &Stage,
        topic: &str,
        runtime: &tokio::runtime::Handle,
    ) -> anyhow::Result<Self> {
        let mut follower = runtime.block_on(async {
            let store = stage.store().await?;
            anyhow::Ok(store.follow(topic).await?)
        })?;
        let progress: Progress = Arc::new((0..64).map(|_| AtomicI64::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let pending: Arc<Mutex<Vec<(usize, i64, Instant)>>> = Arc::default();
        let took: Arc<Mutex<Vec<f64>>> = Arc::default();
        let (p, s, w, t) = (
            progress.clone(),
            stop.clone(),
            pending.clone(),
            took.clone(),
        );
        let runtime = runtime.clone();
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                if let Ok(rows) = runtime.block_on(follower.offsets()) {
                    for (part, next) in rows {
                        if let Some(slot) = usize::try_from(part).ok().and_then(|i| p.get(i)) {
                            slot.store(next, Ordering::Relaxed);
                        }
                    }
                    let mut waiting = w.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut done = t.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.retain(|(part, offset, at)| {
                        let applied = p
                            .get(*part)
                            .is_some_and(|n| n.load(Ordering::Relaxed) > *offset);
                        if applied {
                            done.push(at.elapsed().as_secs_f64() * 1_000.0);
                        }
                        !applied
                    });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // A connection goes back to its pool within a runtime.
            let _within = runtime.enter();
            drop(follower);
        });
        Ok(Self {
            progress,
            stop,
            thread: Some(thread),
            pending,
            took,
        })
    }

    pub(super) fn sum(&self) -> i64 {
        self.progress
            .iter()
            .map(|p| p.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}
