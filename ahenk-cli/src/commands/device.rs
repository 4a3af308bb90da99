//! `device`: the account's devices.

mod invite;
mod join;
mod manage;
mod qr;

use super::Env;
use crate::backend::Need;
use crate::error::Result;
use crate::output::table;
use crate::protocol::Request;
use crate::report::Device;
use crate::suggest::shown_length;

/// Subcommands of `device`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the account's devices
    #[command(
        after_help = "Examples:\n  ahenk-cli device list\n  ahenk-cli --json device list | jq -r '.[].name'"
    )]
    List,
    /// Admit another device: prints a single-use code and waits for five minutes
    Invite(invite::Args),
    /// Make this machine a device of an account, with the code that `device invite` shows there
    Join(join::Args),
    /// Remove a device from the account: lost, stolen or given away
    Revoke(manage::Revoke),
    /// Make a device an administrator
    Promote(manage::Promote),
    /// Give a device another name
    Rename(manage::Rename),
}

pub(crate) async fn run(env: &Env, command: Command) -> Result<()> {
    match command {
        Command::List => list(env).await,
        Command::Invite(args) => invite::run(env, args).await,
        Command::Join(args) => join::run(env, args).await,
        Command::Revoke(args) => manage::revoke(env, args).await,
        Command::Promote(args) => manage::promote(env, args).await,
        Command::Rename(args) => manage::rename(env, args).await,
    }
}

async fn list(env: &Env) -> Result<()> {
    env.with_backend(Need::Store, async |backend| {
        let devices: Vec<Device> = backend.one(Request::Devices).await?;
        env.out.show(&devices, |devices| human(devices))
    })
    .await
}

fn human(devices: &[Device]) -> String {
    let length = shown_length(&devices.iter().map(|device| device.id.as_str()).collect::<Vec<_>>());
    let row = |device: &Device| {
        let seen = match (device.this, device.connected, device.seen_ms) {
            (true, ..) => "this device".to_owned(),
            (_, true, _) => format!("connected, {}", device.path.as_deref().unwrap_or("?")),
            (_, _, Some(ms)) => format!("{} ago", super::ago(ms)),
            (_, _, None) => "not seen yet".to_owned(),
        };
        let role = match (device.revoked, device.admin) {
            (true, _) => "revoked",
            (_, true) => "administrator",
            _ => "",
        };
        vec![
            device.name.clone(),
            device.fingerprint.clone(),
            device.id[..length.min(device.id.len())].to_owned(),
            role.to_owned(),
            seen,
        ]
    };
    table(&["NAME", "FINGERPRINT", "ID", "ROLE", "SEEN"], &devices.iter().map(row).collect::<Vec<_>>())
}
