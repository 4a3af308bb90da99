//! The command line.
mod data;
fn main() {}
