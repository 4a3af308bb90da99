//! The simulator on itself: seeds hold, runs repeat to the byte, and the oracles notice what is planted.

use std::collections::BTreeMap;
use std::process::Command;

use engine::commit::OpKind;
use engine::planted::Bug;
use engine::testing::test_identity;
use sim_tests::{
    Event, Failure, Full, Harness, Plan, Pure, Report, Sabotage, Seeds, Step, Timed, kept, plan, run_plan,
    run_seeds, shrink, try_bug,
};

fn holds(seeds: std::ops::Range<u64>, harness: Harness) {
    let summary = run_seeds(&Seeds { seeds, harness, jobs: 1, deadline: None, bug: None }, &|_| ());
    assert!(summary.failures.is_empty(), "{:?}", summary.failures);
    assert!(summary.counts.0["writes acknowledged"] > 0, "{summary}");
}

#[test]
fn pure_seeds_hold_all_oracles() {
    holds(0..250, Harness::Pure);
}

#[test]
fn more_pure_seeds_hold_all_oracles() {
    holds(250..420, Harness::Pure);
}

#[test]
fn full_seeds_hold_all_oracles() {
    holds(0..5, Harness::Full);
}

#[test]
fn a_plan_has_the_same_course_whether_frames_are_read_before_their_turn_or_not() {
    for seed in 500..560 {
        let plan = plan(seed, Harness::Pure);
        let course = |frames| {
            let (report, result) = Pure::new(&plan).with_read_ahead(frames).run();
            (report.checkpoints, result)
        };
        let inline = course(0);
        assert_eq!(inline.1, Ok(()), "seed {seed}");
        for frames in [1, 40] {
            assert_eq!(course(frames), inline, "seed {seed}, readers for {frames} frames");
        }
    }
}

#[test]
fn the_driver_of_the_full_harness_reads_frames_ahead_too() {
    let ahead = |seed: &u64| {
        let (report, result) = run_plan(&plan(*seed, Harness::Full), Harness::Full, false);
        assert_eq!(result, Ok(()), "seed {seed}");
        report.marks.names().any(|name| name == "verified-ahead")
    };
    assert!((5..25).filter(|seed| seed % 2 == 1).any(|seed| ahead(&seed)));
}

#[test]
fn the_same_seed_gives_the_same_run_in_two_processes() {
    let output = Command::new(env!("CARGO_BIN_EXE_ahenk-sim")).args(["meta", "--seeds", "0..4"]).output();
    let output = output.expect("the simulator runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn another_seed_gives_another_run() {
    for harness in [Harness::Pure, Harness::Full] {
        let last = |seed| run_plan(&plan(seed, harness), harness, false).0.checkpoints.last().copied();
        assert_ne!(last(1), last(2));
    }
}

#[test]
fn every_fault_is_injected_within_a_few_hundred_plans() {
    let mut kinds = BTreeMap::new();
    for seed in 0..400 {
        for timed in plan(seed, Harness::Pure).events {
            *kinds.entry(timed.event.kind()).or_insert(0) += 1;
        }
    }
    let expected = [
        "another connection",
        "backup",
        "bandwidth",
        "busy clock",
        "clock",
        "clone",
        "clone unnoticed",
        "commit of an author without a certificate",
        "commits that wait for ever",
        "commits without a signature",
        "connect",
        "crash",
        "cut",
        "cut one way",
        "damaged frames only",
        "decompression bomb",
        "device of another account",
        "device without a certificate",
        "disconnect",
        "disk freed",
        "disk full",
        "faults off",
        "faults on",
        "forged commit",
        "forged revocation",
        "forged second commit",
        "frame of another version",
        "frame that takes much memory",
        "garbage frame",
        "hold",
        "invitation",
        "latency",
        "leave",
        "made-up heads",
        "made-up proof of a fork",
        "oversize frame",
        "promotion",
        "re-admission",
        "read",
        "restart",
        "restore",
        "restore unnoticed",
        "revocation",
        "run beyond a span",
        "storage failure",
        "sync",
        "write",
    ];
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), expected);
}

#[test]
fn a_plan_survives_its_file_and_a_wrong_file_is_refused() {
    for seed in 0..50 {
        let plan = plan(seed, Harness::Full);
        assert_eq!(Plan::from_json(&plan.to_json()).expect("its own file"), plan);
    }
    let good = plan(1, Harness::Pure);
    let wrong: [fn(&mut Plan); 6] = [
        |plan| plan.nodes = 1,
        |plan| plan.core.clear(),
        |plan| plan.core.push((0, 99)),
        |plan| plan.events.reverse(),
        |plan| plan.events.push(Timed { at_ms: 80_000_000, event: Event::Restart { node: 7 } }),
        |plan| {
            let steps = vec![Step { kind: OpKind::Put, row: String::new(), fields: BTreeMap::new() }];
            plan.events.push(Timed { at_ms: 80_000_000, event: Event::Write { node: 0, steps } });
        },
    ];
    for change in wrong {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(Plan::from_json(&bad.to_json()).is_err(), "{bad}");
    }
    assert!(Plan::from_json("{}").is_err());
}

#[test]
fn leaving_an_event_out_changes_nothing_before_it() {
    let whole = plan(11, Harness::Pure);
    let mut shorter = whole.clone();
    let at = shorter.events.len() / 2;
    shorter.events.remove(at);
    let checkpoints = |plan: &Plan| run_plan(plan, Harness::Pure, false).0.checkpoints;
    assert_eq!(checkpoints(&whole)[..at], checkpoints(&shorter)[..at]);
}

/// Two devices that write, delete and pair, apart and together.
fn small_plan() -> Plan {
    let step = |kind, row: &str, value: i64| Step {
        kind,
        row: row.into(),
        fields: if kind == OpKind::Delete { BTreeMap::new() } else { BTreeMap::from([("x".into(), value)]) },
    };
    let write = |at_ms, node, kind, row: &str| {
        let steps = vec![step(kind, row, at_ms as i64)];
        Timed { at_ms, event: Event::Write { node, steps } }
    };
    let mut plan = plan(0, Harness::Pure);
    plan.nodes = 2;
    plan.knobs.drift_ppm = vec![0; 2];
    plan.core = vec![(0, 1)];
    plan.events = vec![
        write(1_000, 0, OpKind::Put, "a"),
        write(1_500, 1, OpKind::Put, "b"),
        Timed { at_ms: 2_000, event: Event::Pair { node: 1, value: 7 } },
        write(3_000, 1, OpKind::Delete, "a"),
        Timed { at_ms: 4_000, event: Event::Connect { a: 0, b: 1 } },
        write(5_000, 0, OpKind::Put, "c"),
        Timed { at_ms: 9_000, event: Event::Crash { node: 0, after_writes: 0 } },
        Timed { at_ms: 9_500, event: Event::Restart { node: 0 } },
    ];
    plan
}

fn found(run: (Report, Result<(), Failure>)) -> &'static str {
    run.1.expect_err("the oracles must notice").violation.oracle
}

#[test]
fn the_plan_that_the_planted_faults_spoil_holds_without_them() {
    let plan = small_plan();
    assert_eq!(Pure::new(&plan).run().1, Ok(()));
    assert_eq!(Full::new(&plan).run(false).1, Ok(()));
}

#[test]
fn a_store_that_loses_rows_is_noticed() {
    let run = Pure::new(&small_plan()).with_sabotage(Sabotage::LosesRows { node: 1 }).run();
    assert_eq!(found(run), "rows are what the reference merge of the log gives");
}

#[test]
fn a_store_that_brings_deleted_rows_back_is_noticed() {
    let run = Pure::new(&small_plan()).with_sabotage(Sabotage::ForgetsDeletes { node: 0 }).run();
    assert_eq!(found(run), "a deleted row is not visible without a newer create");
}

#[test]
fn a_device_that_forgets_a_commit_is_noticed() {
    let run = Pure::new(&small_plan()).with_sabotage(Sabotage::ForgetsCommit { node: 0 }).run();
    assert_eq!(found(run), "an acknowledged write is in the device's own store");
}

#[test]
fn a_device_that_applies_out_of_causal_order_is_noticed() {
    let run = Pure::new(&small_plan()).with_sabotage(Sabotage::SwapsCommits { node: 1 }).run();
    assert_eq!(found(run), "each replica's commits are applied in order, each once");
}

#[test]
fn a_torn_transaction_is_noticed() {
    let run = Pure::new(&small_plan()).with_sabotage(Sabotage::TearsPairs { node: 0 }).run();
    assert_eq!(found(run), "transactions are atomic");
}

#[test]
fn a_disk_that_claims_to_have_synced_is_noticed() {
    let oracle = found(Full::new(&small_plan()).with_lying_disks().run(false));
    assert!(
        ["knowledge does not shrink over a crash", "the database opens again"].contains(&oracle),
        "{oracle}"
    );
}

#[test]
fn a_core_whose_frames_come_too_late_for_every_handshake_is_noticed() {
    let mut plan = small_plan();
    plan.knobs.latency_micros = 60_000_000;
    assert_eq!(found(Pure::new(&plan).run()), "a connected core converges");
}

/// Bugs that nearly every seed notices; `ahenk-sim mutants` tries them all.
#[test]
fn planted_bugs_are_noticed_and_gone_afterwards() {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3600);
    for bug in [Bug::DigestForgetsDeletes, Bug::UpdateResurrects, Bug::DepsForgotten] {
        let trial = try_bug(bug, 0..20, 1, 0, deadline, std::time::Duration::ZERO)
            .expect("the seed holds without the bug");
        assert!(trial.kill.is_some(), "{} goes unnoticed", bug.name());
    }
    holds(0..3, Harness::Pure);
}

#[test]
fn a_failure_is_shrunk_to_the_few_events_that_cause_it() {
    engine::planted::plant(Some(Bug::UpdateResurrects));
    let fails = |whole: &Plan| run_plan(whole, Harness::Pure, false).1.is_err();
    let whole = (0..20).map(|seed| plan(seed, Harness::Pure)).find(fails).expect("a seed notices");
    let shrunk = shrink(&whole, Harness::Pure, std::time::Duration::from_secs(600)).expect("it fails");
    let again = run_plan(&shrunk.plan, Harness::Pure, false).1;
    engine::planted::plant(None);
    assert_eq!(again.err(), shrunk.failure);
    assert_eq!(run_plan(&shrunk.plan, Harness::Pure, false).1, Ok(()), "it is the planted bug that fails");
    // A delete and an update; a create before them may be needed, or a link, and the core may lie elsewhere.
    assert!(shrunk.plan.events.len() <= 3 && shrunk.plan.nodes <= 3, "{}", shrunk.plan);
    assert!(shrink(&whole, Harness::Pure, std::time::Duration::from_secs(1)).is_none(), "it holds by itself");
}

/// What harness T looks at after both writes, harness P sees one after the other.
#[test]
fn a_clock_that_leapt_ahead_wrote_and_was_put_right_to_before_its_start_may_follow() {
    let plan = Plan::from_json(include_str!("clock-put-right.json")).expect("a plan");
    for harness in [Harness::Pure, Harness::Full] {
        assert_eq!(run_plan(&plan, harness, false).1, Ok(()), "{harness:?}");
    }
}

#[test]
fn kept_plans_hold_and_still_show_the_bug_that_they_are_kept_for() {
    let mut names = Vec::new();
    for (name, kept) in kept() {
        assert!(kept.about.ends_with('.'), "{name} says what it shows in a sentence");
        let (report, result) = run_plan(&kept.plan, Harness::Pure, false);
        assert_eq!(result, Ok(()), "{name}: {}", kept.about);
        if let Some(mark) = &kept.mark {
            assert!(report.marks.names().any(|name| name == mark), "{name} no longer reaches {mark}");
        }
        assert_eq!(kept.planted().is_some(), kept.bug.is_some(), "{name} names a bug that there is");
        if let Some(bug) = kept.planted() {
            engine::planted::plant(Some(bug));
            let result = run_plan(&kept.plan, Harness::Pure, false).1;
            engine::planted::plant(None);
            assert!(result.is_err(), "{name} no longer shows {}", bug.name());
        }
        names.push(format!("{name}.json"));
    }
    let folder =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/plans")).expect("the folder of plans");
    let mut files: Vec<_> =
        folder.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    assert_eq!(files, names, "each file of the folder is one of the kept plans");
}

#[test]
fn the_example_in_the_documentation_loses_an_operation_in_its_first_exchange() {
    let (_, kept) = kept().into_iter().find(|(name, _)| *name == "scalar-cursor").expect("it is kept");
    engine::planted::plant(kept.planted());
    let (report, result) = sim_tests::record(&kept.plan, Harness::Pure);
    engine::planted::plant(None);
    assert!(result.is_err());
    let page = sim_tests::html("example", kept.plan.nodes, &report.moments);
    assert!(page.contains("A to B: Ops #1 0 runs, 0 commits, done"), "A gives nothing to B");
    assert!(page.contains("B to A: Ops #1 1 runs, 1 commits, done"), "and B gives what it wrote");
}

#[test]
fn variations_of_kept_plans_are_among_the_plans_of_seeds_and_can_be_carried_out() {
    let kept: Vec<Plan> = kept().into_iter().map(|(_, kept)| kept.plan).collect();
    // Most of the events of a kept plan of more than a few.
    let is_like = |plan: &Plan, kept: &Plan| {
        let events: Vec<&Event> = plan.events.iter().map(|timed| &timed.event).collect();
        let there = kept.events.iter().filter(|timed| events.contains(&&timed.event)).count();
        kept.events.len() > 5 && plan.nodes == kept.nodes && there + 3 >= kept.events.len()
    };
    let mut like_kept = 0;
    for seed in 0..400 {
        let plan = plan(seed, Harness::Pure);
        plan.check().expect("a plan of a seed");
        like_kept += u32::from(kept.iter().any(|kept| is_like(&plan, kept)));
    }
    assert!(like_kept >= 5, "{like_kept}");
}

#[test]
fn a_plan_is_shrunk_to_what_reaches_a_mark() {
    let (_, kept) = kept().into_iter().find(|(name, _)| *name == "third-branch").expect("it is kept");
    let time = std::time::Duration::from_secs(600);
    let mut whole = kept.plan.clone();
    whole.events.insert(0, Timed { at_ms: 0, event: Event::Read { node: 0 } });
    let shrunk =
        sim_tests::shrink_to_mark(&whole, Harness::Pure, "third-branch", time).expect("it reaches it");
    assert!(shrunk.plan.events.len() <= kept.plan.events.len() && shrunk.failure.is_none());
    assert!(sim_tests::shrink_to_mark(&whole, Harness::Pure, "old-request", time).is_none());
}

/// Two devices that are connected; the second waits to be in sync while a commit of the first is under way.
fn sync_plan() -> Plan {
    let mut plan = small_plan();
    plan.knobs.latency_micros = 40_000;
    plan.knobs.datagrams = false;
    plan.events = vec![
        Timed { at_ms: 0, event: Event::Connect { a: 0, b: 1 } },
        hot(2_000, 0),
        Timed { at_ms: 2_020, event: Event::Sync { node: 1 } },
        hot(4_000, 1),
    ];
    plan
}

#[test]
fn whoever_was_in_sync_without_asking_is_noticed() {
    for harness in [Harness::Pure, Harness::Full] {
        let (report, result) = run_plan(&sync_plan(), harness, false);
        assert_eq!(result, Ok(()), "{harness:?}");
        assert!(report.marks.names().any(|name| name == "in-sync-on-news"), "{harness:?}");
        engine::planted::plant(Some(Bug::SyncUnasked));
        let run = run_plan(&sync_plan(), harness, false);
        engine::planted::plant(None);
        assert_eq!(found(run), "whoever was in sync has all that a peer had when it asked", "{harness:?}");
    }
}

#[test]
fn a_database_that_is_written_to_after_its_device_has_stopped_is_noticed() {
    let mut plan = small_plan();
    plan.events.push(Timed { at_ms: 12_000, event: Event::Leave { node: 1 } });
    let (report, result) = run_plan(&plan, Harness::Full, false);
    assert_eq!(result, Ok(()));
    assert!(report.marks.names().any(|name| name == "shut-down"));
    engine::planted::plant(Some(Bug::ClosedStaysOpen));
    let run = run_plan(&plan, Harness::Full, false);
    engine::planted::plant(None);
    assert_eq!(found(run), "a device that has stopped changes nothing on its disk");
}

#[test]
fn names_of_planted_bugs_are_unique_and_fit_for_a_command_line() {
    let names: std::collections::BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    assert_eq!(names.len(), Bug::ALL.len());
    let fit = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    assert!(names.iter().all(|name| fit(name)) && Bug::ALL.iter().all(|bug| bug.about().ends_with('.')));
}

fn hot(at_ms: u64, node: usize) -> Timed {
    let fields = BTreeMap::from([("x".to_owned(), at_ms as i64)]);
    let steps = vec![Step { kind: OpKind::Put, row: "hot".into(), fields }];
    Timed { at_ms, event: Event::Write { node, steps } }
}

#[test]
fn a_restored_device_gets_back_what_others_have_of_it_and_loses_only_the_rest() {
    let mut plan = small_plan();
    plan.events = vec![
        hot(1_000, 0),
        Timed { at_ms: 2_000, event: Event::Backup { node: 0 } },
        Timed { at_ms: 3_000, event: Event::Connect { a: 0, b: 1 } },
        hot(4_000, 0),
        Timed { at_ms: 5_000, event: Event::Disconnect { a: 0, b: 1 } },
        hot(6_000, 0),
        Timed { at_ms: 7_000, event: Event::Restore { node: 0, unguarded: false } },
        hot(8_000, 0),
    ];
    // Three introductions (the second life of the restored device has one) and three of the four writes.
    for harness in [Harness::Pure, Harness::Full] {
        let (report, result) = run_plan(&plan, harness, false);
        assert_eq!((result, report.commits), (Ok(()), 3 + 3), "{harness:?}");
    }
}

#[test]
fn a_device_and_its_copy_both_write_and_nothing_is_lost_or_named_twice() {
    let mut plan = small_plan();
    plan.nodes = 3;
    plan.knobs.drift_ppm = vec![0; 3];
    let connect = |at_ms, a| Timed { at_ms, event: Event::Connect { a, b: 1 } };
    plan.events = vec![
        connect(0, 0),
        hot(1_000, 0),
        Timed { at_ms: 2_000, event: Event::Clone { node: 2, of: 0, unguarded: false } },
        hot(3_000, 0),
        hot(3_000, 2),
        connect(4_000, 2),
        hot(4_500, 2),
        hot(5_000, 0),
    ];
    plan.core = vec![(0, 1)];
    let (report, result) = Pure::new(&plan).run();
    // Three introductions: of two devices, and of the copy's own life. The copy has taken the session over at 4 s.
    assert_eq!((result, report.commits), (Ok(()), 3 + 5));
    plan.core.push((1, 2));
    let refused = plan.check().expect_err("nobody talks to both at one time").to_string();
    assert_eq!(refused, "the core holds a device and its copy");
}

#[test]
fn a_full_disk_refuses_writes_and_everything_goes_on_once_there_is_space() {
    let mut plan = small_plan();
    let large = |at_ms| {
        let step = |row| Step {
            kind: OpKind::Put,
            row: format!("row-{row}"),
            fields: BTreeMap::from([("x".to_owned(), 1)]),
        };
        Timed { at_ms, event: Event::Write { node: 0, steps: (0..400).map(step).collect() } }
    };
    let full = |at_ms, full| Timed { at_ms, event: Event::DiskFull { node: 0, full } };
    plan.events = vec![
        hot(1_000, 0),
        full(2_000, true),
        large(3_000),
        full(10_000, false),
        large(80_000),
        Timed { at_ms: 90_000, event: Event::Read { node: 0 } },
    ];
    let (report, result) = Full::new(&plan).run(false);
    assert_eq!(result, Ok(()));
    let count = |name: &str| report.counts.0.get(name).copied().unwrap_or(0);
    assert!(report.faults.0.contains_key("disk writes without space"), "{report:?}");
    assert_eq!((count("writes failed"), count("writes acknowledged")), (1, 2));
}

#[test]
fn what_happens_on_machines_is_drawn_as_well() {
    let plan = small_plan();
    let (report, result) = sim_tests::record(&plan, Harness::Full);
    assert_eq!(result, Ok(()));
    let page = sim_tests::html("machines", plan.nodes, &report.moments);
    assert!(
        page.contains("A to B: Hello") && page.contains("commits A:2 Put a"),
        "frames and commits are drawn"
    );
    assert!(page.contains("B reports Connected") && page.contains("A stops") && page.contains("A starts"));
    let log = sim_tests::shiviz(plan.nodes, &report.moments);
    assert!(log.lines().any(|line| line.contains("gets Ops") && line.ends_with("from A")));
    assert_eq!(
        run_plan(&plan, Harness::Full, false).0.checkpoints,
        report.checkpoints,
        "looking changes nothing"
    );
}

/// A failure leaves all that is needed to look at it elsewhere.
#[test]
fn a_failure_leaves_a_crash_pack_whose_plan_fails_in_the_same_way() {
    for (harness, bug) in [("p", "update-resurrects"), ("t", "digest-forgets-deletes")] {
        let packs = std::env::temp_dir().join(format!("ahenk-sim-packs-{}-{harness}", std::process::id()));
        let run = ["run", "--harness", harness, "--seeds", "0..8", "--jobs", "1", "--bug", bug];
        let output = Command::new(env!("CARGO_BIN_EXE_ahenk-sim"))
            .args(run)
            .args(["--shrink-seconds", "4", "--packs"])
            .arg(&packs)
            .output()
            .expect("the simulator runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let folder = std::fs::read_dir(&packs).expect("packs").next().expect("one").expect("a folder").path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect(name);
        let small = Plan::from_json(&read("plan.json")).expect("a plan");
        assert!(small.events.len() <= Plan::from_json(&read("whole.json")).expect("a plan").events.len());
        assert!(read("diagram.html").contains("FAILED"));
        let failure = read("failure.txt");
        let command = failure.lines().nth(1).expect("a command");
        assert!(text.contains(command), "{text}");
        let replay = Command::new(env!("CARGO_BIN_EXE_ahenk-sim"))
            .args(command.split(' ').skip(1))
            .output()
            .expect("the simulator runs");
        let sentence = failure.lines().next().expect("a sentence").split_once(": ").expect("a seed").1;
        assert!(String::from_utf8_lossy(&replay.stdout).contains(sentence), "{command}");
        std::fs::remove_dir_all(&packs).expect("it can be removed");
    }
}

#[test]
fn a_mark_that_is_not_hit_is_an_error_where_all_are_demanded() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ahenk-sim"))
            .args(["run", "--seeds", "0..1", "--jobs", "1"])
            .args(arguments)
            .output();
        output.expect("the simulator runs")
    };
    assert_eq!(run(&[]).status.code(), Some(0));
    let output = run(&["--all-marks"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("NOT HIT: ") && text.contains("marks were not hit"), "{text}");
}

#[test]
fn a_revoked_device_that_nobody_dials_dials_itself_and_is_told_whichever_key_is_larger() {
    let key = |node: usize| test_identity(node as u8).peer_key();
    let mut larger = 0;
    for node in 1..5 {
        let mut plan = small_plan();
        plan.nodes = 5;
        plan.knobs.drift_ppm = vec![0; 5];
        plan.knobs.datagrams = false;
        plan.events = vec![Timed { at_ms: 1_000, event: Event::Revoke { by: 0, node } }];
        plan.core = vec![(0, node)];
        let (_, result) = run_plan(&plan, Harness::Full, false);
        assert_eq!(result, Ok(()), "{node}");
        larger += usize::from(key(node) > key(0));
    }
    assert!((1..4).contains(&larger), "both orders were tried");
}
