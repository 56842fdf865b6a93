//! Is the process alive, is it ready, and what does it use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A component that has not reported for so long is not alive. The poll thread reports every
/// 100 ms and a claim may hold it for at most half of `max.poll.interval.ms` (60 s unless configured).
const STALE: Duration = Duration::from_secs(90);

/// State of one component.
#[derive(Debug, Clone)]
pub struct Component {
    /// Whether it can do its work now.
    pub ready: bool,
    /// One line for the reader of `/readyz`.
    pub detail: String,
    beat: Instant,
    /// For how long its last word holds; `None`: until it says something else.
    stale: Option<Duration>,
}

impl Component {
    fn now(ready: bool, detail: impl Into<String>, stale: Option<Duration>) -> Self {
        Self {
            ready,
            detail: detail.into(),
            beat: Instant::now(),
            stale,
        }
    }
}

/// The health of all components, shared.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Component>>>);

impl Health {
    /// Sets the state of a component that reports steadily, and its heartbeat.
    pub fn set(&self, name: &str, ready: bool, detail: impl Into<String>) {
        let mut all = self.lock();
        let stale = all.get(name).map_or(Some(STALE), |c| c.stale);
        all.insert(name.to_owned(), Component::now(ready, detail, stale));
    }

    /// Sets the state of a component that reports only when there is work: silence says nothing of it.
    pub fn set_at_work(&self, name: &str, ready: bool, detail: impl Into<String>) {
        let c = Component::now(ready, detail, None);
        self.lock().insert(name.to_owned(), c);
    }

    /// Gives a component more time between two heartbeats than the usual 90 s, never less.
    pub fn expect_beat_within(&self, name: &str, longest: Duration) {
        if let Some(c) = self.lock().get_mut(name) {
            c.stale = c.stale.map(|stale| stale.max(longest));
        }
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

    /// `(ok, lines)` of `/livez`: alive unless a component's heartbeat stopped.
    pub fn live(&self) -> (bool, String) {
        self.live_at(Instant::now())
    }

    fn live_at(&self, now: Instant) -> (bool, String) {
        let all = self.lock();
        let stopped = |c: &Component| {
            let silent = now.saturating_duration_since(c.beat);
            c.ready && c.stale.is_some_and(|stale| silent > stale)
        };
        let stale = all.iter().filter(|(_, c)| stopped(c));
        let stale: Vec<&str> = stale.map(|(n, _)| n.as_str()).collect();
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
    fn only_a_heart_that_stopped_is_dead() {
        let h = Health::default();
        h.set_at_work("commits", true, "committing");
        h.set("kafka", true, "4 partitions");
        let later = |s| Instant::now() + Duration::from_secs(s);
        assert!(h.live_at(later(80)).0);
        let (ok, text) = h.live_at(later(100));
        assert!(!ok);
        assert_eq!(
            text, "no heartbeat: kafka\n",
            "an idle night commits nothing"
        );
        h.expect_beat_within("kafka", Duration::from_mins(30));
        h.set("kafka", true, "5 partitions");
        assert!(h.live_at(later(1_700)).0);
        // What is not ready says so on `/readyz`; a restart would not mend it.
        h.set("kafka", false, "no broker answers");
        assert!(h.live_at(later(5_000)).0);
    }

    #[test]
    fn process_uses_something() {
        assert!(process().cpu > Duration::ZERO);
    }
}
