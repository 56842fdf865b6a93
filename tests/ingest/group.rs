//! The group moves: a member whose poll starves, a partition that is added.

use super::*;

#[test]
fn f07_a_starved_poll_leaves_the_group_rejoins_and_loses_nothing() {
    let broker = embedded(2);
    publish(&broker, 0, &small(40));
    publish(&broker, 1, &small(30));
    let memory = Arc::new(Memory::default());
    *memory.1.lock().expect("time") = Duration::from_secs(9);
    let assigned = || {
        veilwatch::telemetry::metrics()
            .rebalances
            .value(&["assign"])
    };
    let before = assigned();
    let b = start(broker, memory, |c| {
        c.max_poll_interval = Duration::from_secs(6);
    });
    let saw = b.work(|s| records(s) >= 70);
    assert_eq!(records(&saw), 70, "each once: {saw:?}");
    publish(&b.broker, 1, &small(5));
    assert_eq!(records(&b.work(|s| records(s) >= 5)), 5);
    assert!(assigned() >= before + 2, "left and rejoined");
    assert_eq!(b.stop().1, Ended::Stopped);
}

/// Only on the real broker, where one is named: the embedded one adds no partitions.
#[test]
fn f13_an_added_partition_starts_at_its_earliest_record() {
    use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
    use rdkafka::client::DefaultClientContext;
    const GROWS: &str = "grows";
    let Some(broker) = real(GROWS, "1", &[]) else {
        return;
    };
    publish_to(&broker, GROWS, 0, &small(5));
    let b = start(broker, Arc::default(), on(GROWS));
    b.work(|s| records(s) == 5);
    let admin: AdminClient<DefaultClientContext> =
        config(&b.broker).client().create().expect("admin");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let added = runtime.block_on(admin.create_partitions(
        &[NewPartitions::new(GROWS, 2)],
        &AdminOptions::new().request_timeout(Some(Duration::from_secs(20))),
    ));
    assert!(added.expect("asked").iter().all(Result::is_ok));
    // At once, before the group has heard of it.
    publish_to(&b.broker, GROWS, 1, &small(7));
    let saw = b.work(|s| s.iter().any(|s| matches!(s, Saw::Records(1, ..))));
    let first = saw.iter().find(|s| matches!(s, Saw::Records(1, ..)));
    assert!(matches!(first, Some(Saw::Records(1, 0, ..))), "{saw:?}");
    b.stop();
}
