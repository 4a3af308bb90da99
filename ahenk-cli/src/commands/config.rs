//! `config`: what is set, where that comes from, and setting it.

use std::fs::File as Folder;
use std::process::Command as Process;

use serde_json::json;

use super::Env;
use crate::config::{self, KEYS, Key, Settings, find};
use crate::error::{CliError, Kind, Result};
use crate::output::{printable, table};

/// Settings of this device.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show a setting
    Get {
        /// As in `config list`
        #[arg(add = super::complete::keys())]
        key: String,
    },
    /// Change a setting, and leave the rest of the file as it is
    #[command(
        after_help = "Examples:\n  ahenk-cli config set network.mdns false\n  ahenk-cli config set network.listen /ip4/0.0.0.0/tcp/4001 /ip4/0.0.0.0/udp/4001/quic-v1"
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
    Unset {
        /// As in `config list`
        #[arg(add = super::complete::keys())]
        key: String,
    },
    /// Show all settings, and where each comes from
    List,
    /// Open the file in an editor, and keep it if it is right
    Edit,
    /// Show where the file is
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
        let row = |key: &Key| {
            let value = printable(&key.get(&settings.config).text().replace('\n', " "));
            vec![key.name.to_owned(), origin(key, &settings), value]
        };
        table(&["KEY", "FROM", "VALUE"], &KEYS.iter().map(row).collect::<Vec<_>>())
    })
}

fn set(env: &Env, key: &Key, given: &[String]) -> Result<()> {
    let value = key.parse(&given.iter().map(String::as_str).collect::<Vec<_>>())?;
    key.set(&mut config::Config::default(), value.clone())?;
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
    let path = env.home.config_path();
    let locked = |error: std::io::Error| CliError::io("lock", env.home.dir(), &error);
    let folder = Folder::open(env.home.dir()).map_err(locked)?;
    folder.lock().map_err(locked)?;
    let mut file = config::File::read(&path)?;
    how(&mut file)?;
    file.save()?;
    drop(folder);
    let settings = env.home.settings()?;
    env.out.show(&document(key, &settings), |_| {
        let value = printable(&key.get(&settings.config).text().replace('\n', " "));
        format!("{} = {value}  (from: {})", key.name, origin(key, &settings))
    })?;
    remind(env);
    Ok(())
}

fn remind(env: &Env) {
    if env.home.socket_path().is_ok_and(|path| path.exists()) {
        env.out.note("The daemon reads its settings when it starts: `ahenk-cli restart`.");
    }
}

fn edit(env: &Env) -> Result<()> {
    env.home.require()?;
    let path = env.home.config_path();
    let draft = path.with_extension("draft.toml");
    // A draft that was not right is taken up again.
    if !draft.exists() {
        let text = std::fs::read(&path).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(Vec::new()),
            _ => Err(CliError::io("read", &path, &error)),
        })?;
        crate::home::replace(&draft, &text)?;
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
    std::fs::rename(&draft, &path).map_err(|error| CliError::io("write", &path, &error))?;
    env.out.show(&json!({ "path": path.display().to_string() }), |_| {
        "The settings are right, and kept.".to_owned()
    })?;
    remind(env);
    Ok(())
}
