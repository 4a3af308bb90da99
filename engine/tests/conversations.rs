//! Golden conversations: what two or three devices say to each other, as text that a person can read and review.
//! After a change of the protocol that is meant, run with `UPDATE_CONVERSATIONS=1` and read the difference.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use engine::commit::OpKind;
use engine::config::Config;
use engine::io::{Change, Input};
use engine::name::{FieldName, RowKey, TableName};
use engine::testing::Mesh;
use engine::value::Value;

fn put(row: &str, value: &str) -> Vec<Change> {
    vec![Change {
        table: TableName::new("t").unwrap(),
        row: RowKey::new(row).unwrap(),
        kind: OpKind::Put,
        fields: BTreeMap::from([(FieldName::new("x").unwrap(), Value::Text(value.into()))]),
    }]
}

fn recorded(count: u8, config: Config) -> Mesh {
    let mut mesh = Mesh::new(count, 1, config);
    mesh.transcript = Some(Vec::new());
    mesh
}

#[expect(clippy::disallowed_methods, reason = "a test may be told to write them")]
fn check(name: &str, mesh: &mut Mesh) {
    let text = mesh.transcript.take().unwrap().join("\n") + "\n";
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations").join(name).with_extension("txt");
    if std::env::var_os("UPDATE_CONVERSATIONS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{} differs", path.display());
}

#[test]
fn two_new_devices_meet() {
    let mut mesh = recorded(2, Config::default());
    mesh.connect(0, 1);
    mesh.run_ms(2_000);
    assert!(mesh.equal());
    check("two_new_devices_meet", &mut mesh);
}

#[test]
fn a_backlog_is_asked_for_and_flows_under_credit() {
    let mut mesh = recorded(2, Config { batch_bytes: 8_000, credit_bytes: 24_000, ..Config::default() });
    for n in 0..60 {
        mesh.write(0, put(&format!("row {n}"), &"text ".repeat(100)));
    }
    mesh.connect(0, 1);
    mesh.run_ms(2_000);
    assert!(mesh.equal());
    check("a_backlog_is_asked_for_and_flows_under_credit", &mut mesh);
}

#[test]
fn a_live_write_is_pushed_and_relayed_by_announcement() {
    let mut mesh = recorded(3, Config::default());
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.run_ms(2_000);
    mesh.transcript = Some(Vec::new());
    mesh.write(0, put("a", "1"));
    mesh.run_ms(2_000);
    assert!(mesh.equal());
    check("a_live_write_is_pushed_and_relayed_by_announcement", &mut mesh);
}

#[test]
fn devices_that_meet_again_with_nothing_new_compare_digests_only() {
    let mut mesh = recorded(2, Config::default());
    mesh.write(0, put("a", "1"));
    mesh.connect(0, 1);
    mesh.run_ms(2_000);
    mesh.disconnect(0, 1);
    mesh.transcript = Some(Vec::new());
    mesh.connect(0, 1);
    mesh.run_ms(2_000);
    check("devices_that_meet_again_with_nothing_new_compare_digests_only", &mut mesh);
}

#[test]
fn a_device_that_stops_says_goodbye() {
    let mut mesh = recorded(2, Config::default());
    mesh.connect(0, 1);
    mesh.run_ms(2_000);
    mesh.transcript = Some(Vec::new());
    mesh.input(0, Input::Shutdown);
    mesh.run_ms(500);
    check("a_device_that_stops_says_goodbye", &mut mesh);
}

#[test]
fn a_lost_write_is_given_at_once_when_the_peer_asks_whether_there_is_news() {
    let mut mesh = recorded(2, Config::default());
    mesh.connect(0, 1);
    mesh.run_ms(2_000);
    mesh.transcript = Some(Vec::new());
    mesh.cut(0, 1);
    mesh.write(0, put("a", "lost"));
    mesh.run_ms(100);
    mesh.connect(0, 1);
    mesh.input(1, Input::SyncNow);
    mesh.run_ms(200);
    assert!(mesh.equal());
    assert!((0..2).all(|node| mesh.engine(node).stats().peers.iter().all(|peer| peer.synced)));
    check("a_lost_write_is_given_at_once_when_the_peer_asks_whether_there_is_news", &mut mesh);
}
