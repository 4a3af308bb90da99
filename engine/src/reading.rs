//! Reading frames: what can be made of a frame's bytes without the state, wherever and whenever that is done, and what the
//! state machine makes of it then.
//!
//! A driver that has frames to wait for anyway may read the next ones on another thread while the engine is busy with one:
//! [`Engine::reader`] gives what reads, [`Input::Read`](crate::io::Input::Read) takes what was read.
//!
//! Invariants: only a [`FrameReader`] makes a [`ReadFrame`], and nobody can change one, so what it says of a signature has been
//! verified; that is a fact about bytes and a key, and whose key counts, whether a peer may speak and what is applied is
//! for the state alone to say, when the frame is handed in; a frame that was read ahead leads to the same outputs as
//! one that was not, however old the reader (`engine/tests/reading.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::Engine;
use crate::identity::{AccountId, DeviceCert, DeviceId, PeerKey, Verifiers};
use crate::marks::mark;
use crate::peer::Peer;
use crate::statement::NO_SIG;
use crate::store::{StoreError, StoreRead};
use crate::time::Now;
use crate::wire::columns::HashedCommit;
use crate::wire::frame::FrameError;
use crate::wire::message::{Fault, Message, Run, parse_parts};
use crate::wire::packed::PackedColumns;

/// Damaged frames in a row after which a peer is cut off.
const DAMAGED_MAX: u32 = 64;

/// Reads frames as the engine does, and needs no engine for it: a copy of what it takes, from when [`Engine::reader`] gave it.
#[derive(Debug, Clone)]
pub struct FrameReader {
    account: AccountId,
    members: Arc<BTreeMap<DeviceId, DeviceCert>>,
}

/// A frame that was read: inflated, decoded and hashed, and its signatures verified as far as their authors were known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFrame {
    account: AccountId,
    bytes: usize,
    content: Result<Box<Content>, FrameError>,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    session: u32,
    message: Message,
    columns: Option<PackedColumns>,
    /// By run, as far as that was looked at.
    checked: Vec<Option<Checked>>,
}

/// Whether the last commit of a run is signed with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) author: PeerKey,
    pub(crate) signed: bool,
}

impl ReadFrame {
    /// Its length as it came, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads a frame and leaves its signatures for when it is known which of them matter.
    fn parse(bytes: &[u8], account: &AccountId) -> ReadFrame {
        let content = parse_parts(bytes, account).map(|(session, message, columns)| Content {
            session,
            message,
            columns,
            checked: Vec::new(),
        });
        ReadFrame { account: *account, bytes: bytes.len(), content: content.map(Box::new) }
    }
}

impl FrameReader {
    /// Reads a frame. The work and the memory are bounded as they are in the engine.
    pub fn read(&self, bytes: &[u8]) -> ReadFrame {
        let mut frame = ReadFrame::parse(bytes, &self.account);
        if let Ok(content) = &mut frame.content
            && let Message::Ops(ops) = &content.message
        {
            content.checked = self.check(&ops.runs);
        }
        frame
    }

    /// Verifies signatures up to the first that is wrong: behind that one hardly any run will be looked at.
    fn check(&self, runs: &[Run<HashedCommit>]) -> Vec<Option<Checked>> {
        let (mut introduced, mut verifiers) = (BTreeMap::new(), Verifiers::default());
        let mut all = Vec::with_capacity(runs.len());
        for run in runs {
            let checked = self.author(run, &mut introduced).and_then(|author| {
                let last = run.commits.last().filter(|_| run.sig != NO_SIG)?;
                let signed = verifiers.verify_commit(&self.account, &author, &last.hash, &run.sig);
                Some(Checked { author, signed })
            });
            all.push(checked);
            if checked.is_some_and(|checked| !checked.signed) {
                break;
            }
        }
        all
    }

    /// Who most likely signed a run: the device as a member, or as a run of this frame introduces it.
    fn author(
        &self,
        run: &Run<HashedCommit>,
        introduced: &mut BTreeMap<DeviceId, PeerKey>,
    ) -> Option<PeerKey> {
        let first = &run.commits.first()?.commit;
        let device = first.dot.replica.device;
        if let Some(cert) = &first.introduces {
            introduced.insert(device, cert.key);
        }
        self.members.get(&device).map(|cert| cert.key).or_else(|| introduced.get(&device).copied())
    }
}

impl Engine {
    /// What reads frames for this engine. One that was given earlier does as well, and leaves more to the engine.
    pub fn reader(&self) -> FrameReader {
        FrameReader { account: self.state.account, members: Arc::clone(&self.state.members) }
    }

    /// Whether frames of a peer may be read before their turn comes: only a session gives a right to that much work.
    pub fn reads_ahead(&self, peer: &PeerKey) -> bool {
        self.peers.get(peer).is_some_and(Peer::ready)
    }

    pub(crate) fn frame(
        &mut self,
        now: Now,
        key: PeerKey,
        bytes: &[u8],
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        if !self.peers.contains_key(&key) {
            return Ok(());
        }
        self.read_frame(now, key, ReadFrame::parse(bytes, &self.state.account), store)
    }

    pub(crate) fn read_frame(
        &mut self,
        now: Now,
        key: PeerKey,
        frame: ReadFrame,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        assert_eq!(frame.account, self.state.account, "a frame is read for the account of its engine");
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        peer.traffic.frames_received += 1;
        peer.traffic.bytes_received += frame.bytes as u64;
        let content = match frame.content {
            Ok(content) => *content,
            Err(error) => {
                self.unreadable(now, key, error);
                return Ok(());
            }
        };
        peer.damaged = 0;
        match content.message {
            Message::Hello(hello) => self.on_hello(now, key, content.session, &hello, store)?,
            Message::Error(error) => self.on_error(now, key, &error),
            _ if peer.theirs != Some(content.session) => {
                mark!(StaleFrame);
                peer.traffic.frames_dropped += 1;
            }
            Message::Ops(ops) => {
                self.heard(now, key);
                self.on_ops(now, key, ops, (content.columns, content.checked), store)?;
            }
            message => {
                self.heard(now, key);
                self.message(now, key, message, store)?;
            }
        }
        Ok(())
    }

    fn unreadable(&mut self, now: Now, key: PeerKey, error: FrameError) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match error {
            FrameError::Damaged => {
                // The network's doing, not the peer's, until it happens all the time.
                mark!(DamagedFrame);
                peer.damaged += 1;
                peer.traffic.frames_dropped += 1;
                if peer.damaged > DAMAGED_MAX {
                    mark!(DamagedTooOften);
                    self.fault(now, key, Fault::Protocol, "too many damaged frames");
                }
            }
            FrameError::Version { .. } => {
                mark!(OtherVersion);
                self.fault(now, key, Fault::Version, &error.to_string());
            }
            _ => {
                mark!(MalformedFrame);
                self.fault(now, key, Fault::Protocol, &error.to_string());
            }
        }
    }
}
