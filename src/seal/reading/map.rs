//! Offsets of a reading, back to the text that it was made from.

/// A stretch of output made from a stretch of source. Where both have the same length they
/// correspond byte by byte; else the stretch stands for its source as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    out: u32,
    from: u32,
    to: u32,
}

/// Byte offsets of a reading → byte offsets of its source. One piece for text that folds in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    pieces: Vec<Piece>,
    len: u32,
}

fn small(n: usize) -> u32 {
    // Callers cut texts at `MAX_TEXT_BYTES`, far below.
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Map {
    /// Appends `len` bytes that stand for `len` bytes from `from`.
    pub(super) fn same(&mut self, from: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (from, len) = (small(from), small(len));
        let end = self.len;
        self.len += len;
        if let Some(last) = self.pieces.last_mut()
            && last.to == from
            && last.to - last.from == end - last.out
        {
            last.to = from + len;
            return;
        }
        self.pieces.push(Piece {
            out: end,
            from,
            to: from + len,
        });
    }

    /// Appends `len` bytes that together stand for `from..to`.
    pub(super) fn other(&mut self, len: usize, from: usize, to: usize) {
        if len == 0 {
            return;
        }
        if len == to - from {
            // Same length is read as byte by byte; one-to-one characters are.
            self.same(from, len);
            return;
        }
        self.pieces.push(Piece {
            out: self.len,
            from: small(from),
            to: small(to),
        });
        self.len += small(len);
    }

    fn piece(&self, at: u32) -> Option<(Piece, u32)> {
        let index = self
            .pieces
            .partition_point(|p| p.out <= at)
            .checked_sub(1)?;
        let piece = self.pieces[index];
        let end = self.pieces.get(index + 1).map_or(self.len, |p| p.out);
        Some((piece, end - piece.out))
    }

    /// Source offset at which output byte `at` begins.
    pub fn start(&self, at: usize) -> usize {
        let at = small(at);
        match self.piece(at) {
            None => 0,
            Some((p, len)) if p.to - p.from == len => (p.from + (at - p.out).min(len)) as usize,
            Some((p, _)) if at >= self.len => p.to as usize,
            Some((p, _)) => p.from as usize,
        }
    }

    /// Source offset at which the source of output byte `at - 1` ends.
    pub fn end(&self, at: usize) -> usize {
        let at = small(at);
        if at == 0 {
            return self.start(0);
        }
        match self.piece(at - 1) {
            None => 0,
            Some((p, len)) if p.to - p.from == len => (p.from + (at - p.out).min(len)) as usize,
            Some((p, _)) => p.to as usize,
        }
    }

    /// Output offset of the first output byte made from source byte `at` or a later one.
    pub fn inverse(&self, at: usize) -> usize {
        let at = small(at);
        // Sources ascend except in reversed readings, which nobody inverts.
        let index = self.pieces.partition_point(|p| p.to <= at);
        let Some(piece) = self.pieces.get(index) else {
            return self.len as usize;
        };
        let end = self.pieces.get(index + 1).map_or(self.len, |p| p.out);
        if piece.to - piece.from == end - piece.out && at > piece.from {
            (piece.out + (at - piece.from)) as usize
        } else {
            piece.out as usize
        }
    }

    /// This map followed by `outer`: offsets of `outer`'s source.
    pub(super) fn then(&self, outer: &Self) -> Self {
        let mut joined = Self::default();
        for (index, piece) in self.pieces.iter().enumerate() {
            let end = self.pieces.get(index + 1).map_or(self.len, |p| p.out);
            let len = end - piece.out;
            let (from, to) = (piece.from as usize, piece.to as usize);
            if piece.to - piece.from == len {
                // Byte by byte: cut where the outer map's pieces end.
                let mut at = from;
                while at < to {
                    let Some((outer_piece, outer_len)) = outer.piece(small(at)) else {
                        break;
                    };
                    let stop = ((outer_piece.out + outer_len) as usize).min(to).max(at + 1);
                    let (a, b) = (outer.start(at), outer.end(stop));
                    if b >= a {
                        joined.other(stop - at, a, b);
                    }
                    at = stop;
                }
            } else {
                let (a, b) = (outer.start(from), outer.end(to));
                joined.raw(len as usize, a, b.max(a));
            }
        }
        joined
    }

    /// Appends a whole piece even if the lengths happen to agree.
    fn raw(&mut self, len: usize, from: usize, to: usize) {
        self.other(len, from, to);
    }

    /// Length of the output in bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the output is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_go_back() {
        let mut map = Map::default();
        map.same(0, 3);
        map.other(1, 3, 7);
        map.same(7, 2);
        assert_eq!(map.pieces.len(), 3);
        assert_eq!((map.start(2), map.end(3)), (2, 3));
        assert_eq!((map.start(3), map.end(4)), (3, 7));
        assert_eq!((map.start(4), map.end(6)), (7, 9));
        assert_eq!(map.inverse(0), 0);
        assert_eq!(map.inverse(5), 3);
        assert_eq!(map.inverse(8), 5);
    }

    #[test]
    fn maps_chain() {
        let mut outer = Map::default();
        outer.other(4, 10, 20);
        outer.same(20, 5);
        let mut inner = Map::default();
        inner.same(0, 2);
        inner.same(6, 2);
        let joined = inner.then(&outer);
        assert_eq!((joined.start(0), joined.end(2)), (10, 20));
        assert_eq!((joined.start(2), joined.end(4)), (22, 24));
    }
}
