//! Plain leaves of many records at once.
//!
//! One leaf is a chain of some fifteen compressions that wait for each other; the vector units of one
//! core work on up to sixteen such chains in the time of one. The records are sorted by their number
//! of whole blocks, so that those hashed together have equally long chains. The crate offers this step
//! only behind its documented functions; the tests hold the result against them for every length.

use blake3::IncrementCounter;
use blake3::platform::Platform;

use super::{Link, NULL_LEN, leaf, len};

/// Bytes of a block.
const BLOCK: usize = 64;
/// Bytes of a chunk: longer records are hashed one by one.
const CHUNK: usize = 1024;
/// Most chains that any vector unit works on at once.
const LANES: usize = 16;
/// The start of every chain, as BLAKE3 has it.
const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const ROOT: u8 = 8;

/// A record that waits for its leaf.
#[derive(Clone, Copy)]
struct Waiting {
    /// Where its leaf belongs.
    at: usize,
    /// Length of its message in bytes.
    len: usize,
}

/// Records on their way, by number of whole blocks before the last.
pub struct Lanes {
    platform: Platform,
    queues: [Vec<Waiting>; CHUNK / BLOCK],
    /// The messages of each queue, one chunk a place.
    messages: Vec<u8>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            platform: Platform::detect(),
            queues: std::array::from_fn(|_| Vec::with_capacity(LANES)),
            messages: vec![0; CHUNK / BLOCK * LANES * CHUNK],
        }
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}

impl Lanes {
    /// Forgets records whose batch was given up.
    pub fn clear(&mut self) {
        self.queues.iter_mut().for_each(Vec::clear);
    }

    /// Takes a record; its leaf, which equals [`leaf`], stands in `out[at]` after [`Lanes::finish`].
    pub fn push(
        &mut self,
        at: usize,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        out: &mut [Link],
    ) {
        let (k, v) = (key.unwrap_or_default(), value.unwrap_or_default());
        let size = 16 + k.len() + v.len();
        if size > CHUNK {
            if let Some(to) = out.get_mut(at) {
                *to = leaf(offset, key, value);
            }
            return;
        }
        let whole = (size - 1) / BLOCK;
        let place = (whole * LANES + self.queues[whole].len()) * CHUNK;
        let message = &mut self.messages[place..place + CHUNK];
        let (head, rest) = message.split_at_mut(12 + k.len());
        head[..8].copy_from_slice(&offset.to_le_bytes());
        head[8..12].copy_from_slice(&len(key).to_le_bytes());
        head[12..].copy_from_slice(k);
        rest[..4].copy_from_slice(&len(value).to_le_bytes());
        rest[4..4 + v.len()].copy_from_slice(v);
        // The last block is padded with zeros; the place may hold an older message.
        let padded = (whole + 1) * BLOCK - (12 + k.len());
        rest[4 + v.len()..padded].fill(0);
        debug_assert!(len(None) == NULL_LEN);
        self.queues[whole].push(Waiting { at, len: size });
        if self.queues[whole].len() == LANES {
            self.hash(whole, out);
        }
    }

    /// Hashes what still waits.
    pub fn finish(&mut self, out: &mut [Link]) {
        for whole in 0..self.queues.len() {
            self.hash(whole, out);
        }
    }

    fn hash(&mut self, whole: usize, out: &mut [Link]) {
        let n = self.queues[whole].len();
        if n == 0 {
            return;
        }
        let from = whole * LANES * CHUNK;
        let messages = &self.messages[from..from + n * CHUNK];
        let mut chains = [0u8; LANES * 32];
        let chains = &mut chains[..n * 32];
        let p = self.platform;
        match whole {
            0 => {}
            1 => many::<64>(p, messages, chains),
            2 => many::<128>(p, messages, chains),
            3 => many::<192>(p, messages, chains),
            4 => many::<256>(p, messages, chains),
            5 => many::<320>(p, messages, chains),
            6 => many::<384>(p, messages, chains),
            7 => many::<448>(p, messages, chains),
            8 => many::<512>(p, messages, chains),
            9 => many::<576>(p, messages, chains),
            10 => many::<640>(p, messages, chains),
            11 => many::<704>(p, messages, chains),
            12 => many::<768>(p, messages, chains),
            13 => many::<832>(p, messages, chains),
            14 => many::<896>(p, messages, chains),
            _ => many::<960>(p, messages, chains),
        }
        for (i, w) in self.queues[whole].drain(..).enumerate() {
            let (mut chain, mut flags) = (IV, CHUNK_END | ROOT);
            if whole == 0 {
                flags |= CHUNK_START;
            } else {
                let (words, _) = chains[i * 32..(i + 1) * 32].as_chunks::<4>();
                for (c, w) in chain.iter_mut().zip(words) {
                    *c = u32::from_le_bytes(*w);
                }
            }
            let last = i * CHUNK + whole * BLOCK;
            let Some(block) = messages[last..].first_chunk::<BLOCK>() else {
                continue;
            };
            let used = u8::try_from(w.len - whole * BLOCK).unwrap_or(0);
            p.compress_in_place(&mut chain, block, used, 0, flags);
            if let Some(to) = out.get_mut(w.at) {
                let (bytes, _) = to.as_chunks_mut::<4>();
                for (to, c) in bytes.iter_mut().zip(chain) {
                    *to = c.to_le_bytes();
                }
            }
        }
    }
}

/// The chains after the first `N` bytes of each message.
fn many<const N: usize>(p: Platform, messages: &[u8], chains: &mut [u8]) {
    let n = messages.len() / CHUNK;
    let mut inputs = [&[0u8; N]; LANES];
    for (to, m) in inputs.iter_mut().zip(messages.chunks_exact(CHUNK)) {
        if let Some(first) = m.first_chunk::<N>() {
            *to = first;
        }
    }
    p.hash_many(
        &inputs[..n],
        &IV,
        0,
        IncrementCounter::No,
        0,
        CHUNK_START,
        0,
        chains,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_equals_the_documented_hash() {
        let value: Vec<u8> = (0..2_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let keys: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"k7:AAAAAAAAAAAAAAAAAAAAAA")];
        let mut lanes = Lanes::default();
        // Mixed lengths, and the lanes are used again and again.
        for step in [1, 7, 64] {
            let records: Vec<(i64, Option<&[u8]>, Option<&[u8]>)> = (0..1_100)
                .map(|n| {
                    let v = &value[..(n * step) % 1_200];
                    let value = if n % 97 == 0 { None } else { Some(v) };
                    (i64::try_from(n).expect("small"), keys[n % 3], value)
                })
                .collect();
            let mut out = vec![[0; 32]; records.len()];
            for (at, (offset, key, value)) in records.iter().enumerate() {
                lanes.push(at, *offset, *key, *value, &mut out);
            }
            lanes.finish(&mut out);
            for ((offset, key, value), got) in records.iter().zip(&out) {
                assert_eq!(*got, leaf(*offset, *key, *value), "{offset} {step}");
            }
        }
    }
}
