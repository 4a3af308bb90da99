//! A redb backend that reads a file and keeps what is written in memory: opening a database through it
//! shows whether it is whole, repairs included, without changing a byte of the file.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::locks::forward_locks;
use crate::medium::Medium;

const BLOCK_BYTES: u64 = 4096;

#[derive(Debug)]
struct Written {
    len: u64,
    /// How much of the file still shows through.
    base_len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

/// See the module's documentation. Locks are those of the file.
#[derive(Debug)]
pub(crate) struct Overlay {
    file: Medium,
    written: Mutex<Written>,
}

impl Overlay {
    pub(crate) fn new(file: Medium) -> io::Result<Overlay> {
        let len = file.len()?;
        let written = Mutex::new(Written { len, base_len: len, blocks: BTreeMap::new() });
        Ok(Overlay { file, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base_block(&self, written: &Written, index: u64) -> io::Result<Vec<u8>> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        let start = index * BLOCK_BYTES;
        let there = written.base_len.saturating_sub(start).min(BLOCK_BYTES) as usize;
        self.file.read(start, &mut block[..there])?;
        Ok(block)
    }
}

/// Splits a range of the storage at block borders: (block, offset in it, offset in the range, length).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (at, left) = (offset + done as u64, len - done);
        let within = (at % BLOCK_BYTES) as usize;
        let take = left.min(BLOCK_BYTES as usize - within);
        let piece = (at / BLOCK_BYTES, within, done, take);
        done += take;
        (take > 0).then_some(piece)
    })
}

fn check_range(written: &Written, offset: u64, len: usize) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= written.len => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the file")),
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        check_range(&written, offset, out.len())?;
        if written.blocks.is_empty() && written.base_len == written.len {
            return self.file.read(offset, out);
        }
        for (block, within, at, take) in pieces(offset, out.len()) {
            let out = &mut out[at..at + take];
            match written.blocks.get(&block) {
                Some(bytes) => out.copy_from_slice(&bytes[within..within + take]),
                None => out.copy_from_slice(&self.base_block(&written, block)?[within..within + take]),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        if len < written.len {
            written.base_len = written.base_len.min(len);
            let _ = written.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
            if let Some(block) = written.blocks.get_mut(&(len / BLOCK_BYTES)) {
                block[(len % BLOCK_BYTES) as usize..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        check_range(&written, offset, data.len())?;
        for (index, within, at, take) in pieces(offset, data.len()) {
            let mut block = match written.blocks.remove(&index) {
                Some(block) => block,
                // What is replaced as a whole may be unreadable.
                None if take == BLOCK_BYTES as usize => vec![0; take],
                None => self.base_block(&written, index)?,
            };
            block[within..within + take].copy_from_slice(&data[at..at + take]);
            written.blocks.insert(index, block);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    forward_locks!(file);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use redb::backends::FileBackend;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, usize, u8),
        Resize(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u64..20_000, 1usize..9_000, 1u8..).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
            1 => (0u64..20_000).prop_map(Step::Resize),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_overlay_reads_as_a_written_file_would_and_leaves_the_file(
            base in 0usize..15_000,
            steps in proptest::collection::vec(any_step(), 1..12),
        ) {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            let mut model: Vec<u8> = (0..base).map(|n| n as u8 | 1).collect();
            file.write_all(&model).expect("written");
            let before = model.clone();
            let overlay = FileBackend::new(file.reopen().expect("a handle")).expect("a backend");
            let overlay = Overlay::new(Medium::plain(overlay));
            let overlay = overlay.expect("an overlay");
            for step in steps {
                match step {
                    Step::Write(at, len, byte) if at as usize + len > model.len() => {
                        prop_assert!(overlay.write(at, &vec![byte; len]).is_err());
                    }
                    Step::Write(at, len, byte) => {
                        overlay.write(at, &vec![byte; len]).expect("written");
                        model[at as usize..at as usize + len].fill(byte);
                    }
                    Step::Resize(len) => {
                        overlay.set_len(len).expect("resized");
                        model.resize(len as usize, 0);
                    }
                }
                let mut read = vec![0; model.len()];
                overlay.read(0, &mut read).expect("read");
                prop_assert!(read == model);
                prop_assert_eq!(overlay.len().expect("a length"), model.len() as u64);
                prop_assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
            }
            prop_assert!(std::fs::read(file.path()).expect("the file") == before);
        }
    }
}
