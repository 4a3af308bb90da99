//! The messages of a pairing and their one encoding.
//!
//! A frame is the version in one byte, then the postcard body. Invariants: no frame is longer than
//! [`MESSAGE_BYTES_MAX`]; a frame decodes only if it is byte for byte what its message encodes to.
//! The version byte alone tells a mismatch, whatever another version puts behind it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, Zeroizing};

use crate::identity::{AccountId, DeviceCert};

use super::{MESSAGE_BYTES_MAX, PAIRING_VERSION, PairingError};

/// What goes over the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// Joiner to inviter, first.
    Start { nameplate: u8, share: [u8; 32] },
    /// Inviter to joiner.
    Reply { share: [u8; 32], confirm: [u8; 32] },
    /// Joiner to inviter; `sealed` holds a [`Request`].
    Join { confirm: [u8; 32], sealed: Vec<u8> },
    /// Inviter to joiner, last; `sealed` holds a [`Grant`].
    Grant { sealed: Vec<u8> },
    /// Either side, and then it has ended. Unsealed, since it may come before there are keys; the
    /// worst a forger reaches with it is what cutting the connection reaches.
    Refuse(Refusal),
}

/// Why a side ended the pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    WrongCode,
    NoSuchOffer,
    Expired,
    AlreadyUsed,
    TooManyAttempts,
    Declined,
    BadMessage,
}

impl Refusal {
    /// What to tell the other side about our error.
    pub(super) fn of(error: PairingError) -> Refusal {
        match error {
            PairingError::WrongCode => Refusal::WrongCode,
            PairingError::NoSuchOffer => Refusal::NoSuchOffer,
            PairingError::Expired => Refusal::Expired,
            PairingError::AlreadyUsed => Refusal::AlreadyUsed,
            PairingError::TooManyAttempts => Refusal::TooManyAttempts,
            PairingError::Declined => Refusal::Declined,
            // The version byte of the refusal says the rest.
            PairingError::BadMessage
            | PairingError::VersionMismatch { .. }
            | PairingError::BadCertificate(_) => Refusal::BadMessage,
        }
    }

    /// What the other side's refusal means to us.
    pub(super) fn error(self) -> PairingError {
        match self {
            Refusal::WrongCode => PairingError::WrongCode,
            Refusal::NoSuchOffer => PairingError::NoSuchOffer,
            Refusal::Expired => PairingError::Expired,
            Refusal::AlreadyUsed => PairingError::AlreadyUsed,
            Refusal::TooManyAttempts => PairingError::TooManyAttempts,
            Refusal::Declined => PairingError::Declined,
            Refusal::BadMessage => PairingError::BadMessage,
        }
    }
}

/// What the joiner asks for, sealed.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    /// The name of the device.
    pub(super) name: String,
}

/// What the inviter gives, sealed. No `Debug`: it may hold the root key.
#[derive(Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) account: AccountId,
    /// The joiner's certificate.
    pub(super) cert: DeviceCert,
    /// The inviter's certificate.
    pub(super) inviter: DeviceCert,
    /// Certificates of other devices.
    pub(super) others: Vec<DeviceCert>,
    /// Where the inviter can be reached.
    pub(super) addresses: Vec<String>,
    /// The account's root key, for an administrator.
    pub(super) root: Option<[u8; 32]>,
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.root.zeroize();
    }
}

impl Message {
    /// The frame of this message.
    pub(super) fn encode(&self) -> Vec<u8> {
        encode_body(self, vec![PAIRING_VERSION])
    }

    /// Reads a frame.
    pub(super) fn decode(frame: &[u8]) -> Result<Message, PairingError> {
        if frame.len() > MESSAGE_BYTES_MAX {
            return Err(PairingError::BadMessage);
        }
        let (&theirs, body) = frame.split_first().ok_or(PairingError::BadMessage)?;
        if theirs != PAIRING_VERSION {
            return Err(PairingError::VersionMismatch { ours: PAIRING_VERSION, theirs });
        }
        decode_body(body)
    }
}

/// The plain text of a sealed value, wiped when dropped.
pub(super) fn encode_sealed<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    // Reserved in full, so that no piece of a secret is left behind by growing.
    Zeroizing::new(encode_body(value, Vec::with_capacity(MESSAGE_BYTES_MAX)))
}

/// Reads an unsealed value.
pub(super) fn decode_sealed<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, PairingError> {
    decode_body(bytes)
}

fn encode_body<T: Serialize>(value: &T, prefix: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(value, prefix).expect("plain data of known shape has a postcard encoding")
}

/// Postcard reads longer forms of the same number and ignores what follows: only the form that the
/// encoder writes is accepted, so that a message has one encoding.
fn decode_body<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, PairingError> {
    let value = postcard::from_bytes(bytes).map_err(|_| PairingError::BadMessage)?;
    let canonical = encode_sealed(&value);
    if canonical.as_slice() == bytes { Ok(value) } else { Err(PairingError::BadMessage) }
}
