//! `wait`: until this device is connected, or in sync. For scripts.

use super::Env;
use crate::backend::Need;
use crate::error::{CliError, Result};
use crate::output::{printable, span};
use crate::progress::Progress;
use crate::protocol::Request;
use crate::report::Waited;

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In sync is this device when at least one other is connected, and all that are
know what it knows; with --peer, when those do. Without a daemon it connects by
itself, for as long as it waits.

Exit codes: 0 when it is so, 7 when the time is up.

Examples:
  ahenk-cli wait --synced --timeout 60 && systemctl suspend
  ahenk-cli wait --peer phone                       until it is connected
  ahenk-cli wait --synced --peer phone --peer nas   until both have it all")]
pub(crate) struct Args {
    /// Until this device is in sync
    #[arg(long)]
    synced: bool,
    /// Until this device is connected: its name, or how its id starts; may be repeated
    #[arg(long, value_name = "DEVICE", add = super::complete::peers())]
    peer: Vec<String>,
    /// How long, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    if !args.synced && args.peer.is_empty() {
        return Err(CliError::usage("what is to be waited for?")
            .hint("as in: ahenk-cli wait --synced, or ahenk-cli wait --peer phone"));
    }
    env.with_backend(Need::Network, async |backend| {
        let within_ms = args.timeout.saturating_mul(1000);
        let request = Request::Wait { synced: args.synced, peers: args.peer, within_ms };
        let progress = Progress::waiting(&env.out, "Waiting");
        let waited: Result<Waited> = backend.one(request).await;
        drop(progress);
        let waited = waited?;
        env.out.show(&waited, |waited| {
            let names = waited.peers.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
            let what = if args.synced { "In sync with" } else { "Connected to" };
            format!("{what} {names} after {}.", span(waited.took_ms))
        })
    })
    .await
}
