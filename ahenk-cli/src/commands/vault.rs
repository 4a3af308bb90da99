//! `vault`: whether this device's home is encrypted, and another passphrase for it.

use std::path::PathBuf;

use serde_json::json;

use super::Env;
use crate::error::{CliError, Kind, Result};
use crate::{home, vault};

/// Subcommands of `vault`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show whether the keys and the database of this device are encrypted
    #[command(after_help = "Example:\n  ahenk-cli vault status")]
    Status,
    /// Change the passphrase
    #[command(after_help = "\
The data stays encrypted with the same key, which the new passphrase opens from
now on. Copies of vault.key and backups made before still open with the old one.

Examples:
  ahenk-cli vault passphrase
  AHENK_PASSPHRASE_FILE=old.txt ahenk-cli vault passphrase --new-file new.txt")]
    Passphrase {
        /// Read the new one from the first line of this file [default: asks for it]
        #[arg(long, value_name = "FILE")]
        new_file: Option<PathBuf>,
    },
}

pub(crate) fn run(env: &Env, command: &Command) -> Result<()> {
    env.home.require()?;
    let encrypted = env.home.encrypted()?;
    match command {
        Command::Status => env.out.show(&json!({ "encrypted": encrypted }), |_| {
            let text = if encrypted { "encrypted with a passphrase" } else { "not encrypted" };
            format!("Keys and database are {text}.")
        }),
        Command::Passphrase { new_file } => {
            if !encrypted {
                return Err(CliError::new(
                    Kind::NotFound,
                    "this home is not encrypted, so it has no passphrase",
                )
                .hint("`init --encrypt` and `device join --encrypt` make homes that are"));
            }
            let key = env.home.key()?.ok_or_else(|| CliError::internal("an encrypted home without a key"))?;
            let new = match new_file {
                Some(file) => vault::long_enough(vault::read(file)?)?,
                // What is at hand for unattended use is the old one.
                None => vault::typed_passphrase()?,
            };
            home::replace(&env.home.vault_path(), vault::wrap(&key, &new)?.as_bytes())?;
            env.out.show(&json!({ "changed": true }), |_| "The new passphrase counts from now on.".to_owned())
        }
    }
}
