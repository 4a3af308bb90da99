//! The command line: all commands and the flags they share.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{device, get, init, peer, put, start, status, stop, sync};

const AFTER_HELP: &str = "\
Examples:
  ahenk-cli init --name laptop            begin a new account on this machine
  ahenk-cli start --daemon                keep in sync in the background
  ahenk-cli device invite                 let another machine join: prints a code
  ahenk-cli device join                   on the other machine: asks for the code
  ahenk-cli put tasks t1 title='Buy tea'  write; `get`, `list` and `watch` read

Exit codes:
  0 success          1 internal error   2 usage            3 not found
  4 not running      5 not authorised   6 conflict         7 network
  8 storage

With --json, results are JSON documents on stdout, one a line, and an error is
{\"error\":{\"kind\",\"message\",\"hint\"}} on stderr.";

/// A database on this machine that stays in sync with your other machines, without a server.
#[derive(Debug, Parser)]
#[command(name = "ahenk-cli", version, after_help = AFTER_HELP, max_term_width = 100)]
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
    #[arg(long, global = true, value_name = "DIR", env = "AHENK_HOME", hide_env_values = true)]
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
    /// Run the daemon, which keeps this device in sync
    Start(start::Args),
    /// Stop the daemon
    Stop,
    /// Show how things stand
    Status(status::Args),
    /// Sync with all devices that can be reached, and wait until it is done
    Sync(sync::Args),
    /// The ways to the other devices: list, add
    #[command(subcommand)]
    Peer(peer::Command),
    /// Write fields of a row; creates the row if it is not there
    Put(put::Args),
    /// Read a row, or one field of it
    Get(get::Args),
}

impl Command {
    /// Does it.
    pub(crate) async fn run(self, env: &crate::commands::Env) -> crate::error::Result<()> {
        match self {
            Command::Init(args) => init::run(env, &args),
            Command::Device(command) => device::run(env, command).await,
            Command::Start(args) => start::run(env, args).await,
            Command::Stop => stop::run(env).await,
            Command::Status(args) => status::run(env, args).await,
            Command::Sync(args) => sync::run(env, args).await,
            Command::Peer(command) => peer::run(env, command).await,
            Command::Put(args) => put::run(env, args).await,
            Command::Get(args) => get::run(env, args).await,
        }
    }
}
