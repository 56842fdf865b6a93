//! Room in the leader's bounded tables: made once a minute for all newcomers together, the longest unused
//! first. One by one, a publisher with a new name per event would cost a walk over the table for each.

use std::collections::BTreeMap;

/// Removes what must go so that `new` more fit into `max`, the lowest `last` first; what `stays` is of this
/// minute and kept. Gives how many went. Where the newcomers alone are too many, the caller leaves some out.
pub(super) fn make<K: Ord + Clone, V>(
    table: &mut BTreeMap<K, V>,
    new: usize,
    max: usize,
    stays: impl Fn(&K) -> bool,
    last: impl Fn(&V) -> i64,
) -> u64 {
    let over = (table.len() + new).saturating_sub(max);
    if over == 0 {
        return 0;
    }
    let mut old: Vec<(i64, &K)> = table
        .iter()
        .filter(|(k, _)| !stays(k))
        .map(|(k, v)| (last(v), k))
        .collect();
    let n = over.min(old.len());
    if n > 0 && n < old.len() {
        old.select_nth_unstable(n - 1);
    }
    let gone: Vec<K> = old[..n].iter().map(|(_, k)| (*k).clone()).collect();
    for k in &gone {
        table.remove(k);
    }
    n as u64
}

/// The entry of a key in a table of at most `max`; `None`, counted, where there is no room.
pub(super) fn entry<'t, K: Ord + Clone, V: Default>(
    table: &'t mut BTreeMap<K, V>,
    key: &K,
    max: usize,
    left_out: &mut u64,
) -> Option<&'t mut V> {
    if table.len() >= max && !table.contains_key(key) {
        *left_out += 1;
        return None;
    }
    Some(table.entry(key.clone()).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_and_those_of_the_minute_stay() {
        let mut t: BTreeMap<u32, i64> = (0..10).map(|k| (k, i64::from(k % 5))).collect();
        // 0 and 5 were last seen at 0, but 0 is of this minute.
        assert_eq!(make(&mut t, 3, 11, |k| *k == 0, |v| *v), 2);
        assert_eq!(
            t.keys().copied().collect::<Vec<_>>(),
            [0, 2, 3, 4, 6, 7, 8, 9]
        );
        assert_eq!(make(&mut t, 3, 11, |_| false, |v| *v), 0);
        // More newcomers than room: everything old goes.
        assert_eq!(make(&mut t, 50, 11, |_| false, |v| *v), 8);
        let mut left_out = 0;
        for k in 100..120 {
            entry(&mut t, &k, 11, &mut left_out);
        }
        assert_eq!((t.len(), left_out), (11, 9));
    }
}
