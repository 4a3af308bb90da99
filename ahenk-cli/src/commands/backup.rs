//! `backup` and `restore`: a copy of the whole database, and putting one in its place.

use std::path::PathBuf;

use serde_json::json;
use store::{DataKey, RedbStore};

use super::Env;
use super::export::outside_homes;
use crate::backend::{Backend, Need, connect, in_use};
use crate::data::{BackedUp, DataRequest};
use crate::error::{CliError, Kind, Result};
use crate::progress::Progress;
use crate::protocol::Request;
use crate::report::Status;
use crate::vault;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The copy is of one moment, and is made while everything goes on. It holds the
data, its history and the conflicts, but not this device's keys: `restore` puts
it back on a device of the same account. Never overwrites. That of an encrypted
home is encrypted, and opens with the passphrase of now.

Example:
  ahenk-cli backup ~/backups/ahenk-$(date +%F).redb")]
pub(crate) struct Args {
    /// The file to write
    path: PathBuf,
}

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The backup is checked in full before anything is touched. This device goes on as
a new replica, so nothing that it wrote before can be mistaken; what others know
comes back with the next sync, deletes included. The database that was there
before is kept beside the new one. It is encrypted if this home is, whatever the
backup was.

Example:
  ahenk-cli stop
  ahenk-cli restore ~/backups/ahenk-2026-01-31.redb --force
  ahenk-cli start --daemon")]
pub(crate) struct RestoreArgs {
    /// The backup
    path: PathBuf,
    /// Replace the database that is there; it is kept under another name
    #[arg(long)]
    force: bool,
    /// Read the passphrase of the backup, if it has another than this home, from
    /// the first line of this file [default: asks for it]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    outside_homes(env, &args.path)?;
    // A daemon has a working directory of its own.
    let path = std::path::absolute(&args.path).map_err(|error| CliError::io("find", &args.path, &error))?;
    env.with_backend(Need::Store, async |backend| {
        let progress = Progress::waiting(&env.out, "Copying the database");
        let done: BackedUp = backend.one(Request::Data(DataRequest::Backup { path })).await?;
        drop(progress);
        env.out.show(&done, |done| format!("{} written, {} bytes.", done.file, done.bytes))
    })
    .await
}

pub(crate) async fn restore(env: &Env, args: RestoreArgs) -> Result<()> {
    env.home.require()?;
    // That the database is a copy is no news here.
    super::init_logging("error");
    if connect(&env.home).await?.is_some() {
        return Err(CliError::new(Kind::Conflict, "the daemon is running, and has the database open")
            .hint("`ahenk-cli stop` ends it; then restore, then start it again"));
    }
    let Some(lock) = env.home.try_lock("restore")? else { return Err(in_use(&env.home)) };
    let account = env.home.identity()?.account();
    let progress = Progress::waiting(&env.out, "Checking the backup, and putting it in place");
    let (from, path, force) = (args.path.clone(), env.home.database_path()?, args.force);
    let key = env.home.key()?;
    let own = key_of_backup(&args, key.as_ref())?;
    let restoring = tokio::task::spawn_blocking(move || {
        let backup = store::Backup { path: &from, key: own.as_ref() };
        RedbStore::restore(&backup, &path, account, key.as_ref(), force)
    })
    .await;
    drop(progress);
    let kept = restoring.map_err(CliError::internal)?.map_err(refused)?;
    let backend =
        Backend::Direct(Box::new(crate::session::Session::open(&env.home, Need::Store, lock, None).await?));
    let status = backend.one::<Status>(Request::Status).await;
    backend.close().await?;
    let status = status?;
    let kept = kept.map(|kept| kept.display().to_string());
    let document = json!({
        "restored": args.path.display().to_string(), "position": status.position, "digest": status.digest,
        "replica": status.replica, "replaced": kept,
    });
    env.out.show(&document, |_| {
        let old = kept.map(|kept| format!("\nThe database before is kept as {kept}.")).unwrap_or_default();
        format!(
            "Restored {}: {} commits. The next sync brings what other devices know since.{old}",
            args.path.display(),
            status.position
        )
    })
}

/// The key that a backup was encrypted with: the home's, or what its own vault holds.
fn key_of_backup(args: &RestoreArgs, home: Option<&DataKey>) -> Result<Option<DataKey>> {
    let Some(note) = store::head_note(&args.path).map_err(refused)? else { return Ok(None) };
    if let Some(home) = home
        && store::opens(&args.path, home).map_err(refused)?
    {
        return Ok(Some(home.clone()));
    }
    let what = args.path.display().to_string();
    let vault = String::from_utf8(note).unwrap_or_default();
    let passphrase = match &args.passphrase_file {
        Some(file) => vault::read(file)?,
        None => vault::passphrase_of(&what)?,
    };
    vault::unwrap(&vault, &passphrase, &what).map(Some)
}

fn refused(error: store::OpenError) -> CliError {
    use store::OpenError;
    match &error {
        OpenError::Exists(_) => {
            CliError::new(Kind::Conflict, error).hint("--force replaces it, and keeps it under another name")
        }
        OpenError::NotFound(_) => CliError::new(Kind::NotFound, error).hint("check the name and the folder"),
        OpenError::ForeignAccount { .. } => CliError::new(Kind::NotAuthorised, error)
            .hint("restore it on a device of the account that made it"),
        OpenError::Damaged { .. } => CliError::new(Kind::Storage, error)
            .hint("nothing was changed; `ahenk-cli backup` makes backups, `export` and `import` move rows"),
        _ => CliError::from(error),
    }
}
