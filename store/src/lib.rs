//! The durable store of Ahenk: [`RedbStore`] keeps log, rows, knowledge, members and conflicts in one
//! redb file. `docs/format.md` specifies the file to the byte.
//!
//! Architecture invariants: one batch is one transaction; a file is never overwritten, truncated or
//! changed before it has been found whole (or as a clean end has left it), of this account and of a format known here; what is read from
//! it is checked, and damage is an error, not a panic.

mod chunk;
mod encrypted;
mod error;
mod files;
mod guard;
mod key;
mod limits;
mod locks;
mod log;
mod medium;
mod names;
mod open;
mod overlay;
mod quarantine;
mod record;
mod redb_store;
mod restore;
mod rows;
mod schema;
mod sealing;
mod view;

pub use error::{BackupError, OpenError};
pub use files::{guard_path, move_aside};
pub use key::{DataKey, NOTE_BYTES_MAX, head_note, opens};
pub use limits::{StoreLimits, StoreOptions};
pub use redb::StorageBackend;
pub use redb_store::RedbStore;
pub use restore::Backup;
pub use schema::FORMAT;
