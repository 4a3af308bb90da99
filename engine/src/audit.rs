//! Comparing rows with a peer: which of them differ, although both know the same.
//!
//! Devices of equal knowledge must hold equal rows; the state digests in `Have` say whether they do. When they do not,
//! the asker walks through all rows in order: a page at a time it asks for one digest, and for the digests of the single
//! rows where that differs. Nothing is kept between two questions, so a lost one is asked again.
//! Invariants: an answer takes bounded work and fits a control frame; rows themselves never travel here.

use crate::engine::Engine;
use crate::identity::{DeviceId, PeerKey};
use crate::io::{AuditPage, Output, PeerPage, RowDigest};
use crate::name::{RowKey, TableName};
use crate::store::{StoreError, StoreRead};
use crate::wire::message::{Audit, Audited, Control};

/// Rows in one page, at most.
pub const PAGE_ROWS_MAX: usize = 1024;
/// Bytes of row states that are read for one page, about.
const PAGE_READ_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of an answer with the digests of single rows, about: well below the cap of control frames.
const PAGE_DETAIL_BYTES: usize = 40 * 1024;
/// Rows that are read from the store at a time.
const SCAN: usize = 32;

/// The digests of the rows behind `after` in the order of tables and keys, up to `upto` or the end, deleted rows
/// included: as many as one page holds.
pub fn page(
    store: &impl StoreRead,
    after: Option<&(TableName, RowKey)>,
    upto: Option<&(TableName, RowKey)>,
) -> Result<AuditPage, StoreError> {
    use std::ops::Bound;
    let mut page = AuditPage::default();
    let (mut read, mut detail) = (0, 0);
    let tables = store.tables()?;
    for table in tables.into_iter().filter(|table| after.is_none_or(|(from, _)| table >= from)) {
        let mut from = after.filter(|(first, _)| *first == table).map(|(_, row)| row.clone());
        loop {
            let start = from.as_ref().map_or(Bound::Unbounded, |row| Bound::Excluded(row.as_str()));
            let rows = store.scan(&table, (start, Bound::Unbounded), SCAN)?;
            let Some((last, _)) = rows.last() else { break };
            from = Some(last.clone());
            for (row, state) in rows {
                if upto.is_some_and(|upto| (&table, &row) > (&upto.0, &upto.1)) {
                    return Ok(page);
                }
                read += state.encode().len();
                detail += table.as_str().len() + row.as_str().len() + 24;
                let digest = state.digest(&table, &row);
                page.digest = page.digest.wrapping_add(digest);
                page.rows.push(RowDigest { table: table.clone(), row, digest });
                if page.rows.len() >= PAGE_ROWS_MAX || read >= PAGE_READ_BYTES || detail >= PAGE_DETAIL_BYTES
                {
                    page.ended = false;
                    return Ok(page);
                }
            }
        }
    }
    Ok(page)
}

impl Engine {
    /// Asks a peer for a page of digests. Answered by [`Output::Audited`], unless the question or the answer is lost.
    pub(crate) fn ask_audit(
        &mut self,
        id: u32,
        device: DeviceId,
        after: Option<(TableName, RowKey)>,
        detail: bool,
    ) {
        let peer = self.peers.iter().find(|(_, peer)| peer.device == device && peer.ready());
        let Some(key) = peer.map(|(key, _)| *key) else {
            return self.outputs.push_back(Output::Audited { id, page: None });
        };
        let after = after.map(|(table, row)| (table.to_string(), row.to_string()));
        self.send(key, &Control::Audit(Audit { id, after, detail }));
    }

    pub(crate) fn on_audit(
        &mut self,
        key: PeerKey,
        audit: &Audit,
        store: &impl StoreRead,
    ) -> Result<(), StoreError> {
        let after = match &audit.after {
            None => None,
            // A name that no row can have is behind nothing.
            Some((table, row)) => match (TableName::new(table), RowKey::new(row)) {
                (Ok(table), Ok(row)) => Some((table, row)),
                _ => return Ok(()),
            },
        };
        let page = page(store, after.as_ref(), None)?;
        let last = page.rows.last().filter(|_| !page.ended);
        let rows = page.rows.iter().filter(|_| audit.detail);
        let audited = Audited {
            id: audit.id,
            digest: self.state.knowledge.digest(),
            upto: last.map(|last| (last.table.to_string(), last.row.to_string())),
            state: page.digest.to_be_bytes(),
            rows: rows
                .map(|row| (row.table.to_string(), row.row.to_string(), row.digest.to_be_bytes()))
                .collect(),
        };
        self.send(key, &Control::Audited(audited));
        Ok(())
    }

    pub(crate) fn on_audited(&mut self, key: PeerKey, audited: &Audited) {
        let place = |table: &str, row: &str| Some((TableName::new(table).ok()?, RowKey::new(row).ok()?));
        let row = |(table, row, digest): &(String, String, [u8; 16])| {
            let (table, row) = place(table, row)?;
            Some(RowDigest { table, row, digest: u128::from_be_bytes(*digest) })
        };
        let rows = audited.rows.iter().map(row).collect::<Option<Vec<_>>>();
        let upto = audited.upto.as_ref().map(|(table, row)| place(table, row));
        // What makes no sense is not an answer: whoever waits for one asks again.
        let (Some(rows), false) = (rows, upto == Some(None)) else { return };
        let page = PeerPage {
            device: key.device(),
            comparable: audited.digest == self.state.knowledge.digest(),
            upto: upto.flatten(),
            digest: u128::from_be_bytes(audited.state),
            rows,
        };
        self.outputs.push_back(Output::Audited { id: audited.id, page: Some(Box::new(page)) });
    }
}
