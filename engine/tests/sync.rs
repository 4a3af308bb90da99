//! Engines against engines, in virtual time: they converge, over streams and over bad datagrams.

use std::collections::BTreeMap;

use engine::commit::OpKind;
use engine::config::Config;
use engine::io::{Change, Event, Input};
use engine::name::{FieldName, RowKey, TableName};
use engine::store::StoreRead;
use engine::testing::{LinkFaults, Mesh, test_identity};
use engine::value::Value;
use engine::wire::message::{Announce, Control, pack_control};

fn change(kind: OpKind, row: &str, fields: &[(&str, i64)]) -> Change {
    Change {
        table: TableName::new("t").unwrap(),
        row: RowKey::new(row).unwrap(),
        kind,
        fields: fields
            .iter()
            .map(|(name, value)| (FieldName::new(name).unwrap(), Value::Int(*value)))
            .collect(),
    }
}

fn put(row: &str, fields: &[(&str, i64)]) -> Vec<Change> {
    vec![change(OpKind::Put, row, fields)]
}

fn shown(mesh: &Mesh, node: usize, row: &str) -> Option<BTreeMap<String, Value>> {
    let state = mesh.store(node).row(&TableName::new("t").unwrap(), &RowKey::new(row).unwrap()).unwrap()?;
    Some(state.fields()?.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}

fn assert_converges(mesh: &mut Mesh, ms_max: u64) {
    assert!(mesh.run_until_equal(ms_max), "knowledge differs after {} ms", mesh.now_ms());
    let digests: Vec<u128> = (0..mesh.len()).map(|node| mesh.engine(node).digest()).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "equal knowledge, different rows");
    for node in 0..mesh.len() {
        assert_eq!(mesh.store(node).recover().unwrap().digest, mesh.engine(node).digest());
    }
}

#[test]
fn what_was_written_apart_is_there_on_both_after_they_meet() {
    let mut mesh = Mesh::new(2, 1, Config::default());
    mesh.write(0, put("a", &[("x", 1)]));
    mesh.run_ms(10);
    mesh.write(1, put("b", &[("x", 2)]));
    mesh.write(1, put("a", &[("y", 3)]));
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 1_000);
    for node in 0..2 {
        assert_eq!(shown(&mesh, node, "a").unwrap().len(), 2);
        assert_eq!(shown(&mesh, node, "b").unwrap()["x"], Value::Int(2));
    }
}

#[test]
fn a_live_write_arrives_in_one_one_way_delay() {
    let mut mesh = Mesh::pair(2);
    assert_converges(&mut mesh, 1_000);
    mesh.run_ms(1_000);
    let start = mesh.now_ms();
    mesh.write(0, put("a", &[("x", 1)]));
    assert_converges(&mut mesh, 1_000);
    assert_eq!(mesh.now_ms() - start, 5);
}

#[test]
fn an_idle_pair_exchanges_less_than_500_bytes_a_minute() {
    let mut mesh = Mesh::pair(3);
    mesh.run_ms(10_000);
    let before = mesh.engine(0).stats().total;
    mesh.run_ms(600_000);
    let after = mesh.engine(0).stats().total;
    let bytes = after.bytes_sent + after.bytes_received - before.bytes_sent - before.bytes_received;
    assert!(bytes > 0 && bytes / 10 < 500, "{} bytes a minute", bytes / 10);
}

#[test]
fn writes_cross_a_chain_whose_ends_never_meet() {
    let mut mesh = Mesh::new(4, 4, Config::default());
    for n in 0..4 {
        for row in 0..20 {
            mesh.write(n, put(&format!("r{row}"), &[("x", n as i64), ("y", row)]));
        }
    }
    (0..3).for_each(|n| mesh.connect(n, n + 1));
    assert_converges(&mut mesh, 5_000);
}

#[test]
fn a_large_backlog_flows_under_credit_and_in_causal_order() {
    let mut mesh =
        Mesh::new(2, 5, Config { credit_bytes: 64 * 1024, batch_bytes: 16 * 1024, ..Config::default() });
    for n in 0..3_000i64 {
        mesh.write(0, put(&format!("row-{}", n % 700), &[("field", n), ("other", n * 3)]));
    }
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 10_000);
    assert_eq!(mesh.engine(1).stats().waiting_bytes, 0);
}

#[test]
fn devices_converge_over_datagrams_that_are_lost_doubled_reordered_and_damaged() {
    for seed in 0..30 {
        let mut mesh = Mesh::new(4, seed, Config { batch_bytes: 600, ..Config::default() });
        mesh.set_faults(LinkFaults {
            loss_ppm: 200_000,
            double_ppm: 100_000,
            damage_ppm: 50_000,
            jitter_micros: 60_000,
        });
        mesh.connect(0, 1);
        mesh.connect(1, 2);
        mesh.connect(2, 3);
        mesh.connect(3, 0);
        for n in 0..60u64 {
            let node = (n % 4) as usize;
            mesh.write(node, put(&format!("r{}", n % 7), &[("x", n as i64)]));
            mesh.run_ms(20);
        }
        assert_converges(&mut mesh, 600_000);
    }
}

/// Whoever asks whether there is news is given little of it at once, while pushes may still be under way, be lost, or overtake
/// the summary that says that this was all.
#[test]
fn devices_that_ask_for_news_at_any_time_converge_and_know_it_over_bad_datagrams() {
    let mut given = 0;
    for seed in 0..60 {
        let mut mesh = Mesh::new(3, seed, Config::default());
        [(0, 1), (1, 2), (2, 0)].into_iter().for_each(|(a, b)| mesh.connect(a, b));
        assert_converges(&mut mesh, 60_000);
        mesh.run_ms(1_000);
        mesh.transcript = Some(Vec::new());
        mesh.set_faults(LinkFaults {
            loss_ppm: 150_000,
            double_ppm: 50_000,
            damage_ppm: 20_000,
            jitter_micros: 40_000,
        });
        for n in 0..40u64 {
            let (writer, asker) = ((n * 7 + seed) % 3, (n + n / 3) % 3);
            mesh.write(writer as usize, put(&format!("r{}", n % 5), &[("x", n as i64)]));
            mesh.run_ms(n % 4 * 30);
            mesh.input(asker as usize, Input::SyncNow);
            mesh.run_ms(n % 3 * 400);
        }
        assert_converges(&mut mesh, 600_000);
        let synced =
            |mesh: &Mesh| (0..3).all(|node| mesh.engine(node).stats().peers.iter().all(|peer| peer.synced));
        assert!(mesh.run_until(600_000, synced), "a device does not know that it is in sync");
        assert!(mesh.equal());
        let said = mesh.transcript.take().unwrap();
        given += said
            .windows(2)
            .filter(|pair| pair[0].contains("Ops #0") && pair[1].contains("Summary reply=false"))
            .count();
    }
    assert!(given > 30, "only {given} times was what is lacking given at once");
}

#[test]
fn the_loser_of_a_true_conflict_is_listed_and_no_other() {
    let mut mesh = Mesh::new(2, 6, Config::default());
    mesh.write(0, put("a", &[("x", 1), ("same", 7)]));
    mesh.run_ms(5);
    mesh.write(1, put("a", &[("x", 2), ("same", 7)]));
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 1_000);
    for node in 0..2 {
        let conflicts = mesh.store(node).conflicts(0, 10).unwrap();
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        assert_eq!((conflicts[0].field.as_str(), &conflicts[0].value), ("x", &Value::Int(1)));
        assert_eq!(shown(&mesh, node, "a").unwrap()["x"], Value::Int(2));
    }
    mesh.write(0, put("a", &[("x", 3)]));
    assert_converges(&mut mesh, 1_000);
    assert_eq!(
        mesh.store(1).conflicts(0, 10).unwrap().len(),
        1,
        "a write that had seen the other is no conflict"
    );
}

#[test]
fn a_device_whose_clock_is_seventy_years_ahead_spoils_nothing_but_recency() {
    let mut mesh = Mesh::pair(7);
    mesh.set_wall_offset(1, 70 * 365 * 86_400_000);
    mesh.write(1, put("a", &[("x", 1)]));
    assert_converges(&mut mesh, 1_000);
    mesh.write(0, put("a", &[("x", 2)]));
    mesh.write(0, put("b", &[("x", 3)]));
    assert_converges(&mut mesh, 1_000);
    assert_eq!(shown(&mesh, 1, "a").unwrap()["x"], Value::Int(2));
    let clock = mesh.store(0).recover().unwrap().clock;
    assert!(clock.ms() < engine::testing::EPOCH_MS + 10_000, "the peer's clock was taken in");
    assert!(mesh.events.iter().any(|(_, event)| matches!(event, Event::ClockSkew { .. })));
}

#[test]
fn a_crash_loses_nothing_that_was_answered_and_sync_goes_on_after_it() {
    let mut mesh = Mesh::pair(8);
    let id = mesh.write(0, put("a", &[("x", 1)]));
    assert!(mesh.results[&id].is_ok());
    mesh.crash(0);
    mesh.run_ms(100);
    mesh.write(1, put("b", &[("x", 2)]));
    mesh.restart(0);
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 60_000);
    assert_eq!(shown(&mesh, 1, "a").unwrap()["x"], Value::Int(1));
}

#[test]
fn a_store_that_fails_costs_the_unanswered_write_and_nothing_else() {
    let mut mesh = Mesh::pair(9);
    mesh.write(0, put("a", &[("x", 1)]));
    mesh.run_ms(100);
    mesh.fail_commits(0, 1);
    let refused = mesh.write(0, put("a", &[("x", 2)]));
    assert!(!mesh.results.contains_key(&refused));
    mesh.fail_commits(1, 3);
    mesh.write(0, put("c", &[("x", 3)]));
    mesh.run_ms(20_000);
    assert_converges(&mut mesh, 60_000);
    assert_eq!(shown(&mesh, 1, "a").unwrap()["x"], Value::Int(1));
    assert_eq!(shown(&mesh, 1, "c").unwrap()["x"], Value::Int(3));
}

#[test]
fn a_cable_that_was_pulled_is_noticed_and_a_later_session_goes_on() {
    let mut mesh = Mesh::pair(10);
    assert_converges(&mut mesh, 1_000);
    mesh.cut(0, 1);
    mesh.write(0, put("a", &[("x", 1)]));
    mesh.run_ms(60_000);
    assert!(
        mesh.events.iter().any(|(node, event)| *node == 1 && matches!(event, Event::Disconnected { .. }))
    );
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 60_000);
}

#[test]
fn an_old_backup_takes_a_new_incarnation_and_gets_its_lost_commits_back() {
    let mut mesh = Mesh::pair(11);
    mesh.write(0, put("a", &[("x", 1)]));
    assert_converges(&mut mesh, 1_000);
    let backup = mesh.store(0).clone();
    mesh.write(0, put("a", &[("x", 2)]));
    assert_converges(&mut mesh, 1_000);
    let replica = mesh.engine(0).replica();
    mesh.crash(0);
    mesh.replace_store(0, backup);
    mesh.restart(0);
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 60_000);
    assert_eq!(shown(&mesh, 0, "a").unwrap()["x"], Value::Int(2));
    assert_ne!(mesh.engine(0).replica(), replica);
    mesh.write(0, put("a", &[("x", 3)]));
    assert_converges(&mut mesh, 60_000);
    assert_eq!(shown(&mesh, 1, "a").unwrap()["x"], Value::Int(3));
}

#[test]
fn a_transaction_is_one_commit_and_folds_its_steps() {
    let mut mesh = Mesh::pair(12);
    mesh.write(0, put("a", &[("x", 1), ("y", 1)]));
    mesh.write(
        0,
        vec![
            change(OpKind::Delete, "a", &[]),
            change(OpKind::Put, "a", &[("x", 2)]),
            change(OpKind::Put, "b", &[("x", 3)]),
            change(OpKind::Update, "b", &[("y", 4)]),
        ],
    );
    assert_converges(&mut mesh, 1_000);
    assert_eq!(shown(&mesh, 1, "a").unwrap(), BTreeMap::from([("x".into(), Value::Int(2))]));
    assert_eq!(shown(&mesh, 1, "b").unwrap().len(), 2);
    let refused =
        mesh.write(0, vec![change(OpKind::Put, "c", &[]), change(OpKind::Update, "none", &[("x", 1)])]);
    assert!(mesh.results[&refused].is_err());
    assert_eq!(shown(&mesh, 0, "c"), None);
}

#[test]
fn an_update_does_not_bring_a_deleted_row_back_and_is_listed() {
    let mut mesh = Mesh::pair(13);
    mesh.write(0, put("a", &[("x", 1)]));
    assert_converges(&mut mesh, 1_000);
    mesh.disconnect(0, 1);
    mesh.write(0, vec![change(OpKind::Delete, "a", &[])]);
    mesh.run_ms(50);
    mesh.write(1, vec![change(OpKind::Update, "a", &[("x", 2)])]);
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 60_000);
    for node in 0..2 {
        assert_eq!(shown(&mesh, node, "a"), None);
        let conflicts = mesh.store(node).conflicts(0, 10).unwrap();
        assert_eq!(conflicts.len(), 1, "on {node}: {conflicts:?}");
        assert_eq!((conflicts[0].field.as_str(), &conflicts[0].value), ("x", &Value::Int(2)));
        assert_eq!(conflicts[0].loser.dot.replica, mesh.engine(1).replica());
        assert_eq!(conflicts[0].winner.dot.replica, mesh.engine(0).replica());
    }
    // What is hidden and listed once is not listed again by a second delete.
    mesh.write(0, vec![change(OpKind::Delete, "a", &[])]);
    assert_converges(&mut mesh, 60_000);
    (0..2).for_each(|node| assert_eq!(mesh.store(node).conflicts(0, 10).unwrap().len(), 1));
}

/// The numbers of a device's own commits whose signatures are in its log.
fn signed(mesh: &Mesh, node: usize) -> Vec<u64> {
    let own = mesh.engine(node).replica();
    let log = mesh.store(node).commits(&own, 1, usize::MAX, usize::MAX).unwrap();
    log.iter().filter(|stored| stored.sig.is_some()).map(|stored| stored.commit.dot.seq).collect()
}

fn together(rows: std::ops::Range<i64>) -> Vec<Vec<Change>> {
    rows.map(|row| put(&format!("r{row}"), &[("x", row)])).collect()
}

#[test]
fn what_is_written_together_is_signed_once_at_its_end_and_is_pushed_given_and_handed_on() {
    let mut mesh = Mesh::new(3, 1, Config::default());
    mesh.write_group(0, together(0..64));
    // The first commit of all introduces the device.
    assert_eq!(signed(&mesh, 0), [1, 65]);
    mesh.connect(0, 1);
    assert!(mesh.run_until(5_000, |mesh| shown(mesh, 1, "r63").is_some()), "given");
    mesh.run_ms(1_000);
    let frames = mesh.engine(0).stats().total.frames_sent;
    mesh.write_group(0, together(64..128));
    assert_eq!(signed(&mesh, 0), [1, 65, 129]);
    assert!(mesh.run_until(5_000, |mesh| shown(mesh, 1, "r127").is_some()), "pushed");
    assert_eq!(mesh.engine(0).stats().total.frames_sent, frames + 1, "pushed as one run");
    mesh.crash(0);
    mesh.connect(1, 2);
    assert!(mesh.run_until(5_000, |mesh| shown(mesh, 2, "r127").is_some()), "handed on");
    assert_eq!(mesh.engine(2).digest(), mesh.engine(1).digest());
}

#[test]
fn where_the_last_of_what_is_written_together_is_refused_the_one_before_it_is_signed() {
    let mut mesh = Mesh::new(2, 1, Config::default());
    let mut group = together(0..3);
    group.push(vec![change(OpKind::Update, "nothing", &[("x", 1)])]);
    let ids = mesh.write_group(0, group);
    assert_eq!(ids.iter().filter(|id| mesh.results[id].is_ok()).count(), 3);
    assert_eq!(signed(&mesh, 0), [1, 4]);
    // Of nothing but refused ones there is nothing to sign.
    let ids = mesh.write_group(0, vec![vec![], vec![]]);
    assert!(ids.iter().all(|id| mesh.results[id].is_err()));
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 5_000);
}

#[test]
fn what_is_written_together_is_signed_wherever_a_frame_is_full() {
    let config = Config { batch_bytes: 1_000, batch_commits_max: 10, ..Config::default() };
    let mut mesh = Mesh::new(2, 1, config);
    mesh.write_group(0, together(0..64));
    let (ends, own) = (signed(&mesh, 0), mesh.engine(0).replica());
    assert!(ends.windows(2).all(|pair| pair[1] - pair[0] <= 10) && ends.last() == Some(&65), "{ends:?}");
    for pair in ends.windows(2) {
        let run = mesh.store(0).commits(&own, pair[0] + 1, (pair[1] - pair[0]) as usize, usize::MAX).unwrap();
        let bytes: usize = run.iter().map(|stored| stored.commit.encoded_len()).sum();
        assert!(bytes <= 1_000, "a run of {bytes} bytes");
    }
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 5_000);
}

/// Bytes that do not compress.
fn noise(seed: u8, len: usize) -> Value {
    let mut prng = engine::prng::Prng::new([seed; 32]);
    Value::Bytes((0..len).map(|_| prng.next_u64() as u8).collect())
}

#[test]
fn a_commit_near_the_limit_behind_small_ones_still_fits_a_frame() {
    let mut mesh = Mesh::new(2, 14, Config::default());
    for (n, len) in [(1, 60_000), (2, 60_000), (3, 60_000), (4, 60_000), (5, 970_000)] {
        let mut changes = put(&format!("r{n}"), &[]);
        changes[0].fields.insert(FieldName::new("x").unwrap(), noise(n, len));
        let id = mesh.write(0, changes);
        assert!(mesh.results[&id].is_ok());
    }
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 60_000);
}

#[test]
fn a_quiescent_mesh_exchanges_signs_of_life_only() {
    let mut mesh = Mesh::new(5, 16, Config::default());
    for a in 0..5 {
        (0..a).for_each(|b| mesh.connect(a, b));
    }
    for n in 0..40 {
        mesh.write(n % 5, put(&format!("r{}", n % 3), &[("x", n as i64)]));
        mesh.run_ms(3);
    }
    assert_converges(&mut mesh, 5_000);
    mesh.run_ms(10_000);
    let frames = |mesh: &Mesh| (0..5).map(|node| mesh.engine(node).stats().total.frames_sent).sum::<u64>();
    let before = frames(&mesh);
    mesh.run_ms(60_000);
    // Ten links; a ping and a pong every 15 s.
    assert!(frames(&mesh) - before <= 10 * 2 * 4, "{} frames", frames(&mesh) - before);
    (0..5).for_each(|node| assert!(mesh.engine(node).stats().peers.iter().all(|peer| peer.synced)));
}

#[test]
fn what_was_asked_of_a_peer_that_went_away_is_asked_of_another_at_once() {
    let mut mesh = Mesh::new(3, 18, Config::default());
    mesh.connect(1, 2);
    mesh.run_ms(1_000);
    mesh.disconnect(1, 2);
    mesh.write(0, put("a", &[("x", 1)]));
    mesh.connect(0, 1);
    mesh.run_ms(1_000);
    mesh.connect(2, 0);
    mesh.connect(2, 1);
    mesh.run_ms(12);
    assert!(shown(&mesh, 2, "a").is_none(), "the answer is under way");
    mesh.disconnect(0, 2);
    mesh.run_ms(100);
    assert!(shown(&mesh, 2, "a").is_some());
}

#[test]
fn gossip_of_a_stranger_is_passed_over() {
    let mut mesh = Mesh::pair(19);
    mesh.run_ms(5_000);
    let heads = vec![(mesh.engine(1).replica(), 1_000)];
    let frame = pack_control(0, &Control::Announce(Announce { heads, tags: Vec::new() })).unwrap();
    let before = mesh.engine(0).stats().total.frames_sent;
    mesh.input(0, Input::Broadcast { from: test_identity(9).peer_key(), bytes: frame.clone() });
    mesh.run_ms(2_000);
    assert_eq!(mesh.engine(0).stats().total.frames_sent, before);
    let member = mesh.key(1);
    mesh.input(0, Input::Broadcast { from: member, bytes: frame });
    mesh.run_ms(2_000);
    assert!(mesh.engine(0).stats().total.frames_sent > before, "that of a member is followed up");
}

#[test]
fn gossip_that_overtakes_a_push_has_nothing_sent_twice() {
    let mut mesh = Mesh::pair(22);
    mesh.run_ms(5_000);
    for n in 0..20 {
        mesh.write(1, put(&format!("r{n}"), &[("x", n)]));
        let replica = mesh.engine(1).replica();
        let heads = vec![(replica, mesh.engine(1).knowledge().prefix_len(&replica))];
        let frame = pack_control(0, &Control::Announce(Announce { heads, tags: Vec::new() })).unwrap();
        let from = mesh.key(1);
        mesh.input(0, Input::Broadcast { from, bytes: frame });
        mesh.run_ms(100);
    }
    assert!(shown(&mesh, 0, "r19").is_some());
    assert_eq!(mesh.engine(0).stats().total.commits_doubled, 0);
}

#[test]
fn a_newcomer_that_meets_two_devices_gets_each_commit_from_one_of_them() {
    let mut mesh = Mesh::new(3, 20, Config::default());
    for n in 0..20 {
        mesh.write(0, put(&format!("r{n}"), &[("x", n)]));
    }
    mesh.connect(0, 1);
    mesh.run_ms(1_000);
    mesh.connect(2, 0);
    mesh.connect(2, 1);
    assert_converges(&mut mesh, 1_000);
    assert_eq!(mesh.engine(2).stats().total.commits_doubled, 0);
}

#[test]
fn the_ledger_forgets_the_oldest_conflicts_first() {
    let mut mesh = Mesh::new(2, 21, Config { conflicts_max: 5, ..Config::default() });
    for node in 0..2 {
        for n in 0..12 {
            mesh.write(node, put(&format!("r{n}"), &[("x", n + 100 * node as i64)]));
        }
    }
    mesh.connect(0, 1);
    assert_converges(&mut mesh, 1_000);
    for node in 0..2 {
        let ids: Vec<u64> = mesh.store(node).conflicts(0, 50).unwrap().iter().map(|c| c.id).collect();
        assert_eq!(ids, [8, 9, 10, 11, 12]);
    }
}

#[test]
fn of_three_devices_only_the_one_whose_clock_is_wrong_is_told() {
    let mut mesh = Mesh::new(3, 31, Config::default());
    mesh.set_wall_offset(1, 86_400_000);
    mesh.connect(0, 1);
    mesh.connect(1, 2);
    mesh.connect(2, 0);
    mesh.run_ms(60_000);
    let told = |node: &usize| mesh.engine(*node).stats().clock_offset_ms().unwrap().unsigned_abs() > 60_000;
    let told: Vec<usize> = (0..3).filter(told).collect();
    assert_eq!(told, [1]);
}

#[test]
fn gossip_goes_out_only_while_a_device_is_connected_elsewhere() {
    let mut mesh = Mesh::new(3, 23, Config::default());
    (0..2).for_each(|n| mesh.connect(n, n + 1));
    assert_converges(&mut mesh, 5_000);
    let published = |mesh: &mut Mesh, node: usize| {
        let before = mesh.counts.published;
        mesh.write(node, put("r", &[("x", 1)]));
        mesh.counts.published - before
    };
    assert_eq!(published(&mut mesh, 0), 1, "the third is connected to the second only");
    assert_eq!(published(&mut mesh, 1), 0);
    mesh.cut(1, 2);
    mesh.run_ms(120_000);
    assert_eq!(published(&mut mesh, 1), 1);
}
