//! The bytes of the records: what each table's keys and values look like. `docs/format.md` has the tables.
//!
//! Invariant: decoding accepts exactly what encoding writes, allocates no more than the record's size
//! allows, and never panics.

use std::sync::Arc;

use engine::codec::{DecodeError, Reader, Writer};
use engine::commit::{CommitHash, Deps, Stamp};
use engine::config::{DEVICE_NAME_BYTES_MAX, FIELD_BYTES_MAX, ROW_KEY_BYTES_MAX, TABLE_BYTES_MAX};
use engine::hlc::Hlc;
use engine::identity::{AccountId, DeviceCert, DeviceId, Dot, PeerKey, ReplicaId, Sig};
use engine::name::{FieldName, RowKey, TableName};
use engine::row::{PackedCell, RowBuilder, RowState};
use engine::store::{Conflict, Head, StoreError};
use engine::value::{Encoded, Value};

use crate::error::damaged;
use crate::names::{Names, replica_number};

/// Most entries of a list in a record: far above what any can gather. Memory is bounded by the record's
/// own size, which the reader checks.
const ENTRIES_MAX: usize = 1 << 24;
/// What a stamp takes in memory beyond its number in a record.
const STAMP_BYTES: usize = 32;
/// Room is made for the stamps of so many fields of a row at once.
const FIELDS_AT_ONCE: usize = 64;

pub(crate) fn put_replica(writer: &mut Writer, replica: &ReplicaId) {
    writer.raw(replica.device.0.as_bytes());
    writer.raw(&replica.incarnation.to_be_bytes());
}

pub(crate) fn get_replica(reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
    let device = DeviceId(uuid::Uuid::from_bytes(reader.array()?));
    Ok(ReplicaId { device, incarnation: u64::from_be_bytes(reader.array()?) })
}

pub(crate) fn replica_bytes(replica: &ReplicaId) -> Vec<u8> {
    let mut writer = Writer::new();
    put_replica(&mut writer, replica);
    writer.into_bytes()
}

/// The key of a commit in the log.
pub(crate) fn dot_key(replica: u32, seq: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&replica.to_be_bytes());
    key[4..].copy_from_slice(&seq.to_be_bytes());
    key
}

pub(crate) fn split_dot_key(key: &[u8]) -> Result<(u32, u64), StoreError> {
    let mut reader = Reader::new(key);
    let mut split = || {
        let replica = u32::from_be_bytes(reader.array()?);
        let seq = u64::from_be_bytes(reader.array()?);
        reader.clone().finish()?;
        Ok((replica, seq))
    };
    split().map_err(damaged("a commit's key"))
}

pub(crate) fn u64_key(key: &[u8]) -> Result<u64, StoreError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Corrupt("a key is malformed".into()))
}

pub(crate) fn u32_key(key: &[u8]) -> Result<u32, StoreError> {
    key.try_into().map(u32::from_be_bytes).map_err(|_| StoreError::Corrupt("a key is malformed".into()))
}

/// The key of a row: its table's number, then its own key.
pub(crate) fn row_key(table: u32, row: &str) -> Vec<u8> {
    [&table.to_be_bytes(), row.as_bytes()].concat()
}

pub(crate) fn split_row_key(key: &[u8]) -> Result<RowKey, StoreError> {
    let text = key.get(4..).and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.and_then(|text| RowKey::new(text).ok())
        .ok_or_else(|| StoreError::Corrupt("a row key is malformed".into()))
}

fn put_stamp(writer: &mut Writer, stamp: &Stamp, names: &mut Arc<Names>) {
    writer.raw(&stamp.hlc.0.to_be_bytes());
    writer.varint(u64::from(replica_number(names, &stamp.dot.replica)));
    writer.varint(stamp.dot.seq);
}

fn get_stamp(reader: &mut Reader<'_>, names: &Names) -> Result<Stamp, DecodeError> {
    let hlc = Hlc(u64::from_be_bytes(reader.array()?));
    let replica = names.get_replica(reader)?;
    Ok(Stamp { hlc, dot: Dot { replica, seq: reader.varint()? } })
}

/// A row. Its distinct stamps come first, ascending, and are referred to by index: most fields of a row
/// are written together.
pub(crate) fn row_record(row: &RowState, names: &mut Arc<Names>) -> Vec<u8> {
    let cells: Vec<PackedCell<'_>> = row.cells().packed().collect();
    let mut stamps = Vec::with_capacity(2 + cells.len());
    stamps.extend(row.ins().into_iter().chain(row.del()).chain(cells.iter().map(|cell| cell.stamp)));
    stamps.sort_unstable();
    stamps.dedup();
    let index = |stamp: &Stamp| stamps.partition_point(|other| other < stamp) as u64;
    let mark = |stamp: Option<Stamp>| stamp.map_or(0, |stamp| index(&stamp) + 1);
    let mut writer = Writer::with_capacity(64 + row.bytes() + STAMP_BYTES * cells.len().min(FIELDS_AT_ONCE));
    writer.varint(stamps.len() as u64);
    for stamp in &stamps {
        put_stamp(&mut writer, stamp, names);
    }
    writer.varint(mark(row.ins()));
    writer.varint(mark(row.del()));
    writer.varint(cells.len() as u64);
    for cell in &cells {
        writer.bytes(cell.name());
        writer.varint(index(&cell.stamp));
        writer.raw(cell.value.bytes());
    }
    writer.into_bytes()
}

pub(crate) fn read_row(bytes: &[u8], names: &Names) -> Result<RowState, StoreError> {
    get_row(bytes, names).map_err(damaged("a row"))
}

fn get_row(bytes: &[u8], names: &Names) -> Result<RowState, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(ENTRIES_MAX, 10, "stamps of a row")?;
    let mut stamps = Vec::with_capacity(count);
    for _ in 0..count {
        let stamp = get_stamp(&mut reader, names)?;
        if stamps.last().is_some_and(|last| *last >= stamp) {
            return Err(DecodeError::Unordered("stamps"));
        }
        stamps.push(stamp);
    }
    let mut used = vec![false; count];
    let mut stamp_at = |index: u64| {
        let index = usize::try_from(index).ok().filter(|index| *index < count);
        let index = index.ok_or(DecodeError::Invalid("a stamp's index"))?;
        used[index] = true;
        Ok(stamps[index])
    };
    let mut mark = |index: u64| index.checked_sub(1).map(&mut stamp_at).transpose();
    let (ins, del) = (mark(reader.varint()?)?, mark(reader.varint()?)?);
    let count = reader.count(ENTRIES_MAX, 4, "fields of a row")?;
    let room = reader.remaining() + STAMP_BYTES * (2 + count.min(FIELDS_AT_ONCE));
    let mut row = RowBuilder::new(ins, del, &names.numbering, room);
    for _ in 0..count {
        let field = get_field(&mut reader)?;
        let stamp = stamp_at(reader.varint()?)?;
        row.push(&field, &stamp, Encoded::read(&mut reader)?)?;
    }
    reader.finish()?;
    if !used.into_iter().all(|used| used) {
        return Err(DecodeError::Invalid("a stamp without use"));
    }
    row.finish().ok_or(DecodeError::Invalid("a row's normal form"))
}

fn get_field(reader: &mut Reader<'_>) -> Result<FieldName, DecodeError> {
    let text = reader.text(FIELD_BYTES_MAX, "a field name")?;
    FieldName::new(text).map_err(|_| DecodeError::Invalid("a field name"))
}

pub(crate) fn head_record(head: &Head, names: &mut Arc<Names>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.varint(head.seq);
    writer.raw(&head.hash.0);
    writer.varint(head.seen.len() as u64);
    for (replica, seq) in &head.seen {
        writer.varint(u64::from(replica_number(names, replica)));
        writer.varint(*seq);
    }
    writer.into_bytes()
}

pub(crate) fn read_head(bytes: &[u8], names: &Names) -> Result<Head, StoreError> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let seq = reader.varint()?;
        let hash = CommitHash(reader.array()?);
        let count = reader.count(ENTRIES_MAX, 2, "what an author has seen")?;
        let mut seen = Deps::new();
        for _ in 0..count {
            let replica = names.get_replica(&mut reader)?;
            if seen.last_key_value().is_some_and(|(last, _)| *last >= replica) {
                return Err(DecodeError::Unordered("what an author has seen"));
            }
            seen.insert(replica, reader.varint()?);
        }
        reader.clone().finish()?;
        Ok(Head { seq, hash, seen })
    };
    read().map_err(damaged("a head"))
}

pub(crate) fn member_record(cert: &DeviceCert) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.raw(&cert.key.0);
    writer.varint(cert.issued_ms);
    writer.u8(u8::from(cert.admin));
    writer.bytes(cert.name.as_bytes());
    writer.raw(&cert.sig.0);
    writer.into_bytes()
}

pub(crate) fn read_member(bytes: &[u8], account: &AccountId) -> Result<DeviceCert, StoreError> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let key = PeerKey(reader.array()?);
        let issued_ms = reader.varint()?;
        let admin = match reader.u8()? {
            0 => false,
            1 => true,
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        let name = reader.text(DEVICE_NAME_BYTES_MAX, "a device name")?.to_owned();
        let sig = Sig(reader.array()?);
        reader.clone().finish()?;
        let cert = DeviceCert { account: *account, key, name, issued_ms, admin, sig };
        cert.check(account).map_err(|_| DecodeError::Invalid("a certificate"))?;
        Ok(cert)
    };
    read().map_err(damaged("a device's certificate"))
}

pub(crate) fn conflict_record(conflict: &Conflict, names: &mut Arc<Names>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.bytes(conflict.table.as_str().as_bytes());
    writer.bytes(conflict.row.as_str().as_bytes());
    writer.bytes(conflict.field.as_str().as_bytes());
    conflict.value.encode(&mut writer);
    put_stamp(&mut writer, &conflict.loser, names);
    put_stamp(&mut writer, &conflict.winner, names);
    writer.varint(conflict.noticed_ms);
    writer.into_bytes()
}

pub(crate) fn read_conflict(id: u64, bytes: &[u8], names: &Names) -> Result<Conflict, StoreError> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let table = TableName::new(reader.text(TABLE_BYTES_MAX, "a table name")?)
            .map_err(|_| DecodeError::Invalid("a table name"))?;
        let row = RowKey::new(reader.text(ROW_KEY_BYTES_MAX, "a row key")?)
            .map_err(|_| DecodeError::Invalid("a row key"))?;
        let field = get_field(&mut reader)?;
        let value = Value::decode(&mut reader)?;
        let loser = get_stamp(&mut reader, names)?;
        let winner = get_stamp(&mut reader, names)?;
        let noticed_ms = reader.varint()?;
        reader.clone().finish()?;
        Ok(Conflict { id, table, row, field, value, loser, winner, noticed_ms })
    };
    read().map_err(damaged("a conflict"))
}

#[cfg(test)]
mod tests {
    use engine::testing::{Author, any_op, any_value, test_identity, test_root};
    use proptest::prelude::*;

    use super::*;

    fn stamp(author: u8, n: u64) -> Stamp {
        Stamp { hlc: Hlc(n / 2), dot: Dot { replica: Author::new(author).replica, seq: n } }
    }

    /// Nothing shorter reads, nor anything with a byte more; what reads after a flip writes the same again.
    fn exact<T>(bytes: &[u8], read: impl Fn(&[u8]) -> Result<T, StoreError>, write: impl Fn(&T) -> Vec<u8>) {
        for end in 0..bytes.len() {
            assert!(matches!(read(&bytes[..end]), Err(StoreError::Corrupt(_))), "{end} bytes were read");
        }
        assert!(read(&[bytes, &[0]].concat()).is_err());
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_owned();
            flipped[at / 8] ^= 1 << (at % 8);
            if let Ok(other) = read(&flipped) {
                assert_eq!(write(&other), flipped);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_row_comes_back_and_its_record_is_its_only_one(
            writes in proptest::collection::vec((0u8..3, 1u64..40, any_op()), 0..8),
        ) {
            let mut row = RowState::default();
            for (author, n, op) in &writes {
                row.apply(stamp(*author, *n), op, &mut Vec::new());
            }
            let mut names = Arc::new(Names::default());
            let bytes = row_record(&row, &mut names);
            prop_assert_eq!(read_row(&bytes, &names), Ok(row));
            exact(&bytes, |bytes| read_row(bytes, &names), |row| row_record(row, &mut names.clone()));
        }

        #[test]
        fn a_conflict_comes_back(id: u64, value in any_value(), noticed_ms: u64) {
            let text = |text: &str| RowKey::new(text).expect("a key");
            let conflict = Conflict {
                id,
                table: TableName::new("t").expect("a name"),
                row: text("\n"),
                field: FieldName::new("f").expect("a name"),
                value,
                loser: stamp(1, 5),
                winner: stamp(2, 5),
                noticed_ms,
            };
            let mut names = Arc::new(Names::default());
            let bytes = conflict_record(&conflict, &mut names);
            prop_assert_eq!(read_conflict(id, &bytes, &names), Ok(conflict));
            let read = |bytes: &[u8]| read_conflict(id, bytes, &names);
            exact(&bytes, read, |conflict| conflict_record(conflict, &mut names.clone()));
        }
    }

    #[test]
    fn heads_and_members_come_back() {
        let seen = (1..4).map(|n| (Author::new(n).replica, u64::from(n) << 40)).collect();
        let head = Head { seq: u64::MAX, hash: CommitHash([7; 32]), seen };
        let mut names = Arc::new(Names::default());
        // Numbers that do not ascend as the replicas do.
        for n in [3, 1, 0] {
            replica_number(&mut names, &Author::new(n).replica);
        }
        let bytes = head_record(&head, &mut names);
        assert_eq!(read_head(&bytes, &names), Ok(head));
        exact(&bytes, |bytes| read_head(bytes, &names), |head| head_record(head, &mut names.clone()));

        let account = AccountId(test_root().public());
        let cert = test_identity(0).cert;
        let bytes = member_record(&cert);
        assert_eq!(read_member(&bytes, &account), Ok(cert));
        exact(&bytes, |bytes| read_member(bytes, &account), member_record);
        assert!(read_member(&bytes, &AccountId([1; 32])).is_err());
    }
}
