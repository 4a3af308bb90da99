//! Rows in and out.

pub(crate) mod json;
pub(crate) mod source;
