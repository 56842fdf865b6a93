//! Eight bytes in one register: which of them lie in a range, and where the first such stands.

/// One bit per byte: the highest.
pub(super) const HIGH: u64 = 0x8080_8080_8080_8080;
/// One in each byte.
pub(super) const ONES: u64 = 0x0101_0101_0101_0101;

/// The high bit of each byte of `w` (all below 0x80) that lies in `low..=high`.
#[inline]
pub(super) fn within(w: u64, low: u8, high: u8) -> u64 {
    let above = w.wrapping_add(ONES.wrapping_mul(u64::from(0x80 - low)));
    let beyond = w.wrapping_add(ONES.wrapping_mul(u64::from(0x7f - high)));
    above & !beyond & HIGH
}

/// Eight bytes from `at`, blanks beyond the end.
#[inline]
pub(super) fn eight(bytes: &[u8], at: usize) -> u64 {
    if let Some(whole) = bytes.get(at..at + 8) {
        let mut raw = [0; 8];
        raw.copy_from_slice(whole);
        return u64::from_le_bytes(raw);
    }
    let mut raw = [b' '; 8];
    let rest = bytes.get(at..).unwrap_or_default();
    raw[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(raw)
}

/// Bytes before the first marked one, 8 if there is none.
#[inline]
pub(super) fn first(marks: u64) -> usize {
    usize::try_from(marks.trailing_zeros() / 8).unwrap_or(8)
}
