//! `log`: what a running daemon logs. For what it has logged see `logs`, for who wrote what see `oplog`.

use serde::{Deserialize, Serialize};

use super::Env;
use crate::backend::Backend;
use crate::error::{CliError, Kind, Result};
use crate::output::printable;
use crate::protocol::Request;

/// Subcommands of `log`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Change what the running daemon logs, until it ends
    #[command(after_help = "\
`config set log.level LEVEL` does it for good, from the next start on.

Examples:
  ahenk-cli log set debug
  ahenk-cli log set warn,ahenk=trace
  ahenk-cli log set default             what the settings say")]
    Set {
        /// off, error, warn, info, debug or trace, and TARGET=LEVEL, with commas; `default` for the setting
        level: String,
    },
    /// Show what the running daemon logs
    #[command(after_help = "Example:\n  ahenk-cli log get")]
    Get,
}

/// What a daemon logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Logging {
    /// As in `log.level`.
    pub(crate) level: String,
}

pub(crate) async fn run(env: &Env, command: Command) -> Result<()> {
    env.init_logging();
    let level = match command {
        Command::Get => None,
        Command::Set { level } if level == "default" => Some(env.home.config()?.log_level),
        Command::Set { level } => Some(level),
    };
    let daemon = Backend::daemon(&env.home).await.map_err(|error| match error.kind {
        Kind::NotRunning => CliError {
            hint: Some("`ahenk-cli config set log.level LEVEL` is for the next start".into()),
            ..error
        },
        _ => error,
    })?;
    let logging: Logging = daemon.one(Request::Log { level }).await?;
    env.out.show(&logging, |logging| format!("The daemon logs: {}", printable(&logging.level)))
}
