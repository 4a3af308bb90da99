//! `stop`: end the daemon and wait until it has ended.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::Env;
use crate::backend::Backend;
use crate::error::{CliError, Kind, Result};
use crate::home::DAEMON;
use crate::protocol::Request;

/// How long the daemon may take to close everything.
const WAIT_MAX: Duration = Duration::from_secs(15);

pub(crate) async fn run(env: &Env) -> Result<()> {
    let pid = stop(env).await?;
    env.out.show(&json!({ "stopped": true, "pid": pid }), |_| "The daemon has stopped.".to_owned())
}

/// Ends the daemon; its process id, if it is known.
pub(crate) async fn stop(env: &Env) -> Result<Option<u32>> {
    env.init_logging();
    env.home.require()?;
    let asked = async { Backend::daemon(&env.home).await?.perform(Request::Stop).await };
    // Asked after, it may be gone already, and its note with it.
    let holder = env.home.lock_holder().map(|(pid, _)| pid);
    let pid = match asked.await {
        Ok(()) => holder,
        // It cannot be asked: its socket is gone, or it does not take connections.
        Err(error) => Some(signal(env, error)?),
    };
    let deadline = Instant::now() + WAIT_MAX;
    // The daemon lets go of the lock when all is closed. Another command may be quicker to take it.
    while env.home.lock_holder().map(|(holder, _)| holder) == pid
        && env.home.try_lock("another command")?.is_none()
    {
        if Instant::now() >= deadline {
            let (process, hint) = pid.map_or_else(
                || (DAEMON.to_owned(), "its log may say why".to_owned()),
                |pid| {
                    (
                        format!("{DAEMON} (process {pid})"),
                        format!("its log may say why; `kill -9 {pid}` ends it, and loses nothing that was acknowledged"),
                    )
                },
            );
            return Err(CliError::new(Kind::Conflict, format!("{process} has not ended yet")).hint(hint));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(pid)
}

/// Asks the daemon that holds the lock to end, by a signal; `error` if there is none.
fn signal(env: &Env, error: CliError) -> Result<u32> {
    // The note is believed only while its writer holds the lock: so the process is no other of that number.
    let holder = match env.home.try_lock("another command")? {
        Some(_) => None,
        None => env.home.lock_holder().filter(|(_, what)| what == DAEMON),
    };
    let pid = holder.map(|(pid, _)| pid);
    let process = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let (Some(pid), Some(process)) = (pid, process) else { return Err(error) };
    kill_process(process, Signal::TERM)
        .map_err(|failed| CliError::new(error.kind, format!("{error}, and cannot be signalled: {failed}")))?;
    Ok(pid)
}
