//! `sync`: compare with all devices that can be reached, and wait until all know the same.

use super::Env;
use crate::backend::Need;
use crate::error::Result;
use crate::output::span;
use crate::progress::Progress;
use crate::protocol::Request;
use crate::report::Synced;

/// Arguments of `sync`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ahenk-cli sync --timeout 60 && echo done")]
pub(crate) struct Args {
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.with_backend(Need::Network, async |backend| {
        let within_ms = args.timeout.saturating_mul(1000);
        let progress = Progress::waiting(&env.out, "Comparing with the other devices");
        let synced: Result<Synced> = backend.one(Request::Sync { within_ms }).await;
        drop(progress);
        let synced = synced?;
        env.out.show(&synced, |synced| {
            let Synced { peers, devices, took_ms, position, .. } = synced;
            let noun = if *devices == 1 { "device" } else { "devices" };
            let count = if peers < devices { format!("{peers} of {devices}") } else { peers.to_string() };
            let rest = if peers < devices { " The others could not be reached yet." } else { "" };
            format!("In sync with {count} {noun} after {} ({position} commits).{rest}", span(*took_ms))
        })
    })
    .await
}
