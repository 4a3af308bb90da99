//! `doctor`: looks for what is wrong or soon will be, and says what to do about it.
//!
//! Each check stands for itself: one that cannot be made is a finding, and the others are made all the same.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Env, init_logging, meeting};
use crate::backend::{Backend, Need, connect};
use crate::data::{DataRequest, Verified};
use crate::error::{CliError, Kind, Result};
use crate::home::Home;
use crate::output::{printable, span};
use crate::protocol::Request;
use crate::report::{NetCheck, Relay, Stats, Status};

/// Free space from which to warn, in bytes; and what counts as none.
const FREE_BYTES_LOW: u64 = 1024 * 1024 * 1024;
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Ok,
    /// It works, and something should be done.
    Warning,
    /// It does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) detail: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: &str, detail: impl Into<String>) -> Check {
        Check { name: name.to_owned(), verdict: Verdict::Ok, detail: detail.into(), hint: None }
    }

    pub(crate) fn warning(name: &str, detail: impl Into<String>, hint: &str) -> Check {
        Check { verdict: Verdict::Warning, hint: Some(hint.to_owned()), ..Check::ok(name, detail) }
    }

    pub(crate) fn failure(name: &str, detail: impl Into<String>, hint: &str) -> Check {
        Check { verdict: Verdict::Failure, ..Check::warning(name, detail, hint) }
    }

    fn error(name: &str, error: &CliError) -> Check {
        Check { hint: error.hint.clone(), ..Check::failure(name, error.message.clone(), "") }
    }
}

pub(crate) async fn run(env: &Env) -> Result<()> {
    init_logging("error");
    let checks = checks(&env.home).await?;
    env.out.show(&checks, |checks| checks.iter().map(human).collect::<Vec<_>>().join("\n"))?;
    match checks.iter().filter(|check| check.verdict == Verdict::Failure).count() {
        0 => Ok(()),
        count => Err(CliError::new(Kind::Storage, format!("{count} checks failed"))
            .hint("the lines marked FAIL say what to do")),
    }
}

pub(crate) fn human(check: &Check) -> String {
    let mark = match check.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warning => "WARN",
        Verdict::Failure => "FAIL",
    };
    let hint = check.hint.as_deref().map(|hint| format!("\n      {:<11} -> {hint}", "")).unwrap_or_default();
    format!("{mark}  {:<11} {}{hint}", check.name, printable(&check.detail))
}

/// All checks, in the order in which one would look.
pub(crate) async fn checks(home: &Home) -> Result<Vec<Check>> {
    home.require()?;
    let running = matches!(connect(home).await, Ok(Some(_)));
    let mut checks = vec![permissions(home), keys(home, running), config(home), space(home)];
    match Backend::open(home, Need::Store).await {
        Err(error) => checks.push(Check::error("database", &error)),
        Ok(backend) => {
            checks.extend(through(home, &backend).await);
            if let Err(error) = backend.close().await {
                checks.push(Check::error("database", &error));
            }
        }
    }
    Ok(checks)
}

/// Only the owner may read keys and data.
fn permissions(home: &Home) -> Check {
    let open_to_others =
        |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
    let files = [home.device_key_path(), home.account_key_path(), home.vault_path(), home.config_path()];
    let wrong: Vec<String> = std::iter::once(home.dir().to_owned())
        .chain(files)
        .chain(home.database_path())
        .filter(|path| open_to_others(path))
        .map(|path| path.display().to_string())
        .collect();
    if wrong.is_empty() {
        return Check::ok("home", format!("{}, readable by its owner only", home.dir().display()));
    }
    Check::failure(
        "home",
        format!("open to other users: {}", wrong.join(", ")),
        "chmod -R go= on the home folder",
    )
}

fn keys(home: &Home, running: bool) -> Check {
    // Nobody is asked for a passphrase to see what the daemon has seen.
    if running && home.encrypted().unwrap_or(false) {
        return Check::ok("keys", "encrypted; the daemon has opened them");
    }
    match home.identity().and_then(|identity| Ok((identity, home.root()?))) {
        Err(error) => Check::error("keys", &error),
        Ok((_, root)) => {
            let role = if root.is_some() { "an administrator" } else { "a device that does not administer" };
            Check::ok("keys", format!("of {role}; key and certificate fit"))
        }
    }
}

fn config(home: &Home) -> Check {
    let read = home.config().and_then(|_| home.socket_path());
    match read {
        Ok(_) => Check::ok("config", home.config_path().display().to_string()),
        Err(error) => Check::error("config", &error),
    }
}

/// Room on the disk where the database is.
fn space(home: &Home) -> Check {
    let hint = "make room on the disk; without it nothing can be written or received";
    let database = home.database_path().unwrap_or_else(|_| home.usual_database_path());
    let free = match rustix::fs::statvfs(database.parent().unwrap_or(home.dir())) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => return Check::warning("space", format!("not known: {error}"), hint),
    };
    let detail = format!("{} MiB free", free / (1024 * 1024));
    match free {
        ..FREE_BYTES_MIN => Check::failure("space", detail, hint),
        FREE_BYTES_MIN..FREE_BYTES_LOW => Check::warning("space", detail, hint),
        _ => Check::ok("space", detail),
    }
}

/// Room within the limit that is set, if one is.
async fn limit(home: &Home, backend: &Backend) -> Option<Check> {
    let limit = home.config().ok()?.disk_bytes_max;
    if limit == 0 {
        return None;
    }
    let hint = "raise `limits.disk_bytes`; at it nothing can be written or received";
    Some(match backend.one::<u64>(Request::DiskBytes).await {
        Err(error) => Check::error("limit", &error),
        Ok(taken) => {
            let detail = format!("the database takes {taken} bytes of {limit} that it may");
            match taken {
                taken if taken >= limit => Check::failure("limit", detail, hint),
                taken if taken >= limit / 10 * 9 => Check::warning("limit", detail, hint),
                _ => Check::ok("limit", detail),
            }
        }
    })
}

/// What an open database tells.
async fn through(home: &Home, backend: &Backend) -> Vec<Check> {
    let mut checks = Vec::from_iter(limit(home, backend).await);
    match backend.one::<Status>(Request::Status).await {
        Err(error) => checks.push(Check::error("daemon", &error)),
        Ok(status) => {
            checks.push(daemon(&status));
            checks.push(clock(&status));
            checks.extend(forks(&status));
            checks.extend(status.relays.iter().map(relay));
            if status.running && status.sync_enabled && !status.paused && !status.peers.is_empty() {
                match backend.one::<NetCheck>(Request::NetCheck { within_ms: 0 }).await {
                    Err(error) => checks.push(Check::error("network", &error)),
                    Ok(found) => checks.extend(meeting::checks(&found)),
                }
            }
        }
    }
    let local = DataRequest::Verify { peer: None, within_ms: 0 };
    match backend.one::<Verified>(Request::Data(local)).await {
        Err(error) => checks.push(Check::error("database", &error)),
        Ok(Verified { local, .. }) if local.equal => {
            checks.push(Check::ok("database", format!("{} rows, as recorded", local.rows)));
        }
        Ok(Verified { local, .. }) => checks.push(Check::failure(
            "database",
            format!("its {} rows are not what the record says", local.rows),
            "keep the file, and make a `bugreport`; pairing this device anew gets the data back from another",
        )),
    }
    match backend.one::<Stats>(Request::Stats).await {
        Err(error) => checks.push(Check::error("sync", &error)),
        Ok(stats) => checks.extend(sync(&stats)),
    }
    checks
}

fn daemon(status: &Status) -> Check {
    match (status.pid, status.up_ms) {
        (Some(pid), Some(up_ms)) => Check::ok("daemon", format!("process {pid}, for {}", span(up_ms))),
        _ => Check::warning(
            "daemon",
            "not running: it syncs only while a command asks for it",
            "`ahenk-cli start --daemon` starts it",
        ),
    }
}

fn relay(relay: &Relay) -> Check {
    match &relay.last_error {
        _ if relay.reserved => Check::ok("relay", format!("reachable through {}", relay.address)),
        None => Check::ok("relay", format!("{} is being asked", relay.address)),
        Some(error) => Check::warning(
            "relay",
            format!("{} does not serve this device: {error}", relay.address),
            "is `ahenk-cli relay` running there, at that address and with that id, does it allow this device, and is it full?",
        ),
    }
}

fn clock(status: &Status) -> Check {
    match status.clock_skew_ms {
        None => Check::ok("clock", "no more than a minute from those of connected devices"),
        Some(ms) => {
            let way = if ms > 0 { "behind" } else { "ahead of" };
            let detail = format!("{} {way} the other devices' clocks", span(ms.unsigned_abs()));
            Check::warning("clock", detail, "set this device's clock right: its writes win or lose by it")
        }
    }
}

/// Databases that ran twice, if there are any.
fn forks(status: &Status) -> impl Iterator<Item = Check> {
    status.forks.iter().map(|fork| {
        let detail = format!(
            "the database of {} ran twice, or its key was stolen: nothing counts after its commit {}",
            fork.device, fork.seq
        );
        let hint = "`ahenk-cli quarantine list` shows what this device had of it; pair the copy anew, or revoke the device";
        Check::warning("fork", detail, hint)
    })
}

fn sync(stats: &Stats) -> Vec<Check> {
    let mut checks = Vec::new();
    let differing: Vec<&str> = stats
        .peers
        .iter()
        .filter(|peer| peer.rows_equal == Some(false))
        .map(|peer| peer.name.as_str())
        .collect();
    if !differing.is_empty() {
        checks.push(Check::failure(
            "rows",
            format!("differ from those of {}, which knows the same", differing.join(", ")),
            "`ahenk-cli verify` names the rows; please report it: this should never happen",
        ));
    }
    checks.push(match stats.waiting_commits {
        0 => Check::ok("sync", format!("{} commits, none waits for another", stats.position)),
        count => Check::warning(
            "sync",
            format!("{count} commits wait for others that no connected device has sent yet"),
            "bring the device that wrote them, or one that has them, online",
        ),
    });
    checks
}
