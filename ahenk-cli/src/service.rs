//! The service: carries out requests on an open database, in the daemon or in a command's own process.
//!
//! [`call`] is the one entrance. A call streams its results through [`Caller`] and may ask the user
//! a question; it is cancelled by dropping its future, which loses nothing that was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ahenk::Db;
use engine::identity::{Identity, SecretKey};
use serde::Serialize;
use store::RedbStore;
use tokio::sync::{Notify, mpsc};
use transport_libp2p::Libp2pControl;

use crate::commands::log::Logging;
use crate::error::{CliError, Kind, Result};
use crate::home::Home;
use crate::protocol::{Reply, Request};
use crate::{data, logging, netcheck, network, pairing};

/// An open database and what belongs to it.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) identity: Identity,
    pub(crate) db: Db<RedbStore>,
    /// The network; `None` if the database was opened without.
    pub(crate) net: Option<Libp2pControl>,
    pub(crate) started: Instant,
    /// Whether sync is paused.
    pub(crate) paused: AtomicBool,
    /// In the daemon: asks it to stop.
    pub(crate) stop: Option<Arc<Notify>>,
}

impl Context {
    /// The account's root key, on an administrator: from the start, or given to it since.
    pub(crate) fn root(&self) -> Option<SecretKey> {
        self.identity.root.clone().or_else(|| self.db.granted().borrow().clone())
    }

    /// The network, or an error that says that this needs it.
    pub(crate) fn net(&self) -> Result<&Libp2pControl> {
        if self.paused.load(Ordering::Relaxed) {
            return Err(CliError::new(Kind::Conflict, "sync is paused: the daemon talks to no other device")
                .hint("`ahenk-cli resume` lets it go on"));
        }
        self.net_even_paused()
    }

    /// The same, whether sync is paused or not.
    pub(crate) fn net_even_paused(&self) -> Result<&Libp2pControl> {
        self.net.as_ref().ok_or_else(|| match &self.stop {
            Some(_) => {
                CliError::new(Kind::Conflict, "`sync.enabled` is false: the daemon talks to no other device")
                    .hint("`ahenk-cli config set sync.enabled true`, then `ahenk-cli restart`")
            }
            None => CliError::internal("the database was opened without the network"),
        })
    }
}

/// Whoever made a call: takes its results, answers its questions.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) replies: mpsc::Sender<Reply>,
    pub(crate) answers: mpsc::Receiver<bool>,
}

impl Caller {
    /// Hands over one result; waits while the caller is slow. An error if it went away.
    pub(crate) async fn item(&self, item: impl Serialize) -> Result<()> {
        let item = serde_json::to_value(item).map_err(CliError::internal)?;
        self.replies.send(Reply::Item(item)).await.map_err(|_| gone())
    }

    /// Waits for the answer to a question that was put as an item.
    pub(crate) async fn answer(&mut self) -> Result<bool> {
        self.answers.recv().await.ok_or_else(gone)
    }
}

fn gone() -> CliError {
    CliError::new(Kind::OutputClosed, "the command went away")
}

/// Carries out a request to its end. The last reply is `Done` or `Error`.
pub(crate) async fn call(context: &Context, request: Request, mut caller: Caller) {
    let last = match dispatch(context, request, &mut caller).await {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Error(error),
    };
    // A caller that went away needs no answer.
    let _ = caller.replies.send(last).await;
}

async fn dispatch(context: &Context, request: Request, caller: &mut Caller) -> Result<()> {
    match request {
        Request::Status => caller.item(network::status(context).await?).await,
        Request::Stats => caller.item(network::stats(context).await?).await,
        Request::DiskBytes => caller.item(context.db.store().disk_bytes()?).await,
        Request::Devices => caller.item(network::devices(context).await?).await,
        Request::Peers => caller.item(network::peers(context).await?).await,
        Request::Ping { device } => caller.item(netcheck::ping(context, &device).await?).await,
        Request::NetCheck { within_ms } => {
            caller.item(netcheck::netcheck(context, Duration::from_millis(within_ms)).await?).await
        }
        Request::PeerAdd { address } => caller.item(network::add(context, &address).await?).await,
        Request::Sync { within_ms } => {
            caller.item(network::sync(context, Duration::from_millis(within_ms)).await?).await
        }
        Request::Wait { synced, peers, within_ms } => {
            let within = Duration::from_millis(within_ms);
            caller.item(crate::waiting::wait(context, synced, &peers, within).await?).await
        }
        Request::Log { level } => {
            if let Some(level) = level {
                logging::set_filter(&level)?;
            }
            let level = logging::filter().ok_or_else(|| CliError::internal("this process keeps no log"))?;
            caller.item(Logging { level }).await
        }
        Request::Invite { ask, admin, addresses, lifetime_ms } => {
            let wanted = pairing::Wanted { ask, admin, addresses, lifetime_ms };
            pairing::invite(context, wanted, caller).await
        }
        Request::Pause { paused } => caller.item(network::pause(context, paused).await?).await,
        Request::Stop => match &context.stop {
            Some(stop) => {
                stop.notify_one();
                Ok(())
            }
            None => Err(CliError::internal("only a daemon can be stopped")),
        },
        Request::Data(request) => data::call(context, request, caller).await,
    }
}
