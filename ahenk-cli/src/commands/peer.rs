//! `peer`: the ways to the other devices.

use super::Env;
use crate::backend::Need;
use crate::error::Result;
use crate::output::{printable, span, table};
use crate::protocol::Request;
use crate::report::{Added, Peer};

/// Subcommands of `peer`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the other devices: path, round trip, how far in sync
    #[command(after_help = "Example:\n  ahenk-cli peer list --verbose")]
    List {
        /// Addresses, traffic and failures as well
        #[arg(long, short)]
        verbose: bool,
    },
    /// Connect to an address, and remember it if one of the account's devices is there
    #[command(
        after_help = "Examples:\n  ahenk-cli peer add /ip4/192.0.2.7/tcp/4001\n  ahenk-cli peer add /dns4/home.example.org/udp/4001/quic-v1"
    )]
    Add {
        /// A multiaddr, such as /ip4/192.0.2.7/tcp/4001; `status` on the other device shows its addresses
        #[arg(value_name = "MULTIADDR")]
        address: String,
    },
}

pub(crate) async fn run(env: &Env, command: Command) -> Result<()> {
    match command {
        Command::List { verbose } => list(env, verbose).await,
        Command::Add { address } => add(env, address).await,
    }
}

async fn list(env: &Env, verbose: bool) -> Result<()> {
    env.with_backend(Need::Store, async |backend| {
        let peers: Vec<Peer> = backend.one(Request::Peers).await?;
        env.out.show(&peers, |peers| human(peers, verbose))
    })
    .await
}

async fn add(env: &Env, address: String) -> Result<()> {
    env.with_backend(Need::Network, async |backend| {
        let added: Added = backend.one(Request::PeerAdd { address }).await?;
        env.out.show(&added, |added| format!("Connected to {} at {}.", added.name, printable(&added.address)))
    })
    .await
}

/// A table of peers, with for how long each is connected; with details below each if `verbose`.
pub(crate) fn human(peers: &[Peer], verbose: bool) -> String {
    if peers.is_empty() {
        return "This account has no other device yet. `ahenk-cli device invite` adds one.".to_owned();
    }
    let row = |peer: &Peer| {
        let round_trip = peer.round_trip_micros.map(|micros| format!("{:.1} ms", micros as f64 / 1000.0));
        let path = peer.path.clone().unwrap_or_else(|| "not connected".to_owned());
        let since = peer.connected_ms.map(super::ago);
        vec![
            peer.name.clone(),
            path,
            since.unwrap_or_default(),
            round_trip.unwrap_or_default(),
            standing(peer),
        ]
    };
    let rows: Vec<_> = peers.iter().map(row).collect();
    let mut text = table(&["NAME", "PATH", "FOR", "ROUND TRIP", "SYNC"], &rows);
    if verbose {
        peers.iter().for_each(|peer| text.push_str(&details(peer)));
    }
    text
}

/// How far in sync a peer is, in a few words.
pub(crate) fn standing(peer: &Peer) -> String {
    let behind = |commits: Option<u64>| commits.filter(|&commits| commits > 0);
    match (peer.in_sync, behind(peer.peer_lacks), behind(peer.we_lack)) {
        (None, ..) => "".to_owned(),
        (Some(true), ..) => "in sync".to_owned(),
        (Some(false), Some(theirs), Some(ours)) => format!("it lacks {theirs} commits, we lack {ours}"),
        (Some(false), Some(theirs), None) => format!("it lacks {theirs} commits"),
        (Some(false), None, Some(ours)) => format!("we lack {ours} commits"),
        (Some(false), None, None) => "comparing".to_owned(),
    }
}

fn details(peer: &Peer) -> String {
    let mut lines = vec![format!("\n\n{}  {}", peer.name, peer.id)];
    lines.extend(peer.address.as_ref().map(|address| format!("  connected at  {}", printable(address))));
    lines.extend(peer.relay.as_ref().map(|relay| format!("  through relay {}", printable(relay))));
    lines.extend(peer.connected_ms.map(|ms| format!("  connected for {}", super::ago(ms))));
    if peer.connected {
        lines.push(format!("  sync          {}", standing(peer)));
    }
    lines.extend(peer.addresses_ms.map(|ms| format!("  said so       {} ago", super::ago(ms))));
    lines.extend(peer.addresses.iter().map(|address| format!("  may be at     {}", printable(address))));
    if peer.connected {
        let Peer { ops_sent, ops_received, bytes_sent, bytes_received, .. } = peer;
        lines.push(format!("  sent          {ops_sent} operations, {bytes_sent} bytes"));
        lines.push(format!("  received      {ops_received} operations, {bytes_received} bytes"));
    }
    if let Some(error) = peer.last_error.as_ref().filter(|_| !peer.connected) {
        lines.push(format!("  last failure  {}", printable(error)));
    }
    lines.extend(peer.next_attempt_ms.map(|ms| format!("  next attempt  in {}", span(ms))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_says_for_how_long_and_fits_into_80_columns() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let connected_ms = u64::try_from(now.as_millis()).expect("small") - 20 * 86_400_000;
        let peer: Peer = serde_json::from_value(json!({
            "name": "phone", "id": "00000000-0000-0000-0000-000000000000", "connected": true,
            "path": "direct-quic", "address": null, "round_trip_micros": 123_456, "connected_ms": connected_ms,
            "in_sync": false, "peer_lacks": 1_234, "we_lack": 567, "clock_offset_ms": null, "ops_sent": 0,
            "ops_received": 0, "bytes_sent": 0, "bytes_received": 0, "addresses": [], "dial_failures": 0,
            "last_error": null, "next_attempt_ms": null,
        }))
        .expect("a peer");
        let text = human(&[peer], false);
        assert!(text.contains("20 days") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
