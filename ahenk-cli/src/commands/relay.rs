//! `relay`: run a relay server, through which devices meet that cannot reach each other.
//!
//! It needs no account and no device: only a key of its own, in a file that is made at the first start.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use engine::identity::{PeerKey, SecretKey};
use serde_json::json;
use transport_libp2p::{RelayConfig, RelayCounters, RelayLimits, RelayServer, SpawnError, parse_peer};

use super::stats::{prometheus, serve};
use super::{Env, init_logging};
use crate::error::{CliError, Kind, Result};
use crate::secrets;

/// Least bytes and time of a circuit: with less, a first sync of some size would be cut again and again.
const CIRCUIT_BYTES_MIN: u64 = 1024 * 1024 * 1024;
const CIRCUIT_SECONDS_MIN: u32 = 3600;

/// Arguments of `relay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ahenk-cli relay --external /ip4/203.0.113.5/tcp/4001\n  \
    ahenk-cli relay --external /dns/relay.example.org/tcp/4001 --allow 12D3KooW…\n\n\
    On each device, with the address that the relay prints:\n  \
    ahenk-cli config set network.relay_servers \\\n    \
    /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW…")]
pub(crate) struct Args {
    /// An address at which devices find this relay; may be given several times
    #[arg(
        long,
        required = true,
        value_name = "MULTIADDR",
        env = "AHENK_RELAY_EXTERNAL",
        value_delimiter = ','
    )]
    external: Vec<String>,
    /// An address to listen on; may be given several times
    #[arg(long, value_name = "MULTIADDR", env = "AHENK_RELAY_LISTEN", value_delimiter = ',',
        default_values = ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"])]
    listen: Vec<String>,
    /// The file with the relay's key, made if it is not there [default: relay.key in the home folder]
    #[arg(long, value_name = "FILE", env = "AHENK_RELAY_KEY")]
    key: Option<PathBuf>,
    /// A device that may use it, by the id after /p2p/ in its addresses; without any, all may
    #[arg(long, value_name = "PEER", env = "AHENK_RELAY_ALLOW", value_delimiter = ',')]
    allow: Vec<String>,
    /// Most devices reachable through it at a time
    #[arg(long, value_name = "N", default_value_t = RelayLimits::default().reservations_max)]
    reservations_max: usize,
    /// Most circuits at a time
    #[arg(long, value_name = "N", default_value_t = RelayLimits::default().circuits_max)]
    circuits_max: usize,
    /// Most circuits at a time that one device opens
    #[arg(long, value_name = "N", default_value_t = RelayLimits::default().circuits_per_peer_max)]
    circuits_per_peer_max: usize,
    /// Bytes after which a circuit is cut; at least 1 GiB
    #[arg(long, value_name = "BYTES", default_value_t = RelayLimits::default().circuit_bytes_max,
        value_parser = clap::value_parser!(u64).range(CIRCUIT_BYTES_MIN..))]
    circuit_bytes_max: u64,
    /// Seconds after which a circuit is cut; at least an hour
    #[arg(long, value_name = "SECONDS", default_value_t = RelayLimits::default().circuit_seconds_max,
        value_parser = clap::value_parser!(u32).range(i64::from(CIRCUIT_SECONDS_MIN)..))]
    circuit_seconds_max: u32,
    /// Serve counters for Prometheus at this loopback port; 0 for any that is free
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    init_logging("info");
    let allow = args.allow.iter().map(|text| parse_peer(text).map_err(CliError::usage));
    let allow = allow.collect::<Result<Vec<PeerKey>>>()?;
    let config = RelayConfig {
        secret: key(&args.key.unwrap_or_else(|| env.home.dir().join("relay.key")))?,
        listen: args.listen,
        external: args.external,
        allow: (!allow.is_empty()).then_some(allow),
        limits: RelayLimits {
            reservations_max: args.reservations_max,
            circuits_max: args.circuits_max,
            circuits_per_peer_max: args.circuits_per_peer_max,
            circuit_bytes_max: args.circuit_bytes_max,
            circuit_seconds_max: args.circuit_seconds_max,
        },
    };
    let metrics = match args.metrics_port {
        Some(port) => Some(serve::bind(port).await?),
        None => None,
    };
    let relay = RelayServer::spawn(config).await.map_err(|error| failed(&error))?;
    let url = metrics.as_ref().map(|(_, url)| url);
    env.out.show(&json!({ "addresses": relay.addresses(), "metrics": url }), |_| {
        let mut lines = vec!["The relay is running. Tell each device, in one `config set`:".to_owned()];
        lines.push(format!("  ahenk-cli config set network.relay_servers {}", relay.addresses().join(" ")));
        lines.extend(url.map(|url| format!("Metrics at {url}")));
        lines.join("\n")
    })?;
    let ended = async {
        match metrics {
            Some((listener, _)) => {
                serve::pages(&listener, async || Ok(page(&relay.counters()) + &relay.traffic())).await;
            }
            None => std::future::pending().await,
        }
    };
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(CliError::internal)?;
    tokio::select! {
        () = ended => {}
        _ = terminated.recv() => {}
        signal = tokio::signal::ctrl_c() => signal.map_err(CliError::internal)?,
    }
    relay.close().await;
    Ok(())
}

/// The relay's key, from its file.
fn key(path: &Path) -> Result<SecretKey> {
    if path.try_exists().map_err(|error| CliError::io("read", path, &error))? {
        return secrets::read_key(path, None);
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
        made.map_err(|error| CliError::io("create", folder, &error))?;
    }
    let key = secrets::new_key()?;
    secrets::write_key(path, &key, None)?;
    Ok(key)
}

fn failed(error: &SpawnError) -> CliError {
    let (kind, hint) = match error {
        SpawnError::Address(_) | SpawnError::NoExternalAddress => {
            (Kind::Usage, "an address looks like /ip4/203.0.113.5/tcp/4001")
        }
        SpawnError::AddressInUse { .. } => (Kind::Conflict, "choose another port with --listen"),
        _ => (Kind::Network, "see --listen"),
    };
    CliError::new(kind, error).hint(hint)
}

/// The counters for Prometheus.
fn page(counters: &RelayCounters) -> String {
    let mut text = prometheus::Text::default();
    let c = counters;
    text.one("relay_connections", "gauge", "Peers connected.", c.connections);
    text.one("relay_reservations", "gauge", "Devices reachable through this relay.", c.reservations);
    text.one(
        "relay_reservations_total",
        "counter",
        "Reservations made and renewed.",
        c.reservations_accepted,
    );
    text.one("relay_reservations_denied_total", "counter", "Reservations refused.", c.reservations_denied);
    text.one("relay_circuits", "gauge", "Circuits that are open.", c.circuits);
    text.one("relay_circuits_total", "counter", "Circuits opened.", c.circuits_accepted);
    text.one("relay_circuits_denied_total", "counter", "Circuits refused.", c.circuits_denied);
    text.finish()
}
