//! `vault`: whether this device's home is encrypted, making it so or not, and another passphrase for it.

use std::path::PathBuf;

use serde_json::json;

use super::Env;
use crate::backend::{connect, in_use};
use crate::conversion::{self, Form};
use crate::error::{CliError, Kind, Result};
use crate::progress::Progress;
use crate::{home, keychain, vault};

/// Subcommands of `vault`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show whether the keys and the database of this device are encrypted
    #[command(after_help = "Example:\n  ahenk-cli vault status")]
    Status,
    /// Encrypt the keys and the database of this device
    #[command(after_help = "\
The daemon must not run. All is written anew and then put in place at one go: a
power cut at any moment leaves the home as it was or encrypted. This device goes
on as a new replica, as after `restore`. What was there is removed, but a disk,
a flash disk above all, may keep traces of it, and backups stay as they are:
where that matters, make a new account in an encrypted home and import there.

Examples:
  ahenk-cli stop
  ahenk-cli vault encrypt
  AHENK_PASSPHRASE_FILE=phrase.txt ahenk-cli vault encrypt")]
    Encrypt,
    /// Keep the keys and the database of this device in plain text from now on
    #[command(after_help = "\
The daemon must not run. Asks for the passphrase. A power cut at any moment
leaves the home as it was or in plain text. This device goes on as a new
replica, as after `restore`.

Example:
  ahenk-cli vault decrypt")]
    Decrypt,
    /// Let the keychain of the operating system open this home, or no longer
    #[command(after_help = "\
With `on`, the key of the home lies in the keychain as well: whoever is logged
in as you, and every program that runs as you then, opens the home without the
passphrase, which goes on to open it. Only in programs that were built with
`--features keychain`.

Examples:
  ahenk-cli vault keychain on
  ahenk-cli vault keychain off")]
    Keychain {
        /// Whether it is to open the home
        state: Keychain,
    },
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

/// Whether the keychain opens the home.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Keychain {
    /// It does
    On,
    /// It does not
    Off,
}

pub(crate) async fn run(env: &Env, command: &Command) -> Result<()> {
    env.home.require()?;
    let encrypted = env.home.encrypted()?;
    match command {
        Command::Status => {
            let kept = encrypted && keychain::name(&env.home)?.is_some();
            env.out.show(&json!({ "encrypted": encrypted, "keychain": kept }), |_| {
                let text = match (encrypted, kept) {
                    (false, _) => "not encrypted",
                    (true, false) => "encrypted with a passphrase",
                    (true, true) => "encrypted with a passphrase; the keychain opens them, too",
                };
                format!("Keys and database are {text}.")
            })
        }
        Command::Keychain { state } => {
            let on = matches!(state, Keychain::On);
            match env.home.key()? {
                Some(key) if on => keychain::keep(&env.home, &key)?,
                Some(_) => keychain::forget(&env.home)?,
                None => {
                    return Err(CliError::new(
                        Kind::NotFound,
                        "this home is not encrypted, so it has no key",
                    )
                    .hint("`vault encrypt` makes it one that is"));
                }
            }
            env.out.show(&json!({ "keychain": on }), |_| match on {
                true => "The keychain opens this home from now on.".to_owned(),
                false => "The keychain does not open this home.".to_owned(),
            })
        }
        Command::Encrypt => convert(env, true).await,
        Command::Decrypt => convert(env, false).await,
        Command::Passphrase { new_file } => {
            if !encrypted {
                return Err(CliError::new(
                    Kind::NotFound,
                    "this home is not encrypted, so it has no passphrase",
                )
                .hint("`vault encrypt` makes it one that is"));
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

/// Makes the home encrypted, or plain.
async fn convert(env: &Env, encrypt: bool) -> Result<()> {
    if connect(&env.home).await?.is_some() {
        return Err(CliError::new(Kind::Conflict, "the daemon is running, and has the database open")
            .hint("`ahenk-cli stop` ends it; start it again afterwards"));
    }
    let what = if encrypt { "vault encrypt" } else { "vault decrypt" };
    let Some(lock) = env.home.try_lock(what)? else { return Err(in_use(&env.home)) };
    // Looked at under the lock.
    if env.home.encrypted()? == encrypt {
        let already = if encrypt { "encrypted already" } else { "not encrypted" };
        return Err(CliError::new(Kind::Conflict, format!("this home is {already}"))
            .hint("`ahenk-cli vault status` says how it is"));
    }
    let old = env.home.key()?;
    let new: Form = match encrypt {
        true => {
            let (passphrase, key) = (vault::new_passphrase()?, vault::new_key()?);
            let vault = vault::wrap(&key, &passphrase)?;
            Some((key, vault))
        }
        false => None,
    };
    let progress = Progress::waiting(&env.out, "Writing everything anew");
    let home = env.home.clone();
    let converting = tokio::task::spawn_blocking(move || {
        let converted = conversion::convert(&home, old.as_ref(), &new, &mut |_| Ok(()));
        if converted.is_err() {
            // As after a power cut. If this fails too, whoever comes next tries it again.
            let _ = conversion::recover(&home);
        }
        converted
    })
    .await;
    drop(progress);
    converting.map_err(CliError::internal)??;
    if !encrypt && let Err(error) = keychain::forget(&env.home) {
        env.out.note(&format!("A key that opens nothing any more stays in the keychain: {error}"));
    }
    let left: Vec<String> =
        conversion::put_aside(&env.home)?.iter().map(|path| path.display().to_string()).collect();
    drop(lock);
    env.out.show(&json!({ "encrypted": encrypt, "left": left }), |_| {
        let mut text = match encrypt {
            true => "Keys and database are encrypted from now on.".to_owned(),
            false => "Keys and database are in plain text from now on.".to_owned(),
        };
        if !left.is_empty() {
            let left = left.join("\n  ");
            text.push_str(&format!("\nDatabases that were put aside earlier stay as they are:\n  {left}"));
        }
        text
    })
}
