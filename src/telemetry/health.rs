//! Is the process alive, is it ready, and what does it use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A component that has not reported for so long is not alive. The poll thread reports every
/// 100 ms and a claim may hold it for at most half of `max.poll.interval.ms` (60 s).
const STALE: Duration = Duration::from_secs(90);

/// State of one component.
#[derive(Debug, Clone)]
pub struct Component {
    /// Whether it can do its work now.
    pub ready: bool,
    /// One line for the reader of `/readyz`.
    pub detail: String,
    beat: Instant,
}

/// The health of all components, shared.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Component>>>);

impl Health {
    /// Sets a component's state and its heartbeat.
    pub fn set(&self, name: &str, ready: bool, detail: impl Into<String>) {
        let c = Component {
            ready,
            detail: detail.into(),
            beat: Instant::now(),
        };
        self.lock().insert(name.to_owned(), c);
    }

    /// A component's heartbeat without a change of state.
    pub fn beat(&self, name: &str) {
        if let Some(c) = self.lock().get_mut(name) {
            c.beat = Instant::now();
        }
    }

    /// Every component as it is now.
    pub fn components(&self) -> BTreeMap<String, Component> {
        self.lock().clone()
    }

    /// How long ago a component reported last; `None` for one that never did.
    pub fn age(&self, name: &str) -> Option<Duration> {
        self.lock().get(name).map(|c| c.beat.elapsed())
    }

    /// Forgets a component, such as a halted partition that was skipped.
    pub fn clear(&self, name: &str) {
        self.lock().remove(name);
    }

    /// `(ok, lines)` of `/livez`: alive unless a component's heartbeat stopped.
    pub fn live(&self) -> (bool, String) {
        let all = self.lock();
        let stale: Vec<&str> = all
            .iter()
            .filter(|(_, c)| c.beat.elapsed() > STALE && c.ready)
            .map(|(n, _)| n.as_str())
            .collect();
        if stale.is_empty() {
            (true, "ok\n".into())
        } else {
            (false, format!("no heartbeat: {}\n", stale.join(", ")))
        }
    }

    /// `(ok, lines)` of `/readyz`: ready if every component is.
    pub fn ready(&self) -> (bool, String) {
        let all = self.lock();
        let ok = !all.is_empty() && all.values().all(|c| c.ready);
        let mut text = String::new();
        for (name, c) in all.iter() {
            let mark = if c.ready { "ok" } else { "not ready" };
            text.push_str(&format!("{name}: {mark}: {}\n", c.detail));
        }
        if all.is_empty() {
            text.push_str("starting\n");
        }
        (ok, text)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Component>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What the process uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Resident memory in bytes; 0 where the system does not say.
    pub resident_bytes: u64,
}

/// CPU time and resident memory of this process. Zero where `/proc` is missing.
pub fn process() -> Process {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = Duration::new(
        u64::try_from(t.tv_sec).unwrap_or(0),
        u32::try_from(t.tv_nsec).unwrap_or(0),
    );
    let resident_bytes = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|s| s.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0)
        .saturating_mul(u64::try_from(rustix::param::page_size()).unwrap_or(4096));
    Process {
        cpu,
        resident_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_every_component() {
        let h = Health::default();
        assert!(!h.ready().0);
        h.set("kafka", true, "4 partitions");
        assert!(h.ready().0);
        h.set("postgres", false, "connection refused");
        let (ok, text) = h.ready();
        assert!(!ok);
        assert!(
            text.contains("postgres: not ready: connection refused"),
            "{text}"
        );
        assert!(h.live().0);
    }

    #[test]
    fn process_uses_something() {
        assert!(process().cpu > Duration::ZERO);
    }
}
