//! `start`: run the daemon, here or in the background.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use store::DataKey;
use zeroize::Zeroizing;

use super::Env;
use crate::backend::Backend;
use crate::error::{CliError, Kind, Result};
use crate::logging;
use crate::protocol::Request;
use crate::report::Status;
use crate::server;

/// How long a daemon may take until it answers; opening reads the whole database.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// What is shown of the log when a start fails, in bytes.
const LOG_TAIL_BYTES: u64 = 4096;

/// Arguments of `start`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ahenk-cli start --daemon\n  RUST_LOG=debug ahenk-cli start")]
pub(crate) struct Args {
    /// Run in the background, and return when the daemon answers
    #[arg(long, short)]
    daemon: bool,
    /// Log to the file that the setting log.file names, and not to stderr
    #[arg(long)]
    log_to_file: bool,
    /// Leave the terminal's session; for the background process itself
    #[arg(long, hide = true)]
    detached: bool,
}

pub(crate) async fn run(env: &Env, args: Args) -> Result<()> {
    env.home.require()?;
    let config = env.home.config()?;
    if args.daemon {
        return background(env).await;
    }
    if args.detached {
        if env.home.encrypted()? {
            adopt_key(env)?;
        }
        // Without a terminal of its own, it is not ended with the one it was started from.
        rustix::process::setsid()
            .map_err(|error| CliError::internal(format!("no session of its own: {error}")))?;
    }
    let file = (args.detached || args.log_to_file).then(|| env.home.log_path());
    logging::init(&config, file.as_deref())?;
    server::run(&env.home).await
}

/// `restart`: ends the daemon if it runs, and starts it in the background.
pub(crate) async fn restart(env: &Env) -> Result<()> {
    env.home.require()?;
    // Settings that are wrong, or a passphrase that is not at hand, must not cost the user a daemon that runs.
    env.home.config()?;
    env.home.key()?;
    match super::stop::stop(env).await {
        Ok(_) => {}
        Err(error) if error.kind == Kind::NotRunning => {}
        Err(error) => return Err(error),
    }
    background(env).await
}

async fn background(env: &Env) -> Result<()> {
    env.init_logging();
    let key = env.home.key()?;
    let (log, end) = open_log(env)?;
    let program =
        std::env::current_exe().map_err(|error| CliError::internal(format!("who am I? {error}")))?;
    let clone =
        |file: &File| file.try_clone().map_err(|error| CliError::io("open", &env.home.log_path(), &error));
    let mut child = Command::new(program)
        .arg("--home")
        .arg(env.home.dir())
        .args(["start", "--detached"])
        .current_dir("/")
        .stdin(if key.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(clone(&log)?)
        .stderr(clone(&log)?)
        .spawn()
        .map_err(|error| CliError::internal(format!("the daemon could not be started: {error}")))?;
    if let (Some(key), Some(mut stdin)) = (key, child.stdin.take()) {
        // A daemon that has ended before it read this is told of below.
        let _ = stdin.write_all(key.bytes());
    }
    let pid = wait_for(env, &mut child, end).await?;
    let log = env.home.log_path().display().to_string();
    env.out.show(&json!({ "running": true, "pid": pid, "log": log }), |_| {
        format!("The daemon is running, process {pid}. Log: {log}")
    })
}

/// Reads the data key from the process that asked for the passphrase.
fn adopt_key(env: &Env) -> Result<()> {
    let mut bytes = Zeroizing::new([0; 32]);
    std::io::stdin().lock().read_exact(&mut bytes[..]).map_err(|_| {
        CliError::internal("the background process was not given the key of the encrypted home")
    })?;
    env.home.adopt(DataKey::new(bytes));
    Ok(())
}

/// Waits until the new process answers at the socket, or has ended.
async fn wait_for(env: &Env, child: &mut Child, log_from: u64) -> Result<u32> {
    let deadline = Instant::now() + START_TIME_MAX;
    loop {
        let ended = child
            .try_wait()
            .map_err(|error| CliError::internal(format!("waiting for the daemon: {error}")))?;
        if let Some(status) = ended {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Err(failed(env, code, log_from));
        }
        // One that answers may be another, and one that does not may be about to end.
        if let Ok(daemon) = Backend::daemon(&env.home).await
            && let Ok(status) = daemon.one::<Status>(Request::Status).await
            && status.pid == Some(child.id())
        {
            return Ok(child.id());
        }
        if Instant::now() >= deadline {
            return Err(CliError::new(Kind::NotRunning, "the daemon does not answer yet")
                .hint(format!("see its log, {}", env.home.log_path().display())));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// The error that the daemon ended with, as its log has it.
fn failed(env: &Env, code: Option<u8>, log_from: u64) -> CliError {
    let mut text = Vec::new();
    if let Ok(mut log) = File::open(env.home.log_path()) {
        let from =
            log.metadata().map_or(log_from, |log| log_from.max(log.len().saturating_sub(LOG_TAIL_BYTES)));
        let _ = log.seek(SeekFrom::Start(from)).and_then(|_| log.read_to_end(&mut text));
    }
    let text = String::from_utf8_lossy(&text);
    let find =
        |prefix: &str| text.lines().rev().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
    let kind = Kind::ALL.into_iter().find(|kind| Some(kind.exit_code()) == code).unwrap_or(Kind::Internal);
    let message = find("error: ").unwrap_or_else(|| "the daemon ended at once".to_owned());
    let hint = find("hint: ").unwrap_or_else(|| format!("see its log, {}", env.home.log_path().display()));
    CliError::new(kind, message).hint(hint)
}

/// The log, to be appended to, and its present length.
fn open_log(env: &Env) -> Result<(File, u64)> {
    let path = env.home.log_path();
    let failed = |error: std::io::Error| CliError::io("open", &path, &error);
    logging::make_folder(&path)?;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
    let end = file.metadata().map_err(failed)?.len();
    Ok((file, end))
}
