//! `export`: rows as JSON Lines, on stdout or in a file that appears as a whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Env;
use crate::backend::Need;
use crate::data::DataRequest;
use crate::error::{CliError, Kind, Result};
use crate::progress::Progress;
use crate::protocol::Request;

const AFTER_HELP: &str = "\
Each line is {\"table\":…,\"row\":…,\"fields\":{…}}; `import` without --table reads
such a file back, and nothing is lost on the way. A row that is larger than one
transaction takes several lines, each with some of its fields. Rows that are
written while the export runs may or may not be in it.

Examples:
  ahenk-cli export > everything.jsonl
  ahenk-cli export tasks.jsonl --table tasks";

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// This table only
    #[arg(long, add = super::complete::tables())]
    table: Option<String>,
    /// Write to this file [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, requires = "output")]
    force: bool,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    let request = Request::Data(DataRequest::Export { table: args.table });
    let Some(path) = args.output else {
        return to_stdout(env, request).await;
    };
    outside_homes(env, &path)?;
    if !args.force && path.exists() {
        return Err(CliError::new(Kind::Conflict, format!("{} is there already", path.display()))
            .hint("--force replaces it"));
    }
    let mut file = Partial::create(&path)?;
    let rows = env
        .with_backend(Need::Store, async |backend| {
            let (mut call, mut rows) = (backend.call(request).await?, 0_u64);
            let mut last = None;
            let progress = Progress::counting(&env.out, "Rows written");
            while let Some(item) = call.next().await? {
                file.line(&item.to_string())?;
                let row = Some((item["table"].clone(), item["row"].clone()));
                if row != last {
                    rows += 1;
                    progress.one_more();
                }
                last = row;
            }
            Ok(rows)
        })
        .await?;
    file.finish()?;
    env.out.show(&json!({ "rows": rows, "file": path.display().to_string() }), |_| {
        format!("{rows} rows written to {}.", path.display())
    })
}

async fn to_stdout(env: &Env, request: Request) -> Result<()> {
    env.with_backend(Need::Store, async |backend| {
        // Where the rows themselves are on the screen, nobody needs a count of them.
        let hidden = std::io::stdout().is_terminal();
        let progress = (!hidden).then(|| Progress::counting(&env.out, "Rows written"));
        let mut call = backend.call(request).await?;
        while let Some(item) = call.next().await? {
            env.out.document(&item)?;
            progress.iter().for_each(Progress::one_more);
        }
        Ok(())
    })
    .await
}

/// An error if the file would lie in a device's home: a slip there replaces keys or the database.
pub(super) fn outside_homes(env: &Env, path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| CliError::io("find", path, &error);
    // Links are followed: what counts is the folder where the file would come to be.
    let folder = std::path::absolute(path).map_err(failed)?;
    let folder = folder.parent().map_or(Ok(PathBuf::from("/")), fs::canonicalize).map_err(failed)?;
    let own = fs::canonicalize(env.home.dir()).ok();
    let is_home = |folder: &Path| {
        own.as_deref() == Some(folder)
            || ["ahenk.redb", "daemon.lock"].iter().any(|name| folder.join(name).exists())
    };
    match folder.ancestors().find(|folder| is_home(folder)) {
        None => Ok(()),
        Some(home) => {
            let message = format!("{} lies in a device's home folder, {}", path.display(), home.display());
            Err(CliError::usage(message).hint("write to a file outside of it"))
        }
    }
}

/// A file that is being written beside its place.
pub(super) struct Partial {
    file: BufWriter<File>,
    beside: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Partial {
    pub(super) fn create(path: &Path) -> Result<Partial> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".partial-{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let mut options = OpenOptions::new();
        // The rows are as private as the database that they come from.
        let file = options.write(true).create_new(true).mode(0o600).open(&beside);
        let file = file.map_err(|error| CliError::io("create", &beside, &error))?;
        Ok(Partial { file: BufWriter::new(file), beside, path: path.to_owned(), done: false })
    }

    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.file, "{text}").map_err(|error| CliError::io("write", &self.beside, &error))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        written
            .and_then(|()| fs::rename(&self.beside, &self.path))
            .map_err(|error| CliError::io("write", &self.path, &error))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            // Half an export helps nobody; if it stays, its name says what it is.
            let _ = fs::remove_file(&self.beside);
        }
    }
}
