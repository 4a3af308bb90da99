//! Homes and processes for the tests: each device has a temporary home, listens on loopback on a
//! port that the system chooses, and looks for nobody. Nothing here sleeps for a fixed time to let
//! something happen: it waits for a condition, for a bounded time.

#![allow(dead_code)]

pub(crate) mod schema;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

/// Longest wait for anything.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Where a test's homes are; removed at its end.
pub(crate) struct World(tempfile::TempDir);

/// What a command printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    pub(crate) fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The first document on stdout.
    pub(crate) fn json(self) -> Json {
        let ran = self.ok();
        let line = ran.stdout.lines().next().unwrap_or_else(|| panic!("no output; stderr: {}", ran.stderr));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Checks that the command failed with this exit code, and that the error is complete.
    pub(crate) fn error(self, code: i32, kind: &str) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let line = self.stderr.lines().last().expect("an error");
        let error: Json =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}", self.stderr));
        assert_eq!(error["error"]["kind"], kind, "{error}");
        assert!(error["error"]["hint"].is_string(), "{error}");
        error["error"]["message"].as_str().expect("a message").to_owned()
    }
}

impl World {
    pub(crate) fn new() -> World {
        World(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A device without a home yet.
    pub(crate) fn device(&self, name: &str) -> Device {
        Device { home: self.0.path().join(name), name: name.to_owned() }
    }

    /// A device with a new account.
    pub(crate) fn founder(&self, name: &str) -> Device {
        let device = self.device(name);
        device.run(&["init", "--name", name, "--listen", LISTEN, "--no-mdns"]).ok();
        device
    }
}

pub(crate) const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// A device by its home. Its daemon, if it runs, is ended with it.
pub(crate) struct Device {
    pub(crate) home: PathBuf,
    pub(crate) name: String,
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.home.join("daemon.sock").exists() {
            let _ = self.run(&["stop"]);
        }
    }
}

impl Device {
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ahenk-cli"));
        command.args(args).env("AHENK_HOME", &self.home).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).env_remove("AHENK_PASSPHRASE_FILE");
        if self.passphrase_file().exists() {
            command.env("AHENK_PASSPHRASE_FILE", self.passphrase_file());
        }
        command
    }

    /// A file beside the home: where it exists, it is given to all commands.
    pub(crate) fn passphrase_file(&self) -> PathBuf {
        self.home.with_extension("passphrase")
    }

    /// From now on this is the passphrase that commands are given.
    pub(crate) fn set_passphrase(&self, passphrase: &str) {
        std::fs::write(self.passphrase_file(), format!("{passphrase}\n")).expect("written");
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let ran = Ran::of(self.command(args).output().expect("the program starts"));
        schema::check(args, ran.code, &ran.stdout, &ran.stderr);
        ran
    }

    /// Runs with `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Ran {
        self.run(&[&["--json"], args].concat())
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        // A program that does not read its input is found out by what it prints.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        schema::check(args, ran.code, &ran.stdout, &ran.stderr);
        ran
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Running { child, stdin, stdout, command: schema::command_of(args) }
    }

    /// Starts the daemon; its process id.
    pub(crate) fn start(&self) -> u64 {
        self.json(&["start", "--daemon"]).json()["pid"].as_u64().expect("a process id")
    }

    /// Starts the daemon as behind a NAT that lets nothing in, at a relay, and with no memory of where others were.
    pub(crate) fn start_behind(&self, relay: &str) {
        self.run(&["config", "set", "network.listen"]).ok();
        self.run(&["config", "set", "network.relay_servers", relay]).ok();
        std::fs::remove_file(self.home.join("addresses.json")).expect("removed");
        self.start();
    }

    pub(crate) fn status(&self) -> Json {
        self.json(&["status"]).json()
    }

    /// Has another device join through a code with addresses.
    pub(crate) fn admit(&self, other: &Device) {
        let mut inviting = self.spawn(&["--json", "device", "invite", "--yes"]);
        let code = inviting.code();
        other.join(&code).ok();
        let ran = inviting.wait();
        assert!(ran.stdout.contains("\"synced\":true"), "{}{}", ran.stdout, ran.stderr);
        ran.ok();
    }

    /// Joins with a code, which is given on stdin.
    pub(crate) fn join(&self, code: &str) -> Ran {
        let args = ["--json", "device", "join", "--name", &self.name, "--listen", LISTEN, "--no-mdns"];
        self.run_with_input(&args, &format!("{code}\n"))
    }
}

/// A command under way. Killed at the end if it still runs.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// The command, in the words of the schemas.
    command: Option<String>,
}

impl Running {
    /// The next document that it prints.
    pub(crate) fn next(&mut self) -> Json {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("readable");
        if line.is_empty() {
            let mut stderr = String::new();
            let _ = self.child.stderr.take().expect("piped").read_to_string(&mut stderr);
            panic!("it ended: {stderr}");
        }
        let document = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        schema::check_document(self.command.as_deref().expect("a command"), &document);
        document
    }

    /// The long code of an invitation that has just begun.
    pub(crate) fn code(&mut self) -> String {
        let item = self.next();
        assert_eq!(item["event"], "code");
        item["long_code"].as_str().expect("a code").to_owned()
    }

    pub(crate) fn stdout(&mut self) -> &mut BufReader<ChildStdout> {
        &mut self.stdout
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("open"), "{line}").expect("it reads");
    }

    pub(crate) fn wait(mut self) -> Ran {
        drop(self.stdin.take());
        let mut ran = Ran { code: 0, stdout: String::new(), stderr: String::new() };
        self.stdout.read_to_string(&mut ran.stdout).expect("text");
        self.child.stderr.take().expect("piped").read_to_string(&mut ran.stderr).expect("text");
        ran.code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or it must.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has a device without a daemon sync with another, whose daemon runs for that only.
pub(crate) fn exchange(serving: &Device, other: &Device) {
    serving.start();
    // While it did not run, another program may have taken its port, so that it has chosen another.
    let address = serving.status()["listening"][0].as_str().expect("an address").to_owned();
    other.run(&["peer", "add", &address]).ok();
    other.run(&["sync"]).ok();
    serving.run(&["stop"]).ok();
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !so() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the status of a device is right; shows what it is if that takes too long.
pub(crate) fn until_status(device: &Device, what: &str, so: impl Fn(&Json) -> bool) {
    let mut last = Json::Null;
    let deadline = Instant::now() + WAIT_MAX;
    while !so(&last) {
        assert!(Instant::now() < deadline, "waited too long until {what}: {last:#}");
        std::thread::sleep(Duration::from_millis(20));
        last = device.status();
    }
}

/// A code with another secret: its second word becomes another one.
pub(crate) fn wrong(code: &str) -> String {
    let (short, addresses) = code.split_once('@').expect("a long code");
    let mut parts: Vec<&str> = short.split('-').collect();
    parts[2] = if parts[2] == "zoo" { "abandon" } else { "zoo" };
    format!("{}@{addresses}", parts.join("-"))
}
