//! Every flag and argument that parses has an effect that a test shows. The command lines in `tests/transcripts` are
//! parsed by the program's own definitions (and `tests/flags.rs` plays them again without each flag); what they leave
//! out, `tests/flags.txt` names with the test that asserts the effect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _};

use crate::cli::{self, Cli};
use crate::reference::{command_line, leaves, own_arguments};

/// What transcripts cannot show.
const ELSEWHERE: &str = include_str!("../tests/flags.txt");

/// Commands whose success no transcript can show, with the file of tests that does.
const SHOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("device invite", "tests/pairing.rs"),
    ("device join", "tests/support/mod.rs"),
    ("device revoke", "tests/trust.rs"),
    ("account recover", "tests/trust.rs"),
    ("tui", "tests/tui.rs"),
    ("vault decrypt", "tests/vault.rs"),
    ("vault encrypt", "tests/vault.rs"),
    ("vault keychain", "tests/vault.rs"),
    ("vault passphrase", "tests/vault.rs"),
    ("vault status", "tests/vault.rs"),
    ("metrics", "tests/health.rs"),
    ("relay", "tests/relay.rs"),
    ("relay service", "tests/relay.rs"),
    ("quarantine show", "tests/trust.rs"),
    ("quarantine restore", "tests/trust.rs"),
    ("quarantine drop", "tests/trust.rs"),
    ("demo", "tests/demo.rs"),
    ("service install", "tests/daemon.rs"),
    ("service uninstall", "tests/daemon.rs"),
    ("service print", "tests/daemon.rs"),
    ("logs", "tests/daemon.rs"),
    ("log set", "tests/daemon.rs"),
    ("log get", "tests/daemon.rs"),
    ("wait", "tests/daemon.rs"),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file")
}

/// The transcripts.
fn pages() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let entries = std::fs::read_dir(folder).expect("the folder");
    entries.map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).expect("text")).collect()
}

/// The calls of the program in a line for a shell, as their arguments.
fn calls(line: &str) -> Vec<Vec<String>> {
    let words = shlex::split(line).unwrap_or_default();
    let mut calls: Vec<Vec<String>> = Vec::new();
    let mut within = false;
    for word in words {
        match word.as_str() {
            "ahenk-cli" => {
                calls.push(vec![word]);
                within = true;
            }
            "|" | "||" | "&&" | ";" | ">" | "<" | ">>" => within = false,
            _ if within => calls.last_mut().expect("a call").push(word),
            _ => {}
        }
    }
    calls
}

/// The words of the command that was called, and what was given to it.
fn given(matches: &ArgMatches, words: &str, found: &mut BTreeSet<(String, String)>) {
    for id in matches.ids() {
        // Groups of arguments have ids too, and no source of their own.
        if matches.try_get_raw(id.as_str()).is_ok()
            && matches.value_source(id.as_str()) == Some(ValueSource::CommandLine)
        {
            found.insert((words.to_owned(), id.to_string()));
        }
    }
    if let Some((name, matches)) = matches.subcommand() {
        given(matches, format!("{words} {name}").trim_start(), found);
    }
}

#[test]
fn every_flag_that_parses_is_in_a_transcript_or_has_a_test_of_its_own() {
    let mut found = BTreeSet::new();
    for page in pages() {
        let lines = page.lines().filter_map(|line| line.split_once("$ ").filter(|(who, _)| who.len() <= 6));
        for call in lines.flat_map(|(_, line)| calls(line)) {
            let arguments = cli::arguments(call.into_iter().map(Into::into));
            if let Ok(matches) = Cli::command().try_get_matches_from(arguments) {
                given(&matches, "", &mut found);
            }
        }
    }
    let entry = |line: &'static str| <[&str; 3]>::try_from(line.split(" | ").collect::<Vec<_>>()).ok();
    let mut elsewhere: BTreeMap<&str, [&str; 2]> =
        ELSEWHERE.lines().filter_map(entry).map(|[flag, file, test]| (flag, [file, test])).collect();
    let root = command_line();
    let mut unshown = Vec::new();
    for (words, command) in leaves(&root) {
        for arg in own_arguments(command) {
            let name = arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| format!("--{long}"));
            let flag = format!("{words} {name}");
            if let Some([file, test]) = elsewhere.remove(flag.as_str()) {
                let text = read(&format!("tests/{file}"));
                assert!(text.contains(&format!("fn {test}()")), "{file} has no {test}");
                // Perhaps by a function of its file.
                assert!(text.contains(&format!("\"{name}\"")), "{test} in {file} does not use `{flag}`");
            } else if !found.contains(&(words.clone(), arg.get_id().to_string())) {
                unshown.push(flag);
            }
        }
    }
    assert!(unshown.is_empty(), "no test shows what these do: {unshown:#?}");
    assert!(elsewhere.is_empty(), "tests/flags.txt names what is no flag: {elsewhere:?}");
}

#[test]
fn every_command_is_in_a_transcript_for_people_and_as_json_with_success_and_failure() {
    let root = command_line();
    let mut seen: BTreeSet<(String, bool, bool)> = BTreeSet::new();
    for page in pages() {
        let lines: Vec<&str> = page.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((_, command)) = line.split_once("$ ").filter(|(who, _)| who.len() <= 6) else {
                continue;
            };
            let output = lines[at + 1..].iter().take_while(|line| !line.contains("$ "));
            // In a pipe it is the last command's exit code that counts.
            let failed = output.clone().any(|line| line.starts_with("[exit ") || line.contains("! error: "));
            for call in calls(command) {
                let json = call.iter().any(|word| word == "--json");
                let words: Vec<&str> =
                    call.iter().skip(1).map(String::as_str).filter(|word| !word.starts_with('-')).collect();
                let known = leaves(&root).into_iter().map(|(words, _)| words);
                // `conflicts show` is a command, and so is `conflicts`.
                let called = known
                    .filter(|known| {
                        let known: Vec<&str> = known.split(' ').collect();
                        words.windows(known.len()).next().is_some_and(|first| first == known)
                            || words.windows(known.len()).nth(1).is_some_and(|next| next == known)
                    })
                    .max_by_key(String::len);
                seen.extend(called.map(|words| (words, json, failed)));
            }
        }
    }
    let mut missing = Vec::new();
    for (words, _) in leaves(&root) {
        let elsewhere = SHOWN_ELSEWHERE.iter().find(|(command, _)| *command == words);
        if let Some((_, file)) = elsewhere {
            let text = read(file);
            let named = words.split(' ').all(|word| text.contains(&format!("\"{word}\"")));
            assert!(named, "{file} shows no `{words}`");
        }
        for (json, failed) in [(false, false), (false, true), (true, false), (true, true)] {
            if !seen.contains(&(words.clone(), json, failed)) && (failed || elsewhere.is_none()) {
                let form = if json { "as JSON" } else { "for people" };
                missing.push(format!("{words}: {form}, {}", if failed { "failing" } else { "succeeding" }));
            }
        }
    }
    assert!(missing.is_empty(), "no transcript shows these: {missing:#?}");
}
