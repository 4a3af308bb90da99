//! `pause` and `resume`: have the daemon talk to no other device for a while.

use super::Env;
use crate::backend::Backend;
use crate::error::Result;
use crate::protocol::Request;
use crate::report::Paused;

/// Arguments of `pause`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All connections are closed and none is made or accepted, until
`ahenk-cli resume` or the daemon's end. Reading and writing go on as ever; what
is written meanwhile travels afterwards.
`ahenk-cli config set sync.enabled false` lasts longer.

Example:
  ahenk-cli pause")]
pub(crate) struct PauseArgs {}

/// Arguments of `resume`.
#[derive(Debug, clap::Args)]
#[command(after_help = "All devices are tried at once.\n\nExample:\n  ahenk-cli resume")]
pub(crate) struct ResumeArgs {}

pub(crate) async fn pause(env: &Env, _: PauseArgs) -> Result<()> {
    set(env, true).await
}

pub(crate) async fn resume(env: &Env, _: ResumeArgs) -> Result<()> {
    set(env, false).await
}

async fn set(env: &Env, paused: bool) -> Result<()> {
    env.init_logging();
    let now: Paused = Backend::daemon(&env.home).await?.one(Request::Pause { paused }).await?;
    env.out.show(&now, |now| {
        let text = match (now.paused, now.changed) {
            (true, true) => "Sync is paused. `ahenk-cli resume` lets it go on.",
            (true, false) => "Sync was paused already.",
            (false, true) => "Sync goes on.",
            (false, false) => "Sync was not paused.",
        };
        text.to_owned()
    })
}
