//! `init`: a new account, with this machine as its first device.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::identity::{DeviceCert, Identity, PeerKey, device_name_ok};
use serde_json::json;

use super::Env;
use crate::config::{self, Config, Settings};
use crate::error::{CliError, Result};
use crate::home::environment;
use crate::{secrets, session, vault};

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli init --name laptop\n  ahenk-cli init --encrypt\n  ahenk-cli init --name server --listen /ip4/0.0.0.0/tcp/4001 --no-mdns"
)]
pub(crate) struct Args {
    #[command(flatten)]
    device: NewDevice,
}

/// What a new device may be told, however it comes about.
#[derive(Debug, clap::Args)]
pub(crate) struct NewDevice {
    /// What to call this device [default: AHENK_DEVICE_NAME, or the machine's name]
    #[arg(long)]
    name: Option<String>,
    /// Listen here: a multiaddr with TCP or QUIC; may be repeated [default: any port on all interfaces]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Encrypt the keys and the database, with a passphrase that is asked for
    #[arg(long)]
    encrypt: bool,
    /// Do not look for devices on the local network, nor be found there
    #[arg(long)]
    no_mdns: bool,
}

impl NewDevice {
    /// The name, checked.
    pub(crate) fn name(&self) -> Result<String> {
        let set = set_for("device.name")?.device_name;
        let set = Some(set).filter(|name| !name.is_empty());
        let name = self.name.clone().or(set).unwrap_or_else(machine_name);
        if device_name_ok(&name) {
            return Ok(name);
        }
        Err(CliError::usage("a device name is 1 to 64 bytes of printable text")
            .hint("choose one with --name NAME"))
    }

    /// The passphrase, if it is to be encrypted.
    pub(crate) fn passphrase(&self) -> Result<Option<vault::Passphrase>> {
        if self.encrypt { vault::new_passphrase().map(Some) } else { Ok(None) }
    }

    /// The configuration, checked: what `start` would refuse is refused before there is anything.
    pub(crate) fn config(&self) -> Result<Config> {
        // Where the data is must be known without the variable, too.
        let database_path = set_for("database.path")?.database_path;
        let mut config = Config { mdns: !self.no_mdns, database_path, ..Config::default() };
        for address in &self.listen {
            transport_libp2p::check_listen(address).map_err(|error| {
                CliError::usage(format!("--listen: {error}"))
                    .hint("as in --listen /ip4/0.0.0.0/tcp/4001, or /ip4/0.0.0.0/udp/4001/quic-v1")
            })?;
        }
        if !self.listen.is_empty() {
            config.listen.clone_from(&self.listen);
        }
        Ok(config)
    }
}

/// What the environment says of a key.
fn set_for(key: &str) -> Result<Config> {
    Settings::load_one(Path::new("/nonexistent/config.toml"), config::find(key)?, environment)
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(crate) fn run(env: &Env, args: &Args) -> Result<()> {
    env.home.require_vacant()?;
    let (name, config) = (args.device.name()?, args.device.config()?);
    let passphrase = args.device.passphrase()?;
    let root = secrets::new_key()?;
    let secret = secrets::new_key()?;
    // A clock before 1970 counts as 1970; the time is for people only.
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let cert =
        DeviceCert::issue(&root, PeerKey(secret.public()), &name, now_ms, true).map_err(CliError::usage)?;
    let identity = Identity::new(secret, cert).map_err(CliError::internal)?;
    let phrase = secrets::recovery_phrase(&root)?;
    let building = env.home.begin()?;
    if let Some(passphrase) = &passphrase {
        building.encrypt(passphrase)?;
    }
    session::create_store(building.home(), &identity, Vec::new())?;
    building.write(&identity, Some(&root), &config)?;
    // Shown first: an account whose phrase nobody saw must not come to be.
    show(env, &identity, &name, &phrase)?;
    building.finish()?;
    if !env.out.json() {
        env.out.note(
            "\nWrite it down and keep it off this machine. Whoever has it controls the account, and without it\n\
             the account is lost with its last administrator device.\n\n\
             Next: `ahenk-cli start --daemon`, then `ahenk-cli device invite` to add another machine.",
        );
    }
    Ok(())
}

fn show(env: &Env, identity: &Identity, name: &str, phrase: &str) -> Result<()> {
    let (account, device) = (identity.account().to_string(), identity.device().to_string());
    let home = env.home.dir().display().to_string();
    if env.out.json() {
        return env.out.document(&json!({
            "account": account, "device": device, "name": name, "home": home, "recovery_phrase": phrase,
        }));
    }
    env.out.line(&format!("Account  {account}\nDevice   {device}  {name}\nHome     {home}\n"))?;
    env.out.line(&env.out.bold("Recovery phrase, shown this once:"))?;
    let words: Vec<&str> = phrase.split(' ').collect();
    for line in words.chunks(6) {
        env.out.line(&format!("  {}", line.join(" ")))?;
    }
    Ok(())
}
