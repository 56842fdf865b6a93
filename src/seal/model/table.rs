//! The weights of word n-grams: only those that training kept, each found with one load.
//!
//! A bucket is eight bytes: four tags of one byte and their four weights. Most n-grams of ordinary
//! chat were never seen in training; their tag is not there (save one in 64), and they count nothing.
//! So the table is small enough for a core's own cache, and strangers do not add noise.

use super::gram::Gram;

/// n-grams of one bucket.
pub const PLACES: usize = 4;
/// Bits of a tag.
pub const TAG_BITS: u32 = 8;
/// Buckets that are asked for together.
const LOT: usize = 32;
const ONES: u32 = 0x0101_0101;
const HIGH: u32 = 0x8080_8080;

/// Weights by n-gram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    bits: u32,
    /// Tags in the lower half, weights in the upper.
    buckets: Box<[u64]>,
}

/// The place of an n-gram in a table of `2^bits` buckets: bucket above, tag below. Two n-grams of
/// the same place are one.
#[inline]
pub fn place(gram: &Gram, bits: u32) -> usize {
    gram.bucket(bits + TAG_BITS)
}

impl Table {
    /// A table of `2^bits` buckets with a weight for each place, at most [`PLACES`] in a bucket;
    /// the rest of a fuller bucket is left out.
    pub fn new(bits: u32, weights: impl IntoIterator<Item = (usize, i8)>) -> Self {
        let mut buckets = vec![0_u64; 1 << bits].into_boxed_slice();
        let mut taken = vec![0_usize; 1 << bits];
        for (place, weight) in weights {
            let (bucket, tag) = (place >> TAG_BITS, place & ((1 << TAG_BITS) - 1));
            let at = taken[bucket];
            if at == PLACES || weight == 0 {
                continue;
            }
            taken[bucket] += 1;
            let tag = u64::try_from(tag).unwrap_or(0);
            buckets[bucket] |= tag << (8 * at) | u64::from(weight.cast_unsigned()) << (32 + 8 * at);
        }
        Self { bits, buckets }
    }

    /// log2 of its buckets.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The weight of an n-gram, 0 if it has none.
    #[inline]
    pub fn weight(&self, gram: &Gram) -> i8 {
        let place = place(gram, self.bits);
        weight(self.buckets[place >> TAG_BITS], place)
    }

    /// The weights of some n-grams together. All their buckets are asked for before the first one is
    /// looked at: the table is larger than a near cache, and each load waits alone otherwise.
    pub fn sum(&self, grams: &[Gram]) -> i64 {
        let mut sum = 0;
        let mut found = [0_u64; LOT];
        for lot in grams.chunks(LOT) {
            for (bucket, gram) in found.iter_mut().zip(lot) {
                *bucket = self.buckets[place(gram, self.bits) >> TAG_BITS];
            }
            for (bucket, gram) in found.iter().zip(lot) {
                sum += i64::from(weight(*bucket, place(gram, self.bits)));
            }
        }
        sum
    }

    /// Its bytes, for a file.
    pub fn bytes(&self) -> impl Iterator<Item = u8> {
        self.buckets.iter().flat_map(|b| b.to_le_bytes())
    }

    /// A table from the bytes of a file: eight a bucket.
    pub fn from_bytes(bits: u32, bytes: &[u8]) -> Self {
        let buckets = bytes
            .chunks_exact(8)
            .map(|chunk| {
                let mut raw = [0; 8];
                raw.copy_from_slice(chunk);
                u64::from_le_bytes(raw)
            })
            .collect();
        Self { bits, buckets }
    }
}

/// The weight in a bucket that stands under the tag of a place.
#[inline]
fn weight(bucket: u64, place: usize) -> i8 {
    let tag = u32::try_from(place & ((1 << TAG_BITS) - 1)).unwrap_or(0);
    let (tags, weights) = halves(bucket);
    // A byte of `same` is zero where the tag stands; the lowest such byte is marked exactly.
    let same = tags ^ (tag * ONES);
    let mark = same.wrapping_sub(ONES) & !same & HIGH;
    let at = (u64::from(mark) | 1 << 32).trailing_zeros() & !7;
    let shifted = u64::from(weights) >> at;
    i8::from_le_bytes([shifted.to_le_bytes()[0]])
}

#[inline]
fn halves(bucket: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = bucket.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
mod tests {
    use super::super::gram::Kind;
    use super::*;

    fn gram(place: u64, bits: u32) -> Gram {
        Gram {
            kind: Kind::Pair,
            hash: place << (64 - bits - TAG_BITS),
        }
    }

    #[test]
    fn each_weight_is_found_under_its_place_and_nowhere_else() {
        let bits = 8;
        let weights: Vec<(usize, i8)> = (0..512)
            .map(|i| (i * 127 + 1, if i % 2 == 0 { 100 } else { -128 }))
            .collect();
        let table = Table::new(bits, weights.iter().copied());
        for place in 0..1_usize << 16 {
            let want = weights.iter().find(|w| w.0 == place).map_or(0, |w| w.1);
            let gram = gram(u64::try_from(place).expect("small"), bits);
            assert_eq!(table.weight(&gram), want, "{place}");
        }
        let all: Vec<Gram> = (0..999).map(|place| gram(place * 61, bits)).collect();
        let one_by_one: i64 = all.iter().map(|g| i64::from(table.weight(g))).sum();
        assert_eq!(table.sum(&all), one_by_one);
        let bytes: Vec<u8> = table.bytes().collect();
        assert_eq!(Table::from_bytes(bits, &bytes), table);
    }

    #[test]
    fn a_full_bucket_keeps_the_first() {
        let table = Table::new(8, (0..6).map(|tag| (tag, 7)));
        let found: Vec<i8> = (0..6).map(|tag| table.weight(&gram(tag, 8))).collect();
        assert_eq!(found, [7, 7, 7, 7, 0, 0]);
    }
}
