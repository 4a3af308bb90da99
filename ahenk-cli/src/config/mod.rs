//! What a user may set: the keys, what they may be, and where a value comes from.
//!
//! A value is looked for in the environment, then in the home's `config.toml`, then it is the default. To add a key:
//! a field and its default in [`Config`], and a row in [`KEYS`]; the commands, the variable, the checks, the
//! completions and the manual follow from the row.
//!
//! Invariants: a [`Config`] holds only values that passed the check of their key; a key that does not exist and a
//! value that may not be are errors that say what may be.

mod file;
mod keys;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use file::File;
pub(crate) use keys::{KEYS, Key, find};

use crate::error::{CliError, Result};

/// Each setting, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Whether the daemon talks to other devices at all.
    pub(crate) sync_enabled: bool,
    /// Silence after which a peer is pinged, in milliseconds.
    pub(crate) heartbeat_ms: u64,
    /// Aim for the size of one message of commits, in bytes.
    pub(crate) batch_bytes: u64,
    /// Most commits in one message.
    pub(crate) batch_commits_max: u64,
    /// Bytes that a peer may have under way to us.
    pub(crate) credit_bytes: u64,
    /// Multiaddrs to listen on. Port 0 is chosen once and kept.
    pub(crate) listen: Vec<String>,
    /// Find devices on the local network, and be found there.
    pub(crate) mdns: bool,
    /// Multiaddrs to connect to at the start.
    pub(crate) bootstrap: Vec<String>,
    /// Relays to be reachable through.
    pub(crate) relay_servers: Vec<String>,
    /// Ask the router to map ports to this device.
    pub(crate) upnp: bool,
    /// Memory for commits that wait for others, in bytes.
    pub(crate) reorder_bytes_max: u64,
    /// Memory for messages to a slow peer, in bytes.
    pub(crate) outbox_bytes_max: u64,
    /// Most peers at a time.
    pub(crate) peers_max: u64,
    /// Most values that lost a conflict and are kept.
    pub(crate) conflicts_max: u64,
    /// What the daemon logs, as in `RUST_LOG`.
    pub(crate) log_level: String,
    /// How a line of the log looks.
    pub(crate) log_format: String,
    /// Size from which the log's file is put aside, in bytes.
    pub(crate) log_file_bytes_max: u64,
    /// Files that were put aside and are kept.
    pub(crate) log_files_max: u64,
}

impl Default for Config {
    fn default() -> Config {
        let engine = engine::config::Config::default();
        Config {
            sync_enabled: true,
            heartbeat_ms: engine.ping_ms,
            batch_bytes: engine.batch_bytes as u64,
            batch_commits_max: engine.batch_commits_max as u64,
            credit_bytes: engine.credit_bytes,
            listen: vec!["/ip4/0.0.0.0/udp/0/quic-v1".to_owned(), "/ip4/0.0.0.0/tcp/0".to_owned()],
            mdns: true,
            bootstrap: Vec::new(),
            relay_servers: Vec::new(),
            upnp: true,
            reorder_bytes_max: engine.reorder_bytes_max as u64,
            outbox_bytes_max: engine.outbox_bytes_max as u64,
            peers_max: engine.peers_max as u64,
            conflicts_max: engine.conflicts_max,
            log_level: "info,libp2p_swarm=warn,libp2p_mdns=warn".to_owned(),
            log_format: "full".to_owned(),
            log_file_bytes_max: 16 * 1024 * 1024,
            log_files_max: 4,
        }
    }
}

impl Config {
    /// What of this the engine needs.
    pub(crate) fn engine(&self) -> engine::config::Config {
        let default = engine::config::Config::default();
        let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        engine::config::Config {
            ping_ms: self.heartbeat_ms,
            // As many silent heartbeats as by default make a peer count as lost.
            silence_ms_max: self.heartbeat_ms.saturating_mul(default.silence_ms_max / default.ping_ms),
            batch_bytes: size(self.batch_bytes),
            batch_commits_max: size(self.batch_commits_max),
            credit_bytes: self.credit_bytes,
            reorder_bytes_max: size(self.reorder_bytes_max),
            outbox_bytes_max: size(self.outbox_bytes_max),
            peers_max: size(self.peers_max),
            conflicts_max: self.conflicts_max,
            ..default
        }
    }
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Bool(bool),
    Integer(u64),
    Text(String),
    List(Vec<String>),
}

impl Value {
    /// As it is typed: the items of a list one a line.
    pub(crate) fn text(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Text(text) => text.clone(),
            Value::List(items) => items.join("\n"),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    Default,
    File,
    Environment,
}

/// The settings, and where each comes from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

impl Settings {
    /// Reads the file (which may be missing) and the environment.
    pub(crate) fn load(path: &Path, environment: impl Fn(&str) -> Option<String>) -> Result<Settings> {
        let mut settings = Settings { config: Config::default(), origins: BTreeMap::new() };
        for (key, value) in File::read(path)?.values()? {
            key.set(&mut settings.config, value).map_err(|error| in_file(path, &error))?;
            settings.origins.insert(key.name, Origin::File);
        }
        for key in KEYS {
            // An empty variable is none.
            let set =
                |name: String| environment(&name).filter(|text| !text.is_empty()).map(|text| (name, text));
            let Some((name, text)) = key.variables().into_iter().find_map(set) else { continue };
            let given: Vec<&str> = if key.is_list() { text.split(',').collect() } else { vec![&text] };
            let value = key.parse(&given);
            value.and_then(|value| key.set(&mut settings.config, value)).map_err(|error| CliError {
                message: format!("the variable {name}: {}", error.message),
                ..error
            })?;
            settings.origins.insert(key.name, Origin::Environment);
        }
        Ok(settings)
    }

    pub(crate) fn origin(&self, key: &Key) -> Origin {
        self.origins.get(key.name).cloned().unwrap_or(Origin::Default)
    }
}

fn in_file(path: &Path, error: &CliError) -> CliError {
    CliError { message: format!("{} is not right: {}", path.display(), error.message), ..error.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Settings> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).expect("written");
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::load(&path, variable)
    }

    #[test]
    fn every_default_is_allowed_and_survives_the_file_and_the_environment() {
        for key in KEYS {
            let value = key.get(&Config::default());
            let mut config = Config::default();
            key.set(&mut config, value.clone()).unwrap_or_else(|error| panic!("{}: {error}", key.name));
            assert_eq!(config, Config::default(), "{}", key.name);
            let mut file = File::read(Path::new("/nowhere/config.toml")).expect("none");
            file.set(key, &value).expect("set");
            let read = load(&file.text(), &[]).unwrap_or_else(|error| panic!("{}: {error}", key.name));
            assert_eq!(
                (read.config.clone(), read.origin(key)),
                (Config::default(), Origin::File),
                "{}",
                key.name
            );
            if value != Value::List(Vec::new()) {
                let text = value.text().replace('\n', ",");
                let read = load("", &[(&key.variables()[0], &text)]).expect("read");
                assert_eq!((read.config.clone(), read.origin(key)), (Config::default(), Origin::Environment));
            }
        }
    }

    #[test]
    fn the_environment_goes_before_the_file_and_the_file_before_the_default() {
        let file = "[network]\nmdns = false\n[log]\nlevel = \"debug\"\n";
        let read =
            load(file, &[("AHENK_LOG_LEVEL", ""), ("RUST_LOG", "warn"), ("AHENK_SYNC_HEARTBEAT_MS", "2000")]);
        let read = read.expect("read");
        assert!(!read.config.mdns);
        assert_eq!((read.config.log_level.as_str(), read.config.heartbeat_ms), ("warn", 2000));
        assert_eq!(read.origin(find("network.mdns").expect("a key")), Origin::File);
        assert_eq!(read.origin(find("network.listen").expect("a key")), Origin::Default);
        let wrong = load("", &[("AHENK_NETWORK_MDNS", "perhaps")]).expect_err("no boolean");
        assert!(
            wrong.message.contains("AHENK_NETWORK_MDNS")
                && wrong.hint.as_ref().is_some_and(|hint| hint.contains("true or false")),
            "{wrong}"
        );
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_with_what_may_be() {
        for (text, parts) in [
            ("[network]\nmdns = \"yes\"\n", ["network.mdns", "true or false"]),
            ("[network]\nmdsn = true\n", ["network.mdsn", "network.mdns"]),
            ("mdns = true\n", ["mdns", "network.mdns"]),
            ("[log]\nformat = \"xml\"\n", ["log.format", "full, compact, pretty, json"]),
            ("[limits]\npeers = 0\n", ["limits.peers", "1 to"]),
            ("[network]\nlisten = \"/ip4/0.0.0.0/tcp/0\"\n", ["network.listen", "list"]),
            ("[network]\nlisten = [\"/ip4/0.0.0.0/sctp/0\"]\n", ["network.listen", "sctp"]),
            ("[log]\nlevel = \"loud\"\n", ["log.level", "loud"]),
            ("[log\n", ["config.toml", "1"]),
        ] {
            let error = load(text, &[]).expect_err(text);
            let all = format!("{} {}", error.message, error.hint.unwrap_or_default());
            assert!(parts.iter().all(|part| all.contains(part)), "{text}: {all}");
        }
    }

    #[test]
    fn what_is_set_reaches_the_engine() {
        let text = "[sync]\nheartbeat_ms = 2000\nbatch_bytes = 70000\nbatch_commits = 7\ncredit_bytes = 2000000\n\
                    [limits]\nreorder_bytes = 4000000\noutbox_bytes = 3000000\npeers = 3\nconflicts = 5\n";
        let engine = load(text, &[]).expect("read").config.engine();
        assert_eq!((engine.ping_ms, engine.silence_ms_max), (2000, 6000));
        assert_eq!(
            (engine.batch_bytes, engine.batch_commits_max, engine.credit_bytes),
            (70_000, 7, 2_000_000)
        );
        assert_eq!((engine.reorder_bytes_max, engine.outbox_bytes_max), (4_000_000, 3_000_000));
        assert_eq!((engine.peers_max, engine.conflicts_max), (3, 5));
        assert_eq!(Config::default().engine(), engine::config::Config::default());
    }
}
