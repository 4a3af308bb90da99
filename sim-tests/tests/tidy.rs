//! Style as a test: what every source file of the workspace has and has not.
//!
//! Invariant: the rules hold for each `.rs` file outside build folders, this one included, so the
//! forbidden words are put together from pieces here.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 700;

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the workspace exists")
}

/// All files below `folder`, without version control, build output and what is hidden otherwise.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let build_output = path.join("CACHEDIR.TAG").exists();
        if path.is_dir() && !name.starts_with('.') && !build_output && name != "target" {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// Name (from the root of the workspace) and text of each file with one of these endings.
fn texts(endings: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    let wanted = found
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)));
    wanted
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            (name, fs::read_to_string(&path).expect("UTF-8"))
        })
        .collect()
}

fn sources() -> Vec<(String, String)> {
    let sources = texts(&["rs"]);
    for expected in ["engine/src/lib.rs", "ahenk-cli/src/main.rs", "sim-tests/tests/tidy.rs"] {
        assert!(sources.iter().any(|(name, _)| name == expected), "{expected} was not looked at");
    }
    sources
}

#[test]
fn no_source_file_is_longer_than_700_lines() {
    let long: Vec<String> = sources()
        .iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "split these: {long:#?}");
}

#[test]
fn every_source_file_begins_with_what_it_owns() {
    let bare: Vec<String> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    assert!(bare.is_empty(), "no //! lines at the top: {bare:#?}");
}

#[test]
fn nothing_is_left_to_do_later() {
    let words = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!"));
    refuse(&sources(), |line| words.iter().any(|word| contains_word(line, word)));
}

/// True if `word` stands in `line` and is not the end of a longer word.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// A path that exists on one machine only has no place in what others clone. Home folders of made-up
/// people are fine in documents, where the reader sees an example.
#[test]
fn no_file_names_a_path_of_one_machine() {
    let homes = ["home", "root", "Users", "tmp", "work"].map(|folder| format!("\"/{folder}/"));
    refuse(&sources(), |line| homes.iter().any(|home| line.contains(home.as_str())));

    let here = root().display().to_string();
    let home = std::env::var("HOME").unwrap_or_default();
    let places: Vec<&str> =
        [here.as_str(), home.as_str()].into_iter().filter(|place| place.matches('/').count() >= 2).collect();
    refuse(&texts(&["rs", "toml", "md", "sh", "yml"]), |line| {
        places.iter().any(|place| line.contains(&format!("{place}/")))
    });
}

fn refuse(texts: &[(String, String)], wrong: impl Fn(&str) -> bool) {
    let mut found = Vec::new();
    for (name, text) in texts {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| wrong(line)) {
            found.push(format!("{name}:{}: {}", at + 1, line.trim()));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_rules_find_what_they_forbid() {
    let word = format!("{}!", "todo");
    assert!(contains_word(&format!("    {word}()"), &word));
    assert!(!contains_word(&format!("not_{word}()"), &word));
    let planted = [("a.rs".to_owned(), "let x = 1;\nbad".to_owned())];
    let caught = std::panic::catch_unwind(|| refuse(&planted, |line| line == "bad"));
    assert!(caught.is_err());
}
