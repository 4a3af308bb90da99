//! Files written by released formats stay readable: `fixtures/format-N.redb` was written by the first
//! version that had format N, and must open and read exactly.

mod common;

use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use common::{account, batch, batches_held, history_to, open};
use engine::codec::{Reader, Writer};
use engine::commit::Stamp;
use engine::identity::{DeviceId, ReplicaId, hex};
use engine::name::{FieldName, RowKey, TableName};
use engine::store::contract::{History, state_follows_from_log};
use engine::store::{Batch, Conflict, Recovered, Store, StoreRead};
use engine::testing::test_identity;
use engine::value::Value;
use engine::wire::deflate::inflate;
use store::{FORMAT, RedbStore};

const BATCHES: u64 = 8;
const TAIL_BYTES: u64 = 3_000;
/// Set to a folder, [`the_fixture_of_this_format_can_be_written_anew`] keeps there what it wrote.
const KEEP: &str = "AHENK_WRITE_FIXTURE";

fn fixture(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-6").with_extension(kind)
}

fn conflicts(history: &History) -> Vec<Conflict> {
    let stamps: Vec<_> = history.rows.values().filter_map(|row| row.ins().or(row.del())).collect();
    let conflict = |id: u64| Conflict {
        id,
        table: TableName::new("t").expect("a name"),
        row: RowKey::new("row-é").expect("a key"),
        field: FieldName::new("f").expect("a name"),
        value: Value::List(vec![
            Value::Null,
            Value::Float(-0.0),
            Value::Map([("k".into(), Value::Bool(true))].into()),
        ]),
        loser: stamps[0],
        winner: stamps[1],
        noticed_ms: 1_700_000_000_000 + id,
    };
    vec![conflict(3), conflict(4)]
}

fn write(path: &Path) {
    let store = RedbStore::create(path, account(), [0xf1; 16]).expect("a new database");
    // A checkpoint in the middle: some rows are in their table, others must be replayed.
    let store = store.with_checkpoint_at(usize::MAX, TAIL_BYTES);
    let mut history = history_to(0);
    for n in 0..BATCHES {
        let mut batch = batch(&mut history, n);
        if n == BATCHES - 1 {
            batch.conflicts = conflicts(&history);
        }
        assert_eq!(store.apply(&batch), Ok(()));
    }
    assert_eq!(store.set_local("addresses", Some(b"/ip4/192.0.2.1")), Ok(()));
}

/// What a store holds, in words that depend on no other code than what they quote.
fn summary(store: &RedbStore) -> String {
    state_follows_from_log(store);
    let recovered = store.recover().expect("recovered");
    let mut text = format!("account {}\n", store.account());
    let mut line = |what: &str, value: String| text.push_str(&format!("{what} {value}\n"));
    line("position", recovered.position.to_string());
    line("clock", recovered.clock.0.to_string());
    line("digest", format!("{:032x}", recovered.digest));
    line("next conflict", recovered.conflict_next.to_string());
    for (replica, head) in &recovered.heads {
        line("head", format!("{replica} {} {}", head.seq, hex(&head.hash.0)));
        head.seen.iter().for_each(|(replica, seq)| line("  seen", format!("{replica} {seq}")));
    }
    for cert in recovered.members.values() {
        line("member", format!("{} {} {}", hex(&cert.key.0), cert.name, cert.issued_ms));
    }
    for stored in store.applied(1, 100).expect("the log") {
        let hash = hex(&stored.commit.hash().0);
        line(
            "commit",
            format!(
                "{} {} {hash} {}",
                stored.position,
                stored.dot(),
                hex(&stored.sig.map_or(vec![], |sig| sig.0.to_vec()))
            ),
        );
    }
    for table in store.tables().expect("tables") {
        for (key, row) in store.scan(&table, (Bound::Unbounded, Bound::Unbounded), 100).expect("a scan") {
            line("row", format!("{table} {key} {:032x}", row.digest(&table, &key)));
        }
    }
    for conflict in store.conflicts(0, 10).expect("conflicts") {
        let mut value = Writer::new();
        conflict.value.encode(&mut value);
        let Conflict { id, table, row, field, loser, winner, noticed_ms, .. } = &conflict;
        let stamp = |stamp: &Stamp| format!("{} {}", stamp.hlc.0, stamp.dot);
        let value = hex(&value.into_bytes());
        line(
            "conflict",
            format!("{id} {table} {row} {field} {value} {} {} {noticed_ms}", stamp(loser), stamp(winner)),
        );
    }
    line(
        "local",
        String::from_utf8(store.local("addresses").expect("local").expect("a value")).expect("text"),
    );
    text
}

#[test]
fn the_fixture_of_format_6_reads_exactly_and_can_be_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    fs::copy(fixture("redb"), &path).expect("a copy of the fixture");
    let store = open(&path).expect("format 6 opens");
    assert_eq!(summary(&store), fs::read_to_string(fixture("txt")).expect("its summary"));
    let recovered = store.recover().expect("recovered");
    assert_eq!(recovered.replica, None, "a copy is a new life");
    let batch = Batch {
        position: recovered.position + 1,
        clock: recovered.clock,
        digest: recovered.digest,
        members: vec![test_identity(9).cert],
        ..Batch::default()
    };
    assert_eq!(store.apply(&batch), Ok(()));
    drop(store);
    let store = open(&path).expect("it opens again");
    assert_eq!(store.recover().expect("recovered").members.len(), recovered.members.len() + 1);
}

#[test]
fn the_fixture_of_this_format_can_be_written_anew() {
    assert_eq!(FORMAT, 6, "a new format needs its own fixture");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    write(&path);
    if let Some(keep) = std::env::var_os(KEEP).map(PathBuf::from) {
        fs::copy(&path, keep.join("format-6.redb")).expect("kept");
        let summary = summary(&open(&path).expect("it opens"));
        fs::write(keep.join("format-6.txt"), summary).expect("kept");
    }
    let store = open(&path).expect("it opens");
    assert_eq!(batches_held(&store), BATCHES);
    assert_eq!(store.conflicts(0, 10), Ok(conflicts(&history_to(BATCHES))));
}

/// The meaning of bytes is fixed, whatever redb or this code become.
#[test]
fn records_of_format_6_have_the_bytes_that_the_specification_gives() {
    use redb::{ReadableDatabase, ReadableTable, TableDefinition};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    fs::copy(fixture("redb"), &path).expect("a copy of the fixture");
    let db = redb::Database::open(&path).expect("a redb file");
    let txn = db.begin_read().expect("a transaction");
    let get = |table: &'static str, key: &[u8]| -> Vec<u8> {
        let table = txn.open_table(TableDefinition::<&[u8], &[u8]>::new(table)).expect("a table");
        table.get(key).expect("a read").expect("an entry").value().to_vec()
    };
    assert_eq!(get("meta", b"format"), [0, 0, 0, 6]);
    assert_eq!(get("meta", b"account"), account().0);
    // The state: a replica follows (24 bytes), clock, digest, next conflict, position, checkpoint.
    let state = get("meta", b"state");
    assert_eq!((state[0], state.len()), (1, 1 + 24 + 8 + 16 + 3), "{state:?}");
    let [position, checkpoint] = [state[state.len() - 2], state[state.len() - 1]];
    assert!(0 < checkpoint && checkpoint < position && position < 128, "{state:?}");
    let log: Vec<(Vec<u8>, Vec<u8>)> = {
        let table = txn.open_table(TableDefinition::<&[u8], &[u8]>::new("log")).expect("a table");
        let entry = |entry: Result<(redb::AccessGuard<'_, _>, redb::AccessGuard<'_, &[u8]>), _>| {
            let (key, value) = entry.expect("an entry");
            let key: &[u8] = key.value();
            (key.to_vec(), value.value().to_vec())
        };
        table.iter().expect("the log").map(entry).collect()
    };
    // A checkpoint has gathered what came before it: by columns, deflated, in parts. Nothing is left out.
    let keys: Vec<&[u8]> = log.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(keys[0], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    let parts = log.iter().filter(|(key, _)| key[..8] == keys[0][..8]);
    let chunk: Vec<u8> = parts.flat_map(|(_, part)| part.clone()).collect();
    let mut reader = Reader::new(&chunk);
    assert_eq!(reader.u8(), Ok(2));
    let mut size = || reader.varint().expect("a size") as usize;
    let [front, columns, front_bytes] = [size(), size(), size()];
    let [bytes, cost, ops] = [size(), size(), size()];
    assert!(bytes > columns && cost > bytes && ops > 0, "{bytes} {cost} {ops}");
    let stream = reader.raw(reader.remaining()).expect("the rest");
    let body = inflate(stream, front + columns).expect("it inflates");
    let by_themselves = inflate(&stream[front_bytes..], columns).expect("they inflate by themselves");
    assert_eq!(by_themselves, body[front..]);
    assert!(body[0] == 0 && (1..128).contains(&body[1]), "no gaps, some signatures: {:?}", &body[..2]);
    // A chunk by rows: its first commit leaves no position out, is signed, and is behind its length.
    let by_rows = log.iter().rfind(|(key, chunk)| key[9] == 0 && chunk[..3] == [0, 0, 1]);
    let (key, chunk) = by_rows.expect("a chunk by rows");
    let replica = (0u8..3).map(|number| get("replicas", &[0, 0, 0, number]));
    let start = if chunk[67] < 128 { 68 } else { 69 };
    let number = replica.clone().position(|replica| replica == chunk[start..start + 24]);
    let number = number.expect("the commit starts with its replica") as u8;
    let seq = chunk[start + 24];
    let index = get("index", &[0, 0, 0, number, 0, 0, 0, 0, 0, 0, 0, seq]);
    assert_eq!(index[..8], key[..8], "it is in the chunk that begins with its position");
    let index = get("index", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(index[..8], [0, 0, 0, 0, 0, 0, 0, 1], "replica 0, sequence number 1: in the first chunk");
    assert_eq!(get("local", b"addresses"), b"/ip4/192.0.2.1");
    let store = {
        drop(txn);
        drop(db);
        open(&path).expect("it opens").with_checkpoint_at(0, 0)
    };
    // Rows that wait are written.
    let Recovered { position, clock, digest, .. } = store.recover().expect("recovered");
    let batch = Batch { position: position + 1, clock, digest, ..Batch::default() };
    assert_eq!(store.apply(&batch), Ok(()));
    let (table, key) = (TableName::new("u").expect("a name"), RowKey::new("last").expect("a key"));
    let row = store.row(&table, &key).expect("a read").expect("a row");
    drop(store);
    let db = redb::Database::open(&path).expect("a redb file");
    let txn = db.begin_read().expect("a transaction");
    let get = |table: &'static str, key: &[u8]| -> Vec<u8> {
        let table = txn.open_table(TableDefinition::<&[u8], &[u8]>::new(table)).expect("a table");
        table.get(key).expect("a read").expect("an entry").value().to_vec()
    };
    // One stamp: its clock, replica and number; `ins` is stamp 1, no `del`; one field, `f`, of stamp 0.
    let stamp = row.ins().expect("a row that is there");
    let ReplicaId { device: DeviceId(device), incarnation } = stamp.dot.replica;
    let replica = [&device.as_bytes()[..], &incarnation.to_be_bytes()].concat();
    let replica = (0u8..).find(|n| get("replicas", &[0, 0, 0, *n]) == replica).expect("a number");
    let table = (0u8..).find(|n| get("tables", &[0, 0, 0, *n]) == b"u").expect("a number");
    let Some(Value::Int(value)) = row.field("f") else { panic!("an integer") };
    let stamp = [&[1][..], &stamp.hlc.0.to_be_bytes(), &[replica, stamp.dot.seq as u8]].concat();
    let expected = [&stamp[..], &[1, 0, 1, 1, b'f', 0, 3, 2 * value as u8]].concat();
    assert_eq!(get("rows", &[&[0, 0, 0, table][..], b"last"].concat()), expected);
}
