//! The wire: frames, the messages in them, and the form in which runs of commits travel.

pub mod columns;
pub mod frame;
pub mod message;
