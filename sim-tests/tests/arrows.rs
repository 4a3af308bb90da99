//! The dependency arrows of the workspace, checked over what cargo itself says.
//!
//! Architecture invariant: a crate depends on no other crate of the workspace than its row here
//! allows, and nothing that does IO, reads a clock or asks the system for randomness is anywhere
//! below the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace each may use in what it ships.
const ARROWS: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("store", &["engine"]),
    ("transport-libp2p", &["engine"]),
    ("transport-sim", &["engine"]),
    ("ahenk", &["engine"]),
    ("sim-tests", &["engine", "ahenk", "store", "transport-sim"]),
    ("benches", &["engine", "store", "ahenk", "transport-libp2p"]),
    ("ahenk-cli", &["engine", "ahenk", "store", "transport-libp2p"]),
];

/// What tests and examples may use beyond that.
const TEST_ARROWS: &[(&str, &[&str])] =
    &[("ahenk", &["store", "transport-sim"]), ("transport-libp2p", &["store", "ahenk"])];

/// Who may name these at all: the rest reach them through the crate that wraps them.
const OWNERS: &[(&str, &[&str])] = &[
    ("libp2p", &["transport-libp2p"]),
    ("redb", &["store", "benches"]),
    ("turmoil", &["transport-sim", "sim-tests"]),
];

/// Crates that would give the engine IO, a clock, threads or randomness of its own.
const IMPURE: &[&str] = &[
    "async-std",
    "chrono",
    "crossbeam",
    "fastrand",
    "futures",
    "getrandom",
    "if-watch",
    "libp2p",
    "mio",
    "nix",
    "notify",
    "polling",
    "quinn",
    "rand",
    "rayon",
    "redb",
    "reqwest",
    "rusqlite",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "turmoil",
    "web-time",
    "windows-sys",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

/// A direct dependency: its name, and whether only tests, examples and benchmarks use it.
type Dependency = (String, bool);

/// The direct dependencies of each crate of the workspace.
fn direct_dependencies() -> BTreeMap<String, Vec<Dependency>> {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("a list of dependencies");
            let dependencies = dependencies
                .iter()
                .map(|dependency| (text_of(&dependency["name"]), dependency["kind"].as_str() == Some("dev")));
            (text_of(&package["name"]), dependencies.collect())
        })
        .collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn allowed(table: &[(&str, &'static [&'static str])], name: &str) -> &'static [&'static str] {
    table.iter().find(|(crate_name, _)| *crate_name == name).map_or(&[], |(_, targets)| targets)
}

#[test]
fn the_table_of_arrows_names_exactly_the_crates_of_the_workspace() {
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let crates = direct_dependencies();
    assert_eq!(crates.keys().map(String::as_str).collect::<BTreeSet<_>>(), listed);
}

#[test]
fn crates_of_the_workspace_depend_on_each_other_only_along_the_arrows() {
    let crates = direct_dependencies();
    let mut wrong = Vec::new();
    for (name, dependencies) in &crates {
        for (target, tests_only) in dependencies.iter().filter(|(target, _)| crates.contains_key(target)) {
            let shipped = allowed(ARROWS, name).contains(&target.as_str());
            let tested = *tests_only && allowed(TEST_ARROWS, name).contains(&target.as_str());
            // A crate's own tests may ask for more of its features.
            let itself = *tests_only && target == name;
            if !shipped && !tested && !itself {
                wrong.push(format!("{name} -> {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies against the arrows: {wrong:?}");
}

#[test]
fn network_store_and_simulator_libraries_are_named_by_their_wrappers_only() {
    let mut wrong = Vec::new();
    for (name, dependencies) in direct_dependencies() {
        for (target, tests_only) in dependencies {
            let owners = OWNERS.iter().find(|(library, _)| *library == target).map(|(_, owners)| *owners);
            // A benchmark may compare with the bare library.
            let compared = tests_only && name == "benches";
            if owners.is_some_and(|owners| !owners.contains(&name.as_str())) && !compared {
                wrong.push(format!("{name} -> {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "libraries named outside their wrapper: {wrong:?}");
}

/// `cargo tree -p` resolves features for that crate alone, as a user of the engine would get them;
/// `cargo metadata` would mix in what the rest of the workspace switches on.
#[test]
fn nothing_below_the_engine_does_io_or_reads_a_clock_or_the_systems_randomness() {
    let arguments = [
        "tree", "-p", "engine", "-e", "normal", "--target", "all", "--prefix", "none", "--format", "{p}",
        "--locked",
    ];
    let tree = cargo(&arguments);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains("engine") && names.contains("serde"), "not a tree of the engine:\n{tree}");
    let impure: Vec<&&str> = names
        .iter()
        .filter(|name| IMPURE.contains(name) || name.starts_with("tokio-") || name.starts_with("libp2p-"))
        .collect();
    assert!(impure.is_empty(), "below the engine: {impure:?}");
}

/// The features of `engine` that a crate's normal dependencies switch on, as when that crate is built by itself.
fn engine_features(package: &str) -> BTreeSet<String> {
    let arguments =
        ["tree", "-p", package, "-e", "normal,features", "--target", "all", "--prefix", "none", "--locked"];
    let tree = cargo(&arguments);
    let features = tree.lines().filter_map(|line| line.strip_prefix("engine feature \""));
    features.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

#[test]
fn bugs_can_be_planted_by_the_simulator_only() {
    assert!(engine_features("sim-tests").contains("planted"), "the simulator plants bugs");
    for (name, _) in ARROWS.iter().filter(|(name, _)| *name != "sim-tests") {
        let features = engine_features(name);
        assert!(!features.contains("planted"), "{name} is built with bugs to plant: {features:?}");
    }
}
