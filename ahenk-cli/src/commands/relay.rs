//! `relay`: run a relay server, through which devices meet that cannot reach each other.
//!
//! It needs no account and no device: only a key of its own, in a file that is made at the first start.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use engine::identity::SecretKey;
use serde_json::json;
use transport_libp2p::{RelayConfig, RelayCounters, RelayLimits, RelayServer, SpawnError};

use super::stats::{prometheus, serve};
use super::{Env, init_logging, service};
use crate::config::relay::{Flags, RELAY_KEYS, RelaySettings};
use crate::error::{CliError, Kind, Result};
use crate::secrets;

/// Where the service looks for its settings.
const SERVICE_CONFIG: &str = "/etc/ahenk/relay.toml";

/// Arguments of `relay`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
A flag goes before its variable, a variable before the file, the file before the
default. `relay config` prints a file with all there is to set.

Examples:
  ahenk-cli relay --external /ip4/203.0.113.5/tcp/4001
  ahenk-cli relay --external /dns/relay.example.org/tcp/4001 \\
    --allow-account 5b0f…
  ahenk-cli relay --ask /ip4/198.51.100.7/tcp/4001/p2p/12D3KooW…

On each device, with the address that the relay prints:
  ahenk-cli config set network.relay_servers \\
    /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW…"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print a file of settings: what is set, and in comments what else may be
    #[command(after_help = "\
Examples:
  ahenk-cli relay config > relay.toml
  AHENK_RELAY_CIRCUITS_MAX=100 ahenk-cli relay config")]
    Config(ConfigArgs),
    /// Print a unit by which systemd runs the relay, as a user of its own
    #[command(after_help = "\
Put the program where every user may run it, and the settings where the unit
says that they are.

Example:
  ahenk-cli relay config | sudo tee /etc/ahenk/relay.toml
  ahenk-cli relay service | sudo tee /etc/systemd/system/ahenk-relay.service
  sudo systemctl enable --now ahenk-relay")]
    Service {
        /// The file with the relay's settings
        #[arg(long, value_name = "FILE", default_value = SERVICE_CONFIG)]
        config: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    file: ConfigArgs,
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The file with the relay's settings [default: relay.toml in the home folder, if it is there]
    #[arg(long, value_name = "FILE", env = "AHENK_RELAY_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn settings(&self, env: &Env, flags: &Flags) -> Result<RelaySettings> {
        if let Some(path) = self.config.as_ref().filter(|path| !path.exists()) {
            return Err(CliError::new(Kind::NotFound, format!("there is no file {}", path.display()))
                .hint("`ahenk-cli relay config > FILE` makes one"));
        }
        let usual = || env.home.dir().join("relay.toml");
        RelaySettings::load(&self.config.clone().unwrap_or_else(usual), flags)
    }
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    match args.command {
        Some(Command::Config(file)) => {
            let settings = file.settings(env, &Flags::of_environment(|name| std::env::var(name).ok()))?;
            let text = settings.file()?;
            let set =
                |key: &crate::config::Key<RelaySettings>| (key.short().to_owned(), json!(key.get(&settings)));
            let set: serde_json::Map<String, serde_json::Value> = RELAY_KEYS.iter().map(set).collect();
            env.out.show(&json!({ "settings": set, "text": text }), |_| text.trim_end().to_owned())
        }
        Some(Command::Service { config }) => {
            let program =
                std::env::current_exe().map_err(|error| CliError::internal(format!("who am I? {error}")))?;
            let config =
                std::path::absolute(&config).map_err(|error| CliError::io("find", &config, &error))?;
            let (name, text) = ("ahenk-relay.service", unit(&program, &config));
            env.out.show(&json!({ "name": name, "text": text }), |_| text.trim_end().to_owned())
        }
        None => serve_devices(env, args.run).await,
    }
}

/// A unit of systemd's system manager.
fn unit(program: &Path, config: &Path) -> String {
    let (program, config) = (service::quoted(program), service::quoted(config));
    // Exit codes that another start would not change: a wrong setting, no such file.
    format!(
        "# Written by `ahenk-cli relay service`.\n\
         [Unit]\n\
         Description=Ahenk relay\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         ExecStart={program} --home %S/ahenk-relay relay --config {config}\n\
         Restart=on-failure\n\
         RestartSec=5\n\
         RestartPreventExitStatus=2 3\n\
         DynamicUser=yes\n\
         StateDirectory=ahenk-relay\n\
         StateDirectoryMode=0700\n\
         UMask=0077\n\
         LimitNOFILE=65536\n\
         NoNewPrivileges=yes\n\
         CapabilityBoundingSet=\n\
         ProtectSystem=strict\n\
         ProtectHome=read-only\n\
         PrivateTmp=yes\n\
         PrivateDevices=yes\n\
         ProtectKernelTunables=yes\n\
         ProtectKernelModules=yes\n\
         ProtectControlGroups=yes\n\
         RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX\n\
         RestrictNamespaces=yes\n\
         LockPersonality=yes\n\
         MemoryDenyWriteExecute=yes\n\
         SystemCallArchitectures=native\n\
         SystemCallFilter=@system-service\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

async fn serve_devices(env: &Env, args: RunArgs) -> Result<()> {
    init_logging("info");
    let settings = args.file.settings(env, &args.flags)?;
    if settings.external.is_empty() && settings.ask.is_empty() {
        return Err(CliError::usage("a relay must know at which addresses devices find it").hint(
            "--external says it, as /ip4/203.0.113.5/tcp/4001; or --ask another relay, by its address",
        ));
    }
    let path =
        if settings.key.is_empty() { env.home.dir().join("relay.key") } else { (&settings.key).into() };
    let limits = settings.limits()?;
    let config = RelayConfig {
        secret: key(&path)?,
        listen: settings.listen.clone(),
        external: settings.external.clone(),
        ask: settings.ask.clone(),
        allow: settings.allow(),
        allow_accounts: settings.allow_accounts(),
        deny: settings.deny(),
        test_private: settings.test_private,
        limits,
    };
    let metrics = match u16::try_from(settings.metrics_port).map_err(CliError::internal)? {
        0 => None,
        port => Some(serve::bind(port).await?),
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
                serve::pages(&listener, async || Ok(page(&relay.counters(), &limits) + &relay.traffic()))
                    .await;
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
        SpawnError::NotConfirmed { .. } => (
            Kind::Network,
            "is the port open, and forwarded to this machine? --external says an address without asking",
        ),
        _ => (Kind::Network, "see --listen"),
    };
    CliError::new(kind, error).hint(hint)
}

/// The counters for Prometheus, and the limits that they are to be compared with.
fn page(counters: &RelayCounters, limits: &RelayLimits) -> String {
    let mut text = prometheus::Text::default();
    let c = counters;
    let mut limit = |name, help, value: u64| text.one(name, "gauge", help, value);
    limit("relay_reservations_max", "Most reservations.", limits.reservations_max as u64);
    limit("relay_circuits_max", "Most circuits.", limits.circuits_max as u64);
    limit("relay_circuit_bytes_max", "Bytes after which a circuit is cut.", limits.circuit_bytes_max);
    let seconds = limits.circuit_seconds_max.into();
    limit("relay_circuit_seconds_max", "Seconds after which a circuit is cut.", seconds);
    limit(
        "relay_peer_bytes_per_second_max",
        "Bytes that a device may send in a second; 0 for any.",
        limits.peer_bytes_per_s_max,
    );
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
    text.one("relay_admitted_total", "counter", "Certificates of accounts that are served.", c.admitted);
    text.one("relay_not_admitted_total", "counter", "Other certificates.", c.not_admitted);
    text.one(
        "relay_tests_refused_total",
        "counter",
        "Tests of reachability at addresses that are not public.",
        c.tests_refused,
    );
    text.finish()
}
