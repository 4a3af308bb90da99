//! `kill -9` at any moment: everything acknowledged is there, nothing is there by half, and the life goes on.

mod common;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{account, batch, batches_held, create, history_to, mix, open};
use engine::store::{Store, StoreRead};
use store::RedbStore;

const DATABASE: &str = "AHENK_TEST_DATABASE";
const ROUND: &str = "AHENK_TEST_ROUND";
const ROUNDS: u64 = 40;

/// The killed process: goes on with the history, and says after each batch how many are durable.
fn write_until_killed(path: &Path) {
    let round: u128 = env::var(ROUND).expect("a round").parse().expect("a number");
    let nonce = (round << 64).to_be_bytes();
    let store = RedbStore::open(path, account(), nonce).expect("it opens after a kill");
    let mut n = batches_held(&store);
    if n > 0 {
        assert!(store.recover().expect("recovered").replica.is_some(), "a kill is no new life");
    }
    let mut history = history_to(n);
    let mut out = std::io::stdout();
    loop {
        assert_eq!(store.apply(&batch(&mut history, n)), Ok(()));
        n += 1;
        writeln!(out, "\ndurable {n}").and_then(|()| out.flush()).expect("the parent listens");
    }
}

#[test]
fn killing_the_writer_loses_nothing_acknowledged() {
    if let Some(path) = env::var_os(DATABASE) {
        return write_until_killed(Path::new(&path));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    drop(create(&path));
    let mut durable = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args(["--exact", "killing_the_writer_loses_nothing_acknowledged", "--nocapture"])
            .env(DATABASE, &path)
            .env(ROUND, (round + 1).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut acknowledged = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("durable ").and_then(|n| n.parse::<u64>().ok()));
        let moment = mix(round + 1_000);
        if round % 3 == 2 {
            // Kill it while it starts and opens.
            std::thread::sleep(Duration::from_micros(moment % 30_000));
        } else {
            // Kill it some batches on, at some moment within the next one.
            for _ in 0..1 + mix(round) % 6 {
                durable = acknowledged.next().expect("the child writes on").max(durable);
            }
            std::thread::sleep(Duration::from_micros(moment % 3_000));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        // What it said between our last look and its end.
        durable = acknowledged.last().unwrap_or(durable).max(durable);
        let store = open(&path).expect("it opens after a kill");
        let held = batches_held(&store);
        assert!(held >= durable, "{durable} were acknowledged, {held} are there");
        assert!(held <= durable + 1, "{held} are there, {durable} were acknowledged");
        assert!(held == 0 || store.recover().expect("recovered").replica.is_some(), "a kill is no new life");
        durable = held;
    }
    assert!(durable > ROUNDS);
}
