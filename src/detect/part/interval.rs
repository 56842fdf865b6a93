//! Sequence numbers as disjoint inclusive intervals in order.

/// Adds intervals in order to others in order. Only what stands between the first and the last of them is
/// sorted anew.
pub(super) fn append(seen: &mut Vec<(u64, u64)>, more: &[(u64, u64)]) {
    let (Some(first), Some(last)) = (more.first(), more.last()) else {
        return;
    };
    let from = seen.partition_point(|(_, to)| to.saturating_add(1) < first.0);
    let to = seen.partition_point(|(from, _)| *from <= last.1.saturating_add(1));
    let mut between = seen[from..to].to_vec();
    between.extend_from_slice(more);
    unite(&mut between);
    drop(seen.splice(from..to, between));
}

/// Sorts and unites touching intervals.
pub fn unite(v: &mut Vec<(u64, u64)>) {
    v.sort_unstable();
    let mut kept = 0;
    for i in 0..v.len() {
        let (from, to) = v[i];
        if kept > 0 && from <= v[kept - 1].1.saturating_add(1) {
            v[kept - 1].1 = v[kept - 1].1.max(to);
        } else {
            v[kept] = (from, to);
            kept += 1;
        }
    }
    v.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appending_is_uniting() {
        let mut rng = fastrand::Rng::with_seed(8);
        for _ in 0..2_000 {
            let mut some = || {
                let mut v = Vec::new();
                for _ in 0..rng.usize(0..6) {
                    let from = rng.u64(0..30);
                    v.push((from, from + rng.u64(0..4)));
                }
                unite(&mut v);
                v
            };
            let (mut a, b) = (some(), some());
            let mut both = [a.clone(), b.clone()].concat();
            unite(&mut both);
            append(&mut a, &b);
            assert_eq!(a, both);
        }
    }

    #[test]
    fn intervals_unite() {
        let mut v = vec![(5, 7), (0, 1), (2, 3), (7, 9), (11, 11)];
        unite(&mut v);
        assert_eq!(v, vec![(0, 3), (5, 9), (11, 11)]);
    }
}
