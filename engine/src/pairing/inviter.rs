//! The side that invites: an [`Offer`] with its limits, and one [`InviterSession`] per channel.
//!
//! Invariants: all sessions of an offer count against the same attempts; an attempt is counted
//! before the reply to it exists; the first session that proves to know the code takes the offer
//! for itself, and no other session, nor a second device, is admitted by it.

use std::mem;

use zeroize::Zeroizing;

use crate::identity::{CertError, DeviceCert, PeerKey, SecretKey, device_name_ok};
use crate::planted::{self, Bug};

use super::keys::{Ends, Keys, Pake, Role};
use super::wire::{Grant, Message, Refusal, Request, decode_sealed, encode_sealed};
use super::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, ATTEMPTS_MAX, CONFIRM_MS, OFFER_MS, OTHERS_MAX, PairingCode,
    PairingError, Turn, address_ok, fingerprint,
};

/// What an offer gives to the device that it admits.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The account's root key, which signs the new certificate.
    pub root: SecretKey,
    /// The inviting device's certificate; its key is the one that the channels authenticate.
    pub inviter: DeviceCert,
    /// Certificates of other devices of the account, at most [`OTHERS_MAX`].
    pub others: Vec<DeviceCert>,
    /// Where the inviter can be reached, at most [`ADDRESSES_MAX`], in the transport's notation.
    pub addresses: Vec<String>,
    /// Whether the new device becomes an administrator and is given the root key.
    pub admin: bool,
    /// Whether the user is asked before a device that knew the code is admitted.
    pub ask: bool,
}

/// Why an offer cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// A certificate among the terms is not one of the account.
    #[error("a certificate to hand on is not valid in this account: {0}")]
    Cert(#[from] CertError),
    /// More certificates than a grant can hold.
    #[error("an invitation hands on the certificates of at most {OTHERS_MAX} other devices")]
    TooManyDevices,
    /// More addresses than a grant can hold.
    #[error("an invitation hands on at most {ADDRESSES_MAX} addresses")]
    TooManyAddresses,
    /// An address that a grant cannot hold.
    #[error("an address is not 1 to {ADDRESS_BYTES_MAX} visible characters without a comma")]
    BadAddress,
}

/// Where an offer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferState {
    /// It takes attempts.
    Open {
        /// How many more.
        attempts_left: u32,
    },
    /// All attempts are spent. A session that holds the last of them may still succeed.
    Exhausted,
    /// A device knew the code; the offer is done, whether that device was then admitted or not.
    Used,
    /// Too late.
    Expired,
}

/// A standing invitation: one code, a few attempts, five minutes, one device.
#[derive(Debug)]
pub struct Offer {
    terms: Terms,
    code: PairingCode,
    seed: Seed,
    attempts: u32,
    sessions: u64,
    used: bool,
    made_ms: u64,
    lifetime_ms: u64,
    made_wall_ms: u64,
}

impl Offer {
    /// Makes an offer. `seed` is 32 secret random bytes, used for nothing else; `now_ms` is
    /// monotonic, and `wall_ms` the wall clock since the Unix epoch (it dates the certificate).
    pub fn new(terms: Terms, seed: [u8; 32], now_ms: u64, wall_ms: u64) -> Result<Offer, OfferError> {
        let account = terms.inviter.account;
        if account.0 != terms.root.public() {
            return Err(CertError::ForeignAccount.into());
        }
        if terms.others.len() > OTHERS_MAX {
            return Err(OfferError::TooManyDevices);
        }
        if terms.addresses.len() > ADDRESSES_MAX {
            return Err(OfferError::TooManyAddresses);
        }
        if !terms.addresses.iter().all(|address| address_ok(address)) {
            return Err(OfferError::BadAddress);
        }
        terms.inviter.check(&account)?;
        for cert in &terms.others {
            cert.check(&account)?;
        }
        let code = PairingCode::generate(&seed);
        let seed = Seed(Zeroizing::new(seed));
        Ok(Offer {
            terms,
            code,
            seed,
            attempts: 0,
            sessions: 0,
            used: false,
            made_ms: now_ms,
            lifetime_ms: OFFER_MS,
            made_wall_ms: wall_ms,
        })
    }

    /// The same for a shorter time: no longer than [`OFFER_MS`].
    #[must_use]
    pub fn lasting(mut self, lifetime_ms: u64) -> Offer {
        self.lifetime_ms = lifetime_ms.min(OFFER_MS);
        self
    }

    /// The code to show to the user.
    pub fn code(&self) -> &PairingCode {
        &self.code
    }

    /// When the offer ends by itself, on the caller's monotonic clock, in milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        let stands_ms = if planted::is(Bug::InvitationStays) { u64::MAX } else { self.lifetime_ms };
        self.made_ms.saturating_add(stands_ms)
    }

    /// Where the offer stands.
    pub fn state(&self, now_ms: u64) -> OfferState {
        if self.used {
            OfferState::Used
        } else if now_ms >= self.deadline_ms() {
            OfferState::Expired
        } else if self.attempts >= ATTEMPTS_MAX {
            OfferState::Exhausted
        } else {
            OfferState::Open { attempts_left: ATTEMPTS_MAX - self.attempts }
        }
    }

    /// A session for a new channel whose other end proved to hold the key `remote`. How many
    /// channels there are is for the caller to bound; no more than [`ATTEMPTS_MAX`] get past their
    /// first message.
    pub fn session(&mut self, remote: PeerKey) -> InviterSession {
        self.sessions += 1;
        let seed = self.seed.of_session(self.sessions);
        InviterSession { offer: self.seed.name(), remote, seed, state: State::Start }
    }

    fn count_attempt(&mut self, now_ms: u64) -> Result<(), PairingError> {
        match self.state(now_ms) {
            OfferState::Open { .. } => {
                self.attempts += u32::from(!planted::is(Bug::AttemptsUncounted));
                Ok(())
            }
            OfferState::Exhausted => Err(PairingError::TooManyAttempts),
            OfferState::Used => Err(PairingError::AlreadyUsed),
            OfferState::Expired => Err(PairingError::Expired),
        }
    }

    fn take(&mut self) -> Result<(), PairingError> {
        let used = mem::replace(&mut self.used, !planted::is(Bug::CodeReusable));
        if used { Err(PairingError::AlreadyUsed) } else { Ok(()) }
    }

    fn admit(&self, keys: &Keys, key: PeerKey, name: &str, now_ms: u64) -> Result<Admission, PairingError> {
        let terms = &self.terms;
        let issued_ms = self.made_wall_ms.saturating_add(now_ms.saturating_sub(self.made_ms));
        let cert = DeviceCert::issue(&terms.root, key, name, issued_ms, terms.admin)
            .map_err(|_| PairingError::BadMessage)?;
        let grant = Grant {
            account: cert.account,
            cert: cert.clone(),
            inviter: terms.inviter.clone(),
            others: terms.others.clone(),
            addresses: terms.addresses.clone(),
            root: terms.admin.then(|| *terms.root.to_bytes()),
        };
        let sealed = keys.seal(Role::Inviter, &encode_sealed(&grant));
        Ok(Admission { frame: Message::Grant { sealed }.encode(), cert })
    }
}

/// The offer's secret seed, from which those of its sessions follow.
struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    fn of_session(&self, number: u64) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_derive_key("ahenk pairing session seed 1");
        hasher.update(self.0.as_slice()).update(&number.to_le_bytes());
        Zeroizing::new(*hasher.finalize().as_bytes())
    }

    /// A public name of the offer, to tell it from others in this process.
    fn name(&self) -> [u8; 32] {
        blake3::derive_key("ahenk pairing offer name 1", self.0.as_slice())
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

struct Admission {
    frame: Vec<u8>,
    cert: DeviceCert,
}

/// What the inviter's side has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InviterEvent {
    /// The device at the other end knows the code. Ask the user, then call
    /// [`InviterSession::confirm`]. Only with [`Terms::ask`].
    Confirm {
        /// The name that it wishes to have.
        name: String,
        /// The fingerprint of its key.
        fingerprint: String,
    },
    /// The device is admitted: from now on it is one of the account's. The session has ended.
    Admitted(DeviceCert),
    /// The session has ended without admitting a device.
    Failed(PairingError),
}

/// The inviter's end of one channel. All sessions of an offer are driven with that offer.
///
/// Contract: [`handle`](InviterSession::handle) takes each frame that arrives on the channel;
/// [`expire`](InviterSession::expire) is called at the latest at
/// [`deadline_ms`](InviterSession::deadline_ms). After [`InviterEvent::Admitted`] or
/// [`InviterEvent::Failed`] the session has ended and does nothing more. If the channel closes
/// before, drop the session: what it spent stays spent.
///
/// All methods that take the offer panic if it is not the one that opened the session.
pub struct InviterSession {
    offer: [u8; 32],
    remote: PeerKey,
    seed: Zeroizing<[u8; 32]>,
    state: State,
}

enum State {
    /// Waits for `Start`.
    Start,
    /// Has replied; waits for `Join`.
    Join(Keys),
    /// The joiner knew the code; waits for the user.
    Asking {
        keys: Keys,
        name: String,
        deadline_ms: u64,
    },
    Ended,
}

type InviterTurn = Turn<InviterEvent>;

impl InviterSession {
    /// The key that the other end proved to hold.
    pub fn remote(&self) -> PeerKey {
        self.remote
    }

    /// Whether the session has ended.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// When [`InviterSession::expire`] has something to do, in milliseconds on the caller's
    /// monotonic clock; `None` once the session has ended.
    pub fn deadline_ms(&self, offer: &Offer) -> Option<u64> {
        match self.state {
            State::Ended => None,
            State::Asking { deadline_ms, .. } => Some(deadline_ms),
            State::Start | State::Join(_) => Some(offer.deadline_ms()),
        }
    }

    /// Takes a frame from the channel.
    pub fn handle(&mut self, offer: &mut Offer, now_ms: u64, frame: &[u8]) -> InviterTurn {
        self.assert_offer(offer);
        let late = self.expire(offer, now_ms);
        if late.event.is_some() || self.ended() {
            return late;
        }
        let message = match Message::decode(frame) {
            Ok(Message::Refuse(refusal)) => return self.end(refusal.error()),
            Ok(message) => message,
            Err(error) => return self.refuse(error),
        };
        match (mem::replace(&mut self.state, State::Ended), message) {
            (State::Start, Message::Start { nameplate, share }) => {
                self.start(offer, now_ms, nameplate, &share)
            }
            (State::Join(keys), Message::Join { confirm, sealed }) => {
                self.join(offer, now_ms, keys, &confirm, &sealed)
            }
            _ => self.refuse(PairingError::BadMessage),
        }
    }

    /// The user's answer to [`InviterEvent::Confirm`]. Does nothing when none is awaited.
    pub fn confirm(&mut self, offer: &mut Offer, now_ms: u64, admit: bool) -> InviterTurn {
        self.assert_offer(offer);
        let late = self.expire(offer, now_ms);
        if late.event.is_some() {
            return late;
        }
        match mem::replace(&mut self.state, State::Ended) {
            State::Asking { keys, name, .. } if admit => self.admit(offer, now_ms, &keys, &name),
            State::Asking { .. } => self.refuse(PairingError::Declined),
            other => {
                self.state = other;
                Turn::nothing()
            }
        }
    }

    /// Ends the session if its time is over; otherwise does nothing.
    pub fn expire(&mut self, offer: &Offer, now_ms: u64) -> InviterTurn {
        self.assert_offer(offer);
        match self.deadline_ms(offer) {
            Some(deadline_ms) if now_ms >= deadline_ms => self.refuse(PairingError::Expired),
            _ => Turn::nothing(),
        }
    }

    fn start(&mut self, offer: &mut Offer, now_ms: u64, nameplate: u8, share: &[u8; 32]) -> InviterTurn {
        if nameplate != offer.code.nameplate() {
            return self.refuse(PairingError::NoSuchOffer);
        }
        // From here on the other side learns whether its guess was right, so it is counted now.
        if let Err(error) = offer.count_attempt(now_ms) {
            return self.refuse(error);
        }
        let ends = Ends { joiner: self.remote, inviter: offer.terms.inviter.key, nameplate };
        let pake = Pake::start(Role::Inviter, &offer.code, ends, &self.seed);
        let ours = pake.share();
        let Some(keys) = pake.finish(share) else { return self.refuse(PairingError::BadMessage) };
        let reply = Message::Reply { share: ours, confirm: keys.confirmation(Role::Inviter) };
        self.state = State::Join(keys);
        Turn::send(reply.encode())
    }

    fn join(
        &mut self,
        offer: &mut Offer,
        now_ms: u64,
        keys: Keys,
        confirm: &[u8; 32],
        sealed: &[u8],
    ) -> InviterTurn {
        if !keys.confirms(Role::Joiner, confirm) {
            return self.refuse(PairingError::WrongCode);
        }
        let request = keys
            .open(Role::Joiner, sealed)
            .and_then(|plain| decode_sealed::<Request>(&plain).ok())
            .filter(|request| device_name_ok(&request.name));
        let Some(Request { name }) = request else { return self.refuse(PairingError::BadMessage) };
        if let Err(error) = offer.take() {
            return self.refuse(error);
        }
        if !offer.terms.ask {
            return self.admit(offer, now_ms, &keys, &name);
        }
        let event = InviterEvent::Confirm { name: name.clone(), fingerprint: fingerprint(&self.remote) };
        self.state = State::Asking { keys, name, deadline_ms: now_ms.saturating_add(CONFIRM_MS) };
        Turn::event(event)
    }

    fn admit(&mut self, offer: &Offer, now_ms: u64, keys: &Keys, name: &str) -> InviterTurn {
        match offer.admit(keys, self.remote, name, now_ms) {
            Ok(Admission { frame, cert }) => {
                Turn { frame: Some(frame), event: Some(InviterEvent::Admitted(cert)) }
            }
            Err(error) => self.refuse(error),
        }
    }

    /// Ends the session and tells the other side why.
    fn refuse(&mut self, error: PairingError) -> InviterTurn {
        let frame = Message::Refuse(Refusal::of(error)).encode();
        Turn { frame: Some(frame), ..self.end(error) }
    }

    fn end(&mut self, error: PairingError) -> InviterTurn {
        self.state = State::Ended;
        Turn::event(InviterEvent::Failed(error))
    }

    fn assert_offer(&self, offer: &Offer) {
        assert_eq!(self.offer, offer.seed.name(), "a session is driven with the offer that opened it");
    }
}

impl std::fmt::Debug for InviterSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Start => "start",
            State::Join(_) => "join",
            State::Asking { .. } => "asking",
            State::Ended => "ended",
        };
        write!(f, "InviterSession({:?}, {state})", self.remote)
    }
}
