//! The daemon's log: to stderr in the foreground, to files of bounded size and number in the background.

use std::fs::OpenOptions;
use std::io::IsTerminal as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate, compression::Compression};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::Config;

/// Begins to log as the settings say, to a file or to stderr.
pub(crate) fn init(config: &Config, file: Option<&Path>) {
    // The setting was checked.
    let filter = EnvFilter::new(&config.log_level);
    let terminal =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    let writer = match file {
        Some(path) => BoxMakeWriter::new(Mutex::new(rotating(config, path))),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let log = log.with_ansi(file.is_none() && terminal);
    // A second call changes nothing.
    let _ = match config.log_format.as_str() {
        "compact" => log.compact().try_init(),
        "pretty" => log.pretty().try_init(),
        "json" => log.json().try_init(),
        _ => log.try_init(),
    };
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
