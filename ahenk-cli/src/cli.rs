//! The command line: all commands and the flags they share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};

use crate::commands::{
    account, backup, batch, bugreport, config, conflicts, delete, demo, device, doctor, export, get, import,
    init, list, log, logs, netcheck, oplog, pause, peer, ping, put, quarantine, relay, schema, service,
    shell, start, stats, status, stop, story, sync, tui, vault, verify, wait, watch,
};

const AFTER_HELP: &str = "\
Examples:
  ahenk-cli init --name laptop            begin a new account on this machine
  ahenk-cli start --daemon                keep in sync in the background
  ahenk-cli device invite                 let another machine join: shows a code
  ahenk-cli device join                   on the other machine: asks for it
  ahenk-cli put tasks t1 title='Buy tea'  write; `get`, `list` and `watch` read

Exit codes:
  0 success          1 internal error   2 usage            3 not found
  4 not running      5 not authorised   6 conflict         7 network
  8 storage          9 locked (no passphrase, or a wrong one)

With --json, results are JSON documents on stdout, one a line, and an error is
{\"error\":{\"kind\",\"message\",\"hint\"}} on stderr.";

/// A database on this machine that stays in sync with your other machines, without a server.
#[derive(Debug, Parser)]
#[command(name = "ahenk-cli", version, after_help = AFTER_HELP, max_term_width = 80)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Globals {
    /// The device's home folder [default: the platform's data folder]
    // An empty variable counts as none, which clap's own parser of paths would refuse.
    #[arg(long, global = true, value_name = "DIR", env = "AHENK_HOME", hide_env_values = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON, one document a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results and errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Begin a new account, with this machine as its first device
    Init(init::Args),
    /// The account's devices: list, invite, join
    #[command(subcommand)]
    Device(device::Command),
    /// The account: what it is, and how to get it back with the recovery phrase
    #[command(subcommand)]
    Account(account::Command),
    /// Run the daemon, which keeps this device in sync
    Start(start::Args),
    /// Stop the daemon
    #[command(after_help = "Example:\n  ahenk-cli stop")]
    Stop,
    /// Stop the daemon if it runs, and start it in the background
    #[command(after_help = "Example:\n  ahenk-cli config set log.level debug && ahenk-cli restart")]
    Restart,
    /// Talk to no other device, until `resume`
    Pause(pause::PauseArgs),
    /// Talk to the other devices again
    Resume(pause::ResumeArgs),
    /// Have the system start the daemon: install, uninstall, print
    #[command(subcommand)]
    Service(service::Command),
    /// Show what the daemon has logged
    Logs(logs::Args),
    /// What the running daemon logs: set, get
    #[command(subcommand)]
    Log(log::Command),
    /// Show how things stand
    Status(status::Args),
    /// Show it all on one screen, live: devices, throughput, changes, conflicts, log
    Tui(tui::Args),
    /// Show sync in numbers: commits, operations, bytes, for all and for each device
    #[command(after_help = "Examples:\n  ahenk-cli stats\n  ahenk-cli --json stats | jq .total")]
    Stats,
    /// Print the same numbers for Prometheus, or serve them at a loopback port
    Metrics(stats::MetricsArgs),
    /// Show what this installation is: versions, places, sizes
    #[command(after_help = "Example:\n  ahenk-cli info")]
    Info,
    /// Show how this device stands in the network: NAT, reachability, relays, discovery, and why devices do not meet
    Netcheck(netcheck::Args),
    /// Measure round trips to another device, and show which way they take
    Ping(ping::Args),
    /// Look for what is wrong or soon will be, and say what to do about it
    #[command(after_help = "Example:\n  ahenk-cli doctor || ahenk-cli bugreport")]
    Doctor,
    /// Write what helps to understand a bug to a file, without data, names and addresses
    Bugreport(bugreport::Args),
    /// Sync with all devices that can be reached, and wait until it is done
    Sync(sync::Args),
    /// Wait until this device is connected to another, or in sync
    Wait(wait::Args),
    /// The ways to the other devices: list, add
    #[command(subcommand)]
    Peer(peer::Command),
    /// Run a relay, through which devices meet that cannot reach each other
    Relay(relay::Args),
    /// Settings: get, set, unset, list, edit, path
    #[command(subcommand)]
    Config(config::Command),
    /// Write fields of a row; creates the row if it is not there
    Put(put::Args),
    /// Read a row, or one field of it
    Get(get::Args),
    /// Delete a row
    Delete(delete::Args),
    /// Carry out many operations from JSON Lines, in one transaction
    Batch(batch::Args),
    /// Show the rows of a table: all, or those that meet conditions
    List(list::Args),
    /// Count the rows of a table: all, or those that meet conditions
    Count(list::CountArgs),
    /// Show the tables and how many rows they have
    #[command(after_help = "Example:\n  ahenk-cli tables")]
    Tables,
    /// Ask in SQL: one SELECT over tables, log, conflicts and peers
    #[cfg(feature = "query")]
    Query(crate::commands::query::Args),
    /// Print changes as they come, from this device and others
    Watch(watch::Args),
    /// Read rows from a JSON array, JSON Lines, or a file with columns
    Import(import::Args),
    /// Write rows as JSON Lines, which `import` reads
    Export(export::Args),
    /// Check that rows are what they should be, and the same on all devices
    Verify(verify::Args),
    /// Copy the whole database to a file, while everything goes on
    Backup(backup::Args),
    /// Put a backup in the place of the database
    Restore(backup::RestoreArgs),
    /// The encryption of this device's files: status, passphrase
    #[command(subcommand)]
    Vault(vault::Command),
    /// Show the log: who wrote what when
    Oplog(oplog::Args),
    /// Show the writes of one row: who wrote what when
    History(story::HistoryArgs),
    /// Show why a row is as it is, and which devices have that
    Explain(story::ExplainArgs),
    /// Values that lost against another device's: list, show, restore
    Conflicts(conflicts::Args),
    /// What revoked devices had written and counts no longer: list, show, restore, drop
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// Print what a shell runs to complete commands, flags and settings
    Completions(shell::CompletionsArgs),
    /// Print the JSON Schema of what commands print with --json
    Schema(schema::Args),
    /// Write the manual pages, one a command, to a folder
    Man(shell::ManArgs),
    /// Show it all at work: three devices on this machine, cut off and reconnected
    Demo(demo::Args),
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, env: &crate::commands::Env) -> crate::error::Result<()> {
        match self {
            Command::Init(args) => init::run(env, &args),
            Command::Device(command) => device::run(env, command).await,
            Command::Account(command) => account::run(env, command).await,
            Command::Start(args) => start::run(env, args).await,
            Command::Stop => stop::run(env).await,
            Command::Restart => start::restart(env).await,
            Command::Pause(args) => pause::pause(env, args).await,
            Command::Resume(args) => pause::resume(env, args).await,
            Command::Service(command) => service::run(env, &command),
            Command::Logs(args) => logs::run(env, args).await,
            Command::Log(command) => log::run(env, command).await,
            Command::Status(args) => status::run(env, args).await,
            Command::Tui(args) => tui::run(env, args).await,
            Command::Stats => stats::stats(env).await,
            Command::Metrics(args) => stats::metrics(env, args).await,
            Command::Info => stats::info(env).await,
            Command::Netcheck(args) => netcheck::run(env, args).await,
            Command::Ping(args) => ping::run(env, args).await,
            Command::Doctor => doctor::run(env).await,
            Command::Bugreport(args) => bugreport::run(env, args).await,
            Command::Sync(args) => sync::run(env, args).await,
            Command::Wait(args) => wait::run(env, args).await,
            Command::Peer(command) => peer::run(env, command).await,
            Command::Relay(args) => relay::run(env, args).await,
            Command::Config(command) => config::run(env, command).await,
            Command::Put(args) => put::run(env, args).await,
            Command::Get(args) => get::run(env, args).await,
            Command::Delete(args) => delete::run(env, args).await,
            Command::Batch(args) => batch::run(env, args).await,
            Command::List(args) => list::run(env, args).await,
            Command::Count(args) => list::count(env, args).await,
            Command::Tables => list::tables(env).await,
            #[cfg(feature = "query")]
            Command::Query(args) => crate::commands::query::run(env, args).await,
            Command::Watch(args) => watch::run(env, args).await,
            Command::Import(args) => import::run(env, args).await,
            Command::Export(args) => export::run(env, args).await,
            Command::Verify(args) => verify::run(env, args).await,
            Command::Backup(args) => backup::run(env, args).await,
            Command::Restore(args) => backup::restore(env, args).await,
            Command::Vault(command) => vault::run(env, &command).await,
            Command::Oplog(args) => oplog::oplog(env, args).await,
            Command::History(args) => story::history(env, args).await,
            Command::Explain(args) => story::explain(env, args).await,
            Command::Conflicts(args) => conflicts::run(env, args).await,
            Command::Quarantine(command) => quarantine::run(env, command).await,
            Command::Completions(args) => shell::completions(env, &args),
            Command::Schema(args) => schema::run(env, &args),
            Command::Man(args) => shell::man(env, &args),
            Command::Demo(args) => demo::run(env, args).await,
        }
    }
}

/// The arguments as clap is to see them. `--json` is a flag of every command; on `put` it may be followed by an object
/// with the fields, which clap knows as `--fields OBJECT`. A table or key cannot be meant where an object begins.
pub(crate) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut given = given.peekable();
    let (mut arguments, mut put) = (Vec::new(), false);
    while let Some(argument) = given.next() {
        put |= argument == "put";
        let object = |text: &OsString| text.to_string_lossy().trim_start().starts_with('{');
        let text = argument.to_string_lossy();
        if put && argument == "--json" && given.peek().is_some_and(object) {
            arguments.push("--fields".into());
        } else if let Some(value) = text.strip_prefix("--json=").filter(|_| put) {
            arguments.push(format!("--fields={value}").into());
        } else {
            arguments.push(argument);
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// All commands that do something, by their whole names.
    fn leaves(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
        let path = format!("{path} {}", command.get_name());
        let within = command.get_subcommands().filter(|sub| sub.get_name() != "help");
        let mut found: Vec<_> = within.flat_map(|sub| leaves(sub, &path)).collect();
        if !command.is_subcommand_required_set() {
            found.push((path, command.clone()));
        }
        found
    }

    #[test]
    fn every_command_shows_by_example_how_it_is_used() {
        for (path, command) in leaves(&Cli::command(), "") {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example:\n") || help.contains("Examples:\n"), "{path}: {help}");
        }
    }

    #[test]
    fn help_fits_a_terminal_80_wide() {
        let mut wide = Vec::new();
        for (path, command) in leaves(&Cli::command(), "") {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let help = command.clone().term_width(80).render_long_help().to_string();
            let lines = text.lines().chain(help.lines()).filter(|line| line.chars().count() > 80);
            wide.extend(lines.map(|line| format!("{path}: {line}")));
        }
        assert!(wide.is_empty(), "{}", wide.join("\n"));
    }

    #[test]
    fn json_before_an_object_means_the_fields_of_put_and_nothing_else() {
        let of = |line: &[&str]| arguments(line.iter().map(OsString::from));
        assert_eq!(of(&["x", "put", "t", "r", "--json", "{}"]), ["x", "put", "t", "r", "--fields", "{}"]);
        assert_eq!(of(&["x", "put", "--json={}", "t", "r"]), ["x", "put", "--fields={}", "t", "r"]);
        for line in [
            ["x", "--json", "put", "t", "r", "a=1"],
            ["x", "put", "t", "r", "--json", "a={}"],
            ["x", "get", "--json", "{t}", "r", "a"],
        ] {
            assert_eq!(of(&line), line);
        }
    }
}
