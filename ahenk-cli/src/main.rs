//! `ahenk-cli`: Ahenk for people and scripts.
//!
//! From the outside in: `cli` and `commands` (what a user types, what a user sees), `output`,
//! `error`; `backend` (reaching the service, in a daemon or in this process), `protocol`, `server`;
//! `service` with `network`, `waiting`, `pairing` and `data` (carrying requests out); `session` (an open
//! database with its network), `home`, `addresses` and `secrets` (what is on the disk).
//!
//! Architecture invariant: a command does nothing to the database but through a [`protocol::Request`],
//! so it works the same whether a daemon runs or not.

mod addresses;
mod backend;
mod cli;
mod commands;
mod config;
mod conversion;
mod data;
mod error;
#[cfg(test)]
mod exercised;
mod home;
mod keychain;
mod logging;
mod netcheck;
mod network;
mod output;
mod pairing;
mod progress;
mod protocol;
#[cfg(test)]
mod reference;
mod report;
mod schema;
mod secrets;
mod server;
mod service;
mod session;
mod suggest;
mod vault;
mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use crate::cli::Cli;
use crate::commands::Env;
use crate::error::{CliError, Kind, Result};
use crate::home::Home;
use crate::output::Output;

fn main() -> ExitCode {
    // A shell that asks for completions gets them, and nothing else happens.
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = match Cli::try_parse_from(cli::arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json = cli.globals.json;
    let result = catch_unwind(AssertUnwindSafe(|| run(cli)))
        .unwrap_or_else(|_| Err(CliError::internal("the program panicked")));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind == Kind::OutputClosed => ExitCode::SUCCESS,
        Err(error) => {
            output::error(json, &error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let env = Env {
        home: Home::choose(cli.globals.home.filter(|home| !home.as_os_str().is_empty()))?,
        out: Output::new(cli.globals.json, cli.globals.quiet),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::internal(format!("no runtime: {error}")))?;
    let result = runtime.block_on(cli.command.run(&env));
    // Nothing that still runs matters, least of all a thread that waits for input from a terminal.
    runtime.shutdown_background();
    result
}

/// What clap says of a command line: help and version are results, the rest is an error.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    if json && !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let (message, tip) = in_one_line(&error.to_string());
        let hint = tip.unwrap_or_else(|| "`ahenk-cli help` lists the commands".to_owned());
        output::error(true, &CliError::usage(message).hint(hint));
    } else {
        // A terminal that is gone needs no help.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Kind::Usage.exit_code()))
}

/// What clap says, without the part on usage: the message, and its tip if it has one.
fn in_one_line(text: &str) -> (String, Option<String>) {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let (tips, message): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("tip: "));
    let tip = tips.first().map(|tip| tip.trim_start_matches("tip: ").to_owned());
    (message.join(" ").trim_start_matches("error: ").to_owned(), tip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clap_says_in_several_lines_is_one_message_and_a_hint() {
        let missing =
            Cli::try_parse_from(["ahenk-cli", "put", "t"]).expect_err("a row is missing").to_string();
        let (message, tip) = in_one_line(&missing);
        assert!(message.contains("were not provided: <ROW>"), "{message}");
        assert_eq!(tip, None);
        let mistyped = Cli::try_parse_from(["ahenk-cli", "statsu"]).expect_err("mistyped").to_string();
        let (message, tip) = in_one_line(&mistyped);
        assert_eq!(message, "unrecognized subcommand 'statsu'");
        assert!(tip.is_some_and(|tip| tip.contains("status")));
    }
}
