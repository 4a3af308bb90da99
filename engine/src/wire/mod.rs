//! What travels between devices, to the byte.

pub mod columns;
