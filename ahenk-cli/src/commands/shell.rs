//! `completions` and `man`: what a shell and `man` know of this program, made from its definitions.

use std::path::PathBuf;

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::env::Shells;
use serde_json::json;

use super::Env;
use crate::cli::Cli;
use crate::error::{CliError, Result};

const NAME: &str = "ahenk-cli";

/// A shell that can complete.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ahenk-cli completions bash >> ~/.bashrc\n  ahenk-cli completions fish > ~/.config/fish/completions/ahenk-cli.fish"
)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

pub(crate) fn completions(env: &Env, args: &CompletionsArgs) -> Result<()> {
    let name = args.shell.to_possible_value().map(|shell| shell.get_name().to_owned()).unwrap_or_default();
    let shells = Shells::builtins();
    let completer = shells.completer(&name);
    let completer = completer.ok_or_else(|| CliError::internal(format!("no completions for {name}")))?;
    let mut script = Vec::new();
    completer.write_registration("COMPLETE", NAME, NAME, NAME, &mut script).map_err(CliError::internal)?;
    let script = String::from_utf8(script).map_err(CliError::internal)?;
    env.out.show(&json!({ "shell": name, "script": script }), |_| script.trim_end().to_owned())
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ahenk-cli man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn man(env: &Env, args: &ManArgs) -> Result<()> {
    let failed = |error: std::io::Error| CliError::io("write", &args.folder, &error);
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).map_err(failed)?;
    let folder = args.folder.display().to_string();
    env.out.show(&json!({ "folder": folder }), |_| format!("The manual pages are in {folder}."))
}
