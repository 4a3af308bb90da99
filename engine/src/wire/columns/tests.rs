//! Tests of the columnar form: it says the same commits, in fewer bytes, and no bytes do harm.

use std::io::Write as _;

use flate2::{Compression, write::DeflateEncoder};
use proptest::prelude::*;

use super::*;
use crate::commit::{Deps, Op, OpKind, put_replica, sign_commit, verify_commit};
use crate::config::COMMIT_OPS_MAX;
use crate::identity::{Dot, ReplicaId};
use crate::statement::Statement;
use crate::testing::{Author, any_op, op, test_identity, test_root};
use crate::value::Value;

fn account() -> AccountId {
    test_identity(0).account()
}

const SIG: Sig = Sig([9; 64]);

fn run(commits: &[Commit]) -> Run<Commit> {
    Run { commits: commits.to_vec(), sig: SIG }
}

fn encoded(commits: &[Commit]) -> Vec<u8> {
    let mut writer = Writer::new();
    encode_runs(&[run(commits)], &mut writer);
    writer.into_bytes()
}

fn decoded_runs(bytes: &[u8]) -> Result<Vec<Run<HashedCommit>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let runs = decode_runs(&mut reader, &account())?;
    reader.finish()?;
    Ok(runs)
}

/// The commits of the only run.
fn decoded(bytes: &[u8]) -> Result<Vec<HashedCommit>, DecodeError> {
    let mut runs = decoded_runs(bytes)?;
    if runs.len() == 1 { Ok(runs.remove(0).commits) } else { Err(DecodeError::Invalid("not one run")) }
}

/// Columns of a run, even where rows are shorter.
fn as_columns(commits: &[Commit]) -> Vec<u8> {
    let mut writer = Writer::new();
    encode::by_columns(&parts(&[run(commits)]), &mut writer);
    writer.into_bytes()
}

fn as_rows(commits: &[Commit]) -> Vec<u8> {
    let mut writer = Writer::new();
    encode::by_rows(&parts(&[run(commits)]), &mut writer);
    writer.into_bytes()
}

fn hashed(commits: &[Commit]) -> Vec<HashedCommit> {
    commits.iter().cloned().map(HashedCommit::of).collect()
}

fn deflated(bytes: &[u8]) -> usize {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory").len()
}

prop_compose! {
    fn any_deps()(
        seqs in proptest::collection::btree_map((1u8..5, 0u64..2), 1u64..=i64::MAX as u64, 0..3),
    ) -> Deps {
        let replica = |n: u8, incarnation| ReplicaId { device: test_identity(n).device(), incarnation };
        seqs.into_iter().map(|((n, incarnation), seq)| (replica(n, incarnation), seq)).collect()
    }
}

fn any_hlc() -> impl Strategy<Value = Hlc> {
    let near = (0u64..3, 0u16..3).prop_map(|(ms, counter)| Hlc::new(1_700_000_000_000 + ms, counter));
    prop_oneof![3 => near, 1 => (1..1u64 << 62).prop_map(Hlc)]
}

prop_compose! {
    /// A run that begins with the replica's first commit, or later.
    fn any_run(commits_max: usize)(
        parts in proptest::collection::vec(
            (any_hlc(), any_deps(), proptest::collection::vec(any_op(), 0..6)),
            1..=commits_max,
        ),
        skipped in 0usize..3,
    ) -> Vec<Commit> {
        let mut author = Author::new(0);
        let commits = parts.into_iter().map(|(hlc, deps, ops)| author.commit(hlc, deps, ops).0);
        let mut run: Vec<Commit> = commits.collect();
        run.drain(..skipped.min(run.len() - 1));
        run
    }
}

proptest! {
    #[test]
    fn a_run_comes_back_with_its_hashes(run in any_run(12)) {
        let expected = hashed(&run);
        prop_assert_eq!(decoded(&encoded(&run)), Ok(expected.clone()));
        prop_assert_eq!(decoded(&as_columns(&run)), Ok(expected.clone()));
        prop_assert_eq!(decoded(&as_rows(&run)), Ok(expected));
    }

    #[test]
    fn runs_of_a_frame_come_back_in_their_order(
        runs in proptest::collection::vec(any_run(5), 0..5),
        statement: prop::sample::Index,
    ) {
        let mut runs: Vec<Run<Commit>> = runs.iter().map(|commits| run(commits)).collect();
        let stated = Statement::Certify(test_identity(1).cert);
        let stated = stated.into_commit(&test_root(), Hlc::new(1, 0));
        runs.insert(statement.index(runs.len() + 1), Run { commits: vec![stated.0], sig: stated.1 });
        for (at, run) in (1..).zip(&mut runs) {
            run.sig.0[0] = at;
        }
        let expected: Vec<_> =
            runs.iter().map(|run| Run { commits: hashed(&run.commits), sig: run.sig }).collect();
        let (mut chosen, mut columns, mut rows) = (Writer::new(), Writer::new(), Writer::new());
        encode_runs(&runs, &mut chosen);
        encode::by_columns(&parts(&runs), &mut columns);
        encode::by_rows(&parts(&runs), &mut rows);
        for writer in [chosen, columns, rows] {
            prop_assert_eq!(decoded_runs(writer.as_bytes()), Ok(expected.clone()));
        }
    }

    #[test]
    fn stretches_for_a_store_come_back_in_their_order(
        runs in proptest::collection::vec(any_run(5), 1..5),
    ) {
        let mut writer = Writer::new();
        encode_stretches(runs.iter().map(|run| run.iter().collect()).collect(), &mut writer);
        let mut reader = Reader::new(writer.as_bytes());
        let expected: Vec<_> = runs.iter().map(|run| hashed(run)).collect();
        prop_assert_eq!(decode_stretches(&mut reader, &account(), &mut Budget::default()), Ok(expected));
        prop_assert_eq!(reader.finish(), Ok(()));
        for end in 0..writer.len() {
            let mut cut = Reader::new(&writer.as_bytes()[..end]);
            prop_assert!(decode_stretches(&mut cut, &account(), &mut Budget::default()).is_err());
        }
    }

    #[test]
    fn a_run_takes_just_what_its_commits_cost_to_decode_in_either_form(run in any_run(6)) {
        let cost = cost::of_commits(&hashed(&run));
        for bytes in [as_columns(&run), as_rows(&run)] {
            let within = |budget: &mut Budget| decode_runs_within(&mut Reader::new(&bytes), &account(), budget);
            let mut budget = Budget::of(cost);
            prop_assert!(within(&mut budget).is_ok());
            prop_assert_eq!(budget.left(), 0);
            let refused = within(&mut Budget::of(cost - 1));
            prop_assert_eq!(refused, Err(DecodeError::TooLarge("the memory to decode into")));
        }
    }

    #[test]
    fn a_run_is_never_longer_than_its_rows(run in any_run(4)) {
        let (chosen, columns, rows) = (encoded(&run), as_columns(&run), as_rows(&run));
        prop_assert_eq!(chosen.len(), columns.len().min(rows.len()));
    }

    #[test]
    fn a_changed_byte_is_refused_or_leaves_no_valid_signature(
        run in any_run(4),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        columns: bool,
    ) {
        let mut bytes = if columns { as_columns(&run) } else { as_rows(&run) };
        for (place, change) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= change;
        }
        let expected = hashed(&run);
        let last = expected.last().expect("a run has a commit");
        let author = test_identity(0);
        let sig = sign_commit(&author, &last.hash);
        if let Ok(read) = decoded(&bytes) {
            let read_last = read.last().expect("a run has a commit");
            let identical = read == expected;
            prop_assert_eq!(verify_commit(&account(), &author.peer_key(), &read_last.hash, &sig), identical);
            for HashedCommit { commit, hash, bytes } in &read {
                let encoded = commit.encode();
                prop_assert_eq!((commit.hash(), encoded.len()), (*hash, *bytes));
                prop_assert_eq!(Commit::decode(&encoded, &account()), Ok(commit.clone()));
            }
        }
    }

    #[test]
    fn any_bytes_read_without_panic(tag in 0u8..3, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decoded_runs(&[&[1, tag], &bytes[..]].concat());
    }

    #[test]
    fn any_bytes_behind_a_good_head_read_without_panic(
        bytes in proptest::collection::vec(prop_oneof![3 => 0u8..6, 1 => any::<u8>()], 0..200),
    ) {
        let good = as_columns(&[long_keys(0)]);
        // A count of runs, the head of one, and its signature.
        let head = 2 + 1 + 24 + 1 + 32 + 64;
        let _ = decoded_runs(&[&good[..head], &bytes[..]].concat());
    }
}

proptest! {
    // Most truncations are found out only after a certificate was verified.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_truncation_is_refused(run in any_run(3)) {
        for bytes in [as_columns(&run), as_rows(&run)] {
            for end in 0..bytes.len() {
                prop_assert!(decoded(&bytes[..end]).is_err());
            }
        }
    }
}

#[test]
fn every_single_bit_of_the_columns_matters_or_changes_nothing() {
    let mut author = Author::new(0);
    let run: Vec<Commit> = (0..3)
        .map(|n| {
            let fields =
                [("a".to_owned(), Value::Int(n)), ("b".to_owned(), Value::Text("x".repeat(n as usize)))];
            let ops = vec![
                op("t", &format!("row-{n}"), OpKind::Put, fields.into()),
                op("u", "row-0", OpKind::Update, [("a".to_owned(), Value::List(vec![Value::Null]))].into()),
            ];
            author.commit(Hlc::new(1_700_000_000_000, n as u16), Deps::new(), ops).0
        })
        .collect();
    let (bytes, expected) = (as_columns(&run), hashed(&run));
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = decoded(&bytes) {
            assert!(read == expected || read.last().map(|c| c.hash) != expected.last().map(|c| c.hash));
        }
    }
}

/// `commits` commits of `ops` operations each, on one row key and with one field, all of the longest
/// names, told in about two bytes an operation.
fn blow_up(commits: usize, ops: usize) -> Vec<u8> {
    let longest = "k".repeat(crate::config::ROW_KEY_BYTES_MAX - 1);
    let ops = (0..ops).map(|n| {
        let fields = [("f".repeat(128), Value::Null)].into();
        op("t", &format!("{longest}{}", char::from(b'!' + n as u8)), OpKind::Put, fields)
    });
    let ops: Vec<Op> = ops.collect();
    let mut author = Author::new(0);
    let hlc = Hlc::new(1_700_000_000_000, 0);
    let run: Vec<Commit> = (0..commits).map(|_| author.commit(hlc, Deps::new(), ops.clone()).0).collect();
    as_columns(&run)
}

#[test]
fn names_repeated_beyond_the_limit_of_a_run_are_refused() {
    // 80 * 652 bytes a commit.
    let (below, beyond) = (blow_up(80, 80), blow_up(81, 80));
    assert!(beyond.len() < 32 * 1024);
    assert!(decoded(&below).is_ok());
    assert_eq!(decoded(&beyond), Err(DecodeError::TooLarge("the runs of a frame")));
}

/// `commits` commits of one operation, which writes the same long text each time in about two bytes.
fn long_values(commits: usize) -> Vec<u8> {
    let mut author = Author::new(0);
    let write =
        |text: &str| op("t", "r", OpKind::Put, [("f".to_owned(), Value::Text(text.to_owned()))].into());
    let ops = vec![write(&"v".repeat(50_000))];
    let run: Vec<Commit> =
        (0..commits).map(|_| author.commit(Hlc::new(1, 0), Deps::new(), ops.clone()).0).collect();
    as_columns(&run)
}

#[test]
fn values_shared_beyond_the_limit_of_a_frame_are_refused() {
    let (below, beyond) = (long_values(RUNS_BYTES_MAX / 50_200), long_values(RUNS_BYTES_MAX / 50_000 + 1));
    assert!(beyond.len() < 60_000);
    assert!(decoded(&below).is_ok());
    assert_eq!(decoded(&beyond), Err(DecodeError::TooLarge("the runs of a frame")));
    // Within one commit it is found out before the text is put together.
    let ops = (0..30).map(|n| {
        let fields = [("f".to_owned(), Value::Text("v".repeat(50_000)))].into();
        op("t", &format!("{n:02}"), OpKind::Put, fields)
    });
    let commit = Commit { ops: ops.collect(), ..long_keys(0) };
    assert_eq!(decoded(&as_columns(&[commit])), Err(DecodeError::TooLarge("a commit")));
}

#[test]
fn a_value_may_not_share_more_than_there_is_nor_less_than_a_character() {
    let texts = |a: &str, b: &str| {
        let row = |row: &str, text: &str| {
            op("t", row, OpKind::Put, [("f".to_owned(), Value::Text(text.to_owned()))].into())
        };
        as_columns(&[Commit { ops: vec![row("a", a), row("b", b)], ..long_keys(0) }])
    };
    // The columns of the field end with: rests 5 and 2, shares 0 and 3, and the rests themselves.
    let good = texts("abcde", "abcxy");
    let end = [2, 5, 2, 2, 0, 3, 7];
    let at = good.windows(end.len()).position(|window| window == end).expect("columns") + 5;
    assert!(decoded(&good).is_ok());
    let mut bad = good;
    bad[at] = 6;
    assert_eq!(decoded(&bad), Err(DecodeError::Invalid("a shared start of a value")));
    // Two texts that share the first byte of a character and are whole all the same.
    assert!(decoded(&texts("abc\u{e9}", "abc\u{e8}")).is_ok());
    let cut = texts("abc\u{e9}", "abcdefg");
    let at = cut.windows(7).position(|window| window == [2, 5, 4, 2, 0, 3, 9]).expect("columns") + 5;
    let mut bad = cut;
    bad[at] = 4;
    assert_eq!(decoded(&bad), Err(DecodeError::BadText));
}

/// One commit of `ops` operations, each in a row of its own whose key is told in 6 bytes and is 512 long.
fn long_keys(ops: usize) -> Commit {
    let (start, replica) = ("k".repeat(508), Author::new(0).replica);
    let ops = (0..ops).map(|n| op("t", &format!("{start}{n:04x}"), OpKind::Delete, Default::default()));
    let dot = Dot { replica, seq: 2 };
    Commit {
        dot,
        prev: CommitHash([1; 32]),
        hlc: Hlc::new(1, 0),
        deps: Deps::new(),
        introduces: None,
        statement: None,
        ops: ops.collect(),
    }
}

#[test]
fn a_commit_that_grows_beyond_its_limit_is_refused_before_it_is_put_together() {
    let fits = COMMIT_BYTES_MAX / 520;
    assert!(decoded(&as_columns(&[long_keys(fits)])).is_ok());
    let mut beyond = long_keys(8 * fits);
    // An error that would be found in the whole commit, if it were put together.
    beyond.ops.extend(long_keys(1).ops);
    let beyond = as_columns(&[beyond]);
    assert!(beyond.len() < COMMIT_BYTES_MAX / 4);
    assert_eq!(decoded(&beyond), Err(DecodeError::TooLarge("a commit")));
}

#[test]
fn counts_beyond_the_input_are_refused_before_allocation() {
    let one = |write: &dyn Fn(&mut Writer)| {
        let mut writer = Writer::new();
        writer.u8(1);
        write(&mut writer);
        decoded(&[writer.as_bytes(), &[0; 66]].concat())
    };
    let claimed = one(&|writer| {
        writer.u8(COLUMNS);
        writer.varint(RUN_COMMITS_MAX as u64);
        put_replica(writer, &Author::new(0).replica);
    });
    assert_eq!(claimed, Err(DecodeError::Truncated));
    for tag in [ROWS, COLUMNS] {
        let none = one(&|writer| writer.raw(&[tag, 0]));
        assert_eq!(none, Err(DecodeError::Invalid("a run without commits")));
        let many = one(&|writer| {
            writer.u8(tag);
            writer.varint(RUN_COMMITS_MAX as u64 + 1);
        });
        assert_eq!(many, Err(DecodeError::TooLarge("a run of commits")));
    }
    assert_eq!(decoded_runs(&[9, 0, 0]), Err(DecodeError::Truncated));
    let ops = (0..=COMMIT_OPS_MAX).map(|n| op("t", &format!("{n:05x}"), OpKind::Delete, Default::default()));
    let commit = Commit { ops: ops.collect(), ..long_keys(0) };
    assert_eq!(decoded(&as_columns(&[commit])), Err(DecodeError::TooLarge("operations of a commit")));
}

#[test]
fn entries_left_over_in_a_column_are_refused() {
    // Without operations, the columns of shapes and row keys come last and are a length of 0 each.
    let bytes = as_columns(&[long_keys(0)]);
    for column in 1..=5 {
        let (before, after) = bytes.split_at(bytes.len() - column);
        assert_eq!(after[0], 0);
        let more = [before, &[1, 0], &after[1..]].concat();
        assert_eq!(decoded(&more), Err(DecodeError::Trailing));
    }
}

#[test]
fn rows_that_are_not_one_chain_are_refused() {
    let (mut author, mut other) = (Author::new(0), Author::new(1));
    let write = |author: &mut Author| author.commit(Hlc::new(1, 0), Deps::new(), Vec::new()).0;
    let [a, b, c] = [write(&mut author), write(&mut author), write(&mut author)];
    let foreign = write(&mut other);
    let refused = Err(DecodeError::Invalid("a run that is not contiguous"));
    assert!(decoded(&as_rows(&[a.clone(), b.clone(), c.clone()])).is_ok());
    assert_eq!(decoded(&as_rows(&[a.clone(), c])), refused);
    assert_eq!(decoded(&as_rows(&[a.clone(), foreign])), refused);
    let other_past = Commit { prev: CommitHash([7; 32]), ..b };
    assert_eq!(decoded(&as_rows(&[a, other_past])), refused);
}

#[test]
fn commits_that_break_an_invariant_are_refused_in_columns_too() {
    let good = Commit { ops: vec![], ..long_keys(0) };
    let two = |rows: [&str; 2]| rows.map(|row| op("t", row, OpKind::Put, Default::default())).to_vec();
    let mut delete = op("t", "r", OpKind::Delete, Default::default());
    delete.fields = op("t", "r", OpKind::Put, [("f".to_owned(), Value::Null)].into()).fields;
    assert!(decoded(&as_columns(std::slice::from_ref(&good))).is_ok());
    let seq = |seq| Dot { seq, ..good.dot };
    for bad in [
        Commit { dot: seq(0), ..good.clone() },
        Commit { dot: seq(1), ..good.clone() },
        Commit { dot: seq(u64::MAX), ..good.clone() },
        Commit { dot: seq(1), introduces: Some(Box::new(test_identity(1).cert)), ..good.clone() },
        Commit { prev: CommitHash::default(), ..good.clone() },
        Commit { hlc: Hlc(0), ..good.clone() },
        Commit { hlc: Hlc(u64::MAX), ..good.clone() },
        Commit { deps: [(good.dot.replica, 1)].into(), ..good.clone() },
        Commit { ops: two(["b", "a"]), ..good.clone() },
        Commit { ops: two(["a", "a"]), ..good.clone() },
        Commit { ops: vec![delete], ..good.clone() },
    ] {
        assert!(decoded(&as_columns(std::slice::from_ref(&bad))).is_err(), "{bad:?}");
    }
}

/// Numbers that look random and are the same on every machine (splitmix64).
fn noise(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A text of four words, about 24 bytes.
fn words(state: &mut u64) -> Value {
    const WORDS: [&str; 16] = [
        "open", "north", "invoice", "paper", "late", "shelf", "blue", "order", "todo", "second", "call",
        "van", "garden", "seven", "window", "maria",
    ];
    let words = std::array::from_fn::<_, 4, _>(|_| WORDS[(noise(state) % 16) as usize]);
    Value::Text(words.join(" "))
}

/// 10,000 operations in commits of 1 to 100, on rows of 8 fields with random keys of 16 bytes. Of 100
/// operations, `creates` create a row and the others change one field of a row that is there.
fn workload(creates: u64) -> Vec<Commit> {
    let (mut author, mut state, mut rows) = (Author::new(0), 1, vec!["0000000000000000".to_owned()]);
    let (mut run, mut left, mut ms) = (Vec::new(), 10_000, 1_700_000_000_000);
    while left > 0 {
        let count = (noise(&mut state) % 100 + 1).min(left);
        ms += noise(&mut state) % 60_000;
        // A row may come up twice, of which one operation stays.
        let ops = (0..count).map(|_| {
            if noise(&mut state) % 100 < creates {
                let row = format!("{:016x}", noise(&mut state));
                rows.push(row.clone());
                let fields = (0..8).map(|n| (format!("field-{n}"), words(&mut state)));
                op("items", &row, OpKind::Put, fields.collect())
            } else {
                let row = &rows[(noise(&mut state) % rows.len() as u64) as usize];
                let field = format!("field-{}", noise(&mut state) % 8);
                op("items", row, OpKind::Update, [(field, words(&mut state))].into())
            }
        });
        let ops = ops.collect();
        run.push(author.commit(Hlc::new(ms, 0), Deps::new(), ops).0);
        left -= count;
    }
    run
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are worth reading too")]
fn a_run_takes_less_than_three_quarters_of_its_rows_after_deflate() {
    for creates in [10, 50, 100] {
        let run = workload(creates);
        let ops = run.iter().map(|commit| commit.ops.len()).sum::<usize>() as f64;
        let (rows, columns) = (as_rows(&run), encoded(&run));
        let (small, large) = (deflated(&columns) as f64, deflated(&rows) as f64);
        println!(
            "{creates:3} % creates: {:.1} bytes/op by columns, {:.1} by rows; deflated {:.1} and {:.1}: {:.2}",
            columns.len() as f64 / ops,
            rows.len() as f64 / ops,
            small / ops,
            large / ops,
            small / large
        );
        assert_eq!(decoded(&columns), Ok(hashed(&run)));
        assert!(small < 0.75 * large, "{small} bytes by columns, {large} by rows");
    }
}
