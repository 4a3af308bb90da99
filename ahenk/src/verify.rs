//! Comparing this device's rows with a peer's: equal or not, and which rows differ.
//!
//! Devices of equal knowledge must hold equal rows. That is checked at every sync by one digest; here it is looked at
//! row by row, a page at a time, so neither side reads or sends more than it can bear.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::audit::{PAGE_ROWS_MAX, page};
use engine::identity::DeviceId;
use engine::io::{PeerPage, RowDigest};
use engine::name::{RowKey, TableName};
use engine::store::{Store, StoreError};

use crate::db::Db;

/// Differing rows that are listed, at most.
pub const DIFFERENCES_MAX: usize = 1000;
/// Times a question is asked before the peer counts as silent.
const ATTEMPTS_MAX: u32 = 3;

/// A row that is not the same on both sides. A side without a digest never heard of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its table.
    pub table: TableName,
    /// Its key.
    pub row: RowKey,
    /// The digest of its state here.
    pub ours: Option<u128>,
    /// The digest of its state there.
    pub theirs: Option<u128>,
}

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All rows are equal.
    Equal,
    /// Some rows differ.
    Differing,
    /// The two do not know the same commits, so their rows may differ: sync first, and try when nothing is written.
    NotInSync,
    /// The peer is not connected, or does not answer.
    Silent,
}

/// What a comparison with a peer has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// How it ended.
    pub verdict: Verdict,
    /// Rows of this device that were looked at, deleted ones included.
    pub rows: u64,
    /// Rows that differ, the first [`DIFFERENCES_MAX`] of them.
    pub differences: Vec<Difference>,
}

type Place = (TableName, RowKey);

impl<S: Store> Db<S> {
    /// Compares all rows with a connected device's, each question within `within`.
    pub async fn verify(&self, device: DeviceId, within: Duration) -> Result<Comparison, StoreError> {
        let mut found = Comparison { verdict: Verdict::Equal, rows: 0, differences: Vec::new() };
        let mut after: Option<Place> = None;
        loop {
            let Some(theirs) = self.page_of(device, after.clone(), false, within).await else {
                return Ok(Comparison { verdict: Verdict::Silent, ..found });
            };
            let ours = self.own_rows(after.as_ref(), theirs.upto.as_ref())?;
            let sum = ours.iter().fold(0_u128, |sum, row| sum.wrapping_add(row.digest));
            if !theirs.comparable {
                return Ok(Comparison { verdict: Verdict::NotInSync, ..found });
            }
            let mut upto = theirs.upto;
            let mut looked_at = ours.len();
            if sum != theirs.digest {
                let Some(detail) = self.page_of(device, after.clone(), true, within).await else {
                    return Ok(Comparison { verdict: Verdict::Silent, ..found });
                };
                if !detail.comparable {
                    return Ok(Comparison { verdict: Verdict::NotInSync, ..found });
                }
                let ours = self.own_rows(after.as_ref(), detail.upto.as_ref())?;
                looked_at = ours.len();
                found.differences.extend(differences(&ours, &detail.rows));
                upto = detail.upto;
            }
            found.rows += looked_at as u64;
            let full = found.differences.len() >= DIFFERENCES_MAX;
            found.differences.truncate(DIFFERENCES_MAX);
            // A peer that does not move on would keep us for ever.
            let moved = upto.is_some() && upto > after;
            if full || !moved {
                if !found.differences.is_empty() {
                    found.verdict = Verdict::Differing;
                }
                return Ok(found);
            }
            after = upto;
        }
    }

    async fn page_of(
        &self,
        device: DeviceId,
        after: Option<Place>,
        detail: bool,
        within: Duration,
    ) -> Option<PeerPage> {
        for _ in 0..ATTEMPTS_MAX {
            let page = self.audit(device, after.clone(), detail, within).await;
            if page.is_some() {
                return page;
            }
        }
        None
    }

    /// Our own rows in a range. Those that one page of a peer and a full list of differences leave no room for are left
    /// out: without them it is as certain that the two differ.
    fn own_rows(&self, after: Option<&Place>, upto: Option<&Place>) -> Result<Vec<RowDigest>, StoreError> {
        let (mut rows, mut from) = (Vec::new(), after.cloned());
        loop {
            let next = page(&**self.store(), from.as_ref(), upto)?;
            from = next.rows.last().map(|last| (last.table.clone(), last.row.clone()));
            rows.extend(next.rows);
            if next.ended || from.is_none() || rows.len() > DIFFERENCES_MAX + PAGE_ROWS_MAX {
                return Ok(rows);
            }
        }
    }
}

fn differences(ours: &[RowDigest], theirs: &[RowDigest]) -> Vec<Difference> {
    let mut both = BTreeMap::<(&TableName, &RowKey), (Option<u128>, Option<u128>)>::new();
    ours.iter().for_each(|row| both.entry((&row.table, &row.row)).or_default().0 = Some(row.digest));
    theirs.iter().for_each(|row| both.entry((&row.table, &row.row)).or_default().1 = Some(row.digest));
    let differing = both.into_iter().filter(|(_, (ours, theirs))| ours != theirs);
    let difference = |((table, row), (ours, theirs)): ((&TableName, &RowKey), _)| Difference {
        table: table.clone(),
        row: row.clone(),
        ours,
        theirs,
    };
    differing.map(difference).collect()
}
