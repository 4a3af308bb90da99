//! The daemon: a session that stays open, and the socket at which commands reach it.
//!
//! Invariants: only processes of the same user are served; at most [`CLIENTS_MAX`] at a time; a client that goes away
//! cancels its call and nothing else; a client that was welcomed is served, even if the daemon is told to stop.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::backend::{Backend, REPLIES_MAX, WAIT_MAX, WAIT_STEP, in_use};
use crate::commands::stats::{prometheus, serve};
use crate::error::{CliError, Kind, Result};
use crate::home::{DAEMON, Home, Lock};
use crate::protocol::{self, Reply, Request, ToService};
use crate::report::Status;
use crate::service::{self, Caller, Context};
use crate::session::{Need, Session};

/// Most clients at a time; more wait.
const CLIENTS_MAX: usize = 64;

/// How long calls that have begun may go on when the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(3);

/// Removes the socket when the daemon ends.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // If it stays, the next daemon removes it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs the daemon until it is told to stop, by a command or a signal.
pub(crate) async fn run(home: &Home) -> Result<()> {
    home.require()?;
    let lock = take_lock(home).await?;
    let stop = Arc::new(Notify::new());
    let config = home.config()?;
    let need = if config.sync_enabled { Need::Network } else { Need::Store };
    let mut session = Session::open(home, need, lock, Some(Arc::clone(&stop))).await?;
    let (listener, socket, owner) = listen(&home.socket_path()?)?;
    let status = crate::network::status(session.context()).await?;
    info!(device = %status.name, id = %status.device, listening = ?status.listening, "the daemon is running");
    let metrics = metrics(config.metrics_port, Arc::clone(session.context())).await?;
    tokio::pin!(metrics);
    let (stopping, told) = watch::channel(false);
    let mut clients = JoinSet::new();
    let mut term = signal(SignalKind::terminate()).map_err(CliError::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::internal)?;
    let result = loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                Ok((stream, _)) if allowed(&stream, owner) => {
                    clients.spawn(serve(stream, Arc::clone(session.context()), told.clone()));
                }
                Ok(_) => warn!("a process of another user tried to use the socket"),
                Err(error) => {
                    warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    error!(%error, "a call panicked");
                }
            }
            () = stop.notified() => break Ok(()),
            _ = term.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            failure = session.failed() => break Err(failure),
            () = &mut metrics => {}
        }
    };
    info!("stopping");
    // Commands that come now find no daemon, and wait for the lock.
    drop((listener, socket));
    // The receivers are in the tasks that this is for; there may be none.
    let _ = stopping.send(true);
    let calls = async { while clients.join_next().await.is_some() {} };
    if timeout(GRACE, calls).await.is_err() {
        warn!("calls were cut off");
    }
    clients.shutdown().await;
    let lock = session.close().await?;
    // Before the home is let go of: whoever waited for that finds it in the log.
    info!("stopped");
    drop(lock);
    result
}

/// Tells Prometheus how the daemon is, for ever, at the port that is set.
async fn metrics(port: u64, context: Arc<Context>) -> Result<impl Future<Output = ()>> {
    let listener = match u16::try_from(port) {
        Ok(port) if port > 0 => {
            let (listener, url) = serve::bind(port).await?;
            info!(%url, "metrics");
            Some(listener)
        }
        _ => None,
    };
    Ok(async move {
        match listener {
            Some(listener) => {
                let page = async || Ok(prometheus::text(&crate::network::stats(&context).await?));
                serve::pages(&listener, page).await;
            }
            None => std::future::pending().await,
        }
    })
}

/// Takes the home's lock. A command that holds it is soon done; another daemon is not.
async fn take_lock(home: &Home) -> Result<Lock> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        if let Some(lock) = home.try_lock(DAEMON)? {
            return Ok(lock);
        }
        if answers(home).await {
            let pid = home.lock_holder().map_or_else(String::new, |(pid, _)| format!(" (process {pid})"));
            let message = format!("a daemon is already running for {}{pid}", home.dir().display());
            return Err(CliError::new(Kind::Conflict, message).hint(
                "`ahenk-cli status` shows it; `ahenk-cli stop` ends it; --home DIR names another home",
            ));
        }
        if Instant::now() >= deadline {
            return Err(in_use(home));
        }
        tokio::time::sleep(WAIT_STEP).await;
    }
}

/// Whether a daemon answers. One that is just ending may still take the connection.
async fn answers(home: &Home) -> bool {
    let asking = async {
        let daemon = Backend::daemon(home).await?;
        daemon.one::<Status>(Request::Status).await
    };
    matches!(timeout(WAIT_MAX, asking).await, Ok(Ok(_)))
}

/// Makes the socket. The lock is held, so one that lies there is left over.
fn listen(path: &Path) -> Result<(UnixListener, Socket, u32)> {
    let failed = |error: std::io::Error| CliError::io("listen at", path, &error);
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let socket = Socket(path.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    // We made it, so its owner is who we are.
    let owner = fs::metadata(path).map_err(failed)?.uid();
    Ok((listener, socket, owner))
}

fn allowed(stream: &UnixStream, owner: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == owner)
}

/// Serves one client.
async fn serve(stream: UnixStream, context: Arc<Context>, mut stopping: watch::Receiver<bool>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    if *stopping.borrow() || protocol::write(&mut writer, Reply::Welcome).await.is_err() {
        return;
    }
    let request = match protocol::read::<ToService>(&mut reader).await {
        Ok(Some(ToService::Request(request))) => request,
        // Somebody only looked whether we are here.
        Ok(None) => return,
        Ok(Some(ToService::Answer(_))) => return,
        Err(error) => {
            let _ = protocol::write(&mut writer, Reply::Error(error)).await;
            return;
        }
    };
    let lasts = request.lasts();
    let (replies, mut received) = mpsc::channel(REPLIES_MAX);
    let (answers, asked) = mpsc::channel(1);
    let calling = service::call(&context, request, Caller { replies, answers: asked });
    let sending = async {
        while let Some(reply) = received.recv().await {
            let written = match protocol::write(&mut writer, reply).await {
                Err(error) if error.kind == Kind::Usage => {
                    protocol::write(&mut writer, Reply::Error(error)).await
                }
                written => written,
            };
            if let Err(error) = written {
                debug!(%error, "a client went away");
                return;
            }
        }
    };
    let listening = async {
        while let Ok(Some(ToService::Answer(answer))) = protocol::read(&mut reader).await {
            if answers.send(answer).await.is_err() {
                // Nobody asks any more; go on to notice when the client leaves.
                debug!("an answer that was not asked for");
            }
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(calling, sending) } => {}
        () = listening => debug!("a client cancelled its call"),
        _ = stopping.wait_for(|stopping| *stopping), if lasts => debug!("a call ends with the daemon"),
    }
}
