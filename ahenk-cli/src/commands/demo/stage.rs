//! Where the demo plays: the temporary homes, and the processes that it started.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::error::{CliError, Kind, Result};

/// Longest output of one command, in bytes.
const OUTPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Listen on loopback only, on any port.
const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// See the module's documentation.
pub(super) struct Stage {
    folder: Mutex<Option<TempDir>>,
    dir: PathBuf,
    program: PathBuf,
    /// Commands under way, by number.
    children: Mutex<Vec<(u64, Child)>>,
    /// Homes whose daemons run.
    daemons: Mutex<Vec<PathBuf>>,
    interrupted: AtomicBool,
}

/// One of the devices.
pub(super) struct Device<'a> {
    pub(super) name: &'static str,
    pub(super) home: PathBuf,
    stage: &'a Stage,
}

/// A command under way.
struct Started {
    number: u64,
    stdout: BufReader<ChildStdout>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    pub(super) fn new() -> Result<Stage> {
        let folder = tempfile::Builder::new().prefix("ahenk-demo-").tempdir();
        let folder =
            folder.map_err(|error| CliError::io("create a folder in", &std::env::temp_dir(), &error))?;
        let program = std::env::current_exe();
        let program = program.map_err(|error| CliError::internal(format!("who am I? {error}")))?;
        Ok(Stage {
            dir: folder.path().to_owned(),
            folder: Mutex::new(Some(folder)),
            program,
            children: Mutex::default(),
            daemons: Mutex::default(),
            interrupted: AtomicBool::new(false),
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn device(&self, name: &'static str) -> Device<'_> {
        Device { name, home: self.dir.join(name), stage: self }
    }

    /// Ends what is under way; whatever would come next fails.
    pub(super) fn interrupt(&self) {
        let mut children = locked(&self.children);
        self.interrupted.store(true, Ordering::SeqCst);
        for (_, child) in children.iter_mut() {
            // One that has ended already is as good.
            let _ = child.kill();
        }
    }

    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Ends all processes, and removes the homes unless they are to be kept.
    pub(super) fn close(&self, keep: bool) -> Result<()> {
        for (_, mut child) in locked(&self.children).drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for home in locked(&self.daemons).drain(..) {
            let stopped = self.command(&home, &["stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !stopped.is_ok_and(|status| status.success()) {
                kill_daemon(&home);
            }
        }
        let Some(folder) = locked(&self.folder).take() else { return Ok(()) };
        if keep {
            let _ = folder.keep();
            return Ok(());
        }
        folder.close().map_err(|error| CliError::io("remove", &self.dir, &error))
    }

    fn command(&self, home: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--home").arg(home).arg("--json").args(args);
        command.env_remove("AHENK_HOME").env_remove("RUST_LOG").current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(&self, mut command: Command, input: Option<&str>) -> Result<Started> {
        let failed = |error| CliError::internal(format!("a command could not be started: {error}"));
        let mut children = locked(&self.children);
        if self.interrupted() {
            return Err(CliError::new(Kind::Conflict, "interrupted"));
        }
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(failed)?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // One that does not read says why on stderr.
            let _ = stdin.write_all(input.as_bytes());
        }
        let stdout = child.stdout.take().ok_or_else(|| CliError::internal("no output to read"))?;
        let number = children.last().map_or(0, |(last, _)| last + 1);
        children.push((number, child));
        Ok(Started { number, stdout: BufReader::new(stdout) })
    }

    /// Waits for a command; its documents, or its error.
    fn finish(&self, started: Started, what: &str) -> Result<Vec<Json>> {
        let (mut text, mut complaint) = (String::new(), String::new());
        let read = started.stdout.take(OUTPUT_BYTES_MAX).read_to_string(&mut text);
        let child = {
            let mut children = locked(&self.children);
            let index = children.iter().position(|(number, _)| *number == started.number);
            index.map(|index| children.remove(index).1)
        };
        let mut child = child.ok_or_else(|| CliError::internal("a process was lost"))?;
        if let Some(stderr) = child.stderr.take() {
            // What cannot be read of a complaint is left out of it.
            let _ = stderr.take(OUTPUT_BYTES_MAX).read_to_string(&mut complaint);
        }
        let status = child.wait().map_err(CliError::internal)?;
        if !status.success() {
            let error = complaint.lines().rev().find_map(|line| serde_json::from_str::<Json>(line).ok());
            let message = error.and_then(|error| Some(error["error"]["message"].as_str()?.to_owned()));
            let message = message.unwrap_or_else(|| complaint.trim().to_owned());
            return Err(CliError::internal(format!("`{what}` failed: {message}")));
        }
        read.map_err(CliError::internal)?;
        text.lines().map(|line| serde_json::from_str(line).map_err(CliError::internal)).collect()
    }
}

/// The last resort for a daemon that does not stop when asked to.
fn kill_daemon(home: &Path) {
    let pid = crate::home::Home::choose(Some(home.to_owned())).ok().and_then(|home| home.lock_holder());
    let pid = pid.and_then(|(pid, _)| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // It may have ended by now.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

impl Device<'_> {
    /// Runs a command; its documents.
    pub(super) fn all(&self, args: &[&str]) -> Result<Vec<Json>> {
        self.with_input(args, None)
    }

    /// Runs a command; its only or first document.
    pub(super) fn one(&self, args: &[&str]) -> Result<Json> {
        let documents = self.all(args)?;
        documents
            .into_iter()
            .next()
            .ok_or_else(|| CliError::internal(format!("`{}` said nothing", args.join(" "))))
    }

    fn with_input(&self, args: &[&str], input: Option<&str>) -> Result<Vec<Json>> {
        let started = self.stage.spawn(self.stage.command(&self.home, args), input)?;
        self.stage.finish(started, &format!("{}: {}", self.name, args.join(" ")))
    }

    pub(super) fn init(&self) -> Result<()> {
        self.one(&["init", "--name", self.name, "--listen", LISTEN, "--no-mdns"]).map(drop)
    }

    pub(super) fn start(&self) -> Result<()> {
        locked(&self.stage.daemons).push(self.home.clone());
        self.one(&["start", "--daemon"]).map(drop)
    }

    pub(super) fn stop(&self) -> Result<()> {
        self.one(&["stop"])?;
        locked(&self.stage.daemons).retain(|home| *home != self.home);
        Ok(())
    }

    /// Admits another device by a long code.
    pub(super) fn admit(&self, other: &Device<'_>) -> Result<()> {
        let command = self.stage.command(&self.home, &["device", "invite", "--yes"]);
        let mut inviting = self.stage.spawn(command, None)?;
        let mut line = String::new();
        inviting.stdout.read_line(&mut line).map_err(CliError::internal)?;
        let first: Option<Json> = serde_json::from_str(&line).ok();
        let Some(code) = first.as_ref().and_then(|first| first["long_code"].as_str()) else {
            self.stage.finish(inviting, "device invite")?;
            return Err(CliError::internal("the invitation has no code"));
        };
        let join = ["device", "join", "--name", other.name, "--listen", LISTEN, "--no-mdns"];
        other.with_input(&join, Some(&format!("{code}\n")))?;
        self.stage.finish(inviting, "device invite").map(drop)
    }
}
