//! `logs`: what the daemon has logged.
//!
//! Invariant: a line is printed once and whole, also when the log is put aside while it is followed.

mod record;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::Env;
use crate::error::{CliError, Kind, Result};
use crate::logging::put_aside;
use record::{Record, Records};

/// What is shown unless more is asked for.
const LINES_DEFAULT: u64 = 50;
/// Time between two looks with `--follow`.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longest line that is read as one, in bytes.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// How grave a record is, from the gravest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The log is where the setting log.file says, with older parts beside it. What a
daemon in the foreground logs goes to its terminal instead. `log set` changes
what a running daemon logs.

Examples:
  ahenk-cli logs --follow
  ahenk-cli logs --lines 500 --level warn
  ahenk-cli --json logs | jq -r .target")]
pub(crate) struct Args {
    /// Go on with what comes, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only the newest N records
    #[arg(long, short = 'n', value_name = "N", default_value_t = LINES_DEFAULT)]
    lines: u64,
    /// Only records as grave as this, or graver
    #[arg(long, value_enum)]
    level: Option<Level>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.home.require()?;
    let path = env.home.log_path();
    let mut tail = Tail::open(&path)?;
    if tail.is_none() && !args.follow {
        return Err(CliError::new(Kind::NotFound, format!("there is no log at {}", path.display()))
            .hint("a daemon in the background writes one: `ahenk-cli start --daemon`"));
    }
    let wanted = |record: &Record| args.level.is_none_or(|level| record.level <= level);
    for record in newest(&path, tail.as_mut(), args.lines, wanted)? {
        print(env, &record)?;
    }
    if !args.follow {
        return Ok(());
    }
    let following = async {
        let mut records = Records::default();
        loop {
            if tail.is_none() {
                tail = Tail::open(&path)?;
            }
            if let Some(tail) = &mut tail {
                for line in tail.next_lines(&path)? {
                    records.line(&line);
                }
                // What has been written is whole: the rest of a record follows its first line at once.
                for record in records.finish().into_iter().filter(wanted) {
                    print(env, &record)?;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        result = following => result,
        signal = tokio::signal::ctrl_c() => signal.map_err(CliError::internal),
    }
}

fn print(env: &Env, record: &Record) -> Result<()> {
    env.out.show(&record.document(), |_| record.text.clone())
}

/// The newest records that are wanted, oldest first, from as many files as they take.
fn newest(
    path: &Path,
    tail: Option<&mut Tail>,
    count: u64,
    wanted: impl Fn(&Record) -> bool,
) -> Result<VecDeque<Record>> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (mut found, Some(tail)) = (VecDeque::new(), tail) else { return Ok(VecDeque::new()) };
    let mut lines = tail.next_lines(path)?;
    for aside in 1.. {
        let mut records = Records::default();
        lines.iter().for_each(|line| records.line(line));
        for record in records.finish().into_iter().rev().filter(&wanted) {
            if found.len() >= count {
                return Ok(found);
            }
            found.push_front(record);
        }
        match Tail::open(&put_aside(path, aside))? {
            Some(mut older) => lines = older.rest()?,
            None => break,
        }
    }
    Ok(found)
}

/// A log that is read on from where it was left.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: BufReader<File>,
    /// What tells the file from another one of that name.
    identity: (u64, u64),
    /// Up to where lines were read.
    read: u64,
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Tail {
    /// A log from its beginning; `None` if there is none.
    fn open(path: &Path) -> Result<Option<Tail>> {
        let failed = |error: std::io::Error| CliError::io("read", path, &error);
        match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
            Ok(file) => {
                let metadata = file.metadata().map_err(failed)?;
                let identity = (metadata.dev(), metadata.ino());
                Ok(Some(Tail { path: path.to_owned(), file: BufReader::new(file), identity, read: 0 }))
            }
        }
    }

    /// The whole lines that have come, from the files that were put aside meanwhile too.
    fn next_lines(&mut self, path: &Path) -> Result<Vec<String>> {
        let mut lines = self.rest()?;
        if identity(path) == Some(self.identity) {
            return Ok(lines);
        }
        // It was put aside: what comes after it is in the files that are newer, as far as they are still there.
        let (mut newer, mut found): (Vec<Tail>, _) = (Tail::open(path)?.into_iter().collect(), false);
        let current = newer.len();
        for aside in 1.. {
            let Some(next) = Tail::open(&put_aside(path, aside))? else { break };
            found = next.identity == self.identity;
            if found {
                break;
            }
            newer.push(next);
        }
        if !found {
            newer.truncate(current);
        }
        lines.extend(self.rest()?);
        while let Some(mut next) = newer.pop() {
            lines.extend(next.rest()?);
            *self = next;
        }
        Ok(lines)
    }

    /// The whole lines from where it was left to the end of this file.
    fn rest(&mut self) -> Result<Vec<String>> {
        let read = || -> std::io::Result<Vec<String>> {
            let mut lines = Vec::new();
            self.file.seek(SeekFrom::Start(self.read))?;
            loop {
                let mut line = Vec::new();
                let count = self.file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? as u64;
                if line.last() != Some(&b'\n') && count < LINE_BYTES_MAX {
                    return Ok(lines);
                }
                self.read += count;
                lines.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
            }
        };
        let mut read = read;
        read().map_err(|error| CliError::io("read", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_put_aside_while_it_is_followed_is_read_once_and_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        std::fs::write(&path, "1\n2\nhal").expect("written");
        let mut tail = Tail::open(&path).expect("readable").expect("there");
        assert_eq!(tail.next_lines(&path).expect("read"), ["1", "2"]);
        std::fs::write(&path, "1\n2\nhalf\n3\n").expect("written");
        // Put aside twice between two looks.
        std::fs::rename(&path, put_aside(&path, 2)).expect("renamed");
        std::fs::write(put_aside(&path, 1), "4\n").expect("written");
        std::fs::write(&path, "5\n").expect("written");
        assert_eq!(tail.next_lines(&path).expect("read"), ["half", "3", "4", "5"]);
        assert_eq!(tail.next_lines(&path).expect("read"), Vec::<String>::new());
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(tail.next_lines(&path).expect("read"), Vec::<String>::new());
        std::fs::write(&path, "6\n").expect("written");
        assert_eq!(tail.next_lines(&path).expect("read"), ["6"]);
    }

    #[test]
    fn the_newest_records_are_taken_from_as_many_files_as_they_take() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let line = |level: &str, n: u32| format!("2026-01-31T00:00:00Z  {level} t: {n}\n");
        std::fs::write(put_aside(&path, 2), line("INFO", 1) + &line("WARN", 2)).expect("written");
        std::fs::write(put_aside(&path, 1), line("INFO", 3) + &line("ERROR", 4)).expect("written");
        std::fs::write(&path, line("INFO", 5)).expect("written");
        let read = |count: u64, level: Level| -> Vec<String> {
            let mut tail = Tail::open(&path).expect("readable");
            let records = newest(&path, tail.as_mut(), count, |record| record.level <= level);
            records
                .expect("read")
                .into_iter()
                .map(|record| record.text[record.text.len() - 1..].into())
                .collect()
        };
        assert_eq!(read(3, Level::Trace), ["3", "4", "5"]);
        assert_eq!(read(99, Level::Trace), ["1", "2", "3", "4", "5"]);
        assert_eq!(read(99, Level::Warn), ["2", "4"]);
        assert_eq!(read(1, Level::Warn), ["4"]);
        assert!(read(0, Level::Trace).is_empty());
    }
}
