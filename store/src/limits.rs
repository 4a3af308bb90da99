//! What a database may take of memory and of the disk, and how it is opened.

use crate::key::DataKey;

/// Limits of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Memory for pages of the file, in bytes.
    pub cache_bytes_max: usize,
    /// Memory for rows at hand, roughly, in bytes: those that are not in their table yet, and those that were written last.
    pub rows_bytes_max: usize,
    /// Space on the disk, in bytes; `None` for as much as there is. From there on no rows are taken any more, which is
    /// [`engine::store::StoreError::Limit`]; one batch may go beyond it. A batch without rows, such as what an
    /// administrator says of a device, is taken all the same.
    pub disk_bytes_max: Option<u64>,
}

impl Default for StoreLimits {
    fn default() -> StoreLimits {
        StoreLimits {
            cache_bytes_max: 32 * 1024 * 1024,
            rows_bytes_max: 80 * 1024 * 1024,
            disk_bytes_max: None,
        }
    }
}

/// How a database is opened.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// What it may take.
    pub limits: StoreLimits,
    /// The key of its files. With one, a file that is not encrypted is refused; without, one that is.
    pub key: Option<DataKey>,
}

impl From<StoreLimits> for StoreOptions {
    fn from(limits: StoreLimits) -> StoreOptions {
        StoreOptions { limits, key: None }
    }
}
