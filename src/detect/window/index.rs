//! Where entries of a first-in, first-out list stand: a table of four bytes a place.
//!
//! Open addressing with linear probing; entries are known by their running number, so that nothing
//! moves when the oldest leaves, and removing one closes the gap (no tombstones: a full window
//! removes as often as it adds).

/// No entry.
const EMPTY: u32 = u32::MAX;
/// Running numbers are counted modulo this; far more than a window has entries.
const NUMBERS: u32 = 1 << 31;
/// Places of the first table.
const SMALLEST: usize = 128;

/// Mixes both halves of an entry.
#[expect(
    clippy::cast_possible_truncation,
    reason = "halves are folded together"
)]
pub(super) fn hash(high: u64, low: u64) -> u32 {
    let wide = u128::from(high ^ 0x9e37_79b9_7f4a_7c15) * u128::from(low ^ 0xc2b2_ae3d_27d4_eb4f);
    let folded = (wide >> 64) as u64 ^ wide as u64;
    (folded ^ folded >> 32) as u32
}

/// The table. At most half of its places are taken.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: Vec<u32>,
    /// Number of the oldest entry.
    first: u32,
    len: usize,
}

impl Index {
    /// Whether an entry with this hash is there; `is` compares the one at a position of the list.
    pub(super) fn find(&self, hash: u32, is: impl Fn(usize) -> bool) -> bool {
        if self.slots.is_empty() {
            return false;
        }
        let mut at = self.home(hash);
        loop {
            match self.slots[at] {
                EMPTY => return false,
                n if is(self.position(n)) => return true,
                _ => at = self.next(at),
            }
        }
    }

    /// Whether it must grow before the next entry.
    pub(super) fn is_full(&self) -> bool {
        2 * (self.len + 1) > self.slots.len()
    }

    /// Doubles the table. `hashes`: of all entries, the oldest first.
    pub(super) fn grow(&mut self, hashes: impl Iterator<Item = u32>) {
        let places = (2 * self.slots.len()).max(SMALLEST);
        // The old table goes before the new one comes.
        self.slots = Vec::new();
        self.slots = vec![EMPTY; places];
        self.len = 0;
        for h in hashes {
            self.push(h);
        }
    }

    /// Adds the entry that was put at the list's end.
    pub(super) fn push(&mut self, hash: u32) {
        let mut at = self.home(hash);
        while self.slots[at] != EMPTY {
            at = self.next(at);
        }
        self.slots[at] = self.number(self.len);
        self.len += 1;
    }

    /// Removes the oldest entry, which is still in the list; `hash_of` gives that of a position.
    pub(super) fn pop(&mut self, hash: u32, hash_of: impl Fn(usize) -> u32) {
        let mut hole = self.home(hash);
        while self.slots[hole] != self.first {
            hole = self.next(hole);
        }
        // What stands behind moves up, unless that would bring it before its home.
        let mut at = self.next(hole);
        while self.slots[at] != EMPTY {
            let home = self.home(hash_of(self.position(self.slots[at])));
            let mask = self.slots.len() - 1;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.slots[hole] = EMPTY;
        self.first = self.number(1);
        self.len -= 1;
    }

    /// Bytes that the table takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.slots.len() - 1)
    }
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }
    /// Number of the entry at a position of the list.
    fn number(&self, position: usize) -> u32 {
        // A list has far fewer entries than there are numbers.
        let position = u32::try_from(position).unwrap_or_default();
        self.first.wrapping_add(position) % NUMBERS
    }
    /// Position in the list of an entry.
    fn position(&self, number: u32) -> usize {
        (number.wrapping_sub(self.first) % NUMBERS) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wrap() {
        let mut index = Index {
            first: NUMBERS - 2,
            ..Index::default()
        };
        index.grow(std::iter::empty());
        // Neighbours, so that every removal moves others.
        let hashes = [5, 5, 6, 5, 7, 127, 127, 5];
        for h in hashes {
            index.push(h);
        }
        for gone in 0..hashes.len() {
            for (i, h) in hashes[gone..].iter().enumerate() {
                assert!(index.find(*h, |p| p == i), "{i} after {gone}");
            }
            assert!(!index.find(5, |p| p >= hashes.len() - gone));
            index.pop(hashes[gone], |i| hashes[gone + i]);
        }
        assert!(index.slots.iter().all(|s| *s == EMPTY));
    }
}
