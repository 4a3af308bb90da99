//! Encrypted databases: nothing of what they hold is in the file, only their key opens them, and whatever is changed in
//! them is noticed or harmless. Power cuts are in `crash.rs`.

mod common;

use std::fs;
use std::path::Path;

use common::{account, batch, batches_held, create, data_key, history_to, mix, nonce, open, with_key};
use engine::store::{Store, StoreError, StoreRead, contract};
use store::{Backup, DataKey, OpenError, RedbStore, guard_path, head_note};

const BATCHES: u64 = 6;

fn create_encrypted(path: &Path, key: &DataKey) -> RedbStore {
    RedbStore::create_within(path, account(), nonce(), with_key(key)).expect("a new database")
}

fn open_with(path: &Path, key: &DataKey) -> Result<RedbStore, OpenError> {
    RedbStore::open_within(path, account(), nonce(), with_key(key))
}

/// Writes the first batches, and gives the store.
fn filled(path: &Path, key: &DataKey) -> RedbStore {
    let store = create_encrypted(path, key);
    let mut history = history_to(0);
    (0..BATCHES).for_each(|n| assert_eq!(store.apply(&batch(&mut history, n)), Ok(())));
    store
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn an_encrypted_database_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    let n = std::cell::Cell::new(0);
    contract::run(20, || {
        n.set(n.get() + 1);
        create_encrypted(&folder.path().join(n.get().to_string()), &data_key(1))
    });
}

#[test]
fn no_value_no_key_and_no_name_is_in_the_file_open_or_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let known = ["Zwetschgendatschi", "hush-hush-row", "confidential_table", "state", "conflicts", "redb"];
    let write = |store: &RedbStore| {
        let mut history = history_to(0);
        assert_eq!(store.apply(&history.put(known[2], known[1], known[0])), Ok(()));
        // Into the table of rows, too.
        assert_eq!(store.apply(&history.retract(1, 9, 1)), Ok(()));
    };
    let (plain, encrypted) = (folder.path().join("plain"), folder.path().join("encrypted"));
    let store = create(&plain).with_checkpoint_at(0, 0);
    write(&store);
    drop(store);
    let file = fs::read(&plain).expect("the file");
    assert!(
        known.iter().all(|known| contains(&file, known.as_bytes())),
        "the test looks for the right things"
    );
    let store = create_encrypted(&encrypted, &data_key(1)).with_checkpoint_at(0, 0);
    write(&store);
    store.backup(&folder.path().join("backup")).expect("a backup");
    let open = fs::read(&encrypted).expect("the file");
    drop(store);
    let files =
        [open, fs::read(&encrypted).expect("closed"), fs::read(folder.path().join("backup")).expect("it")];
    for file in &files {
        assert!(file.len() > 20_000);
        for known in &known {
            assert!(!contains(file, known.as_bytes()), "{known:?}");
        }
    }
    // Two pages of the same content, such as empty ones, do not look the same either.
    let texts = files[1][20_480..].chunks_exact(4136).map(|record| &record[24..]);
    let pieces = texts.flat_map(|text| text.chunks_exact(16));
    let mut pieces: Vec<&[u8]> = pieces.filter(|piece| **piece != [0; 16]).collect();
    let all = pieces.len();
    pieces.sort_unstable();
    pieces.dedup();
    assert_eq!(pieces.len(), all, "a piece of 16 bytes occurs twice");
}

#[test]
fn only_its_own_key_opens_a_database_and_a_plain_one_does_not_pass_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, plain) = (folder.path().join("db"), folder.path().join("plain"));
    drop(filled(&path, &data_key(1)));
    drop(create(&plain));
    let before = fs::read(&path).expect("the file");
    assert!(matches!(open(&path), Err(OpenError::Encrypted(_))));
    assert!(matches!(open_with(&path, &data_key(2)), Err(OpenError::WrongKey(_))));
    assert!(matches!(open_with(&plain, &data_key(1)), Err(OpenError::NotEncrypted(_))));
    assert_eq!(fs::read(&path).expect("the file"), before);
    let store = open_with(&path, &data_key(1)).expect("its key");
    assert!(matches!(open_with(&path, &data_key(1)), Err(OpenError::Locked(_))));
    assert_eq!(batches_held(&store), BATCHES);
    assert_eq!(store.reopen(), Ok(()));
    assert_eq!(batches_held(&store), BATCHES);
    assert!(store.recover().expect("recovered").replica.is_some(), "the same life");
}

/// Opens copies of a file with a byte changed; gives how many were refused, and what those held that opened.
fn flip(whole: &[u8], path: &Path, flips: impl Iterator<Item = usize>) -> (usize, Vec<u64>) {
    let guard = fs::read(guard_path(path)).expect("the guard");
    let (mut refused, mut held) = (0, Vec::new());
    for at in flips {
        let mut damaged = whole.to_owned();
        damaged[at] ^= 1 << (at % 8);
        fs::write(path, &damaged).expect("a damaged file");
        fs::write(guard_path(path), &guard).expect("the guard");
        match open_with(path, &data_key(1)) {
            Ok(store) => held.push(batches_held(&store)),
            Err(OpenError::Damaged { .. } | OpenError::WrongKey(_) | OpenError::NotEncrypted(_)) => {
                assert!(fs::read(path).expect("the file") == damaged, "byte {at} was changed");
                refused += 1;
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    (refused, held)
}

/// Some bytes of the head, of both places of the header, and a spread of the rest.
fn spread(len: usize) -> impl Iterator<Item = usize> {
    let head = (0..56).step_by(3).chain([4096, 4130, 8200, 12_288, 12_330, 16_400]);
    head.chain((0..150).map(move |n| 20_480 + (mix(n) % (len as u64 - 20_480)) as usize))
}

#[test]
fn a_changed_byte_in_a_closed_database_is_found_or_harmless() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    drop(filled(&path, &data_key(1)));
    let whole = fs::read(&path).expect("the file");
    let (refused, held) = flip(&whole, &path, spread(whole.len()));
    assert!(held.iter().all(|held| *held == BATCHES), "{held:?}");
    assert!(refused > 20, "only {refused} were found");
}

#[test]
fn a_changed_byte_in_a_database_that_was_not_closed_costs_at_most_the_last_transaction() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let store = filled(&path, &data_key(1));
    // As a killed process leaves it.
    let whole = fs::read(&path).expect("the file");
    drop(store);
    let (refused, held) = flip(&whole, &path, spread(whole.len()));
    assert!(held.iter().all(|held| (BATCHES - 1..=BATCHES).contains(held)), "{held:?}");
    assert!(refused > 10, "only {refused} were found");
}

/// Pages that change places, or come from another file of the same key, do not pass.
#[test]
fn pages_count_only_in_their_own_place_and_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, other) = (folder.path().join("db"), folder.path().join("other"));
    drop(filled(&path, &data_key(1)));
    drop(filled(&other, &data_key(1)));
    let (whole, foreign) = (fs::read(&path).expect("the file"), fs::read(&other).expect("the other"));
    let page = |n: usize| 20_480 + n * 4136..20_480 + (n + 1) * 4136;
    let mut refused = 0;
    for n in 0..(whole.len().min(foreign.len()) - 20_480) / 4136 - 1 {
        for from in [&foreign[page(n)], &whole[page(n + 1)]] {
            let mut damaged = whole.clone();
            damaged[page(n)].copy_from_slice(from);
            fs::write(&path, &damaged).expect("written");
            match open_with(&path, &data_key(1)) {
                Ok(store) => assert_eq!(batches_held(&store), BATCHES, "a page that nothing refers to"),
                Err(OpenError::Damaged { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(refused > 10, "only {refused}");
}

/// Damage that comes while the file is open is told where it is read, in words, and not handed on.
#[test]
fn damage_under_an_open_database_is_an_error_where_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    drop(filled(&path, &data_key(1)));
    let mut options = with_key(&data_key(1));
    // Nothing is kept in memory.
    options.limits.cache_bytes_max = 0;
    let store = RedbStore::open_within(&path, account(), nonce(), options).expect("opens");
    let mut bytes = fs::read(&path).expect("the file");
    bytes[20_480..].iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    fs::write(&path, &bytes).expect("damaged");
    match store.applied(1, 10) {
        Err(StoreError::Corrupt(reason)) => assert!(reason.contains("authenticate"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_backup_is_encrypted_carries_its_note_and_restores_under_any_key_or_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let store = filled(&at("db"), &data_key(1));
    store.backup_with(&at("backup"), b"how to get the key").expect("a backup");
    assert!(store.backup_with(&at("long"), &[0; 5000]).is_err(), "a note that does not fit");
    drop(store);
    assert_eq!(head_note(&at("backup")).expect("read"), Some(b"how to get the key".to_vec()));
    assert_eq!(head_note(&at("db")).expect("read"), Some(vec![]));
    let restore = |from: &str, was: Option<&DataKey>, to: &str, becomes: Option<&DataKey>| {
        let (path, to) = (at(from), at(to));
        RedbStore::restore(&Backup { path: &path, key: was }, &to, account(), becomes, false)
    };
    let (one, two) = (data_key(1), data_key(2));
    assert!(matches!(restore("backup", None, "no", Some(&two)), Err(OpenError::Encrypted(_))));
    assert!(matches!(restore("backup", Some(&two), "no", None), Err(OpenError::WrongKey(_))));
    assert!(!at("no").exists());
    restore("backup", Some(&one), "same", Some(&one)).expect("restored");
    restore("backup", Some(&one), "other", Some(&two)).expect("restored");
    restore("other", Some(&two), "decrypted", None).expect("restored");
    restore("decrypted", None, "again", Some(&one)).expect("restored");
    for (name, key) in [("same", &one), ("other", &two), ("again", &one)] {
        let store = open_with(&at(name), key).expect("opens");
        assert_eq!(
            (batches_held(&store), store.recover().expect("recovered").replica),
            (BATCHES, None),
            "{name}"
        );
    }
    assert_eq!(batches_held(&open(&at("decrypted")).expect("opens")), BATCHES);
    assert_eq!(head_note(&at("decrypted")).expect("read"), None);
    // A copy of a file as a killed process leaves it, torn pages and all.
    let store = filled(&at("killed"), &one);
    fs::copy(at("killed"), at("copy")).expect("copied");
    drop(store);
    restore("copy", Some(&one), "revived", Some(&two)).expect("restored");
    assert_eq!(batches_held(&open_with(&at("revived"), &two).expect("opens")), BATCHES);
}
