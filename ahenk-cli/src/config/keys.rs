//! The table of keys: for each its name, what it is for, what it may be, and where it is in [`Config`]. A relay has a
//! table of its own (`relay`), of keys with another place.

use super::{Config, Value};
use crate::error::{CliError, Kind, Result};
use crate::suggest;

/// A key that can be set.
#[derive(Debug)]
pub(crate) struct Key<C: 'static = Config> {
    /// `section.name`, as in the file.
    pub(crate) name: &'static str,
    /// What it does, in a sentence for people.
    pub(crate) about: &'static str,
    field: Field<C>,
}

/// What a key may be, and its place in `C`.
#[derive(Debug)]
pub(super) enum Field<C> {
    Bool(fn(&mut C) -> &mut bool),
    Integer(u64, u64, fn(&mut C) -> &mut u64),
    /// Like an integer, and 0 for none.
    Limit(u64, u64, fn(&mut C) -> &mut u64),
    Choice(&'static [&'static str], fn(&mut C) -> &mut String),
    /// At least one of them.
    Choices(&'static [&'static str], fn(&mut C) -> &mut Vec<String>),
    Text(Check, fn(&mut C) -> &mut String),
    List(Check, fn(&mut C) -> &mut Vec<String>),
}

/// Says what is wrong with a text.
type Check = fn(&str) -> Result<(), String>;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

pub(super) const fn key<C>(name: &'static str, field: Field<C>, about: &'static str) -> Key<C> {
    Key { name, about, field }
}

/// All keys, by section.
pub(crate) const KEYS: &[Key] = &[
    key(
        "database.path",
        Field::Text(place, |c| &mut c.database_path),
        "The database's file, in the home folder unless it begins with /; moving a database there is up to you",
    ),
    key(
        "device.name",
        Field::Text(device_name, |c| &mut c.device_name),
        "What this device is called, if it administers the account; taken up at the next start, once for each change",
    ),
    key(
        "sync.enabled",
        Field::Bool(|c| &mut c.sync_enabled),
        "Whether the daemon talks to other devices at all",
    ),
    key(
        "sync.heartbeat_ms",
        Field::Integer(1_000, 600_000, |c| &mut c.heartbeat_ms),
        "Silence after which a device is pinged, in milliseconds; after three times as long it counts as gone",
    ),
    key(
        "sync.batch_bytes",
        Field::Integer(KIB, 512 * KIB, |c| &mut c.batch_bytes),
        "Size to aim for in one message of commits, in bytes",
    ),
    key(
        "sync.batch_commits",
        Field::Integer(1, 4096, |c| &mut c.batch_commits_max),
        "Most commits in one message",
    ),
    key(
        "sync.credit_bytes",
        Field::Integer(MIB, 64 * MIB, |c| &mut c.credit_bytes),
        "Bytes that another device may have under way to this one, unacknowledged",
    ),
    key(
        "sync.message_bytes",
        Field::Integer(128 * KIB, MIB, |c| &mut c.message_bytes_max),
        "Longest message that this device begins, in bytes: larger transactions are refused; others' are passed on",
    ),
    key(
        "network.listen",
        Field::List(listen_address, |c| &mut c.listen),
        "Multiaddrs to listen on, TCP or QUIC; port 0 is chosen once and kept",
    ),
    key(
        "network.listen_port",
        Field::Integer(0, 65_535, |c| &mut c.listen_port),
        "The port for those addresses to listen on that have port 0; 0 for one that is chosen once and kept",
    ),
    key(
        "network.transports",
        Field::Choices(&["quic", "tcp"], |c| &mut c.transports),
        "Ways to other devices that may be used, either way",
    ),
    key(
        "network.relay",
        Field::Bool(|c| &mut c.relay),
        "Reach other devices through relays where there is no other way, and be reached there",
    ),
    key(
        "network.mdns",
        Field::Bool(|c| &mut c.mdns),
        "Find devices on the local network, and be found there",
    ),
    key(
        "network.bootstrap",
        Field::List(multiaddr, |c| &mut c.bootstrap),
        "Multiaddrs of other devices to connect to at the start",
    ),
    key(
        "network.relay_servers",
        Field::List(relay, |c| &mut c.relay_servers),
        "Multiaddrs of relays to be reachable through and to meet other devices at, ending in the relay's id; at most 8",
    ),
    key(
        "network.upnp",
        Field::Bool(|c| &mut c.upnp),
        "Ask the router to map ports to this device (UPnP, PCP, NAT-PMP), so that others can call it from outside",
    ),
    key(
        "limits.memory_bytes",
        Field::Limit(32 * MIB, 64 * GIB, |c| &mut c.memory_bytes_max),
        "Memory that buffers and caches take in all, in bytes, besides one message while it is read; the finer limits are lowered to fit; 0 for no limit",
    ),
    key(
        "limits.disk_bytes",
        Field::Limit(MIB, 1024 * 1024 * GIB, |c| &mut c.disk_bytes_max),
        "Space that the database may take, in bytes; from there on writes are refused, here and by sync; 0 for no limit",
    ),
    key(
        "limits.upload_bytes_per_s",
        Field::Limit(32 * KIB, 64 * GIB, |c| &mut c.upload_bytes_per_s_max),
        "Bytes that are sent to other devices in a second; 0 for no limit",
    ),
    key(
        "limits.download_bytes_per_s",
        Field::Limit(32 * KIB, 64 * GIB, |c| &mut c.download_bytes_per_s_max),
        "Bytes that are taken from other devices in a second; 0 for no limit",
    ),
    key(
        "limits.reorder_bytes",
        Field::Integer(2 * MIB, 1024 * MIB, |c| &mut c.reorder_bytes_max),
        "Commits that wait for others that they depend on, in bytes as they travel; they take up to four times that in memory",
    ),
    key(
        "limits.outbox_bytes",
        Field::Integer(2 * MIB, 1024 * MIB, |c| &mut c.outbox_bytes_max),
        "Memory for messages to a device that is slow to take them, in bytes",
    ),
    key("limits.peers", Field::Integer(1, 128, |c| &mut c.peers_max), "Most devices connected at a time"),
    key(
        "limits.conflicts",
        Field::Integer(0, 1_000_000, |c| &mut c.conflicts_max),
        "Most values that lost a conflict and are kept; the oldest go first",
    ),
    key(
        "log.level",
        Field::Text(check_log_level, |c| &mut c.log_level),
        "What the daemon logs: off, error, warn, info, debug or trace, and TARGET=LEVEL, with commas",
    ),
    key(
        "log.format",
        Field::Choice(&["full", "compact", "pretty", "json"], |c| &mut c.log_format),
        "How the daemon's log looks",
    ),
    key(
        "log.file",
        Field::Text(place, |c| &mut c.log_file),
        "The log's file, in the home folder unless it begins with /",
    ),
    key(
        "log.file_bytes",
        Field::Integer(4 * KIB, 1024 * MIB, |c| &mut c.log_file_bytes_max),
        "Size from which the log's file is put aside, in bytes",
    ),
    key(
        "log.files",
        Field::Integer(1, 100, |c| &mut c.log_files_max),
        "Files of the log that were put aside and are kept",
    ),
    key(
        "metrics.port",
        Field::Integer(0, 65_535, |c| &mut c.metrics_port),
        "Port of the loopback interface at which the daemon tells Prometheus how it is; 0 for none",
    ),
];

/// The key of that name, or an error that says which was perhaps meant.
pub(crate) fn find(name: &str) -> Result<&'static Key> {
    find_in(KEYS, name, "`ahenk-cli config list` shows all")
}

/// The key of that name in a table, or an error that says which was perhaps meant, and what shows them all.
pub(super) fn find_in<C>(keys: &'static [Key<C>], name: &str, all: &str) -> Result<&'static Key<C>> {
    keys.iter().find(|key| key.name == name).ok_or_else(|| {
        let hint = match nearest(keys, name) {
            Some(key) => format!("did you mean `{key}`? {all}"),
            None => all.to_owned(),
        };
        CliError::usage(format!("there is no key `{name}`")).hint(hint)
    })
}

/// The key whose name, or name within its section, is most like this one.
fn nearest<C>(keys: &'static [Key<C>], name: &str) -> Option<&'static str> {
    if let Some(full) = suggest::nearest(name, keys.iter().map(|key| key.name)) {
        return Some(full);
    }
    let short = suggest::nearest(name, keys.iter().map(Key::short))?;
    keys.iter().find(|key| key.short() == short).map(|key| key.name)
}

impl<C> Key<C> {
    /// Its name within its section.
    pub(crate) fn short(&self) -> &'static str {
        self.name.split('.').next_back().unwrap_or(self.name)
    }

    /// Whether it is true or false.
    pub(crate) fn is_bool(&self) -> bool {
        matches!(self.field, Field::Bool(_))
    }

    /// Whether it is a number.
    pub(crate) fn is_number(&self) -> bool {
        matches!(self.field, Field::Integer(..) | Field::Limit(..))
    }

    /// The variables of the environment that set it, the first that is set counting.
    pub(crate) fn variables(&self) -> Vec<String> {
        let mut variables = vec![format!("AHENK_{}", self.name.replace('.', "_").to_uppercase())];
        if self.name == "log.level" {
            variables.push("RUST_LOG".to_owned());
        }
        variables
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.field, Field::List(..) | Field::Choices(..))
    }

    /// What it may be, for people.
    pub(crate) fn allowed(&self) -> String {
        match &self.field {
            Field::Bool(_) => "true or false".to_owned(),
            Field::Integer(min, max, _) => format!("a whole number, {min} to {max}"),
            Field::Limit(min, max, _) => format!("0, or a whole number, {min} to {max}"),
            Field::Choice(choices, _) => format!("one of {}", choices.join(", ")),
            Field::Choices(choices, _) => format!("a list of at least one of {}", choices.join(", ")),
            Field::Text(..) => "text".to_owned(),
            Field::List(..) => "a list of texts".to_owned(),
        }
    }

    /// The values to offer, where there are few.
    pub(crate) fn choices(&self) -> &'static [&'static str] {
        match &self.field {
            Field::Bool(_) => &["true", "false"],
            Field::Choice(choices, _) | Field::Choices(choices, _) => choices,
            _ => &[],
        }
    }

    pub(crate) fn get(&self, config: &C) -> Value
    where
        C: Clone,
    {
        let mut config = config.clone();
        match &self.field {
            Field::Bool(field) => Value::Bool(*field(&mut config)),
            Field::Integer(_, _, field) | Field::Limit(_, _, field) => Value::Integer(*field(&mut config)),
            Field::Choice(_, field) | Field::Text(_, field) => Value::Text(field(&mut config).clone()),
            Field::List(_, field) | Field::Choices(_, field) => Value::List(field(&mut config).clone()),
        }
    }

    /// Sets it, if it may be so.
    pub(crate) fn set(&self, config: &mut C, value: Value) -> Result<()> {
        match (&self.field, value) {
            (Field::Bool(field), Value::Bool(value)) => *field(config) = value,
            (Field::Integer(min, max, field), Value::Integer(value)) if (*min..=*max).contains(&value) => {
                *field(config) = value;
            }
            (Field::Limit(min, max, field), Value::Integer(value))
                if value == 0 || (*min..=*max).contains(&value) =>
            {
                *field(config) = value;
            }
            (Field::Choices(choices, field), Value::List(items))
                if !items.is_empty() && items.iter().all(|item| choices.contains(&item.as_str())) =>
            {
                *field(config) = items;
            }
            (Field::Choice(choices, field), Value::Text(text)) if choices.contains(&text.as_str()) => {
                *field(config) = text;
            }
            (Field::Text(check, field), Value::Text(text)) => {
                check(&text).map_err(|error| self.wrong(&error))?;
                *field(config) = text;
            }
            (Field::List(check, field), Value::List(items)) => {
                for item in &items {
                    check(item).map_err(|error| self.wrong(&error))?;
                }
                *field(config) = items;
            }
            (_, value) => {
                return Err(self.wrong(&format!("it cannot be `{}`", value.text().replace('\n', " "))));
            }
        }
        Ok(())
    }

    /// Understands what was typed: one word, or any number of items for a list.
    pub(crate) fn parse(&self, given: &[&str]) -> Result<Value> {
        if self.is_list() {
            return Ok(Value::List(given.iter().map(|item| item.trim().to_owned()).collect()));
        }
        let [text] = given else { return Err(self.wrong("it has one value, no list")) };
        let parsed = match &self.field {
            Field::Bool(_) => text.parse().ok().map(Value::Bool),
            Field::Integer(..) | Field::Limit(..) => size(text).map(Value::Integer),
            _ => Some(Value::Text((*text).to_owned())),
        };
        parsed.ok_or_else(|| self.wrong(&format!("it cannot be `{text}`")))
    }

    pub(crate) fn wrong(&self, what: &str) -> CliError {
        CliError::new(Kind::Usage, format!("{}: {what}", self.name)).hint(format!(
            "`{}` is {}: {}",
            self.name,
            self.allowed(),
            self.about
        ))
    }
}

/// A number, perhaps with a unit that computers count bytes in: 65536, 64K, 64 KiB.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "kib" => KIB,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Files of a home that have their place.
const OWN_FILES: [&str; 7] = [
    "account.key",
    "addresses.json",
    "config.toml",
    "daemon.lock",
    "daemon.sock",
    "device.cert",
    "device.key",
];

/// Says what is wrong with the name of a file.
fn place(text: &str) -> Result<(), String> {
    use std::path::{Component, Path};
    let path = Path::new(text);
    if path.file_name().is_none() || text.ends_with('/') || text.contains('\0') {
        return Err(format!("`{text}` names no file"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("a name with `..` in it depends on too much".to_owned());
    }
    if OWN_FILES.iter().any(|own| path == Path::new(own)) {
        return Err(format!("`{text}` is another of the home's files"));
    }
    Ok(())
}

/// Says what is wrong with a device's name. None at all is right: it stays as it is.
fn device_name(text: &str) -> Result<(), String> {
    if text.is_empty() || engine::identity::device_name_ok(text) {
        return Ok(());
    }
    Err("a device name is 1 to 64 bytes of printable text".to_owned())
}

pub(super) fn listen_address(text: &str) -> Result<(), String> {
    transport_libp2p::check_listen(text).map_err(|error| error.to_string())
}

pub(super) fn relay(text: &str) -> Result<(), String> {
    transport_libp2p::check_relay(text).map_err(|error| error.to_string())
}

pub(super) fn multiaddr(text: &str) -> Result<(), String> {
    transport_libp2p::check_dial(text).map_err(|error| error.to_string())
}

/// Says what is wrong with a filter for logs. A word without `=` must be a level: taken for a target, a mistyped
/// level would silence everything.
pub(crate) fn check_log_level(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',').map(str::trim) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !LEVELS.contains(&level.to_lowercase().as_str()) {
            return Err(format!("`{level}` is no level; the levels are {}", LEVELS.join(", ")));
        }
    }
    tracing_subscriber::EnvFilter::try_new(text).map(|_| ()).map_err(|error| error.to_string())
}
