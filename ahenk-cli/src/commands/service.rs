//! `service`: have the system start the daemon when this user logs in, and again when it fails.

mod text;

pub(super) use text::quoted;

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::ValueEnum;
use serde_json::json;

use super::Env;
use crate::error::{CliError, Kind, Result};
use crate::logging::make_folder;
use text::Unit;

/// Subcommands of `service`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write the service's file, and start the service where systemd is there
    #[command(after_help = "\
On Linux it is a unit of systemd's user manager, on macOS a launch agent. A home
other than the usual one has a service of its own. To run it also while nobody
is logged in: `loginctl enable-linger`.

Examples:
  ahenk-cli service install
  ahenk-cli --home /srv/notes service install")]
    Install {
        /// Write the file only, and start nothing
        #[arg(long)]
        no_start: bool,
        /// Replace a file of that name that `service install` did not write
        #[arg(long)]
        force: bool,
    },
    /// Stop the service and remove its file
    #[command(after_help = "Example:\n  ahenk-cli service uninstall")]
    Uninstall,
    /// Print the service's file
    #[command(after_help = "Examples:\n  ahenk-cli service print\n  ahenk-cli service print --kind launchd")]
    Print {
        /// For which manager of services [default: this system's]
        #[arg(long, value_enum)]
        kind: Option<ServiceKind>,
    },
}

/// A manager of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceKind {
    Systemd,
    Launchd,
}

impl ServiceKind {
    fn of_this_system() -> ServiceKind {
        if cfg!(target_os = "macos") { ServiceKind::Launchd } else { ServiceKind::Systemd }
    }
}

pub(crate) fn run(env: &Env, command: &Command) -> Result<()> {
    match command {
        Command::Print { kind } => {
            let unit = unit(env)?;
            let kind = kind.unwrap_or_else(ServiceKind::of_this_system);
            let (name, text) = (unit.file_name(kind), unit.text(kind));
            env.out.show(&json!({ "name": name, "text": text }), |_| text.trim_end().to_owned())
        }
        Command::Install { no_start, force } => install(env, *no_start, *force),
        Command::Uninstall => uninstall(env),
    }
}

fn unit(env: &Env) -> Result<Unit> {
    let program =
        std::env::current_exe().map_err(|error| CliError::internal(format!("who am I? {error}")))?;
    Ok(Unit {
        program,
        home: env.home.dir().to_owned(),
        usual: env.home.is_usual(),
        log: env.home.log_path(),
    })
}

/// Where services of this user have their files.
fn folder(kind: ServiceKind) -> Result<PathBuf> {
    let platform = etcetera::base_strategy::choose_native_strategy()
        .map_err(|_| CliError::usage("this user has no home folder").hint("set the variable HOME"))?;
    use etcetera::BaseStrategy as _;
    Ok(match kind {
        ServiceKind::Systemd => platform.config_dir().join("systemd").join("user"),
        ServiceKind::Launchd => platform.home_dir().join("Library").join("LaunchAgents"),
    })
}

fn install(env: &Env, no_start: bool, force: bool) -> Result<()> {
    env.home.require()?;
    let (kind, unit) = (ServiceKind::of_this_system(), unit(env)?);
    let name = unit.file_name(kind);
    let path = folder(kind)?.join(&name);
    let found = std::fs::read_to_string(&path).ok();
    if found.is_some_and(|text| !text.contains(text::MARK)) && !force {
        return Err(CliError::new(Kind::Conflict, format!("{} is there, and not ours", path.display()))
            .hint("--force replaces it"));
    }
    make_folder(&path)?;
    crate::home::replace(&path, unit.text(kind).as_bytes())?;
    let commands = unit.start_commands(kind, &path);
    let started = if no_start { Started::NotAsked } else { carry_out(kind, &commands) };
    let file = path.display().to_string();
    let document = json!({
        "file": file, "name": name, "started": matches!(started, Started::Yes), "commands": commands,
    });
    let by_hand = || format!("{file} is written. To start the service:\n  {}", commands.join("\n  "));
    env.out.show(&document, |_| match &started {
        Started::Yes => format!("{file} is written, and the service runs. `ahenk-cli status` shows it."),
        _ => by_hand(),
    })?;
    started.check()
}

fn uninstall(env: &Env) -> Result<()> {
    let (kind, unit) = (ServiceKind::of_this_system(), unit(env)?);
    let path = folder(kind)?.join(unit.file_name(kind));
    if !path.exists() {
        return Err(CliError::new(Kind::NotFound, format!("no service is installed: {}", path.display()))
            .hint("`ahenk-cli service install` installs it"));
    }
    let commands = unit.stop_commands(kind, &path);
    // Before its file is gone, by which the manager knows it.
    let stopped = carry_out(kind, &commands);
    std::fs::remove_file(&path).map_err(|error| CliError::io("remove", &path, &error))?;
    let after = carry_out(kind, &unit.reload_commands(kind));
    let file = path.display().to_string();
    let document = json!({ "file": file, "stopped": matches!(stopped, Started::Yes), "commands": commands });
    env.out.show(&document, |_| match stopped {
        Started::Yes => format!("The service has stopped, and {file} is removed."),
        _ => format!("{file} is removed. If the service still runs: `ahenk-cli stop`."),
    })?;
    stopped.check().and_then(|()| after.check())
}

/// What became of commands to the manager of services.
enum Started {
    Yes,
    /// There is no such manager here, or it takes commands from people only.
    NotHere,
    NotAsked,
    Failed(String),
}

impl Started {
    fn check(self) -> Result<()> {
        match self {
            Started::Failed(text) => Err(CliError::new(Kind::NotRunning, text).hint(
                "is a user manager running in this session? `systemctl --user status` says so; over ssh it may need \
                 `loginctl enable-linger`",
            )),
            _ => Ok(()),
        }
    }
}

fn carry_out(kind: ServiceKind, commands: &[String]) -> Started {
    if kind != ServiceKind::Systemd {
        return Started::NotHere;
    }
    for command in commands {
        let mut words = command.split(' ');
        let Some(program) = words.next() else { continue };
        match Process::new(program).args(words).output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Started::NotHere,
            Err(error) => return Started::Failed(format!("`{command}` cannot be run: {error}")),
            Ok(ran) if !ran.status.success() => {
                let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
                return Started::Failed(format!("`{command}` failed: {said}"));
            }
            Ok(_) => {}
        }
    }
    Started::Yes
}

/// A path as text. The files of services are text.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
