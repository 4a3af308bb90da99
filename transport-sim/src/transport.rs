//! [`SimTransport`]: what the driver sees. The tasks behind it (`stream`, `datagram`) report through one bounded
//! channel; here their reports become events that keep the contract of [`Transport`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use engine::config::CONTROL_BYTES_MAX;
use engine::identity::PeerKey;
use engine::prng::Prng;
use engine::transport::{Path, PathKind, Transport, TransportEvent, TrySendError};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::framing::Packet;
use crate::{datagram, stream};

/// Reports that wait for the driver, at most.
const SIGNALS_MAX: usize = 256;

/// How frames travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Over one TCP connection for each pair; whole and in order.
    Stream,
    /// One frame in one UDP datagram; those may be lost, doubled and reordered.
    Datagram,
}

/// What a transport needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// This device's key.
    pub own: PeerKey,
    /// How frames travel.
    pub form: Form,
    /// The host names of devices; a key that was copied has several, of which one is up.
    pub directory: BTreeMap<PeerKey, Vec<String>>,
    /// The port of every device.
    pub port: u16,
    /// Drives the jitter of redialling.
    pub seed: u64,
    /// Packets that may wait for one peer.
    pub queue_max: usize,
    /// Silence after which a sign of life is sent, in milliseconds.
    pub alive_ms: u64,
    /// Silence after which a connection counts as dead, in milliseconds.
    pub silence_ms_max: u64,
    /// Time for connecting, for the transports' greeting, and for being admitted, in milliseconds each.
    pub handshake_ms_max: u64,
    /// First wait before dialling again, in milliseconds; doubles up to `redial_ms_max`.
    pub redial_ms: u64,
    /// Longest wait before dialling again, in milliseconds.
    pub redial_ms_max: u64,
}

impl Options {
    /// Defaults for a device.
    pub fn new(own: PeerKey, form: Form, directory: BTreeMap<PeerKey, Vec<String>>, seed: u64) -> Options {
        Options {
            own,
            form,
            directory,
            port: 4001,
            seed,
            queue_max: 64,
            alive_ms: 1_000,
            silence_ms_max: 5_000,
            handshake_ms_max: 3_000,
            redial_ms: 500,
            redial_ms_max: 8_000,
        }
    }
}

/// What the tasks report. Each session has a number, so that late reports of an earlier one are told apart.
#[derive(Debug)]
pub(crate) enum Signal {
    Up { peer: PeerKey, session: Session, address: String },
    Packet { peer: PeerKey, id: u64, packet: Packet },
    Writable { peer: PeerKey, id: u64 },
    Down { peer: PeerKey, id: u64, reason: &'static str },
}

/// The way to a connected peer.
#[derive(Debug)]
pub(crate) struct Session {
    id: u64,
    /// Whether the smaller key dialled. Always so for datagrams, which nobody dials.
    by_smaller: bool,
    /// `None` once it is being closed.
    outgoing: Option<mpsc::Sender<Packet>>,
    refused: Arc<AtomicBool>,
}

/// What the tasks of one transport share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    pub(crate) signals: mpsc::Sender<Signal>,
    pub(crate) members: watch::Receiver<BTreeSet<PeerKey>>,
    /// How many connections there are with whom.
    pub(crate) connected: watch::Sender<BTreeMap<PeerKey, u32>>,
    ids: Arc<AtomicU64>,
}

/// A connection that counts, until it is dropped.
pub(crate) struct Connected {
    connected: watch::Sender<BTreeMap<PeerKey, u32>>,
    peer: PeerKey,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.connected.send_modify(|connected| {
            let left = connected.get(&self.peer).map_or(0, |count| count - 1);
            if left == 0 {
                connected.remove(&self.peer);
            } else {
                connected.insert(self.peer, left);
            }
        });
    }
}

/// A session's end in its task.
#[derive(Debug)]
pub(crate) struct SessionEnd {
    pub(crate) peer: PeerKey,
    pub(crate) id: u64,
    pub(crate) outgoing: mpsc::Receiver<Packet>,
    refused: Arc<AtomicBool>,
    pub(crate) shared: Shared,
}

impl Shared {
    /// Begins a session. An error means that the transport is gone.
    pub(crate) async fn up(
        &self,
        peer: PeerKey,
        address: String,
        by_smaller: bool,
    ) -> Result<SessionEnd, ()> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (sender, outgoing) = mpsc::channel(self.options.queue_max);
        let refused = Arc::new(AtomicBool::new(false));
        let session = Session { id, by_smaller, outgoing: Some(sender), refused: Arc::clone(&refused) };
        self.signals.send(Signal::Up { peer, session, address }).await.map_err(|_| ())?;
        Ok(SessionEnd { peer, id, outgoing, refused, shared: self.clone() })
    }

    /// Counts a connection.
    pub(crate) fn connect(&self, peer: PeerKey) -> Connected {
        self.connected.send_modify(|connected| *connected.entry(peer).or_default() += 1);
        Connected { connected: self.connected.clone(), peer }
    }

    /// Numbers for one purpose, the same in each run.
    pub(crate) fn prng(&self, peer: &PeerKey) -> Prng {
        let mut seed = [0; 32];
        seed.copy_from_slice(&peer.0);
        for (byte, own) in seed.iter_mut().zip(self.options.own.0.iter().rev()) {
            *byte = byte.wrapping_mul(31) ^ own;
        }
        seed.iter_mut().zip(self.options.seed.to_be_bytes()).for_each(|(byte, of_seed)| *byte ^= of_seed);
        Prng::new(seed)
    }
}

impl SessionEnd {
    /// Says that there is room again, if a frame was refused meanwhile.
    pub(crate) async fn took_one(&self) {
        if self.refused.swap(false, Ordering::Relaxed) {
            let signal = Signal::Writable { peer: self.peer, id: self.id };
            // A transport that is gone needs no word.
            let _ = self.shared.signals.send(signal).await;
        }
    }
}

/// One rule for both forms: of a peer that is not a member, the first frame and no other, and that a short one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    frames: u64,
}

impl Gate {
    /// Whether a packet may pass.
    pub(crate) fn admits(&mut self, member: bool, packet: &Packet) -> bool {
        let Packet::Frame(bytes) = packet else { return member };
        self.frames += 1;
        member || self.frames == 1 && bytes.len() <= CONTROL_BYTES_MAX
    }
}

/// Has a device connect to a peer anew while their last connection seems open, as one does whose address has changed.
#[derive(Debug, Clone)]
pub struct Roamer(mpsc::UnboundedSender<PeerKey>);

impl Roamer {
    /// Connects to a peer anew. Datagrams know no connections: nothing happens then.
    pub fn connect_anew(&self, peer: PeerKey) {
        // A transport that is gone connects to nobody.
        let _ = self.0.send(peer);
    }
}

/// A device's network in the simulation. See the contract of [`Transport`].
#[derive(Debug)]
pub struct SimTransport {
    form: Form,
    signals: mpsc::Receiver<Signal>,
    members: watch::Sender<BTreeSet<PeerKey>>,
    sessions: BTreeMap<PeerKey, Session>,
    events: VecDeque<TransportEvent>,
    roamer: Roamer,
    task: AbortHandle,
}

impl SimTransport {
    /// Starts to listen, and to dial whoever becomes a member. Call it on a simulated machine.
    pub fn new(options: Options) -> SimTransport {
        let form = options.form;
        let (sender, signals) = mpsc::channel(SIGNALS_MAX);
        let (members, member_receiver) = watch::channel(BTreeSet::new());
        let (roamer, roams) = mpsc::unbounded_channel();
        let shared = Shared {
            options: Arc::new(options),
            signals: sender,
            members: member_receiver,
            connected: watch::channel(BTreeMap::new()).0,
            ids: Arc::default(),
        };
        let task = match form {
            Form::Stream => tokio::spawn(stream::run(shared, roams)).abort_handle(),
            Form::Datagram => tokio::spawn(datagram::run(shared)).abort_handle(),
        };
        let roamer = Roamer(roamer);
        let (sessions, events) = (BTreeMap::new(), VecDeque::new());
        SimTransport { form, signals, members, sessions, events, roamer, task }
    }

    /// Connects anew on demand.
    pub fn roamer(&self) -> Roamer {
        self.roamer.clone()
    }

    fn current(&self, peer: &PeerKey, id: u64) -> bool {
        self.sessions.get(peer).is_some_and(|session| session.id == id)
    }

    /// Whether a peer's present session is to be kept beside a new one.
    fn outranks(&self, peer: &PeerKey, newcomer: &Session) -> bool {
        let open = |session: &&Session| session.outgoing.is_some();
        let present = self.sessions.get(peer).filter(open);
        present.is_some_and(|session| session.by_smaller && !newcomer.by_smaller)
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            // Of two that were dialled from both sides, both sides keep the same. This one ends with its queue.
            Signal::Up { peer, session, .. } if self.outranks(&peer, &session) => drop(session),
            Signal::Up { peer, session, address } => {
                if self.sessions.insert(peer, session).is_some() {
                    let reason = "it connected anew".to_owned();
                    self.events.push_back(TransportEvent::PeerDown { peer, reason });
                }
                let kind = if self.form == Form::Stream { PathKind::DirectTcp } else { PathKind::DirectQuic };
                self.events.push_back(TransportEvent::PeerUp { peer, path: Path { kind, address } });
            }
            Signal::Packet { peer, id, packet } if self.current(&peer, id) => match packet {
                Packet::Frame(bytes) => self.events.push_back(TransportEvent::Frame { peer, bytes }),
                Packet::Broadcast(bytes) => {
                    self.events.push_back(TransportEvent::Broadcast { from: peer, bytes });
                }
                Packet::Alive | Packet::Bye => {}
            },
            Signal::Writable { peer, id } if self.current(&peer, id) => {
                self.events.push_back(TransportEvent::Writable { peer });
            }
            Signal::Down { peer, id, reason } if self.current(&peer, id) => {
                self.sessions.remove(&peer);
                self.events.push_back(TransportEvent::PeerDown { peer, reason: reason.to_owned() });
            }
            // Of an earlier session.
            Signal::Packet { .. } | Signal::Writable { .. } | Signal::Down { .. } => {}
        }
    }
}

impl Transport for SimTransport {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TransportEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            match ready!(self.signals.poll_recv(cx)) {
                Some(signal) => self.signal(signal),
                None => return Poll::Ready(None),
            }
        }
    }

    fn try_send(&mut self, peer: PeerKey, frame: Vec<u8>) -> Result<(), TrySendError> {
        let Some(session) = self.sessions.get(&peer) else { return Err(TrySendError::Gone(frame)) };
        let Some(outgoing) = &session.outgoing else { return Err(TrySendError::Gone(frame)) };
        let bytes = |packet| match packet {
            Packet::Frame(bytes) => bytes,
            _ => Vec::new(),
        };
        outgoing.try_send(Packet::Frame(frame)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(packet) => {
                session.refused.store(true, Ordering::Relaxed);
                TrySendError::Full(bytes(packet))
            }
            mpsc::error::TrySendError::Closed(packet) => TrySendError::Gone(bytes(packet)),
        })
    }

    fn broadcast(&mut self, frame: Vec<u8>) {
        for (peer, session) in &self.sessions {
            if let Some(outgoing) = &session.outgoing
                && self.members.borrow().contains(peer)
            {
                // Best effort.
                let _ = outgoing.try_send(Packet::Broadcast(frame.clone()));
            }
        }
    }

    fn disconnect(&mut self, peer: PeerKey, _: &str) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            // The task sends what is queued, then ends.
            session.outgoing = None;
        }
    }

    fn set_members(&mut self, members: &[PeerKey]) {
        let members: BTreeSet<PeerKey> = members.iter().copied().collect();
        let before = self.members.send_replace(members.clone());
        for peer in before.difference(&members) {
            self.disconnect(*peer, "it is no longer a member");
        }
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        self.task.abort();
    }
}
