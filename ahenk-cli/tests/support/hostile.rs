//! Somebody hostile: a process that has the files of devices, or keys of its own, and says to a daemon what it likes.

#![allow(dead_code)]

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::commit::{Commit, Op, OpKind};
use engine::hlc::Hlc;
use engine::identity::{AccountId, DeviceCert, Identity, PeerKey, SecretKey, Sig};
use engine::name::{FieldName, RowKey, TableName};
use engine::testing::Author;
use engine::transport::{Transport as _, TransportEvent, TrySendError};
use engine::value::Value;
use engine::wire::message::{Control, Fault, Hello, Message, Ops, Run, pack_control, pack_ops, parse};
use tokio::time::timeout;
use transport_libp2p::{Libp2pConfig, Libp2pTransport};

use crate::support::{Device, WAIT_MAX};

pub(crate) const SESSION: u32 = 77;

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal") as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// What a file of a home holds behind its title.
pub(crate) fn stolen(device: &Device, file: &str) -> Vec<u8> {
    let text = fs::read_to_string(device.home.join(file)).expect("text");
    unhex(text.trim_end().rsplit(' ').next().expect("digits"))
}

pub(crate) fn cert(device: &Device) -> DeviceCert {
    postcard::from_bytes(&stolen(device, "device.cert")).expect("a certificate")
}

/// Everything a device has: to play it, or for somebody who stole it.
pub(crate) fn identity(device: &Device) -> Identity {
    let key: [u8; 32] = stolen(device, "device.key").try_into().expect("32 bytes");
    Identity::new(SecretKey::from_bytes(&key), cert(device)).expect("they fit")
}

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

pub(crate) fn hello(author: &Author, cert: DeviceCert) -> Vec<u8> {
    let hello = Hello {
        minor: 0,
        features: 0,
        cert,
        replica: author.replica,
        echo: 0,
        digest: [0; 16],
        heads_digest: [0; 16],
    };
    pack_control(SESSION, &Control::Hello(Box::new(hello))).expect("it fits")
}

/// A commit that puts one row.
pub(crate) fn put(author: &mut Author, row: &str) -> (Commit, Sig) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis() as u64;
    let op = Op {
        table: TableName::new("t").expect("a name"),
        row: RowKey::new(row).expect("a key"),
        kind: OpKind::Put,
        fields: [(FieldName::new("x").expect("a name"), Value::Int(1))].into(),
    };
    author.commit(Hlc::new(now, 0), Default::default(), vec![op])
}

/// One run, signed as it says.
pub(crate) fn push_run(commits: Vec<Commit>, sig: Sig) -> Vec<u8> {
    pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs: vec![Run { commits, sig }] })
        .expect("it fits")
}

pub(crate) fn push(commits: Vec<(Commit, Sig)>) -> Vec<u8> {
    let runs = commits.into_iter().map(|(commit, sig)| Run { commits: vec![commit], sig }).collect();
    pack_ops(SESSION, &Ops { want: 0, offset: 0, done: true, runs }).expect("it fits")
}

/// A session with a daemon that thinks what it likes of us.
pub(crate) struct Attacker {
    pub(crate) transport: Libp2pTransport,
    pub(crate) victim: PeerKey,
    pub(crate) account: AccountId,
    pub(crate) said: Vec<Message>,
}

impl Attacker {
    pub(crate) async fn call(secret: SecretKey, victim: &Device) -> Attacker {
        let DeviceCert { key, account, .. } = cert(victim);
        let mut config = Libp2pConfig::new(secret, "a topic that only members know");
        config.listen.clear();
        (config.mdns, config.members) = (false, vec![key]);
        let transport = Libp2pTransport::spawn(config).await.expect("the network");
        let address = victim.status()["listening"][0].as_str().expect("an address").to_owned();
        let found = transport.control().dial(&address).await.expect("it is there");
        assert_eq!(found, key);
        let mut attacker = Attacker { transport, victim: key, account, said: Vec::new() };
        while !matches!(attacker.next().await, TransportEvent::PeerUp { .. }) {}
        attacker
    }

    /// A session that a member has begun, with its own key.
    pub(crate) async fn member(author: &Author, victim: &Device) -> Attacker {
        let mut attacker = Attacker::call(author.identity.secret.clone(), victim).await;
        attacker.send(hello(author, author.identity.cert.clone()));
        attacker
    }

    /// The next event; what the daemon said is kept.
    pub(crate) async fn next(&mut self) -> TransportEvent {
        let event = timeout(WAIT_MAX, self.transport.next_event()).await.expect("in time").expect("open");
        if let TransportEvent::Frame { bytes, .. } = &event {
            self.said.push(parse(bytes, &self.account).expect("a message").1);
        }
        event
    }

    pub(crate) fn send(&mut self, frame: Vec<u8>) {
        self.transport.try_send(self.victim, frame).expect("there is room");
    }

    /// Sends frames one after the other, as fast as they are taken. It stops where the daemon ends the session.
    pub(crate) async fn send_all(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        for mut frame in frames {
            loop {
                match self.transport.try_send(self.victim, frame) {
                    Ok(()) => break,
                    Err(TrySendError::Gone(_)) => return,
                    Err(TrySendError::Full(back)) => frame = back,
                }
                let waiting = async {
                    while !matches!(self.transport.next_event().await, Some(TransportEvent::Writable { .. }))
                    {
                    }
                };
                timeout(WAIT_MAX, waiting).await.expect("it reads");
            }
        }
    }

    /// The first thing that the daemon says, from now on, about which `what` knows something.
    pub(crate) async fn hear<T>(&mut self, what: impl Fn(&Message) -> Option<T>) -> T {
        loop {
            match self.next().await {
                TransportEvent::Frame { .. } => {
                    if let Some(found) = self.said.last().and_then(&what) {
                        return found;
                    }
                }
                TransportEvent::PeerDown { reason, .. } => panic!("the session ended: {reason}"),
                _ => {}
            }
        }
    }

    /// Waits until the daemon ends the session; what it said, the faults among it, and why it ended.
    pub(crate) async fn end(&mut self) -> (Vec<Fault>, String) {
        let reason = loop {
            if let TransportEvent::PeerDown { reason, .. } = self.next().await {
                break reason;
            }
        };
        let faults = self.said.iter().filter_map(|message| match message {
            Message::Error(error) => Some(error.fault),
            _ => None,
        });
        (faults.collect(), reason)
    }

    /// Only who it is, and that it does not want us.
    pub(crate) fn assert_nothing_told(&self) {
        let harmless =
            |message: &Message| matches!(message, Message::Hello(_) | Message::Error(_) | Message::Bye(_));
        assert!(self.said.iter().all(harmless), "{:?}", self.said);
    }
}

/// The state that no attack may change.
pub(crate) fn state(device: &Device) -> serde_json::Value {
    let status = device.status();
    let devices = device.json(&["device", "list"]).json();
    // When one was seen last may change.
    let who = |device: &serde_json::Value| ["id", "name", "admin", "revoked"].map(|key| device[key].clone());
    serde_json::json!([
        status["digest"],
        status["position"],
        status["forks"],
        devices.as_array().expect("a list").iter().map(who).collect::<Vec<_>>(),
        device.json(&["quarantine", "list"]).ok().stdout,
    ])
}
