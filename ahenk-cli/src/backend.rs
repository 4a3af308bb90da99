//! How a command reaches the service: through the daemon's socket if a daemon runs, else by opening
//! the database itself. [`Backend::call`] works the same for both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

pub(crate) use crate::session::Need;

use crate::error::{CliError, Kind, Result};
use crate::home::{DAEMON, Home};
use crate::protocol::{self, Reply, Request, ToService};
use crate::service::{self, Caller};
use crate::session::Session;

/// How long to wait for another process that has the database open: a command, or a daemon that is stopping.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a daemon may take to take a connection.
const WELCOME_MAX: Duration = Duration::from_secs(5);
/// Time between two looks.
pub(crate) const WAIT_STEP: Duration = Duration::from_millis(25);
/// Replies that may wait for a command that is slow to print them.
pub(crate) const REPLIES_MAX: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A daemon answers at the home's socket.
    Daemon(Link),
    /// This process has the database open.
    Direct(Box<Session>),
}

/// The way to a daemon.
#[derive(Debug)]
pub(crate) struct Link {
    home: Home,
    /// A connection on which the daemon awaits a call, until the first one.
    ready: Mutex<Option<Connection>>,
}

/// A connection on which the daemon has said that it is ready.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Link {
    fn new(home: &Home, connection: Connection) -> Link {
        Link { home: home.clone(), ready: Mutex::new(Some(connection)) }
    }

    async fn connection(&self) -> Result<Connection> {
        match self.ready.lock().await.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.home).await?.ok_or_else(lost),
        }
    }
}

impl Backend {
    /// Reaches the service. Waits a little if another command has the database open, or a daemon that is stopping.
    pub(crate) async fn open(home: &Home, need: Need) -> Result<Backend> {
        home.require()?;
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            if let Some(connection) = connect(home).await? {
                return Ok(Backend::Daemon(Link::new(home, connection)));
            }
            if let Some(lock) = home.try_lock("another command")? {
                return Ok(Backend::Direct(Box::new(Session::open(home, need, lock, None).await?)));
            }
            if Instant::now() >= deadline {
                return Err(in_use(home));
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
    }

    /// The daemon, or an error that says that it is not running.
    pub(crate) async fn daemon(home: &Home) -> Result<Backend> {
        home.require()?;
        match connect(home).await? {
            Some(connection) => Ok(Backend::Daemon(Link::new(home, connection))),
            None => Err(CliError::new(Kind::NotRunning, "the daemon is not running")
                .hint("`ahenk-cli start --daemon` starts it")),
        }
    }

    /// Makes a call.
    pub(crate) async fn call(&self, request: Request) -> Result<Call> {
        let (replies, received) = mpsc::channel(REPLIES_MAX);
        let (answers, asked) = mpsc::channel(1);
        let task = match self {
            Backend::Direct(session) => {
                let context = Arc::clone(session.context());
                let caller = Caller { replies, answers: asked };
                tokio::spawn(async move { service::call(&context, request, caller).await })
            }
            Backend::Daemon(link) => tokio::spawn(pump(link.connection().await?, request, replies, asked)),
        };
        Ok(Call { replies: received, answers, task })
    }

    /// Makes a call that returns exactly one item.
    pub(crate) async fn one<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        let mut call = self.call(request).await?;
        let item = call.next().await?.ok_or_else(|| CliError::internal("the service returned nothing"))?;
        call.finish().await?;
        read_item(item)
    }

    /// Makes a call whose items do not matter.
    pub(crate) async fn perform(&self, request: Request) -> Result<()> {
        self.call(request).await?.finish().await
    }

    /// Closes what this process has opened. A daemon goes on.
    pub(crate) async fn close(self) -> Result<()> {
        match self {
            Backend::Daemon(_) => Ok(()),
            Backend::Direct(session) => session.close().await.map(drop),
        }
    }
}

/// A call under way. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Call {
    replies: mpsc::Receiver<Reply>,
    answers: mpsc::Sender<bool>,
    task: JoinHandle<()>,
}

impl Call {
    /// The next item; `None` when the call has succeeded.
    pub(crate) async fn next(&mut self) -> Result<Option<Json>> {
        match self.replies.recv().await {
            Some(Reply::Item(item)) => Ok(Some(item)),
            Some(Reply::Done) => Ok(None),
            Some(Reply::Error(error)) => Err(error),
            Some(Reply::Welcome) => Err(CliError::internal("the service said welcome twice")),
            None => match (&mut self.task).await {
                Err(error) if error.is_panic() => Err(CliError::internal("the service panicked")),
                _ => Err(lost()),
            },
        }
    }

    /// Answers a question of the call.
    pub(crate) async fn answer(&self, yes: bool) -> Result<()> {
        self.answers.send(yes).await.map_err(|_| lost())
    }

    /// Waits for the end, whatever still comes.
    pub(crate) async fn finish(mut self) -> Result<()> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads an item as what it is.
pub(crate) fn read_item<T: DeserializeOwned>(item: Json) -> Result<T> {
    serde_json::from_value(item).map_err(|error| {
        CliError::new(Kind::Conflict, format!("the daemon's answer is not understood: {error}"))
            .hint("restart the daemon, so that it is of the same version as this command")
    })
}

/// Connects to the daemon; `None` if there is none, or none any more.
pub(crate) async fn connect(home: &Home) -> Result<Option<Connection>> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let path = home.socket_path()?;
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        // Refused: the daemon that made the socket is gone.
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) => return Err(CliError::io("connect to", &path, &error)),
    };
    let (reader, writer) = stream.into_split();
    let mut connection = Connection { reader: BufReader::new(reader), writer };
    match tokio::time::timeout(WELCOME_MAX, protocol::read(&mut connection.reader)).await {
        Ok(Ok(Some(Reply::Welcome))) => Ok(Some(connection)),
        // It was stopping, and has closed the socket.
        Ok(Ok(None)) => Ok(None),
        Ok(Err(error)) if error.kind == Kind::NotRunning => Ok(None),
        Ok(Err(error)) => Err(error),
        Ok(Ok(Some(_))) => Err(CliError::internal("the service did not say that it is ready")),
        Err(_) => Err(stuck(home)),
    }
}

/// Something holds the socket and does not take connections.
fn stuck(home: &Home) -> CliError {
    let who = home.lock_holder().map_or_else(
        || "what listens at the daemon's socket".to_owned(),
        |(pid, what)| format!("{what} (process {pid})"),
    );
    CliError::new(Kind::Conflict, format!("{who} does not answer"))
        .hint("is it suspended, or very busy? `ahenk-cli stop` asks it to end")
}

/// Another process has the database open and is no daemon that answers.
pub(crate) fn in_use(home: &Home) -> CliError {
    let dir = home.dir().display();
    let (message, hint) = match home.lock_holder() {
        Some((pid, what)) if what == DAEMON => (
            format!("{dir} is in use by {what}, process {pid}, which cannot be reached at its socket"),
            "`ahenk-cli stop` ends it",
        ),
        Some((pid, what)) => {
            (format!("{dir} is in use by {what}, process {pid}"), "wait until it is done, or end it")
        }
        None => (format!("{dir} is in use by another process"), "try again"),
    };
    CliError::new(Kind::Conflict, message).hint(hint)
}

fn lost() -> CliError {
    CliError::new(Kind::NotRunning, "the daemon stopped while the command was under way")
        .hint("`ahenk-cli status` says whether it runs; then run the command again")
}

/// Carries a call over a socket.
async fn pump(
    connection: Connection,
    request: Request,
    replies: mpsc::Sender<Reply>,
    mut answers: mpsc::Receiver<bool>,
) {
    let Connection { mut reader, mut writer } = connection;
    let receiving = async {
        loop {
            let (reply, last) = match protocol::read::<Reply>(&mut reader).await {
                Ok(Some(Reply::Item(item))) => (Reply::Item(item), false),
                Ok(Some(reply)) => (reply, true),
                Ok(None) => (Reply::Error(lost()), true),
                Err(error) => (Reply::Error(error), true),
            };
            if replies.send(reply).await.is_err() || last {
                return;
            }
        }
    };
    let sending = async {
        let mut sent = protocol::write(&mut writer, ToService::Request(request)).await;
        while sent.is_ok() {
            let Some(answer) = answers.recv().await else { break };
            sent = protocol::write(&mut writer, ToService::Answer(answer)).await;
        }
        if let Err(error) = sent
            && error.kind == Kind::Usage
        {
            // Too long to be sent at all; anything else shows on the receiving side.
            let _ = replies.send(Reply::Error(error)).await;
            let _ = writer.shutdown().await;
            return;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = receiving => {}
        () = sending => {}
    }
}
