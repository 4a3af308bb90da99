//! Choices read off an input, byte by byte. Past its end every choice is 0, so that any input is a whole script.

pub(crate) struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Tape<'a> {
        Tape(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// Mostly small, sometimes close to a border, sometimes anything.
    pub(crate) fn u64(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=199 => u64::from(small),
            200..=219 => u64::from(self.u16()),
            220 => u64::MAX,
            221 => i64::MAX as u64,
            222 => i64::MAX as u64 + 1,
            _ => (0..8).fold(0, |all, _| all << 8 | u64::from(self.u8())),
        }
    }

    /// Less than `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(if end > 256 { self.u16() } else { u16::from(self.u8()) }) % end
    }

    /// As many bytes as there are, up to `len`.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length in two bytes, and so many.
    pub(crate) fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.u16());
        self.take(len)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// One of the letters from a.
    pub(crate) fn letter(&mut self, count: u8) -> String {
        char::from(b'a' + self.u8() % count).to_string()
    }

    /// Changes some bytes of `what`, adds some or cuts it, as the tape says.
    pub(crate) fn damage(&mut self, what: &mut Vec<u8>) {
        for _ in 0..1 + self.u8() % 4 {
            let at = self.below(what.len().max(1));
            match self.u8() % 6 {
                0 | 1 => {
                    let with = self.u8();
                    if let Some(byte) = what.get_mut(at) {
                        *byte ^= with;
                    }
                }
                2 => {
                    let byte = self.u8();
                    what.insert(at.min(what.len()), byte);
                }
                3 if !what.is_empty() => {
                    what.remove(at);
                }
                4 => what.truncate(at),
                _ => {
                    let len = usize::from(self.u8());
                    let more = self.take(len);
                    what.splice(at.min(what.len())..at.min(what.len()), more.iter().copied());
                }
            }
        }
    }
}
