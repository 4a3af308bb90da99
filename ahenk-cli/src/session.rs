//! An open database: the store, the node that drives it, and the network if there is one. Owned by
//! the daemon or by a command that runs without it.
//!
//! Invariants: the home's lock is held from before the store opens until after it has closed; the
//! addresses of other devices are saved when they change and when the session ends.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ahenk::{Db, Node, Offline, Options, SystemClock};
use engine::identity::{DeviceCert, Identity};
use engine::io::Event;
use engine::store::{Store as _, StoreRead as _};
use engine::transport::Transport;
use store::{OpenError, RedbStore, StoreOptions};
use tokio::sync::{Notify, broadcast};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};
use transport_libp2p::{Libp2pConfig, Libp2pTransport, SpawnError};

use crate::addresses::Addresses;
use crate::config::Config;
use crate::data::time::now_ms;
use crate::error::{CliError, Kind, Result};
use crate::home::{Home, Lock};
use crate::network::{COPIED_KEY, seen_key};
use crate::secrets;
use crate::service::Context;

/// How often it is looked whether there are new addresses to save.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How long the network may take to close.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(4);
/// How long to wait for a file that is still locked.
const LOCKED_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest wait between two tries of an address from the configuration.
const REACH_EVERY_MAX: Duration = Duration::from_secs(300);

/// What a command needs of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Rows and log only.
    Store,
    /// Other devices as well.
    Network,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    context: Arc<Context>,
    /// `None` once its end has been seen.
    node: Option<JoinHandle<()>>,
    /// What runs beside it while there is a network.
    chores: JoinSet<()>,
    lock: Lock,
}

impl Session {
    /// Opens the database of a home whose lock is held. `stop` is given by the daemon.
    pub(crate) async fn open(
        home: &Home,
        need: Need,
        lock: Lock,
        stop: Option<Arc<Notify>>,
    ) -> Result<Session> {
        let mut identity = home.identity()?;
        if let Some(root) = home.root()? {
            identity = identity.with_root(root).map_err(|error| {
                CliError::new(Kind::Storage, format!("account.key does not fit this device: {error}"))
                    .hint("move it away, and recover it with `ahenk-cli account recover`")
            })?;
        }
        let config = match home.config() {
            // A wrong setting of the network keeps nobody from the data.
            Err(error) if need == Need::Store => {
                warn!(%error, "going on with the default settings");
                Config::default()
            }
            config => config?,
        };
        let options = StoreOptions { limits: config.store(), key: home.key()? };
        let store = open_store(home, &identity, &options).await?;
        note_copy(&store, &identity)?;
        let mut options = Options::new(identity.clone(), *secrets::random::<32>()?);
        options.config = config.engine();
        let (node, db, net) = match need {
            Need::Store => {
                let (node, db) = Node::new(options, Offline, store, SystemClock::new())?;
                (spawn(node)?, db, None)
            }
            Need::Network => {
                let mut addresses = Addresses::load(home);
                let transport = spawn_network(&config, &identity, &addresses).await?;
                let control = transport.control();
                addresses.listening(&control.listen_addresses().await?);
                addresses.save(home)?;
                let (node, db) = Node::new(options, transport, store, SystemClock::new())?;
                (spawn(node)?, db, Some(control))
            }
        };
        let context = Context {
            home: home.clone(),
            identity,
            db,
            net,
            paused: AtomicBool::new(false),
            started: Instant::now(),
            stop,
        };
        let context = Arc::new(context);
        let mut chores = JoinSet::new();
        certify_self(&context, &config.device_name).await?;
        chores.spawn(keep_root(Arc::clone(&context)));
        if context.net.is_some() {
            chores.spawn(save_regularly(Arc::clone(&context)));
            chores.spawn(remember_seen(Arc::clone(&context)));
            for address in config.bootstrap {
                chores.spawn(reach(Arc::clone(&context), address));
            }
        }
        Ok(Session { context, node: Some(node), chores, lock })
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Resolves when the node has stopped by itself, which it should not.
    pub(crate) async fn failed(&mut self) -> CliError {
        let Some(node) = &mut self.node else { return crate::error::closed() };
        let result = node.await;
        self.node = None;
        result.map_or_else(
            |error| panicked(&error),
            |()| CliError::internal("the network stack ended by itself"),
        )
    }

    /// Says goodbye to the other devices and closes everything, the file of the database included. The home is held until
    /// the lock is dropped.
    pub(crate) async fn close(mut self) -> Result<Lock> {
        self.chores.shutdown().await;
        save_addresses(&self.context).await;
        // It is closed already if the node has ended by itself, which was told then.
        let _ = self.context.db.close().await;
        if let Some(node) = self.node.take() {
            node.await.map_err(|error| panicked(&error))?;
        }
        if let Some(net) = &self.context.net {
            // Until then, what was sent last may not have left.
            let down = async {
                while net.listen_addresses().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            if tokio::time::timeout(CLOSE_TIME_MAX, down).await.is_err() {
                warn!("the network took too long to close");
            }
        }
        // Others may still hold the context. Who gets the lock must find a file that nobody writes to any more.
        let store = Arc::clone(self.context.db.store());
        tokio::task::spawn_blocking(move || store.close()).await.map_err(CliError::internal)?;
        Ok(self.lock)
    }
}

fn spawn<T>(node: Node<T, RedbStore, SystemClock>) -> Result<JoinHandle<()>>
where
    T: Transport + Send + 'static,
{
    node.spawn().map_err(|error| CliError::internal(format!("no runtime for the node: {error}")))
}

fn panicked(error: &tokio::task::JoinError) -> CliError {
    CliError::internal(format!("the node panicked: {error}"))
}

/// Opens the database. The process that held the home before may have let go of the home a moment before the
/// file: that is waited for.
async fn open_store(home: &Home, identity: &Identity, options: &StoreOptions) -> Result<RedbStore> {
    let (path, deadline) = (home.database_path()?, Instant::now() + LOCKED_TIME_MAX);
    loop {
        let nonce = secrets::random::<16>()?;
        match RedbStore::open_within(&path, identity.account(), *nonce, options.clone()) {
            Err(OpenError::Locked(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(OpenError::NotFound(path)) if path != home.usual_database_path() => {
                return Err(CliError::from(OpenError::NotFound(path)).hint(
                    "`database.path` says that it is there: stop the daemon, and move the file and the one ending in \
                     .guard beside it, or correct the setting",
                ));
            }
            opened => return Ok(opened?),
        }
    }
}

/// Notes, for `status`, when this database turns out to be a copy or an older state: it goes on as a new replica.
fn note_copy(store: &RedbStore, identity: &Identity) -> Result<()> {
    // The rest is read again when the node starts: here only where there is something to say.
    if store.begins_anew()?
        && store.recover()?.heads.keys().any(|replica| replica.device == identity.device())
    {
        warn!("the database is a copy or an older state; this device goes on as a new replica");
        store.set_local(COPIED_KEY, Some(&now_ms().to_be_bytes()))?;
    }
    Ok(())
}

/// Creates the database of a new device, and has it know the certificates given.
pub(crate) fn create_store(home: &Home, identity: &Identity, members: Vec<DeviceCert>) -> Result<()> {
    let nonce = secrets::random::<16>()?;
    let path = home.database_path()?;
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
        made.map_err(|error| CliError::io("create", folder, &error))?;
    }
    let options = StoreOptions { key: home.key()?, ..StoreOptions::default() };
    let store = RedbStore::create_within(&path, identity.account(), *nonce, options)?;
    let mut options = Options::new(identity.clone(), *secrets::random::<32>()?);
    options.members = members;
    let (node, db): (_, Db<RedbStore>) = Node::new(options, Offline, store, SystemClock::new())?;
    drop((node, db));
    Ok(())
}

/// The gossip topic of an account: not to be guessed by those who do not know the account's id.
fn topic(identity: &Identity) -> String {
    engine::identity::hex(&blake3::derive_key("ahenk gossip topic 1", &identity.account().0))
}

async fn spawn_network(
    config: &Config,
    identity: &Identity,
    addresses: &Addresses,
) -> Result<Libp2pTransport> {
    let mut libp2p = Libp2pConfig::new(identity.secret.clone(), topic(identity));
    let listen = config.listen();
    libp2p.listen = addresses.same_ports(&listen);
    libp2p.paths = config.paths();
    libp2p.mdns = config.mdns;
    libp2p.addresses = addresses.peers();
    libp2p.records = addresses.records();
    libp2p.relays = config.relays();
    libp2p.certificate = Some(identity.cert.clone());
    libp2p.upnp = config.upnp;
    loop {
        let error = match Libp2pTransport::spawn(libp2p.clone()).await {
            Ok(transport) => return Ok(transport),
            Err(error) => error,
        };
        match &error {
            SpawnError::Discovery(_) if libp2p.mdns => {
                warn!(%error, "going on without discovery");
                libp2p.mdns = false;
            }
            SpawnError::AddressInUse { .. } | SpawnError::Listen { .. } if libp2p.listen != listen => {
                info!(%error, "the port used last time is taken; choosing another");
                libp2p.listen.clone_from(&listen);
            }
            _ => return Err(spawn_error(config, &error)),
        }
    }
}

pub(crate) fn spawn_error(config: &Config, error: &SpawnError) -> CliError {
    let (kind, hint) = match error {
        SpawnError::Address(_) => (
            Kind::Usage,
            "correct `network.listen` or `network.relay_servers`, with `ahenk-cli config set`".to_owned(),
        ),
        SpawnError::AddressInUse { .. } => (Kind::Conflict, "choose another port, or 0 for any".to_owned()),
        _ => (Kind::Network, format!("the configuration says to listen on {}", config.listen.join(", "))),
    };
    CliError::new(kind, error).hint(hint)
}

/// The key under which the name is kept that this device last gave itself.
const NAMED_KEY: &str = "named";

/// A device that administers certifies itself: as an administrator, if its key was recovered, and under the name that is
/// set, once for each change of the setting, so that another administrator can still rename it.
async fn certify_self(context: &Context, name: &str) -> Result<()> {
    let store = context.db.store();
    let rename = !name.is_empty() && store.local(NAMED_KEY)?.as_deref() != Some(name.as_bytes());
    if context.identity.root.is_none() {
        if rename {
            warn!("`device.name` has no effect: only an administrator names devices, with `device rename`");
        }
        return Ok(());
    }
    if context.identity.cert.admin && !rename {
        return Ok(());
    }
    let Some(status) = context.db.status().await else { return Ok(()) };
    let own = status.members.iter().find(|cert| cert.key == context.identity.peer_key());
    let (true, false, Some(own)) = (status.administers, status.revoked, own) else { return Ok(()) };
    let new = Some(name).filter(|name| rename && own.name != *name).map(str::to_owned);
    if new.is_some() || !own.admin {
        context.db.certify(context.identity.device(), new, (!own.admin).then_some(true)).await?;
    }
    if rename {
        store.set_local(NAMED_KEY, Some(name.as_bytes()))?;
    }
    Ok(())
}

/// Keeps the account's root key when another administrator gives it to this device.
async fn keep_root(context: Arc<Context>) {
    let mut granted = context.db.granted();
    loop {
        let root = granted.borrow_and_update().clone();
        if let Some(root) = root {
            let path = context.home.account_key_path();
            let data = context.home.key();
            match data.and_then(|data| secrets::write_key(&path, &root, data.as_ref())) {
                Ok(()) => info!("this device administers the account now"),
                // It is given again whenever the two connect, until it is kept.
                Err(error) => warn!(%error, "the account's root key could not be kept"),
            }
        }
        if granted.changed().await.is_err() {
            return;
        }
    }
}

async fn save_regularly(context: Arc<Context>) {
    let mut events = context.db.events();
    loop {
        // A new connection is what makes addresses worth saving soon; the interval catches the rest.
        let _ = tokio::time::timeout(SAVE_EVERY, events.recv()).await;
        save_addresses(&context).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn save_addresses(context: &Context) {
    let Some(net) = &context.net else { return };
    let Ok(known) = net.known_addresses().await else { return };
    let Ok(records) = net.address_records().await else { return };
    let mut addresses = Addresses::load(&context.home);
    let news = addresses.know(known) | addresses.keep_records(&records);
    if news && let Err(error) = addresses.save(&context.home) {
        warn!(%error, "addresses of other devices could not be saved");
    }
}

/// Tries an address from the configuration until it was reached once; from then on the dialer knows it.
async fn reach(context: Arc<Context>, address: String) {
    let mut wait = Duration::from_secs(1);
    while let Err(error) = crate::network::add(&context, &address).await {
        info!(%address, %error, "`network.bootstrap`: not reached yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(REACH_EVERY_MAX);
    }
}

/// Keeps when each device was last connected.
async fn remember_seen(context: Arc<Context>) {
    let mut events = context.db.events();
    loop {
        let device = match events.recv().await {
            Ok(Event::Connected { device } | Event::Disconnected { device, .. }) => device,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let Some(status) = context.db.status().await else { return };
        let Some(cert) = status.members.iter().find(|cert| cert.device() == device) else { continue };
        if let Err(error) = context.db.store().set_local(&seen_key(&cert.key), Some(&now_ms().to_be_bytes()))
        {
            warn!(%error, "it could not be noted when a device was seen");
        }
    }
}
