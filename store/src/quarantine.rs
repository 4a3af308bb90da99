//! Changes to what the log already holds: signatures that come later, and commits that are retracted into the
//! quarantine. Both are rare, and rewrite the chunks concerned.

use engine::codec::{Reader, Writer};
use engine::commit::Commit;
use engine::identity::{AccountId, Dot, Sig};
use engine::store::{Batch, Quarantined, StoreError, StoredCommit};
use redb::{ReadableTable as _, WriteTransaction};

use crate::chunk::Logged;
use crate::error::{damaged, redb};
use crate::log::{self, Fate};
use crate::names::Names;
use crate::record::{get_replica, put_replica};
use crate::schema::{INDEX, LOG, QUARANTINE};

/// The key of a commit in the quarantine: its whole dot, so that the table is in the order of dots.
/// Where another commit of that name is there already (a branch of a fork), [`another_key`].
pub(crate) fn key(dot: &Dot) -> Vec<u8> {
    let mut writer = Writer::new();
    put_replica(&mut writer, &dot.replica);
    writer.raw(&dot.seq.to_be_bytes());
    writer.into_bytes()
}

/// The key of a further commit of the same name: with the position that it had.
pub(crate) fn another_key(dot: &Dot, position: u64) -> Vec<u8> {
    let mut bytes = key(dot);
    bytes.extend_from_slice(&position.to_be_bytes());
    bytes
}

fn get_dot(reader: &mut Reader<'_>) -> Result<Dot, engine::codec::DecodeError> {
    Ok(Dot { replica: get_replica(reader)?, seq: u64::from_be_bytes(reader.array()?) })
}

/// The dot of the commit that retracted it; its position; its signature, if there is one; the commit.
fn record(because: &Dot, logged: &Logged) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.raw(&key(because));
    writer.raw(&logged.position.to_be_bytes());
    writer.u8(u8::from(logged.sig.is_some()));
    if let Some(sig) = &logged.sig {
        writer.raw(&sig.0);
    }
    logged.commit.encode_to(&mut writer);
    writer.into_bytes()
}

pub(crate) fn read(key: &[u8], bytes: &[u8], account: &AccountId) -> Result<Quarantined, StoreError> {
    use engine::codec::DecodeError;
    let (mut key, mut reader) = (Reader::new(key), Reader::new(bytes));
    let mut parts = || {
        let dot = get_dot(&mut key)?;
        let because = get_dot(&mut reader)?;
        let position = u64::from_be_bytes(reader.array()?);
        if key.remaining() > 0 && u64::from_be_bytes(key.array()?) != position {
            return Err(DecodeError::Invalid("its key"));
        }
        key.clone().finish()?;
        let sig = match reader.u8()? {
            0 => None,
            1 => Some(Sig(reader.array()?)),
            tag => return Err(DecodeError::UnknownTag(tag)),
        };
        let commit = Commit::decode(reader.raw(reader.remaining())?, account)?;
        if commit.dot != dot {
            return Err(DecodeError::Invalid("its key"));
        }
        Ok(Quarantined { stored: StoredCommit { position, commit, sig }, because })
    };
    parts().map_err(damaged("a retracted commit"))
}

/// Whether a batch changes what the log already holds.
pub(crate) fn concerns(batch: &Batch) -> bool {
    !(batch.signatures.is_empty() && batch.retractions.is_empty() && batch.released.is_empty())
}

/// Writes signatures, retractions and releases.
pub(crate) fn write(
    txn: &WriteTransaction,
    account: &AccountId,
    batch: &Batch,
    names: &Names,
) -> Result<(), StoreError> {
    let mut log = txn.open_table(LOG).map_err(redb)?;
    let mut index = txn.open_table(INDEX).map_err(redb)?;
    let mut quarantine = txn.open_table(QUARANTINE).map_err(redb)?;
    for (dot, sig) in &batch.signatures {
        let number = names.replicas.number(&dot.replica);
        let chunk = number.map(|number| log::chunk_of(&index, number, dot.seq)).transpose()?.flatten();
        let chunk = chunk
            .ok_or_else(|| StoreError::Corrupt("a batch signs a commit that is not in the log".into()))?;
        log::rewrite(&mut log, account, chunk, |logged| {
            Ok(if logged.commit.dot == *dot { Fate::Signed(*sig) } else { Fate::Stays })
        })?;
    }
    for retraction in &batch.retractions {
        let Some(number) = names.replicas.number(&retraction.replica) else { continue };
        for chunk in log::cut_stretches(&mut index, number, retraction.from_seq)? {
            log::rewrite(&mut log, account, chunk, |logged| {
                let dot = logged.commit.dot;
                if dot.replica != retraction.replica || dot.seq < retraction.from_seq {
                    return Ok(Fate::Stays);
                }
                let record = record(&retraction.because, logged);
                let mut at = key(&dot);
                if quarantine.get(at.as_slice()).map_err(redb)?.is_some() {
                    at = another_key(&dot, logged.position);
                }
                quarantine.insert(at.as_slice(), record.as_slice()).map_err(redb)?;
                Ok(Fate::Goes)
            })?;
        }
    }
    for dot in &batch.released {
        let (first, last) = (key(dot), another_key(dot, u64::MAX));
        let found =
            quarantine.range::<&[u8]>(first.as_slice()..=last.as_slice()).map_err(redb)?.next().transpose();
        let found = found.map_err(redb)?.map(|(key, _)| key.value().to_vec());
        if let Some(key) = found {
            quarantine.remove(key.as_slice()).map_err(redb)?;
        }
    }
    Ok(())
}
