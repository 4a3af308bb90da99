//! Errors as people and scripts meet them: a kind (and its exit code), a message, and a hint.
//!
//! Invariant: each error has exactly one kind, and each kind has one exit code for ever; the same
//! value travels over the daemon's socket, so a command fails alike with the daemon and without.

use std::fmt;
use std::io;

use ahenk::{NodeError, ReadError, SyncError, TransactionError, WatchError, WriteFailed};
use engine::io::WriteError;
use engine::store::StoreError;
use serde::{Deserialize, Serialize};
use store::OpenError;
use transport_libp2p::TransportClosed;

/// What sort of failure it is, for scripts: the exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Our own bug.
    Internal,
    /// The command line or its input cannot be understood.
    Usage,
    /// What was asked for is not there.
    NotFound,
    /// The daemon is not running.
    NotRunning,
    /// Somebody may not do this: a wrong code, another account, a declined device.
    NotAuthorised,
    /// It is there already, in use, or changed meanwhile.
    Conflict,
    /// Another device could not be reached, or not in time.
    Network,
    /// The disk or the database failed.
    Storage,
    /// The home is encrypted, and its passphrase is wrong or not at hand.
    Locked,
    /// Nobody reads our output any more. Ends the program without a word.
    OutputClosed,
}

impl Kind {
    /// All kinds that a user meets, by exit code.
    pub(crate) const ALL: [Kind; 9] = [
        Kind::Internal,
        Kind::Usage,
        Kind::NotFound,
        Kind::NotRunning,
        Kind::NotAuthorised,
        Kind::Conflict,
        Kind::Network,
        Kind::Storage,
        Kind::Locked,
    ];

    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Kind::OutputClosed => 0,
            Kind::Internal => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::NotRunning => 4,
            Kind::NotAuthorised => 5,
            Kind::Conflict => 6,
            Kind::Network => 7,
            Kind::Storage => 8,
            Kind::Locked => 9,
        }
    }
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CliError {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// What the user can do about it.
    pub(crate) hint: Option<String>,
}

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    pub(crate) fn new(kind: Kind, message: impl fmt::Display) -> CliError {
        CliError { kind, message: message.to_string(), hint: None }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> CliError {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn usage(message: impl fmt::Display) -> CliError {
        CliError::new(Kind::Usage, message)
    }

    pub(crate) fn internal(message: impl fmt::Display) -> CliError {
        CliError::new(Kind::Internal, message)
            .hint("this is a bug; please report it with the command that led to it")
    }

    /// A failure of the file system at a path.
    pub(crate) fn io(doing: &str, path: &std::path::Path, error: &io::Error) -> CliError {
        let message = format!("cannot {doing} {}: {error}", path.display());
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "check who owns the file, and its permissions",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "make room on the disk, then try again"
            }
            _ => "check that the disk is well and the path is right",
        };
        CliError::new(Kind::Storage, message).hint(hint)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> CliError {
        let hint = match error {
            StoreError::Full => "make room on the disk, then try again; nothing is lost",
            StoreError::Limit { .. } => {
                "raise `limits.disk_bytes`, or take it away: `ahenk-cli config unset limits.disk_bytes`, then \
                 `ahenk-cli restart`; nothing is lost"
            }
            StoreError::Corrupt(_) => "keep the file; another device of the account has the data too",
            _ => "check the disk; what was acknowledged before is safe",
        };
        CliError::new(Kind::Storage, error).hint(hint)
    }
}

impl From<ReadError> for CliError {
    fn from(error: ReadError) -> CliError {
        match error {
            ReadError::Store(error) => error.into(),
            other => CliError::usage(other).hint("see `ahenk-cli help` for what names may look like"),
        }
    }
}

impl From<WriteFailed> for CliError {
    fn from(error: WriteFailed) -> CliError {
        match error {
            WriteFailed::Storage(error) => error.into(),
            WriteFailed::Closed => closed(),
            WriteFailed::Refused(error @ WriteError::NoSuchRow { .. }) => {
                CliError::new(Kind::NotFound, error).hint("`put` creates the row if it is not there")
            }
            WriteFailed::Refused(error @ WriteError::Conflict { .. }) => {
                CliError::new(Kind::Conflict, error).hint("try again")
            }
            other => CliError::usage(other).hint("nothing was written"),
        }
    }
}

impl From<TransactionError> for CliError {
    fn from(error: TransactionError) -> CliError {
        match error {
            TransactionError::Read(error) => error.into(),
            TransactionError::Write(error) => error.into(),
            error @ TransactionError::Contention => CliError::new(Kind::Conflict, error).hint("try again"),
            other => CliError::usage(other),
        }
    }
}

impl From<WatchError> for CliError {
    fn from(error: WatchError) -> CliError {
        match error {
            WatchError::Store(error) => error.into(),
            other => CliError::usage(other).hint("leave the position out to begin with what comes next"),
        }
    }
}

impl From<SyncError> for CliError {
    fn from(error: SyncError) -> CliError {
        let hint = match error {
            SyncError::NoPeer => {
                "is the other device on and on the network? `ahenk-cli peer list --verbose` shows what was tried"
            }
            SyncError::Timeout { .. } => {
                "it goes on in the background while the daemon runs; try a longer --timeout"
            }
            _ => return closed(),
        };
        CliError::new(Kind::Network, error).hint(hint)
    }
}

impl From<NodeError> for CliError {
    fn from(error: NodeError) -> CliError {
        match error {
            NodeError::Store(error) => error.into(),
            other => CliError::internal(other),
        }
    }
}

impl From<TransportClosed> for CliError {
    fn from(_: TransportClosed) -> CliError {
        closed()
    }
}

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> CliError {
        let hint = match &error {
            OpenError::NotFound(_) => "the home folder is incomplete; if the file was moved, put it back",
            OpenError::Locked(_) => "end the other program that uses this home folder",
            OpenError::NewerFormat { .. } => "install the newer version of ahenk-cli on this machine",
            OpenError::Damaged { .. } => {
                "the file was left as it is; move it aside, and pair this device anew to get the data back from another"
            }
            OpenError::Encrypted(_) => "its key is in the file vault.key of the home folder: put that back",
            OpenError::NotEncrypted(_) => {
                "somebody may have put it there; what it was is in your backups and on your other devices"
            }
            OpenError::WrongKey(_) => "vault.key and the database in this home folder do not belong together",
            OpenError::ForeignAccount { .. } => {
                "the database and the certificate in this home folder do not belong together"
            }
            OpenError::Full(_) => "make room on the disk, then try again",
            _ => "check the disk and the permissions of the home folder",
        };
        let kind = match error {
            OpenError::Locked(_) => Kind::Conflict,
            _ => Kind::Storage,
        };
        CliError::new(kind, error).hint(hint)
    }
}

/// The database closed under a command: the daemon is stopping.
pub(crate) fn closed() -> CliError {
    CliError::new(Kind::NotRunning, "the database was closed while the command was under way")
        .hint("run the command again")
}
