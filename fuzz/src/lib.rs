//! What each fuzz target does with its input, and what must hold whatever that is. The targets themselves only call
//! these functions, so that the corpus can also be run, and made, without a fuzzer.
//!
//! Every function takes any bytes and panics only if Ahenk is at fault. Memory is bounded here, time by libFuzzer.

mod addresses;
mod codec;
mod data;
mod device;
mod files;
mod frames;
mod pairing;
mod peers;
mod script;
pub mod seeds;
mod stream;
mod tape;

/// Frames on a byte stream, as `transport-libp2p` reads them. Private there.
#[allow(dead_code, unreachable_pub, reason = "a part of a library")]
#[path = "../../transport-libp2p/src/frames.rs"]
mod stream_frames;

/// Records of addresses, as `transport-libp2p` keeps them. Private there.
#[allow(dead_code, unreachable_pub, reason = "a part of a library")]
#[path = "../../transport-libp2p/src/whereabouts.rs"]
mod whereabouts;

/// An allocation that would exceed this in all ends the process: a length that is believed before its bytes are there, or a frame that
/// takes more than its budget (32 MiB, twice that for dictionaries) and what stands around it.
const MEMORY_BYTES_MAX: usize = 112 * 1024 * 1024;

#[global_allocator]
static MEMORY: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, MEMORY_BYTES_MAX);

pub use addresses::addresses_told;
pub use codec::{certificate, commit, frame, inflate, knowledge, message};
pub use files::{import, store_file};
pub use pairing::{invitation, pairing};
pub use peers::{member, stranger};
pub use stream::sync_stream;

/// A target's name and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 14] = [
    ("frame", frame),
    ("inflate", inflate),
    ("message", message),
    ("commit", commit),
    ("certificate", certificate),
    ("knowledge", knowledge),
    ("member", member),
    ("stranger", stranger),
    ("pairing", pairing),
    ("invitation", invitation),
    ("store_file", store_file),
    ("import", import),
    ("sync_stream", sync_stream),
    ("addresses", addresses_told),
];
