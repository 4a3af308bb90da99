//! Merge, storage, wire and sync. `cargo bench -p benches -- --test` runs each once.

#![allow(missing_docs, clippy::print_stderr)]

use std::hint::black_box;

use benches::{apply_durably, batches, history, merge, shuffled, sync, unsynced, writes};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use engine::codec::{Reader, Writer};
use engine::commit::{Commit, verify_commit};
use engine::testing::test_identity;
use engine::wire::columns::{decode_runs, encode_runs};
use engine::wire::message::Run;

const OPERATIONS: u64 = 10_000;
const DURABLE: u64 = 2_000;

fn merging(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge in memory");
    group.throughput(Throughput::Elements(OPERATIONS)).sample_size(20);
    for devices in [2, 8] {
        let history = history(devices, OPERATIONS);
        let ordered = writes(&history);
        let mixed = shuffled(&ordered);
        let doubled: Vec<_> = mixed.iter().flat_map(|write| [*write, *write]).collect();
        assert!(merge(&ordered) == merge(&mixed) && merge(&mixed) == merge(&doubled), "merge commutes");
        for (name, writes) in [("in order", &ordered), ("shuffled", &mixed), ("each twice", &doubled)] {
            group.bench_function(format!("{devices} devices, {name}"), |b| {
                b.iter(|| merge(black_box(writes)));
            });
        }
    }
    group.finish();
}

fn storing(c: &mut Criterion) {
    let mut group = c.benchmark_group("durable, redb");
    group.throughput(Throughput::Elements(DURABLE)).sample_size(10);
    for size in [64, 1_000] {
        let batches = batches(DURABLE, size);
        group.bench_function(format!("batches of {size}"), |b| {
            b.iter_batched(
                || tempfile::tempdir().expect("a folder"),
                |folder| {
                    apply_durably(folder.path(), &batches);
                    folder
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn wire(c: &mut Criterion) {
    let account = test_identity(0).account();
    let signed = history(1, 1_000);
    let commits: Vec<Commit> = signed.iter().map(|(commit, _)| commit.clone()).collect();
    let runs = [Run { commits: commits.clone(), sig: signed[signed.len() - 1].1 }];
    let mut writer = Writer::new();
    encode_runs(&runs, &mut writer);
    let encoded = writer.into_bytes();
    eprintln!(
        "a run of {} operations: {:.1} B an operation, not deflated",
        commits.len(),
        encoded.len() as f64 / commits.len() as f64
    );
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(commits.len() as u64)).sample_size(20);
    group.bench_function("encode a run", |b| {
        b.iter(|| {
            let mut writer = Writer::new();
            encode_runs(black_box(&runs), &mut writer);
            writer.into_bytes()
        });
    });
    group.bench_function("decode a run", |b| {
        b.iter(|| decode_runs(&mut Reader::new(black_box(&encoded)), &account).expect("it decodes"));
    });
    group.throughput(Throughput::Elements(1));
    let (commit, sig) = &signed[signed.len() - 1];
    let author = test_identity(0).peer_key();
    group.bench_function("hash and verify a commit", |b| {
        b.iter(|| assert!(verify_commit(&account, &author, &black_box(commit).hash(), sig)));
    });
    group.finish();
}

fn syncing(c: &mut Criterion) {
    let mut group = c.benchmark_group("sync");
    group.throughput(Throughput::Elements(OPERATIONS)).sample_size(10);
    group.bench_function("initial, 10k operations, two engines", |b| {
        b.iter_batched(
            || unsynced(OPERATIONS),
            |mut mesh| {
                sync(&mut mesh);
                mesh
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(all, merging, storing, wire, syncing);
criterion_main!(all);
