//! `device invite`: admit another device.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use engine::pairing::OFFER_MS;

use super::super::{Env, read_yes};
use super::qr::{self, Picture};
use crate::backend::{Backend, Call, Need, read_item};
use crate::error::Result;
use crate::output::{printable, span};
use crate::pairing::InviteStep;
use crate::protocol::Request;

/// Arguments of `device invite`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli device invite\n  ahenk-cli device invite --address /dns4/home.example.org/tcp/4001"
)]
pub(crate) struct Args {
    /// Admit the device that knows the code without asking
    #[arg(long, short)]
    yes: bool,
    /// Where this device can be reached from the other, for the long form of the code; may be repeated
    #[arg(long, value_name = "MULTIADDR")]
    address: Vec<String>,
    /// Make it an administrator: it can invite and revoke devices, and holds the account's root key
    #[arg(long)]
    admin: bool,
    /// How long the code is good for, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = OFFER_MS / 1000,
        value_parser = clap::value_parser!(u64).range(1..=OFFER_MS / 1000))]
    expires: u64,
    /// Write the long code as a QR code to this PNG file, for whoever may join: it is removed when the offer ends
    #[arg(long, value_name = "FILE")]
    qr: Option<PathBuf>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.with_backend(Need::Network, async |backend| invite(env, backend, args).await).await
}

async fn invite(env: &Env, backend: &Backend, args: Args) -> Result<()> {
    let request = Request::Invite {
        ask: !args.yes,
        admin: args.admin,
        addresses: args.address,
        lifetime_ms: Some(args.expires * 1000),
    };
    let mut call = backend.call(request).await?;
    let (mut next, mut picture) = (call.next().await?, None);
    while let Some(item) = next.take() {
        if env.out.json() {
            env.out.document(&item)?;
        }
        let step: InviteStep = read_item(item)?;
        if let (InviteStep::Code { long_code, .. }, Some(path)) = (&step, &args.qr) {
            picture = Some(Picture::write(long_code, path)?);
        }
        if !env.out.json() {
            tell(env, &step)?;
        }
        next = if matches!(step, InviteStep::Confirm { .. }) {
            ask(env, &mut call).await?
        } else {
            call.next().await?
        };
    }
    drop(picture);
    Ok(())
}

/// Reads the user's answer and passes it on, unless the question lapses before.
async fn ask(env: &Env, call: &mut Call) -> Result<Option<serde_json::Value>> {
    tokio::select! {
        yes = read_yes() => {
            call.answer(yes?).await?;
            call.next().await
        }
        item = call.next() => {
            env.out.note("");
            item
        }
    }
}

fn tell(env: &Env, step: &InviteStep) -> Result<()> {
    match step {
        InviteStep::Code { code, long_code, expires_in_ms } => {
            env.out.line(&format!("Code       {}", env.out.bold(code)))?;
            env.out.line(&format!("Long code  {long_code}"))?;
            if std::io::stdout().is_terminal() {
                env.out.line(&qr::for_terminal(long_code)?)?;
            }
            env.out.note(&format!(
                "\nOn the other machine: `ahenk-cli device join`, and type the code when it asks. Use the long \
                 code if the\ntwo are not on one local network. The code is good for one device, three tries \
                 and {}.\n\nWaiting.",
                span(*expires_in_ms)
            ));
        }
        InviteStep::Confirm { name, id, fingerprint, same_name } => {
            env.out.line(&format!(
                "{} wants to join.\n  Fingerprint  {fingerprint}  (must be the same on its screen)\n  Id           {id}",
                printable(name)
            ))?;
            if *same_name {
                env.out.note("  Another device has this name already; their ids tell them apart.");
            }
            env.out.prompt("Admit it? [y/N] ");
        }
        InviteStep::Attempt { reason, attempts_left } => {
            env.out.note(&format!("A device tried to join: {reason}. Tries left: {attempts_left}"));
        }
        InviteStep::Admitted { name, id, same_name } => {
            env.out.line(&format!("Admitted {} ({id}).", printable(name)))?;
            if *same_name {
                env.out.note("Another device has this name too; `ahenk-cli device list` shows their ids.");
            }
            env.out.note("Bringing it up to date.");
        }
        InviteStep::Finished { synced: true } => env.out.line("It has all the data now.")?,
        InviteStep::Finished { synced: false } => {
            env.out
                .note("It does not have all the data yet; it gets the rest while the daemon runs on both.");
        }
    }
    Ok(())
}
