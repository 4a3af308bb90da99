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
pub(crate) mod relay;
#[cfg(test)]
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use engine::config::{COMMIT_BYTES_MAX, FRAME_BYTES_MAX, REORDER_COST_PER_BYTE};
use engine::transport::PathKind;
use serde::{Deserialize, Serialize};

pub(crate) use file::File;
pub(crate) use keys::{KEYS, Key, check_log_level, find};

use crate::error::{CliError, Result};
use store::StoreLimits;

/// Each setting, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// The database's file, absolute or in the home.
    pub(crate) database_path: String,
    /// What this device is to be called; empty for what its certificate says.
    pub(crate) device_name: String,
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
    /// Longest message of our own, in bytes.
    pub(crate) message_bytes_max: u64,
    /// Multiaddrs to listen on. Port 0 is chosen once and kept.
    pub(crate) listen: Vec<String>,
    /// The port where an address says 0; 0 as well for any.
    pub(crate) listen_port: u64,
    /// Direct ways that may be used: `quic`, `tcp`.
    pub(crate) transports: Vec<String>,
    /// Whether ways through relays may be used.
    pub(crate) relay: bool,
    /// Find devices on the local network, and be found there.
    pub(crate) mdns: bool,
    /// Multiaddrs to connect to at the start.
    pub(crate) bootstrap: Vec<String>,
    /// Relays to be reachable through.
    pub(crate) relay_servers: Vec<String>,
    /// Ask the router to map ports to this device.
    pub(crate) upnp: bool,
    /// Memory in all, in bytes; 0 for no limit.
    pub(crate) memory_bytes_max: u64,
    /// Space for the database, in bytes; 0 for no limit.
    pub(crate) disk_bytes_max: u64,
    /// Bytes sent in a second; 0 for no limit.
    pub(crate) upload_bytes_per_s_max: u64,
    /// Bytes taken in a second; 0 for no limit.
    pub(crate) download_bytes_per_s_max: u64,
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
    /// The log's file, absolute or in the home.
    pub(crate) log_file: String,
    /// Size from which the log's file is put aside, in bytes.
    pub(crate) log_file_bytes_max: u64,
    /// Files that were put aside and are kept.
    pub(crate) log_files_max: u64,
    /// Port of the loopback interface for metrics; 0 for none.
    pub(crate) metrics_port: u64,
}

impl Default for Config {
    fn default() -> Config {
        let engine = engine::config::Config::default();
        Config {
            database_path: "ahenk.redb".to_owned(),
            device_name: String::new(),
            sync_enabled: true,
            heartbeat_ms: engine.ping_ms,
            batch_bytes: engine.batch_bytes as u64,
            batch_commits_max: engine.batch_commits_max as u64,
            credit_bytes: engine.credit_bytes,
            message_bytes_max: FRAME_BYTES_MAX as u64,
            listen_port: 0,
            transports: vec!["quic".to_owned(), "tcp".to_owned()],
            relay: true,
            listen: transport_libp2p::LISTEN.map(str::to_owned).to_vec(),
            mdns: true,
            bootstrap: Vec::new(),
            relay_servers: Vec::new(),
            upnp: true,
            memory_bytes_max: 0,
            disk_bytes_max: 0,
            upload_bytes_per_s_max: 0,
            download_bytes_per_s_max: 0,
            reorder_bytes_max: engine.reorder_bytes_max as u64,
            outbox_bytes_max: engine.outbox_bytes_max as u64,
            peers_max: engine.peers_max as u64,
            conflicts_max: engine.conflicts_max,
            log_level: "info,libp2p_swarm=warn,libp2p_mdns=warn".to_owned(),
            log_format: "full".to_owned(),
            log_file: "logs/ahenk.log".to_owned(),
            log_file_bytes_max: 16 * 1024 * 1024,
            log_files_max: 4,
            metrics_port: 0,
        }
    }
}

impl Config {
    /// What of this the engine and its driver need.
    pub(crate) fn engine(&self) -> engine::config::Config {
        let default = engine::config::Config::default();
        let message = size(self.message_bytes_max);
        // As many silent heartbeats as by default make a peer count as lost.
        let silence_ms = self.heartbeat_ms.saturating_mul(default.silence_ms_max / default.ping_ms);
        let (upload, download) = (limit(self.upload_bytes_per_s_max), limit(self.download_bytes_per_s_max));
        engine::config::Config {
            ping_ms: self.heartbeat_ms,
            // A frame takes long where little may pass in a second, and nothing else is heard meanwhile.
            silence_ms_max: silence_ms.max(upload.or(download).map_or(0, |_| SILENCE_OF_SLOW_MS)),
            // A message is at most a second's worth, so that others get their turn.
            batch_bytes: size(self.batch_bytes).min(message / 4).min(upload.map_or(usize::MAX, size)),
            batch_commits_max: size(self.batch_commits_max),
            credit_bytes: self.share(self.credit_bytes, 8).min(download.map_or(u64::MAX, |rate| rate * 8)),
            commit_bytes_max: message - (FRAME_BYTES_MAX - COMMIT_BYTES_MAX),
            // A quarter, too, but of memory, and not of bytes as they travel.
            reorder_bytes_max: size(self.share(self.reorder_bytes_max, 4 * REORDER_COST_PER_BYTE as u64)),
            outbox_bytes_max: size(self.share(self.outbox_bytes_max, 4)),
            outboxes_bytes_max: size(self.share(default.outboxes_bytes_max as u64, 4)),
            send_bytes_per_s_max: upload,
            receive_bytes_per_s_max: download,
            peers_max: size(self.peers_max),
            conflicts_max: self.conflicts_max,
            ..default
        }
    }

    /// What of this the store needs.
    pub(crate) fn store(&self) -> StoreLimits {
        let default = StoreLimits::default();
        StoreLimits {
            cache_bytes_max: size(self.share(default.cache_bytes_max as u64, 8)),
            rows_bytes_max: size(self.share(default.rows_bytes_max as u64, 4)),
            disk_bytes_max: limit(self.disk_bytes_max),
        }
    }

    /// Bytes, or that part of all the memory there may be, if it is less. The parts in use come to no more than all:
    /// three quarters and two eighths.
    fn share(&self, bytes: u64, part: u64) -> u64 {
        limit(self.memory_bytes_max).map_or(bytes, |all| bytes.min(all / part))
    }

    /// The kinds of path that may be used.
    pub(crate) fn paths(&self) -> BTreeSet<PathKind> {
        let named = [("quic", PathKind::DirectQuic), ("tcp", PathKind::DirectTcp)];
        let direct = named.into_iter().filter(|(name, _)| self.transports.iter().any(|set| set == name));
        direct.map(|(_, kind)| kind).chain(self.relay.then_some(PathKind::Relayed)).collect()
    }

    /// Where to listen, with the port that is set where an address leaves it open.
    pub(crate) fn listen(&self) -> Vec<String> {
        let port = u16::try_from(self.listen_port).unwrap_or_default();
        let with_port = |address: &String| {
            let address = crate::addresses::with_port(address, "tcp", port);
            crate::addresses::with_port(&address, "udp", port)
        };
        self.listen.iter().map(with_port).collect()
    }

    /// The relays to use.
    pub(crate) fn relays(&self) -> Vec<String> {
        if self.relay { self.relay_servers.clone() } else { Vec::new() }
    }
}

/// Silence after which a device counts as lost where little may pass in a second, in milliseconds: the longest message
/// takes half of it at the lowest rate.
const SILENCE_OF_SLOW_MS: u64 = 64_000;

fn limit(set: u64) -> Option<u64> {
    Some(set).filter(|set| *set > 0)
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
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
            settings.set(key, value, path)?;
        }
        KEYS.iter().try_for_each(|key| settings.hear(key, &environment))?;
        Ok(settings)
    }

    /// Reads one key only, whatever else is in the file: where the data is must be known even if another setting is
    /// wrong.
    pub(crate) fn load_one(
        path: &Path,
        key: &'static Key,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Config> {
        let mut settings = Settings { config: Config::default(), origins: BTreeMap::new() };
        if let Some(value) = File::read(path)?.value(key)? {
            settings.set(key, value, path)?;
        }
        settings.hear(key, &environment)?;
        Ok(settings.config)
    }

    fn set(&mut self, key: &'static Key, value: Value, path: &Path) -> Result<()> {
        key.set(&mut self.config, value).map_err(|error| in_file(path, &error))?;
        self.origins.insert(key.name, Origin::File);
        Ok(())
    }

    /// Takes over what the environment says of a key. An empty variable says nothing.
    fn hear(&mut self, key: &'static Key, environment: impl Fn(&str) -> Option<String>) -> Result<()> {
        let set = |name: String| environment(&name).filter(|text| !text.is_empty()).map(|text| (name, text));
        let Some((name, text)) = key.variables().into_iter().find_map(set) else { return Ok(()) };
        let given: Vec<&str> = if key.is_list() { text.split(',').collect() } else { vec![&text] };
        let value = key.parse(&given);
        value.and_then(|value| key.set(&mut self.config, value)).map_err(|error| CliError {
            message: format!("the variable {name}: {}", error.message),
            ..error
        })?;
        self.origins.insert(key.name, Origin::Environment);
        Ok(())
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
            if value != Value::List(Vec::new()) && value != Value::Text(String::new()) {
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
            ("[network]\ntransports = []\n", ["network.transports", "quic, tcp"]),
            ("[network]\ntransports = [\"udp\"]\n", ["network.transports", "quic, tcp"]),
            ("[network]\nlisten_port = 65536\n", ["network.listen_port", "65535"]),
            ("[limits]\nmemory_bytes = 1000\n", ["limits.memory_bytes", "0, or"]),
            ("[database]\npath = \"device.key\"\n", ["database.path", "another of the home's files"]),
            ("[database]\npath = \"../x\"\n", ["database.path", ".."]),
            ("[log]\nfile = \"logs/\"\n", ["log.file", "names no file"]),
            ("[device]\nname = \"\\u0007\"\n", ["device.name", "printable"]),
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
        assert_eq!(Config::default().store(), StoreLimits::default());
    }

    #[test]
    fn limits_of_size_and_rate_reach_the_engine_and_the_store() {
        let text = "[sync]\nmessage_bytes = 131072\n[limits]\ndisk_bytes = 5000000\nupload_bytes_per_s = 40000\n\
                    download_bytes_per_s = 50000\n";
        let config = load(text, &[]).expect("read").config;
        let (engine, store) = (config.engine(), config.store());
        assert_eq!((engine.commit_bytes_max, engine.batch_bytes), (64 * 1024, 32 * 1024));
        assert_eq!(
            (engine.send_bytes_per_s_max, engine.receive_bytes_per_s_max),
            (Some(40_000), Some(50_000))
        );
        assert_eq!((engine.credit_bytes, store.disk_bytes_max), (400_000, Some(5_000_000)));
        // The longest message comes through before the silence is taken for an end.
        assert!(engine.silence_ms_max / 1000 * 32 * 1024 > FRAME_BYTES_MAX as u64);
        let slow = load("", &[("AHENK_LIMITS_UPLOAD_BYTES_PER_S", "32K")]).expect("read").config.engine();
        assert_eq!(slow.batch_bytes, 32 * 1024);
    }

    #[test]
    fn the_parts_of_a_limit_of_memory_come_to_no_more_than_all_of_it() {
        for (text, all) in [("32M", 32 << 20), ("100 MiB", 100 << 20), ("64g", 64 << 30)] {
            let config = load("", &[("AHENK_LIMITS_MEMORY_BYTES", text)]).expect("read").config;
            let (engine, store) = (config.engine(), config.store());
            let parts = [
                engine.reorder_bytes_max * REORDER_COST_PER_BYTE,
                engine.outboxes_bytes_max,
                engine.credit_bytes as usize,
                store.cache_bytes_max,
                store.rows_bytes_max,
            ];
            assert!(parts.iter().sum::<usize>() <= all, "{text}: {parts:?}");
            assert!(engine.outbox_bytes_max <= engine.outboxes_bytes_max);
        }
    }

    #[test]
    fn what_is_set_says_where_to_listen_and_which_ways_to_use() {
        let text = "[network]\nlisten = [\"/ip4/0.0.0.0/tcp/0\", \"/ip4/0.0.0.0/udp/7/quic-v1\"]\nlisten_port = 4001\n\
                    transports = [\"tcp\"]\nrelay = false\n";
        let config = load(text, &[]).expect("read").config;
        assert_eq!(config.listen(), ["/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/7/quic-v1"]);
        assert_eq!(config.paths(), BTreeSet::from([PathKind::DirectTcp]));
        assert!(config.relays().is_empty());
        let all = BTreeSet::from([PathKind::Relayed, PathKind::DirectTcp, PathKind::DirectQuic]);
        assert_eq!(Config::default().paths(), all);
    }
}
