//! Names of tables, rows and fields: text that has been checked against its limits once, cheap to clone. Those of up to
//! 23 bytes, which are most, lie in place: whoever compares them need not look elsewhere. Keys of rows, which are compared most,
//! have their first eight bytes as a number beside the text, which tells most of them apart in one step.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};

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

/// What a name keeps of its beginning, to be compared first.
trait Beginning: Sized {
    fn of(text: &str) -> Self;
}

impl Beginning for () {
    fn of(_: &str) {}
}

impl Beginning for u64 {
    /// Never more for a text that comes earlier.
    fn of(text: &str) -> u64 {
        let mut first = [0; 8];
        let len = text.len().min(first.len());
        first[..len].copy_from_slice(&text.as_bytes()[..len]);
        u64::from_be_bytes(first)
    }
}

macro_rules! name {
    (
        $(#[$doc:meta])* $type:ident, $what:literal, $max:expr, control: $control:literal, $beginning:ty
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $type {
            beginning: $beginning,
            text: SmolStr,
        }

        impl Hash for $type {
            /// As the text does, for which it can be borrowed.
            fn hash<H: Hasher>(&self, hasher: &mut H) {
                self.as_str().hash(hasher);
            }
        }

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
                Ok($type::checked(text))
            }

            /// Keeps a copy of a text that was checked before.
            pub(crate) fn checked(text: &str) -> $type {
                $type { beginning: Beginning::of(text), text: text.into() }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.text.as_str()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.text.as_str()
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
    TableName, "table name", TABLE_BYTES_MAX, control: false, ()
);
name!(
    /// The key of a row within its table: 1 to 512 bytes of any UTF-8.
    RowKey, "row key", ROW_KEY_BYTES_MAX, control: true, u64
);
name!(
    /// The name of a field: 1 to 128 bytes, no control characters.
    FieldName, "field name", FIELD_BYTES_MAX, control: false, ()
);

#[cfg(test)]
mod tests {
    use std::hash::DefaultHasher;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_in_the_order_of_their_texts(
            start in "[a\0]{0,9}",
            one in "[ab\0\u{e9}]{1,3}",
            other in "[ab\0\u{e9}]{1,3}",
        ) {
            let [one, other] = [one, other].map(|end| format!("{start}{end}"));
            let (a, b) = (RowKey::new(&one).expect("a key"), RowKey::new(&other).expect("a key"));
            prop_assert_eq!(a.cmp(&b), one.cmp(&other));
            prop_assert_eq!(a == b, one == other);
            // As `Borrow` demands.
            let hash = |hashed: &dyn Fn(&mut DefaultHasher)| {
                let mut hasher = DefaultHasher::new();
                hashed(&mut hasher);
                hasher.finish()
            };
            prop_assert_eq!(hash(&|hasher| a.hash(hasher)), hash(&|hasher| one.hash(hasher)));
        }
    }
}
