//! `status`: how things stand, once or again and again.

use std::time::Duration;

use super::{Env, peer};
use crate::backend::{Backend, Need};
use crate::error::Result;
use crate::output::{printable, span};
use crate::protocol::Request;
use crate::report::{Fork, Relay, Status};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli status\n  ahenk-cli --json status | jq .digest\n  ahenk-cli status --watch"
)]
pub(crate) struct Args {
    /// Show it again whenever it changes, until interrupted
    #[arg(long, short)]
    watch: bool,
    /// Time between two looks with --watch, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 1, requires = "watch", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    if !args.watch {
        return env.with_backend(Need::Store, async |backend| show(env, &look(backend).await?)).await;
    }
    let mut shown = None;
    loop {
        // Opened anew each time, so that the daemon may come and go meanwhile.
        let now = env.with_backend(Need::Store, async |backend| look(backend).await).await?;
        let comparable = Status { up_ms: None, ..steady(&now) };
        if shown.as_ref() != Some(&comparable) {
            if shown.is_some() && !env.out.json() {
                env.out.line("")?;
            }
            show(env, &now)?;
            shown = Some(comparable);
        }
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
    }
}

/// The status without what changes all the time.
fn steady(status: &Status) -> Status {
    let mut status = status.clone();
    for peer in &mut status.peers {
        (peer.round_trip_micros, peer.next_attempt_ms, peer.clock_offset_ms) = (None, None, None);
        (peer.bytes_sent, peer.bytes_received) = (0, 0);
    }
    status
}

async fn look(backend: &Backend) -> Result<Status> {
    backend.one(Request::Status).await
}

fn show(env: &Env, status: &Status) -> Result<()> {
    env.out.show(status, human)
}

fn relay(relay: &Relay) -> String {
    let state = match (relay.reserved, &relay.last_error) {
        (true, _) => "this device is reachable through it".to_owned(),
        (false, Some(error)) => format!("NOT usable, {} attempts failed: {error}", relay.failures),
        (false, None) => "being asked".to_owned(),
    };
    printable(&format!("Relay     {}: {state}", relay.address))
}

fn human(status: &Status) -> String {
    let daemon = match (status.pid, status.up_ms) {
        (Some(pid), Some(up_ms)) => format!("running, process {pid}, for {}", span(up_ms)),
        _ => "not running (`ahenk-cli start --daemon` starts it)".to_owned(),
    };
    let role = if status.admin { ", administrator" } else { "" };
    let last = status
        .last_sync_ms
        .map_or_else(|| "never since the start".to_owned(), |ms| format!("{} ago", super::ago(ms)));
    let mut lines = vec![
        format!("Daemon    {daemon}"),
        format!("Account   {}", status.account),
        format!("Device    {}  {}{role}", status.device, status.name),
        format!("Home      {}", status.home),
        format!("Commits   {}, digest {}", status.position, status.digest),
    ];
    if status.running {
        lines.push(format!("Last sync {last}"));
        if !status.sync_enabled {
            lines.push("Sync      off, by the setting `sync.enabled`".to_owned());
        }
        if status.paused {
            lines.push("Sync      paused; `ahenk-cli resume` lets it go on".to_owned());
        }
        lines.extend(status.listening.iter().map(|address| format!("Listening {}", printable(address))));
        lines.extend(status.relays.iter().map(relay));
        lines.push(format!("Log       {}", status.log));
    }
    if status.waiting_commits > 0 {
        lines.push(format!("Waiting   {} commits for others that they depend on", status.waiting_commits));
    }
    if let Some(reason) = &status.revoked {
        let reason = if reason.is_empty() { String::new() } else { format!(": {}", printable(reason)) };
        lines.push(format!(
            "Warning   this device was removed from the account{reason}. It keeps its data, and syncs no more.\n\
             \x20         To take part again, pair it anew into another home folder"
        ));
    }
    lines.extend(status.forks.iter().map(|fork| format!("Warning   {}", told(fork))));
    if let Some(ms) = status.copied_ms {
        lines.push(format!(
            "Warning   this database turned out to be a copy, or an older state, {} ago, and goes on as a new replica.\n\
             \x20         Is the original still in use on another machine? Then pair one of the two anew: a device key is for \
             one machine",
            super::ago(ms)
        ));
    }
    if let Some(ms) = status.clock_skew_ms {
        let way = if ms > 0 { "behind" } else { "ahead of" };
        let by = span(ms.unsigned_abs());
        lines.push(format!("Warning   this device's clock is {by} {way} the others'; set it right"));
    }
    lines.push(String::new());
    lines.push(peer::human(&status.peers, false));
    lines.join("\n")
}

/// What a fork is, and what to do, in words.
pub(super) fn told(fork: &Fork) -> String {
    format!(
        "the database of {} ran twice, or its key was stolen: what it wrote after its commit {} counts nowhere.\n\
         \x20         `ahenk-cli quarantine list` shows what this device had of that; pair the copy anew, or revoke the device",
        printable(&fork.device),
        fork.seq
    )
}
