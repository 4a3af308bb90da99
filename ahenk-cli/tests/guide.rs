//! Runs `docs/guide.md` from nothing, on two homes, and compares what each command prints with what the page says.
//!
//! The page's blocks are ```console MACHINE: lines with `$ ` are run by a shell, what follows is its output, in which
//! `…` stands for anything within a line, and a line of nothing else for any lines. Three things differ from what a
//! reader does: devices listen on loopback and look for nobody, so that the test keeps to itself; the code is passed on
//! by the test; and the question of `device invite` is answered with `y`.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use support::{Device, LISTEN, World};

struct Step {
    machine: String,
    line: usize,
    command: String,
    output: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut machine: Option<String> = None;
    for (at, line) in page.lines().enumerate() {
        match (&machine, line.strip_prefix("```")) {
            (None, Some(info)) => machine = info.strip_prefix("console ").map(str::to_owned),
            (Some(_), Some(_)) => machine = None,
            (None, None) => {}
            (Some(machine), None) => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step {
                    machine: machine.clone(),
                    line: at + 1,
                    command: command.to_owned(),
                    output: Vec::new(),
                }),
                None => steps.last_mut().expect("output of a command").output.push(line.to_owned()),
            },
        }
    }
    steps
}

/// Whether a line is what the page says.
fn line_fits(expected: &str, found: &str) -> bool {
    match expected.split_once('…') {
        None => expected == found,
        Some((start, rest)) => found.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| line_fits(rest, &tail[at..]))
        }),
    }
}

fn fits(expected: &[String], found: &[&str]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == "…" => (0..=found.len()).any(|at| fits(rest, &found[at..])),
        Some((first, rest)) => found
            .split_first()
            .is_some_and(|(line, others)| line_fits(first, line.trim_end()) && fits(rest, others)),
    }
}

#[test]
fn what_the_page_expects_is_compared_with_care() {
    let expected = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    assert!(fits(&expected(&["a … c", "…", "z"]), &["a b c", "x", "y", "z"]));
    assert!(fits(&expected(&["…"]), &[]));
    for wrong in [&["a b d", "z"][..], &["a b c", "y"], &["a b c", "z", "more"], &[]] {
        assert!(!fits(&expected(&["a … c", "…", "z"]), wrong), "{wrong:?}");
    }
}

struct Runner {
    world: World,
    /// An invitation that waits, and what it has printed after its code.
    inviting: Option<Child>,
    code: String,
}

impl Runner {
    fn folder(&self, machine: &str) -> PathBuf {
        let folder = self.world.path().join(format!("{machine}-files"));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn shell(&self, step: &Step) -> Command {
        let mut command = step.command.replace("CODE", &self.code);
        if command.contains("ahenk-cli init") || command.contains("device join") {
            command.push_str(&format!(" --listen {LISTEN} --no-mdns"));
        }
        let program = Path::new(env!("CARGO_BIN_EXE_ahenk-cli")).parent().expect("a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 2>&1; {command}")]).env("PATH", path).env("NO_COLOR", "1");
        shell.env("AHENK_HOME", self.world.path().join(&step.machine)).env_remove("RUST_LOG");
        shell.current_dir(self.folder(&step.machine)).stdin(Stdio::null()).stdout(Stdio::piped());
        shell
    }

    /// Begins to invite, and reads on until the long code is there.
    fn invite(&mut self, step: &Step) {
        let mut child = self.shell(step).stdin(Stdio::piped()).spawn().expect("it starts");
        writeln!(child.stdin.as_mut().expect("piped"), "y").expect("it reads");
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        let mut seen = String::new();
        while self.code.is_empty() {
            let before = seen.len();
            assert!(reader.read_line(&mut seen).expect("text") > 0, "no code:\n{seen}");
            self.code = seen[before..]
                .split_whitespace()
                .find(|word| word.contains('@'))
                .unwrap_or_default()
                .to_owned();
        }
        // Whatever it still prints must not block it.
        std::thread::spawn(move || reader.read_to_string(&mut String::new()));
        self.inviting = Some(child);
    }

    fn run(&mut self, step: &Step) {
        if step.command == "ahenk-cli device invite" {
            return self.invite(step);
        }
        let output = self.shell(step).output().expect("a shell");
        let text = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            output.status.success() && fits(&step.output, &lines),
            "docs/guide.md:{}: on {}: {}\nsays:\n{}\nprinted:\n{text}",
            step.line,
            step.machine,
            step.command,
            step.output.join("\n"),
        );
        if step.command.contains("device join") {
            let ended = self.inviting.take().expect("an invitation").wait().expect("it ends");
            assert!(ended.success(), "the invitation failed");
        }
    }
}

#[test]
fn the_guide_does_what_it_says_from_nothing_on_two_homes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide.md");
    let steps = steps(&std::fs::read_to_string(page).expect("the guide"));
    assert!(steps.len() > 40, "only {} commands were found", steps.len());
    let mut runner = Runner { world: World::new(), inviting: None, code: String::new() };
    // Their daemons end with them, whatever happens.
    let _devices: Vec<Device> = ["laptop", "phone"].map(|name| runner.world.device(name)).into();
    for step in &steps {
        runner.run(step);
    }
}
