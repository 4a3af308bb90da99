//! Where it is shown what each key does: a key that is read and has no effect has no place here.

use std::path::Path;

use super::KEYS;

/// A key, the file with the test of its effect, and the test. That a setting reaches engine, driver and store is shown by
/// the tests of `config`.
const SHOWN: &[(&str, &str, &str)] = &[
    (
        "database.path",
        "tests/settings.rs",
        "the_database_lies_where_database_path_says_and_is_never_made_anew_elsewhere",
    ),
    (
        "device.name",
        "tests/settings.rs",
        "device_name_renames_an_administrator_once_for_each_change_and_nobody_else",
    ),
    ("sync.enabled", "tests/config.rs", "a_daemon_that_may_not_sync_listens_nowhere_and_says_so"),
    (
        "sync.heartbeat_ms",
        DRIVER,
        "a_device_that_is_silent_is_pinged_as_often_as_was_set_and_is_gone_when_it_stays_so",
    ),
    (
        "sync.batch_bytes",
        DRIVER,
        "a_message_of_commits_has_at_most_as_many_and_about_as_many_bytes_as_was_set",
    ),
    (
        "sync.batch_commits",
        DRIVER,
        "a_message_of_commits_has_at_most_as_many_and_about_as_many_bytes_as_was_set",
    ),
    ("sync.credit_bytes", DRIVER, "no_more_is_under_way_to_a_device_than_it_gives_credit_for"),
    (
        "sync.message_bytes",
        "tests/settings.rs",
        "a_transaction_beyond_message_bytes_is_refused_and_an_import_is_cut_to_fit",
    ),
    (
        "network.listen",
        "tests/config.rs",
        "the_daemon_listens_where_it_is_set_and_connects_to_the_bootstrap_addresses",
    ),
    (
        "network.listen_port",
        "tests/settings.rs",
        "it_listens_at_the_port_and_with_the_transports_that_are_set",
    ),
    (
        "network.transports",
        "tests/settings.rs",
        "it_listens_at_the_port_and_with_the_transports_that_are_set",
    ),
    ("network.relay", "tests/settings.rs", "without_relays_none_is_asked"),
    ("network.mdns", "tests/lan.rs", "two_machines_on_one_lan_pair_and_sync_with_no_configuration"),
    (
        "network.bootstrap",
        "tests/config.rs",
        "the_daemon_listens_where_it_is_set_and_connects_to_the_bootstrap_addresses",
    ),
    (
        "network.relay_servers",
        "tests/relay.rs",
        "devices_that_nobody_can_dial_meet_at_the_relay_and_again_after_its_restart",
    ),
    (
        "limits.memory_bytes",
        "src/config/mod.rs",
        "the_parts_of_a_limit_of_memory_come_to_no_more_than_all_of_it",
    ),
    (
        "limits.disk_bytes",
        "tests/settings.rs",
        "at_the_limit_of_the_disk_writes_are_refused_by_name_and_all_is_made_up_for_without_it",
    ),
    ("limits.upload_bytes_per_s", DRIVER, "no_more_is_sent_in_a_second_than_may_be_and_all_arrives"),
    ("limits.download_bytes_per_s", DRIVER, "no_more_is_taken_in_a_second_than_may_be_and_all_arrives"),
    ("limits.reorder_bytes", "../engine/tests/hostile.rs", "reorder_bytes_max"),
    ("limits.outbox_bytes", DRIVER, "a_device_for_which_too_much_waits_is_cut_off"),
    ("limits.peers", DRIVER, "no_more_devices_are_connected_than_may_be"),
    ("limits.conflicts", "../engine/tests/sync.rs", "conflicts_max"),
    ("log.level", "tests/config.rs", "the_log_is_put_aside_by_size_and_only_so_many_files_are_kept"),
    ("log.format", "tests/daemon.rs", "logs_shows_the_newest_records_of_a_level_and_follows_what_comes"),
    ("log.file", "tests/settings.rs", "the_log_goes_to_the_file_that_is_set"),
    ("log.file_bytes", "tests/config.rs", "the_log_is_put_aside_by_size_and_only_so_many_files_are_kept"),
    ("log.files", "tests/config.rs", "the_log_is_put_aside_by_size_and_only_so_many_files_are_kept"),
    ("metrics.port", "tests/settings.rs", "the_daemon_tells_prometheus_how_it_is_at_the_port_that_is_set"),
];

const DRIVER: &str = "../ahenk/tests/limits.rs";

#[test]
fn the_effect_of_every_key_is_shown_by_a_test() {
    for key in KEYS {
        assert!(SHOWN.iter().any(|(name, ..)| *name == key.name), "no test shows what {} does", key.name);
    }
    for (name, file, test) in SHOWN {
        assert!(KEYS.iter().any(|key| key.name == *name), "{name} is no key");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(test), "{file} has no {test}");
    }
}
