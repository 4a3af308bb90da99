//! Pairing: how a new device is admitted to an account with a short code, sans IO.
//!
//! Two devices hold an encrypted channel that has authenticated both static keys, but neither knows
//! whether the other is the device that its user means. A short code that the user carries from one
//! to the other settles it: both run SPAKE2 on the code, bind both static keys, their roles, the
//! version and the nameplate into the resulting keys, and prove to each other that they hold the
//! same keys before anything else is said.
//!
//! ```text
//! joiner                                   inviter
//!   Start { nameplate, share }        ->                counted as an attempt before the reply
//!                                     <-   Reply { share, confirm }
//!   Join { confirm, sealed name }     ->                the user may be asked here
//!                                     <-   Grant { sealed certificates, addresses, root key? }
//! ```
//!
//! Either side may answer with `Refuse { reason }` instead. Every message is the version in one
//! byte followed by a postcard body, at most [`MESSAGE_BYTES_MAX`] long; one encoding per message.
//!
//! Invariants: an attempt is counted before the reply that would let the other side check its guess;
//! nothing but the PAKE share and the confirmation leaves a device before the other has confirmed;
//! an [`Offer`] admits at most one device; nothing received can panic. Randomness is a seed and time
//! is an argument in milliseconds.

mod code;
mod inviter;
mod joiner;
mod keys;
mod wire;

#[cfg(test)]
mod tests;

pub use code::{CodeError, Invitation, PairingCode};
pub use inviter::{InviterEvent, InviterSession, Offer, OfferError, OfferState, Terms};
pub use joiner::{Joined, Joiner, JoinerEvent, NameError};

use crate::identity::{CertError, PeerKey};

/// The version of the pairing protocol that this build speaks.
pub const PAIRING_VERSION: u8 = 1;
/// Longest pairing message, in bytes. Checked before anything is parsed.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Most attempts at one offer, right or wrong.
pub const ATTEMPTS_MAX: u32 = 3;
/// How long an offer stands, in milliseconds.
pub const OFFER_MS: u64 = 5 * 60 * 1000;
/// How long the user may take to admit or decline a device that knew the code, in milliseconds.
pub const CONFIRM_MS: u64 = 2 * 60 * 1000;
/// Most certificates of other devices in one grant.
pub const OTHERS_MAX: usize = 48;
/// Most addresses in an invitation or a grant.
pub const ADDRESSES_MAX: usize = 16;
/// Longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Why a pairing ended without admitting a device. The same kinds on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// The two sides do not hold the same code, or somebody sits between them: the one cannot be
    /// told from the other.
    #[error("the code does not match, or someone is interfering with the connection")]
    WrongCode,
    /// The inviter has no offer with this nameplate. No attempt was spent.
    #[error("the other device has no invitation with this number; check the first two digits of the code")]
    NoSuchOffer,
    /// The offer or the answer came too late.
    #[error("the invitation has expired; make a new one")]
    Expired,
    /// The offer has admitted, or is about to admit, a device.
    #[error("the invitation has already been used; make a new one")]
    AlreadyUsed,
    /// The offer has had its [`ATTEMPTS_MAX`] attempts.
    #[error("the invitation was tried too often; make a new one")]
    TooManyAttempts,
    /// The inviter's user said no.
    #[error("the request to join was declined")]
    Declined,
    /// A message that is none, too long, not in its one encoding, or not due now.
    #[error("the other device sent something that is not a valid pairing message")]
    BadMessage,
    /// The other side speaks another version.
    #[error(
        "this device speaks version {ours} of the pairing protocol and the other version {theirs}; update the older one"
    )]
    VersionMismatch {
        /// Our version.
        ours: u8,
        /// Theirs.
        theirs: u8,
    },
    /// The inviter holds the code, but what it granted does not fit the account or this device.
    #[error("the other device sent an unusable certificate: {0}")]
    BadCertificate(#[from] GrantError),
}

/// Why a joiner does not accept what a confirmed inviter granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// A certificate does not verify.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// Our certificate is for another key.
    #[error("it is for the key of another device")]
    OtherKey,
    /// Our certificate gives us another name than we asked for.
    #[error("it is for another device name")]
    OtherName,
    /// The inviter's certificate is not for the key that the channel authenticated.
    #[error("the inviting device showed the certificate of another device")]
    OtherInviter,
    /// A root key was enclosed that is not the account's, or one of certificate and grant makes us
    /// an administrator and the other does not.
    #[error("the root key does not fit the certificate")]
    RootKey,
}

/// What to do after a step of a pairing. First the frame is sent, then the event is acted on.
#[derive(Debug)]
#[must_use]
pub struct Turn<E> {
    /// A frame for the other side.
    pub frame: Option<Vec<u8>>,
    /// What happened.
    pub event: Option<E>,
}

impl<E> Turn<E> {
    fn nothing() -> Turn<E> {
        Turn { frame: None, event: None }
    }

    fn send(frame: Vec<u8>) -> Turn<E> {
        Turn { frame: Some(frame), event: None }
    }

    fn event(event: E) -> Turn<E> {
        Turn { frame: None, event: Some(event) }
    }
}

/// A short form of a key that two people can compare by reading it out: 80 bits of its hash as four
/// groups of four letters and digits, without the ones that are easily confused.
pub fn fingerprint(key: &PeerKey) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let hash = blake3::derive_key("ahenk pairing fingerprint 1", &key.0);
    let mut text = String::with_capacity(19);
    for (group, bytes) in hash[..10].chunks_exact(5).enumerate() {
        let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for letter in 0..8 {
            if letter % 4 == 0 && (group, letter) != (0, 0) {
                text.push('-');
            }
            text.push(char::from(ALPHABET[(bits >> (35 - 5 * letter) & 31) as usize]));
        }
    }
    text
}

/// True if an address may stand in an invitation or a grant: 1 to [`ADDRESS_BYTES_MAX`] bytes of
/// visible ASCII without a comma. What it means is for the transport to say.
pub fn address_ok(address: &str) -> bool {
    (1..=ADDRESS_BYTES_MAX).contains(&address.len())
        && address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}
