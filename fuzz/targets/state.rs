//! Stored detector state of any bytes: refused, or restored so that writing it again is stable.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use veilwatch::detect::user::UserState;
use veilwatch::detect::{DetectConfig, Leader, PartitionState, leader, partition};
use veilwatch_fuzz::Bound;

const BOUND: Bound = Bound {
    loads: 20_000,
    loads_floor: 4_000_000,
    memory: 4_000,
    memory_floor: 16 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let config = Arc::new(DetectConfig::default());
    BOUND.hold(data.len(), || match first % 3 {
        0 => {
            if let Ok(mut s) = PartitionState::restore(Arc::clone(&config), partition::FORMAT, bytes) {
                let (once, _) = s.checkpoint(0);
                let mut again = PartitionState::restore(config, once.fmt, &once.bytes).expect("written by us");
                assert_eq!(again.checkpoint(0).0.bytes, once.bytes);
            }
        }
        1 => {
            if let Ok(l) = Leader::restore(Arc::clone(&config), leader::FORMAT, bytes) {
                let once = l.checkpoint();
                let again = Leader::restore(config, once.fmt, &once.bytes).expect("written by us");
                assert_eq!(again.checkpoint().bytes, once.bytes);
            }
        }
        _ => {
            if let Ok(u) = UserState::decode(0, bytes) {
                let once = u.encode();
                let again = UserState::decode(0, &once).expect("written by us");
                assert_eq!(again.encode(), once);
            }
        }
    });
});
