//! The file that is imported: opened, told by its content, and watched for changes while it is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::source::{Format, Layout, Source, SourceError, detect};
use crate::error::{CliError, Kind, Result};

const BUFFER_BYTES: usize = 64 * 1024;

/// See the module's documentation.
pub(super) struct Input {
    name: String,
    pub(super) format: Format,
    /// `None` for stdin.
    content: Option<Content>,
    meter: Arc<Mutex<Meter>>,
    reader: Mutex<Option<Box<dyn BufRead + Send>>>,
}

struct Content {
    bytes: u64,
    hash: blake3::Hash,
}

/// What has been read so far.
#[derive(Default)]
struct Meter {
    bytes: u64,
    hasher: blake3::Hasher,
}

/// Reads and takes note.
struct Metered<R> {
    inner: R,
    meter: Arc<Mutex<Meter>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.bytes += read as u64;
        meter.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl Input {
    /// Opens the file, and finds out its format unless that is given.
    pub(super) fn open(path: &Path, format: Option<Format>) -> Result<Input> {
        let meter = Arc::<Mutex<Meter>>::default();
        let name = path.display().to_string();
        let (mut reader, content): (Box<dyn BufRead + Send>, _) = if name == "-" {
            let inner = Metered { inner: io::stdin(), meter: Arc::clone(&meter) };
            (Box::new(BufReader::with_capacity(BUFFER_BYTES, inner)), None)
        } else {
            let (file, content) = hashed(path)?;
            let inner = Metered { inner: file, meter: Arc::clone(&meter) };
            (Box::new(BufReader::with_capacity(BUFFER_BYTES, inner)), Some(content))
        };
        let buffered = reader.fill_buf().map_err(|error| failed(path, &error))?;
        let text = buffered.strip_prefix(b"\xef\xbb\xbf").unwrap_or(buffered);
        let first = text.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        let format = format.unwrap_or_else(|| detect(&name, first));
        Ok(Input { name, format, content, meter, reader: Mutex::new(Some(reader)) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes, if that is known.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.content.as_ref().map(|content| content.bytes)
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Names this content with these options; `None` if it cannot be read again.
    pub(super) fn id(&self, options: &impl serde::Serialize) -> Option<String> {
        let content = self.content.as_ref()?;
        let mut hasher = blake3::Hasher::new_derive_key("ahenk import 1");
        hasher.update(content.hash.as_bytes());
        hasher.update(&serde_json::to_vec(options).ok()?);
        Some(hasher.finalize().to_hex()[..32].to_owned())
    }

    /// Begins to read. Only the first call gives records.
    pub(super) fn source(&self, layout: Layout) -> Result<Result<Source, SourceError>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reader = reader.ok_or_else(|| CliError::internal("the file is being read already"))?;
        Ok(Source::open(reader, self.format, layout))
    }

    /// At the end: an error if the file was not what it was when it was opened.
    pub(super) fn changed(&self) -> Option<CliError> {
        let content = self.content.as_ref()?;
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let same = meter.bytes == content.bytes && meter.hasher.finalize() == content.hash;
        (!same).then(|| {
            CliError::new(Kind::Conflict, format!("{} changed while it was being read", self.name))
                .hint("import it again when nothing writes to it any more")
        })
    }
}

fn hashed(path: &Path) -> Result<(File, Content)> {
    let mut file = File::open(path).map_err(|error| failed(path, &error))?;
    let metadata = file.metadata().map_err(|error| failed(path, &error))?;
    if !metadata.is_file() {
        return Err(CliError::usage(format!("{} is not a plain file", path.display()))
            .hint("name a file, or - for stdin"));
    }
    let (mut hasher, mut bytes, mut buffer) = (blake3::Hasher::new(), 0, vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(path, &error)),
        }
    }
    file.seek(SeekFrom::Start(0)).map_err(|error| failed(path, &error))?;
    Ok((file, Content { bytes, hash: hasher.finalize() }))
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    if error.kind() == io::ErrorKind::NotFound {
        return CliError::new(Kind::NotFound, format!("there is no file {}", path.display()))
            .hint("check the name and the folder");
    }
    CliError::io("read", path, error)
}
