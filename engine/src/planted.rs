//! Bugs that can be planted in this crate and in the store, to prove that the simulator's oracles notice them.
//!
//! Invariant: without the feature `planted`, which only the simulator asks for, no bug can be planted: `is` is a
//! constant `false`, and what it guards is not compiled into the program. With it, a bug is in force on the thread
//! that planted it, so that runs on several threads do not disturb each other.

use crate::commit::Stamp;
use crate::hlc::Hlc;
use crate::identity::DeviceId;

macro_rules! bugs {
    ($($bug:ident $name:literal $about:literal)*) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $about] $bug,)*
        }

        #[cfg(feature = "planted")]
        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug),*];

            /// Its name, as used on command lines.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name),* }
            }

            /// What is wrong with it in force, in one line.
            pub fn about(self) -> &'static str {
                match self { $(Bug::$bug => $about),* }
            }
        }
    };
}

bugs! {
    ScalarCursor "scalar-cursor" "A device asks for all that is stamped later than the latest stamp that it knows."
    GaplessVector "gapless-vector" "The highest sequence number heard of a replica stands for all below it."
    ServesOnlyOwn "serves-only-own" "Commits of other devices are not passed on."
    EqualAssumed "equal-assumed" "A peer is taken to know what we know as soon as it says hello."
    NeverAsksForOwn "never-asks-for-own" "Commits of one's own earlier incarnations are not asked for."
    TieKeepsLocal "tie-keeps-local" "Of two writes with equal clocks each device keeps the one it had first."
    TieByRelay "tie-by-relay" "Of two writes with equal clocks the device that brought one decides, not its author."
    ArrivalOrder "arrival-order" "The write that arrives last wins."
    NoLocalDominance "no-local-dominance" "A local stamp is not raised above what it overwrites."
    AnsweredBeforeDurable "answered-before-durable" "A write is answered before it is durable."
    SentBeforeDurable "sent-before-durable" "Frames leave before what they claim is durable."
    KnowledgeBeforeState "knowledge-before-state" "Log and knowledge become durable first, the rows after them."
    PiecewiseTransaction "piecewise-transaction" "The rows of a batch become durable one by one."
    ClockFoldsAny "clock-folds-any" "Any remote stamp moves the clock, however far ahead."
    ClockFoldsUnapplied "clock-folds-unapplied" "A received stamp moves the clock before its commit is applied, if it ever is."
    ClockForgotten "clock-forgotten" "The clock starts anew with each start of the device."
    CounterWraps "counter-wraps" "The clock's counter wraps to 0 instead of carrying into the milliseconds."
    FarFutureRefused "far-future-refused" "Commits stamped far ahead of the own clock are refused."
    NoCausalWait "no-causal-wait" "Commits are applied without what they depend on."
    DepsForgotten "deps-forgotten" "A commit states only one of the replicas that its author had news of."
    DeleteOfUnknownIgnored "delete-of-unknown-ignored" "A delete of a row that is not there is not kept."
    DeleteKeepsFields "delete-keeps-fields" "A delete leaves the fields' values in place for the next create."
    UpdateResurrects "update-resurrects" "An update brings a deleted row back."
    DuplicateAppliedTwice "duplicate-applied-twice" "What arrives twice counts twice."
    UnboundedBuffer "unbounded-buffer" "The reorder buffer never evicts."
    FullBufferRefuses "full-buffer-refuses" "While the reorder buffer is nearly full, commits that could be applied are dropped, too."
    SmallBufferStarves "small-buffer-starves" "A full reorder buffer gives up runs within a frame, and what is lacking is split between peers for ever."
    JointRunsWait "joint-runs-wait" "Runs that can only be applied together wait for ever."
    WantNeverRetried "want-never-retried" "A request whose answer was lost is under way for ever."
    PushTakenAsKnown "push-taken-as-known" "What was pushed counts as known by the peer, and a lost push is not repeated."
    RepeatedOnce "repeated-once" "A statement is repeated once and then never again."
    GroupEndUnsigned "group-end-unsigned" "Of transactions that become durable together the log has the first signed, and not the last."
    RestoredReusesNumbers "restored-reuses-numbers" "A restored database goes on under its old incarnation."
    LedgerForgets "ledger-forgets" "The loser of a conflict is not listed."
    AuthorUnchecked "author-unchecked" "A certificate in a commit is believed, whoever signed it."
    SignatureUnchecked "signature-unchecked" "A commit is taken from a member without checking its author's signature."
    StatementUnchecked "statement-unchecked" "What an administrator is said to state is believed, whoever signed it."
    ProofUnchecked "proof-unchecked" "A proof of a fork is believed, whatever it holds."
    TagsBelieved "tags-believed" "A device raises the alarm of a fork on the word of a peer that states another head."
    UnsignedTaken "unsigned-taken" "Commits without a signature are taken, though no statement vouches for them."
    SpanIgnored "span-ignored" "A run may go on beyond the end of a span."
    CostIgnored "cost-ignored" "What a frame takes in memory while it is decoded has no bound."
    MemoryUncounted "memory-uncounted" "What waits is bounded by its bytes as it travelled, and not by the memory that it takes."
    ReadAheadBelieved "read-ahead-believed" "A signature that was looked at before its frame's turn counts, whatever it proved."
    StrangerAdmitted "stranger-admitted" "The certificate in a greeting is believed, whoever signed it."
    CodeReusable "code-reusable" "A pairing code admits more than one device."
    AttemptsUncounted "attempts-uncounted" "A pairing code may be guessed at any number of times."
    InvitationStays "invitation-stays" "An invitation never expires."
    KeysUnbound "keys-unbound" "A pairing does not prove which keys the two ends of the channel hold."
    FenceIgnored "fence-ignored" "Commits beyond a fence are taken in when they arrive after it."
    FenceSparesBuffer "fence-spares-buffer" "A fence leaves what waits in the reorder buffer."
    LargerFenceWins "larger-fence-wins" "Of two fences for one replica the larger counts."
    NoRollback "no-rollback" "A fence retracts nothing that is applied already."
    FencedDepsBlock "fenced-deps-block" "Commits that depend on what is fenced wait for ever."
    ForkUnproven "fork-unproven" "A fork raises an alarm, and no proof of it is made."
    HeadsForgotten "heads-forgotten" "What a peer stated of heads when ours had other numbers is never compared."
    ForkUnnoticed "fork-unnoticed" "Tags of heads are not compared: what is known under one name is taken for one thing."
    RevokedMayConnect "revoked-may-connect" "A revoked device may go on with its sessions."
    RevokedStillApplies "revoked-still-applies" "What waits when a device learns of its own revocation is applied later."
    SyncUnasked "sync-unasked" "Whoever waits to be in sync takes what it knows of its peers for the present state, and asks nobody."
    SyncTakesOldWord "sync-takes-old-word" "A statement that was under way before somebody asked to be in sync counts as the answer."
    ClosedStaysOpen "closed-stays-open" "A database that was closed is written to until its last handle is dropped."
    SweepUnwritten "sweep-unwritten" "A sweep takes rows for saved that it has not written."
    SavedStays "saved-stays" "A row that is written to again is still taken for saved."
    NumbersKept "numbers-kept" "A row keeps its numbers for replicas where they stand for others."
    DigestForgetsDeletes "digest-forgets-deletes" "The state digest does not follow deletes."
}

pub use switch::is;
#[cfg(feature = "planted")]
pub use switch::plant;
pub(crate) use switch::{asked_since, asks_since, brought_by, keeps};

#[cfg(feature = "planted")]
mod switch {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::{Bug, DeviceId, Hlc, Stamp};

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
        static BROUGHT_BY: Cell<Option<DeviceId>> = const { Cell::new(None) };
        static CURSORS: RefCell<BTreeMap<(DeviceId, DeviceId), Hlc>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Puts a bug in force on this thread, instead of the one that was.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
        BROUGHT_BY.set(None);
    }

    /// Whether a bug is in force.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Notes who brought what is applied next; `None` for local writes.
    pub(crate) fn brought_by(device: Option<DeviceId>) {
        BROUGHT_BY.set(device);
    }

    /// Notes the stamp that a device states in its request to another, in place of exact knowledge.
    pub(crate) fn asks_since(device: DeviceId, other: DeviceId, cursor: Hlc) {
        CURSORS.with_borrow_mut(|cursors| cursors.insert((device, other), cursor));
    }

    /// The stamp that a device stated in its last request to another. (All devices of a simulation share a thread.)
    pub(crate) fn asked_since(device: DeviceId, other: DeviceId) -> Hlc {
        CURSORS.with_borrow(|cursors| cursors.get(&(device, other)).copied().unwrap_or_default())
    }

    /// Whether a value that is there stays, as the planted bug has it; `None` if that bug is not about it.
    pub(crate) fn keeps(here: Stamp, new: Stamp) -> Option<bool> {
        let tie = here.hlc == new.hlc && here.dot != new.dot;
        match PLANTED.get()? {
            Bug::ArrivalOrder => Some(false),
            Bug::TieKeepsLocal if tie => Some(true),
            Bug::TieByRelay if tie => Some(here.dot.replica.device > BROUGHT_BY.get()?),
            _ => None,
        }
    }
}

#[cfg(not(feature = "planted"))]
mod switch {
    use super::{Bug, DeviceId, Hlc, Stamp};

    /// Whether a bug is in force: none is, without the feature.
    pub const fn is(_: Bug) -> bool {
        false
    }

    pub(crate) const fn brought_by(_: Option<DeviceId>) {}

    pub(crate) const fn asks_since(_: DeviceId, _: DeviceId, _: Hlc) {}

    pub(crate) const fn asked_since(_: DeviceId, _: DeviceId) -> Hlc {
        Hlc(0)
    }

    pub(crate) const fn keeps(_: Stamp, _: Stamp) -> Option<bool> {
        None
    }
}
