//! `device revoke`, `device promote`, `device rename`: what an administrator says of another device.

use super::super::{Env, confirm};
use crate::backend::Need;
use crate::data::DataRequest;
use crate::data::admin::{AdminRequest, Administered};
use crate::error::Result;
use crate::output::printable;
use crate::protocol::Request;

/// Arguments of `device revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What this device has of the revoked device's writes still counts; what it wrote
beyond that counts nowhere, and is kept in `ahenk-cli quarantine` where it had
been applied. The device is told, keeps its own data, and syncs no more. It can
come back only by pairing anew, as a new device.

Examples:
  ahenk-cli device revoke phone --reason 'lost on the train'")]
pub(crate) struct Revoke {
    /// The device: its name, or how its id starts
    #[arg(add = super::super::complete::devices())]
    device: String,
    /// Why, in a few words; the other devices and the revoked one show it
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Do it without asking
    #[arg(long, short)]
    yes: bool,
}

/// Arguments of `device promote`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An administrator can invite, revoke and promote devices. It is given the
account's root key when the two are connected next, and that cannot be taken
back.

Example:
  ahenk-cli device promote desk")]
pub(crate) struct Promote {
    /// The device: its name, or how its id starts
    #[arg(add = super::super::complete::devices())]
    device: String,
    /// Do it without asking
    #[arg(long, short)]
    yes: bool,
}

/// Arguments of `device rename`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ahenk-cli device rename phone 'old phone'")]
pub(crate) struct Rename {
    /// The device: its name, or how its id starts
    #[arg(add = super::super::complete::devices())]
    device: String,
    /// Its new name
    name: String,
}

pub(crate) async fn revoke(env: &Env, args: Revoke) -> Result<()> {
    let question = format!("Revoke {}? It cannot be undone. [y/N] ", printable(&args.device));
    if !args.yes {
        confirm(env, &question).await?;
    }
    let asked = AdminRequest::Revoke { device: args.device, reason: args.reason };
    order(env, asked, |done| format!("{} ({}) is revoked.", printable(&done.name), done.device)).await
}

pub(crate) async fn promote(env: &Env, args: Promote) -> Result<()> {
    let question = format!("Make {} an administrator? It cannot be undone. [y/N] ", printable(&args.device));
    if !args.yes {
        confirm(env, &question).await?;
    }
    let asked = AdminRequest::Certify { device: args.device, name: None, admin: true };
    order(env, asked, |done| {
        format!(
            "{} ({}) administers the account as soon as it is connected.",
            printable(&done.name),
            done.device
        )
    })
    .await
}

pub(crate) async fn rename(env: &Env, args: Rename) -> Result<()> {
    let asked = AdminRequest::Certify { device: args.device, name: Some(args.name), admin: false };
    order(env, asked, |done| format!("{} is now called {}.", done.device, printable(&done.name))).await
}

async fn order(env: &Env, asked: AdminRequest, human: impl FnOnce(&Administered) -> String) -> Result<()> {
    env.with_backend(Need::Store, async |backend| {
        let done: Administered = backend.one(Request::Data(DataRequest::Admin(asked))).await?;
        env.out.show(&done, human)
    })
    .await
}
