//! Who is who: accounts, devices, replicas, and the certificates that tie them to keys.
//!
//! Invariants: a [`DeviceId`] is derived from the device's public key, so one id never has two keys;
//! a [`DeviceCert`] in memory has been verified against its account's root key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Reader, Writer};
use crate::commit::{get_cert, put_cert};
use crate::config::DEVICE_NAME_BYTES_MAX;
use crate::remembered;

/// A peer as a transport knows it: the Ed25519 public key that it proved to hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerKey(pub [u8; 32]);

impl PeerKey {
    /// The device id that belongs to this key.
    pub fn device(&self) -> DeviceId {
        DeviceId::of_key(self)
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({})", hex(&self.0[..4]))
    }
}

/// An account: the Ed25519 public key of its root. It names the account and verifies every certificate in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(pub [u8; 32]);

impl AccountId {
    /// The device id that the root key would have. No device has it: the account's statements stand under it.
    pub fn device(&self) -> DeviceId {
        PeerKey(self.0).device()
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({})", hex(&self.0[..4]))
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A device: a version 8 UUID (RFC 9562) made of the first 16 bytes of the BLAKE3 hash of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub Uuid);

impl DeviceId {
    /// Derives the id from the key it is bound to. Each frame and each commit asks for some, always of the account's few
    /// keys: so a thread keeps the last ones, each in the place that its key's first byte gives.
    pub fn of_key(key: &PeerKey) -> DeviceId {
        const PLACES: usize = 256;
        thread_local! {
            static KEPT: RefCell<[Option<(PeerKey, DeviceId)>; PLACES]> = const { RefCell::new([None; PLACES]) };
        }
        KEPT.with_borrow_mut(|kept| {
            let place = &mut kept[usize::from(key.0[0])];
            match place {
                Some((of, device)) if of == key => *device,
                _ => place.insert((*key, DeviceId::derive(key))).1,
            }
        })
    }

    fn derive(key: &PeerKey) -> DeviceId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"ahenk device 1").update(&key.0);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        DeviceId(Uuid::new_v8(bytes))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", hex(&self.0.as_bytes()[..4]))
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of one database file on one device. A restored or copied file takes a new incarnation
/// before its first write, so that a sequence number is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId {
    /// The device.
    pub device: DeviceId,
    /// Random number of this life.
    pub incarnation: u64,
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:x}", self.device, self.incarnation)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.device, self.incarnation)
    }
}

/// The name of a commit for ever: which replica, and its how-manieth commit, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// The author's replica.
    pub replica: ReplicaId,
    /// Contiguous from 1.
    pub seq: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.replica, self.seq)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replica, self.seq)
    }
}

/// An Ed25519 signature (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sig(pub [u8; 64]);

impl fmt::Debug for Sig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sig({})", hex(&self.0[..4]))
    }
}

impl Serialize for Sig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (a, b) = self.0.split_at(32);
        (array32(a), array32(b)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (a, b) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&a);
        bytes[32..].copy_from_slice(&b);
        Ok(Sig(bytes))
    }
}

fn array32(slice: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(slice);
    array
}

/// Keys that are remembered, more than an account has devices.
const VERIFIERS_MAX: usize = 256;

/// Verifies by the one rule used everywhere (`verify_strict`: canonical points, no small-order keys).
/// Differing rules between devices would let them diverge.
pub fn verify(key: &[u8; 32], message: &[u8], sig: &Sig) -> bool {
    Verifiers::default().verify(key, message, sig)
}

/// Public keys as points of the curve: finding the point is a tenth of verifying, and the same few authors sign again and
/// again.
#[derive(Debug, Default)]
pub(crate) struct Verifiers(BTreeMap<[u8; 32], VerifyingKey>);

impl Verifiers {
    /// As [`verify`].
    pub(crate) fn verify(&mut self, key: &[u8; 32], message: &[u8], sig: &Sig) -> bool {
        remembered::verify(key, message, &sig.0, || {
            let Some(point) = self.point(key) else { return false };
            point.verify_strict(message, &Signature::from_bytes(&sig.0)).is_ok()
        })
    }

    fn point(&mut self, key: &[u8; 32]) -> Option<&VerifyingKey> {
        if !self.0.contains_key(key) {
            let point = VerifyingKey::from_bytes(key).ok()?;
            if self.0.len() >= VERIFIERS_MAX {
                self.0.clear();
            }
            self.0.insert(*key, point);
        }
        self.0.get(key)
    }
}

/// A private Ed25519 key. Wiped from memory when dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From 32 random bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> SecretKey {
        SecretKey(SigningKey::from_bytes(bytes))
    }

    /// The 32 bytes that must be kept secret.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Sig {
        Sig(remembered::sign(&self.public(), message, || self.0.sign(message).to_bytes()))
    }
}

impl PartialEq for SecretKey {
    /// Compares the public halves.
    fn eq(&self, other: &SecretKey) -> bool {
        self.public() == other.public()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", hex(&self.public()[..4]))
    }
}

/// Why a certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// It belongs to another account.
    #[error("the certificate is of another account")]
    ForeignAccount,
    /// The root key did not sign it.
    #[error("the certificate is not signed by the account's root key")]
    BadSignature,
    /// It certifies the root key itself as a device.
    #[error("the account's root key cannot be a device's key")]
    RootKey,
    /// The device's name is empty, too long or has control characters.
    #[error("the device name in the certificate is not 1 to {DEVICE_NAME_BYTES_MAX} bytes of printable text")]
    BadName,
}

/// The account's root key says: this key is a device of mine, called so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCert {
    /// The account.
    pub account: AccountId,
    /// The device's public key.
    pub key: PeerKey,
    /// Its name at the time of pairing.
    pub name: String,
    /// When the certificate was issued, by the issuer's clock, in milliseconds since the Unix epoch. For people only.
    pub issued_ms: u64,
    /// Whether the device was given the root key.
    pub admin: bool,
    /// The root key's signature over all of the above.
    pub sig: Sig,
}

/// True if a device may be called so: 1 to 64 bytes, no control characters.
pub fn device_name_ok(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= DEVICE_NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

impl DeviceCert {
    /// Issues a certificate with the account's root key.
    pub fn issue(
        root: &SecretKey,
        key: PeerKey,
        name: &str,
        issued_ms: u64,
        admin: bool,
    ) -> Result<DeviceCert, CertError> {
        if !device_name_ok(name) {
            return Err(CertError::BadName);
        }
        let account = AccountId(root.public());
        let sig = root.sign(&DeviceCert::message(&account, &key, name, issued_ms, admin));
        Ok(DeviceCert { account, key, name: name.to_owned(), issued_ms, admin, sig })
    }

    /// Checks that this certificate is valid in the given account. One that arrives from outside is
    /// not used before.
    pub fn check(&self, account: &AccountId) -> Result<(), CertError> {
        if self.account != *account {
            return Err(CertError::ForeignAccount);
        }
        if !device_name_ok(&self.name) {
            return Err(CertError::BadName);
        }
        if self.key.0 == account.0 {
            return Err(CertError::RootKey);
        }
        let message = DeviceCert::message(&self.account, &self.key, &self.name, self.issued_ms, self.admin);
        if verify(&self.account.0, &message, &self.sig) { Ok(()) } else { Err(CertError::BadSignature) }
    }

    /// The certified device.
    pub fn device(&self) -> DeviceId {
        self.key.device()
    }

    /// The account and the certificate, for one who is in no session: a relay. At most [`DeviceCert::BYTES_MAX`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(&self.account.0);
        put_cert(&mut writer, self);
        writer.into_bytes()
    }

    /// Reads what [`DeviceCert::to_bytes`] wrote, and verifies that the account that it names has certified it.
    pub fn from_bytes(bytes: &[u8]) -> Result<DeviceCert, DecodeError> {
        let mut reader = Reader::new(bytes);
        let account = AccountId(reader.array()?);
        let cert = get_cert(&mut reader, &account)?;
        reader.finish()?;
        Ok(cert)
    }

    /// Longest certificate with its account, in bytes: two keys, the time, two small numbers, the name, the signature.
    pub const BYTES_MAX: usize = 32 + 32 + 10 + 1 + 1 + DEVICE_NAME_BYTES_MAX + 64;

    fn message(account: &AccountId, key: &PeerKey, name: &str, issued_ms: u64, admin: bool) -> Vec<u8> {
        let mut message = Vec::with_capacity(100 + name.len());
        message.extend_from_slice(b"ahenk device certificate 1");
        message.extend_from_slice(&account.0);
        message.extend_from_slice(&key.0);
        message.extend_from_slice(&issued_ms.to_be_bytes());
        message.push(u8::from(admin));
        message.extend_from_slice(name.as_bytes());
        message
    }
}

/// What a device needs to take part: its key, and the certificate that makes it one of the account's.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The device's private key.
    pub secret: SecretKey,
    /// Its certificate; `cert.key` is the public half of `secret`.
    pub cert: DeviceCert,
    /// The account's root key, on a device that administers.
    pub root: Option<SecretKey>,
}

impl Identity {
    /// Joins a key and its certificate.
    pub fn new(secret: SecretKey, cert: DeviceCert) -> Result<Identity, CertError> {
        cert.check(&cert.account)?;
        if cert.key.0 != secret.public() {
            return Err(CertError::BadSignature);
        }
        Ok(Identity { secret, cert, root: None })
    }

    /// The same device as an administrator. A key that is not the account's root key is refused.
    pub fn with_root(self, root: SecretKey) -> Result<Identity, CertError> {
        if root.public() != self.cert.account.0 {
            return Err(CertError::ForeignAccount);
        }
        Ok(Identity { root: Some(root), ..self })
    }

    /// The account.
    pub fn account(&self) -> AccountId {
        self.cert.account
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.cert.device()
    }

    /// The public key as transports see it.
    pub fn peer_key(&self) -> PeerKey {
        self.cert.key
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
