//! Looking into the data: filters, counting, batches, the history of a row, conflicts, and why a value won.

mod support;

use serde_json::{Value as Json, json};
use support::{Device, Ran, World, exchange};

fn documents(ran: &Ran) -> Vec<Json> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn all(device: &Device, args: &[&str]) -> Vec<Json> {
    documents(&device.json(args).ok())
}

fn rows(device: &Device, args: &[&str]) -> Vec<String> {
    let rows = all(device, &[&["list", "people"], args].concat());
    rows.iter().map(|row| row["row"].as_str().expect("a key").to_owned()).collect()
}

fn people(device: &Device) {
    for (row, fields) in [
        ("ann", r#"{"age":31,"city":"Izmir","admin":true}"#),
        ("bob", r#"{"age":4.5,"city":"Ankara"}"#),
        ("cem", r#"{"age":"unknown","city":"Izmir"}"#),
        ("dora", r#"{"city":null}"#),
    ] {
        device.run(&["put", "people", row, "--json", fields]).ok();
    }
}

/// Two devices that have paired, without daemons.
fn pair(world: &World) -> (Device, Device) {
    let (a, b) = (world.founder("a"), world.device("b"));
    a.admit(&b);
    (a, b)
}

/// Two writes of one field that do not know of each other, exchanged: the device that lost, and the one that won.
fn conflict(a: &Device, b: &Device) {
    a.run(&["put", "t", "r", "x=base"]).ok();
    exchange(a, b);
    a.run(&["put", "t", "r", "x=from a"]).ok();
    b.run(&["put", "t", "r", "x=from b"]).ok();
    exchange(a, b);
}

#[test]
fn lists_are_filtered_sorted_and_cut_to_columns_with_a_daemon_and_without() {
    let world = World::new();
    let a = world.founder("a");
    people(&a);
    for daemon in [false, true] {
        if daemon {
            a.start();
        }
        assert_eq!(rows(&a, &["--where", "age>5"]), ["ann"]);
        assert_eq!(rows(&a, &["--where", "age<=31", "--where", "admin!=true"]), ["bob"]);
        assert_eq!(rows(&a, &["--where", "city~zm"]), ["ann", "cem"]);
        assert_eq!(rows(&a, &["--where", "city=null"]), ["dora"]);
        assert_eq!(rows(&a, &["--sort", "age"]), ["bob", "ann", "cem", "dora"]);
        assert_eq!(rows(&a, &["--sort", "-age"]), ["cem", "ann", "bob", "dora"]);
        assert_eq!(rows(&a, &["--sort", "city,-age", "--limit", "3"]), ["dora", "bob", "cem"]);
        assert_eq!(rows(&a, &["--where", "city~z", "--after", "ann", "--limit", "1"]), ["cem"]);
        let cut = all(&a, &["list", "people", "--columns", "age,admin", "--limit", "1"]);
        assert_eq!(cut, [json!({ "row": "ann", "fields": { "age": 31, "admin": true } })]);
        assert_eq!(a.json(&["count", "people"]).json(), json!({ "table": "people", "rows": 4 }));
        assert_eq!(a.run(&["count", "people", "--where", "city=Izmir"]).ok().stdout, "2\n");
        assert_eq!(a.run(&["count", "nobody"]).ok().stdout, "0\n");
        assert!(a.json(&["list", "people", "--where", "age"]).error(2, "usage").contains("age"));
    }
    let table = a.run(&["list", "people", "--columns", "city,age"]).ok().stdout;
    assert_eq!(
        table,
        "ROW   CITY    AGE\nann   Izmir   31\nbob   Ankara  4.5\ncem   Izmir   unknown\ndora  null\n"
    );
}

#[test]
fn a_batch_is_one_transaction_or_as_many_as_are_asked_for() {
    let world = World::new();
    let a = world.founder("a");
    let put =
        |row: &str, n: u32| format!(r#"{{"kind":"put","table":"t","row":"{row}","fields":{{"n":{n}}}}}"#);
    let good = [
        put("r1", 1),
        put("r2", 2),
        r#"{"kind":"update","table":"t","row":"r1","fields":{"m":3}}"#.to_owned(),
        String::new(),
        r#"{"kind":"replace","table":"t","row":"r2","fields":{"only":true}}"#.to_owned(),
        put("r3", 3),
        r#"{"kind":"delete","table":"t","row":"r3"}"#.to_owned(),
    ];
    let before = a.status()["position"].as_u64().expect("a number");
    let ran = a.run_with_input(&["--json", "batch"], &good.join("\n")).ok();
    assert_eq!(documents(&ran), [json!({ "operations": 6, "transactions": 1 })]);
    assert_eq!(a.status()["position"], before + 1, "one commit");
    let rows = all(&a, &["list", "t"]);
    assert_eq!(
        rows,
        [
            json!({ "row": "r1", "fields": { "n": 1, "m": 3 } }),
            json!({ "row": "r2", "fields": { "only": true } })
        ]
    );
    a.start();
    let bad = [put("r8", 8), r#"{"kind":"update","table":"t","row":"nobody","fields":{}}"#.to_owned()];
    let message = a.run_with_input(&["--json", "batch"], &bad.join("\n")).error(3, "not-found");
    assert!(message.contains("lines 1 to 2") && message.contains("nobody"), "{message}");
    assert_eq!(all(&a, &["list", "t"]), rows, "nothing of it was written");
    let chunked = [put("r4", 4), put("r5", 5), put("r6", 6), "{\"kind\":\"putt\"}".to_owned()];
    let ran = a.run_with_input(&["--json", "batch", "--chunk", "2"], &chunked.join("\n"));
    assert!(ran.stderr.contains("the 2 operations before line 3 were written"), "{}", ran.stderr);
    assert!(ran.error(2, "usage").contains("lines 3 to 4"));
    assert_eq!(a.run(&["count", "t"]).ok().stdout, "4\n");
    assert_eq!(a.run_with_input(&["batch"], "").ok().stdout, "0 operations in 0 transactions.\n");
    assert!(a.json(&["batch", "/no/such/file"]).error(3, "not-found").contains("/no/such/file"));
}

#[test]
fn the_history_of_a_row_names_every_write_and_which_of_them_still_shows() {
    let world = World::new();
    let a = world.founder("a");
    a.run(&["put", "t", "r", "x=1", "y=1"]).ok();
    a.run(&["put", "t", "other", "x=1"]).ok();
    a.run(&["put", "t", "r", "x=2"]).ok();
    let entries = all(&a, &["history", "t", "r"]);
    let brief = |entry: &Json| json!([entry["kind"], entry["fields"], entry["shown"], entry["device"]]);
    assert_eq!(
        entries.iter().map(brief).collect::<Vec<_>>(),
        [json!(["put", { "x": 1, "y": 1 }, ["y"], "a"]), json!(["put", { "x": 2 }, ["x"], "a"])]
    );
    assert_eq!(all(&a, &["history", "t", "r", "y"]).len(), 1);
    assert_eq!(all(&a, &["history", "t", "r", "--limit", "1"])[0]["fields"], json!({ "x": 2 }));
    a.run(&["delete", "t", "r"]).ok();
    a.start();
    let entries = all(&a, &["history", "t", "r", "y"]);
    assert_eq!((entries.len(), &entries[1]["kind"]), (2, &json!("delete")), "a delete touches every field");
    assert!(entries.iter().all(|entry| entry["shown"] == json!([])));
    assert!(a.run(&["history", "t", "r"]).ok().stdout.contains("a  delete"));
    assert!(a.json(&["history", "t", "nobody"]).error(3, "not-found").contains("nobody"));
    assert!(a.json(&["history", "t", "r", "z"]).error(3, "not-found").contains("ever wrote"));
}

#[test]
fn a_lost_value_is_listed_explained_and_restored_everywhere() {
    let world = World::new();
    let (a, b) = pair(&world);
    conflict(&a, &b);
    let listed = all(&a, &["conflicts"]);
    assert_eq!(listed, all(&a, &["conflicts", "list"]));
    assert_eq!(listed.len(), 1);
    let (id, lost) = (listed[0]["id"].to_string(), listed[0]["lost"]["value"].clone());
    let now = a.json(&["get", "t", "r", "x"]).json();
    assert_eq!(listed[0]["won"]["value"], now);
    assert_ne!(lost, now);
    let explanation = a.json(&["explain", "t", "r", "x"]).json();
    let field = &explanation["fields"][0];
    assert_eq!((&explanation["present"], &field["value"]), (&json!(true), &now));
    let rivals = field["rivals"].as_array().expect("a list");
    let seen: Vec<_> = rivals.iter().map(|rival| (&rival["value"], &rival["seen"])).collect();
    assert_eq!(seen, [(&lost, &json!(false)), (&json!("base"), &json!(true))]);
    assert_eq!(rivals[0]["why"], listed[0]["why"]);
    let detail = a.json(&["conflicts", "show", &id]).json();
    assert_eq!((&detail["now"], &detail["present"], &detail["id"]), (&now, &json!(true), &listed[0]["id"]));
    assert_eq!(
        a.json(&["conflicts", "restore", &id]).json(),
        json!({ "restored": [listed[0]["id"]], "unchanged": [] })
    );
    assert_eq!(a.json(&["get", "t", "r", "x"]).json(), lost);
    assert_eq!(a.json(&["conflicts", "restore", &id]).json()["unchanged"], json!([listed[0]["id"]]));
    exchange(&a, &b);
    assert_eq!(
        b.json(&["get", "t", "r", "x"]).json(),
        lost,
        "the restored value wins on the other device too"
    );
    assert_eq!(all(&a, &["conflicts"]).len(), 1, "restoring is no conflict, and the ledger stays");
    assert!(a.json(&["conflicts", "show", "99"]).error(3, "not-found").contains("99"));
    assert!(a.json(&["conflicts", "restore", "99"]).error(3, "not-found").contains("99"));
    let twice = a.json(&["conflicts", "restore", &id, &id]).error(2, "usage");
    assert!(twice.contains("same field"), "{twice}");
}

#[test]
fn explain_says_which_devices_have_a_write_as_far_as_that_is_known() {
    let world = World::new();
    let (a, b) = pair(&world);
    let holders = |device: &Device| {
        let explanation = device.json(&["explain", "t", "r"]).json();
        let part = if explanation["present"] == true { &explanation["fields"][0] } else { &explanation };
        let holders = part["holders"].as_array().expect("a list").clone();
        let mut known: Vec<_> =
            holders.iter().map(|holder| (holder["device"].to_string(), holder["has"].clone())).collect();
        known.sort_by_key(|(name, _)| name.clone());
        known.into_iter().map(|(_, has)| has).collect::<Vec<_>>()
    };
    a.run(&["put", "t", "r", "x=1"]).ok();
    assert_eq!(holders(&a), [json!(true), Json::Null], "b was not heard of since");
    exchange(&a, &b);
    b.run(&["put", "t", "s", "x=1"]).ok();
    exchange(&a, &b);
    assert_eq!(holders(&a), [json!(true), json!(true)], "b wrote something that shows that it had it");
    a.start();
    b.start();
    a.run(&["sync"]).ok();
    a.run(&["delete", "t", "r"]).ok();
    a.run(&["sync"]).ok();
    assert_eq!(holders(&a), [json!(true), json!(true)], "b is connected and said so");
    let human = a.run(&["explain", "t", "r"]).ok().stdout;
    assert!(human.contains("t/r  is deleted (by a, ") && human.contains("has it"), "{human}");
    assert!(a.json(&["explain", "t", "nobody"]).error(3, "not-found").contains("nobody"));
    assert!(a.json(&["explain", "t", "s", "z"]).error(3, "not-found").contains("no field"));
}

#[test]
fn sql_reads_tables_log_conflicts_and_peers_the_same_with_a_daemon_and_without() {
    let world = World::new();
    let (a, b) = pair(&world);
    people(&a);
    let odd = r#"{"Age":1,"row":"mine","tags":["x","y"],"raw":{"$bytes":"AP8="}}"#;
    a.run(&["put", "people", "eve", "--json", odd]).ok();
    conflict(&a, &b);
    let query = |sql: &str| all(&a, &["query", sql]);
    for daemon in [false, true] {
        if daemon {
            a.start();
        }
        assert_eq!(
            query("SELECT city, count(*) AS n FROM people WHERE city IS NOT NULL GROUP BY city ORDER BY n"),
            [json!({ "city": "Ankara", "n": 1 }), json!({ "city": "Izmir", "n": 2 })]
        );
        assert_eq!(
            query("SELECT row, age FROM people WHERE admin AND typeof(age) = 'integer'"),
            [json!({ "row": "ann", "age": 31 })]
        );
        assert_eq!(
            query(
                "SELECT row_2, Age_2, json_extract(tags, '$[1]') AS tag, raw FROM people WHERE row = 'eve'"
            ),
            [json!({ "row_2": "mine", "Age_2": 1, "tag": "y", "raw": { "$bytes": "AP8=" } })]
        );
        let log = query("SELECT count(*) AS n FROM oplog WHERE device = 'b' AND \"table\" = 't'");
        assert_eq!(log, [json!({ "n": 1 })]);
        let lost = &all(&a, &["conflicts"])[0];
        assert_eq!(
            query("SELECT lost_value, won_value FROM ahenk.conflicts"),
            [json!({ "lost_value": lost["lost"]["value"], "won_value": lost["won"]["value"] })]
        );
        assert_eq!(query("SELECT name, connected FROM peers"), [json!({ "name": "b", "connected": 0 })]);
        assert_eq!(
            query(
                "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<3) SELECT max(n) AS m FROM c"
            ),
            [json!({ "m": 3 })]
        );
        assert_eq!(query("SELECT 1 AS x, 2 AS x"), [json!({ "x": 1, "x_2": 2 })]);
    }
    let human = a.run(&["query", "SELECT row, city FROM people ORDER BY row LIMIT 2"]).ok().stdout;
    assert_eq!(human, "row  city\nann  Izmir\nbob  Ankara\n");
}

#[test]
fn a_query_can_do_nothing_but_read() {
    let world = World::new();
    let a = world.founder("a");
    people(&a);
    let target = world.path().join("stolen.db").display().to_string();
    let (attach, vacuum) = (format!("ATTACH '{target}' AS x"), format!("VACUUM INTO '{target}'"));
    for sql in [
        "DELETE FROM people",
        "INSERT INTO people(row) VALUES ('x')",
        "DROP TABLE people",
        "CREATE TABLE x(y)",
        "PRAGMA journal_mode",
        "SELECT load_extension('x')",
        &attach,
        &vacuum,
    ] {
        let message = a.json(&["query", sql]).error(2, "usage");
        assert!(message.contains("can only read") || message.contains("load_extension"), "{sql}: {message}");
    }
    assert!(a.json(&["query", "SELECT 1; SELECT 2"]).error(2, "usage").contains("Multiple"));
    assert!(a.json(&["query", "SELECT * FROM nobody"]).error(2, "usage").contains("no such table"));
    assert!(a.json(&["query", "SELEC"]).error(2, "usage").contains("syntax error"));
    assert!(!std::path::Path::new(&target).exists());
    assert_eq!(a.run(&["count", "people"]).ok().stdout, "4\n");
}

/// Puts a row into a device's database behind its back.
fn tamper(device: &Device, table: &str, row: &str) {
    use engine::commit::{OpKind, Stamp};
    use engine::hlc::Hlc;
    use engine::identity::{AccountId, Dot, ReplicaId};
    use engine::name::{RowKey, TableName};
    use engine::store::{Batch, Store as _, StoreRead as _};
    let account = device.status()["account"].as_str().expect("an id").to_owned();
    let bytes: Vec<u8> =
        (0..32).map(|n| u8::from_str_radix(&account[2 * n..2 * n + 2], 16).expect("hexadecimal")).collect();
    let account = AccountId(bytes.try_into().expect("32 bytes"));
    let store = store::RedbStore::open(&device.home.join("ahenk.redb"), account, [9; 16]).expect("opens");
    let recovered = store.recover().expect("recovered");
    let replica = ReplicaId { device: engine::testing::test_identity(9).device(), incarnation: 1 };
    let stamp = Stamp { hlc: Hlc::new(1, 0), dot: Dot { replica, seq: 1 } };
    let mut state = engine::row::RowState::default();
    state.apply(stamp, &engine::testing::op(table, row, OpKind::Put, [].into()), &mut Vec::new());
    let (table, row) = (TableName::new(table).expect("a table"), RowKey::new(row).expect("a key"));
    let digest = recovered.digest.wrapping_add(state.digest(&table, &row));
    let batch = Batch {
        position: recovered.position + 1,
        rows: [(table, vec![(row, state)])].into(),
        clock: recovered.clock,
        digest,
        ..Batch::default()
    };
    store.apply(&batch).expect("applied");
}

#[test]
fn verify_finds_devices_equal_and_names_the_rows_that_are_not() {
    let world = World::new();
    let (a, b) = pair(&world);
    people(&a);
    assert_eq!(a.json(&["verify", "--local"]).json()["local"]["rows"], 4);
    assert!(a.json(&["verify", "--timeout", "1"]).error(7, "network").contains("no other device"));
    b.start();
    let alone = a.json(&["verify", "--peer", "b"]).json();
    assert_eq!((&alone["peers"][0]["outcome"], &alone["peers"][0]["rows"]), (&json!("equal"), &json!(4)));
    a.start();
    assert_eq!(a.json(&["verify"]).json()["peers"], alone["peers"]);
    assert!(a.run(&["verify"]).ok().stdout.contains("4 rows, all equal"));
    a.run(&["stop"]).ok();
    tamper(&a, "people", "ghost");
    a.start();
    let ran = a.json(&["verify"]);
    let found: Json = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(found["local"]["equal"], true, "the record was changed as well");
    let rows = found["peers"][0]["differences"].as_array().expect("a list");
    assert_eq!(rows.len(), 1, "{found}");
    assert_eq!(
        (&rows[0]["table"], &rows[0]["row"], &rows[0]["theirs"]),
        (&json!("people"), &json!("ghost"), &Json::Null)
    );
    assert!(ran.error(6, "conflict").contains("differ from those of b"));
    assert!(a.json(&["verify", "--peer", "nobody"]).error(3, "not-found").contains("nobody"));
    assert!(a.json(&["verify", "--peer", "a"]).error(2, "usage").contains("itself"));
}
