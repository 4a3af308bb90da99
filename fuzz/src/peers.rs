//! A whole engine and a peer that sends it anything.

use engine::identity::{DeviceCert, Identity, PeerKey, SecretKey};
use engine::testing::{Author, identity_of, test_identity, test_root};

use crate::codec::{account, replica};
use crate::device::Device;
use crate::script::Peer;
use crate::tape::Tape;

/// Of the account, and turned hostile: what it writes in its own name counts, nothing else changes.
pub fn member(data: &[u8]) {
    let mut tape = Tape::new(data);
    let author = Author::new(9);
    let mut device = Device::new(author.identity.peer_key(), false);
    let root = tape.u8() % 4 == 0;
    let mut peer = Peer::new(author.identity.cert.clone(), author, Author::new(9), root);
    device.receive(peer.hello());
    assert!(device.ready());
    peer.play(&mut tape, &mut device, true);
    if !peer.stated {
        assert!(!device.revoked());
        assert!(device.knowledge().prefix_len(&device.replica) >= 1, "its own commit is there");
        for (known, _) in device.knowledge().iter() {
            let may = [device.replica.device, peer.author.replica.device, account().device()];
            assert!(may.contains(&known.device), "{known:?} was written by nobody");
        }
    }
    assert_eq!(device.knowledge().prefix_len(&replica(8)), 0, "written in another's name");
    if !device.revoked() {
        device.assert_well();
    }
}

/// Somebody with a key and no valid certificate for it: nothing of what it says is applied, kept or known.
pub fn stranger(data: &[u8]) {
    let mut tape = Tape::new(data);
    let secret = SecretKey::from_bytes(&[77; 32]);
    let own = PeerKey(secret.public());
    let kind = tape.u8() % 6;
    let (peer, cert) = match kind {
        // Of another account, where all is in order.
        0 => {
            let foreign = identity_of(&SecretKey::from_bytes(&[7; 32]), 9);
            (foreign.peer_key(), foreign.cert)
        }
        // It made its own root key and certificate.
        1 => (own, DeviceCert::issue(&secret, PeerKey([5; 32]), "x", 1, true).expect("a valid name")),
        // It claims the account, and signed that itself.
        2 => {
            let mut cert = DeviceCert::issue(&secret, own, "x", 1, true).expect("a valid name");
            cert.account = account();
            (own, cert)
        }
        // A certificate of the account that it found somewhere.
        3 => (own, test_identity(9).cert),
        // A good certificate of its own key, a little improved.
        4 => {
            let mut cert = DeviceCert::issue(&test_root(), own, "x", 1, false).expect("a valid name");
            cert.admin = true;
            (own, cert)
        }
        // It was a device of the account, and is revoked.
        _ => (test_identity(9).peer_key(), test_identity(9).cert),
    };
    // It writes as the tenth device, whose key it has only in the last case; else it signs with a key of its own.
    let author = || match kind {
        5 => Author::new(9),
        _ => Author::of(Identity { secret: secret.clone(), cert: cert.clone(), root: None }, 10),
    };
    let mut device = Device::new(peer, kind == 5);
    let before = device.state();
    let mut peer = Peer::new(cert.clone(), author(), author(), false);
    peer.play(&mut tape, &mut device, false);
    assert_eq!(device.state(), before);
    assert!(!device.ready());
    device.assert_well();
}
