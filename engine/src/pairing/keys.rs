//! The cryptography of a pairing: SPAKE2 on the code, and the keys that follow from it.
//!
//! Invariants: the keys depend on the version, the nameplate, both static keys in their roles, and
//! both shares; each key serves one purpose, and each sealing key seals one message, so its nonce
//! is fixed; comparison takes the same time whatever differs; keys are wiped when dropped.

use blake3::{Hash, Hasher, OutputReader};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use rand_core::{CryptoRng, RngCore};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use crate::identity::PeerKey;
use crate::planted::{self, Bug};

use super::{PAIRING_VERSION, PairingCode};

/// SPAKE2's own tag for the side that starts; the share on the wire goes without it, since the
/// message it stands in says whose it is.
const TAG_JOINER: u8 = b'A';
/// The tag of the side that answers.
const TAG_INVITER: u8 = b'B';

/// Which end of the pairing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Joiner,
    Inviter,
}

/// What both ends must agree on besides the code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) joiner: PeerKey,
    pub(super) inviter: PeerKey,
    pub(super) nameplate: u8,
}

/// One end of a SPAKE2 exchange that waits for the other's share. The crate does not wipe its copies
/// of the password and the scalar, so an exchange is kept no longer than the one answer it waits for.
pub(super) struct Pake {
    role: Role,
    ends: Ends,
    state: Spake2<Ed25519Group>,
    share: [u8; 32],
}

impl Pake {
    /// Starts an exchange. The seed is secret and used once.
    pub(super) fn start(role: Role, code: &PairingCode, ends: Ends, seed: &[u8; 32]) -> Pake {
        let unbound = Ends { joiner: PeerKey([0; 32]), inviter: PeerKey([0; 32]), ..ends };
        let ends = if planted::is(Bug::KeysUnbound) { unbound } else { ends };
        let text = code.reveal();
        let password = Password::new(text.as_bytes());
        let (a, b) = (
            Identity::new(&side(b"joiner ", &ends.joiner)),
            Identity::new(&side(b"inviter ", &ends.inviter)),
        );
        let rng = SeededRng::new(seed);
        let (state, tagged) = match role {
            Role::Joiner => Spake2::<Ed25519Group>::start_a_with_rng(&password, &a, &b, rng),
            Role::Inviter => Spake2::<Ed25519Group>::start_b_with_rng(&password, &a, &b, rng),
        };
        let mut share = [0; 32];
        share.copy_from_slice(&tagged[1..]);
        Pake { role, ends, state, share }
    }

    /// Our share, for the other side.
    pub(super) fn share(&self) -> [u8; 32] {
        self.share
    }

    /// The keys that follow from the other side's share; `None` if it is no point of the curve.
    pub(super) fn finish(self, theirs: &[u8; 32]) -> Option<Keys> {
        let (tag, joiner_share, inviter_share) = match self.role {
            Role::Joiner => (TAG_INVITER, &self.share, theirs),
            Role::Inviter => (TAG_JOINER, theirs, &self.share),
        };
        let mut tagged = [tag; 33];
        tagged[1..].copy_from_slice(theirs);
        let secret = Zeroizing::new(self.state.finish(&tagged).ok()?);
        // Every part has a fixed length, so no two transcripts have the same bytes.
        let transcript = Hasher::new_derive_key("ahenk pairing transcript 1")
            .update(&[PAIRING_VERSION, self.ends.nameplate])
            .update(&self.ends.joiner.0)
            .update(&self.ends.inviter.0)
            .update(joiner_share)
            .update(inviter_share)
            .finalize();
        Some(Keys { secret, transcript: *transcript.as_bytes() })
    }
}

fn side(role: &[u8], key: &PeerKey) -> Vec<u8> {
    [role, &key.0].concat()
}

/// What two ends share after the exchange, if they hold the same code and see the same ends.
pub(super) struct Keys {
    secret: Zeroizing<Vec<u8>>,
    transcript: [u8; 32],
}

impl Keys {
    /// The proof that `role` holds these keys.
    pub(super) fn confirmation(&self, role: Role) -> [u8; 32] {
        let key = self.key(match role {
            Role::Joiner => "ahenk pairing confirm joiner 1",
            Role::Inviter => "ahenk pairing confirm inviter 1",
        });
        *blake3::keyed_hash(&key, &self.transcript).as_bytes()
    }

    /// Whether `proof` is the confirmation of `role`. Constant time.
    pub(super) fn confirms(&self, role: Role, proof: &[u8; 32]) -> bool {
        // `Hash` compares in constant time; arrays do not.
        Hash::from_bytes(self.confirmation(role)) == Hash::from_bytes(*proof)
    }

    /// Encrypts and authenticates the one sealed message of `role`.
    pub(super) fn seal(&self, role: Role, plain: &[u8]) -> Vec<u8> {
        self.cipher(role)
            .encrypt(&Nonce::default(), Payload { msg: plain, aad: &self.transcript })
            .expect("the message is far below what the cipher can take")
    }

    /// Opens the one sealed message of `role`; `None` if anything about it is not as sealed.
    pub(super) fn open(&self, role: Role, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.cipher(role)
            .decrypt(&Nonce::default(), Payload { msg: sealed, aad: &self.transcript })
            .ok()
            .map(Zeroizing::new)
    }

    /// A fixed nonce is safe because each of the two keys seals one message.
    fn cipher(&self, role: Role) -> ChaCha20Poly1305 {
        let key = self.key(match role {
            Role::Joiner => "ahenk pairing seal joiner 1",
            Role::Inviter => "ahenk pairing seal inviter 1",
        });
        ChaCha20Poly1305::new(Key::from_slice(key.as_slice()))
    }

    fn key(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut hasher = Hasher::new_derive_key(purpose);
        hasher.update(&self.secret).update(&self.transcript);
        Zeroizing::new(*hasher.finalize().as_bytes())
    }
}

/// Random numbers from a secret seed: the BLAKE3 output stream of it.
struct SeededRng(OutputReader);

impl SeededRng {
    fn new(seed: &[u8; 32]) -> SeededRng {
        SeededRng(Hasher::new_derive_key("ahenk pairing random 1").update(seed).finalize_xof())
    }
}

impl RngCore for SeededRng {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

impl CryptoRng for SeededRng {}
