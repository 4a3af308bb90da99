//! The wire: frames, the messages in them, and the form in which runs of commits travel.
//! Specified, with all else that a client in another language needs, in `docs/protocol.md`.

pub mod columns;
pub mod deflate;
pub mod frame;
pub mod message;
pub mod packed;
