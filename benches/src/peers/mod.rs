//! What a user would pick instead, and the limits of the machine. Each does the least that the workload asks of it:
//! field writes with last-write-wins, no signatures, no knowledge, no record of what lost.

mod crdt;
mod machine;
mod rows;

pub use crdt::{Crdt, automerge, loro, yrs};
pub use machine::{fdatasync, loopback_bytes_a_second};
pub use rows::{
    bare_map, redb_blobs, redb_commits, redb_new, redb_rows, sqlite, sqlite_commits, sqlite_open,
};
