//! `account`: what the devices have in common, and how to get it back with the recovery phrase.

use std::io::IsTerminal as _;

use serde_json::json;

use super::{Env, read_line};
use crate::backend::{Backend, Need};
use crate::error::{CliError, Kind, Result};
use crate::output::printable;
use crate::protocol::Request;
use crate::report::{Device, Status};
use crate::secrets;

/// Subcommands of `account`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the account: its id, its devices, and who administers it
    #[command(after_help = "Example:\n  ahenk-cli account show")]
    Show,
    /// Make this device an administrator again, with the recovery phrase
    #[command(after_help = "\
The 24 words are asked for, or read from stdin; they are not taken as arguments,
which others on this machine could see.

Examples:
  ahenk-cli account recover
  gpg --decrypt phrase.gpg | ahenk-cli account recover")]
    Recover,
}

pub(crate) async fn run(env: &Env, command: Command) -> Result<()> {
    match command {
        Command::Show => show(env).await,
        Command::Recover => recover(env).await,
    }
}

async fn show(env: &Env) -> Result<()> {
    env.with_backend(Need::Store, async |backend| {
        let status: Status = backend.one(Request::Status).await?;
        let devices: Vec<Device> = backend.one(Request::Devices).await?;
        let administrators: Vec<&str> = devices
            .iter()
            .filter(|device| device.admin && !device.revoked)
            .map(|device| device.name.as_str())
            .collect();
        let standing = devices.iter().filter(|device| !device.revoked).count();
        let account = json!({
            "account": status.account,
            "devices": standing,
            "revoked": devices.len() - standing,
            "administrators": administrators,
            "administers": status.admin,
        });
        env.out.show(&account, |_| {
            let revoked = match devices.len() - standing {
                0 => String::new(),
                count => format!(", and {count} revoked"),
            };
            format!(
                "Account         {}\nDevices         {standing}{revoked}\nAdministrators  {}\nThis device     {}",
                status.account,
                administrators.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", "),
                if status.admin { "holds the root key" } else { "does not hold the root key" },
            )
        })
    })
    .await
}

async fn recover(env: &Env) -> Result<()> {
    env.home.require()?;
    let account = env.home.identity()?.account();
    if env.home.root()?.is_some() {
        return Err(CliError::new(Kind::Conflict, "this device holds the account's root key already")
            .hint("`ahenk-cli device invite` and `ahenk-cli device promote` work here"));
    }
    if std::io::stdin().is_terminal() {
        env.out.prompt("Recovery phrase (24 words): ");
    }
    let phrase = read_line().await?.ok_or_else(|| CliError::usage("there is no recovery phrase"))?;
    let root = secrets::root_of_phrase(&phrase)?;
    if root.public() != account.0 {
        return Err(CliError::new(Kind::NotAuthorised, "this phrase belongs to another account")
            .hint("`ahenk-cli account show` names the account of this device"));
    }
    secrets::write_key(&env.home.account_key_path(), &root, env.home.key()?.as_ref())?;
    // Opening the database with the key makes the device an administrator. A daemon opens it when it starts.
    let daemon = env
        .with_backend(Need::Store, async |backend| {
            let _: Status = backend.one(Request::Status).await?;
            Ok(matches!(backend, Backend::Daemon(_)))
        })
        .await?;
    let done = json!({ "account": account.to_string(), "restart_daemon": daemon });
    env.out.show(&done, |_| "This device administers the account now.".to_owned())?;
    if daemon {
        env.out.note(
            "The daemon has to be restarted for it: `ahenk-cli stop`, then `ahenk-cli start --daemon`.",
        );
    }
    Ok(())
}
