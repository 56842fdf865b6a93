//! Questions to the brokers beside the relay: how far behind it is, whether it lost its place, which
//! partition holds a record that cannot be fetched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::Shared;
use crate::event::TopicPartition;
use crate::ingest::ask::{self, ASK, Probe};
use crate::ingest::said;
use crate::telemetry::metrics;

/// Pause between two rounds of questions.
const ROUND: Duration = Duration::from_secs(1);
/// How long a suspicion lasts: the client tells the same error once in 30 s.
const SUSPICION: Duration = Duration::from_secs(60);

/// The watching thread's loop.
pub(super) fn watch(shared: &Shared, stop: &AtomicBool) {
    let mut until: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) {
        // Polling serves the callbacks of the client that asks.
        let _ = shared.asker.poll(Duration::ZERO);
        let look = shared.look.swap(false, Ordering::Relaxed);
        let list: Vec<(TopicPartition, i64)> = {
            let state = shared.state();
            state.parts.iter().map(|p| (p.tp.clone(), p.next)).collect()
        };
        let (mut answers, mut lost) = (0, false);
        for (tp, next) in &list {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let marks = shared.asker.fetch_watermarks(&tp.topic, tp.partition, ASK);
            let Ok((low, high)) = marks else { break };
            answers += 1;
            let mut state = shared.state();
            let Some(p) = state.part(tp.partition) else {
                continue;
            };
            p.high = high;
            if p.next >= high {
                p.progress = Instant::now();
            }
            let lag = high.saturating_sub(p.committed).max(0);
            #[expect(clippy::cast_precision_loss, reason = "a gauge of records")]
            metrics()
                .lag
                .set(&[&tp.topic, &tp.partition.to_string()], lag as f64);
            if look && p.next == *next && *next < low {
                p.lost = Some(low);
                lost = true;
            } else if look && p.next == *next && *next > high {
                shared.fail(format!(
                    "{} partition {} ends at {high}, before the offset {next} that is next: the topic was recreated or cut; reset the group's offsets once you know why",
                    tp.topic, tp.partition
                ));
            }
        }
        said::answered(&shared.health, answers, list.len());
        if look && answers < list.len() {
            shared.look.store(true, Ordering::Relaxed);
        } else if look && !lost {
            shared.oversize.store(true, Ordering::Relaxed);
        }
        if shared.oversize.swap(false, Ordering::Relaxed) {
            until = Some(Instant::now() + SUSPICION);
        }
        if until.is_some_and(|u| Instant::now() < u) {
            examine(shared, stop);
        }
        std::thread::sleep(ROUND);
    }
}

/// Reads each partition that is behind and stands still by itself. A record too large to be fetched is
/// far beyond what can be sealed: it becomes a dead letter, and the partition goes on.
fn examine(shared: &Shared, stop: &AtomicBool) {
    let list: Vec<(TopicPartition, i64)> = {
        let state = shared.state();
        let still = state
            .parts
            .iter()
            .filter(|p| p.next < p.high && p.progress.elapsed() >= ROUND);
        still.map(|p| (p.tp.clone(), p.next)).collect()
    };
    for (tp, next) in list {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if ask::probe(&shared.config.from, &tp, next) == Probe::Oversize
            && let Some(p) = shared.state().part(tp.partition).filter(|p| p.next == next)
        {
            p.oversize = Some(next);
        }
    }
}
