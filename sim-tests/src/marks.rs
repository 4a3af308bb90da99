//! Marks of the harnesses: situations of the environment that a run reached, beside those inside the engine
//! ([`engine::marks`]). Each harness must reach its own in a large enough run.

use std::collections::BTreeSet;

use engine::marks::Mark;

use crate::Harness;

macro_rules! situations {
    ($($situation:ident [$($harness:ident)+] $name:literal $about:literal)*) => {
        /// A situation of the environment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Situation {
            $($situation,)*
        }

        impl Situation {
            const ALL: &[Situation] = &[$(Situation::$situation),*];

            fn harnesses(self) -> &'static [Harness] {
                match self { $(Situation::$situation => &[$(Harness::$harness),+]),* }
            }

            fn name(self) -> &'static str {
                match self { $(Situation::$situation => $name),* }
            }

            fn about(self) -> &'static str {
                match self { $(Situation::$situation => $about),* }
            }
        }
    };
}

situations! {
    CoreOfAll [Pure Full] "core-of-all" "All devices converged."
    CoreOfSome [Pure Full] "core-of-some" "Some devices stayed cut off."
    ConvergedAtOnce [Pure] "converged-at-once" "The core knew the same already when the faults stopped."
    ConvergedLate [Pure] "converged-late" "The core took more than ten rounds."
    AllDown [Pure] "all-down" "No device ran."
    ActedWhileDown [Pure Full] "acted-while-down" "Something was asked of a device that was down."
    LongLog [Pure Full] "long-log" "A log grew beyond a hundred commits."
    WriteRefused [Pure Full] "write-refused" "A transaction was refused."
    WriteLost [Pure] "write-lost" "A transaction was not answered, because its device failed meanwhile."
    WriteInBackupOnly [Pure Full] "write-lost-by-restore" "A device was restored, and writes that nobody else had were gone."
    WriteReturned [Pure Full] "write-kept-by-others" "A device was restored, and others had what it lost."
    RestoredNothing [Pure] "restored-without-backup" "A device was to be restored that had no backup."
    PairOverwritten [Pure Full] "pair-overwritten" "Both rows of a pair were written again."
    Paired [Pure Full] "paired" "A device was admitted by a code."
    CodeUsedUp [Pure Full] "code-used-up" "Somebody came with a code that had been used."
    CodeTriedTooOften [Pure Full] "code-tried-too-often" "Somebody came with a code that had been tried too often."
    CodeWrong [Pure Full] "code-wrong" "Somebody came with a wrong code."
    CodeExpired [Pure Full] "code-expired" "Somebody came with a code that had expired, or was too slow."
    PairingInTheMiddle [Pure Full] "pairing-in-the-middle" "Somebody sat in the middle of a pairing."
    InSync [Pure Full] "in-sync" "An application waited to be in sync, and was."
    InSyncOnNews [Pure Full] "in-sync-on-news" "An application waited to be in sync, and got something that it lacked."
    PowerCutAtBatch [Pure] "power-cut-at-batch" "Power failed between two outputs of a device."
    StoreRefused [Pure] "store-refused" "A batch was refused, and the engine was made anew."
    ProofMadeUp [Pure] "proof-made-up" "A session brought a proof of a fork that does not hold."
    TagsMadeUp [Pure] "tags-made-up" "A session stated another head than there is."
    CommitRewritten [Pure] "commit-rewritten" "A session brought a second commit of a name, which its author did not sign."
    SpanPassed [Pure] "span-passed" "A session brought a run that goes on beyond the end of a span."
    RunUnsigned [Pure] "run-unsigned" "A session brought commits without a signature."
    ReorderFilled [Pure] "reorder-filled" "A session brought commits that wait for what never comes."
    FrameCostly [Pure] "frame-costly" "A session brought a frame that takes too much memory."
    FramesCutOff [Pure] "frames-cut-off" "Frames were under way when their link broke."
    FrameLost [Pure Full] "frame-lost" "A frame was lost."
    FrameDoubled [Pure Full] "frame-doubled" "A frame arrived twice."
    FrameDamaged [Pure Full] "frame-damaged" "A bit of a frame was flipped."
    FrameDelayed [Full] "frame-delayed" "A frame was late."
    Streams [Full] "streams" "Frames travelled over streams."
    Datagrams [Full] "datagrams" "Frames travelled as datagrams."
    WriteFailed [Full] "write-failed" "A transaction failed, because storage did."
    DiskWriteFailed [Full] "disk-write-failed" "A write to a disk failed."
    DiskFull [Full] "disk-full" "A write found no space on a disk."
    StartFailed [Full] "start-failed" "Software could not start, because its disk failed."
    ShutDown [Full] "shut-down" "A device stopped in good order, and let go of its disk."
    StoreReopened [Full] "store-reopened" "A database was unusable after a failure of its disk, until it was opened again."
    CutInCommit [Full] "power-cut-in-commit" "A power cut fell inside a commit."
    WriteDropped [Full] "write-dropped" "A power cut dropped writes that were not synced."
    WriteTorn [Full] "write-torn" "A power cut tore a write."
    RebootedBehind [Full] "watched-over-restart" "A watcher went on over a restart of its device."
    WatcherBehind [Full] "watcher-behind" "A watcher was behind when everything else was done."
}

/// The marks that a run has hit, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeSet<&'static str>);

impl Marks {
    /// Forgets what was noted on this thread before.
    pub(crate) fn begin() {
        engine::marks::take().for_each(drop);
    }

    /// Adds what the engines on this thread have noted.
    pub(crate) fn take_in(&mut self) {
        self.0.extend(engine::marks::take().map(Mark::name));
    }

    /// Notes a situation, if a condition holds.
    pub(crate) fn note(&mut self, situation: Situation, when: bool) {
        if when {
            self.0.insert(situation.name());
        }
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().copied()
    }
}

/// The name of each mark that a harness must hit, and what it means. Those of the engine are the pure harness's, which
/// runs so many more seeds.
pub fn marks_of(harness: Harness) -> Vec<(&'static str, &'static str)> {
    let engine: &[Mark] = if harness == Harness::Pure { Mark::ALL } else { &[] };
    let engine = engine.iter().map(|mark| (mark.name(), mark.about()));
    let own = Situation::ALL.iter().filter(|situation| situation.harnesses().contains(&harness));
    engine.chain(own.map(|situation| (situation.name(), situation.about()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_each_mark_says_a_situation() {
        let both = Mark::ALL.iter().map(|mark| (mark.name(), mark.about()));
        let all: Vec<_> = both.chain(Situation::ALL.iter().map(|it| (it.name(), it.about()))).collect();
        let names: BTreeSet<&str> = all.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), all.len());
        let fit = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(all.iter().all(|(name, about)| fit(name) && about.ends_with('.')));
        assert!(all.len() >= 80, "only {}", all.len());
    }
}
