//! What the oracles of harness P see of a store, and how it may be spoilt to show that they look.

use engine::name::RowKey;
use engine::numbering::Numbering;
use engine::row::{RowBuilder, RowState};
use engine::store::{MemStore, StoredCommit};
use engine::testing::{Spoil, Spoilt};

/// Something that a store is made to get wrong, to show that the oracles notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The device shows its rows as if they had never been written.
    LosesRows {
        /// The device.
        node: usize,
    },
    /// The device brings deleted rows back.
    ForgetsDeletes {
        /// The device.
        node: usize,
    },
    /// The device's log lacks its newest commit.
    ForgetsCommit {
        /// The device.
        node: usize,
    },
    /// The device applies commits in another order than it says.
    SwapsCommits {
        /// The device.
        node: usize,
    },
    /// The device loses one row of two that were written together.
    TearsPairs {
        /// The device.
        node: usize,
    },
}

impl Sabotage {
    pub(crate) fn node(self) -> usize {
        match self {
            Sabotage::LosesRows { node }
            | Sabotage::ForgetsDeletes { node }
            | Sabotage::ForgetsCommit { node }
            | Sabotage::SwapsCommits { node }
            | Sabotage::TearsPairs { node } => node,
        }
    }
}

/// A store as the oracles see it.
pub(crate) type View<'a> = Spoilt<&'a MemStore, Spoiler>;

/// What is wrong with it, if anything is.
pub(crate) struct Spoiler(pub(crate) Option<Sabotage>);

impl Spoil for Spoiler {
    fn row(&self, row: &RowKey, state: RowState) -> Option<RowState> {
        match self.0 {
            Some(Sabotage::LosesRows { .. }) => None,
            Some(Sabotage::TearsPairs { .. }) if row.as_str() == crate::PAIR[1] => None,
            Some(Sabotage::ForgetsDeletes { .. }) if state.del().is_some() => {
                let mut row = RowBuilder::new(state.del().max(state.ins()), None, &Numbering::default(), 256);
                let fields = state.cells().packed();
                let pushed = fields.map(|cell| row.push(&cell.field(), &cell.stamp, cell.value));
                pushed.collect::<Result<(), _>>().ok().and_then(|()| row.finish())
            }
            _ => Some(state),
        }
    }

    fn applied(&self, found: &mut Vec<StoredCommit>) {
        match self.0 {
            Some(Sabotage::ForgetsCommit { .. }) if found.last().is_some_and(|last| last.position > 1) => {
                found.pop();
            }
            Some(Sabotage::SwapsCommits { .. }) => {
                let turned = found.iter().rev().map(|stored| stored.commit.clone()).collect::<Vec<_>>();
                found.iter_mut().zip(turned).for_each(|(stored, commit)| stored.commit = commit);
            }
            _ => {}
        }
    }
}
