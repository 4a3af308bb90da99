//! Records in which each device says where it may be found, and what this device has of them. Pure.
//!
//! A record is signed by the device that it is about, so it may come from anybody: devices hand on each other's, and
//! one that has moved is found through any third one. `docs/protocol.md`, section 15, has the format.
//!
//! Invariants: nothing is kept whose signature is wrong; of one device the newest record counts, whatever arrives first;
//! at most [`RECORDS_MAX`] records are kept, and few of devices that are not members; the address book decides what is
//! done with them, and the dialer dials members only.

use std::collections::{BTreeMap, BTreeSet};

use engine::codec::{DecodeError, Reader, Writer};
use engine::identity::{PeerKey, SecretKey, Sig, verify};

/// Most addresses in a record.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// Longest address in a record, in bytes of text.
pub(crate) const ADDRESS_BYTES_MAX: usize = 256;
/// Longest record, in bytes: what that makes, rounded up.
pub(crate) const RECORD_BYTES_MAX: usize = 5 * 1024;
/// Most records kept, and in a message.
pub(crate) const RECORDS_MAX: usize = 256;
/// Longest message, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Most records kept of devices that are not members: they may become members before the records come again.
const STRANGERS_MAX: usize = 16;

const VERSION: u8 = 1;
const SIGNED: &[u8] = b"ahenk addresses 1";
const SIG_BYTES: usize = 64;

/// Where a device says that it may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: PeerKey,
    /// When it said so, by its own clock, in milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) addresses: Vec<String>,
    /// The whole, with its signature.
    pub(crate) bytes: Vec<u8>,
}

impl Record {
    /// Makes a record; what is too much of the addresses is left out.
    pub(crate) fn make(secret: &SecretKey, at_ms: u64, addresses: &[String]) -> Record {
        let addresses = fitting(addresses);
        let key = PeerKey(secret.public());
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.raw(&key.0);
        writer.raw(&at_ms.to_be_bytes());
        writer.varint(addresses.len() as u64);
        addresses.iter().for_each(|address| writer.bytes(address.as_bytes()));
        let sig = secret.sign(&[SIGNED, writer.as_bytes()].concat());
        writer.raw(&sig.0);
        Record { key, at_ms, addresses, bytes: writer.into_bytes() }
    }

    /// Reads a record, without looking at its signature.
    fn parse(bytes: &[u8]) -> Result<Record, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(DecodeError::Invalid("version of a record of addresses"));
        }
        let key = PeerKey(reader.array()?);
        let at_ms = u64::from_be_bytes(reader.array()?);
        let count = reader.count(ADDRESSES_MAX, 1, "addresses of a record")?;
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            addresses.push(reader.text(ADDRESS_BYTES_MAX, "address in a record")?.to_owned());
        }
        let _: [u8; SIG_BYTES] = reader.array()?;
        reader.finish()?;
        Ok(Record { key, at_ms, addresses, bytes: bytes.to_vec() })
    }

    fn genuine(&self) -> bool {
        let Some((signed, sig)) = self.bytes.split_last_chunk::<SIG_BYTES>() else { return false };
        verify(&self.key.0, &[SIGNED, signed].concat(), &Sig(*sig))
    }
}

/// Those of the addresses that a record holds.
fn fitting(addresses: &[String]) -> Vec<String> {
    let fits = |address: &&String| address.len() <= ADDRESS_BYTES_MAX;
    addresses.iter().filter(fits).take(ADDRESSES_MAX).cloned().collect()
}

/// Packs records into a message; those that no longer fit are left out.
pub(crate) fn pack(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = 8;
    let fits = |record: &&Vec<u8>| {
        bytes += record.len() + 3;
        bytes <= MESSAGE_BYTES_MAX
    };
    let records: Vec<&Vec<u8>> = records.iter().take(RECORDS_MAX).take_while(fits).collect();
    let mut writer = Writer::new();
    writer.varint(records.len() as u64);
    records.iter().for_each(|record| writer.bytes(record));
    writer.into_bytes()
}

/// Takes a message apart.
pub(crate) fn unpack(message: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut reader = Reader::new(message);
    let count = reader.count(RECORDS_MAX, 1, "records of addresses")?;
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        records.push(reader.bytes(RECORD_BYTES_MAX, "record of addresses")?.to_vec());
    }
    reader.finish()?;
    Ok(records)
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    local: PeerKey,
    own: Option<Record>,
    /// The time of our newest record, which may be of an earlier life of this device, and be known to others only.
    said_ms: u64,
    others: BTreeMap<PeerKey, Record>,
    /// Whose record has changed since the others were last told.
    news: BTreeSet<PeerKey>,
}

impl Whereabouts {
    pub(crate) fn new(local: PeerKey) -> Whereabouts {
        Whereabouts { local, own: None, said_ms: 0, others: BTreeMap::new(), news: BTreeSet::new() }
    }

    /// States where this device may be found; a new record is made if that changed.
    pub(crate) fn state(&mut self, secret: &SecretKey, addresses: &[String], now_ms: u64) {
        let addresses = fitting(addresses);
        if self.own.as_ref().is_some_and(|own| own.addresses == addresses && own.at_ms == self.said_ms) {
            return;
        }
        self.said_ms = now_ms.max(self.said_ms.saturating_add(1));
        self.own = Some(Record::make(secret, self.said_ms, &addresses));
        self.news.insert(self.local);
    }

    /// Takes in a record. The result is what is now known of its device, if that is news; an error if the record is
    /// malformed or forged.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        member: impl Fn(&PeerKey) -> bool,
    ) -> Result<Option<&Record>, DecodeError> {
        let record = Record::parse(bytes)?;
        let key = record.key;
        let known_ms = match key == self.local {
            true => Some(self.said_ms),
            false => self.others.get(&key).map(|known| known.at_ms),
        };
        if known_ms.is_some_and(|known| known >= record.at_ms) {
            return Ok(None);
        }
        if !record.genuine() {
            return Err(DecodeError::Invalid("signature of a record of addresses"));
        }
        if key == self.local {
            // Of an earlier life of this device, whose clock was ahead of the present one.
            self.said_ms = record.at_ms;
            return Ok(None);
        }
        let new = !self.others.contains_key(&key);
        if new && !member(&key) {
            let strangers: Vec<PeerKey> = self.others.keys().filter(|key| !member(key)).copied().collect();
            if let (true, Some(first)) = (strangers.len() >= STRANGERS_MAX, strangers.first()) {
                self.others.remove(first);
            }
        }
        if new && self.others.len() >= RECORDS_MAX {
            return Ok(None);
        }
        self.others.insert(key, record);
        self.news.insert(key);
        Ok(self.others.get(&key))
    }

    /// What a device has said last.
    pub(crate) fn of(&self, key: &PeerKey) -> Option<&Record> {
        self.others.get(key)
    }

    /// Whether our own record must be made anew.
    pub(crate) fn outdated(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.at_ms < self.said_ms)
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What changed since this was last asked.
    pub(crate) fn take_news(&mut self, member: impl Fn(&PeerKey) -> bool) -> Vec<Vec<u8>> {
        let news = std::mem::take(&mut self.news);
        self.records(&member).filter(|record| news.contains(&record.key)).map(|r| r.bytes.clone()).collect()
    }

    /// All records of members and of this device, for another one or to be saved.
    pub(crate) fn all(&self, member: impl Fn(&PeerKey) -> bool) -> Vec<Vec<u8>> {
        self.records(&member).map(|record| record.bytes.clone()).collect()
    }

    fn records(&self, member: &impl Fn(&PeerKey) -> bool) -> impl Iterator<Item = &Record> {
        self.own.iter().chain(self.others.values().filter(|record| member(&record.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn key(seed: u8) -> PeerKey {
        PeerKey(secret(seed).public())
    }

    fn record(seed: u8, at_ms: u64, port: u16) -> Vec<u8> {
        Record::make(&secret(seed), at_ms, &[format!("/ip4/192.0.2.1/tcp/{port}")]).bytes
    }

    fn book() -> Whereabouts {
        Whereabouts::new(key(1))
    }

    fn taken(book: &mut Whereabouts, bytes: &[u8]) -> bool {
        book.take(bytes, |_| true).is_ok_and(|record| record.is_some())
    }

    #[test]
    fn the_newest_record_counts_whatever_arrives_first() {
        let mut book = book();
        assert!(taken(&mut book, &record(2, 20, 2)));
        assert!(!taken(&mut book, &record(2, 10, 1)), "an older one");
        assert!(!taken(&mut book, &record(2, 20, 3)), "another of the same time");
        assert_eq!(book.of(&key(2)).expect("known").addresses, ["/ip4/192.0.2.1/tcp/2"]);
        assert!(taken(&mut book, &record(2, 30, 3)));
        assert_eq!(book.take_news(|_| true), vec![record(2, 30, 3)]);
        assert!(!book.has_news());
    }

    #[test]
    fn no_byte_of_a_record_can_be_changed_cut_off_or_added() {
        let good = record(2, 10, 1);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(book().take(&bad, |_| true).is_err(), "byte {at}");
            assert!(book().take(&good[..at], |_| true).is_err(), "cut at {at}");
        }
        assert!(book().take(&[&good[..], &[0]].concat(), |_| true).is_err());
        assert!(taken(&mut book(), &good));
    }

    #[test]
    fn a_device_whose_clock_was_set_back_still_says_something_newer() {
        let mut book = book();
        book.state(&secret(1), &["/ip4/192.0.2.1/tcp/1".to_owned()], 1_000);
        assert_eq!(book.take_news(|_| true), vec![record(1, 1_000, 1)]);
        book.state(&secret(1), &["/ip4/192.0.2.1/tcp/1".to_owned()], 2_000);
        assert!(!book.has_news(), "nothing changed");
        book.state(&secret(1), &["/ip4/192.0.2.1/tcp/2".to_owned()], 10);
        assert_eq!(book.take_news(|_| true), vec![record(1, 1_001, 2)]);
        // What an earlier life of ours said.
        assert!(!taken(&mut book, &record(1, 5_000, 9)));
        assert!(book.outdated());
        book.state(&secret(1), &["/ip4/192.0.2.1/tcp/2".to_owned()], 20);
        assert_eq!(book.take_news(|_| true), vec![record(1, 5_001, 2)]);
        assert!(!book.outdated());
    }

    #[test]
    fn of_those_who_are_not_members_little_is_kept_and_nothing_handed_on() {
        let mut book = book();
        for seed in 2..200 {
            book.take(&record(seed, 1, 1), |_| false).expect("genuine");
        }
        assert_eq!(book.others.len(), STRANGERS_MAX);
        assert!(book.all(|_| false).is_empty());
        assert!(book.take_news(|_| false).is_empty());
    }

    #[test]
    fn a_message_holds_what_fits_and_too_much_is_refused() {
        let records = vec![record(2, 1, 1), record(3, 2, 2)];
        assert_eq!(unpack(&pack(&records)), Ok(records));
        assert_eq!(unpack(&pack(&[])), Ok(Vec::new()));
        let large = vec![vec![7; RECORD_BYTES_MAX]; RECORDS_MAX];
        let packed = pack(&large);
        assert!(packed.len() <= MESSAGE_BYTES_MAX);
        assert!(unpack(&packed).is_ok_and(|records| records.len() > 40));
        for bad in [&[][..], &[1], &[0, 0], &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
            assert!(unpack(bad).is_err(), "{bad:?}");
        }
        let addresses: Vec<String> = (0..100).map(|n| format!("/dns/{}/tcp/{n}", "x".repeat(240))).collect();
        let longest = Record::make(&secret(2), 1, &addresses);
        assert_eq!(longest.addresses.len(), ADDRESSES_MAX);
        assert!(longest.bytes.len() <= RECORD_BYTES_MAX && taken(&mut book(), &longest.bytes));
    }
}
