//! A database file with bytes changed: it is refused, or it opens and every read is a value or an error.
//! The input is a list of changes: an offset in three bytes, then what is XORed there.
#![no_main]

use std::ops::Bound;

use engine::identity::AccountId;
use engine::store::StoreRead;
use libfuzzer_sys::fuzz_target;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use store::RedbStore;

const FILE: &[u8] = include_bytes!("../../store/tests/fixtures/format-2.redb");

/// The account of the fixture, whose id is the first line of the text beside it.
fn account() -> AccountId {
    let text = include_str!("../../store/tests/fixtures/format-2.txt");
    let id = text.lines().next().and_then(|line| line.strip_prefix("account ")).expect("an account");
    let byte = |at: usize| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("hexadecimal");
    AccountId(std::array::from_fn(byte))
}

fuzz_target!(|data: &[u8]| {
    let mut file = FILE.to_vec();
    for change in data.chunks_exact(4).take(64) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % file.len();
        file[at] ^= change[3];
    }
    let backend = InMemoryBackend::new();
    backend.set_len(file.len() as u64).expect("memory");
    backend.write(0, &file).expect("memory");
    let opened = RedbStore::with_backend(backend, account());
    assert!(opened.is_ok() || file != FILE, "the unchanged file opens");
    let Ok(store) = opened else { return };
    let _ = store.recover();
    let _ = store.applied(0, 1_000);
    let _ = store.conflicts(0, 1_000);
    let _ = store.quarantine(None, 1_000);
    for table in store.tables().unwrap_or_default() {
        let _ = store.scan(&table, (Bound::Unbounded, Bound::Unbounded), 1_000);
    }
});
