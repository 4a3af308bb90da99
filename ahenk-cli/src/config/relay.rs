//! What whoever hosts a relay may set: one table, of which the command's flags, its variables and its file `relay.toml`
//! are made.
//!
//! A value is looked for among the flags, then in the environment, then in the file, then it is the default.
//!
//! Invariant: [`RelaySettings`] hold only values that passed the check of their key, wherever they come from.

use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use engine::identity::{AccountId, PeerKey};
use transport_libp2p::{RelayLimits, parse_peer};

use super::keys::{Field, GIB, Key, key, listen_address, multiaddr, relay};
use super::{File, Value, in_file};
use crate::error::{CliError, Result};

/// Where a relay listens unless told otherwise.
const LISTEN: [&str; 4] = [
    "/ip4/0.0.0.0/tcp/4001",
    "/ip4/0.0.0.0/udp/4001/quic-v1",
    "/ip6/::/tcp/4001",
    "/ip6/::/udp/4001/quic-v1",
];

/// Each setting of a relay, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelaySettings {
    pub(crate) external: Vec<String>,
    pub(crate) ask: Vec<String>,
    pub(crate) listen: Vec<String>,
    pub(crate) key: String,
    allow: Vec<String>,
    allow_accounts: Vec<String>,
    deny: Vec<String>,
    reservations_max: u64,
    circuits_max: u64,
    circuits_per_peer_max: u64,
    circuit_bytes_max: u64,
    circuit_seconds_max: u64,
    reservation_seconds: u64,
    reservation_rate_max: u64,
    reservation_rate_ip_max: u64,
    circuit_rate_max: u64,
    circuit_rate_ip_max: u64,
    peer_bytes_per_s_max: u64,
    pub(crate) test_private: bool,
    pub(crate) metrics_port: u64,
}

impl Default for RelaySettings {
    fn default() -> RelaySettings {
        let limits = RelayLimits::default();
        RelaySettings {
            external: Vec::new(),
            ask: Vec::new(),
            listen: LISTEN.map(str::to_owned).to_vec(),
            key: String::new(),
            allow: Vec::new(),
            allow_accounts: Vec::new(),
            deny: Vec::new(),
            reservations_max: limits.reservations_max as u64,
            circuits_max: limits.circuits_max as u64,
            circuits_per_peer_max: limits.circuits_per_peer_max as u64,
            circuit_bytes_max: limits.circuit_bytes_max,
            circuit_seconds_max: limits.circuit_seconds_max.into(),
            reservation_seconds: limits.reservation_seconds.into(),
            reservation_rate_max: limits.reservation_rate_max.get().into(),
            reservation_rate_ip_max: limits.reservation_rate_ip_max.get().into(),
            circuit_rate_max: limits.circuit_rate_max.get().into(),
            circuit_rate_ip_max: limits.circuit_rate_ip_max.get().into(),
            peer_bytes_per_s_max: limits.peer_bytes_per_s_max,
            test_private: false,
            metrics_port: 0,
        }
    }
}

/// Most of anything that is counted: a million.
const MANY: u64 = 1_000_000;
/// A day, in seconds.
const DAY: u64 = 24 * 3600;

/// All keys. With less than a gigabyte or an hour, a first sync of some size would be cut again and again.
pub(crate) const RELAY_KEYS: &[Key<RelaySettings>] = &[
    key(
        "relay.external",
        Field::List(multiaddr, |s| &mut s.external),
        "An address at which devices find this relay; may be given several times",
    ),
    key(
        "relay.ask",
        Field::List(relay, |s| &mut s.ask),
        "Another relay, with its id, that is asked where this one can be dialed, instead of --external",
    ),
    key(
        "relay.listen",
        Field::List(listen_address, |s| &mut s.listen),
        "An address to listen on; may be given several times",
    ),
    key(
        "relay.key",
        Field::Text(any, |s| &mut s.key),
        "The file with the relay's key, made if it is not there [default: relay.key in the home folder]",
    ),
    key(
        "relay.allow",
        Field::List(peer, |s| &mut s.allow),
        "A device that may use it, by the id after /p2p/ in its addresses; without any, and without accounts, all may",
    ),
    key(
        "relay.allow_accounts",
        Field::List(account, |s| &mut s.allow_accounts),
        "An account whose devices may use it, by its id, which `account show` says",
    ),
    key(
        "relay.deny",
        Field::List(peer, |s| &mut s.deny),
        "A device that may not connect, whatever else is allowed: one that was revoked, by the id after /p2p/",
    ),
    key(
        "relay.reservations_max",
        Field::Integer(0, MANY, |s| &mut s.reservations_max),
        "Most devices reachable through it at a time",
    ),
    key("relay.circuits_max", Field::Integer(0, MANY, |s| &mut s.circuits_max), "Most circuits at a time"),
    key(
        "relay.circuits_per_peer_max",
        Field::Integer(0, MANY, |s| &mut s.circuits_per_peer_max),
        "Most circuits at a time that one device opens",
    ),
    key(
        "relay.circuit_bytes_max",
        Field::Integer(GIB, 1024 * 1024 * GIB, |s| &mut s.circuit_bytes_max),
        "Bytes after which a circuit is cut; at least 1 GiB",
    ),
    key(
        "relay.circuit_seconds_max",
        Field::Integer(3600, 30 * DAY, |s| &mut s.circuit_seconds_max),
        "Seconds after which a circuit is cut; at least an hour",
    ),
    key(
        "relay.reservation_seconds",
        Field::Integer(10, DAY, |s| &mut s.reservation_seconds),
        "Seconds for which a device that has gone silent keeps its place; it renews it after three quarters",
    ),
    key(
        "relay.reservation_rate_max",
        Field::Integer(1, MANY, |s| &mut s.reservation_rate_max),
        "Most reservations that one device may ask for in a minute",
    ),
    key(
        "relay.reservation_rate_ip_max",
        Field::Integer(1, MANY, |s| &mut s.reservation_rate_ip_max),
        "Most reservations that may be asked for in a minute from one IP address",
    ),
    key(
        "relay.circuit_rate_max",
        Field::Integer(1, MANY, |s| &mut s.circuit_rate_max),
        "Most circuits that one device may ask for in a minute",
    ),
    key(
        "relay.circuit_rate_ip_max",
        Field::Integer(1, MANY, |s| &mut s.circuit_rate_ip_max),
        "Most circuits that may be asked for in a minute from one IP address",
    ),
    key(
        "relay.peer_bytes_per_s_max",
        Field::Limit(32 * 1024, 64 * GIB, |s| &mut s.peer_bytes_per_s_max),
        "Bytes that one device may send through it in a second; 0 for no limit",
    ),
    key(
        "relay.test_private",
        Field::Bool(|s| &mut s.test_private),
        "Test for others also addresses that are not public, in a network of one's own",
    ),
    key(
        "relay.metrics_port",
        Field::Integer(0, 65_535, |s| &mut s.metrics_port),
        "Serve counters for Prometheus at this loopback port; 0 for not at all",
    ),
];

fn any(_: &str) -> Result<(), String> {
    Ok(())
}

fn peer(text: &str) -> Result<(), String> {
    parse_peer(text).map(|_| ()).map_err(|error| error.to_string())
}

fn account(text: &str) -> Result<(), String> {
    parse_account(text)
        .map(|_| ())
        .ok_or_else(|| format!("`{text}` is no account's id: those have 64 digits, 0 to f"))
}

fn parse_account(text: &str) -> Option<AccountId> {
    let mut id = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(AccountId(id))
}

/// A number that its key has kept within bounds.
fn number<T: TryFrom<u64>>(value: u64) -> Result<T> {
    T::try_from(value).map_err(|_| CliError::internal(format!("{value} is beyond what a relay can take")))
}

impl RelaySettings {
    /// The file, which may be missing, with what was given on the command line and in the environment.
    pub(crate) fn load(path: &Path, flags: &Flags) -> Result<RelaySettings> {
        let mut settings = RelaySettings::default();
        for (key, value) in File::read(path)?.values_of(RELAY_KEYS, "`ahenk-cli relay config` shows all")? {
            key.set(&mut settings, value).map_err(|error| in_file(path, &error))?;
        }
        for (key, given) in &flags.0 {
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            key.set(&mut settings, key.parse(&given)?)?;
        }
        Ok(settings)
    }

    /// A file that sets what differs from the default, and says in comments what else there is.
    pub(crate) fn file(&self) -> Result<String> {
        let default = RelaySettings::default();
        let mut text = String::from("# Settings of a relay; it reads them when it starts.\n\n[relay]\n");
        for key in RELAY_KEYS {
            let (value, usual) = (key.get(self), key.get(&default));
            let mut one = File::parse(Path::new("relay.toml"), "")?;
            one.set(key, &value)?;
            let line = one.text().lines().skip(1).collect::<Vec<_>>().join("\n");
            let mark = if value == usual { "# " } else { "" };
            text.push_str(&format!("\n# {}: {}\n{mark}{line}\n", key.about, key.allowed()));
        }
        Ok(text)
    }

    pub(crate) fn limits(&self) -> Result<RelayLimits> {
        Ok(RelayLimits {
            reservations_max: number(self.reservations_max)?,
            circuits_max: number(self.circuits_max)?,
            circuits_per_peer_max: number(self.circuits_per_peer_max)?,
            circuit_bytes_max: self.circuit_bytes_max,
            circuit_seconds_max: number(self.circuit_seconds_max)?,
            reservation_seconds: number(self.reservation_seconds)?,
            reservation_rate_max: number::<u32>(self.reservation_rate_max)?
                .try_into()
                .map_err(CliError::internal)?,
            reservation_rate_ip_max: number::<u32>(self.reservation_rate_ip_max)?
                .try_into()
                .map_err(CliError::internal)?,
            circuit_rate_max: number::<u32>(self.circuit_rate_max)?.try_into().map_err(CliError::internal)?,
            circuit_rate_ip_max: number::<u32>(self.circuit_rate_ip_max)?
                .try_into()
                .map_err(CliError::internal)?,
            peer_bytes_per_s_max: self.peer_bytes_per_s_max,
        })
    }

    pub(crate) fn allow(&self) -> Vec<PeerKey> {
        self.allow.iter().filter_map(|text| parse_peer(text).ok()).collect()
    }

    pub(crate) fn deny(&self) -> Vec<PeerKey> {
        self.deny.iter().filter_map(|text| parse_peer(text).ok()).collect()
    }

    pub(crate) fn allow_accounts(&self) -> Vec<AccountId> {
        self.allow_accounts.iter().filter_map(|text| parse_account(text)).collect()
    }
}

/// What was given on the command line, or else in the environment: one flag for each key.
#[derive(Debug, Default)]
pub(crate) struct Flags(Vec<(&'static Key<RelaySettings>, Vec<String>)>);

impl Flags {
    /// What the environment alone says.
    pub(crate) fn of_environment(environment: impl Fn(&str) -> Option<String>) -> Flags {
        let mut flags = Flags::default();
        for key in RELAY_KEYS {
            let text = key.variables().iter().find_map(|name| environment(name)).unwrap_or_default();
            if !text.is_empty() {
                let given =
                    if key.is_list() { text.split(',').map(str::to_owned).collect() } else { vec![text] };
                flags.0.push((key, given));
            }
        }
        flags
    }
}

/// What stands for a flag's value in help.
fn value_name(key: &Key<RelaySettings>) -> &'static str {
    match key.short() {
        "external" | "ask" | "listen" => "MULTIADDR",
        "key" => "FILE",
        "allow" | "deny" => "PEER",
        "allow_accounts" => "ACCOUNT",
        "metrics_port" => "PORT",
        name if name.contains("bytes") => "BYTES",
        name if name.contains("seconds") => "SECONDS",
        _ => "N",
    }
}

fn flag(key: &'static Key<RelaySettings>) -> Arg {
    // `--allow-account X` reads better than `--allow-accounts X`.
    let long = key.short().trim_end_matches('s').replace('_', "-");
    let long = if key.is_list() { long } else { key.short().replace('_', "-") };
    let arg = Arg::new(key.short()).long(long).help(key.about).env(key.variables().swap_remove(0));
    if key.is_bool() {
        let arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
        return arg.value_name("true|false").action(ArgAction::Set);
    }
    let arg = arg.value_name(value_name(key));
    let default = key.get(&RelaySettings::default());
    match default {
        Value::List(items) => {
            let arg = arg.action(ArgAction::Append).value_delimiter(',');
            if items.is_empty() { arg } else { arg.default_values(items) }
        }
        _ if key.is_number() => arg.default_value(default.text()),
        _ => arg,
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Flags, clap::Error> {
        let mut flags = Flags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for key in RELAY_KEYS {
            let given = match matches.value_source(key.short()) {
                None | Some(ValueSource::DefaultValue) => continue,
                Some(_) => matches.get_many::<String>(key.short()).unwrap_or_default(),
            };
            let given: Vec<String> = given.cloned().collect();
            // An empty variable says nothing.
            if given.iter().any(|text| !text.is_empty()) {
                self.0.push((key, given));
            }
        }
        Ok(())
    }
}

impl clap::Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(RELAY_KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Flags::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: &[(&str, &str)]) -> Result<RelaySettings> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("relay.toml");
        std::fs::write(&path, text).expect("written");
        let find = |name: &str| RELAY_KEYS.iter().find(|key| key.short() == name).expect("a key");
        let flags = flags.iter().map(|(name, value)| (find(name), vec![(*value).to_owned()])).collect();
        RelaySettings::load(&path, &Flags(flags))
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let text = "# mine\n[relay]\nexternal = [\"/dns/relay.example/tcp/1\"] # here\ncircuits_max = 7\n\
                    reservations_max = 8\ntest_private = true\n";
        let read = load(text, &[("circuits_max", "9"), ("circuit_bytes_max", "2 GiB")]).expect("right");
        assert_eq!(read.external, ["/dns/relay.example/tcp/1"]);
        assert!(read.test_private);
        let limits = read.limits().expect("right");
        assert_eq!((limits.circuits_max, limits.reservations_max), (9, 8));
        assert_eq!((limits.circuit_bytes_max, limits.circuit_seconds_max), (2 * GIB, 3600));
        assert_eq!(load("", &[]).expect("right").limits().expect("right"), RelayLimits::default());
    }

    #[test]
    fn each_number_reaches_its_own_limit() {
        let text = "[relay]\nreservations_max = 1\ncircuits_max = 2\ncircuits_per_peer_max = 3\n\
                    circuit_bytes_max = 4000000000\ncircuit_seconds_max = 5000\nreservation_seconds = 60\n\
                    reservation_rate_max = 7\nreservation_rate_ip_max = 8\ncircuit_rate_max = 9\n\
                    circuit_rate_ip_max = 10\npeer_bytes_per_s_max = 65536\n";
        let rate = |number| std::num::NonZeroU32::new(number).expect("not 0");
        let expected = RelayLimits {
            reservations_max: 1,
            circuits_max: 2,
            circuits_per_peer_max: 3,
            circuit_bytes_max: 4_000_000_000,
            circuit_seconds_max: 5000,
            reservation_seconds: 60,
            reservation_rate_max: rate(7),
            reservation_rate_ip_max: rate(8),
            circuit_rate_max: rate(9),
            circuit_rate_ip_max: rate(10),
            peer_bytes_per_s_max: 65_536,
        };
        assert_eq!(load(text, &[]).expect("right").limits().expect("right"), expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_may_be() {
        for (text, parts) in [
            ("[relay]\ncircuits_max = \"many\"\n", ["relay.circuits_max", "a whole number, 0 to 1000000"]),
            (
                "[relay]\ncircuit_bytes_max = 1000\n",
                ["relay.circuit_bytes_max", "a whole number, 1073741824 to"],
            ),
            ("[relay]\nreservation_rate_max = 0\n", ["relay.reservation_rate_max", "a whole number, 1 to"]),
            ("[relay]\nlisten = [\"/dns/x/tcp/1\"]\n", ["relay.listen", "give an IP address"]),
            ("[relay]\nexternal = [\"x\"]\n", ["relay.external", "not a multiaddr"]),
            ("[relay]\nask = [\"/ip4/192.0.2.1/tcp/1\"]\n", ["relay.ask", "/p2p/"]),
            ("[relay]\nallow = [\"me\"]\n", ["relay.allow", "me"]),
            ("[relay]\nallow_accounts = [\"12\"]\n", ["relay.allow_accounts", "64 digits"]),
            ("[relay]\ncircuit_max = 1\n", ["relay.circuit_max", "did you mean `relay.circuits_max`?"]),
            ("[relay]\ntest_private = 1\n", ["relay.test_private", "true or false"]),
            ("circuits_max = 1\n", ["circuits_max", "relay.circuits_max"]),
            ("[relay\n", ["relay.toml", "correct it"]),
        ] {
            let error = load(text, &[]).expect_err(text);
            let all = format!("{} {}", error.message, error.hint.unwrap_or_default());
            assert!(parts.iter().all(|part| all.contains(part)), "{text}: {all}");
        }
    }

    #[test]
    fn the_file_that_is_printed_says_all_and_is_read_as_the_same() {
        let account = "ab".repeat(32);
        let text = format!("[relay]\ncircuits_max = 7\nallow_accounts = [\"{account}\"]\n");
        let settings = load(&text, &[]).expect("right");
        assert_eq!(settings.allow_accounts(), [AccountId([0xab; 32])]);
        let printed = settings.file().expect("text");
        assert_eq!(load(&printed, &[]).expect("right"), settings);
        let all: String = printed
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n");
        for key in RELAY_KEYS {
            assert!(all.contains(&format!("\n{} = ", key.short())), "{}: {printed}", key.name);
        }
    }
}
