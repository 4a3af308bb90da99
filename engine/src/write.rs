//! Local transactions: folding their steps into one operation per row, within the limits.

use std::collections::BTreeMap;

use crate::commit::{Op, OpKind};
use crate::config::{COMMIT_OPS_MAX, DECODED_BYTES_MAX, ROW_FIELDS_MAX, VALUE_DEPTH_MAX};
use crate::engine::Engine;
use crate::io::{Change, WriteError, WriteRequest, Written};
use crate::marks::mark;
use crate::name::{FieldName, RowKey, TableName};
use crate::replicated::{Draft, LocalError, Unsigned};
use crate::store::StoreError;
use crate::time::Now;
use crate::value::Value;

type Folded = BTreeMap<(TableName, RowKey), (OpKind, BTreeMap<FieldName, Value>)>;

/// Folds the steps of a transaction, and checks what it expects and all limits but the size in bytes.
pub(crate) fn fold(
    draft: &mut Draft<'_>,
    request: WriteRequest,
) -> Result<Result<Vec<Op>, WriteError>, StoreError> {
    for (table, row, expected) in request.expect {
        let state = draft.row(&table, &row)?;
        let found = (!state.is_untouched()).then(|| state.digest(&table, &row));
        if found != expected {
            return Ok(Err(WriteError::Conflict { table, row }));
        }
    }
    let mut folded = Folded::new();
    for change in request.changes {
        if let Err(error) = check(&change) {
            return Ok(Err(error));
        }
        if change.kind == OpKind::Update {
            let within = folded.get(&(change.table.clone(), change.row.clone())).map(|(kind, _)| *kind);
            let there = match within {
                Some(kind) => kind != OpKind::Delete,
                None => draft.row(&change.table, &change.row)?.visible(),
            };
            if !there {
                mark!(UpdateOfNothing);
                return Ok(Err(WriteError::NoSuchRow { table: change.table, row: change.row }));
            }
        }
        fold_one(&mut folded, change);
    }
    Ok(finish(folded))
}

fn check(change: &Change) -> Result<(), WriteError> {
    for (field, value) in &change.fields {
        if !value.depth_ok() {
            let (row, field) = (change.row.clone(), field.clone());
            return Err(WriteError::TooDeep { row, field, max: VALUE_DEPTH_MAX });
        }
    }
    Ok(())
}

fn fold_one(folded: &mut Folded, change: Change) {
    use OpKind::{Delete, Put, Replace, Update};
    let key = (change.table, change.row);
    let Some((kind, fields)) = folded.get_mut(&key) else {
        let fields = if change.kind == Delete { BTreeMap::new() } else { change.fields };
        folded.insert(key, (change.kind, fields));
        return;
    };
    mark!(StepsFolded);
    *kind = match (*kind, change.kind) {
        (_, Delete) => Delete,
        (_, Replace) | (Delete | Replace, Put | Update) => Replace,
        (Put, Put | Update) | (Update, Put) => Put,
        (Update, Update) => Update,
    };
    if change.kind.deletes() {
        fields.clear();
    }
    if change.kind != Delete {
        fields.extend(change.fields);
    }
}

fn finish(folded: Folded) -> Result<Vec<Op>, WriteError> {
    if folded.is_empty() {
        return Err(WriteError::Empty);
    }
    if folded.len() > COMMIT_OPS_MAX {
        return Err(WriteError::TooMany { count: folded.len(), what: "rows", max: COMMIT_OPS_MAX });
    }
    if let Some((_, fields)) = folded.values().find(|(_, fields)| fields.len() > ROW_FIELDS_MAX) {
        return Err(WriteError::TooMany {
            count: fields.len(),
            what: "fields of one row",
            max: ROW_FIELDS_MAX,
        });
    }
    let op = |((table, row), (kind, fields)): (_, (_, BTreeMap<_, _>))| Op {
        table,
        row,
        kind,
        fields: fields.into(),
    };
    Ok(folded.into_iter().map(op).collect())
}

impl Engine {
    pub(crate) fn write_one(
        &mut self,
        draft: &mut Draft<'_>,
        now: Now,
        ops: Vec<Op>,
        written: &mut Vec<Unsigned>,
    ) -> Result<Result<Written, WriteError>, StoreError> {
        let max = self.config.commit_bytes_max;
        let result = self.state.write(draft, now, &self.identity, ops, max)?;
        Ok(match result {
            Ok(unsigned) => {
                written.push(unsigned);
                Ok(Written { stamp: unsigned.stamp, position: self.state.position() })
            }
            Err(LocalError::TooLarge { bytes }) => Err(WriteError::TooLarge { bytes, max }),
            Err(LocalError::TooCostly { bytes }) => {
                Err(WriteError::TooCostly { bytes, max: DECODED_BYTES_MAX })
            }
            Err(LocalError::StampsExhausted) => Err(WriteError::StampsExhausted),
        })
    }
}
