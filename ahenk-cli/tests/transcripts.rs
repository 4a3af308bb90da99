//! Every command as people and scripts see it: the files in `tests/transcripts` are run line by line and compared with
//! what they say; `support/stage.rs` tells how they are written.
//! `SNAPSHOTS=overwrite cargo test -p ahenk-cli --test transcripts` writes them anew.

#[path = "support/stage.rs"]
mod stage;
mod support;

use std::path::Path;

use snapbox::{Assert, Data};

fn play(name: &str) {
    let path = stage::file(name);
    let script = std::fs::read_to_string(&path).expect("a transcript");
    let lines: Vec<String> = script.lines().map(str::to_owned).collect();
    let mut played = String::new();
    stage::play(&lines, |line| {
        played.push_str(line);
        true
    });
    Assert::new()
        .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
        .eq(Data::text(played.trim_start().to_owned()), Data::read_from(&path, None).raw());
}

macro_rules! transcripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { play(stringify!($name)); })*

        #[test]
        fn every_transcript_is_played() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
            let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
            let mut found: Vec<String> = files
                .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
                .collect();
            found.sort();
            let mut played = vec![$(stringify!($name)),*];
            played.sort();
            assert_eq!(found, played);
        }
    };
}

transcripts![nothing, beginning, rows, settings, files, understanding, daemon, two_devices, administration];
