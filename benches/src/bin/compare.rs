//! One table: what Ahenk costs, what else there is, and what it is to reach, all measured in this run.
//!
//! `cargo run --release -p benches --features peers --bin compare [PART...] [--million] [--plot=FILE]`, where a part is a
//! word of a heading's beginning. Without the feature, the peers are left out, and with them the goals that are ratios.
//! With `--plot`, how cost grows (the part `growth`) is drawn into an SVG file.

#![allow(clippy::print_stdout, reason = "this is a table for people")]

use std::path::Path;

use benches::e2e::{self, Way};
use benches::measure::{Goal, Spent, Table, best, once};
use benches::plot::{self, Chart};
use benches::receiver::Receiver;
use benches::workload::{Choice, Workload};
use benches::{apply_durably, batches, merge, shuffled};
use engine::codec::{Reader, Writer};
use engine::commit::{Commit, OpKind, verify_commit};
use engine::config::Config;
use engine::identity::AccountId;
use engine::io::{Change, Input};
use engine::name::{FieldName, RowKey, TableName};
use engine::store::{MemStore, Store, StoreRead};
use engine::testing::{Mesh, test_identity, test_root};
use engine::wire::columns::{decode_runs, encode_runs};
use engine::wire::message::Run;
use store::RedbStore;

const SMALL: u64 = 10_000;
const OPERATIONS: u64 = 100_000;
const MILLION: u64 = 1_000_000;
const ROUNDS: usize = 3;

fn account() -> AccountId {
    AccountId(test_root().public())
}

fn new_store(folder: &Path) -> RedbStore {
    RedbStore::create(&folder.join("ahenk.redb"), account(), [7; 16]).expect("a new database")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Receives frames into a store; what it takes includes inflating, decoding, hashing, verifying, merging and storing.
fn receive<S: Store>(store: S, frames: &[Vec<u8>]) -> Receiver<S> {
    let mut receiver = Receiver::new(store);
    frames.iter().for_each(|frame| receiver.frame(frame));
    receiver
}

fn memory(table: &mut Table, operations: u64) {
    table.section(&format!("memory: merge of {operations} operations, processor time an operation"));
    // What takes a few milliseconds only is measured more often.
    let rounds = if operations < OPERATIONS { 7 * ROUNDS } else { ROUNDS };
    let both = [Choice::Uniform, Choice::Zipf];
    for (devices, choice) in [2, 8].into_iter().flat_map(|devices| both.map(|choice| (devices, choice))) {
        let workload = Workload::new(devices, operations, choice);
        let writes = workload.writes();
        let mixed = shuffled(&writes);
        let name = format!("{devices} devices, {choice:?}");
        let ordered = best(rounds, || (), |()| merge(&writes).len()).per(operations).cpu_ns;
        table.row(&format!("{name}, in order"), ordered, "ns", Goal::None);
        let ours = best(rounds, || (), |()| merge(&mixed).len()).per(operations).cpu_ns;
        table.row(&format!("{name}, shuffled"), ours, "ns", Goal::None);
        let twice: Vec<_> = mixed.iter().chain(&mixed).copied().collect();
        let doubled = best(rounds, || (), |()| merge(&twice).len()).per(operations).cpu_ns - ours;
        table.row(&format!("{name}, each once more"), doubled, "ns", Goal::None);
        #[cfg(feature = "peers")]
        {
            let bare = best(rounds, || (), |()| benches::peers::bare_map(&mixed)).per(operations).cpu_ns;
            table.row(&format!("{name}, a bare hash map"), bare, "ns", Goal::None);
            // A small map lies in the caches whole.
            let goal = if operations >= OPERATIONS { Goal::AtMost(2.0) } else { Goal::None };
            table.row("  ratio to the bare map", ours / bare, "x", goal);
            let again =
                best(rounds, || (), |()| benches::peers::bare_map(&twice)).per(operations).cpu_ns - bare;
            table.row("  ratio to the bare map, each once more", doubled / again, "x", goal);
        }
    }
    let workload = Workload::new(8, operations, Choice::Uniform);
    let frames = workload.frames(1_000);
    let ours = best(ROUNDS, || (), |()| receive(MemStore::new(), &frames)).per(operations).cpu_ns;
    table.row("from frames into a store in memory, all included", ours, "ns", Goal::None);
    #[cfg(feature = "peers")]
    if operations == OPERATIONS {
        crdts(table, &workload, ours);
    }
}

#[cfg(feature = "peers")]
fn crdts(table: &mut Table, workload: &Workload, ours: f64) {
    use benches::peers::{automerge, loro, yrs};
    let mut writes = workload.writes();
    writes.truncate(20_000);
    let count = writes.len() as u64;
    let mut compare = |name: &str, spent: Spent, bytes: usize| {
        let each = spent.per(count).cpu_ns;
        table.row(&format!("{name}, merge of {count} from updates of 100"), each, "ns", Goal::None);
        table.row("  ratio to ours", each / ours, "x", Goal::None);
        table.row("  a whole document", bytes as f64 / count as f64, "B/op", Goal::None);
    };
    let made = yrs::make(&writes, 8);
    compare("yrs", best(1, || (), |()| yrs::merge(&made.updates)), made.whole_bytes);
    let made = automerge::make(&writes, 8);
    compare("automerge", best(1, || (), |()| automerge::merge(&made.updates)), made.whole_bytes);
    let made = loro::make(&writes, 8);
    compare("loro", best(1, || (), |()| loro::merge(&made.updates)), made.whole_bytes);
}

fn durable(table: &mut Table, operations: u64) {
    table.section(&format!("durable: merge of {operations} operations, processor time an operation"));
    let workload = Workload::new(8, operations, Choice::Uniform);
    for batch in [100, 1_000, 10_000] {
        let frames = workload.frames(batch);
        let goal = match (batch, operations) {
            (1_000, OPERATIONS) => Goal::AtMost(1.0),
            (10_000, MILLION) => Goal::AtMost(1.5),
            _ => Goal::None,
        };
        let rounds = if operations == OPERATIONS && batch > 100 { ROUNDS } else { 1 };
        let ours = best(rounds, folder, |folder| {
            let receiver = receive(new_store(folder.path()), &frames);
            drop(receiver);
            folder
        });
        let ours = ours.per(operations);
        table.row(&format!("from frames of {batch} into redb, all included"), ours.cpu_ns / 1e3, "us", goal);
        table.row("  the same by the clock", ours.wall_ns / 1e3, "us", Goal::None);
        #[cfg(feature = "peers")]
        durable_peers(table, &workload, &frames, batch, ours);
    }
    let (folder, frames) = (folder(), workload.frames(1_000));
    drop(receive(new_store(folder.path()), &frames));
    let bytes = std::fs::metadata(folder.path().join("ahenk.redb")).expect("the file").len();
    table.row("on disk", bytes as f64 / operations as f64, "B/op", Goal::None);
}

#[cfg(feature = "peers")]
fn durable_peers(table: &mut Table, workload: &Workload, frames: &[Vec<u8>], batch: usize, ours: Spent) {
    use benches::peers;
    let writes = workload.writes();
    let count = writes.len() as u64;
    let mut compare = |name: &str, goal: Goal, work: &dyn Fn(&Path)| {
        let spent = best(1, folder, |folder| {
            work(folder.path());
            folder
        });
        let each = spent.per(count).cpu_ns;
        table.row(&format!("  {name}"), each / 1e3, "us", Goal::None);
        table.row("    ratio to ours", each / ours.cpu_ns, "x", goal);
    };
    let goal = if batch == 1_000 { Goal::AtLeast(3.0) } else { Goal::None };
    compare("SQLite upsert, synchronous NORMAL", goal, &|folder| {
        peers::sqlite(folder, &writes, batch, false);
    });
    compare("SQLite upsert, synchronous FULL", Goal::None, &|folder| {
        peers::sqlite(folder, &writes, batch, true);
    });
    compare("redb, rows", Goal::None, &|folder| peers::redb_rows(folder, &writes, batch));
    compare("redb, frames appended as they are", Goal::None, &|folder| peers::redb_blobs(folder, frames));
}

/// Local transactions: what a batch of them costs the store, and what writers see who wait for a node.
fn commits(table: &mut Table) {
    const COUNT: u64 = 1_024;
    table.section(&format!("commits: {COUNT} local transactions, by the clock"));
    let mut single = 0.0;
    for together in [1, 8, 64] {
        let batches = batches(COUNT, together);
        // Neither making nor closing the file is part of it.
        let setup = || {
            let folder = folder();
            let store = apply_durably(folder.path(), &batches[..1]);
            (store, folder)
        };
        let apply = |(store, folder): (RedbStore, tempfile::TempDir)| {
            batches[1..].iter().for_each(|batch| store.apply(batch).expect("it is applied"));
            (store, folder)
        };
        let each = best(ROUNDS, setup, apply).per(COUNT).wall_ns / 1e3;
        table.row(&format!("the store alone, {together} together, a transaction"), each, "us", Goal::None);
        if together == 1 {
            single = each;
        } else {
            table.row("  times the rate of one", single / each, "x", Goal::None);
        }
    }
    #[cfg(feature = "peers")]
    {
        use benches::peers;
        let redb = |folder: &Path| {
            let db = peers::redb_new(folder);
            move || peers::redb_commits(&db, COUNT)
        };
        beside(table, ("redb, a small record", single, Goal::AtMost(1.3)), COUNT, redb);
        let file = |folder: &Path| {
            let folder = folder.to_owned();
            move || peers::fdatasync(&folder, COUNT)
        };
        beside(table, ("file and fdatasync", single, Goal::None), COUNT, file);
        let workload = Workload::new(1, COUNT, Choice::Uniform);
        let writes = workload.writes();
        let sqlite = |folder: &Path| {
            let (mut db, writes) = (peers::sqlite_open(folder, true), &writes);
            move || peers::sqlite_commits(&mut db, writes)
        };
        beside(table, ("SQLite, synchronous FULL", single, Goal::None), COUNT, sqlite);
    }
    writers(table, COUNT);
}

/// Something else's commits, each of one small record, and how many times as long the store's take.
#[cfg(feature = "peers")]
fn beside<W: FnMut()>(
    table: &mut Table,
    (name, single, goal): (&str, f64, Goal),
    count: u64,
    open: impl Fn(&Path) -> W,
) {
    let setup = || {
        let folder = folder();
        (open(folder.path()), folder)
    };
    let commit = |(mut commit, folder): (W, tempfile::TempDir)| {
        commit();
        (commit, folder)
    };
    let each = best(ROUNDS, setup, commit).per(count).wall_ns / 1e3;
    table.row(name, each, "us", Goal::None);
    table.row("  the store alone, beside it", single / each, "x", goal);
}

/// Writers who each wait for one transaction after the other: signing, the node and the way to it and back are included.
fn writers(table: &mut Table, count: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut single = 0.0;
    for writers in [1, 8, 64] {
        let mut least = (f64::INFINITY, f64::INFINITY, 0.0);
        for _ in 0..ROUNDS {
            let folder = folder();
            let together = runtime.block_on(e2e::write_together(folder.path(), writers, count));
            let each = together.spent.per(count);
            if each.wall_ns / 1e3 < least.0 {
                least = (each.wall_ns / 1e3, each.cpu_ns / 1e3, count as f64 / together.batches as f64);
            }
        }
        let (wall, cpu, batch) = least;
        table.row(&format!("a node, {writers} writers at a time, a transaction"), wall, "us", Goal::None);
        table.row("  of the processor", cpu, "us", Goal::None);
        if writers == 1 {
            single = wall;
        } else {
            table.row("  transactions that become durable together", batch, "", Goal::None);
            let goal = if writers == 64 { Goal::AtLeast(20.0) } else { Goal::None };
            table.row("  times the rate of one", single / wall, "x", goal);
        }
    }
}

fn wire(table: &mut Table, operations: u64) {
    table.section(&format!("wire: {operations} operations of 8 devices"));
    let workload = Workload::new(8, operations, Choice::Uniform);
    let frames = workload.frames(4_000);
    let bytes = frames.iter().map(Vec::len).sum::<usize>() as f64 / operations as f64;
    table.row("initial sync, everything included", bytes, "B/op", Goal::AtMost(20.0));
    let entropy = (workload.rows as f64).log2() / 8.0 + 3.0 / 8.0 + 600f64.log2() / 8.0 + 3.0 / 8.0 + 7.5;
    table.row("  what a row, field, stamp, author and value tell at least", entropy, "B/op", Goal::None);
    deltas(table, &workload);

    let run: Vec<Commit> = Workload::new(1, 1_000, Choice::Uniform).commits().cloned().collect();
    let count = run.len() as u64;
    let first = run[0].hash();
    let sig = engine::commit::sign_commit(&test_identity(1), &first);
    let runs = [Run { commits: run, sig }];
    let encode = |()| {
        let mut writer = Writer::new();
        encode_runs(&runs, &mut writer);
        writer.into_bytes()
    };
    let encoded = encode(());
    let each = |spent: Spent| spent.per(count).cpu_ns;
    table.row("encode a run of 1000, an operation", each(best(20, || (), encode)), "ns", Goal::None);
    let decode = |()| decode_runs(&mut Reader::new(&encoded), &account()).expect("it decodes");
    table.row("decode and hash it, an operation", each(best(20, || (), decode)), "ns", Goal::None);

    let signer = test_identity(1);
    let sign = best(200, || (), |()| engine::commit::sign_commit(&signer, &first)).cpu_ns / 1e3;
    table.row("sign a commit", sign, "us", Goal::None);
    let author = signer.peer_key();
    let verify = |()| assert!(verify_commit(&account(), &author, &first, &sig));
    let verify = best(200, || (), verify).cpu_ns / 1e3;
    table.row("verify a signature", verify, "us", Goal::None);
    table.row("  in runs of 125, an operation", verify / 125.0, "us", Goal::AtMost(0.5));
}

/// What two devices that both hold a history say to each other when one asks after writes of the other that it did not
/// hear of, because the cable was pulled while they were pushed.
fn deltas(table: &mut Table, workload: &Workload) {
    let mut mesh = Mesh::new(2, 1, Config::default());
    mesh.crash(0);
    mesh.replace_store(0, receive(MemStore::new(), &workload.frames(4_000)).store);
    mesh.restart(0);
    mesh.connect(0, 1);
    assert!(mesh.run_until_equal(600_000));
    mesh.run_ms(2_000);
    let traffic = |mesh: &Mesh| {
        let total = [0, 1].map(|node| mesh.engine(node).stats().total);
        total.map(|total| (total.bytes_sent, total.frames_sent))
    };
    for missing in [0, 1, 100, 10_000] {
        mesh.cut(0, 1);
        let from = mesh.engine(0).knowledge().prefix_len(&mesh.engine(0).replica()) + 1;
        (0..missing).for_each(|n| {
            mesh.write(0, vec![change(n)]);
        });
        mesh.run_ms(50);
        let before = traffic(&mesh);
        mesh.connect(0, 1);
        mesh.input(1, Input::SyncNow);
        assert!(mesh.run_until_equal(60_000));
        mesh.run_ms(500);
        let after = traffic(&mesh);
        let sum = |of: &dyn Fn((u64, u64)) -> u64| {
            after.iter().map(|total| of(*total)).sum::<u64>()
                - before.iter().map(|total| of(*total)).sum::<u64>()
        };
        let (bytes, frames) = (sum(&|(bytes, _)| bytes) as f64, sum(&|(_, frames)| frames) as f64);
        match missing {
            0 => table.row("a delta of nothing", bytes, "B", Goal::AtMost(64.0)),
            1 => {
                let own =
                    mesh.store(0).commits(&mesh.engine(0).replica(), from, 1, usize::MAX).expect("memory");
                let payload =
                    own.iter().map(|stored| stored.commit.encode().len() as f64 + 64.0).sum::<f64>();
                table.row("a lost commit, beyond the commit", bytes - payload, "B", Goal::AtMost(150.0));
            }
            _ => table.row(
                &format!("{missing} lost commits, a commit"),
                bytes / missing as f64,
                "B",
                Goal::None,
            ),
        }
        table.row("  frames there and back", frames, "", Goal::None);
    }
    let (before, timers) = (traffic(&mesh), mesh.counts.timers);
    mesh.run_ms(600_000);
    let bytes = traffic(&mesh).iter().map(|(bytes, _)| *bytes).sum::<u64>();
    let idle = bytes - before.iter().map(|(bytes, _)| *bytes).sum::<u64>();
    table.row("an idle pair, both ways, a minute", idle as f64 / 10.0, "B", Goal::None);
    table.row(
        "  wake-ups of a device, a minute",
        (mesh.counts.timers - timers) as f64 / 20.0,
        "",
        Goal::None,
    );
}

fn change(n: u64) -> Change {
    let field = FieldName::new("title").expect("a name");
    Change {
        table: TableName::new("tasks").expect("a name"),
        row: RowKey::new(&format!("task-{n:05}")).expect("a key"),
        kind: OpKind::Put,
        fields: [(field, format!("value is {:015x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4).into())]
            .into(),
    }
}

fn sync(table: &mut Table, operations: u64) {
    table.section(&format!("sync: {operations} operations from one device to a new one"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    for way in [Way::Tcp, Way::Memory] {
        let folder = folder();
        e2e::prepare(folder.path(), operations);
        let synced = runtime.block_on(e2e::initial_sync(folder.path(), way));
        let rate = operations as f64 / synced.spent.wall_ns * 1e9;
        let (name, goal) = match way {
            Way::Memory => ("queues in memory", Goal::None),
            Way::Tcp => ("libp2p, TCP over loopback", Goal::AtLeast(400_000.0)),
        };
        table.row(name, rate, "op/s", goal);
        let each = synced.spent.per(operations).cpu_ns / 1e3;
        table.row("  processor time of both, an operation", each, "us", Goal::None);
        // Only the first: what the process has once had it keeps, and the second uses again.
        if way == Way::Tcp {
            let memory = synced.memory_bytes as f64 / 2e6;
            table.row("  peak memory, a device", memory, "MB", Goal::AtMost(150.0));
        }
        table.row("  received", synced.received_bytes as f64 / operations as f64, "B/op", Goal::AtMost(20.0));
        table.row("  on its disk", synced.disk_bytes as f64 / operations as f64, "B/op", Goal::None);
        let live = synced.live;
        table.row("  a write until the other device has it, median", live.median_ns / 1e3, "us", Goal::None);
        for (stage, ns) in e2e::STAGES.iter().zip(live.stages_ns) {
            table.row(&format!("    {stage}"), ns / 1e3, "us", Goal::None);
        }
        table.row("    one in a hundred takes longer than", live.late_ns / 1e3, "us", Goal::None);
    }
    #[cfg(feature = "peers")]
    table.row(
        "loopback TCP alone",
        benches::peers::loopback_bytes_a_second(1 << 30) / 1e6,
        "MB/s",
        Goal::None,
    );
}

fn open(table: &mut Table, operations: u64) {
    table.section(&format!("open: a database of {operations} operations"));
    let folder = folder();
    let workload = Workload::new(8, operations, Choice::Uniform);
    drop(receive(new_store(folder.path()), &workload.frames(10_000)));
    let path = folder.path().join("ahenk.redb");
    let writes = workload.writes();
    let tasks = writes[0].1.table.clone();
    let (store, spent) = once(|| {
        let store = RedbStore::open(&path, account(), [8; 16]).expect("it opens");
        store.row(&tasks, &writes[7].1.row).expect("a read").expect("a row");
        store
    });
    let goal = if operations == MILLION { Goal::AtMost(100.0) } else { Goal::None };
    table.row("open and first read", spent.wall_ns / 1e6, "ms", goal);
    let mixed = shuffled(&writes);
    let reads = &mixed[..10_000];
    let read = |()| reads.iter().for_each(|(_, op)| drop(store.row(&tasks, &op.row).expect("a read")));
    let each = best(ROUNDS, || (), read).per(reads.len() as u64).cpu_ns / 1e3;
    table.row("point read", each, "us", Goal::None);
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let scan = |()| store.scan(&tasks, all, 10_000).expect("a scan").len();
    let each = best(ROUNDS, || (), scan).per(workload.rows.min(10_000)).cpu_ns / 1e3;
    table.row("scan, a row", each, "us", Goal::None);
    // Keys are hexadecimal numbers, so that each prefix of two has one row in 256.
    let prefixes: Vec<String> = (0..256).map(|n| format!("{n:02x}")).collect();
    let scans = |()| {
        let scan = |from: &String| {
            let to = after(from);
            let range = (std::ops::Bound::Included(from.as_str()), std::ops::Bound::Excluded(to.as_str()));
            store.scan(&tasks, range, usize::MAX).expect("a scan").len()
        };
        prefixes.iter().map(scan).sum::<usize>()
    };
    let (found, _) = once(|| scans(()));
    let each = best(ROUNDS, || (), scans).per(found as u64).cpu_ns / 1e3;
    table.row("scan of a prefix, a row", each, "us", Goal::None);
}

/// The first text after all that begin with a prefix of ASCII.
fn after(prefix: &str) -> String {
    format!("{prefix}\u{7f}")
}

/// How the cost of an operation grows with their number, and with the number of devices that wrote them.
fn growth(table: &mut Table, million: bool) -> Vec<Chart> {
    table.section("growth: merge into redb from frames of 1000, processor time an operation");
    let spent = |workload: &Workload| {
        let frames = workload.frames(1_000);
        let bytes = frames.iter().map(Vec::len).sum::<usize>() as f64;
        let merge = |folder: tempfile::TempDir| {
            drop(receive(new_store(folder.path()), &frames));
            folder
        };
        (best(1, folder, merge).cpu_ns / 1e3, bytes)
    };
    let chart = |title: &str, below: &str| Chart {
        title: title.to_owned(),
        below: below.to_owned(),
        points: Vec::new(),
    };
    let mut charts = vec![
        chart("merge, us an operation", "operations (8 devices)"),
        chart("merge, us an operation", "devices (100k operations)"),
        chart("frames, bytes an operation", "devices (100k operations)"),
    ];
    let sizes = [10_000, 30_000, OPERATIONS, 300_000, MILLION];
    for operations in &sizes[..if million { 5 } else { 4 }] {
        let (us, _) = spent(&Workload::new(8, *operations, Choice::Uniform));
        let each = us / *operations as f64;
        table.row(&format!("{operations} operations, 8 devices"), each, "us", Goal::None);
        charts[0].points.push((*operations as f64, each));
    }
    for devices in [2, 4, 8, 16, 32, 64] {
        let (us, bytes) = spent(&Workload::new(devices, OPERATIONS, Choice::Uniform));
        let each = [us, bytes].map(|all| all / OPERATIONS as f64);
        table.row(&format!("{OPERATIONS} operations, {devices} devices"), each[0], "us", Goal::None);
        table.row("  frames", each[1], "B/op", Goal::None);
        charts[1].points.push((f64::from(devices), each[0]));
        charts[2].points.push((f64::from(devices), each[1]));
    }
    charts
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let million = arguments.iter().any(|argument| argument == "--million");
    let parts: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted =
        |part: &str| parts.is_empty() || parts.iter().any(|wanted| part.starts_with(wanted.as_str()));
    let sizes: &[u64] = if million { &[OPERATIONS, MILLION] } else { &[OPERATIONS] };
    let mut table = Table::default();
    for operations in sizes {
        if wanted("memory") {
            if *operations == OPERATIONS {
                memory(&mut table, SMALL);
            }
            memory(&mut table, *operations);
        }
        if wanted("durable") {
            durable(&mut table, *operations);
        }
        if wanted("sync") {
            sync(&mut table, *operations);
        }
        if wanted("open") {
            open(&mut table, *operations);
        }
        if wanted("wire") {
            wire(&mut table, *operations);
        }
    }
    if wanted("commits") {
        commits(&mut table);
    }
    if wanted("growth") {
        let charts = growth(&mut table, million);
        if let Some(path) = arguments.iter().find_map(|argument| argument.strip_prefix("--plot=")) {
            std::fs::write(path, plot::svg(&charts)).expect("the file can be written");
        }
    }
    println!("\n{} goals reached, {} missed", table.goals.0, table.goals.1);
}
