//! Notes when a store applied what: so the time that a device takes comes apart into what happens before the disk, at the disk
//! and after it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use engine::store::{Batch, StoreError, StoreRead};
use engine::testing::{Spoil, Spoilt};

/// When a batch was applied.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    /// Before.
    pub begun: Instant,
    /// It is durable.
    pub durable: Instant,
}

/// A store that is timed, and otherwise the store that it wraps.
pub type Timed<S> = Spoilt<Arc<S>, Times>;

/// Around a store.
pub fn timed<S>(store: S) -> Timed<S> {
    Spoilt { store: Arc::new(store), spoil: Times::default() }
}

/// What was applied when, and when the batch began that is being applied. A store takes one batch at a time from its node.
#[derive(Debug, Default)]
pub struct Times(Mutex<(Option<Instant>, Vec<Applied>)>);

impl Times {
    fn noted(&self) -> MutexGuard<'_, (Option<Instant>, Vec<Applied>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was applied since the last call.
    pub fn take(&self) -> Vec<Applied> {
        std::mem::take(&mut self.noted().1)
    }
}

impl Spoil for Times {
    fn apply(&self, _: &dyn StoreRead, _: &Batch) -> Result<(), StoreError> {
        self.noted().0 = Some(Instant::now());
        Ok(())
    }

    fn took(&self, _: &Batch) {
        let durable = Instant::now();
        let mut noted = self.noted();
        if let Some(begun) = noted.0.take() {
            noted.1.push(Applied { begun, durable });
        }
    }
}
