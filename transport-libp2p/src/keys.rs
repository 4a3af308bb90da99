//! The one-to-one correspondence of libp2p's `PeerId` and the engine's [`PeerKey`].
//!
//! Invariant: only Ed25519 identities exist here. Such a `PeerId` holds the whole public key (an
//! identity multihash of its protobuf), so both directions are exact and nothing is looked up.

use engine::identity::{PeerKey, SecretKey};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};

/// Protobuf of an Ed25519 public key before its 32 bytes: field 1 = 1 (the type), field 2 of 32 bytes.
const PROTOBUF_PREFIX: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
/// Multihash code for "the digest is the data itself".
const IDENTITY_HASH: u64 = 0;

/// The key inside a peer id, or `None` if it is not an Ed25519 one.
pub(crate) fn key_of(peer: &PeerId) -> Option<PeerKey> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return None;
    }
    let key = hash.digest().strip_prefix(&PROTOBUF_PREFIX)?;
    Some(PeerKey(key.try_into().ok()?))
}

/// The peer id of a key, or `None` if the bytes are not a point of the curve: nobody has such a key.
pub(crate) fn peer_of(key: &PeerKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&key.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The device's key as libp2p wants it.
pub(crate) fn keypair_of(secret: &SecretKey) -> Keypair {
    let mut bytes = secret.to_bytes();
    // Any 32 bytes are a valid Ed25519 seed: only another length could fail.
    Keypair::ed25519_from_bytes(&mut bytes[..]).expect("32 bytes are an Ed25519 seed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_peer_ids_correspond_one_to_one() {
        for seed in 0..20 {
            let secret = SecretKey::from_bytes(&[seed; 32]);
            let key = PeerKey(secret.public());
            let peer = keypair_of(&secret).public().to_peer_id();
            assert_eq!(key_of(&peer), Some(key));
            assert_eq!(peer_of(&key), Some(peer));
        }
    }

    #[test]
    fn other_identities_have_no_key() {
        // A hashed (not inlined) key, as RSA identities have.
        assert_eq!(
            key_of(&"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse().expect("a peer id")),
            None
        );
    }
}
