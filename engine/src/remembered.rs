//! Signatures that this thread made or verified, remembered for the simulator: there, all devices of an account live in
//! one process, and each would verify what another has just signed.
//!
//! Invariants: signing and verifying are pure functions, so that an answer from memory is the answer; only what was
//! true is remembered; memory is bounded; one answer in [`CHECKED_EVERY`] is computed all the same and compared. Without
//! the feature `planted`, which only the simulator asks for, nothing is remembered.

#[cfg(feature = "planted")]
pub(crate) use memory::{sign, verify};

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
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Signatures in memory; beyond that it starts anew.
    const REMEMBERED_MAX: usize = 4096;
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
    }

    /// What `sign` gives for this public key and message. What a key signed, it verifies.
    pub(crate) fn sign(key: &[u8; 32], message: &[u8], sign: impl FnOnce() -> [u8; 64]) -> [u8; 64] {
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
    use super::{sign, verify};

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
    #[should_panic(expected = "a remembered signature is valid")]
    fn now_and_then_an_answer_is_checked() {
        let key = [7; 32];
        assert!(verify(&key, b"lie", &[9; 64], || true));
        (0..64).for_each(|_| {
            verify(&key, b"lie", &[9; 64], || false);
        });
    }
}
