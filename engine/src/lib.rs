//! The sans-IO heart of Ahenk: operations, merge, knowledge, and the sync state machine.
//!
//! Architecture invariant: no IO, no clock, no randomness of its own, no tokio. Time and seeds come
//! in as arguments; effects go out as data.

pub mod config;
pub mod identity;
pub mod pairing;
pub mod transport;
