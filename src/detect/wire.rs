//! The byte format of checkpoints, user rows and minute parts: varints and length-prefixed bytes.
//!
//! Ours and small because these rows are written thousands of times a second and read back by the
//! same program; integers are LEB128, signed ones zigzag, floats little-endian bits (so that a
//! restored state equals the stored one to the bit).

use crate::event::{Kid, Pseudonym, SmolStr};

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Unsigned, LEB128.
    pub fn u64(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(low7(v) | 0x80);
            v >>= 7;
        }
        self.0.push(low7(v));
    }
    /// Signed, zigzag.
    pub fn i64(&mut self, v: i64) {
        self.u64((v.cast_unsigned() << 1) ^ (v >> 63).cast_unsigned());
    }
    /// 16 bytes, little-endian: sums of money.
    pub fn i128(&mut self, v: i128) {
        // Most sums fit 64 bits; the marker saves eight bytes on nearly every row.
        if let Ok(small) = i64::try_from(v) {
            self.0.push(0);
            self.i64(small);
        } else {
            self.0.push(1);
            self.0.extend_from_slice(&v.to_le_bytes());
        }
    }
    /// A length or count.
    pub fn len(&mut self, v: usize) {
        self.u64(v as u64);
    }
    /// A flag.
    pub fn bool(&mut self, v: bool) {
        self.0.push(u8::from(v));
    }
    /// One byte.
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    /// Bits of a float.
    pub fn f32(&mut self, v: f32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Bits of a float.
    pub fn f64(&mut self, v: f64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Length-prefixed bytes.
    pub fn bytes(&mut self, v: &[u8]) {
        self.len(v.len());
        self.0.extend_from_slice(v);
    }
    /// Length-prefixed text.
    pub fn str(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }
    /// Key id and keyed hash.
    pub fn pseudonym(&mut self, p: &Pseudonym) {
        self.str(p.kid.as_str());
        self.0.extend_from_slice(&p.mac);
    }
    /// Present or not, then the value.
    pub fn option<T>(&mut self, v: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(v.is_some());
        if let Some(v) = v {
            write(self, v);
        }
    }
}

fn low7(v: u64) -> u8 {
    (v & 0x7f) as u8
}

/// The bytes ended or do not fit the type; the field is where reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged(pub usize);

/// Reads what [`Writer`] wrote. Never panics and never allocates more than the input is long.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
    /// The error at the present place.
    pub fn damaged(&self) -> Damaged {
        Damaged(self.at)
    }
    /// Whether everything was read.
    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8], Damaged> {
        let end = self.at.checked_add(n).ok_or(Damaged(self.at))?;
        let out = self.bytes.get(self.at..end).ok_or(Damaged(self.at))?;
        self.at = end;
        Ok(out)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let at = self.at;
        <[u8; N]>::try_from(self.take(N)?).map_err(|_| Damaged(at))
    }
    /// See [`Writer::u64`].
    pub fn u64(&mut self) -> Result<u64, Damaged> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let [b] = self.array()?;
            let bits = u64::from(b & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            v |= bits << shift;
            if b & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err(self.damaged())
    }
    /// See [`Writer::i64`].
    pub fn i64(&mut self) -> Result<i64, Damaged> {
        let v = self.u64()?;
        Ok((v >> 1).cast_signed() ^ -((v & 1).cast_signed()))
    }
    /// See [`Writer::i128`].
    pub fn i128(&mut self) -> Result<i128, Damaged> {
        if self.bool()? {
            Ok(i128::from_le_bytes(self.array()?))
        } else {
            Ok(i128::from(self.i64()?))
        }
    }
    /// A count; never more than there are bytes left, so that it is safe to reserve.
    #[expect(
        clippy::len_without_is_empty,
        reason = "reads a count; the reader has no length"
    )]
    pub fn len(&mut self) -> Result<usize, Damaged> {
        let n = usize::try_from(self.u64()?).map_err(|_| self.damaged())?;
        if n > self.bytes.len() - self.at {
            return Err(self.damaged());
        }
        Ok(n)
    }
    /// An unsigned number of a smaller type.
    pub fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Damaged> {
        T::try_from(self.u64()?).map_err(|_| self.damaged())
    }
    /// A flag.
    pub fn bool(&mut self) -> Result<bool, Damaged> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged()),
        }
    }
    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Damaged> {
        let [b] = self.array()?;
        Ok(b)
    }
    /// Bits of a float.
    pub fn f32(&mut self) -> Result<f32, Damaged> {
        Ok(f32::from_le_bytes(self.array()?))
    }
    /// Bits of a float.
    pub fn f64(&mut self) -> Result<f64, Damaged> {
        Ok(f64::from_le_bytes(self.array()?))
    }
    /// Length-prefixed bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let n = self.len()?;
        self.take(n)
    }
    /// Length-prefixed text.
    pub fn str(&mut self) -> Result<SmolStr, Damaged> {
        let at = self.at;
        std::str::from_utf8(self.bytes()?)
            .map(SmolStr::new)
            .map_err(|_| Damaged(at))
    }
    /// Key id and keyed hash.
    pub fn pseudonym(&mut self) -> Result<Pseudonym, Damaged> {
        let kid = Kid::parse(&self.str()?).ok_or(self.damaged())?;
        Ok(Pseudonym {
            kid,
            mac: self.array()?,
        })
    }
    /// 16 bytes as they are.
    pub fn array16(&mut self) -> Result<[u8; 16], Damaged> {
        self.array()
    }
    /// Present or not, then the value.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Damaged>,
    ) -> Result<Option<T>, Damaged> {
        if self.bool()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for v in [0, 1, 127, 128, u64::from(u32::MAX), u64::MAX] {
            let mut w = Writer::default();
            w.u64(v);
            assert_eq!(Reader::new(&w.0).u64(), Ok(v));
        }
        for v in [0, -1, 1, i64::MIN, i64::MAX] {
            let mut w = Writer::default();
            w.i64(v);
            assert_eq!(Reader::new(&w.0).i64(), Ok(v));
        }
        for v in [0, -1, i128::from(i64::MAX) + 1, i128::MIN] {
            let mut w = Writer::default();
            w.i128(v);
            assert_eq!(Reader::new(&w.0).i128(), Ok(v));
        }
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        let mut w = Writer::default();
        w.str("abc");
        for cut in 0..w.0.len() {
            assert!(Reader::new(&w.0[..cut]).str().is_err());
        }
        // A count larger than the input must not be believed.
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0x7f]).len().is_err());
        assert!(Reader::new(&[0xff; 11]).u64().is_err());
    }
}
