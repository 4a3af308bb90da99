//! The side that joins: one [`Joiner`] per channel to a possible inviter.
//!
//! Invariants: the device's name leaves only after the inviter has proved to know the code; what
//! comes out as [`Joined`] has been checked against the account's root key, our own key and name,
//! and the key that the channel authenticated.

use std::mem;

use zeroize::Zeroizing;

use crate::identity::{AccountId, DeviceCert, PeerKey, SecretKey, device_name_ok};

use super::keys::{Ends, Keys, Pake, Role};
use super::wire::{Grant, Message, Refusal, Request, decode_sealed, encode_sealed};
use super::{
    ADDRESSES_MAX, CONFIRM_MS, GrantError, OFFER_MS, OTHERS_MAX, PairingCode, PairingError, Turn, address_ok,
};

/// What a device holds once it is admitted.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The account.
    pub account: AccountId,
    /// Our certificate.
    pub cert: DeviceCert,
    /// The inviter's certificate.
    pub inviter: DeviceCert,
    /// Certificates of other devices of the account; verified, at most [`OTHERS_MAX`].
    pub others: Vec<DeviceCert>,
    /// Where the inviter can be reached, in the transport's notation; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<String>,
    /// The account's root key, if we were made an administrator.
    pub root: Option<SecretKey>,
}

/// What the joiner's side has to say. After either, the pairing has ended.
#[derive(Debug, Clone)]
pub enum JoinerEvent {
    /// We are admitted.
    Joined(Box<Joined>),
    /// We are not.
    Failed(PairingError),
}

/// A joiner was given a name that no device may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device name is 1 to {} bytes of printable text", crate::config::DEVICE_NAME_BYTES_MAX)]
pub struct NameError;

/// The joiner's end of one channel.
///
/// Contract: the frame that [`Joiner::start`] returns is sent; [`handle`](Joiner::handle) takes each
/// frame that arrives; [`expire`](Joiner::expire) is called at the latest at
/// [`deadline_ms`](Joiner::deadline_ms). Each run gives whoever is at the other end one guess at the
/// code: after [`PairingError::NoSuchOffer`] go on to the next candidate, but after
/// [`PairingError::WrongCode`] stop and ask the user.
pub struct Joiner {
    local: PeerKey,
    remote: PeerKey,
    name: String,
    deadline_ms: u64,
    state: State,
}

enum State {
    /// Has started; waits for `Reply`.
    Reply(Box<Pake>),
    /// The inviter knew the code; waits for `Grant`.
    Grant(Keys),
    Ended,
}

type JoinerTurn = Turn<JoinerEvent>;

impl Joiner {
    /// Starts a pairing over a channel that authenticated `local` and `remote`, and returns the
    /// first frame. `seed` is 32 secret random bytes, used once; `now_ms` is monotonic.
    pub fn start(
        code: &PairingCode,
        local: PeerKey,
        remote: PeerKey,
        name: &str,
        seed: [u8; 32],
        now_ms: u64,
    ) -> Result<(Joiner, Vec<u8>), NameError> {
        if !device_name_ok(name) {
            return Err(NameError);
        }
        let seed = Zeroizing::new(seed);
        let nameplate = code.nameplate();
        let ends = Ends { joiner: local, inviter: remote, nameplate };
        let pake = Pake::start(Role::Joiner, code, ends, &seed);
        let frame = Message::Start { nameplate, share: pake.share() }.encode();
        let deadline_ms = now_ms.saturating_add(OFFER_MS + CONFIRM_MS);
        Ok((
            Joiner { local, remote, name: name.to_owned(), deadline_ms, state: State::Reply(Box::new(pake)) },
            frame,
        ))
    }

    /// The key that the other end proved to hold.
    pub fn remote(&self) -> PeerKey {
        self.remote
    }

    /// Whether the pairing has ended.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// When [`Joiner::expire`] has something to do, in milliseconds on the caller's monotonic clock;
    /// `None` once the pairing has ended.
    pub fn deadline_ms(&self) -> Option<u64> {
        (!self.ended()).then_some(self.deadline_ms)
    }

    /// Whether the inviter has proved to know the code, so that only its user or the certificate
    /// is being waited for.
    pub fn confirmed(&self) -> bool {
        matches!(self.state, State::Grant(_))
    }

    /// Takes a frame from the channel.
    pub fn handle(&mut self, now_ms: u64, frame: &[u8]) -> JoinerTurn {
        let late = self.expire(now_ms);
        if late.event.is_some() || self.ended() {
            return late;
        }
        let message = match Message::decode(frame) {
            Ok(Message::Refuse(refusal)) => return self.end(refusal.error()),
            Ok(message) => message,
            Err(error) => return self.refuse(error),
        };
        match (mem::replace(&mut self.state, State::Ended), message) {
            (State::Reply(pake), Message::Reply { share, confirm }) => self.reply(*pake, &share, &confirm),
            (State::Grant(keys), Message::Grant { sealed }) => match self.open_grant(&keys, &sealed) {
                Ok(joined) => Turn::event(JoinerEvent::Joined(Box::new(joined))),
                Err(error) => self.refuse(error),
            },
            _ => self.refuse(PairingError::BadMessage),
        }
    }

    /// Ends the pairing if its time is over; otherwise does nothing.
    pub fn expire(&mut self, now_ms: u64) -> JoinerTurn {
        match self.deadline_ms() {
            Some(deadline_ms) if now_ms >= deadline_ms => self.refuse(PairingError::Expired),
            _ => Turn::nothing(),
        }
    }

    fn reply(&mut self, pake: Pake, share: &[u8; 32], confirm: &[u8; 32]) -> JoinerTurn {
        let Some(keys) = pake.finish(share) else { return self.refuse(PairingError::BadMessage) };
        if !keys.confirms(Role::Inviter, confirm) {
            return self.refuse(PairingError::WrongCode);
        }
        let request = Request { name: self.name.clone() };
        let sealed = keys.seal(Role::Joiner, &encode_sealed(&request));
        let join = Message::Join { confirm: keys.confirmation(Role::Joiner), sealed };
        self.state = State::Grant(keys);
        Turn::send(join.encode())
    }

    fn open_grant(&self, keys: &Keys, sealed: &[u8]) -> Result<Joined, PairingError> {
        let plain = keys.open(Role::Inviter, sealed).ok_or(PairingError::BadMessage)?;
        let grant: Grant = decode_sealed(&plain)?;
        if grant.others.len() > OTHERS_MAX
            || grant.addresses.len() > ADDRESSES_MAX
            || !grant.addresses.iter().all(|address| address_ok(address))
        {
            return Err(PairingError::BadMessage);
        }
        Ok(self.accept(grant)?)
    }

    fn accept(&self, mut grant: Grant) -> Result<Joined, GrantError> {
        let account = grant.account;
        grant.cert.check(&account)?;
        grant.inviter.check(&account)?;
        for cert in &grant.others {
            cert.check(&account)?;
        }
        if grant.cert.key != self.local {
            return Err(GrantError::OtherKey);
        }
        if grant.cert.name != self.name {
            return Err(GrantError::OtherName);
        }
        if grant.inviter.key != self.remote {
            return Err(GrantError::OtherInviter);
        }
        let root = grant.root.as_ref().map(SecretKey::from_bytes);
        let root_fits = root.as_ref().is_none_or(|root| root.public() == account.0);
        if !root_fits || root.is_some() != grant.cert.admin {
            return Err(GrantError::RootKey);
        }
        Ok(Joined {
            account,
            cert: grant.cert.clone(),
            inviter: grant.inviter.clone(),
            others: mem::take(&mut grant.others),
            addresses: mem::take(&mut grant.addresses),
            root,
        })
    }

    /// Ends the pairing and tells the other side why.
    fn refuse(&mut self, error: PairingError) -> JoinerTurn {
        let frame = Message::Refuse(Refusal::of(error)).encode();
        Turn { frame: Some(frame), ..self.end(error) }
    }

    fn end(&mut self, error: PairingError) -> JoinerTurn {
        self.state = State::Ended;
        Turn::event(JoinerEvent::Failed(error))
    }
}

impl std::fmt::Debug for Joiner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Reply(_) => "reply",
            State::Grant(_) => "grant",
            State::Ended => "ended",
        };
        write!(f, "Joiner(to {:?}, {state})", self.remote)
    }
}
