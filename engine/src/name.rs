//! Names of tables, rows and fields: text that has been checked against its limits once, cheap to clone. Those of up to
//! 23 bytes, which are most, lie in place: whoever compares them need not look elsewhere.

use std::borrow::Borrow;
use std::fmt;

use smol_str::SmolStr;

use crate::config::{FIELD_BYTES_MAX, ROW_KEY_BYTES_MAX, TABLE_BYTES_MAX};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a {0} must not be empty")]
    Empty(&'static str),
    /// The text is too long.
    #[error("a {what} has at most {max} bytes, this one has {len}")]
    TooLong {
        /// What it should name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Control characters are kept out of names that people read in lists.
    #[error("a {0} must not contain control characters")]
    Control(&'static str),
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:expr, control: $control:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(SmolStr);

        impl $type {
            /// Checks the text and keeps a copy.
            pub fn new(text: &str) -> Result<$type, NameError> {
                if text.is_empty() {
                    return Err(NameError::Empty($what));
                }
                if text.len() > $max {
                    return Err(NameError::TooLong { what: $what, len: text.len(), max: $max });
                }
                if !$control && text.chars().any(char::is_control) {
                    return Err(NameError::Control($what));
                }
                Ok($type(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;
            fn try_from(text: &str) -> Result<$type, NameError> {
                $type::new(text)
            }
        }
    };
}

name!(
    /// The name of a table: 1 to 128 bytes, no control characters.
    TableName, "table name", TABLE_BYTES_MAX, control: false
);
name!(
    /// The key of a row within its table: 1 to 512 bytes of any UTF-8.
    RowKey, "row key", ROW_KEY_BYTES_MAX, control: true
);
name!(
    /// The name of a field: 1 to 128 bytes, no control characters.
    FieldName, "field name", FIELD_BYTES_MAX, control: false
);
