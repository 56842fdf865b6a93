//! The pieces of JSON that the short way takes: `None` at anything else.

use super::super::super::name::ALPHABETS;

/// A place in a record.
pub(super) struct Cursor<'t> {
    pub(super) text: &'t str,
    pub(super) at: usize,
}

/// A field may stand once: the long way refuses the second.
pub(super) fn once(seen: &mut u64, field: u32) -> Option<()> {
    let bit = 1 << field;
    (*seen & bit == 0).then(|| *seen |= bit)
}

impl<'t> Cursor<'t> {
    pub(super) fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    pub(super) fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    pub(super) fn eat(&mut self, b: u8) -> Option<()> {
        self.space();
        (self.peek() == b).then(|| self.at += 1)
    }

    /// A string whose bytes are all of an alphabet. The alphabets hold no backslash, so there is no
    /// escape in it.
    pub(super) fn string(&mut self, alphabet: u8) -> Option<&'t str> {
        self.eat(b'"')?;
        let rest = self.text.as_bytes().get(self.at..)?;
        let mut all = alphabet;
        for (i, b) in rest.iter().enumerate() {
            if *b == b'"' {
                let s = self.text.get(self.at..self.at + i)?;
                self.at += i + 1;
                return (all != 0).then_some(s);
            }
            all &= ALPHABETS[usize::from(*b)];
        }
        None
    }

    pub(super) fn key(&mut self) -> Option<&'t [u8]> {
        self.eat(b'"')?;
        let rest = self.text.as_bytes().get(self.at..)?;
        let end = rest.iter().position(|b| *b == b'"')?;
        self.at += end + 1;
        self.eat(b':')?;
        rest.get(..end)
    }

    pub(super) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, &'t [u8]) -> Option<()>,
    ) -> Option<()> {
        self.eat(b'{')?;
        self.space();
        if self.peek() == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.key()?;
            field(self, key)?;
            self.space();
            self.at += 1;
            match self.text.as_bytes().get(self.at - 1)? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// At most `max` items.
    pub(super) fn array<T>(
        &mut self,
        max: usize,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.eat(b'[')?;
        let mut out = Vec::new();
        self.space();
        if self.peek() == b']' {
            self.at += 1;
            return Some(out);
        }
        loop {
            if out.len() >= max {
                return None;
            }
            out.push(item(self)?);
            self.space();
            self.at += 1;
            match self.text.as_bytes().get(self.at - 1)? {
                b',' => {}
                b']' => return Some(out),
                _ => return None,
            }
        }
    }

    /// Digits without a needless zero in front: their value and how many. At most 15, so that a
    /// float holds them exactly.
    pub(super) fn digits(&mut self) -> Option<(u64, usize)> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let mut n = 0u64;
        let mut len = 0;
        for b in rest.iter().take(16) {
            if !b.is_ascii_digit() {
                break;
            }
            n = n * 10 + u64::from(b - b'0');
            len += 1;
        }
        self.at += len;
        (1..=15).contains(&len).then_some((n, len))
    }

    pub(super) fn int(&mut self, max: u64) -> Option<u64> {
        self.space();
        let zero = self.peek() == b'0';
        let (n, len) = self.digits()?;
        let plain = !matches!(self.peek(), b'.' | b'e' | b'E');
        (plain && n <= max && !(zero && len > 1)).then_some(n)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.int(u64::from(u32::MAX))?).ok()
    }

    pub(super) fn float(&mut self, max: f64) -> Option<f64> {
        self.space();
        let zero = self.peek() == b'0';
        let (mut n, len) = self.digits()?;
        let mut scale = 1.0;
        if zero && len > 1 {
            return None;
        }
        if self.peek() == b'.' {
            self.at += 1;
            let (frac, places) = self.digits()?;
            if len + places > 15 {
                return None;
            }
            let ten = 10u64.pow(u32::try_from(places).ok()?);
            n = n * ten + frac;
            #[expect(clippy::cast_precision_loss, reason = "at most 10^15")]
            {
                scale = ten as f64;
            }
        }
        if matches!(self.peek(), b'e' | b'E') {
            return None;
        }
        // Both are exact, so the quotient is the nearest float, as the long way has it.
        #[expect(clippy::cast_precision_loss, reason = "at most 15 digits")]
        let x = n as f64 / scale;
        (x <= max).then_some(x)
    }

    pub(super) fn bool(&mut self) -> Option<bool> {
        self.space();
        let rest = self.text.as_bytes().get(self.at..)?;
        let value = rest.starts_with(b"true");
        if !value && !rest.starts_with(b"false") {
            return None;
        }
        self.at += if value { 4 } else { 5 };
        Some(value)
    }
}
