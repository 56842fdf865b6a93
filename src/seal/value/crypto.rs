//! Cryptocurrency addresses by their own checksums: Base58Check (legacy) and Bech32/Bech32m (SegWit).

use sha2::{Digest, Sha256};

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BECH32: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// The final constant of Bech32m (BIP-350); Bech32 (BIP-173) ends in 1.
const BECH32M: u32 = 0x2bc8_30a3;
/// Version, 20-byte hash, 4-byte checksum.
const ADDRESS_BYTES: usize = 25;
/// Bound of BIP-173.
const BECH32_LONGEST: usize = 90;

/// Either form, told apart by the prefix.
pub(super) fn address(text: &str) -> bool {
    if text.get(..3).is_some_and(|head| {
        head.eq_ignore_ascii_case("bc1")
            || head.eq_ignore_ascii_case("tb1")
            || head.eq_ignore_ascii_case("ltc")
    }) {
        bech32(text)
    } else {
        base58check(text)
    }
}

/// A Base58 string of 25 bytes whose last four are the double SHA-256 of the rest.
pub(super) fn base58check(text: &str) -> bool {
    let mut bytes = [0u8; ADDRESS_BYTES];
    for c in text.bytes() {
        let Some(at) = BASE58.iter().position(|&known| known == c) else {
            return false;
        };
        let mut carry = u32::try_from(at).unwrap_or(0);
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            let [low, ..] = carry.to_le_bytes();
            *byte = low;
            carry >>= 8;
        }
        if carry != 0 {
            return false;
        }
    }
    // Each leading '1' stands for one leading zero byte, no more and no fewer.
    let ones = text.bytes().take_while(|&c| c == b'1').count();
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    let (payload, check) = bytes.split_at(ADDRESS_BYTES - 4);
    ones == zeros && Sha256::digest(Sha256::digest(payload)).as_slice()[..4] == *check
}

/// A Bech32 or Bech32m string in one case whose checksum holds.
pub(super) fn bech32(text: &str) -> bool {
    if text.len() > BECH32_LONGEST || !text.is_ascii() {
        return false;
    }
    let (upper, lower) = (
        text.bytes().any(|c| c.is_ascii_uppercase()),
        text.bytes().any(|c| c.is_ascii_lowercase()),
    );
    let Some(split) = text.rfind('1') else {
        return false;
    };
    if (upper && lower) || split == 0 || text.len() < split + 7 {
        return false;
    }
    let step = |sum: u32, value: u32| {
        const GENERATOR: [u32; 5] = [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3,
        ];
        let top = sum >> 25;
        GENERATOR
            .iter()
            .enumerate()
            .filter(|(bit, _)| top >> bit & 1 == 1)
            .fold((sum & 0x01ff_ffff) << 5 ^ value, |sum, (_, generator)| {
                sum ^ generator
            })
    };
    let prefix = || {
        text[..split]
            .bytes()
            .map(|c| u32::from(c.to_ascii_lowercase()))
    };
    let mut sum = prefix().fold(1, |sum, c| step(sum, c >> 5));
    sum = step(sum, 0);
    sum = prefix().fold(sum, |sum, c| step(sum, c & 31));
    for c in text[split + 1..].bytes() {
        let Some(at) = BECH32
            .iter()
            .position(|&known| known == c.to_ascii_lowercase())
        else {
            return false;
        };
        sum = step(sum, u32::try_from(at).unwrap_or(0));
    }
    sum == 1 || sum == BECH32M
}

/// Bech32 ignores case; Base58 does not.
pub(super) fn canonical(text: &str) -> String {
    if bech32(text) {
        text.to_ascii_lowercase()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_addresses_pass() {
        for yes in [
            "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ",
            "3EktnHQD7RiAE6uzMj2ZifT9YgRrkSgzQX",
            "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
            "bc1p5d7rjq7g6rdk2yhzks9smlaqtedr4dekq08ge8ztwac72sfr9rusxg3297",
            "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
        ] {
            assert!(address(yes), "{yes}");
        }
    }

    #[test]
    fn one_changed_character_fails() {
        for no in [
            "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyY",
            "3EktnHQD7RiAE6uzMj2ZifT9YgRrkSgzQY",
            "11A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5",
            "bc1Qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
            "1",
            "bc1",
        ] {
            assert!(!address(no), "{no}");
        }
    }
}
