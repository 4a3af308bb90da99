//! Records of addresses as devices tell each other of them in `/ahenk/addresses/1`.

use std::collections::BTreeMap;

use engine::identity::{PeerKey, SecretKey};

use crate::tape::Tape;
use crate::whereabouts::{ADDRESSES_MAX, MESSAGE_BYTES_MAX, RECORDS_MAX, Record, Whereabouts, pack, unpack};

/// Devices: the first is the one that is fuzzed, the last ones are not members.
const DEVICES: usize = 24;
const MEMBERS: usize = 5;

fn secret(n: usize) -> SecretKey {
    SecretKey::from_bytes(&[n as u8 + 1; 32])
}

fn member(key: &PeerKey) -> bool {
    (0..MEMBERS).any(|n| PeerKey(secret(n).public()) == *key)
}

fn addresses(tape: &mut Tape<'_>) -> Vec<String> {
    let address = |tape: &mut Tape<'_>| match tape.u8() {
        0 => "x".repeat(300),
        port => format!("/ip4/10.0.0.1/tcp/{port}"),
    };
    (0..tape.below(20)).map(|_| address(tape)).collect()
}

/// The device that is fuzzed, and what it must know: the newest genuine record of each.
struct Book {
    book: Whereabouts,
    newest: BTreeMap<PeerKey, u64>,
}

impl Book {
    /// What comes in a message, of which `genuine` says whether it is the record of somebody.
    fn take(&mut self, bytes: &[u8], genuine: Option<(PeerKey, u64)>) {
        let local = PeerKey(secret(0).public());
        let before = self.book.all(member);
        let taken = self.book.take(bytes, member).map(|news| news.cloned());
        match (genuine, taken) {
            (Some((key, at_ms)), Ok(Some(news))) => {
                assert_eq!((news.key, news.at_ms), (key, at_ms));
                assert!(news.addresses.len() <= ADDRESSES_MAX && key != local);
                assert!(self.newest.get(&key).is_none_or(|known| *known < at_ms) || !member(&key));
                self.newest.insert(key, at_ms);
            }
            (Some((key, at_ms)), Ok(None)) => {
                let stale = self.newest.get(&key).is_some_and(|known| *known >= at_ms);
                assert!(stale || key == local, "news of a member was passed over");
                assert_eq!(before, self.book.all(member));
            }
            (Some(_), Err(error)) => panic!("a genuine record was refused: {error}"),
            (None, Ok(Some(news))) => panic!("a record was believed that nobody signed: {news:?}"),
            (None, _) => assert_eq!(before, self.book.all(member)),
        }
    }

    /// What is told to others is what they can read, of members only.
    fn tell(&mut self, news: bool) {
        let told = if news { self.book.take_news(member) } else { self.book.all(member) };
        assert!(told.len() <= RECORDS_MAX + 1);
        let message = pack(&told);
        assert!(message.len() <= MESSAGE_BYTES_MAX);
        let told = unpack(&message).expect("what was packed");
        // As a device reads it that is none of these.
        let mut other = Whereabouts::new(PeerKey(secret(DEVICES).public()));
        for record in told {
            let read = other.take(&record, |_| true).expect("a genuine record").cloned();
            assert!(read.is_some_and(|read| member(&read.key)));
        }
    }
}

/// A script of records that come, good, damaged and made up, of messages, and of what this device says itself.
pub fn addresses_told(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut book = Book { book: Whereabouts::new(PeerKey(secret(0).public())), newest: BTreeMap::new() };
    while !tape.is_empty() {
        match tape.u8() % 8 {
            0..=2 => {
                let (who, at_ms) = (secret(tape.below(DEVICES)), tape.u64());
                let bytes = Record::make(&who, at_ms, &addresses(&mut tape)).bytes;
                book.take(&bytes, Some((PeerKey(who.public()), at_ms)));
            }
            3 => {
                let who = secret(tape.below(DEVICES));
                let mut bytes = Record::make(&who, tape.u64(), &addresses(&mut tape)).bytes;
                let good = bytes.clone();
                tape.damage(&mut bytes);
                if bytes != good {
                    book.take(&bytes, None);
                }
            }
            4 => book.take(tape.bytes(), None),
            5 => {
                let message = tape.bytes();
                if let Ok(records) = unpack(message) {
                    assert!(records.len() <= RECORDS_MAX);
                    assert_eq!(pack(&records), message);
                    records.iter().for_each(|record| book.take(record, None));
                }
            }
            6 => {
                let (now_ms, addresses) = (tape.u64(), addresses(&mut tape));
                book.book.state(&secret(0), &addresses, now_ms);
            }
            choice => book.tell(choice == 7 && tape.flag()),
        }
    }
    book.tell(false);
}
