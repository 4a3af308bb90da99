//! Files: a database with anything changed in it, and what people import.

use std::io::{self, BufReader};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use engine::commit::{Op, OpKind};
use engine::store::contract::History;
use engine::store::{Store as _, StoreRead as _};
use engine::testing::op;
use engine::value::Value;
use redb::backends::InMemoryBackend;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition, TableHandle as _,
};
use store::RedbStore;

use crate::codec::account;
use crate::data::json::{JsonFields, parse_fields};
use crate::data::source::{Content, Format, Layout, RECORD_BYTES_MAX, Source};
use crate::tape::Tape;

/// Memory as a file that outlives the database on it.
#[derive(Debug, Clone)]
struct Memory(Arc<InMemoryBackend>);

impl Memory {
    fn of(file: &[u8]) -> Memory {
        let backend = InMemoryBackend::new();
        backend.set_len(file.len() as u64).expect("memory");
        backend.write(0, file).expect("memory");
        Memory(Arc::new(backend))
    }

    fn file(&self) -> Vec<u8> {
        let mut file = vec![0; self.0.len().expect("memory") as usize];
        self.0.read(0, &mut file).expect("memory");
        file
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// A database that holds something in every table that can be filled from a log, closed and as a crash leaves it.
fn files() -> &'static [Vec<u8>; 2] {
    static FILES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let memory = Memory::of(&[]);
        // What was written first is in the table of rows, what comes later only in the log.
        let store =
            RedbStore::with_backend(memory.clone(), account()).expect("a database").with_checkpoint_at(0, 0);
        let mut history = History::default();
        let write = |store: &RedbStore, history: &mut History, n: i64| {
            let ops = |row: &str| -> Vec<Op> {
                vec![op("t", row, OpKind::Put, [("x".into(), Value::Int(n))].into())]
            };
            let commits =
                vec![(1, ops("a")), (2, ops("b")), (1, vec![op("u", "c", OpKind::Delete, [].into())])];
            let mut batch = history.batch(commits, |n| n != 1);
            batch.replica = history.authors.values().next().map(|author| author.replica);
            store.apply(&batch).expect("memory");
        };
        (0..3).for_each(|n| write(&store, &mut history, n));
        store.set_local("key", Some(b"value")).expect("memory");
        drop(store);
        let store = RedbStore::with_backend(memory.clone(), account()).expect("a database");
        (3..6).for_each(|n| write(&store, &mut history, n));
        let open = memory.file();
        drop(store);
        [memory.file(), open]
    })
}

/// A database file with bytes or records changed: it is refused, or each read gives a value or an error.
pub fn store_file(data: &[u8]) {
    let mut tape = Tape::new(data);
    let [closed, open] = files();
    let file = match tape.u8() % 4 {
        0 => flipped(closed, &mut tape),
        1 => flipped(open, &mut tape),
        _ => rewritten(closed, &mut tape),
    };
    let unchanged = file == *closed || file == *open;
    let opened = RedbStore::with_backend(Memory::of(&file), account());
    assert!(opened.is_ok() || !unchanged, "the unchanged file opens");
    let Ok(store) = opened else { return };
    let recovered = store.recover();
    let _ = store.applied(0, 1_000);
    let _ = store.conflicts(0, 1_000);
    let _ = store.quarantine(None, 1_000);
    let _ = store.local("key");
    for replica in recovered.iter().flat_map(|recovered| recovered.heads.keys()) {
        let _ = store.commits(replica, 1, 1_000, usize::MAX);
    }
    for table in store.tables().unwrap_or_default() {
        let _ = store.scan(&table, (Bound::Unbounded, Bound::Unbounded), 1_000);
    }
    if unchanged {
        engine::store::contract::state_follows_from_log(&store);
    }
}

/// Changes: an offset in three bytes, then what is XORed there.
fn flipped(file: &[u8], tape: &mut Tape<'_>) -> Vec<u8> {
    let mut file = file.to_vec();
    for change in tape.rest().chunks_exact(4).take(64) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % file.len();
        file[at] ^= change[3];
    }
    file
}

/// Changes records through redb, so that its checksums are right and what stands in them is read.
fn rewritten(file: &[u8], tape: &mut Tape<'_>) -> Vec<u8> {
    let memory = Memory::of(file);
    let db = Database::builder().create_with_backend(memory.clone()).expect("the file is whole");
    let mut names: Vec<String> = {
        let read = db.begin_read().expect("whole");
        read.list_tables().expect("whole").map(|table| table.name().to_owned()).collect()
    };
    names.sort();
    let write = db.begin_write().expect("whole");
    while !tape.is_empty() {
        let name = names[tape.below(names.len())].clone();
        let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
        let mut table = write.open_table(definition).expect("a table");
        let entries: Vec<(Vec<u8>, Vec<u8>)> = table
            .iter()
            .expect("whole")
            .map(|entry| {
                entry.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).expect("whole")
            })
            .collect();
        let (mut key, mut value) =
            if entries.is_empty() { Default::default() } else { entries[tape.below(entries.len())].clone() };
        match tape.u8() % 8 {
            0 => drop(table.remove(key.as_slice()).expect("whole")),
            1 => {
                tape.damage(&mut key);
                table.insert(key.as_slice(), value.as_slice()).expect("whole");
            }
            2 => {
                let value = tape.bytes();
                table.insert(key.as_slice(), value).expect("whole");
            }
            _ => {
                tape.damage(&mut value);
                table.insert(key.as_slice(), value.as_slice()).expect("whole");
            }
        }
    }
    write.commit().expect("memory");
    drop(db);
    memory.file()
}

/// Any bytes as a file to import, in each format: it ends, records stay within their bound, and what is read as JSON is
/// written as JSON that reads the same.
pub fn import(data: &[u8]) {
    let [format, look, piece, text @ ..] = data else { return };
    let format = [Format::Json, Format::Jsonl, Format::Csv, Format::Tsv][usize::from(*format % 4)];
    let layout = Layout {
        delimiter: [b',', b'\t', b';', b'|'][usize::from(look & 3)],
        quotes: look & 4 == 0,
        comment: (look & 8 != 0).then_some(b'#'),
        columns: (look & 16 != 0).then(|| vec!["id".into(), "b".into()]),
        no_header: look & 32 != 0,
        typed: look & 64 == 0,
    };
    let reader = BufReader::with_capacity(usize::from(*piece) + 1, io::Cursor::new(text.to_vec()));
    let Ok(mut source) = Source::open(Box::new(reader), format, layout) else { return };
    let (mut records, mut last) = (0, 0);
    while let Ok(Some(record)) = source.next() {
        records += 1;
        assert!(records <= text.len() + 1, "each record takes a byte");
        assert!(record.line >= last && record.line <= text.len() as u64 + 1);
        last = record.line;
        let fields = match record.content {
            Ok(Content::Json(text)) => {
                assert!(text.len() <= RECORD_BYTES_MAX);
                parse_fields(&text).ok()
            }
            Ok(Content::Fields(fields)) => Some(fields),
            Err(_) => None,
        };
        if let Some(fields) = fields {
            let text = serde_json::to_string(&JsonFields(fields.clone())).expect("fields have a text");
            assert_eq!(parse_fields(&text).expect("what was written reads back"), fields);
        }
    }
}
