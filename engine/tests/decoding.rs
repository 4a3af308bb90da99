//! What one frame can make a device hold while it is decoded, counted by the allocator: the frames that take most memory
//! for their bytes, made as an honest device would not.

use engine::commit::{Commit, CommitHash, ContentHash, Op};
use engine::config::{DECODED_BYTES_MAX, INFLATED_BYTES_MAX, REPLICAS_MAX, RUN_COMMITS_MAX};
use engine::cost;
use engine::hlc::Hlc;
use engine::identity::Sig;
use engine::statement::{Branch, Fence, ForkProof, Revocation, Statement, fork_commit};
use engine::testing::{Author, costly_frames, frame_of, nests, row, rows, test_root};
use engine::value::Value;
use engine::wire::message::parse;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Room for the payload, and for what decoding needs besides what it makes.
const BESIDES: usize = 3 * INFLATED_BYTES_MAX;
/// What the dictionaries may take, over and above.
const DICTIONARIES: usize = 2 * DECODED_BYTES_MAX;

/// What a device holds at most while it reads a frame, in bytes, and whether it takes it.
fn peak(frame: &[u8]) -> (usize, bool) {
    let account = Author::new(9).identity.account();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let taken = parse(frame, &account).is_ok();
    (MEMORY.peak_usage().saturating_sub(before), taken)
}

fn framed(commits: usize, ops: &dyn Fn() -> Vec<Op>) -> Vec<u8> {
    frame_of(7, Author::new(9), commits, ops)
}

/// The largest statements: a proof of a fork of two branches of full length, and a revocation that states where each of as
/// many replicas as may be ends.
fn statements() -> [(&'static str, Commit); 2] {
    let identity = Author::new(9).identity;
    let branch = |n| Branch { contents: vec![ContentHash([n; 32]); RUN_COMMITS_MAX], sig: Sig([1; 64]) };
    let end = (RUN_COMMITS_MAX as u64, CommitHash([1; 32]));
    let proof = ForkProof::new(identity.cert.clone(), 1, end, [branch(1), branch(2)]);
    let fence = Fence { seq: 1, hash: CommitHash([1; 32]), sig: Sig([1; 64]) };
    let fences = (0..REPLICAS_MAX as u64).map(|incarnation| (incarnation, fence)).collect();
    let revocation = Revocation { device: identity.device(), issued_ms: 1, reason: String::new(), fences };
    let (revoked, _) =
        Statement::Revoke(revocation).into_commit(&test_root(), Hlc::new(1_700_000_000_000, 0));
    [("fork", fork_commit(&identity.account(), proof)), ("revocation", revoked)]
}

/// One test, because the allocator counts for the whole process.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are worth reading too")]
fn no_frame_makes_a_device_hold_more_than_its_bound_while_it_is_decoded() {
    // Those that are within the bound: a name and the frame.
    let within = [
        ("nulls", framed(1, &|| row(Value::List(vec![Value::Null; 980_000])))),
        ("nested maps, as many as may be", framed(1, &|| nests(1_300))),
        ("lists of lists", framed(1, &|| row(Value::List(vec![Value::List(vec![Value::Null]); 300_000])))),
        ("operations", framed(1, &|| rows(60_000, 0))),
        ("fields", framed(1, &|| rows(150, 1_000))),
        ("commits", framed(16_000, &Vec::new)),
        ("text", framed(4, &|| row(Value::Text("y".repeat(900_000))))),
    ];
    let frames = within.map(|(name, frame)| (name, frame, true)).into_iter();
    let costly = costly_frames(7, &Author::new(9));
    for (name, frame, within) in frames.chain(costly.into_iter().map(|(name, frame)| (name, frame, false))) {
        let (peak, taken) = peak(&frame);
        println!("{name}: {} bytes on the wire, {} KiB in memory, taken: {taken}", frame.len(), peak / 1024);
        assert_eq!(taken, within, "{name}");
        let dictionary = name.starts_with("dictionary");
        let bound = if dictionary { DICTIONARIES } else { DECODED_BYTES_MAX };
        assert!(peak <= bound + BESIDES, "{name}: {peak} bytes");
        assert!(!dictionary || peak >= 8 * 1024 * 1024, "{name} does not get far: {peak} bytes");
    }
    for (name, commit) in statements() {
        let (encoded, account) = (commit.encode(), Author::new(9).identity.account());
        let cost = cost::of_commit(&commit, encoded.len());
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        assert_eq!(Commit::decode(&encoded, &account), Ok(commit));
        let peak = MEMORY.peak_usage().saturating_sub(before);
        println!("{name}: {} bytes, {peak} in memory, costs {cost}", encoded.len());
        assert!(peak <= cost, "{name}: {peak} bytes in memory, of {cost}");
    }
}
