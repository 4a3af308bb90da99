//! Every flag does something. Each one that a transcript gives to a command is left out, and the transcript played
//! again: that command, or a later one, must then print something else. What no transcript can show, `flags.txt` names
//! with the test that asserts its effect.

#[path = "support/stage.rs"]
mod stage;
mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;

use regex::Regex;
use support::schema;

/// The transcripts, those first that are played in the least time.
const TRANSCRIPTS: [&str; 9] = [
    "settings",
    "nothing",
    "beginning",
    "administration",
    "daemon",
    "understanding",
    "rows",
    "files",
    "two_devices",
];

/// A command of a transcript, and what it printed.
struct Step {
    line: String,
    output: String,
}

fn steps(transcript: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in std::fs::read_to_string(stage::file(transcript)).expect("a transcript").lines() {
        if ["$ ", "phone$ ", "% "].iter().any(|start| line.starts_with(start)) {
            steps.push(Step { line: line.to_owned(), output: String::new() });
        } else if let Some(step) = steps.last_mut().filter(|_| !line.starts_with('#')) {
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    steps
}

/// The flags of the generated part of `docs/cli.md` by command (none for those of all commands) and by each of their
/// names: the long name, and whether a value follows.
fn known() -> BTreeMap<(String, String), (String, bool)> {
    let entry = Regex::new(r"^- (`-.*?`): ").expect("a regex");
    let name = Regex::new(r"`(--?[\w-]+)( [^`]+)?`").expect("a regex");
    let mut known = BTreeMap::new();
    let mut command = String::new();
    let page = include_str!("../../docs/cli.md").split_once("<!-- begin commands -->").expect("commands").1;
    for line in page.lines() {
        if let Some(words) = line.strip_prefix("### ") {
            command = words.to_owned();
        } else if let Some(names) = entry.captures(line) {
            let all: Vec<_> = name.captures_iter(&names[1]).collect();
            for one in &all {
                let key = (command.clone(), one[1].to_owned());
                known.insert(key, (all[0][1].to_owned(), all[0].get(2).is_some()));
            }
        }
    }
    known
}

/// One flag of one call.
struct Use {
    transcript: &'static str,
    step: usize,
    /// The line without the flag; then, for where it cannot be called so, with another value.
    changed: Vec<String>,
}

/// Every use of a flag in the transcripts, by command and flag.
fn uses() -> BTreeMap<(String, String), Vec<Use>> {
    let known = known();
    // Words of a shell, more or less: what is quoted is one word.
    let word = Regex::new(r#"(?:'[^']*'|"[^"]*"|[^\s'"])+"#).expect("a regex");
    let mut uses: BTreeMap<(String, String), Vec<Use>> = BTreeMap::new();
    for transcript in TRANSCRIPTS {
        for (at, step) in steps(transcript).iter().enumerate() {
            let words: Vec<_> = word.find_iter(&step.line).collect();
            let starts = (0..words.len()).filter(|at| words[*at].as_str() == "ahenk-cli");
            for start in starts {
                let ends = |text: &str| ["|", "||", "&&", ";", "&"].contains(&text);
                let call: Vec<_> =
                    words[start..].iter().take_while(|word| !ends(word.as_str().trim_end())).collect();
                let texts: Vec<&str> = call.iter().map(|word| word.as_str()).collect();
                let Some(command) = schema::command_of(&texts[1..]) else { continue };
                for (place, text) in texts.iter().enumerate() {
                    let name = text.split('=').next().expect("one part").to_owned();
                    let found = known.get_key_value(&(command.clone(), name.clone()));
                    let found = found.or_else(|| known.get_key_value(&(String::new(), name)));
                    let Some(((owner, _), (long, valued))) = found else { continue };
                    let last = if *valued && !text.contains('=') { place + 1 } else { place };
                    let Some(end) = call.get(last) else { continue };
                    let (before, after) = step.line.split_at(end.end());
                    let mut changed = vec![format!("{}{after}", &step.line[..call[place].start()])];
                    changed.extend(valued.then(|| format!("{before}2{after}")));
                    let all = uses.entry((owner.clone(), long.clone())).or_default();
                    all.push(Use { transcript, step: at, changed });
                }
            }
        }
    }
    uses
}

/// What became of a transcript with a line that was changed.
#[derive(PartialEq, Eq)]
enum Outcome {
    Same,
    Different,
    /// Such a call is a mistake, which says nothing about what the flag does.
    Refused,
}

fn outcome(transcript: &str, step: usize, changed: &str) -> Outcome {
    let steps = steps(transcript);
    let mut script: Vec<String> = steps.iter().map(|step| step.line.clone()).collect();
    changed.clone_into(&mut script[step]);
    let (mut at, mut outcome) = (0, Outcome::Same);
    // A direction that does not come about, because of what was left out, is a difference as well.
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        stage::play(&script, |played| {
            let output = played.split_once('\n').expect("a line").1;
            if output.trim_end() != steps[at].output.trim_end() {
                let mistake = at == step && output.ends_with("[exit 2]\n");
                outcome = if mistake { Outcome::Refused } else { Outcome::Different };
            }
            at += 1;
            outcome == Outcome::Same
        });
    }));
    if played.is_err() && at > step { Outcome::Different } else { outcome }
}

/// Whether a transcript goes on otherwise without the flag.
fn matters(use_: &Use) -> bool {
    let mut outcomes = use_.changed.iter().map(|changed| outcome(use_.transcript, use_.step, changed));
    outcomes.find(|outcome| *outcome != Outcome::Refused) == Some(Outcome::Different)
}

#[test]
fn every_flag_in_a_transcript_changes_what_is_printed() {
    let elsewhere = include_str!("flags.txt");
    let named = |command: &str, flag: &str| {
        elsewhere.lines().any(|line| line.starts_with(&format!("{command} {flag} |")))
    };
    let all = uses();
    let left: Vec<_> = all.iter().filter(|((command, flag), _)| !named(command, flag)).collect();
    assert!(left.len() > 40, "the transcripts are read as they should be");
    let (queue, idle) = (Mutex::new(left), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(((command, flag), uses)) = { queue.lock().expect("no panic").pop() } {
            if !uses.iter().any(matters) {
                idle.lock().expect("no panic").push(format!("{command} {flag}"));
            }
        }
    };
    std::thread::scope(|scope| {
        // They wait more than they compute.
        for _ in 0..8 {
            scope.spawn(worker);
        }
    });
    let idle = idle.into_inner().expect("no panic");
    assert!(idle.is_empty(), "nothing is printed otherwise without these: {idle:#?}");
}
