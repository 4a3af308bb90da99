//! Writing a backup while everything goes on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use store::BackupError;

use crate::error::{CliError, Kind, Result};
use crate::service::Context;

/// A backup that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackedUp {
    pub(crate) file: String,
    pub(crate) bytes: u64,
}

pub(super) async fn backup(context: &Context, path: PathBuf) -> Result<BackedUp> {
    let (db, target) = (context.db.clone(), path.clone());
    // With the vault as it is now, so that the present passphrase opens it.
    let vault = context.home.vault()?.unwrap_or_default();
    let writing =
        tokio::task::spawn_blocking(move || db.store().backup_with(&target, vault.as_bytes())).await;
    writing.map_err(CliError::internal)?.map_err(|error| failed(&path, error))?;
    let metadata = std::fs::metadata(&path).map_err(|error| CliError::io("read", &path, &error))?;
    Ok(BackedUp { file: path.display().to_string(), bytes: metadata.len() })
}

fn failed(path: &Path, error: BackupError) -> CliError {
    match error {
        BackupError::Exists(_) => CliError::new(Kind::Conflict, error).hint("choose another name"),
        BackupError::Source(error) => error.into(),
        other => CliError::new(Kind::Storage, other)
            .hint(format!("is there a folder {}, with room in it?", path.parent().unwrap_or(path).display())),
    }
}
