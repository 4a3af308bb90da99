//! `device join`: make this machine a device of an account.

use std::io::IsTerminal as _;

use engine::pairing::{Invitation, fingerprint};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::super::init::NewDevice;
use super::super::{Env, read_line};
use crate::backend::{Backend, Need};
use crate::error::{CliError, Kind, Result};
use crate::pairing::{Joining, join};
use crate::protocol::Request;
use crate::report::{Status, Synced};

/// How often the first sync says how far it is, in milliseconds.
const SYNC_STEP_MS: u64 = 3_000;
/// Steps after which it ends when nothing more comes.
const SYNC_STEPS_IDLE_MAX: u32 = 10;
/// Most steps.
const SYNC_STEPS_MAX: u32 = 200;

/// Arguments of `device join`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli device join --name phone\n  ssh laptop cat code.txt | ahenk-cli device join"
)]
pub(crate) struct Args {
    /// The code, short or long [default: asks for it]. Other users of this machine can see the arguments of
    /// a command while it runs, so on a shared one leave it out, or pipe it in
    code: Option<String>,
    #[command(flatten)]
    device: NewDevice,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.init_logging();
    env.home.require_vacant()?;
    let (name, config) = (args.device.name()?, args.device.config()?);
    let invitation = read_code(env, args.code).await?;
    let passphrase = args.device.passphrase()?;
    let joining = Joining {
        home: &env.home,
        invitation: &invitation,
        name: &name,
        config: &config,
        passphrase: passphrase.as_ref(),
    };
    // Interrupted, it tidies up as after any failure.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::internal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::internal)?;
    let interrupted = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(interrupted);
    let found = tokio::select! {
        found = join(&joining, |text| env.out.note(text)) => found?,
        () = &mut interrupted => {
            return Err(CliError::new(Kind::Conflict, "interrupted before this device was admitted")
                .hint("nothing was left behind; join again with the same code or a new one"));
        }
    };
    let identity = &found.identity;
    env.out.note(&format!("Admitted by {}. Bringing this device up to date.", found.inviter));
    let synced = env
        .with_backend(Need::Network, async |backend| {
            tokio::select! {
                synced = first_sync(env, backend) => synced,
                () = &mut interrupted => Err(CliError::new(Kind::Conflict, "interrupted")),
            }
        })
        .await;
    let joined = json!({
        "account": identity.account().to_string(),
        "device": identity.device().to_string(),
        "name": name,
        "fingerprint": fingerprint(&identity.peer_key()),
        "inviter": found.inviter,
        "home": env.home.dir().display().to_string(),
        "synced": synced.is_ok(),
    });
    env.out.show(&joined, |_| {
        format!("This machine is now the device {name:?} of account {}.", identity.account())
    })?;
    let standing = match synced {
        Ok(synced) => format!("It has all the data of {} ({} commits).", found.inviter, synced.position),
        Err(error) => format!("The first sync is not complete ({error}); the daemon goes on with it."),
    };
    env.out.note(&standing);
    env.out.note("Next: `ahenk-cli start --daemon`.");
    Ok(())
}

/// Syncs until done, for as long as it makes progress.
async fn first_sync(env: &Env, backend: &Backend) -> Result<Synced> {
    let mut position = 0;
    for step in 0.. {
        match backend.one(Request::Sync { within_ms: SYNC_STEP_MS }).await {
            Err(error) if error.kind == Kind::Network && step < SYNC_STEPS_MAX => {
                let status: Status = backend.one(Request::Status).await?;
                if status.position > position {
                    position = status.position;
                    env.out.note(&format!("  {position} commits so far"));
                } else if step >= SYNC_STEPS_IDLE_MAX {
                    return Err(error);
                }
            }
            ended => return ended,
        }
    }
    Err(CliError::internal("the steps of a sync ran out"))
}

async fn read_code(env: &Env, argument: Option<String>) -> Result<Invitation> {
    let text = match argument.map(Zeroizing::new) {
        Some(text) => text,
        None => {
            if std::io::stdin().is_terminal() {
                env.out.prompt("Code: ");
            }
            read_line().await?.ok_or_else(|| {
                CliError::usage("there is no code")
                    .hint("`ahenk-cli device invite` on the other device shows it")
            })?
        }
    };
    Invitation::parse(text.trim()).map_err(|error| {
        CliError::usage(error).hint("`ahenk-cli device invite` on the other device shows the code")
    })
}
