//! Marks: situations worth reaching, noted when a run reaches them ("sometimes" assertions). A simulation that never
//! gets into a situation has shown nothing about it; the simulator demands that each is reached.
//!
//! Invariant: without the feature `planted`, which only the simulator asks for, nothing is noted: `ON` is a constant
//! `false`, and neither a mark nor its condition is compiled into the program. With it, what is noted belongs to the
//! thread, so that runs on several threads do not disturb each other, and influences nothing.

macro_rules! marks {
    ($($mark:ident $name:literal $about:literal)*) => {
        /// A situation worth reaching.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mark {
            $(#[doc = $about] $mark,)*
        }

        #[cfg(feature = "planted")]
        impl Mark {
            /// All of them.
            pub const ALL: &[Mark] = &[$(Mark::$mark),*];

            /// Its name in summaries.
            pub fn name(self) -> &'static str {
                match self { $(Mark::$mark => $name),* }
            }

            /// The situation, in one line.
            pub fn about(self) -> &'static str {
                match self { $(Mark::$mark => $about),* }
            }
        }
    };
}

marks! {
    // Sessions.
    SessionReplaced "session-replaced" "A peer connected anew while its last session was open."
    SessionResumed "session-resumed" "A peer said hello anew within a connection, having restarted or forgotten the first."
    HelloRepeated "hello-repeated" "A hello had to be said again, because the first was lost."
    EqualAtOnce "equal-at-once" "Two devices knew the same when they met."
    HandshakeTimedOut "handshake-timed-out" "A peer connected and said nothing valid."
    PeerSilent "peer-silent" "A session ended because nothing was heard for too long."
    StaleFrame "stale-frame" "A frame of an earlier session arrived and was dropped."
    DamagedFrame "damaged-frame" "A frame with a flipped bit was dropped."
    DamagedTooOften "damaged-too-often" "A peer was cut off because all its frames were damaged."
    OtherVersion "other-version" "A frame of another major version ended a session."
    MalformedFrame "malformed-frame" "A frame that no rule allows ended a session."
    ForeignAccount "foreign-account" "A device of another account was turned away."
    Uncertified "uncertified" "A device without a valid certificate was turned away."
    ToldFault "told-fault" "A peer said what this device did wrong, and ended the session."
    Goodbye "goodbye" "A peer said goodbye."
    ClockSkewTold "clock-skew-told" "A device was told that its clock differs from its peers'."
    ClockSkewHealed "clock-skew-healed" "A clock that had differed was set right."
    // Starting.
    CopyRenamed "copy-renamed" "A restored or copied database went on under a new incarnation."
    Restarted "restarted" "A database went on where it had ended."
    // Asking.
    EqualByDigest "equal-by-digest" "A digest alone showed a peer to be in sync."
    GossipOldNews "gossip-old-news" "Gossip told nothing new."
    GossipHastens "gossip-hastens" "Gossip of a device without a session hastened a comparison with the others."
    AskedForAll "asked-for-all" "After an answer that brought nothing, a peer was asked for all that is lacking."
    AskedElsewhere "asked-elsewhere" "All that is lacking was under way from another peer already."
    WaitingNotAsked "waiting-not-asked" "All that is lacking was in the reorder buffer already."
    RequestExpired "request-expired" "The answer to a request never came."
    RequestExpiredHalfway "request-expired-halfway" "The answer to a request stopped in the middle."
    AnswerBroughtNothing "answer-brought-nothing" "An answer ended without anything that could be kept."
    LateAnswerCounts "late-answer-counts" "The rest of an earlier answer arrived while a new request was open."
    PushesRepeated "pushes-repeated" "Pushes that nobody confirmed were taken for lost."
    // Taking in.
    AuthorUnknown "author-unknown" "A run arrived whose author's certificate had not come yet."
    VerifiedAhead "verified-ahead" "The signature of a run had been verified before its frame's turn came."
    ForgedRun "forged-run" "A run without a valid signature was refused."
    RunDoubled "run-doubled" "A run arrived that was applied already."
    RunHalfKnown "run-half-known" "Only the end of a run was new."
    GapWaits "gap-waits" "A run waited for earlier commits of its own replica."
    DepsWait "deps-wait" "A run waited for commits of other replicas."
    TakenPacked "taken-packed" "The columns of a frame went into the log as they came."
    WaitedAndApplied "waited-and-applied" "A run that had waited was applied."
    JointRuns "joint-runs" "Runs that need each other were applied together."
    WaitingGrew "waiting-grew" "A waiting run was replaced by a longer one."
    ReorderOverflowed "reorder-overflowed" "The reorder buffer was full and gave up a run."
    CrashedWaiting "crashed-waiting" "A device stopped while runs waited in its reorder buffer."
    // Giving.
    OldRequest "old-request" "A request arrived after a newer one, and was ignored."
    RequestDoubled "request-doubled" "A request arrived twice."
    RequestReplaced "request-replaced" "A new request replaced one whose answer was under way."
    CreditExhausted "credit-exhausted" "An answer paused until the peer gave credit."
    CreditGrew "credit-grew" "A long answer earned a wider window."
    AnswerPaused "answer-paused" "A long answer was cut up to keep a step short."
    RunTooLong "run-too-long" "The next run would not fit beside the others of its frame."
    GivenPacked "given-packed" "Commits were sent by columns as the store has them."
    PackedPart "packed-part" "Only some of the commits that a store has together by columns were to be sent."
    CutByDeps "cut-by-deps" "A run was cut where its receiver would lack what comes next depends on."
    CutBySize "cut-by-size" "A run was cut where its frame was full."
    RelayedUnsigned "relayed-unsigned" "A run went beyond what was asked for, to end in a signature."
    PushNoRoom "push-no-room" "A commit was announced, because too many pushes were unconfirmed."
    PushWhileServing "push-while-serving" "A commit was announced, because an answer was under way."
    PushPeerBehind "push-peer-behind" "A commit was announced, because the peer lacked what came before."
    Pushed "pushed" "A commit was pushed."
    SignedTogether "signed-together" "Transactions that became durable together were signed once, at their end."
    GroupOfRuns "group-of-runs" "Transactions that became durable together did not fit one run, and each run was signed."
    AllConnected "all-connected" "Nothing was published by gossip, because all devices had sessions."
    PushedAgain "pushed-again" "A peer that asks whether there is news was given at once what it lacks."
    // Merge and clocks.
    ConflictListed "conflict-listed" "A value lost a true conflict."
    ArrivalLost "arrival-lost" "A write arrived that had lost already."
    SameValueTwice "same-value-twice" "Two devices wrote the same value, which is no conflict."
    UpdateHidden "update-hidden" "An update met a delete that it does not undo."
    LateDelete "late-delete" "A delete arrived after a newer create."
    CreatedAgain "created-again" "A deleted row was created again."
    TieBroken "tie-broken" "Two writes with equal clocks were ordered by their authors."
    UpdateOfNothing "update-of-nothing" "An update of a row that is not there was refused."
    StepsFolded "steps-folded" "Several steps of a transaction on one row became one operation."
    FloorRaised "floor-raised" "A local stamp was raised above what it overwrites."
    CounterCarried "counter-carried" "A clock's counter carried into the milliseconds."
    ClockDroppedBack "clock-dropped-back" "A clock that had been far ahead followed its wall clock back."
    ClockFollows "clock-follows" "A remote stamp moved a clock."
    FarStampIgnored "far-stamp-ignored" "A stamp beyond the drift bound moved no clock."
    // Trust.
    OrderRefused "order-refused" "A device that does not administer the account gave an order."
    OrderTooLate "order-too-late" "An administrator's order named a device that is revoked."
    Promoted "promoted" "A device was given the root key."
    StatementTwice "statement-twice" "A statement arrived that was known."
    UnblockedByStatement "unblocked-by-statement" "Commits that had waited for a statement that retracts were applied."
    StatementForged "statement-forged" "A statement that the root key did not sign was refused."
    NothingRetracted "nothing-retracted" "A revocation arrived where nothing beyond its fence was applied."
    RolledBack "rolled-back" "A revocation retracted what was applied."
    RowRolledAway "row-rolled-away" "A row was gone after a rollback, for nothing that stands wrote to it."
    ConflictVoided "conflict-voided" "A conflict was forgotten, because one side of it was retracted."
    EndsAtFence "ends-at-fence" "A rolled back replica ends in the fence's own signature."
    EndsBeforeFence "ends-before-fence" "Nothing of a replica counts."
    BufferPurged "buffer-purged" "A fence took runs out of the reorder buffer."
    BeyondFence "beyond-fence" "A run beyond a fence was refused."
    CutAtFence "cut-at-fence" "A run that crosses a fence was cut there."
    FencedClaimed "fenced-claimed" "A peer claimed to have what is fenced."
    FencedDeps "fenced-deps" "A commit was applied although it depends on what is fenced."
    SmallerFenceWon "smaller-fence-won" "Of two fences for a replica the smaller counted."
    RevokedTwice "revoked-twice" "A device was revoked by two statements."
    FenceUnheard "fence-unheard" "A run without a signature arrived before the statement that vouches for it."
    ForkProven "fork-proven" "A device met both branches of a fork and made the proof."
    BranchFollowed "branch-followed" "A run showed a fork and began after it: what is before was asked for."
    BranchesMet "branches-met" "Two connected devices told two branches of equal length apart by what was stated before."
    OwnEndHeard "own-end-heard" "A device heard that its replica ends just where it stood, and took another."
    ThirdBranch "third-branch" "A run parted from a forked replica before its fence."
    RevokedCalls "revoked-calls" "A revoked device connected, and was shown the proof."
    OwnProofShown "own-proof-shown" "A revoked device showed the proof against itself."
    RevokedHears "revoked-hears" "A device learnt of its own revocation."
    RevokedWaiting "revoked-waiting" "A device that learnt of its own revocation gave up runs that waited."
    RevokedWrites "revoked-writes" "A revoked device wrote for itself."
}

/// Notes a mark, if a condition holds.
macro_rules! mark {
    ($mark:ident) => {
        if $crate::marks::ON {
            $crate::marks::hit($crate::marks::Mark::$mark);
        }
    };
    ($mark:ident if $when:expr) => {
        if $crate::marks::ON && $when {
            $crate::marks::hit($crate::marks::Mark::$mark);
        }
    };
}

pub(crate) use mark;
#[cfg(feature = "planted")]
pub use switch::take;
pub(crate) use switch::{ON, hit};

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::Mark;

    pub(crate) const ON: bool = true;

    // One bit for each mark.
    const _: () = assert!(Mark::ALL.len() <= u128::BITS as usize);

    thread_local! {
        static HIT: Cell<u128> = const { Cell::new(0) };
    }

    pub(crate) fn hit(mark: Mark) {
        HIT.set(HIT.get() | 1 << mark as u32);
    }

    /// What was noted on this thread since the last call.
    pub fn take() -> impl Iterator<Item = Mark> {
        let hit = HIT.replace(0);
        Mark::ALL.iter().copied().filter(move |mark| hit & 1 << *mark as u32 != 0)
    }
}

#[cfg(not(feature = "planted"))]
mod switch {
    use super::Mark;

    pub(crate) const ON: bool = false;

    pub(crate) const fn hit(_: Mark) {}
}
