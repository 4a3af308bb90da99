//! `device`: the account's devices.

mod invite;
mod join;

use super::Env;
use crate::backend::Need;
use crate::error::Result;
use crate::output::table;
use crate::protocol::Request;
use crate::report::Device;

/// Subcommands of `device`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the account's devices
    List,
    /// Admit another device: prints a single-use code and waits for five minutes
    Invite(invite::Args),
    /// Make this machine a device of an account, with the code that `device invite` shows there
    Join(join::Args),
}

pub(crate) async fn run(env: &Env, command: Command) -> Result<()> {
    match command {
        Command::List => list(env).await,
        Command::Invite(args) => invite::run(env, args).await,
        Command::Join(args) => join::run(env, args).await,
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
    let row = |device: &Device| {
        let seen = match (device.this, device.connected, device.seen_ms) {
            (true, ..) => "this device".to_owned(),
            (_, true, _) => format!("connected, {}", device.path.as_deref().unwrap_or("?")),
            (_, _, Some(ms)) => format!("{} ago", super::ago(ms)),
            (_, _, None) => "not seen yet".to_owned(),
        };
        let role = if device.admin { "administrator" } else { "" };
        vec![device.name.clone(), device.fingerprint.clone(), device.id.clone(), role.to_owned(), seen]
    };
    table(&["NAME", "FINGERPRINT", "ID", "ROLE", "SEEN"], &devices.iter().map(row).collect::<Vec<_>>())
}
