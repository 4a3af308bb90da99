//! Signatures that this thread made or verified, remembered for the simulator: there, all devices of an account live in
//! one process, and each would verify what another has just signed.
//!
//! Invariants: signing and verifying are pure functions, so that an answer from memory is the answer; only what was
//! true is remembered; memory is bounded; one answer in [`CHECKED_EVERY`] is computed all the same and compared. Without
//! the feature `planted`, which only the simulator asks for, nothing is remembered.
//!
//! A thread may also ask for [`stand_ins`]: hashes in place of signatures, which make a sixth of a simulated run. They are
//! what a signature scheme is idealised to (Canetti 2003, F_SIG: nobody forges, for nobody in the run computes them but
//! the holder of the key), so that they prove nothing about Ed25519, and all that they should about those who use it.

#[cfg(feature = "planted")]
pub use memory::{StandIns, stand_ins};
#[cfg(feature = "planted")]
pub(crate) use memory::{sign, standing_in, verify};

#[cfg(all(not(feature = "planted"), any(test, feature = "testing")))]
pub(crate) fn standing_in() -> bool {
    false
}

#[cfg(not(feature = "planted"))]
pub(crate) fn sign(_: &[u8; 32], _: &[u8], sign: impl FnOnce() -> [u8; 64]) -> [u8; 64] {
    sign()
}

#[cfg(not(feature = "planted"))]
pub(crate) fn verify(_: &[u8; 32], _: &[u8], _: &[u8; 64], verify: impl FnOnce() -> bool) -> bool {
    verify()
}

#[cfg(feature = "planted")]
mod memory {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    /// Signatures in memory; beyond that it starts anew.
    const REMEMBERED_MAX: usize = 4096;
    /// What a stand-in begins with: a point that no signature begins with but by a chance of 2^-252.
    const STAND_IN: [u8; 32] = *b"ahenk: this stands in, unproven.";
    /// One answer of so many is checked.
    const CHECKED_EVERY: u64 = 64;

    #[derive(Default)]
    struct Memory {
        made: BTreeMap<([u8; 32], Vec<u8>), [u8; 64]>,
        valid: BTreeMap<[u8; 64], ([u8; 32], Vec<u8>)>,
        answers: u64,
    }

    impl Memory {
        fn due(&mut self) -> bool {
            self.answers += 1;
            self.answers.is_multiple_of(CHECKED_EVERY)
        }

        fn add(&mut self, key: &[u8; 32], message: &[u8], sig: [u8; 64]) {
            if self.valid.len() >= REMEMBERED_MAX {
                self.valid.clear();
                self.made.clear();
            }
            self.valid.insert(sig, (*key, message.to_vec()));
        }
    }

    thread_local! {
        static MEMORY: RefCell<Memory> = RefCell::default();
        static STAND_INS: Cell<bool> = const { Cell::new(false) };
    }

    /// While it lives, its thread makes and takes stand-ins.
    #[derive(Debug)]
    #[must_use]
    pub struct StandIns(());

    impl Drop for StandIns {
        fn drop(&mut self) {
            STAND_INS.set(false);
        }
    }

    /// Has this thread make, and take, hashes in place of signatures. Real signatures are taken as before.
    pub fn stand_ins() -> StandIns {
        STAND_INS.set(true);
        StandIns(())
    }

    /// Whether this thread makes stand-ins.
    pub(crate) fn standing_in() -> bool {
        STAND_INS.get()
    }

    /// What stands in for this key's signature of this message.
    fn stand_in(key: &[u8; 32], message: &[u8]) -> [u8; 64] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key).update(message);
        let mut sig = [0; 64];
        sig[..32].copy_from_slice(&STAND_IN);
        sig[32..].copy_from_slice(hasher.finalize().as_bytes());
        sig
    }

    /// What `sign` gives for this public key and message. What a key signed, it verifies.
    pub(crate) fn sign(key: &[u8; 32], message: &[u8], sign: impl FnOnce() -> [u8; 64]) -> [u8; 64] {
        if standing_in() {
            return stand_in(key, message);
        }
        MEMORY.with_borrow_mut(|memory| {
            let question = (*key, message.to_vec());
            if let Some(sig) = memory.made.get(&question).copied() {
                if memory.due() {
                    assert_eq!(sign(), sig, "a remembered signature is what signing gives");
                }
                return sig;
            }
            let sig = sign();
            memory.add(key, message, sig);
            memory.made.insert(question, sig);
            sig
        })
    }

    /// What `verify` says of this public key, message and signature.
    pub(crate) fn verify(
        key: &[u8; 32],
        message: &[u8],
        sig: &[u8; 64],
        verify: impl FnOnce() -> bool,
    ) -> bool {
        if standing_in() && *sig == stand_in(key, message) {
            return true;
        }
        MEMORY.with_borrow_mut(|memory| {
            let known = memory.valid.get(sig).is_some_and(|(of, what)| of == key && what == message);
            if !known {
                let valid = verify();
                if valid {
                    memory.add(key, message, *sig);
                }
                return valid;
            }
            if memory.due() {
                assert!(verify(), "a remembered signature is valid");
            }
            true
        })
    }
}

#[cfg(all(test, feature = "planted"))]
mod tests {
    use super::{sign, stand_ins, verify};

    #[test]
    fn only_what_was_true_of_just_this_is_remembered() {
        let (key, message, sig) = ([1; 32], b"message", [2; 64]);
        assert!(!verify(&key, message, &sig, || false));
        assert!(verify(&key, message, &sig, || true));
        assert!(verify(&key, message, &sig, || panic!("it is remembered")));
        assert!(!verify(&[3; 32], message, &sig, || false), "another key is another question");
        assert!(!verify(&key, b"other", &sig, || false), "another message is another question");
        assert_eq!(sign(&key, b"new", || [4; 64]), [4; 64]);
        assert_eq!(sign(&key, b"new", || panic!("it is remembered")), [4; 64]);
        assert!(verify(&key, b"new", &[4; 64], || panic!("what a key signed, it verifies")));
    }

    #[test]
    fn a_stand_in_is_of_one_key_and_message_and_only_where_asked_for() {
        let (key, message) = ([5; 32], b"stand-in");
        let for_now = stand_ins();
        let sig = sign(&key, message, || panic!("nothing is signed"));
        assert!(verify(&key, message, &sig, || panic!("it is known")));
        assert!(!verify(&[6; 32], message, &sig, || false));
        assert!(!verify(&key, b"another", &sig, || false));
        assert!(verify(&key, message, &[1; 64], || true), "a real signature is taken as before");
        drop(for_now);
        assert!(!verify(&key, message, &sig, || false));
    }

    #[test]
    #[should_panic(expected = "a remembered signature is valid")]
    fn now_and_then_an_answer_is_checked() {
        let key = [7; 32];
        assert!(verify(&key, b"lie", &[9; 64], || true));
        (0..64).for_each(|_| {
            verify(&key, b"lie", &[9; 64], || false);
        });
    }
}
