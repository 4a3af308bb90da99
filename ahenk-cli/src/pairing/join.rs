//! The joiner's side: finds the inviter, proves that it knows the code, and puts the new home in place.
//!
//! Invariants: the home folder appears only after the device has been admitted, as a whole; a join
//! that fails leaves nothing behind; a wrong code is tried on one inviter only.

use std::time::Duration;

use ahenk::SystemClock;
use engine::identity::{Identity, PeerKey, SecretKey, hex};
use engine::pairing::{Invitation, Joined, Joiner, JoinerEvent, PairingCode, PairingError};
use engine::time::Clock as _;
use tokio::time::{timeout, timeout_at};
use transport_libp2p::{
    Libp2pConfig, Libp2pControl, Libp2pTransport, PairChannel, PairChannelError, PairConnectError,
};

use super::pairing_error;
use crate::addresses::Addresses;
use crate::config::Config;
use crate::error::{CliError, Kind, Result};
use crate::home::Home;
use crate::vault::Passphrase;
use crate::{secrets, session};

/// How long to look for an inviter on the local network.
const SEARCH_MAX: Duration = Duration::from_secs(60);
/// How long to go on looking when one was found that has another code open: two at a time are rare, a slip is not.
const SEARCH_MORE_MAX: Duration = Duration::from_secs(8);

/// What to join as.
#[derive(Debug)]
pub(crate) struct Joining<'a> {
    pub(crate) home: &'a Home,
    pub(crate) invitation: &'a Invitation,
    pub(crate) name: &'a str,
    pub(crate) config: &'a Config,
    /// Of the new home, if it is to be encrypted.
    pub(crate) passphrase: Option<&'a Passphrase>,
}

/// A device that was admitted.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    pub(crate) inviter: String,
}

/// Why one inviter did not admit us.
enum Refused {
    /// It has no such invitation: another one may.
    NoSuchOffer,
    Failed(CliError),
}

/// Pairs with an inviter and creates the home. `told` is told what happens, in words.
pub(crate) async fn join(joining: &Joining<'_>, told: impl Fn(&str)) -> Result<Found> {
    let building = joining.home.begin()?;
    let secret = secrets::new_key()?;
    let transport = spawn(joining.config, &secret).await?;
    let control = transport.control();
    let local = PeerKey(secret.public());
    let result = if joining.invitation.addresses().is_empty() {
        discover(joining, local, &control, &told).await
    } else {
        dial(joining, local, &control, &told).await
    };
    let listening = control.listen_addresses().await.unwrap_or_default();
    transport.close().await;
    let (joined, reached) = result?;
    let identity = Identity::new(secret, joined.cert).map_err(CliError::internal)?;
    let mut addresses = Addresses::default();
    addresses.listening(&listening);
    let mut known = joined.addresses;
    known.splice(0..0, reached);
    addresses.know(vec![(joined.inviter.key, known)]);
    let inviter = joined.inviter.name.clone();
    let mut members = joined.others;
    members.push(joined.inviter);
    if let Some(passphrase) = joining.passphrase {
        building.encrypt(passphrase)?;
    }
    session::create_store(building.home(), &identity, members)?;
    addresses.save(building.home())?;
    building.write(&identity, joined.root.as_ref(), joining.config)?;
    building.finish()?;
    Ok(Found { identity, inviter })
}

/// The network of a device that has no account yet: it can pair, and nothing else.
async fn spawn(config: &Config, secret: &SecretKey) -> Result<Libp2pTransport> {
    let topic = hex(&secrets::random::<16>()?[..]);
    let mut libp2p = Libp2pConfig::new(secret.clone(), topic);
    libp2p.listen = config.listen();
    libp2p.paths = config.paths();
    libp2p.mdns = config.mdns;
    Libp2pTransport::spawn(libp2p).await.map_err(|error| session::spawn_error(config, &error))
}

type Admission = (Joined, Vec<String>);

async fn dial(
    joining: &Joining<'_>,
    local: PeerKey,
    control: &Libp2pControl,
    told: &impl Fn(&str),
) -> Result<Admission> {
    let addresses = joining.invitation.addresses();
    told(&format!("Calling {}", addresses.join(", ")));
    let channel = control.pair_connect_any(addresses).await.map_err(connect_error)?;
    match converse(joining, local, channel, told).await {
        Ok(joined) => Ok((joined, addresses.to_vec())),
        Err(Refused::NoSuchOffer) => Err(pairing_error(PairingError::NoSuchOffer)),
        Err(Refused::Failed(error)) => Err(error),
    }
}

async fn discover(
    joining: &Joining<'_>,
    local: PeerKey,
    control: &Libp2pControl,
    told: &impl Fn(&str),
) -> Result<Admission> {
    if !joining.config.mdns {
        return Err(CliError::usage("without discovery, the short code does not say where the inviter is")
            .hint("use the long code that `device invite` shows"));
    }
    told("Looking for the inviting device on the local network");
    let mut candidates = control.pair_candidates().await?;
    let mut deadline = tokio::time::Instant::now() + SEARCH_MAX;
    let mut other = false;
    while let Ok(Some(candidate)) = timeout_at(deadline, candidates.recv()).await {
        let addresses = candidate.addresses.clone();
        let channel = match control.pair_connect_peer(candidate).await {
            Ok(channel) => channel,
            Err(error) => {
                tracing::info!(%error, "a device on the local network could not be called");
                continue;
            }
        };
        match converse(joining, local, channel, told).await {
            Ok(joined) => return Ok((joined, addresses)),
            Err(Refused::NoSuchOffer) if other => {}
            Err(Refused::NoSuchOffer) => {
                other = true;
                deadline = deadline.min(tokio::time::Instant::now() + SEARCH_MORE_MAX);
                told(
                    "A device was found whose invitation has another number; looking whether there is one more",
                );
            }
            Err(Refused::Failed(error)) => return Err(error),
        }
    }
    if other {
        return Err(pairing_error(PairingError::NoSuchOffer));
    }
    Err(CliError::new(Kind::Network, "no inviting device was found on the local network")
        .hint("is `device invite` waiting there, on the same network? If so, use its long code"))
}

async fn converse(
    joining: &Joining<'_>,
    local: PeerKey,
    mut channel: PairChannel,
    told: &impl Fn(&str),
) -> Result<Joined, Refused> {
    let code: &PairingCode = joining.invitation.code();
    let clock = SystemClock::new();
    let now_ms = || clock.now().mono.0 / 1000;
    let seed = secrets::random::<32>().map_err(Refused::Failed)?;
    let (mut joiner, first) = Joiner::start(code, local, channel.remote(), joining.name, *seed, now_ms())
        .map_err(|error| Refused::Failed(CliError::usage(error).hint("choose one with --name NAME")))?;
    channel.send(first).await.map_err(|error| lost(&error))?;
    let mut waiting = false;
    loop {
        let left = joiner.deadline_ms().unwrap_or(0).saturating_sub(now_ms());
        let turn = match timeout(Duration::from_millis(left), channel.recv()).await {
            Ok(Ok(frame)) => joiner.handle(now_ms(), &frame),
            Ok(Err(error)) => return Err(lost(&error)),
            Err(_) => joiner.expire(now_ms()),
        };
        if let Some(frame) = turn.frame {
            channel.send(frame).await.map_err(|error| lost(&error))?;
        }
        match turn.event {
            Some(JoinerEvent::Joined(joined)) => {
                channel.finish().await;
                return Ok(*joined);
            }
            Some(JoinerEvent::Failed(error)) => {
                channel.finish().await;
                return Err(match error {
                    PairingError::NoSuchOffer => Refused::NoSuchOffer,
                    error => Refused::Failed(pairing_error(error)),
                });
            }
            None if joiner.confirmed() && !waiting => {
                waiting = true;
                let print = engine::pairing::fingerprint(&local);
                told(&format!(
                    "The code is right. Waiting to be admitted; this device's fingerprint is {print}"
                ));
            }
            None => {}
        }
    }
}

fn lost(error: &PairChannelError) -> Refused {
    let message = format!("the inviting device went away: {error}");
    Refused::Failed(
        CliError::new(Kind::Network, message).hint("is `device invite` still waiting there? Make a new code"),
    )
}

fn connect_error(error: PairConnectError) -> CliError {
    let (kind, hint) = match error {
        PairConnectError::Address(_) => (Kind::Usage, "copy the whole long code, without a line break"),
        PairConnectError::NotListening => (
            Kind::NotFound,
            "the code has been used or has expired; `ahenk-cli device invite` makes a new one",
        ),
        PairConnectError::Busy => (Kind::Conflict, "try again in a minute"),
        _ => (Kind::Network, "is `device invite` waiting there, and does a firewall let it through?"),
    };
    CliError::new(kind, error).hint(hint)
}
