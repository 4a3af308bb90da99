//! Bytes one after another, with the number of the line they stand in.

use std::io::{self, BufRead};

use super::RECORD_BYTES_MAX;

/// A file as a sequence of bytes.
pub(crate) struct Text {
    reader: Box<dyn BufRead + Send>,
    /// The line of the next byte, from 1.
    line: u64,
}

impl Text {
    pub(super) fn new(reader: Box<dyn BufRead + Send>) -> Text {
        Text { reader, line: 1 }
    }

    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The next byte, without taking it.
    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next byte.
    pub(super) fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            self.reader.consume(1);
            self.line += u64::from(byte == b'\n');
        }
        Ok(byte)
    }

    /// Passes over a UTF-8 byte order mark, if the text begins with one.
    pub(super) fn skip_mark(&mut self) -> io::Result<()> {
        // A first read gives at least the mark's three bytes of any file that has them.
        self.peek()?;
        if self.reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            self.reader.consume(3);
        }
        Ok(())
    }

    /// Passes over white space; gives the byte that follows, without taking it.
    pub(super) fn skip_space(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.byte()?;
        }
        Ok(None)
    }
}

/// The bytes of one record; past the limit they are counted but not kept.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    over: bool,
}

impl Gathered {
    pub(super) fn push(&mut self, byte: u8) {
        if self.bytes.len() == RECORD_BYTES_MAX {
            self.give_up();
        } else if !self.over {
            self.bytes.push(byte);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Keeps nothing more of this record.
    pub(super) fn give_up(&mut self) {
        (self.over, self.bytes) = (true, Vec::new());
    }

    /// The bytes, or `None` if they were too many.
    pub(super) fn take(self) -> Option<Vec<u8>> {
        (!self.over).then_some(self.bytes)
    }
}
