//! The stage on which the files of `tests/transcripts` are played, and what is replaced in what they print.
//!
//! In a file, `$ …` is run by a shell on the device `laptop` and `phone$ …` on `phone`, each with a home of its own;
//! lines behind it are what it printed, those with `! ` on stderr; `[exit N]` is the exit code if it is not 0. `% init`,
//! `% pair`, `% start DEVICE` and `% stop DEVICE` set the stage. What differs from run to run (ids, times, sizes,
//! addresses) is replaced by a name in brackets. With `--json`, what is printed is checked against the schemas too.

use std::path::{Path, PathBuf};
use std::process::Command;

use regex::{Captures, Regex};

use crate::support::{Device, LISTEN, Ran, World, schema};

/// What differs from run to run, and the name it gets. In this order: what is longer comes first.
const REDACTED: &[(&str, &str)] = &[
    (r#""recovery_phrase":"[^"]*""#, r#""recovery_phrase":"[WORDS]""#),
    (r"(?m)^(  ([a-z]+ ){5}[a-z]+\n){4}", "  [WORDS]\n"),
    (r#""long_code":"[^"]*""#, r#""long_code":"[CODE]""#),
    (r"/ip4/127\.0\.0\.1/tcp/[1-9]\d*(/p2p/\w+)?", "[ADDRESS]"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]+:(\d+)", "[REPLICA]:$2"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]+", "[REPLICA]"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "[DEVICE]"),
    (r"\b[0-9a-f]{8}/[0-9a-f]+:(\d+)", "[REPLICA]:$1"),
    (r"\b[0-9a-f]{64}\b", "[ACCOUNT]"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "[TIME]"),
    (r"\b[0-9a-f]{32}\b", "[DIGEST]"),
    (r"\b[0-9a-f]{8,12}\b", "[ID]"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})?", "[TIME]"),
    (r#""stamp":"\d+\.\d+""#, r#""stamp":"[STAMP]""#),
    (r"(stamp +)\d{13}\.\d+", "$1[STAMP]"),
    (r#""(time|paired|noticed|seen|took|up|last_sync|connected|expires_in)_ms":\d+"#, r#""${1}_ms":[MS]"#),
    (
        r#""(round_trip_micros|clock_offset_ms|dial_failures|next_attempt_ms|addresses_ms)":(-?\d+|null)"#,
        r#""$1":[N]"#,
    ),
    (r#""last_error":("[^"]*"|null)"#, r#""last_error":[ERROR]"#),
    (r#""addresses":\[[^\]]*\]"#, r#""addresses":[ADDRESSES]"#),
    (r#""(bytes|database_bytes|bytes_sent|bytes_received|frames_sent|frames_received)":\d+"#, r#""$1":[N]"#),
    (r#""cursor":"[^"]*""#, r#""cursor":"[CURSOR]""#),
    (r"--from \d+\.\d+", "--from [CURSOR]"),
    // What the router says, if there is one that says anything.
    (r"(router +)(asked for|being asked|maps).*", "$1[ROUTER]"),
    (r#""port_mapping":"[^"]*""#, r#""port_mapping":"[ROUTER]""#),
    // Which versions they are is for other tests to say.
    (r"file format \d+, protocol \d+\.\d+", "file format [N], protocol [N]"),
    (r#""(format|protocol_major|protocol_minor|command_protocol)":\d+"#, r#""$1":[N]"#),
    (r#""pid":\d+"#, r#""pid":[PID]"#),
    (r"process \d+", "process [PID]"),
    (r"\b\d+(\.\d)? (ms|s|min)\b", "[SPAN]"),
    (r"\b\d+ bytes\b", "[N] bytes"),
    (r#""fingerprint":"[^"]*""#, r#""fingerprint":"[FINGERPRINT]""#),
    (r"\b[0-9a-z]{4}(-[0-9a-z]{4}){3}\b", "[FINGERPRINT]"),
    (r"\b\d+ MiB free", "[N] MiB free"),
    (r"\.replaced-[0-9a-zA-Z-]+", ".replaced-[N]"),
];

/// As `timeout` takes it.
const SHELL_TIME_MAX: &str = "20s";

/// Two homes, and a folder to run commands in.
pub(crate) struct Stage {
    // Before the world, and its folder, goes: their daemons are ended with them, wherever a play was left off.
    devices: Vec<Device>,
    world: World,
    redacted: Vec<(Regex, &'static str)>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let world = World::new();
        let devices = ["laptop", "phone"].map(|name| world.device(name)).into();
        std::fs::create_dir(world.path().join("files")).expect("a folder");
        let redacted = REDACTED.iter().map(|(regex, name)| (Regex::new(regex).expect("a regex"), *name));
        Stage { world, devices, redacted: redacted.collect() }
    }

    fn device(&self, name: &str) -> &Device {
        self.devices.iter().find(|device| device.name == name).expect("laptop or phone")
    }

    fn direct(&self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["init"] => {
                self.device("laptop")
                    .run(&["init", "--name", "laptop", "--listen", LISTEN, "--no-mdns"])
                    .ok();
            }
            ["pair"] => self.device("laptop").admit(self.device("phone")),
            ["start", device] => drop(self.device(device).start()),
            ["stop", device] => drop(self.device(device).run(&["stop"]).ok()),
            _ => panic!("no such direction: {line}"),
        }
    }

    /// Runs a line; what it printed, as the file has it.
    fn run(&self, device: &str, line: &str) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_ahenk-cli")).parent().expect("a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        // Without some flag, a command of it may never end.
        let mut shell = Command::new("timeout");
        shell
            .args([SHELL_TIME_MAX, "sh", "-c", line])
            .env("PATH", path)
            .env("AHENK_HOME", &self.device(device).home);
        shell.env_remove("RUST_LOG").env("NO_COLOR", "1").env("LISTEN", LISTEN);
        // A service that is installed by mistake is not one of the user who runs the tests.
        shell.env("HOME", self.world.path()).env_remove("XDG_CONFIG_HOME");
        shell.current_dir(self.world.path().join("files")).stdin(std::process::Stdio::null());
        let ran = Ran::of(shell.output().expect("a shell"));
        // Only of a line that is one command is it known what it is to print.
        if let Some(args) = shlex::split(line).filter(|args| {
            args[0] == "ahenk-cli" && ![" | ", " > ", " & "].iter().any(|sign| line.contains(sign))
        }) {
            let args: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
            schema::check(&args, ran.code, &ran.stdout, &ran.stderr);
        }
        let mut text: String = ran.stdout.lines().map(|line| format!("{line}\n")).collect();
        text.extend(ran.stderr.lines().map(|line| format!("! {line}\n")));
        if ran.code != 0 {
            text.push_str(&format!("[exit {}]\n", ran.code));
        }
        self.redact(&text)
    }

    fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for device in &self.devices {
            let home = device.home.display().to_string();
            text = text.replace(&home, &format!("[{}]", device.name.to_uppercase()));
        }
        text = text.replace(&self.world.path().display().to_string(), "[WORLD]");
        text = text.replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
        for (regex, name) in &self.redacted {
            text = regex
                .replace_all(&text, |found: &Captures<'_>| {
                    let mut name_with_groups = String::new();
                    found.expand(name, &mut name_with_groups);
                    name_with_groups
                })
                .into_owned();
        }
        text
    }
}

/// The file of a transcript.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(name).with_extension("txt")
}

/// Plays a transcript. Each line that does something is given to `line`, with what came of it, until that says no.
pub(crate) fn play(script: &[String], mut each: impl FnMut(&str) -> bool) {
    let stage = Stage::new();
    for line in script {
        let command = line.strip_prefix("$ ").map(|command| ("laptop", command));
        let command = command.or_else(|| line.strip_prefix("phone$ ").map(|command| ("phone", command)));
        let played = match command {
            Some((device, command)) => format!("{line}\n{}", stage.run(device, command)),
            None if line.starts_with('#') => format!("\n{line}\n"),
            None => match line.strip_prefix("% ") {
                Some(direction) => {
                    stage.direct(direction);
                    format!("{line}\n")
                }
                None => continue,
            },
        };
        if !each(&played) {
            return;
        }
    }
}
