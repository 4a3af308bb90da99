//! `stop`: end the daemon and wait until it has ended.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Env, init_logging};
use crate::backend::Backend;
use crate::error::{CliError, Kind, Result};
use crate::protocol::Request;

/// How long the daemon may take to close everything.
const WAIT_MAX: Duration = Duration::from_secs(15);

pub(crate) async fn run(env: &Env) -> Result<()> {
    init_logging("warn");
    let backend = Backend::daemon(&env.home).await?;
    let pid = env.home.lock_holder().map(|(pid, _)| pid);
    backend.perform(Request::Stop).await?;
    let deadline = Instant::now() + WAIT_MAX;
    // The daemon lets go of the lock when all is closed. Another command may be quicker to take it.
    while env.home.lock_holder().map(|(holder, _)| holder) == pid
        && env.home.try_lock("another command")?.is_none()
    {
        if Instant::now() >= deadline {
            let process =
                pid.map_or_else(|| "the daemon".to_owned(), |pid| format!("the daemon (process {pid})"));
            return Err(CliError::new(Kind::Conflict, format!("{process} has not ended yet"))
                .hint("its log may say why; nothing is lost if it is killed"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    env.out.show(&json!({ "stopped": true, "pid": pid }), |_| "The daemon has stopped.".to_owned())
}
