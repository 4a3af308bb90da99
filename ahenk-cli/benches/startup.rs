//! How long a command takes, from the start of its process to its end: with a daemon that runs, and without one on a
//! store of a million rows.
//!
//! `cargo bench -p ahenk-cli --bench startup [-- ROWS]`. The store is made anew in a temporary folder, with one `import`.
//! `cold` are calls before each of which the system was told to forget the database's file, so that it is read from the
//! disk; in `warm` ones it lies in the system's memory.

#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

const ROWS: u64 = 1_000_000;

struct Device<'a>(&'a Path);

impl Device<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ahenk-cli"));
        command.args(args).env("AHENK_HOME", self.0.join("home")).current_dir(self.0);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Duration {
        let begun = Instant::now();
        let status = self.command(args).status().expect("it starts");
        let took = begun.elapsed();
        assert!(status.success(), "{args:?}: {status}");
        took
    }

    /// Has the system forget what it holds of the database's file.
    fn forget(&self) {
        let file = File::open(self.0.join("home/ahenk.redb")).expect("the database");
        file.sync_all().expect("written");
        fadvise(&file, 0, None, Advice::DontNeed).expect("forgotten");
    }

    fn measure(&self, what: &str, runs: usize, args: &[&str], before: impl Fn()) {
        let mut took: Vec<Duration> = (0..runs)
            .map(|_| {
                before();
                self.run(args)
            })
            .collect();
        took.sort_unstable();
        let ms = |at: usize| took[at].as_secs_f64() * 1000.0;
        println!(
            "{what:<44} median {:>7.1} ms   least {:>7.1} ms   95 % {:>7.1} ms   ({runs} runs)",
            ms(runs / 2),
            ms(0),
            ms(runs * 95 / 100)
        );
    }
}

fn main() {
    // `cargo bench` passes --bench; with --test it is only seen that this works.
    let smoke = std::env::args().any(|arg| arg == "--test");
    let asked = std::env::args().find_map(|arg| arg.parse().ok());
    let rows = asked.unwrap_or(if smoke { 100 } else { ROWS });
    let (few, many) = if smoke { (1, 1) } else { (21, 101) };
    let folder = tempfile::tempdir().expect("a folder");
    let device = Device(folder.path());
    device.run(&["init", "--name", "bench", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"]);
    let mut lines = BufWriter::new(File::create(folder.path().join("rows.jsonl")).expect("a file"));
    for row in 0..rows {
        let fields = format!(r#"{{"title":"Row number {row}","done":{},"count":{row}}}"#, row % 2 == 0);
        writeln!(lines, r#"{{"table":"items","row":"{row:08}","fields":{fields}}}"#).expect("written");
    }
    lines.into_inner().expect("written").sync_all().expect("written");
    let took = device.run(&["--quiet", "import", "rows.jsonl", "--chunk", "10000"]);
    let size = std::fs::metadata(folder.path().join("home/ahenk.redb")).expect("the database").len();
    println!("{rows} rows imported in {:.1} s; the database has {} MiB", took.as_secs_f64(), size >> 20);
    let row = format!("{:08}", rows / 2);
    let get = ["get", "items", &row];
    device.measure("--version", many, &["--version"], || {});
    device.measure("get, no daemon, warm", few, &get, || {});
    device.measure("get, no daemon, cold", few, &get, || device.forget());
    device.measure("put, no daemon, warm", few, &["put", "items", &row, "count=1"], || {});
    device.run(&["start", "--daemon"]);
    device.measure("get, daemon", many, &get, || {});
    device.measure("status, daemon", many, &["status"], || {});
    device.measure("put, daemon", many, &["put", "items", &row, "count=2"], || {});
    device.run(&["stop"]);
}
