//! One JSON array of objects, split at its commas, so that no more than one element is in memory and a bad element
//! does not spoil the next.

use super::text::{Gathered, Text};
use super::{Record, SourceError, Unusable, text_of};

#[derive(PartialEq, Eq)]
enum State {
    Before,
    /// Between elements; the number of those that came already.
    Within(u64),
    After,
}

pub(crate) struct ArrayReader {
    text: Text,
    state: State,
}

/// How an element ended.
#[derive(PartialEq, Eq)]
enum End {
    Comma,
    Bracket,
}

impl ArrayReader {
    pub(super) fn new(text: Text) -> ArrayReader {
        ArrayReader { text, state: State::Before }
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SourceError> {
        let count = match self.state {
            State::After => return Ok(None),
            State::Within(count) => count,
            State::Before => match self.text.skip_space()? {
                None => return Ok(None),
                Some(b'[') => {
                    self.text.byte()?;
                    0
                }
                // Not an array: one element that shows what is wrong.
                Some(_) => 0,
            },
        };
        self.state = State::Within(count + 1);
        if self.text.skip_space()?.is_none() {
            return Err(SourceError::Truncated { line: self.text.line() });
        }
        let line = self.text.line();
        let (bytes, end) = self.element(line)?;
        let blank = bytes.as_ref().is_some_and(|bytes| bytes.iter().all(u8::is_ascii_whitespace));
        if end == End::Bracket {
            self.state = State::After;
            if self.text.skip_space()?.is_some() {
                return Err(SourceError::AfterEnd { line: self.text.line() });
            }
            if blank && count == 0 {
                return Ok(None);
            }
        }
        let content = match bytes {
            None => Err(Unusable::TooLong),
            Some(_) if blank => Err(Unusable::Nothing),
            Some(bytes) => text_of(bytes),
        };
        Ok(Some(Record { line, content }))
    }

    /// The bytes up to the comma or bracket that ends the element; `None` for too many.
    fn element(&mut self, line: u64) -> Result<(Option<Vec<u8>>, End), SourceError> {
        let (mut gathered, mut depth, mut quoted, mut escaped) = (Gathered::default(), 0_u64, false, false);
        while let Some(byte) = self.text.byte()? {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b',' if depth == 0 => return Ok((gathered.take(), End::Comma)),
                b']' if depth == 0 => return Ok((gathered.take(), End::Bracket)),
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            gathered.push(byte);
        }
        Err(SourceError::Truncated { line })
    }
}
