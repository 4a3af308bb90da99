//! The inviter's side: shows a code, answers the devices that call, asks the user, admits one.
//!
//! Invariants: one offer at a time, for its five minutes and three attempts at most; when the call
//! ends or is cancelled, so does the offer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahenk::SystemClock;
use engine::identity::{DeviceCert, DeviceId, PeerKey};
use engine::io::Event;
use engine::pairing::{
    ADDRESSES_MAX, Invitation, InviterEvent, InviterSession, OFFER_MS, OTHERS_MAX, Offer, OfferState,
    PairingError, Terms, Turn,
};
use engine::time::Clock as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use transport_libp2p::{Libp2pControl, PairChannel, PairListenError, RelayDetails};

use super::pairing_error;
use crate::addresses::over_ipv6;
use crate::error::{CliError, Kind, Result, closed};
use crate::secrets;
use crate::service::{Caller, Context};

/// Time in which the new device must come nearer to knowing all that we know.
const FIRST_SYNC_STEP: Duration = Duration::from_secs(30);
/// How long to wait for a relay to serve this device.
const RELAY_TIME_MAX: Duration = Duration::from_secs(5);
/// Most such times.
const FIRST_SYNC_STEPS_MAX: u32 = 20;
/// Most addresses in the long form of a code, where none are asked for.
const CODE_ADDRESSES_MAX: usize = 4;

/// What happens while an offer stands. With `--json` each is a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum InviteStep {
    /// The code to tell the other device's user.
    Code {
        /// Enough on a network where the devices find each other.
        code: String,
        /// The same with addresses.
        long_code: String,
        /// How long it is good for, in milliseconds.
        expires_in_ms: u64,
    },
    /// A device knew the code: admit it? Awaits an answer.
    Confirm {
        /// The name that it wishes to have.
        name: String,
        /// Its id.
        id: String,
        /// The fingerprint of its key.
        fingerprint: String,
        /// Whether another device has that name already.
        same_name: bool,
    },
    /// An attempt that admitted nobody.
    Attempt {
        /// Why.
        reason: String,
        /// How many more may be made.
        attempts_left: u32,
    },
    /// The device is one of the account's now.
    Admitted {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
        /// Whether another device has that name already.
        same_name: bool,
    },
    /// The end: whether the new device has all that this one has.
    Finished {
        /// False if it stopped making progress.
        synced: bool,
    },
}

/// A question for the user.
struct Ask {
    step: InviteStep,
    reply: oneshot::Sender<bool>,
}

/// How a conversation ended.
enum Outcome {
    Admitted(Box<DeviceCert>, PairChannel),
    Failed(PairingError),
    /// The connection failed, or whatever it was at the other end said nothing.
    Lost,
}

/// The offer, shared by the conversations about it.
#[derive(Clone)]
struct Desk {
    offer: Arc<Mutex<Offer>>,
    clock: SystemClock,
    /// The names of the account's devices.
    names: Arc<BTreeSet<String>>,
    asks: mpsc::Sender<Ask>,
}

impl Desk {
    fn offer(&self) -> MutexGuard<'_, Offer> {
        // A panic of the engine ends that one conversation; the offer's counts stay right.
        self.offer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds on our monotonic clock.
    fn now_ms(&self) -> u64 {
        self.clock.now().mono.0 / 1000
    }

    fn state(&self) -> OfferState {
        self.offer().state(self.now_ms())
    }
}

/// What [`crate::protocol::Request::Invite`] asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) ask: bool,
    pub(crate) admin: bool,
    pub(crate) addresses: Vec<String>,
    pub(crate) lifetime_ms: Option<u64>,
}

/// Carries out [`crate::protocol::Request::Invite`].
pub(crate) async fn invite(context: &Context, wanted: Wanted, caller: &mut Caller) -> Result<()> {
    let addresses = &wanted.addresses;
    if let Some(bad) = addresses.iter().find(|address| !looks_dialable(address)) {
        return Err(CliError::usage(format!("{bad:?} is not an address that can be called"))
            .hint("as in --address /dns4/home.example.org/tcp/4001, or /ip4/192.0.2.7/udp/4001/quic-v1"));
    }
    let net = context.net()?;
    let mut listener = net.pair_listen().await.map_err(listen_error)?;
    relay_ready(net).await?;
    let listening = net.listen_addresses().await?;
    let (asks, mut asked) = mpsc::channel(1);
    let clock = SystemClock::new();
    let members = context.db.status().await.ok_or_else(closed)?.members;
    let names = Arc::new(members.iter().map(|cert| cert.name.clone()).collect());
    let offer = make_offer(context, &wanted, &clock, &listening, members)?;
    let desk = Desk { offer: Arc::new(Mutex::new(offer)), clock, names, asks };
    let code = show_code(&desk, addresses, &listening)?;
    caller.item(code).await?;
    let mut events = context.db.events();
    let mut talks = JoinSet::new();
    loop {
        let left = Duration::from_millis(desk.offer().deadline_ms().saturating_sub(desk.now_ms()));
        tokio::select! {
            channel = listener.accept() => {
                let channel = channel.ok_or_else(closed)?;
                let session = desk.offer().session(channel.remote());
                talks.spawn(talk(desk.clone(), session, channel));
            }
            Some(ask) = asked.recv() => put(ask, caller).await?,
            Some(ended) = talks.join_next() => match ended.unwrap_or(Outcome::Lost) {
                Outcome::Admitted(cert, channel) => {
                    let same_name = desk.names.contains(&cert.name);
                    return admitted(context, *cert, same_name, channel, &mut events, caller).await;
                }
                Outcome::Failed(error) => report_failure(&desk, error, talks.is_empty(), caller).await?,
                Outcome::Lost => {
                    give_up(&desk, talks.is_empty())?;
                    tracing::info!("a device called for pairing and went away");
                }
            },
            () = tokio::time::sleep(left), if talks.is_empty() => {
                return Err(pairing_error(PairingError::Expired));
            }
        }
    }
}

/// Waits until a relay serves this device, or says why not: right after the start, the code would lack its address.
async fn relay_ready(net: &Libp2pControl) -> Result<()> {
    let asked = async {
        loop {
            let relays = net.relays().await?;
            let settled = |relay: &RelayDetails| relay.reserved || relay.failures > 0;
            if relays.iter().all(settled) || relays.iter().any(|relay| relay.reserved) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(RELAY_TIME_MAX, asked).await.unwrap_or(Ok(()))
}

fn make_offer(
    context: &Context,
    wanted: &Wanted,
    clock: &SystemClock,
    listening: &[String],
    members: Vec<DeviceCert>,
) -> Result<Offer> {
    let Some(root) = context.root() else {
        let admins: Vec<&str> =
            members.iter().filter(|cert| cert.admin).map(|cert| cert.name.as_str()).collect();
        return Err(CliError::new(Kind::NotAuthorised, "only an administrator device can invite")
            .hint(format!("run this on {}", admins.join(" or "))));
    };
    let inviter = context.identity.cert.clone();
    let others = members.into_iter().filter(|cert| cert.key != inviter.key).take(OTHERS_MAX).collect();
    let mut reachable = wanted.addresses.clone();
    reachable.extend(far_first(listening));
    reachable.truncate(ADDRESSES_MAX);
    let terms = Terms { root, inviter, others, addresses: reachable, admin: wanted.admin, ask: wanted.ask };
    let now = clock.now();
    Offer::new(terms, *secrets::random::<32>()?, now.mono.0 / 1000, now.wall.0)
        .map(|offer| offer.lasting(wanted.lifetime_ms.unwrap_or(OFFER_MS)))
        .map_err(|error| CliError::usage(error).hint("check the addresses given with --address"))
}

fn show_code(desk: &Desk, addresses: &[String], listening: &[String]) -> Result<InviteStep> {
    let offer = desk.offer();
    let far: Vec<String> = far_first(listening).filter(|address| !loopback(address)).collect();
    let shown = match (addresses.is_empty(), far.is_empty()) {
        (false, _) => addresses.to_vec(),
        (true, false) => of_both(far),
        (true, true) => listening.iter().take(CODE_ADDRESSES_MAX).cloned().collect(),
    };
    let long = Invitation::new(offer.code().clone(), shown)
        .map_err(|error| CliError::usage(error).hint("check the addresses given with --address"))?;
    Ok(InviteStep::Code {
        code: offer.code().reveal().to_string(),
        long_code: long.reveal().to_string(),
        expires_in_ms: offer.deadline_ms().saturating_sub(desk.now_ms()),
    })
}

/// A first look at what a user typed; the joiner's transport reads it in full.
fn looks_dialable(address: &str) -> bool {
    let parts: Vec<&str> = address.split('/').collect();
    let port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    match parts.as_slice() {
        ["", _, host, "tcp", number, rest @ ..] | ["", _, host, "udp", number, "quic-v1", rest @ ..] => {
            !host.is_empty() && port(number) && matches!(rest, [] | ["p2p", _])
        }
        _ => false,
    }
}

fn loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

/// Addresses that reach beyond this machine, then the others.
fn far_first(listening: &[String]) -> impl Iterator<Item = String> {
    let far = listening.iter().filter(|address| !loopback(address));
    far.chain(listening.iter().filter(|address| loopback(address))).cloned()
}

/// As many addresses as a code holds, of IPv4 and IPv6 where there are both: a machine may have many of one kind.
fn of_both(addresses: Vec<String>) -> Vec<String> {
    let (six, four): (Vec<String>, Vec<String>) =
        addresses.into_iter().partition(|address| over_ipv6(address));
    let four_max = CODE_ADDRESSES_MAX - six.len().min(CODE_ADDRESSES_MAX / 2);
    four.into_iter().take(four_max).chain(six).take(CODE_ADDRESSES_MAX).collect()
}

fn listen_error(error: PairListenError) -> CliError {
    match error {
        PairListenError::AlreadyListening => {
            CliError::new(Kind::Conflict, "another invitation is open on this device")
                .hint("use its code, or interrupt the `device invite` that waits")
        }
        PairListenError::TransportClosed => closed(),
    }
}

/// Puts a question to the user; it lapses if the device goes away or time is up.
async fn put(mut ask: Ask, caller: &mut Caller) -> Result<()> {
    caller.item(&ask.step).await?;
    let answer = tokio::select! {
        answer = caller.answer() => Some(answer?),
        () = ask.reply.closed() => None,
    };
    if let Some(answer) = answer {
        // If it lapsed just now, the conversation's end says so.
        let _ = ask.reply.send(answer);
    }
    Ok(())
}

async fn report_failure(desk: &Desk, error: PairingError, alone: bool, caller: &Caller) -> Result<()> {
    tracing::info!(%error, "a device was not admitted");
    if desk.state() == OfferState::Used {
        return Err(pairing_error(error));
    }
    let attempts_left = match desk.state() {
        OfferState::Open { attempts_left } => attempts_left,
        _ => 0,
    };
    caller.item(InviteStep::Attempt { reason: error.to_string(), attempts_left }).await?;
    give_up(desk, alone)
}

/// An error if nobody can be admitted by this offer any more.
fn give_up(desk: &Desk, alone: bool) -> Result<()> {
    match desk.state() {
        OfferState::Open { .. } => Ok(()),
        _ if !alone => Ok(()),
        OfferState::Exhausted => Err(pairing_error(PairingError::TooManyAttempts)),
        OfferState::Expired => Err(pairing_error(PairingError::Expired)),
        OfferState::Used => Err(CliError::new(
            Kind::Network,
            "the device that knew the code went away before it was admitted",
        )
        .hint("`ahenk-cli device invite` makes a new code")),
    }
}

/// Holds one conversation to its end.
async fn talk(desk: Desk, mut session: InviterSession, mut channel: PairChannel) -> Outcome {
    loop {
        let turn = match timeout(remaining(&desk, &session), channel.recv()).await {
            Ok(Ok(frame)) => session.handle(&mut desk.offer(), desk.now_ms(), &frame),
            Ok(Err(_)) => return Outcome::Lost,
            Err(_) => session.expire(&desk.offer(), desk.now_ms()),
        };
        let Ok(event) = perform(turn, &mut channel).await else { return Outcome::Lost };
        let event = match event {
            Some(InviterEvent::Confirm { name, fingerprint }) => {
                let id = session.remote().device().to_string();
                let same_name = desk.names.contains(&name);
                let step = InviteStep::Confirm { name, id, fingerprint, same_name };
                let turn = confirm(&desk, &mut session, &mut channel, step).await;
                match perform(turn, &mut channel).await {
                    Ok(event) => event,
                    Err(()) => return Outcome::Lost,
                }
            }
            event => event,
        };
        match event {
            Some(InviterEvent::Admitted(cert)) => return Outcome::Admitted(Box::new(cert), channel),
            Some(InviterEvent::Failed(error)) => {
                channel.finish().await;
                return Outcome::Failed(error);
            }
            _ if session.ended() => return Outcome::Lost,
            _ => {}
        }
    }
}

/// Sends what a turn wants sent; the event that follows it.
async fn perform(turn: Turn<InviterEvent>, channel: &mut PairChannel) -> Result<Option<InviterEvent>, ()> {
    if let Some(frame) = turn.frame {
        channel.send(frame).await.map_err(|_| ())?;
    }
    Ok(turn.event)
}

fn remaining(desk: &Desk, session: &InviterSession) -> Duration {
    let deadline_ms = session.deadline_ms(&desk.offer()).unwrap_or(0);
    Duration::from_millis(deadline_ms.saturating_sub(desk.now_ms()))
}

/// Waits for the user's answer, or until the device says or does something else.
async fn confirm(
    desk: &Desk,
    session: &mut InviterSession,
    channel: &mut PairChannel,
    step: InviteStep,
) -> Turn<InviterEvent> {
    let (reply, answer) = oneshot::channel();
    let asking = async {
        desk.asks.send(Ask { step, reply }).await.ok()?;
        answer.await.ok()
    };
    tokio::select! {
        answer = timeout(remaining(desk, session), asking) => match answer {
            // An answer that cannot come any more is a no.
            Ok(answer) => session.confirm(&mut desk.offer(), desk.now_ms(), answer.unwrap_or(false)),
            Err(_) => session.expire(&desk.offer(), desk.now_ms()),
        },
        frame = channel.recv() => match frame {
            Ok(frame) => session.handle(&mut desk.offer(), desk.now_ms(), &frame),
            // Sending will fail as well, which ends the conversation.
            Err(_) => session.confirm(&mut desk.offer(), desk.now_ms(), false),
        },
    }
}

async fn admitted(
    context: &Context,
    cert: DeviceCert,
    same_name: bool,
    channel: PairChannel,
    events: &mut broadcast::Receiver<Event>,
    caller: &Caller,
) -> Result<()> {
    let (name, key): (_, PeerKey) = (cert.name.clone(), cert.key);
    context.db.add_members(vec![cert]).await;
    tracing::info!(%name, id = %key.device(), "admitted a device");
    caller.item(InviteStep::Admitted { name, id: key.device().to_string(), same_name }).await?;
    channel.finish().await;
    let synced = first_sync(context, key, events).await;
    caller.item(InviteStep::Finished { synced }).await
}

/// Waits until the new device knows what we know, for as long as it makes progress.
async fn first_sync(context: &Context, key: PeerKey, events: &mut broadcast::Receiver<Event>) -> bool {
    let mut lacked = u64::MAX;
    for _ in 0..FIRST_SYNC_STEPS_MAX {
        if let Ok(synced) = timeout(FIRST_SYNC_STEP, in_sync(key.device(), events)).await {
            return synced;
        }
        let Some(status) = context.db.status().await else { return false };
        let lacks = status.stats.peers.iter().find(|peer| peer.peer == key).map(|peer| peer.behind);
        match lacks {
            Some(lacks) if lacks < lacked => lacked = lacks,
            _ => return false,
        }
    }
    false
}

/// Waits until the device knows what we know; false if the database closes before.
async fn in_sync(device: DeviceId, events: &mut broadcast::Receiver<Event>) -> bool {
    loop {
        match events.recv().await {
            Ok(Event::Synced { device: synced }) if synced == device => return true,
            Err(broadcast::error::RecvError::Closed) => return false,
            _ => {}
        }
    }
}
