//! The daemon's log: to stderr in the foreground, to files of bounded size and number in the background. What is logged
//! can be changed while it runs.

use std::fs::{DirBuilder, OpenOptions};
use std::io::IsTerminal as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate, compression::Compression};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use crate::config::{Config, check_log_level};
use crate::error::{CliError, Result};

/// What is logged at present, and the handle to change it.
struct Live {
    filter: Mutex<String>,
    handle: reload::Handle<EnvFilter, Registry>,
}

static LIVE: OnceLock<Live> = OnceLock::new();

/// Begins to log as the settings say, to a file or to stderr.
pub(crate) fn init(config: &Config, file: Option<&Path>) -> Result<()> {
    let terminal =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    let writer = match file {
        Some(path) => {
            make_folder(path)?;
            BoxMakeWriter::new(Mutex::new(rotating(config, path)))
        }
        None => BoxMakeWriter::new(std::io::stderr),
    };
    // The setting was checked.
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&config.log_level));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(file.is_none() && terminal);
    let lines = match config.log_format.as_str() {
        "compact" => lines.compact().boxed(),
        "pretty" => lines.pretty().boxed(),
        "json" => lines.json().boxed(),
        _ => lines.boxed(),
    };
    // A second call changes nothing.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = LIVE.set(Live { filter: Mutex::new(config.log_level.clone()), handle });
    }
    Ok(())
}

/// What is logged at present; `None` if this process keeps no log.
pub(crate) fn filter() -> Option<String> {
    LIVE.get().map(|live| live.filter.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Logs something else from now on, until the process ends.
pub(crate) fn set_filter(text: &str) -> Result<()> {
    check_log_level(text).map_err(|error| CliError::usage(error).hint("as in: info, or warn,ahenk=debug"))?;
    let live = LIVE.get().ok_or_else(|| CliError::internal("this process keeps no log"))?;
    live.handle.reload(EnvFilter::new(text)).map_err(CliError::internal)?;
    text.clone_into(&mut live.filter.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

/// Makes the folder of a log, for its owner only.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
    made.map_err(|error| CliError::io("create", folder, &error))
}

/// The file that was put aside `count` times.
pub(crate) fn put_aside(path: &Path, count: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{count}"));
    PathBuf::from(name)
}

fn rotating(config: &Config, path: &Path) -> FileRotate<AppendCount> {
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    FileRotate::new(
        path,
        AppendCount::new(size(config.log_files_max)),
        ContentLimit::BytesSurpassed(size(config.log_file_bytes_max)),
        Compression::None,
        Some(options),
    )
}
