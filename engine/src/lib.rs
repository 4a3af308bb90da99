//! The sans-IO heart of Ahenk: operations, merge, knowledge, and the sync state machine.
//!
//! Architecture invariant: no IO, no clock, no randomness of its own, no tokio. Time and seeds come
//! in as arguments; effects go out as data.

mod administer;
mod answer;
pub mod audit;
mod cells;
pub mod codec;
pub mod commit;
pub mod config;
pub mod cost;
mod engine;
mod exchange;
mod fences;
pub mod fields;
mod fork;
pub mod hlc;
pub mod identity;
pub mod io;
pub mod knowledge;
#[cfg_attr(not(feature = "planted"), doc(hidden))]
pub mod marks;
pub mod name;
mod news;
pub mod numbering;
mod pack;
pub mod pairing;
mod peer;
#[cfg_attr(not(feature = "planted"), doc(hidden))]
pub mod planted;
pub mod prng;
pub mod reading;
mod remembered;
mod reorder;
mod replicated;
mod rollback;
pub mod row;
mod siphash;
pub mod statement;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod timer;
pub mod transport;
pub mod value;
pub mod wire;
mod write;

pub use engine::Engine;
