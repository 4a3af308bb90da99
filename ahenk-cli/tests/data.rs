//! Rows through the command line: writing, reading, watching, importing, exporting; with a daemon and without.

mod support;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value as Json, json};
use support::{Device, Ran, World, until};

/// All documents on stdout.
fn documents(ran: &Ran) -> Vec<Json> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn all(device: &Device, args: &[&str]) -> Vec<Json> {
    documents(&device.json(args).ok())
}

/// The last document: what `import` sums up.
fn summary(ran: &Ran) -> Json {
    documents(ran).pop().unwrap_or_else(|| panic!("no summary: {}", ran.stderr))
}

fn file(world: &World, name: &str, content: impl AsRef<[u8]>) -> String {
    let path: PathBuf = world.path().join(name);
    fs::write(&path, content).expect("written");
    path.display().to_string()
}

fn position(device: &Device) -> u64 {
    device.status()["position"].as_u64().expect("a number")
}

/// What a session with the data commands prints, without what differs from run to run.
fn session(device: &Device) -> Vec<String> {
    let object = r#"{"$bytes":"a name","list":[1,{"$bytes":"AP8="}],"nan":{"$float":"NaN"}}"#;
    let lines: [&[&str]; 14] = [
        &["put", "tasks", "t1", "title=Buy tea", "done=false", "n:=[1,2]"],
        &["put", "tasks", "t2", "--json", object],
        &["put", "tasks", "u1", "--json", "{}"],
        &["put", "lists", "l", "n=1.5"],
        &["get", "tasks", "t1"],
        &["get", "tasks", "t2", "list"],
        &["list", "tasks"],
        &["list", "tasks", "--prefix", "t", "--after", "a", "--limit", "1"],
        &["list", "tasks", "--prefix", "t", "--after", "t1"],
        &["tables"],
        &["export"],
        &["delete", "tasks", "t1"],
        &["list", "tasks"],
        &["tables"],
    ];
    let run = |args: &[&str]| {
        let ran = device.json(args).ok();
        if matches!(args[0], "put" | "delete") { String::new() } else { ran.stdout }
    };
    lines.into_iter().map(run).collect()
}

#[test]
fn the_data_commands_work_the_same_with_a_daemon_and_without() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.founder("b"));
    b.start();
    let (direct, daemon) = (session(&a), session(&b));
    assert_eq!(direct, daemon);
    assert_eq!(direct[4], "{\"done\":false,\"n\":[1,2],\"title\":\"Buy tea\"}\n");
    assert_eq!(direct[5], "[1,{\"$bytes\":\"AP8=\"}]\n");
    assert_eq!(direct[6].lines().count(), 3);
    assert!(direct[7].contains("\"t1\"") && !direct[7].contains("\"t2\""), "{}", direct[7]);
    assert!(direct[8].contains("\"t2\"") && !direct[8].contains("\"u1\""), "{}", direct[8]);
    assert_eq!(direct[9], "{\"rows\":1,\"table\":\"lists\"}\n{\"rows\":3,\"table\":\"tasks\"}\n");
    assert!(direct[10].contains(r#""fields":{"$bytes":"a name","list""#), "{}", direct[10]);
    assert_eq!(direct[12].lines().count(), 2);
    // And for people.
    let human = a.run(&["list", "tasks"]).ok().stdout;
    assert!(human.starts_with("t2  $bytes=\"a name\" list=[1,"), "{human}");
    assert_eq!(a.run(&["get", "lists", "l", "n"]).ok().stdout, "1.5\n");
}

#[test]
fn bad_input_is_refused_with_a_hint_and_changes_nothing() {
    let world = World::new();
    let a = world.founder("a");
    a.run(&["put", "t", "r", "a=1"]).ok();
    let before = (position(&a), all(&a, &["export"]));
    let refused: [(&[&str], i32, &str, &str); 12] = [
        (&["put", "t", "r", "a"], 2, "usage", "not FIELD=VALUE"),
        (&["put", "t", "r"], 2, "usage", "no fields"),
        (&["put", "t", "r", "a=1", "a=2"], 2, "usage", "twice"),
        (&["put", "t", "r", "a:={"], 2, "usage", "EOF"),
        (&["put", "t", "r", "--json", "{\"a\":1,\"a\":2}"], 2, "usage", "twice"),
        (&["put", "t", "r", "--json", "{\"a\":99999999999999999999}"], 2, "usage", "64 bits"),
        (&["put", "t", "", "a=1"], 2, "usage", "must not be empty"),
        (&["get", "t", "other"], 3, "not-found", "no row"),
        (&["get", "t", "r", "b"], 3, "not-found", "no field"),
        (&["delete", "t", "other"], 3, "not-found", "no row"),
        (&["watch", "--from", "soon"], 2, "usage", "cursor"),
        (&["oplog", "--since", "soon"], 2, "usage", "neither"),
    ];
    for (args, code, kind, says) in refused {
        let message = a.json(args).error(code, kind);
        assert!(message.contains(says), "{args:?}: {message}");
    }
    let deep = format!("a:={}{}", "[".repeat(40), "]".repeat(40));
    assert!(a.json(&["put", "t", "r", &deep]).error(2, "usage").contains("nested"));
    let cursor = a.json(&["watch", "--from", "99.0", "--limit", "1"]).error(2, "usage");
    assert!(cursor.contains("beyond the end"), "{cursor}");
    assert_eq!((position(&a), all(&a, &["export"])), before);
}

#[test]
fn an_export_imported_on_another_account_is_the_same_to_the_bit_and_importing_twice_writes_nothing() {
    let world = World::new();
    let (a, b) = (world.founder("a"), world.founder("b"));
    session(&a);
    let text = file(&world, "rows.txt", a.run(&["export"]).ok().stdout);
    let summary_of = |ran: Ran| summary(&ran.ok());
    let first = summary_of(b.json(&["import", &text]));
    assert_eq!(
        (&first["written"], &first["skipped"], &first["already"]),
        (&json!(3), &json!(0), &json!(false))
    );
    assert_eq!(all(&a, &["export"]), all(&b, &["export"]));
    let written = position(&b);
    // Once it is done, an edit made since is not undone by the same import.
    b.run(&["put", "tasks", "t2", "list=mine"]).ok();
    let second = summary_of(b.json(&["import", &text]));
    assert_eq!((&second["already"], &second["written"]), (&json!(true), &json!(0)));
    assert_eq!(b.json(&["get", "tasks", "t2", "list"]).json(), "mine");
    // Unless that is asked for; and then only what differs is written.
    let again = summary_of(b.json(&["import", &text, "--again"]));
    assert_eq!((&again["written"], &again["unchanged"]), (&json!(1), &json!(2)));
    assert_eq!(position(&b), written + 2);
    let third = summary_of(b.json(&["import", &text, "--again", "--table", "lists"]));
    assert_eq!((&third["rows"], &third["other_tables"]), (&json!(1), &json!(2)));
    // Into a file: as a whole, and not over another by accident.
    let output = world.path().join("out.jsonl").display().to_string();
    assert_eq!(a.json(&["export", "--output", &output]).json()["rows"], 3);
    assert_eq!(fs::read_to_string(&output).expect("there"), fs::read_to_string(&text).expect("there"));
    assert!(a.json(&["export", "--output", &output]).error(6, "conflict").contains("there already"));
    a.json(&["export", "--output", &output, "--force", "--table", "lists"]).ok();
    assert_eq!(fs::read_to_string(&output).expect("there").lines().count(), 1);
}

#[test]
fn what_an_import_cannot_use_is_reported_with_its_line_and_the_rest_is_imported() {
    let world = World::new();
    let a = world.founder("a");
    let mut lines =
        b"{\"id\":\"a\",\"n\":1}\nnot JSON\n{\"id\":\"b\",\"text\":\"\xff\"}\n{\"n\":2}\n".to_vec();
    lines.extend(format!("{{\"id\":\"c\",\"text\":\"{}\"}}\n", "x".repeat(9 << 20)).bytes());
    lines.extend(format!("{{\"id\":\"d\",\"text\":\"{}\"}}\n", "x".repeat(1 << 20)).bytes());
    lines.extend(b"{\"id\":\"\"}\n{\"id\":7,\"n\":1}\n{\"id\":\"7\",\"n\":2}\n{\"id\":\"e\",\"n\":3");
    let path = file(&world, "rows.jsonl", &lines);
    let ran = a.json(&["import", &path, "--table", "t", "--key", "id"]).ok();
    let documents = documents(&ran);
    let skips: Vec<(u64, &str)> = documents
        .iter()
        .filter_map(|document| document.get("skipped")?.as_object())
        .map(|skip| (skip["line"].as_u64().expect("a line"), skip["reason"].as_str().expect("a reason")))
        .collect();
    let expected = [
        (2, "expected ident"),
        (3, "UTF-8"),
        (4, "no field \"id\""),
        (5, "longer than 8 MiB"),
        (6, "one transaction holds at most"),
        (7, "must not be empty"),
        (10, "EOF"),
    ];
    assert_eq!(skips.len(), expected.len(), "{skips:?}");
    for ((line, reason), (expected_line, says)) in skips.into_iter().zip(expected) {
        assert!(line == expected_line && reason.contains(says), "{line}: {reason}");
    }
    let summary = summary(&ran);
    assert_eq!(
        (&summary["records"], &summary["rows"], &summary["duplicates"]),
        (&json!(10), &json!(3), &json!(1))
    );
    assert_eq!(a.json(&["get", "t", "7"]).json(), json!({ "id": "7", "n": 2 }));
    // For people: the first few, and a word about the rest.
    let bad = file(&world, "bad.jsonl", "{\"id\":1}\n".to_owned() + &"?\n".repeat(25));
    let ran = a.run(&["import", &bad, "--table", "t", "--key", "id"]).ok();
    assert_eq!(ran.stderr.lines().filter(|line| line.starts_with("  line ")).count(), 10);
    assert!(
        ran.stderr.contains("Skipped 25 records") && ran.stderr.contains("and 15 more"),
        "{}",
        ran.stderr
    );
    let strict = a.json(&["import", &bad, "--table", "t", "--key", "id", "--again", "--strict"]);
    assert!(strict.error(2, "usage").contains("25 records were skipped"));
    let nothing = file(&world, "nothing.jsonl", "?\n!\n");
    let none = a.json(&["import", &nothing, "--table", "t", "--key", "id"]);
    assert!(none.error(2, "usage").contains("no record"));
}

#[test]
fn a_file_that_breaks_off_or_is_not_there_is_an_error_and_what_came_before_is_kept() {
    let world = World::new();
    let a = world.founder("a");
    let to = |path: &str, more: &[&str]| {
        a.json(&[&["import", path, "--table", "t", "--key", "id"], more].concat())
    };
    let truncated = file(&world, "rows.json", "[{\"id\":\"a\"},\n{\"id\":\"b\"},\n{\"id\":\"c");
    let message = to(&truncated, &[]).error(2, "usage");
    assert!(message.contains("line 3") && message.contains("2 rows before"), "{message}");
    assert_eq!(all(&a, &["list", "t"]).len(), 2);
    // Mended, it goes on; what is there is not written again.
    let mended = file(&world, "rows.json", "[{\"id\":\"a\"},\n{\"id\":\"b\"},\n{\"id\":\"c\"}]");
    let summary = summary(&to(&mended, &[]).ok());
    assert_eq!((&summary["written"], &summary["unchanged"]), (&json!(1), &json!(2)));
    let quote = file(&world, "rows.csv", "id,n\nx,1\ny,\"2\nz,3\n");
    assert!(to(&quote, &[]).error(2, "usage").contains("quote that opens in line 3"));
    to(&quote, &["--no-quotes"]).ok();
    assert_eq!(a.json(&["get", "t", "y", "n"]).json(), "\"2");
    let header = file(&world, "header.csv", "id,id\n1,2\n");
    assert!(to(&header, &[]).error(2, "usage").contains("two columns"));
    let missing = world.path().join("missing").display().to_string();
    assert!(to(&missing, &[]).error(3, "not-found").contains("no file"));
    let folder = world.path().display().to_string();
    assert!(to(&folder, &[]).error(2, "usage").contains("not a plain file"));
    assert!(a.json(&["import", &quote]).error(2, "usage").contains("--table and --key"));
    assert!(a.json(&["import", &mended, "--delimiter", "ab"]).error(2, "usage").contains("--delimiter"));
    let empty = file(&world, "empty.jsonl", "");
    to(&empty, &[]).ok();
}

#[test]
fn columns_are_read_in_all_their_forms_and_from_stdin() {
    let world = World::new();
    let a = world.founder("a");
    let tabs = file(&world, "zones.tab", "# comment\nAD\tEurope/Andorra\t7\n");
    let columns = ["--columns", "code,tz,n", "--comment", "#", "--typed", "--key", "tz"];
    a.json(&[&["import", &tabs, "--table", "zones"], &columns[..]].concat()).ok();
    assert_eq!(
        a.json(&["get", "zones", "Europe/Andorra"]).json(),
        json!({ "code": "AD", "tz": "Europe/Andorra", "n": 7 })
    );
    let args =
        ["--json", "import", "-", "--table", "s", "--key", "column1", "--no-header", "--delimiter", ";"];
    let ran = a.run_with_input(&args, "0041;\"LATIN; A\"\n0042;B\n").ok();
    assert_eq!(summary(&ran)["written"], 2);
    assert_eq!(a.json(&["get", "s", "0041", "column2"]).json(), "LATIN; A");
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_stopped_and_writes_no_row_twice() {
    const ROWS: u64 = 600;
    let world = World::new();
    let a = world.founder("a");
    a.start();
    let before = position(&a);
    let text: String = (0..ROWS).map(|n| format!("{{\"id\":{n},\"n\":{n}}}\n")).collect();
    let path = file(&world, "rows.jsonl", text);
    let args = ["--json", "import", &path, "--table", "t", "--key", "id", "--chunk", "1"];
    let mut importing = a.spawn(&args);
    until("some rows are there", || position(&a) >= before + 5);
    importing.child.kill().expect("killed");
    importing.child.wait().expect("ended");
    let ran = a.run(&args).ok();
    let summary = summary(&ran);
    let count = |name: &str| summary[name].as_u64().expect("a number");
    assert!(count("resumed") >= 4, "{summary}");
    assert_eq!(count("resumed") + count("written") + count("unchanged"), ROWS);
    assert!(count("unchanged") <= 1, "only the chunk under way may be looked at again: {summary}");
    assert_eq!(all(&a, &["tables"]), [json!({ "table": "t", "rows": ROWS })]);
    assert_eq!(position(&a), before + ROWS, "each row was written once");
    assert!(ran.stderr.contains("Going on behind record"), "{}", ran.stderr);
}

#[test]
fn a_watch_shows_changes_as_they_come_and_goes_on_from_a_cursor() {
    let world = World::new();
    let a = world.founder("a");
    a.run(&["put", "t", "r1", "n=1"]).ok();
    for daemon in [false, true] {
        if daemon {
            a.start();
        }
        let mut watching = a.spawn(&["--json", "watch", "t", "--from", "0.0"]);
        let first = watching.next();
        assert_eq!(
            (&first["row"], &first["kind"], &first["device"]),
            (&json!("r1"), &json!("put"), &json!("a"))
        );
        assert_eq!(first["now"]["n"], 1);
        let cursor = first["cursor"].as_str().expect("a cursor").to_owned();
        let row = if daemon { "r3" } else { "r2" };
        a.run(&["put", "other", "x", "n=1"]).ok();
        a.run(&["put", "t", row, "n=2"]).ok();
        while watching.next()["row"] != row {}
        drop(watching);
        let resumed = all(&a, &["watch", "--from", &cursor, "--limit", "1"]);
        assert_eq!(resumed[0]["table"], "other");
    }
    // The daemon may go meanwhile.
    let mut watching = a.spawn(&["--json", "watch", "--from", "0.0"]);
    assert_eq!(watching.next()["row"], "r1");
    a.run(&["stop"]).ok();
    a.run(&["put", "t", "r4", "n=2"]).ok();
    let mut seen = Vec::new();
    while seen.last() != Some(&json!("r4")) {
        seen.push(watching.next()["row"].clone());
    }
    assert_eq!(seen, ["x", "r2", "x", "r3", "r4"], "each change once");
}

#[test]
fn the_log_is_filtered_by_place_time_device_and_table() {
    let world = World::new();
    let a = world.founder("a");
    for n in 1..=5 {
        a.run(&["put", if n == 3 { "u" } else { "t" }, &format!("r{n}"), "x=1"]).ok();
    }
    a.run(&["delete", "t", "r1"]).ok();
    let rows = |args: &[&str]| -> Vec<String> {
        let entries = all(&a, &[&["oplog"], args].concat());
        entries.iter().map(|entry| entry["row"].as_str().expect("a row").to_owned()).collect()
    };
    assert_eq!(rows(&[]), ["r1", "r2", "r3", "r4", "r5", "r1"]);
    assert_eq!(rows(&["--limit", "2"]), ["r5", "r1"]);
    let nth = |n: usize| all(&a, &["oplog"])[n - 1]["position"].to_string();
    assert_eq!(rows(&["--since", &nth(5)]), ["r5", "r1"]);
    assert_eq!(rows(&["--since", &nth(2), "--table", "t", "--limit", "9"]), ["r2", "r4", "r5", "r1"]);
    assert_eq!(rows(&["--since", "1h"]).len(), 6);
    assert_eq!(rows(&["--since", "2999-01-01"]).len(), 0);
    let entry = &all(&a, &["oplog", "--limit", "1"])[0];
    assert_eq!((&entry["kind"], entry["position"].as_u64()), (&json!("delete"), Some(position(&a))));
    let id = entry["device_id"].as_str().expect("an id");
    assert_eq!(rows(&["--device", &id[..8]]).len(), 6);
    assert_eq!(rows(&["--device", "a"]).len(), 6);
    assert!(a.json(&["oplog", "--device", "nobody"]).error(3, "not-found").contains("nobody"));
    assert!(a.run(&["oplog"]).ok().stdout.contains("  a  delete t/r1"));
    assert!(a.run(&["conflicts"]).ok().stderr.contains("No value"));
}

#[test]
fn an_export_that_cannot_be_read_back_whole_is_an_error_and_the_rest_is_imported() {
    let world = World::new();
    let device = world.founder("a");
    let large = "z".repeat(990_000);
    // A single field of that size cannot have come out of a database; it is what a damaged or foreign file holds.
    let lines = format!(
        "{{\"table\":\"t\",\"row\":\"small\",\"fields\":{{\"x\":1}}}}\n{{\"table\":\"t\",\"row\":\"large\",\"fields\":{{\"x\":\"{large}\"}}}}\n"
    );
    let exported = file(&world, "export.jsonl", lines);
    let message = device.json(&["import", &exported]).error(2, "usage");
    assert!(message.contains("1 records were skipped"), "{message}");
    assert_eq!(device.run(&["get", "t", "small", "x"]).ok().stdout.trim(), "1");
}

#[test]
fn a_row_that_outgrew_one_transaction_comes_back_from_its_export() {
    let world = World::new();
    let device = world.founder("a");
    for n in 0..4 {
        let text = "z".repeat(400_000);
        let line = format!("{{\"id\":\"r\",\"text-{n}\":\"{text}\"}}\n");
        let grown = file(&world, &format!("grown-{n}.jsonl"), line);
        device.run(&["import", &grown, "--table", "t", "--key", "id"]).ok();
    }
    let exported = world.path().join("out.jsonl").display().to_string();
    let said = summary(&device.json(&["export", "--output", &exported]).ok());
    assert_eq!(said["rows"], 1);
    let other = world.founder("b");
    let said = summary(&other.json(&["import", &exported]).ok());
    assert_eq!((&said["rows"], &said["skipped"]), (&2.into(), &0.into()));
    let row = |device: &Device| summary(&device.json(&["get", "t", "r"]).ok());
    assert_eq!(row(&device)["fields"], row(&other)["fields"]);
    let in_one = format!(
        "{{\"id\":\"r\",{}}}\n",
        (0..3).map(|n| format!("\"f{n}\":\"{}\"", "y".repeat(500_000))).collect::<Vec<_>>().join(",")
    );
    let in_one = file(&world, "in-one.jsonl", in_one);
    let said = summary(&other.json(&["import", &in_one, "--table", "t", "--key", "id"]).ok());
    assert_eq!((&said["rows"], &said["written"]), (&1.into(), &1.into()));
}

#[test]
fn an_export_into_a_home_is_refused_and_leaves_the_database_alone() {
    let world = World::new();
    let device = world.founder("a");
    device.run(&["put", "t", "r", "x=1"]).ok();
    let database = device.home.join("ahenk.redb").display().to_string();
    let message = device.json(&["export", "--force", "--output", &database]).error(2, "usage");
    assert!(message.contains("home folder"), "{message}");
    assert_eq!(device.run(&["get", "t", "r", "x"]).ok().stdout.trim(), "1");
}
