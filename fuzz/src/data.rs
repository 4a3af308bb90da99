//! The readers of files that `ahenk-cli` imports. They are private to that program, and need nothing else of it.

#[allow(dead_code, unreachable_pub, reason = "a part of a program")]
#[path = "../../ahenk-cli/src/data/json.rs"]
pub(crate) mod json;
#[allow(dead_code, unreachable_pub, reason = "a part of a program")]
#[path = "../../ahenk-cli/src/data/source/mod.rs"]
pub(crate) mod source;
