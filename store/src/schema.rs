//! The tables of the file, its format version, and the entries of `meta`.
//!
//! Every table maps bytes to bytes, ordered by the bytes of its keys; integers in keys are big-endian.
//! The format therefore depends on redb for the pages only, not for the encoding of any type.

use engine::codec::{DecodeError, Reader, Writer};
use engine::hlc::Hlc;
use engine::identity::{AccountId, ReplicaId};
use engine::store::StoreError;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::error::{damaged, redb};
use crate::record::{get_replica, put_replica};

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 6;

pub(crate) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(crate) const META: Definition = Definition::new("meta");
pub(crate) const REPLICAS: Definition = Definition::new("replicas");
pub(crate) const TABLES: Definition = Definition::new("tables");
pub(crate) const LOG: Definition = Definition::new("log");
pub(crate) const INDEX: Definition = Definition::new("index");
pub(crate) const ROWS: Definition = Definition::new("rows");
pub(crate) const HEADS: Definition = Definition::new("heads");
pub(crate) const MEMBERS: Definition = Definition::new("members");
pub(crate) const CONFLICTS: Definition = Definition::new("conflicts");
pub(crate) const QUARANTINE: Definition = Definition::new("quarantine");
pub(crate) const LOCAL: Definition = Definition::new("local");

/// All tables of format 6. A valid file has each of them.
pub(crate) const ALL: [Definition; 11] =
    [META, REPLICAS, TABLES, LOG, INDEX, ROWS, HEADS, MEMBERS, CONFLICTS, QUARANTINE, LOCAL];

pub(crate) const META_FORMAT: &[u8] = b"format";
pub(crate) const META_ACCOUNT: &[u8] = b"account";
pub(crate) const META_NONCE: &[u8] = b"nonce";
pub(crate) const META_STATE: &[u8] = b"state";

/// What changes with every batch and belongs to no table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) replica: Option<ReplicaId>,
    pub(crate) clock: Hlc,
    pub(crate) digest: u128,
    pub(crate) conflict_next: u64,
    /// Of the last commit; 0 if there is none.
    pub(crate) position: u64,
    /// The table of rows is what the log amounts to up to this position.
    pub(crate) checkpoint: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            replica: None,
            clock: Hlc::default(),
            digest: 0,
            conflict_next: 1,
            position: 0,
            checkpoint: 0,
        }
    }
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(u8::from(self.replica.is_some()));
        if let Some(replica) = &self.replica {
            put_replica(&mut writer, replica);
        }
        writer.raw(&self.clock.0.to_be_bytes());
        writer.raw(&self.digest.to_be_bytes());
        writer.varint(self.conflict_next);
        writer.varint(self.position);
        writer.varint(self.checkpoint);
        writer.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<State, DecodeError> {
        let mut reader = Reader::new(bytes);
        let replica = match reader.u8()? {
            0 => None,
            1 => Some(get_replica(&mut reader)?),
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        let clock = Hlc(u64::from_be_bytes(reader.array()?));
        let digest = u128::from_be_bytes(reader.array()?);
        let (conflict_next, position, checkpoint) = (reader.varint()?, reader.varint()?, reader.varint()?);
        reader.finish()?;
        if checkpoint > position {
            return Err(DecodeError::Invalid("a checkpoint ahead of the log"));
        }
        Ok(State { replica, clock, digest, conflict_next, position, checkpoint })
    }
}

/// The format and account that a file says it has.
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) account: AccountId,
}

/// An entry of `meta` that every file has.
pub(crate) fn required<const N: usize>(
    meta: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &'static [u8],
) -> Result<[u8; N], StoreError> {
    let name = String::from_utf8_lossy(key);
    let value = meta.get(key).map_err(redb)?;
    let value = value.ok_or_else(|| StoreError::Corrupt(format!("it has no {name}")))?;
    value.value().try_into().map_err(|_| StoreError::Corrupt(format!("its {name} is malformed")))
}

pub(crate) fn header(meta: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<Header, StoreError> {
    let format = u32::from_be_bytes(required(meta, META_FORMAT)?);
    // What else a newer format holds is not known here.
    let account = if format > FORMAT { [0; 32] } else { required(meta, META_ACCOUNT)? };
    Ok(Header { format, account: AccountId(account) })
}

pub(crate) fn state(meta: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<State, StoreError> {
    let value = meta.get(META_STATE).map_err(redb)?;
    let value = value.ok_or_else(|| StoreError::Corrupt("it has no state".into()))?;
    State::decode(value.value()).map_err(damaged("the state"))
}

/// Fills an empty database.
pub(crate) fn initialise(txn: &WriteTransaction, account: &AccountId) -> Result<(), StoreError> {
    for definition in ALL {
        txn.open_table(definition).map_err(redb)?;
    }
    let mut meta = txn.open_table(META).map_err(redb)?;
    meta.insert(META_FORMAT, FORMAT.to_be_bytes().as_slice()).map_err(redb)?;
    meta.insert(META_ACCOUNT, account.0.as_slice()).map_err(redb)?;
    meta.insert(META_STATE, State::default().encode().as_slice()).map_err(redb)?;
    Ok(())
}
