//! Whole blocks: base64 (both alphabets, wrapped lines too), base32, hex.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::super::scout::{Counts, stretches};
use super::{Run, hex, readable};

/// Shortest block, in characters: below it words of ordinary text look like one.
const MIN_BLOCK: usize = 16;
/// Lines of wrapped base64 are at least this long.
const MIN_LINE: usize = 40;
/// Characters decoded to see whether a block is worth decoding: a multiple of 4 and of 8.
const TASTE: usize = 64;

const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

const CLASS: [bool; 256] = {
    let mut class = [false; 256];
    let mut b = 0;
    while b < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "b is below 256")]
        let c = b as u8;
        class[b] = c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'-' | b'_' | b'=');
        b += 1;
    }
    class
};

pub(super) fn find(text: &str, counts: &Counts, budget: usize, runs: &mut Vec<Run>) {
    let bytes = text.as_bytes();
    if bytes.len() < MIN_BLOCK {
        return;
    }
    let _ = counts;
    let mut room = budget;
    let found = stretches(bytes, MIN_BLOCK, &CLASS);
    let mut index = 0;
    while index < found.len() && room > 0 {
        let (from, mut to) = found[index];
        index += 1;
        // Wrapped lines go on directly behind the line end.
        let mut joined: Option<Vec<u8>> = None;
        while to - from >= MIN_LINE
            && let Some((next, end)) = found.get(index)
            && *next > to
            && *next - to <= 2
            && bytes[to..*next].iter().all(|b| matches!(b, b'\r' | b'\n'))
        {
            let block = joined.get_or_insert_with(|| bytes[from..to].to_vec());
            block.extend_from_slice(&bytes[*next..*end]);
            to = *end;
            index += 1;
        }
        let block = joined.as_deref().unwrap_or(&bytes[from..to]);
        if let Some(text) = one(block) {
            room = room.saturating_sub(text.len());
            runs.push(Run {
                from,
                to,
                text,
                block: true,
            });
        } else if joined.is_none() {
            pieces(&bytes[from..to], from, runs);
        }
    }
}

/// Parts of a path or of an assignment.
fn pieces(block: &[u8], from: usize, runs: &mut Vec<Run>) {
    let mut start = 0;
    for end in (0..=block.len())
        .filter(|i| *i == block.len() || matches!(block[*i], b'/' | b'=' | b'-' | b'_'))
    {
        let piece = &block[start..end];
        if piece.len() >= MIN_BLOCK
            && piece.len() < block.len()
            && let Some(text) = one(piece)
        {
            runs.push(Run {
                from: from + start,
                to: from + end,
                text,
                block: true,
            });
        }
        start = end + 1;
    }
}

fn one(block: &[u8]) -> Option<String> {
    let number = block
        .strip_prefix(b"0x")
        .or_else(|| block.strip_prefix(b"0X"));
    if let Some(digits) = number.filter(|d| d.iter().all(u8::is_ascii_hexdigit)) {
        return hex_block(digits);
    }
    if block.iter().all(u8::is_ascii_hexdigit) {
        return hex_block(block);
    }
    // Words are of one case; encoded text of that length is not.
    let upper = block.iter().filter(|b| b.is_ascii_uppercase()).count();
    let lower = block.iter().filter(|b| b.is_ascii_lowercase()).count();
    let digits = block.iter().filter(|b| b.is_ascii_digit()).count();
    if lower == 0 && upper > 0 {
        return base32(block);
    }
    if upper == 0 || (lower == 0 && digits == 0) {
        return None;
    }
    let body = block
        .strip_suffix(b"==")
        .or_else(|| block.strip_suffix(b"="))
        .unwrap_or(block);
    // One character beyond a multiple of four carries no byte.
    let body = if body.len() % 4 == 1 {
        &body[..body.len() - 1]
    } else {
        body
    };
    let safe = body.iter().any(|b| matches!(b, b'-' | b'_'));
    let decode = |part: &[u8]| {
        if safe {
            URL_SAFE.decode(part)
        } else {
            STANDARD.decode(part)
        }
        .ok()
    };
    if body.len() > TASTE {
        let taste = decode(&body[..TASTE])?;
        // A character may be cut at the end of the taste.
        if !(0..4).any(|cut| readable(&taste[..taste.len() - cut]).is_some()) {
            return None;
        }
    }
    readable(&decode(body)?)
}

fn hex_block(block: &[u8]) -> Option<String> {
    let bytes: Vec<u8> = block
        .chunks_exact(2)
        .map(|pair| Some(hex(pair[0])? << 4 | hex(pair[1])?))
        .collect::<Option<_>>()?;
    readable(&bytes)
}

fn base32(block: &[u8]) -> Option<String> {
    let mut bits: u64 = 0;
    let mut n = 0;
    let mut bytes = Vec::with_capacity(block.len() * 5 / 8);
    for b in block.iter().take_while(|b| **b != b'=') {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'2'..=b'7' => b - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u64::from(value);
        n += 5;
        if n >= 8 {
            n -= 8;
            bytes.push(u8::try_from(bits >> n & 0xff).unwrap_or(0));
        }
    }
    readable(&bytes)
}
