//! Any bytes as the canonical form of a commit: what is read back is written as the same bytes, for they are hashed.
#![no_main]

use engine::commit::Commit;
use engine::identity::AccountId;
use engine::testing::test_root;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(commit) = Commit::decode(data, &AccountId(test_root().public())) {
        assert_eq!(commit.encode(), data);
    }
});
