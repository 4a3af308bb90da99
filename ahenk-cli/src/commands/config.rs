//! `config`: what is set, where that comes from, and setting it.

use std::fs::{File as Folder, TryLockError};
use std::path::Path;
use std::process::Command as Process;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Env;
use crate::config::{self, KEYS, Key, Settings, find};
use crate::error::{CliError, Kind, Result};
use crate::output::{printable, table};

/// How long to wait for another process that changes the settings.
const LOCK_TIME_MAX: Duration = Duration::from_secs(2);

/// Settings of this device.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show a setting
    #[command(after_help = "Example:\n  ahenk-cli config get network.listen")]
    Get {
        /// As in `config list`
        #[arg(add = super::complete::keys())]
        key: String,
    },
    /// Change a setting, and leave the rest of the file as it is
    #[command(
        after_help = "Examples:\n  ahenk-cli config set network.mdns false\n  ahenk-cli config set limits.disk_bytes 2GiB\n  ahenk-cli config set network.listen /ip4/0.0.0.0/tcp/4001 \\\n    /ip4/0.0.0.0/udp/4001/quic-v1"
    )]
    Set {
        /// As in `config list`
        #[arg(add = super::complete::keys())]
        key: String,
        /// The value; a list takes any number
        #[arg(allow_hyphen_values = true, num_args = 0.., add = super::complete::values())]
        value: Vec<String>,
    },
    /// Take a setting out of the file, so that its default counts
    #[command(after_help = "Example:\n  ahenk-cli config unset network.listen")]
    Unset {
        /// As in `config list`
        #[arg(add = super::complete::keys())]
        key: String,
    },
    /// Show all settings, and where each comes from
    #[command(
        after_help = "Examples:\n  ahenk-cli config list\n  ahenk-cli --json config list | jq '.[] | select(.origin != \"default\")'"
    )]
    List,
    /// Open the file in an editor, and keep it if it is right
    #[command(after_help = "Example:\n  EDITOR=nano ahenk-cli config edit")]
    Edit,
    /// Show where the file is
    #[command(after_help = "Example:\n  cat $(ahenk-cli config path)")]
    Path,
}

pub(crate) async fn run(env: &Env, command: Command) -> Result<()> {
    match command {
        Command::Get { key } => get(env, find(&key)?),
        Command::Set { key, value } => set(env, find(&key)?, &value),
        Command::Unset { key } => unset(env, find(&key)?),
        Command::List => list(env),
        Command::Edit => edit(env),
        Command::Path => {
            let path = env.home.config_path().display().to_string();
            env.out.show(&json!({ "path": path }), |_| path.clone())
        }
    }
}

fn document(key: &Key, settings: &Settings) -> serde_json::Value {
    json!({
        "key": key.name,
        "value": key.get(&settings.config),
        "origin": settings.origin(key),
        "default": key.get(&config::Config::default()),
        "allowed": key.allowed(),
        "variable": key.variables()[0],
        "about": key.about,
    })
}

fn origin(key: &Key, settings: &Settings) -> String {
    let origin = serde_json::to_value(settings.origin(key)).unwrap_or_default();
    origin.as_str().unwrap_or_default().to_owned()
}

fn get(env: &Env, key: &Key) -> Result<()> {
    let settings = env.home.settings()?;
    env.out.show(&document(key, &settings), |_| {
        key.get(&settings.config).text().lines().map(printable).collect::<Vec<_>>().join("\n")
    })
}

fn list(env: &Env) -> Result<()> {
    let settings = env.home.settings()?;
    let documents: Vec<_> = KEYS.iter().map(|key| document(key, &settings)).collect();
    env.out.show(&documents, |_| {
        // The items of a list one below the other.
        let rows = KEYS.iter().flat_map(|key| {
            let value = key.get(&settings.config).text();
            let mut lines: Vec<String> = value.lines().map(printable).collect();
            lines.extend(lines.is_empty().then(String::new));
            let first = [key.name.to_owned(), origin(key, &settings)];
            let heads = std::iter::once(first).chain(std::iter::repeat_with(Default::default));
            heads.zip(lines).map(|([name, from], line)| vec![name, from, line]).collect::<Vec<_>>()
        });
        table(&["KEY", "FROM", "VALUE"], &rows.collect::<Vec<_>>())
    })
}

fn set(env: &Env, key: &Key, given: &[String]) -> Result<()> {
    let value = key.parse(&given.iter().map(String::as_str).collect::<Vec<_>>())?;
    key.set(&mut config::Config::default(), value.clone())?;
    if key.name == "device.name" && env.home.initialised()? && env.home.root()?.is_none() {
        return Err(CliError::new(Kind::NotAuthorised, "only an administrator names devices")
            .hint("on one that is: `ahenk-cli device rename DEVICE NAME`"));
    }
    change(env, key, |file| file.set(key, &value))
}

fn unset(env: &Env, key: &Key) -> Result<()> {
    change(env, key, |file| {
        if file.unset(key) {
            return Ok(());
        }
        Err(CliError::new(Kind::NotFound, format!("`{}` is not set in the file", key.name))
            .hint("`ahenk-cli config list` shows where each value comes from"))
    })
}

/// Changes the file. One process at a time does.
fn change(env: &Env, key: &Key, how: impl FnOnce(&mut config::File) -> Result<()>) -> Result<()> {
    env.home.require()?;
    let changing = Changing::begin(env)?;
    let mut file = config::File::read(&env.home.config_path())?;
    how(&mut file)?;
    file.save()?;
    drop(changing);
    let settings = env.home.settings()?;
    env.out.show(&document(key, &settings), |_| {
        let value = printable(&key.get(&settings.config).text().replace('\n', " "));
        format!("{} = {value}  (from: {})", key.name, origin(key, &settings))
    })?;
    remind(env);
    Ok(())
}

/// Held by the one process that changes the file; the system lets go of it however that ends.
struct Changing(#[expect(dead_code, reason = "the lock goes with it")] Folder);

impl Changing {
    /// Waits a little for one that is about to be done; an editor that is open is not waited for.
    fn begin(env: &Env) -> Result<Changing> {
        let locked = |error: std::io::Error| CliError::io("lock", env.home.dir(), &error);
        let folder = Folder::open(env.home.dir()).map_err(locked)?;
        let deadline = Instant::now() + LOCK_TIME_MAX;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Changing(folder)),
                Err(TryLockError::Error(error)) => return Err(locked(error)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(CliError::new(Kind::Conflict, "another process changes the settings")
                        .hint("is `ahenk-cli config edit` open in another terminal? End it, and try again"));
                }
            }
        }
    }
}

fn remind(env: &Env) {
    if env.home.socket_path().is_ok_and(|path| path.exists()) {
        env.out.note("The daemon reads its settings when it starts: `ahenk-cli restart`.");
    }
}

fn text_of(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(CliError::io("read", path, &error)),
    })
}

fn edit(env: &Env) -> Result<()> {
    env.home.require()?;
    let _changing = Changing::begin(env)?;
    let path = env.home.config_path();
    let draft = path.with_extension("draft.toml");
    let before = text_of(&path)?;
    // A draft that was not right is taken up again.
    if !draft.exists() {
        crate::home::replace(&draft, &before)?;
    }
    let named = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let editor = named.unwrap_or_else(|| "vi".to_owned());
    // As git and others do: the variable may hold arguments.
    let ended = Process::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&draft).status();
    let failed = |what: String| {
        CliError::usage(format!("the editor `{editor}` {what}"))
            .hint("name another one in the variable EDITOR")
    };
    let ended = ended.map_err(|error| failed(format!("cannot be started: {error}")))?;
    if !ended.success() {
        return Err(failed(format!("ended with {ended}; nothing was changed")));
    }
    // What the environment says is not what was edited.
    Settings::load(&draft, |_| None).map_err(|error| {
        error.hint("nothing was changed; `ahenk-cli config edit` goes on with what you wrote")
    })?;
    if text_of(&path)? != before {
        return Err(CliError::new(Kind::Conflict, format!("{} has changed meanwhile", path.display()))
            .hint(format!("what you wrote is in {}; put the two together by hand", draft.display())));
    }
    std::fs::rename(&draft, &path).map_err(|error| CliError::io("write", &path, &error))?;
    env.out.show(&json!({ "path": path.display().to_string() }), |_| {
        "The settings are right, and kept.".to_owned()
    })?;
    remind(env);
    Ok(())
}
