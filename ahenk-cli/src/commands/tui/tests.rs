//! The dashboard without a terminal: what it draws, and what keys do.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value as Json, json};
use snapbox::{Data, assert_data_eq, file};

use super::model::{Action, Model};
use super::source::{Look as Seen, News};
use super::view::{self, Look};
use crate::backend::read_item;

fn peer(name: &str, connected: bool, lacks: u64) -> Json {
    json!({
        "name": name, "id": format!("id of {name}"), "connected": connected,
        "path": connected.then_some("direct-quic"), "address": null, "round_trip_micros": connected.then_some(1500),
        "connected_ms": null, "in_sync": connected.then_some(lacks == 0), "peer_lacks": lacks, "we_lack": 0,
        "clock_offset_ms": null, "ops_sent": 0, "ops_received": 0, "bytes_sent": 4096, "bytes_received": 52_428_800,
        "addresses": [], "dial_failures": 0, "last_error": null, "next_attempt_ms": null,
    })
}

fn writer(device: &str) -> Json {
    json!({ "time_ms": 1_767_225_600_000_u64, "device": device, "device_id": "id", "commit": "c" })
}

fn merged(one: Json, other: Json) -> Json {
    let (Json::Object(mut one), Json::Object(other)) = (one, other) else { panic!("objects") };
    one.extend(other);
    Json::Object(one)
}

/// Three devices, two of them connected, one behind.
fn seen(bytes_sent: u64) -> Seen {
    let status = json!({
        "running": true, "pid": 1, "home": "/home", "account": "a", "device": "d", "name": "laptop", "replica": "d/1",
        "admin": true, "up_ms": 1, "sync_enabled": true, "listening": [], "position": 42,
        "digest": "0123456789abcdef0123456789abcdef", "last_sync_ms": null, "waiting_commits": 0, "clock_skew_ms": null,
        "log": "/log", "peers": [peer("phone", true, 0), peer("tablet\u{1b}[2J", true, 7), peer("desk", false, 0)],
    });
    let total = json!({
        "ops_sent": 0, "ops_received": 0, "commits_sent": 0, "commits_received": 0, "commits_doubled": 0,
        "bytes_sent": bytes_sent, "bytes_received": bytes_sent / 2, "frames_sent": 0, "frames_received": 0,
        "frames_dropped": 0,
    });
    let stats = json!({
        "account": "a", "device": "d", "name": "laptop", "replica": "d/1", "up_ms": 1, "position": 42, "digest": "",
        "last_sync_ms": null, "waiting_commits": 0, "waiting_bytes": 0, "conflicts": 2, "database_bytes": 1,
        "total": total, "peers": [],
    });
    let change = |row: &str, device: &str| {
        let own = json!({ "position": 1, "table": "tasks", "row": row, "kind": "put", "fields": { "title": "Buy tea" } });
        read_item(merged(own, writer(device))).expect("a change")
    };
    let conflict = |id: u64| {
        let side =
            |device: &str, value: &str| merged(json!({ "value": value, "deleted": false }), writer(device));
        read_item(json!({
            "id": id, "table": "tasks", "row": format!("t{id}"), "field": "title", "lost": side("phone", "tea"),
            "won": side("laptop", "coffee"), "why": "later", "noticed_ms": 1,
        }))
        .expect("a conflict")
    };
    Seen {
        at: Instant::now(),
        status: read_item(status).expect("a status"),
        stats: read_item(stats).expect("stats"),
        changes: vec![change("t1", "laptop"), change("t2\u{7}", "phone")],
        conflicts: vec![conflict(1), conflict(2)],
        log: vec!["INFO the daemon is running".to_owned(), "WARN \u{1b}]0;title\u{7}".to_owned()],
    }
}

/// Has seen the devices twice, a second apart, during which 2 KiB were sent.
fn model() -> Model {
    let mut model = Model::default();
    let first = seen(1024);
    let at = first.at + Duration::from_secs(1);
    model.learn(News::Look(Box::new(first)));
    model.learn(News::Look(Box::new(Seen { at, ..seen(3072) })));
    model
}

fn press(model: &mut Model, keys: &str) -> Option<Action> {
    let code = |key: char| match key {
        '>' => KeyCode::Tab,
        '^' => KeyCode::Up,
        'v' => KeyCode::Down,
        '.' => KeyCode::Esc,
        other => KeyCode::Char(other),
    };
    keys.chars().map(|key| model.press(KeyEvent::new(code(key), KeyModifiers::NONE))).last().flatten()
}

fn drawn(model: &Model, width: u16, height: u16, colour: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, model, Look { colour })).expect("drawn");
    terminal
}

fn picture(model: &Model) -> Data {
    Data::text(drawn(model, 80, 30, false).backend().to_string())
}

#[test]
fn it_shows_devices_throughput_changes_conflicts_and_log() {
    let mut model = model();
    assert_data_eq!(picture(&model), file!["snapshots/full.txt"].raw());
    assert_eq!(press(&mut model, ">>v?"), None);
    assert_data_eq!(picture(&model), file!["snapshots/help.txt"].raw());
}

#[test]
fn before_the_first_look_and_without_the_daemon_it_says_so() {
    let mut model = Model::default();
    assert!(picture(&model).to_string().contains("asking the daemon"));
    model.learn(News::Gone("the daemon is not running".to_owned()));
    assert!(picture(&model).to_string().contains("the daemon is not running"));
    // What was known before stays to be read.
    model.learn(News::Look(Box::new(seen(1))));
    model.learn(News::Gone("the daemon is not running".to_owned()));
    let text = picture(&model).to_string();
    assert!(text.contains("the daemon is not running") && text.contains("phone"), "{text}");
    // A daemon that has started anew counts from zero, which is no throughput.
    model.learn(News::Look(Box::new(seen(0))));
    assert!(model.gone().is_none() && model.rates().is_empty());
}

#[test]
fn no_size_of_the_terminal_is_too_small_and_nothing_from_elsewhere_controls_it() {
    let mut model = model();
    for width in [1, 2, 10, 40, 79, 200] {
        for height in [1, 2, 5, 12, 24, 60] {
            let terminal = drawn(&model, width, height, true);
            let symbols = terminal.backend().buffer().content().iter().flat_map(|cell| cell.symbol().chars());
            assert!(symbols.into_iter().all(|c| !c.is_control()));
            press(&mut model, "?");
            drawn(&model, width, height, true);
            press(&mut model, "?");
        }
    }
}

#[test]
fn without_colours_there_are_none() {
    use ratatui::style::Color;
    let coloured = |colour: bool| {
        let terminal = drawn(&model(), 80, 30, colour);
        terminal.backend().buffer().content().iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert!(coloured(true) > 0);
    assert_eq!(coloured(false), 0);
}

#[test]
fn keys_ask_for_what_they_say() {
    let mut model = model();
    assert_eq!(press(&mut model, "s"), Some(Action::Sync));
    assert_eq!(press(&mut model, "p"), Some(Action::Pause(true)));
    let mut paused = seen(1);
    paused.status.paused = true;
    model.learn(News::Look(Box::new(paused)));
    assert!(picture(&model).to_string().contains("paused"));
    assert_eq!(press(&mut model, "p"), Some(Action::Pause(false)));
    assert_eq!(press(&mut model, "q"), Some(Action::Quit));
    assert_eq!(press(&mut model, "."), Some(Action::Quit));
    assert_eq!(model.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Action::Quit));
    model.learn(News::Done(Err("no other device could be reached".to_owned())));
    assert!(picture(&model).to_string().contains("error: no other device could be reached"));
}

#[test]
fn what_cannot_be_taken_back_waits_for_a_yes() {
    let mut model = model();
    let revoke = |name: &str| Some(Action::Revoke { id: format!("id of {name}"), name: name.to_owned() });
    assert_eq!(press(&mut model, "r"), None);
    assert!(picture(&model).to_string().contains("Revoke phone? It cannot be undone. [y/N]"));
    // Every other key means no, whatever it does otherwise.
    for other in ["n", "q", "r", "."] {
        assert_eq!(press(&mut model, &format!("nr{other}")), None);
        assert_eq!(press(&mut model, "y"), None);
    }
    assert_eq!(press(&mut model, "ry"), revoke("phone"));
    // The third device; there is no fourth.
    assert_eq!(press(&mut model, "vvvvry"), revoke("desk"));
    assert_eq!(press(&mut model, "^^^^ry"), revoke("phone"));
    // Of conflicts the newest is chosen first.
    let restore = |id: u64| Some(Action::Restore { id, what: format!("tasks/t{id} title") });
    assert_eq!(press(&mut model, "wn"), None);
    assert_eq!(press(&mut model, "wy"), restore(2));
    assert_eq!(press(&mut model, ">>^wy"), restore(1));
    // When the lines become fewer, the choice is still one of them.
    let mut fewer = seen(1);
    fewer.conflicts.truncate(1);
    fewer.status.peers.clear();
    model.learn(News::Look(Box::new(fewer)));
    assert_eq!(press(&mut model, "wy"), restore(1));
    assert_eq!(press(&mut model, "ry"), None);
    assert!(picture(&model).to_string().contains("there is no other device") || model.said().is_none());
}
