//! JSON Lines: one object a line. A bad line ends with its line.

use super::text::{Gathered, Text};
use super::{Record, SourceError, Unusable, text_of};

pub(crate) struct LineReader {
    text: Text,
}

impl LineReader {
    pub(super) fn new(text: Text) -> LineReader {
        LineReader { text }
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SourceError> {
        if self.text.skip_space()?.is_none() {
            return Ok(None);
        }
        let (line, mut gathered) = (self.text.line(), Gathered::default());
        while let Some(byte) = self.text.byte()?.filter(|byte| *byte != b'\n') {
            gathered.push(byte);
        }
        let content = gathered.take().ok_or(Unusable::TooLong).and_then(text_of);
        Ok(Some(Record { line, content }))
    }
}
